"""The attributes by which studies, series and instances are searched (PS3.18 section 10.6).

A search answers from the catalog, so these are all that it knows.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edges.dicomweb.paths import Level


class Kind(enum.Enum):
    """How a value is compared (PS3.4 section C.2.2.2)."""

    UID = "a list of UIDs"
    DATE = "a date, or a range"
    TIME = "a time, or a range"
    NAME = "a person's name: wildcards, any case"
    TEXT = "a text: wildcards, any case"
    CODE = "a text: wildcards, this case"
    NUMBER = "a number"
    NONE = "not compared"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute.

    Attributes:
        tag: eight hex digits, upper case.
        keyword: its name in the standard.
        vr: its value representation.
        level: what it belongs to.
        kind: how it is compared.
        by_default: whether it is listed without being asked for.
    """

    tag: str
    keyword: str
    vr: str
    level: Level
    kind: Kind
    by_default: bool = True


_S, _E, _I = Level.STUDY, Level.SERIES, Level.INSTANCE

ATTRIBUTES = (
    Attribute("00080020", "StudyDate", "DA", _S, Kind.DATE),
    Attribute("00080030", "StudyTime", "TM", _S, Kind.TIME),
    Attribute("00080050", "AccessionNumber", "SH", _S, Kind.CODE),
    Attribute("00080054", "RetrieveAETitle", "AE", _S, Kind.NONE),
    Attribute("00080056", "InstanceAvailability", "CS", _S, Kind.CODE),
    Attribute("00080061", "ModalitiesInStudy", "CS", _S, Kind.CODE),
    Attribute("00080080", "InstitutionName", "LO", _S, Kind.TEXT, by_default=False),
    Attribute("00080090", "ReferringPhysicianName", "PN", _S, Kind.NAME),
    Attribute("00081030", "StudyDescription", "LO", _S, Kind.TEXT),
    Attribute("00081190", "RetrieveURL", "UR", _S, Kind.NONE),
    Attribute("00100010", "PatientName", "PN", _S, Kind.NAME),
    Attribute("00100020", "PatientID", "LO", _S, Kind.CODE),
    Attribute("00100021", "IssuerOfPatientID", "LO", _S, Kind.CODE, by_default=False),
    Attribute("00100030", "PatientBirthDate", "DA", _S, Kind.DATE),
    Attribute("00100040", "PatientSex", "CS", _S, Kind.CODE),
    Attribute("0020000D", "StudyInstanceUID", "UI", _S, Kind.UID),
    Attribute("00200010", "StudyID", "SH", _S, Kind.CODE),
    Attribute("00201206", "NumberOfStudyRelatedSeries", "IS", _S, Kind.NUMBER),
    Attribute("00201208", "NumberOfStudyRelatedInstances", "IS", _S, Kind.NUMBER),
    Attribute("00080021", "SeriesDate", "DA", _E, Kind.DATE, by_default=False),
    Attribute("00080060", "Modality", "CS", _E, Kind.CODE),
    Attribute("00080070", "Manufacturer", "LO", _E, Kind.TEXT, by_default=False),
    Attribute("00081010", "StationName", "SH", _E, Kind.CODE, by_default=False),
    Attribute("0008103E", "SeriesDescription", "LO", _E, Kind.TEXT),
    Attribute("00180015", "BodyPartExamined", "CS", _E, Kind.CODE, by_default=False),
    Attribute("0020000E", "SeriesInstanceUID", "UI", _E, Kind.UID),
    Attribute("00200011", "SeriesNumber", "IS", _E, Kind.NUMBER),
    Attribute("00201209", "NumberOfSeriesRelatedInstances", "IS", _E, Kind.NUMBER),
    Attribute("00080016", "SOPClassUID", "UI", _I, Kind.UID),
    Attribute("00080018", "SOPInstanceUID", "UI", _I, Kind.UID),
    Attribute("00083002", "AvailableTransferSyntaxUID", "UI", _I, Kind.UID),
    Attribute("00200013", "InstanceNumber", "IS", _I, Kind.NUMBER),
    Attribute("00280008", "NumberOfFrames", "IS", _I, Kind.NUMBER),
    Attribute("00280010", "Rows", "US", _I, Kind.NUMBER),
    Attribute("00280011", "Columns", "US", _I, Kind.NUMBER),
)

_BY_NAME = {name: one for one in ATTRIBUTES for name in (one.tag, one.keyword)}

Values = dict[str, list[str]]
"""What a row says: texts by keyword; none, or an empty list, where it says nothing."""


def attribute(name: str) -> Attribute | None:
    """The attribute of a keyword or a tag (`00100010`, in any case); None if it is not known."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.upper())


def row_json(values: Values, wanted: Sequence[Attribute]) -> dict[str, Any]:
    """A row of an answer as DICOM JSON, by ascending tags."""
    found: dict[str, Any] = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
    for one in sorted(wanted, key=lambda each: each.tag):
        found[one.tag] = {"vr": one.vr}
        listed = [_value(one.vr, text) for text in values.get(one.keyword, ()) if text]
        if listed:
            found[one.tag]["Value"] = listed
    return found


def _value(vr: str, text: str) -> Any:
    if vr in ("IS", "US"):
        return int(text)
    if vr == "PN":
        groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False))
        return {kind: group for kind, group in groups.items() if group}
    return text
