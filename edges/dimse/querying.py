"""Queries and retrieves: classes, levels, attributes of identifiers, statuses; PS3.4 annex C."""

from dataclasses import dataclass
from enum import IntEnum

_ROOT = "1.2.840.10008.5.1.4.1.2."


class Level(IntEnum):
    """Query/Retrieve Level (0008,0052), from the widest to the narrowest."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


@dataclass(frozen=True, slots=True)
class Model:
    """What one SOP class asks for.

    Attributes:
        does: `find`, `move` or `get`.
        widest: the widest level of its root.
    """

    does: str
    widest: Level


PATIENT_ROOT_FIND, STUDY_ROOT_FIND = f"{_ROOT}1.1", f"{_ROOT}2.1"
STUDY_ROOT_MOVE = f"{_ROOT}2.2"

MODELS = {
    f"{_ROOT}{root}.{number}": Model(does, widest)
    for root, widest in (("1", Level.PATIENT), ("2", Level.STUDY))
    for number, does in ((1, "find"), (2, "move"), (3, "get"))
}
"""By SOP class: Patient Root and Study Root; those without studies below patients are retired."""

# Statuses of C-FIND, C-MOVE and C-GET; PS3.4 sections C.4.1.1.4, C.4.2.1.5 and C.4.3.1.4.
SUCCESS = 0x0000
PENDING = 0xFF00
PENDING_WITHOUT_SOME = 0xFF01
"""Pending, and one or more optional keys are not supported."""
CANCELLED = 0xFE00
OUT_OF_RESOURCES = 0xA700
CANNOT_COUNT = 0xA701
"""Out of resources: the number of matches cannot be told."""
CANNOT_SEND = 0xA702
"""Out of resources: sub-operations cannot be carried out."""
UNKNOWN_DESTINATION = 0xA801
BAD_IDENTIFIER = 0xA900
SOME_FAILED = 0xB000
"""Sub-operations are complete; one or more failed or have warnings."""
CANNOT_PROCESS = 0xC000


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of identifiers.

    Attributes:
        vr: its value representation.
        level: the level to which it belongs; None for those that are of no level.
    """

    vr: str
    level: Level | None


CHARACTER_SET = 0x00080005
QUERY_LEVEL = 0x00080052
RETRIEVE_AE_TITLE = 0x00080054
AVAILABILITY = 0x00080056
FAILED_INSTANCES = 0x00080058
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
ISSUER = 0x00100021
BIRTH_DATE = 0x00100030
SEX = 0x00100040
PATIENT_STUDIES = 0x00201200
PATIENT_SERIES = 0x00201202
PATIENT_INSTANCES = 0x00201204
STUDY_DATE = 0x00080020
STUDY_TIME = 0x00080030
ACCESSION = 0x00080050
STUDY_MODALITIES = 0x00080061
INSTITUTION = 0x00080080
REFERRING = 0x00080090
STUDY_DESCRIPTION = 0x00081030
STUDY = 0x0020000D
STUDY_ID = 0x00200010
STUDY_SERIES = 0x00201206
STUDY_INSTANCES = 0x00201208
SERIES_DATE = 0x00080021
MODALITY = 0x00080060
MANUFACTURER = 0x00080070
STATION = 0x00081010
SERIES_DESCRIPTION = 0x0008103E
BODY_PART = 0x00180015
SERIES = 0x0020000E
SERIES_NUMBER = 0x00200011
SERIES_INSTANCES = 0x00201209
SOP_CLASS = 0x00080016
SOP_INSTANCE = 0x00080018
SYNTAXES = 0x00083002
INSTANCE_NUMBER = 0x00200013
FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011

ATTRIBUTES = {
    CHARACTER_SET: Attribute("CS", None),
    QUERY_LEVEL: Attribute("CS", None),
    RETRIEVE_AE_TITLE: Attribute("AE", None),
    AVAILABILITY: Attribute("CS", None),
    PATIENT_NAME: Attribute("PN", Level.PATIENT),
    PATIENT_ID: Attribute("LO", Level.PATIENT),
    ISSUER: Attribute("LO", Level.PATIENT),
    BIRTH_DATE: Attribute("DA", Level.PATIENT),
    SEX: Attribute("CS", Level.PATIENT),
    PATIENT_STUDIES: Attribute("IS", Level.PATIENT),
    PATIENT_SERIES: Attribute("IS", Level.PATIENT),
    PATIENT_INSTANCES: Attribute("IS", Level.PATIENT),
    STUDY_DATE: Attribute("DA", Level.STUDY),
    STUDY_TIME: Attribute("TM", Level.STUDY),
    ACCESSION: Attribute("SH", Level.STUDY),
    STUDY_MODALITIES: Attribute("CS", Level.STUDY),
    INSTITUTION: Attribute("LO", Level.STUDY),
    REFERRING: Attribute("PN", Level.STUDY),
    STUDY_DESCRIPTION: Attribute("LO", Level.STUDY),
    STUDY: Attribute("UI", Level.STUDY),
    STUDY_ID: Attribute("SH", Level.STUDY),
    STUDY_SERIES: Attribute("IS", Level.STUDY),
    STUDY_INSTANCES: Attribute("IS", Level.STUDY),
    SERIES_DATE: Attribute("DA", Level.SERIES),
    MODALITY: Attribute("CS", Level.SERIES),
    MANUFACTURER: Attribute("LO", Level.SERIES),
    STATION: Attribute("SH", Level.SERIES),
    SERIES_DESCRIPTION: Attribute("LO", Level.SERIES),
    BODY_PART: Attribute("CS", Level.SERIES),
    SERIES: Attribute("UI", Level.SERIES),
    SERIES_NUMBER: Attribute("IS", Level.SERIES),
    SERIES_INSTANCES: Attribute("IS", Level.SERIES),
    SOP_CLASS: Attribute("UI", Level.IMAGE),
    SOP_INSTANCE: Attribute("UI", Level.IMAGE),
    SYNTAXES: Attribute("UI", Level.IMAGE),
    INSTANCE_NUMBER: Attribute("IS", Level.IMAGE),
    FRAMES: Attribute("IS", Level.IMAGE),
    ROWS: Attribute("US", Level.IMAGE),
    COLUMNS: Attribute("US", Level.IMAGE),
}
"""What the node answers, by tag."""

VRS = {tag: one.vr for tag, one in ATTRIBUTES.items()}
"""Value representations by tag, for identifiers in implicit form."""

UNIQUE = {
    Level.PATIENT: PATIENT_ID,
    Level.STUDY: STUDY,
    Level.SERIES: SERIES,
    Level.IMAGE: SOP_INSTANCE,
}
"""The unique key of each level."""


class BadQuery(ValueError):
    """An identifier that does not fit; the text is for people at the other side."""


def read_level(text: str, model: Model) -> Level:
    """The level of an identifier.

    Raises:
        BadQuery: there is no such level in the model.
    """
    try:
        level = Level[text]
    except KeyError:
        raise BadQuery("there is no such query level") from None
    if level < model.widest:
        raise BadQuery("this information model has no such level")
    return level
