"""Which record a DICOMDIR has for an object, and what it says of it (PS3.3 annex F).

A value that a record must have and a file lacks, or that does not fit its kind, is made up in the
record: the file is never changed. `edges.values` says what fits.
"""

from dataclasses import dataclass

STANDARD = "1.2.840.10008."
_STORAGE = f"{STANDARD}5.1.4.1.1."

_TYPES = (
    ("104.", "ENCAP DOC"),
    ("11.", "PRESENTATION"),
    ("131", "PRESENTATION"),
    ("4.2", "SPECTROSCOPY"),
    ("481.2", "RT DOSE"),
    ("481.3", "RT STRUCTURE SET"),
    ("481.4", "RT TREAT RECORD"),
    ("481.5", "RT PLAN"),
    ("481.6", "RT TREAT RECORD"),
    ("481.7", "RT TREAT RECORD"),
    ("481.8", "RT PLAN"),
    ("481.9", "RT TREAT RECORD"),
    ("66", "RAW DATA"),
    ("66.1", "REGISTRATION"),
    ("66.2", "FIDUCIAL"),
    ("66.3", "REGISTRATION"),
    ("66.5", "SURFACE"),
    ("66.6", "TRACT"),
    ("67", "VALUE MAP"),
    ("68.", "SURFACE SCAN"),
    ("77.1.5.3", "STEREOMETRIC"),
    ("78.6", "SR DOCUMENT"),
    ("78.", "MEASUREMENT"),
    ("79.1", "SR DOCUMENT"),
    ("80.1", "MEASUREMENT"),
    ("88.59", "KEY OBJECT DOC"),
    ("88.", "SR DOCUMENT"),
    ("9.", "WAVEFORM"),
    ("90.1", "ASSESSMENT"),
)
"""By what follows the root of the storage classes: a whole class or, with a point at its end, the
beginning of several; the first that fits counts. All others are images."""

_RADIOTHERAPY = frozenset(f"481.{number}" for number in (*range(10, 18), 21, 22, 25))


def type_of(sop_class: str) -> str:
    """The type of the record of an object, such as IMAGE."""
    if not sop_class.startswith(STANDARD):
        return "PRIVATE"
    suffix = sop_class.removeprefix(_STORAGE)
    if suffix in _RADIOTHERAPY:
        return "RADIOTHERAPY"
    for form, kind in _TYPES:
        if suffix == form or (form.endswith(".") and suffix.startswith(form)):
            return kind
    return "IMAGE"


@dataclass(frozen=True, slots=True)
class Key:
    """An element of a record.

    Attributes:
        tag, vr: of the element.
        made_up: what stands for it if the file has nothing that fits; `#` is a number. With "" the
            element is then empty (type 2), with None it is left out (type 3).
        name: its name for people.
    """

    tag: int
    vr: str
    made_up: str | None
    name: str = ""


NO_DATE, NO_TIME = "19000101", "000000"
"""As dcmtk's dcmmkdir makes them up: nobody takes them for a date and a time."""

CONCEPT = 0x0040A043
"""Concept Name Code Sequence: the title of a document."""
VERIFIED, VERIFIED_AT, VERIFIERS = 0x0040A493, 0x0040A030, 0x0040A073
"""Verification Flag, and the time of it, which is in the items of Verifying Observer Sequence."""

PATIENT_NAME, PATIENT_ID, PATIENT_ISSUER = 0x00100010, 0x00100020, 0x00100021
STUDY_DATE, STUDY_TIME, STUDY_UID = 0x00080020, 0x00080030, 0x0020000D
STUDY_ID, ACCESSION, SERIES_UID = 0x00200010, 0x00080050, 0x0020000E

PATIENT_KEYS = (
    Key(PATIENT_NAME, "PN", ""),
    Key(PATIENT_ID, "LO", "RM#", "Patient ID"),
    Key(PATIENT_ISSUER, "LO", None),
    Key(0x00100030, "DA", None),
    Key(0x00100040, "CS", None),
)
STUDY_KEYS = (
    Key(STUDY_DATE, "DA", NO_DATE, "Study Date"),
    Key(STUDY_TIME, "TM", NO_TIME, "Study Time"),
    Key(ACCESSION, "SH", ""),
    Key(0x00081030, "LO", ""),
    Key(STUDY_ID, "SH", "RM#", "Study ID"),
)
SERIES_KEYS = (
    Key(0x00080060, "CS", "OT", "Modality"),
    Key(0x0008103E, "LO", None),
    Key(0x00200011, "IS", "#", "Series Number"),
)

