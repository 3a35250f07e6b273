"""A study as a manifest describes it; filled from the catalog."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instance:
    """One object; `number` is None where it gives none."""

    uid: str
    sop_class: str
    number: int | None


@dataclass(frozen=True, slots=True)
class Series:
    """One series with its objects; texts are "" where nothing is known."""

    uid: str
    modality: str
    number: int | None
    description: str
    date: str
    body_part: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One study.

    Attributes:
        date, birth_date: YYYYMMDD or "".
        series: at least one.
        institution: of the facility that has it, which makes the manifest.
        url: where its images are served by DICOMweb, without `/studies`; "" for nowhere.
        location_uid: the Retrieve Location UID of that place, or "".
    """

    uid: str
    date: str
    time: str
    description: str
    study_id: str
    accession_number: str
    referring_physician: str
    patient_id: str
    patient_issuer: str
    patient_name: str
    birth_date: str
    sex: str
    series: tuple[Series, ...]
    institution: str
    url: str = ""
    location_uid: str = ""
