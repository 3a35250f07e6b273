"""DICOM files: what is taken as an instance, and the attributes that the catalog shows.

The only file that imports pydicom (for character sets). It never decodes pixels
and never changes a byte: what is stored is the file as it came.

What is taken (docs/operations.md lists it for operators): a DICOM Part 10 file
(PS3.10 section 7: preamble, "DICM", file meta with a Transfer Syntax UID) whose
data set is whole to its end and carries valid Study, Series and SOP Instance
UIDs and a SOP Class UID. What only might have been DICOM raises `BadInstance`
and goes to quarantine; what plainly is something else raises `NotDicom`.
Nothing is guessed or mended: a guess about which patient an image belongs to is
worse than a file that waits for a person.
"""

import re
import struct
import threading
import warnings

import pydicom.charset

from node.dicom.elements import BadInstance, Read, Walked
from node.dicom.headers import InstanceHeader, PixelLayout, SeriesAttributes, StudyAttributes
from node.dicom.part10 import (
    BIG_ENDIAN,
    DEFLATED,
    DICOM_MARK_OFFSET,
    META_OFFSET,
    META_SOP_CLASS,
    META_SOP_INSTANCE,
    SERIES,
    SOP_INSTANCE,
    STUDY,
    read_meta,
    reader_of,
    uid_of,
    walk_data_set,
)
from protocol.fields import is_uid
from protocol.limits import TEXT_CHARACTERS

__all__ = [
    "BadInstance",
    "InstanceHeader",
    "MediaDirectory",
    "NotDicom",
    "read_dataset",
    "read_header",
]

_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_CHARACTER_SET = 0x00080005
_SOP_CLASS = 0x00080016
_ROWS, _COLUMNS, _FRAMES, _NUMBER = 0x00280010, 0x00280011, 0x00280008, 0x00200013
_SERIES_NUMBER = 0x00200011
_SAMPLES_PER_PIXEL, _BITS_ALLOCATED = 0x00280002, 0x00280100
_PIXEL_URL = 0x00287FE0
"""Pixel Data Provider URL: the pixels are elsewhere by design (PS3.5 section A.6)."""

_STUDY_TEXTS = {
    "patient_id": 0x00100020,
    "patient_id_issuer": 0x00100021,
    "patient_name": 0x00100010,
    "patient_birth_date": 0x00100030,
    "patient_sex": 0x00100040,
    "accession_number": 0x00080050,
    "study_id": 0x00200010,
    "study_date": 0x00080020,
    "study_time": 0x00080030,
    "study_description": 0x00081030,
    "referring_physician": 0x00080090,
    "institution": 0x00080080,
}
_SERIES_TEXTS = {
    "modality": 0x00080060,
    "series_description": 0x0008103E,
    "body_part": 0x00180015,
    "series_date": 0x00080021,
    "manufacturer": 0x00080070,
    "station": 0x00081010,
}
_WANTED = frozenset(
    (
        _CHARACTER_SET,
        _SOP_CLASS,
        SOP_INSTANCE,
        STUDY,
        SERIES,
        _ROWS,
        _COLUMNS,
        _FRAMES,
        _NUMBER,
        _SERIES_NUMBER,
        _SAMPLES_PER_PIXEL,
        _BITS_ALLOCATED,
        _PIXEL_URL,
        *_STUDY_TEXTS.values(),
        *_SERIES_TEXTS.values(),
    )
)

_SHORT_CHARACTERS = 16
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_CHARSET_LOCK = threading.Lock()
"""pydicom warns about odd text; silencing a warning changes the process for a moment."""


class NotDicom(Exception):
    """A file that plainly is something else: counted and left alone."""


class MediaDirectory(NotDicom):
    """A DICOMDIR: it lists instances and is none."""