_NUMBER = Key(0x00200013, "IS", "#", "Instance Number")
_DATE = Key(0x00080023, "DA", NO_DATE, "Content Date")
_TIME = Key(0x00080033, "TM", NO_TIME, "Content Time")
_CREATOR = (Key(0x00700081, "LO", ""), Key(0x00700084, "PN", ""))
_LABELLED = (_NUMBER, _DATE, _TIME, Key(0x00700080, "CS", "UNKNOWN", "Content Label"), *_CREATOR)
_DATED = (_NUMBER, _DATE, _TIME)
_TITLE = Key(CONCEPT, "SQ", "", "title")

_KEYS: dict[str, tuple[Key, ...]] = {
    "RT DOSE": (_NUMBER, Key(0x3004000A, "CS", "PLAN", "Dose Summation Type")),
    "RT STRUCTURE SET": (
        _NUMBER,
        Key(0x30060002, "SH", "unknown", "Structure Set Label"),
        Key(0x30060008, "DA", ""),
        Key(0x30060009, "TM", ""),
    ),
    "RT PLAN": (
        _NUMBER,
        Key(0x300A0002, "SH", "unknown", "RT Plan Label"),
        Key(0x300A0006, "DA", ""),
        Key(0x300A0007, "TM", ""),
    ),
    "RT TREAT RECORD": (_NUMBER, Key(0x30080250, "DA", ""), Key(0x30080251, "TM", "")),
    "PRESENTATION": (
        Key(0x00700082, "DA", NO_DATE, "Presentation Creation Date"),
        Key(0x00700083, "TM", NO_TIME, "Presentation Creation Time"),
        _NUMBER,
        Key(0x00700080, "CS", "UNKNOWN", "Content Label"),
        *_CREATOR,
    ),
    "WAVEFORM": _DATED,
    "RAW DATA": _DATED,
    "SURFACE SCAN": (_DATE, _TIME),
    "SR DOCUMENT": (
        *_DATED,
        Key(0x0040A491, "CS", "PARTIAL", "Completion Flag"),
        Key(VERIFIED, "CS", "UNVERIFIED", "Verification Flag"),
        Key(VERIFIED_AT, "DT", None, "Verification DateTime"),
        _TITLE,
    ),
    "KEY OBJECT DOC": (*_DATED, _TITLE),
    "SPECTROSCOPY": (
        *_DATED,
        Key(0x00080008, "CS", "ORIGINAL\\PRIMARY", "Image Type"),
        Key(0x00280008, "IS", "1", "Number of Frames"),
        Key(0x00280010, "US", "1", "Rows"),
        Key(0x00280011, "US", "1", "Columns"),
        Key(0x00289001, "UL", "1", "Data Point Rows"),
        Key(0x00289002, "UL", "1", "Data Point Columns"),
    ),
    "REGISTRATION": _LABELLED,
    "FIDUCIAL": _LABELLED,
    "VALUE MAP": _LABELLED,
    "MEASUREMENT": _LABELLED,
    "SURFACE": _LABELLED,
    "TRACT": _LABELLED,
    "ENCAP DOC": (
        Key(0x00080023, "DA", ""),
        Key(0x00080033, "TM", ""),
        _NUMBER,
        Key(0x00420010, "ST", ""),
        Key(0x00420012, "LO", "application/octet-stream", "MIME type"),
        _TITLE,
    ),
    "STEREOMETRIC": (),
    "ASSESSMENT": (
        _NUMBER,
        Key(0x00080012, "DA", NO_DATE, "Instance Creation Date"),
        Key(0x00080013, "TM", ""),
    ),
    "RADIOTHERAPY": (_NUMBER, Key(0x30100033, "SH", None), *_CREATOR),
}


def keys_of(kind: str) -> tuple[Key, ...]:
    """The elements of a record of this type, beside those that all have."""
    return _KEYS.get(kind, (_NUMBER,))


WANTED = frozenset(
    key.tag
    for keys in (PATIENT_KEYS, STUDY_KEYS, SERIES_KEYS, (_NUMBER,), *_KEYS.values())
    for key in keys
    if key.vr != "SQ"
)
"""What has to be read of a file for its records; all of it comes before group 300C."""
