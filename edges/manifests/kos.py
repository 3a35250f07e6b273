"""A study as a Key Object Selection: the manifest of XDS-I (TID 2010), and that of IHE MADO.

MADO's manifest describes the series, too, in an Image Library in front (PS3.16 TID 1600), with
codes that are temporary in MADO 0.1.0. Both end in a list of all objects.
"""

from collections.abc import Iterable
from datetime import datetime

from edges import explicit
from edges.explicit import DataSet, Value
from edges.file_head import file_head
from edges.manifests.regions import REGIONS
from edges.manifests.study import Instance, Series, Study
from edges.media.record_keys import type_of
from edges.values import fitting

KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"
_EXPLICIT = "1.2.840.10008.1.2.1"

Elements = dict[int, tuple[str, Value]]


def key_object(
    study: Study, *, instance_uid: str, series_uid: str, now: datetime, with_descriptions: bool
) -> bytes:
    """The file.

    Args:
        instance_uid, series_uid: of the manifest, which is an object of the study.
        now: when it is made, UTC.
        with_descriptions: as MADO wants it.
    """
    title = ("MADOTEMP001", "99IHE", "Manifest with Description")
    content = [_listed(instance) for series in study.series for instance in series.instances]
    if with_descriptions:
        content = [_library(study), *content]
    elements: Elements = {
        0x00080016: ("UI", KEY_OBJECT),
        0x00080018: ("UI", instance_uid),
        0x00080020: ("DA", fitting("DA", study.date)),
        0x00080023: ("DA", f"{now:%Y%m%d}"),
        0x00080030: ("TM", fitting("TM", study.time)),
        0x00080033: ("TM", f"{now:%H%M%S}"),
        0x00080050: ("SH", fitting("SH", study.accession_number)),
        0x00080060: ("CS", "KO"),
        0x00080070: ("LO", "Radmesh"),
        0x00080080: ("LO", fitting("LO", study.institution)),
        0x00080090: ("PN", fitting("PN", study.referring_physician)),
        0x00080201: ("SH", "+0000"),
        0x00081030: ("LO", fitting("LO", study.description)),
        0x0008103E: ("LO", "Manifest"),
        0x00081111: ("SQ", ()),
        0x00100010: ("PN", fitting("PN", study.patient_name)),
        0x00100020: ("LO", fitting("LO", study.patient_id)),
        0x00100030: ("DA", fitting("DA", study.birth_date)),
        0x00100040: ("CS", fitting("CS", study.sex)),
        0x0020000D: ("UI", study.uid),
        0x0020000E: ("UI", series_uid),
        0x00200010: ("SH", fitting("SH", study.study_id)),
        0x00200011: ("IS", "1"),
        0x00200013: ("IS", "1"),
        0x0040A040: ("CS", "CONTAINER"),
        0x0040A043: ("SQ", (_code(*(title if with_descriptions else _MANIFEST)),)),
        0x0040A050: ("CS", "SEPARATE"),
        0x0040A375: ("SQ", (_evidence(study),)),
        0x0040A504: ("SQ", ({0x00080105: ("CS", "DCMR"), 0x0040DB00: ("CS", "2010")},)),
        0x0040A730: ("SQ", tuple(content)),
    }
    if study.patient_issuer:
        elements[0x00100021] = ("LO", fitting("LO", study.patient_issuer))
    return file_head(KEY_OBJECT, instance_uid, _EXPLICIT) + explicit.encode(elements)


_MANIFEST = ("113030", "DCM", "Manifest")


def _code(value: str, scheme: str, meaning: str) -> DataSet:
    return {
        0x00080100: ("SH", value),
        0x00080102: ("SH", scheme),
        0x00080104: ("LO", fitting("LO", meaning)),
    }


def _reference(instance: Instance) -> DataSet:
    return {0x00081150: ("UI", instance.sop_class), 0x00081155: ("UI", instance.uid)}


def _listed(instance: Instance) -> DataSet:
    kind = type_of(instance.sop_class)
    return {
        0x0040A010: ("CS", "CONTAINS"),
        0x0040A040: ("CS", kind if kind in ("IMAGE", "WAVEFORM") else "COMPOSITE"),
        0x00081199: ("SQ", (_reference(instance),)),
    }


