"""Texts of DICOM files: their character sets, read and written by pydicom (PS3.5 section 6.1)."""

import re
import threading
import warnings

import pydicom.charset
import pydicom.uid

_CHARSET_LOCK = threading.Lock()
"""pydicom warns about odd text; silencing a warning changes the whole process for a moment."""


def encodings_of(value: bytes) -> tuple[str, ...]:
    """Python's names for a Specific Character Set (PS3.3 section C.12.1.1.2)."""
    names = []
    for term in value.decode("latin-1").split("\\"):
        term = term.strip(" \0")
        known = pydicom.charset.python_encoding
        name = known.get(term) or known.get(_spelled(term))
        if name is not None:
            names.append(name)
    return tuple(names) or ("iso8859",)


_REPERTOIRE = re.compile(r"ISO(2022)?IR(\d{1,3})")
_OTHER_SPELLINGS = {
    "GB18030": "GB18030", "GBK": "GBK", "GB2312": "GBK", "UTF8": "ISO_IR 192",
    "ISO88591": "ISO_IR 100", "LATIN1": "ISO_IR 100", "ISO88592": "ISO_IR 101",
    "ISO88593": "ISO_IR 109", "ISO88594": "ISO_IR 110", "ISO88595": "ISO_IR 144",
    "ISO88596": "ISO_IR 127", "ISO88597": "ISO_IR 126", "ISO88598": "ISO_IR 138",
    "ISO88599": "ISO_IR 148",
}  # fmt: skip


def _spelled(term: str) -> str:
    """The defined term that a writer spelled with other signs or case; "" if there is none."""
    letters = re.sub(r"[\s_.:-]", "", term).upper()
    found = _REPERTOIRE.fullmatch(letters)
    if found is None:
        return _OTHER_SPELLINGS.get(letters, "")
    return f"ISO 2022 IR {found[2]}" if found[1] else f"ISO_IR {found[2]}"


def decoded(value: bytes, encodings: tuple[str, ...], *, is_name: bool) -> str:
    """A text, whatever its bytes are; odd ones become replacement characters.

    Args:
        value: its bytes, of one or several values.
        encodings: as of `encodings_of`.
        is_name: whether it is a person's name, in which more characters end an escape sequence.
    """
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    if b"\x1b" not in value:
        encoding = encodings[0]
        # Files without a character set hold UTF-8 more often than ASCII, the only
        # characters that the default allows.
        if encoding == "iso8859":
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                pass
        return value.decode(encoding, "replace")
    delimiters = {0x5E, 0x3D, 0x5C} if is_name else {0x5C}
    try:
        with _CHARSET_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(pydicom.charset.decode_bytes(value, encodings, delimiters))
    except (LookupError, UnicodeError, ValueError):
        return value.decode("latin-1")


def encoded(text: str, character_set: bytes, *, is_name: bool) -> bytes | None:
    """The bytes of a text in a Specific Character Set, without padding; None if it cannot hold it.

    What it gives reads back as the same text; nothing is replaced or left out.

    Args:
        text: one value.
        character_set: the value of Specific Character Set; b"" where a file has none.
        is_name: as for `decoded`.
    """
    if text.isascii():
        return text.encode("ascii")
    encodings = encodings_of(character_set)
    if len(encodings) != character_set.count(b"\\") + 1:
        # One of the sets is not known.
        return None
    # The default set is ASCII alone; only for reading it is taken for Latin-1.
    try:
        if len(encodings) > 1:
            value = _with_escapes(text, encodings, is_name=is_name)
        else:
            value = text.encode("ascii" if encodings[0] == "iso8859" else encodings[0])
    except (LookupError, UnicodeError, ValueError):
        return None
    return value if decoded(value, encodings, is_name=is_name) == text else None


def _with_escapes(text: str, encodings: tuple[str, ...], *, is_name: bool) -> bytes:
    # In a name each component begins in the first set again (PS3.5 section 6.1.2.5.3).
    pieces = re.split("([=^])", text) if is_name else [text]
    with _CHARSET_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [bytes(pydicom.charset.encode_string(one, encodings)) for one in pieces]
    if encodings[0] == "iso8859" and not all(map(_begins_in_ascii, found)):
        raise ValueError("beyond the default set")
    return b"".join(found)


def _begins_in_ascii(value: bytes) -> bool:
    """Whether there are only bytes of ASCII before the first escape sequence."""
    return value.partition(b"\x1b")[0].isascii()


def uid_name(uid: str) -> str:
    """The name of a SOP class or a transfer syntax, with its UID; the UID alone if it has none."""
    name = pydicom.uid.UID(uid).name
    return uid if name == uid else f"{name} ({uid})"
