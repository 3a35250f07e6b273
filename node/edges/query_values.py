"""The attributes of studies, series and instances as queries are answered; PS3.4 annex C.6."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edges.dimse import querying as q
from node.catalog.catalog import InstanceRow, SeriesRow, StudyRow
from node.dicom.headers import named_identity, patient_identity
from node.edges.identifiers import Values
from node.sharing.found import FoundStudy
from protocol.messages import Record

ONLINE, NEARLINE = "ONLINE", "NEARLINE"
"""Instance Availability: here, or at another facility, from which it is fetched first."""


@dataclass(frozen=True, kw_only=True)
class SeenStudy:
    """A study as a caller may see it.

    Attributes:
        study: Study Instance UID.
        values: its attributes and those of its patient; several Patient IDs if it has them.
        patients: its patients, as the log commits to them.
        is_here: whether its images are here.
        holder: facility key of who has it, where they are not; b"" else.
        instances: how many there are.
    """

    study: str
    values: Values
    patients: tuple[str, ...]
    is_here: bool
    holder: bytes = b""
    instances: int = 0

    def said(self, tag: int) -> tuple[str, ...]:
        """The values of an attribute as they are answered: of a Patient ID the first one."""
        found = self.values.get(tag, ())
        return found if tag == q.STUDY_MODALITIES else found[:1]


def own_study(row: StudyRow, patients: Sequence[tuple[str, str]]) -> SeenStudy:
    """A study of ours, with the patients that its images name."""
    issuers = [issuer for one, issuer in patients if one == row.patient_id]
    ids = [row.patient_id, *(one for one, _ in patients if one != row.patient_id)]
    return SeenStudy(
        study=row.study_uid,
        values=_values(
            (q.PATIENT_NAME, [row.patient_name]),
            (q.PATIENT_ID, ids),
            (q.ISSUER, [max(issuers, default="")]),
            (q.BIRTH_DATE, [row.patient_birth_date]),
            (q.SEX, [row.patient_sex]),
            (q.STUDY_DATE, [row.study_date]),
            (q.STUDY_TIME, [row.study_time]),
            (q.ACCESSION, [row.accession_number]),
            (q.STUDY_MODALITIES, row.modalities),
            (q.INSTITUTION, [row.institution]),
            (q.REFERRING, [row.referring_physician]),
            (q.STUDY_DESCRIPTION, [row.description]),
            (q.STUDY, [row.study_uid]),
            (q.STUDY_ID, [row.study_id]),
            (q.STUDY_SERIES, [str(row.series_count)]),
            (q.STUDY_INSTANCES, [str(row.instance_count)]),
        ),
        patients=tuple(patient_identity(*one) for one in patients),
        is_here=True,
        instances=row.instance_count,
    )


def announced_study(record: Record, holder: bytes, *, is_here: bool = False) -> SeenStudy:
    """A study that a facility (key) has announced; of its patient what that facility shows."""
    patients: tuple[str, ...] = ()
    if record.patient_id:
        patients = (patient_identity(record.patient_id, record.issuer or ""),)
    elif record.patient_name:
        patients = (named_identity(record.patient_name, record.birth_date or "", record.sex or ""),)
    return SeenStudy(
        study=record.study,
        values=_values(
            (q.PATIENT_NAME, [record.patient_name or ""]),
            (q.PATIENT_ID, [record.patient_id or ""]),
            (q.ISSUER, [record.issuer or ""]),
            (q.BIRTH_DATE, [record.birth_date or ""]),
            (q.SEX, [record.sex or ""]),
            (q.ACCESSION, [record.accession or ""]),
            (q.STUDY_DESCRIPTION, [record.description or ""]),
            *_of_record(record),
        ),
        patients=patients,
        is_here=is_here,
        holder=b"" if is_here else holder,
        instances=record.instances,
    )


def found_study(one: FoundStudy, *, is_here: bool = False) -> SeenStudy:
    """A study that was found at a facility, its patient as we asked for."""
    identity = patient_identity(one.patient_id, one.issuer) if one.patient_id else ""
    return SeenStudy(
        study=one.record.study,
        values=_values(
            (q.PATIENT_NAME, [one.patient_name]),
            (q.PATIENT_ID, [one.patient_id]),
            (q.ISSUER, [one.issuer]),
            (q.BIRTH_DATE, [one.birth_date]),
            *_of_record(one.record),
        ),
        patients=(identity,) if identity else (),
        is_here=is_here,
        holder=b"" if is_here else one.peer,
        instances=one.record.instances,
    )


def _of_record(record: Record) -> list[tuple[int, Sequence[str]]]:
    return [
        (q.STUDY, [record.study]),
        (q.STUDY_DATE, [record.study_date]),
        (q.STUDY_MODALITIES, record.modalities),
        (q.STUDY_SERIES, [str(record.series)]),
        (q.STUDY_INSTANCES, [str(record.instances)]),
    ]


def series_values(row: SeriesRow) -> Values:
    """A series of a study of ours."""
    number = "" if row.series_number is None else str(row.series_number)
    return _values(
        (q.SERIES, [row.series_uid]),
        (q.SERIES_NUMBER, [number]),
        (q.MODALITY, [row.modality]),
        (q.SERIES_DESCRIPTION, [row.series_description]),
        (q.BODY_PART, [row.body_part]),
        (q.SERIES_DATE, [row.series_date]),
        (q.MANUFACTURER, [row.manufacturer]),
        (q.STATION, [row.station]),
        (q.SERIES_INSTANCES, [str(row.instance_count)]),
    )


def instance_values(row: InstanceRow) -> Values:
    """An instance of a study of ours."""
    return _values(
        (q.SOP_INSTANCE, [row.sop_uid]),
        (q.SOP_CLASS, [row.sop_class_uid]),
        (q.SYNTAXES, [row.transfer_syntax_uid]),
        (q.INSTANCE_NUMBER, ["" if row.number is None else str(row.number)]),
        (q.ROWS, [str(row.rows) if row.rows else ""]),
        (q.COLUMNS, [str(row.columns) if row.columns else ""]),
        (q.FRAMES, [str(row.frames) if row.frames else ""]),
    )


def _values(*pairs: tuple[int, Iterable[str]]) -> Values:
    return {tag: tuple(filter(None, values)) for tag, values in pairs}