def read_dataset(read: Read, size: int, name: str = "") -> InstanceHeader:
    """Read one whole file: check it to its end and take its attributes.

    Args:
        read: (offset, length) -> bytes of the file.
        size: bytes of the file.
        name: file name; only its suffix counts, and only for files without the
            DICOM mark.

    Raises:
        NotDicom: plainly something else.
        BadInstance: it cannot be taken; the reason says why.
    """
    head = read(0, META_OFFSET)
    if head[DICOM_MARK_OFFSET:META_OFFSET] != b"DICM":
        raise _without_mark(head, name)
    return _read(read, size, complete=True)


def read_header(original: bytes | memoryview) -> InstanceHeader:
    """Read the attributes of an instance whose content is verified elsewhere.

    Args:
        original: the file, or its first bytes up to the pixel data.

    Raises:
        BadInstance: no DICOM file, or required UIDs are missing.
    """
    read = reader_of(original)
    if read(DICOM_MARK_OFFSET, 4) != b"DICM":
        raise BadInstance("has no DICOM mark")
    return _read(read, len(original), complete=False)


def _without_mark(head: bytes, name: str) -> Exception:
    """Why a file without the DICOM mark is not taken."""
    if head[:2] == b"\x02\x00" and head[4:6] in (b"UL", b"OB", b"UI"):
        return BadInstance("has its file meta without preamble and DICOM mark in front")
    group, element = struct.unpack_from("<HH", head) if len(head) >= 8 else (0, 0)
    little = (group, element) in _FIRST_ELEMENTS
    group, element = struct.unpack_from(">HH", head) if len(head) >= 8 else (0, 0)
    if little or (group, element) in _FIRST_ELEMENTS:
        return BadInstance("is a bare data set without file meta: its encoding is not stated")
    if name.lower().endswith(_DICOM_SUFFIXES):
        return BadInstance(
            "is named as DICOM and is empty" if not head else "is named as DICOM and is none"
        )
    return NotDicom("empty" if not head else "has no DICOM mark")


_FIRST_ELEMENTS = frozenset(
    (0x0008, element) for element in (0x0000, 0x0001, 0x0005, 0x0006, 0x0008, 0x0012, 0x0016)
)
"""What a data set begins with: group length, character set, image type, SOP class."""


def _read(read: Read, size: int, *, complete: bool) -> InstanceHeader:
    meta, transfer_syntax = read_meta(read)
    if uid_of(meta.values, META_SOP_CLASS) == _MEDIA_DIRECTORY:
        raise MediaDirectory("is a DICOMDIR")
    walked = walk_data_set(
        read,
        meta.end,
        size,
        transfer_syntax,
        wanted=_WANTED,
        until=None if complete else 0x7FE00000,
        complete=complete,
    )
    values = walked.values
    for tag, what in (
        (STUDY, "Study Instance UID"),
        (SERIES, "Series Instance UID"),
        (SOP_INSTANCE, "SOP Instance UID"),
        (_SOP_CLASS, "SOP Class UID"),
    ):
        uid = uid_of(values, tag)
        if not uid:
            raise BadInstance(f"has no {what}")
        if not is_uid(uid):
            raise BadInstance(f"has a {what} that is no UID")
    has_rows = _short(values, _ROWS, transfer_syntax == BIG_ENDIAN) > 0
    if complete and has_rows and not walked.pixel_data and _PIXEL_URL not in values:
        # What a file cut just in front of its pixels looks like.
        raise BadInstance("describes an image and has no pixel data")
    notes = list(walked.notes)
    if uid_of(meta.values, META_SOP_INSTANCE) != uid_of(values, SOP_INSTANCE):
        notes.append("the file meta names another SOP Instance UID; the data set counts")
    return _header(walked, transfer_syntax, transfer_syntax == BIG_ENDIAN, tuple(notes))