def _evidence(study: Study) -> DataSet:
    return {
        0x00081115: ("SQ", tuple(_evidence_of(study, series) for series in study.series)),
        0x0020000D: ("UI", study.uid),
    }


def _evidence_of(study: Study, series: Series) -> DataSet:
    elements: Elements = {
        0x00081199: ("SQ", tuple(map(_reference, series.instances))),
        0x0020000E: ("UI", series.uid),
    }
    if study.url:
        elements[0x00081190] = ("UR", f"{study.url}/studies/{study.uid}/series/{series.uid}")
    if study.location_uid:
        elements[0x0040E011] = ("UI", study.location_uid)
    return elements


def _library(study: Study) -> DataSet:
    modalities = dict.fromkeys(one.modality for one in study.series if one.modality != "KO")
    regions = dict.fromkeys(one.body_part for one in study.series)
    count: Elements = {
        0x004008EA: ("SQ", (_code("{series}", "UCUM", "{series}"),)),
        0x0040A30A: ("DS", str(len(study.series))),
    }
    return _container(
        ("111028", "DCM", "Image Library"),
        [
            *(_modality(one) for one in modalities),
            *(each for one in regions for each in _region(one)),
            _context(
                "NUM",
                ("MADOTEMP009", "99IHE", "Number of Study Related Series"),
                {0x0040A300: ("SQ", (count,))},
            ),
            *map(_group, study.series),
        ],
    )


def _group(series: Series) -> DataSet:
    date = fitting("DA", series.date)
    number = "" if series.number is None else str(series.number)
    items = [
        _modality(series.modality),
        *(
            [_context("DATE", ("MADOTEMP003", "99IHE", "Series Date"), {0x0040A121: ("DA", date)})]
            if date
            else []
        ),
        *_text(("MADOTEMP002", "99IHE", "Series Description"), series.description),
        *_text(("113607", "DCM", "Series Number"), number),
        *_region(series.body_part),
        _context(
            "UIDREF",
            ("112002", "DCM", "Series Instance UID"),
            {0x0040A124: ("UI", series.uid)},
        ),
        *_text(
            ("MADOTEMP007", "99IHE", "Number of Series Related Instances"),
            str(len(series.instances)),
        ),
    ]
    for one in series.instances:
        given = "" if one.number is None else str(one.number)
        items += [*_text(("113609", "DCM", "Instance Number"), given), _listed(one)]
    return _container(("126200", "DCM", "Image Library Group"), items)


def _container(title: tuple[str, str, str], items: Iterable[DataSet]) -> DataSet:
    return {
        0x0040A010: ("CS", "CONTAINS"),
        0x0040A040: ("CS", "CONTAINER"),
        0x0040A043: ("SQ", (_code(*title),)),
        0x0040A050: ("CS", "SEPARATE"),
        0x0040A730: ("SQ", tuple(items)),
    }


def _context(kind: str, concept: tuple[str, str, str], value: DataSet) -> DataSet:
    return {
        0x0040A010: ("CS", "HAS ACQ CONTEXT"),
        0x0040A040: ("CS", kind),
        0x0040A043: ("SQ", (_code(*concept),)),
        **value,
    }


def _text(concept: tuple[str, str, str], text: str) -> list[DataSet]:
    value = fitting("LO", text)
    return [_context("TEXT", concept, {0x0040A160: ("UT", value)})] if value else []


def _modality(modality: str) -> DataSet:
    code = fitting("CS", modality) or "OT"
    concept = ("121139", "DCM", "Modality")
    return _context("CODE", concept, {0x0040A168: ("SQ", (_code(code, "DCM", code),))})


def _region(body_part: str) -> list[DataSet]:
    """The region of the body that Body Part Examined names, where there is a code for it."""
    found = REGIONS.get(body_part.upper().replace(" ", ""))
    if found is None:
        return []
    concept = ("123014", "DCM", "Target Region")
    return [_context("CODE", concept, {0x0040A168: ("SQ", (_code(found[0], "SCT", found[1]),))})]
