"""DICOM files: which are taken as instances, and their attributes for the catalog.

Never decodes pixels and never changes a byte: the file is stored as it came.

Files that are taken (docs/operations.md lists them for operators): DICOM Part 10 files
(PS3.10 section 7: preamble, "DICM", file meta with a Transfer Syntax UID) whose
data set is whole to its end and has valid Study, Series and SOP Instance UIDs
and a SOP Class UID. A file that might have been DICOM raises `BadInstance`
and goes to quarantine; a file that plainly is something else raises `NotDicom`.
Nothing is guessed or mended: a guess about the patient of an image is worse than
a file that waits for a person.
"""

import re

from node.dicom import unmarked
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
    UIDS,
    read_meta,
    reader_of,
    uid_of,
    walk_data_set,
)
from node.dicom.sop_classes import (
    IMAGE_CLASSES,
    PRIVATE_CREATORS,
    PRIVATE_PIXEL_TAGS,
    private_pixels,
)
from node.dicom.texts import decoded, encodings_of
from node.dicom.unmarked import MediaDirectory, NotDicom
from protocol import modalities
from protocol.fields import is_uid
from protocol.limits import TEXT_CHARACTERS

__all__ = [
    "BadInstance",
    "InstanceHeader",
    "MediaDirectory",
    "NotDicom",
    "decoded",
    "encodings_of",
    "read_dataset",
    "read_header",
]

_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"

_CHARACTER_SET = 0x00080005
_SOP_CLASS = 0x00080016
_ROWS, _COLUMNS, _FRAMES, _NUMBER = 0x00280010, 0x00280011, 0x00280008, 0x00200013
_SERIES_NUMBER = 0x00200011
_SAMPLES_PER_PIXEL, _BITS_ALLOCATED = 0x00280002, 0x00280100
_IMAGE_PIXELS = (
    _SAMPLES_PER_PIXEL, 0x00280004, _ROWS, _COLUMNS, _BITS_ALLOCATED, 0x00280101, 0x00280102,
    0x00280103,
)  # fmt: skip
"""Elements before the pixels that describe them (PS3.3 section C.7.6.3)."""
_PIXEL_URL = 0x00287FE0
"""Pixel Data Provider URL: the pixels are elsewhere by design (PS3.5 section A.6)."""

_BULK_GROUPS = 0x56000000
"""From this tag on come bulk data other than pixels: spectra (5600,0020), private data in
group 7FE1."""

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
_UNIQUE = frozenset(
    (
        _CHARACTER_SET,
        _SOP_CLASS,
        *UIDS,
        *(_STUDY_TEXTS[name] for name in ("patient_id", "patient_id_issuer", "patient_name")),
        _STUDY_TEXTS["patient_birth_date"],
        *_IMAGE_PIXELS,
        _FRAMES,
    )
)
"""Elements of identity and image form: if one occurred twice, it would be unknown which counts."""

_WANTED = _UNIQUE | {
    _NUMBER,
    _SERIES_NUMBER,
    _PIXEL_URL,
    *_STUDY_TEXTS.values(),
    *_SERIES_TEXTS.values(),
    *PRIVATE_CREATORS,
}

_SHORT_CHARACTERS = 16
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_DESIGNATORS = re.compile("\x1b[\x20-\x2f]+[\x30-\x7e]")
"""Escape sequences that switch character sets (ISO 2022); decoders leave some behind."""


def read_dataset(read: Read, size: int, name: str = "") -> InstanceHeader:
    """Read one whole file: check it to its end and take its attributes.

    Args:
        read: (offset, length) -> bytes of the file.
        size: bytes of the file.
        name: file name; only its suffix counts, and only for files without the
            DICOM mark.

    Raises:
        NotDicom: the file plainly is something else.
        BadInstance: it cannot be taken; `reason` says why.
    """
    head = read(0, META_OFFSET)
    if head[DICOM_MARK_OFFSET:META_OFFSET] != b"DICM":
        raise unmarked.why_not_taken(read, size, name)
    walked, transfer_syntax, notes = _walk(read, size, complete=True)
    _check_uids(walked.values, walked.zeros_at)
    notes += _check_pixels(walked)
    return _header(walked, transfer_syntax, notes)


def read_header(original: bytes | memoryview, size: int | None = None) -> InstanceHeader | None:
    """Read the attributes of an instance whose content is verified elsewhere.

    They are the same that an ingest of the same bytes finds, at any place in the file.

    Args:
        original: the file, or its first bytes.
        size: size of the file in bytes, if `original` is only its beginning.

    Returns:
        None if these bytes do not suffice and the rest must be read.

    Raises:
        BadInstance: it is no DICOM file or a DICOMDIR, or required UIDs are missing.
    """
    if size is None or size <= len(original):
        return header_of(reader_of(original), len(original))
    try:
        walked, transfer_syntax, notes = _walk(reader_of(original), len(original), complete=False)
        if walked.end != size:
            return None
        _check_uids(walked.values, None)
    except (BadInstance, NotDicom):
        return None
    return _header(walked, transfer_syntax, notes)