def _header(
    walked: Walked, transfer_syntax: str, big_endian: bool, notes: tuple[str, ...]
) -> InstanceHeader:
    values = walked.values
    encodings = _encodings(values.get(_CHARACTER_SET, b""))

    def text(tag: int, name: str) -> str:
        value = values.get(tag)
        if value is None:
            return ""
        is_name = tag in _PERSON_NAMES
        cleaned = _clean(name, _decode(value, encodings, is_name=is_name))
        return cleaned.rstrip("^=") if is_name else cleaned

    rows = _short(values, _ROWS, big_endian)
    return InstanceHeader(
        study=StudyAttributes(
            study_uid=uid_of(values, STUDY),
            **{name: text(tag, name) for name, tag in _STUDY_TEXTS.items()},
        ),
        series=SeriesAttributes(
            series_uid=uid_of(values, SERIES),
            series_number=_integer(values, _SERIES_NUMBER),
            **{name: text(tag, name) for name, tag in _SERIES_TEXTS.items()},
        ),
        sop_instance_uid=uid_of(values, SOP_INSTANCE),
        sop_class_uid=uid_of(values, _SOP_CLASS),
        transfer_syntax_uid=transfer_syntax,
        number=_integer(values, _NUMBER),
        rows=rows,
        columns=_short(values, _COLUMNS, big_endian),
        frames=max(0, _integer(values, _FRAMES) or (1 if rows else 0)),
        notes=notes,
        pixels=None if transfer_syntax in DEFLATED else _pixels(walked),
    )


def _pixels(walked: Walked) -> PixelLayout | None:
    """The layout of pixels that the encoding of batches can predict; a guess at worst."""
    columns, rows = (_short(walked.values, tag, False) for tag in (_COLUMNS, _ROWS))
    bits, samples = (
        _short(walked.values, tag, False) for tag in (_BITS_ALLOCATED, _SAMPLES_PER_PIXEL)
    )
    if walked.pixels_at is None or bits != 16 or samples != 1 or not (columns and rows):
        return None
    offset, length = walked.pixels_at
    frames = length // (2 * columns * rows)
    return PixelLayout(offset, columns, rows, frames) if frames else None


_PERSON_NAMES = (0x00100010, 0x00080090)
_SHORT_NAMES = ("modality", "patient_sex")


def _clean(name: str, text: str) -> str:
    """One line of printable text, bounded: it goes to terminals and to peers."""
    text = _CONTROL.sub(" ", text).strip()
    if name.endswith("_date"):
        digits = text.replace(".", "")
        return digits if len(digits) == 8 and digits.isascii() and digits.isdigit() else ""
    if name in _SHORT_NAMES:
        return text[:_SHORT_CHARACTERS]
    return text[:TEXT_CHARACTERS]


def _short(values: dict[int, bytes], tag: int, big_endian: bool) -> int:
    value = values.get(tag, b"")
    return int.from_bytes(value[:2], "big" if big_endian else "little")


def _integer(values: dict[int, bytes], tag: int) -> int | None:
    """An integer string (PS3.5 IS: at most 12 characters), None where it is none."""
    text = values.get(tag, b"").split(b"\\")[0].strip(b" \0")
    if not re.fullmatch(rb"[+-]?[0-9]{1,11}", text):
        return None
    number = int(text)
    return number if -(2**31) <= number < 2**31 else None


def _encodings(value: bytes) -> tuple[str, ...]:
    """Python's names of a Specific Character Set (PS3.3 section C.12.1.1.2)."""
    names = []
    for term in value.decode("latin-1").split("\\"):
        name = pydicom.charset.python_encoding.get(term.strip(" \0"))
        if name is not None:
            names.append(name)
    return tuple(names) or ("iso8859",)


def _decode(value: bytes, encodings: tuple[str, ...], *, is_name: bool) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    if b"\x1b" not in value:
        encoding = encodings[0]
        # Files without a character set hold UTF-8 more often than what the
        # default allows, which is ASCII.
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
            decoded: str = pydicom.charset.decode_bytes(value, encodings, delimiters)
            return decoded
    except (LookupError, UnicodeError, ValueError):
        return value.decode("latin-1")
