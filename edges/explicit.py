"""Data sets in Explicit VR Little Endian, as we make them ourselves (PS3.5 section 7.1)."""

import struct
from collections.abc import Mapping, Sequence

TAG_ITEM = 0xFFFEE000
_LONG_VRS = frozenset(("OB", "OW", "SQ", "UN", "UT", "UC", "UR"))
_NUMBERS = {"US": "<H", "UL": "<L", "SS": "<h", "SL": "<l"}

CHARACTER_SET = 0x00080005
LATIN_1, UTF_8 = "ISO_IR 100", "ISO_IR 192"

Value = str | int | bytes | Sequence["DataSet"] | Sequence[str]
DataSet = Mapping[int, tuple[str, Value]]
"""By tag: VR and value. Several texts are one value with backslashes."""


def encode(data_set: DataSet) -> bytes:
    """A data set with a Specific Character Set where a text is not ASCII.

    Latin-1 is chosen where it suffices, as more readers know it, else UTF-8.
    """
    name, encoding = _character_set(data_set)
    elements = dict(data_set)
    if name:
        elements[CHARACTER_SET] = ("CS", name)
    return _encode(elements, encoding)


def item(content: bytes) -> bytes:
    """An item of a sequence, with its length."""
    return _head(TAG_ITEM) + struct.pack("<L", len(content)) + content


def _character_set(data_set: DataSet) -> tuple[str, str]:
    text = "".join(_texts(data_set))
    if text.isascii():
        return "", "ascii"
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return UTF_8, "utf-8"
    return LATIN_1, "latin-1"


def _texts(data_set: DataSet) -> list[str]:
    found = []
    for _, value in data_set.values():
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            for one in value:
                found += [one] if isinstance(one, str) else _texts(one)
    return found


def _encode(elements: DataSet, encoding: str) -> bytes:
    return b"".join(
        _element(tag, vr, value, encoding) for tag, (vr, value) in sorted(elements.items())
    )


def _element(tag: int, vr: str, value: Value, encoding: str) -> bytes:
    if isinstance(value, bytes):
        content = value
    elif isinstance(value, int):
        content = struct.pack(_NUMBERS[vr], value)
    elif isinstance(value, str):
        content = value.encode(encoding)
    else:
        content = b""
        texts = [one for one in value if isinstance(one, str)]
        if texts:
            content = "\\".join(texts).encode(encoding)
        for one in value:
            if not isinstance(one, str):
                content += item(_encode(one, encoding))
    if len(content) % 2:
        content += b"\0" if vr in ("UI", "OB", "UN") else b" "
    if vr in _LONG_VRS:
        return _head(tag) + vr.encode() + b"\0\0" + struct.pack("<L", len(content)) + content
    return _head(tag) + vr.encode() + struct.pack("<H", len(content)) + content


def _head(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)
