"""What several studies at a time name: patients, body parts, and where their images differ."""

from collections import Counter
from collections.abc import Iterable

from node.catalog.patients import SEVERAL, Patient
from node.database import Database


def patients_of_each(database: Database, studies: Iterable[str]) -> dict[str, list[Patient]]:
    """The patients of each of these studies (UIDs) that names any, in order."""
    rows = database.query_among(
        "SELECT study_uid, patient_id, issuer FROM study_patients WHERE study_uid IN (?*)", studies
    )
    found: dict[str, list[Patient]] = {}
    for study, patient, issuer in sorted(map(tuple, rows)):
        found.setdefault(study, []).append((patient, issuer))
    return found


def more_of_each(database: Database, studies: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """What images of these studies (UIDs) say of an attribute beside the row of the study.

    As column and value, in order; of a column with more values than are kept also "".
    """
    rows = database.query_among(
        "SELECT study_uid, name, value FROM study_values WHERE study_uid IN (?*)", studies
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for study, name, value in sorted(map(tuple, rows)):
        found.setdefault(study, []).append((name, value))
    for each in found.values():
        counts = Counter(name for name, _ in each)
        each += [(name, "") for name, count in counts.items() if count > SEVERAL]
    return found


def body_parts_of_each(database: Database, studies: Iterable[str]) -> dict[str, list[str]]:
    """The body parts of each of these studies (UIDs) that names any, upper case, in order."""
    rows = database.query_among(
        "SELECT DISTINCT study_uid, body_part FROM series"
        " WHERE body_part <> '' AND study_uid IN (?*)",
        studies,
    )
    found: dict[str, list[str]] = {}
    for study, part in sorted({(row[0], row[1].upper()) for row in rows}):
        found.setdefault(study, []).append(part)
    return found


def studies_of_patient(database: Database, patient_id: str) -> list[str]:
    """The studies (UIDs) that name this Patient ID, of any issuer, in order."""
    rows = database.query(
        "SELECT DISTINCT study_uid FROM study_patients WHERE patient_id = ? ORDER BY study_uid",
        (patient_id,),
    )
    return [row["study_uid"] for row in rows]
