"""What an archive tells of its studies, and such an archive."""

from typing import Any

from node.app import Node
from node.catalog.indexed import IndexedStudy
from node.dicom.headers import StudyAttributes

NOW = 1_790_000_000
DAY = "20260301"
STUDY = "1.2.826.0.1.3680043.8.498.9"


def indexed(
    study: str = STUDY, *, patient: str = "MARKER-PATIENT-ID", day: str = DAY, **more: Any
) -> IndexedStudy:
    """A study as an archive tells of it; by default as `make_study` makes it."""
    about = StudyAttributes(
        study_uid=study,
        patient_id=patient,
        patient_name="Marker^Patient",
        patient_birth_date="",
        patient_sex="",
        accession_number="A-7",
        study_id="",
        study_date=day,
        study_time="",
        study_description="CHEST",
        referring_physician="",
        institution="",
    )
    values = {"series": 1, "instances": 3, "modalities": ("CT",), **more}
    return IndexedStudy(about, **values)


def look(node: Node, *studies: IndexedStudy, archive: str = "PACS", is_all: bool = True) -> None:
    """An archive tells what it has of the day."""
    node.indexed.take(archive, f"dimse:{archive}", DAY, DAY, studies, is_all=is_all)