def header_of(read: Read, size: int) -> InstanceHeader:
    """As `read_header`, of a whole file that is read piece by piece."""
    if read(DICOM_MARK_OFFSET, 4) != b"DICM":
        raise BadInstance("has no DICOM mark")
    try:
        walked, transfer_syntax, notes = _walk(read, size, complete=True)
    except MediaDirectory as error:
        raise BadInstance(str(error)) from None
    _check_uids(walked.values, None)
    return _header(walked, transfer_syntax, notes)


def _walk(read: Read, size: int, *, complete: bool) -> tuple[Walked, str, list[str]]:
    """Walk a file; returns the walk's result, the transfer syntax, and oddities of the file."""
    meta, transfer_syntax = read_meta(read)
    if uid_of(meta.values, META_SOP_CLASS) == _MEDIA_DIRECTORY:
        raise MediaDirectory("is a DICOMDIR")
    walked = walk_data_set(
        read,
        meta.end,
        size,
        transfer_syntax,
        wanted=_WANTED,
        unique=_UNIQUE,
        noticed=PRIVATE_PIXEL_TAGS,
        until=None,
        complete=complete,
    )
    notes = meta.notes + walked.notes
    if uid_of(meta.values, META_SOP_INSTANCE) != uid_of(walked.values, SOP_INSTANCE):
        notes.append("the file meta names another SOP Instance UID; the data set counts")
    return walked, transfer_syntax, notes


def _check_uids(values: dict[int, bytes], zeros_at: int | None) -> None:
    for tag, what in (
        (STUDY, "Study Instance UID"),
        (SERIES, "Series Instance UID"),
        (SOP_INSTANCE, "SOP Instance UID"),
        (_SOP_CLASS, "SOP Class UID"),
    ):
        uid = uid_of(values, tag)
        if not uid and zeros_at is not None:
            raise BadInstance(f"is cut: it has no {what}, and only zero bytes from {zeros_at} on")
        if not uid:
            raise BadInstance(f"has no {what}")
        if not is_uid(uid):
            raise BadInstance(f"has a {what} that is no UID")


def _check_pixels(walked: Walked) -> list[str]:
    """Raise if pixel data is missing; returns oddities.

    A tail of zeros inside of pixel data cannot be distinguished from black.
    """
    values = walked.values
    if walked.pixel_data or _PIXEL_URL in values:
        return []
    is_image = uid_of(values, _SOP_CLASS) in IMAGE_CLASSES
    describes_pixels = any(tag in values for tag in _IMAGE_PIXELS)
    maker = private_pixels(values, walked.noticed)
    if walked.zeros_at is not None:
        if is_image or (describes_pixels and walked.last < _BULK_GROUPS):
            raise BadInstance(
                f"is cut: there are only zero bytes from byte {walked.zeros_at} on, and no pixel"
                " data"
            )
        if walked.is_filled:
            raise BadInstance(
                "is cut: zero bytes to the end begin inside of an element, before byte"
                f" {walked.zeros_at}"
            )
    if not is_image:
        return []
    if maker:
        return [f"the pixels are in a private block of {maker}, which others may not show"]
    if describes_pixels:
        # A file that was cut just before its pixels looks like this.
        raise BadInstance("is of an image class, describes an image and has no pixel data")
    # Some files without an image are made on purpose; they cannot be told from cut ones.
    return ["an image class without pixels or what describes them (it may be cut)"]


def _header(walked: Walked, transfer_syntax: str, notes: list[str]) -> InstanceHeader:
    values = walked.values
    big_endian = transfer_syntax == BIG_ENDIAN
    encodings = encodings_of(values.get(_CHARACTER_SET, b""))

    def text(tag: int, name: str) -> str:
        value = values.get(tag)
        if value is None:
            return ""
        is_name = tag in _PERSON_NAMES
        cleaned = _clean(name, decoded(value, encodings, is_name=is_name))
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
        notes=tuple(notes),
        pixels=None if transfer_syntax in DEFLATED else _pixels(walked),
    )


def _pixels(walked: Walked) -> PixelLayout | None:
    """The layout of pixels, for prediction in the encoding of batches; at worst a guess."""
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


def _clean(name: str, text: str) -> str:
    """One line of printable text, bounded: it goes to terminals and to peers."""
    if name == "modality":
        return modalities.clean(text)
    text = _CONTROL.sub(" ", _DESIGNATORS.sub("", text)).strip()
    if name.endswith("_date"):
        digits = text.replace(".", "")
        return digits if len(digits) == 8 and digits.isascii() and digits.isdigit() else ""
    if name == "patient_sex":
        return text[:_SHORT_CHARACTERS]
    return text[:TEXT_CHARACTERS]


def _short(values: dict[int, bytes], tag: int, big_endian: bool) -> int:
    value = values.get(tag, b"")
    return int.from_bytes(value[:2], "big" if big_endian else "little")


def _integer(values: dict[int, bytes], tag: int) -> int | None:
    """The value of an integer string (PS3.5 IS: at most 12 characters); None if malformed."""
    text = values.get(tag, b"").split(b"\\")[0].strip(b" \0")
    if not re.fullmatch(rb"[+-]?[0-9]{1,11}", text):
        return None
    number = int(text)
    return number if -(2**31) <= number < 2**31 else None
