"""The patients that the instances of a study name, and whether they can be one patient.

A study should be of one patient, but files may disagree: an image was sent under the wrong
name, or two hospitals share one archive. A patient is identified by a Patient ID and, where
the files give it, its issuer. An attribute that a file lacks agrees with any value.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping

from node.catalog.names import folded
from node.catalog.rows import IS_SHARED_TO_ANY
from node.catalog.words import index_study
from node.dicom.headers import StudyAttributes, patient_identity

PATIENTS = 200
"""Most patients of a study that are kept and named: an entry of the log has 65,535 bytes and
needs about 100 for each. A study with more is a mistake, and cannot be shared."""

Patient = tuple[str, str]
"""Patient ID, and its issuer, or ""."""

_NAMES = 2
"""Names that are kept: two are enough to show that they differ."""

SEVERAL = 20
"""Values of an attribute that are kept, where the images of a study differ; one more is kept to
show that there are more."""

_PERSON = ("patient_name", "patient_birth_date", "patient_sex")
_STUDY = (
    "accession_number",
    "study_id",
    "study_date",
    "study_time",
    "study_description",
    "referring_physician",
    "institution",
)
_VARYING = ("accession_number", "study_date", "referring_physician", "institution")
_COLUMNS = {name: name for name in (*_PERSON, *_STUDY)} | {"study_description": "description"}


class Described:
    """The attributes of a study as its instances give them; their order does not matter.

    Holds one text per attribute, of those that rules read `SEVERAL` + 1, and at most `PATIENTS` + 1
    patients. Several threads may add.
    """

    def __init__(self, attributes: Iterable[StudyAttributes] = ()) -> None:
        self.patients: set[Patient] = set()
        self.names: set[str] = set()
        self.texts: dict[str, str] = {}
        self.values: dict[str, set[str]] = {name: set() for name in _VARYING}
        self._persons: dict[str, dict[str, str]] = {}
        for each in attributes:
            self.add(each)

    def add(self, attributes: StudyAttributes) -> None:
        """Add the attributes of one instance."""
        patient_id = attributes.patient_id
        if patient_id and len(self.patients) <= PATIENTS:
            self.patients.add((patient_id, attributes.patient_id_issuer))
        name = folded(attributes.patient_name)
        if name and len(self.names) < _NAMES:
            self.names.add(name)
        _fill(self.texts, attributes, _STUDY)
        for each, values in self.values.items():
            text = getattr(attributes, each)
            if text and len(values) <= SEVERAL:
                values.add(text)
        if patient_id in self._persons or len(self._persons) <= PATIENTS:
            _fill(self._persons.setdefault(patient_id, {}), attributes, _PERSON)

    def missing_of(self, row: Mapping[str, str]) -> dict[str, str]:
        """Values for the empty columns of a row of `studies`, by column.

        Name, birth date and sex are those of the patient whose ID the row has, or those
        of instances without an ID.
        """
        patient_id = row["patient_id"] or min((each for each, _ in self.patients), default="")
        own = self._persons.get(patient_id, {})
        found = {"patient_id": patient_id, **self.texts, **self._persons.get("", {}), **own}
        by_column = {_COLUMNS.get(name, name): text for name, text in found.items()}
        return {column: text for column, text in by_column.items() if text and not row[column]}


def _fill(texts: dict[str, str], attributes: StudyAttributes, names: Iterable[str]) -> None:
    for name in names:
        text = getattr(attributes, name)
        # Take the lesser text, so that the result does not depend on the order.
        if text and not (name in texts and texts[name] <= text):
            texts[name] = text


def count_of(patients: Iterable[Patient]) -> int:
    """The least number of patients: an ID without issuer may be any patient with that ID."""
    issuers = _issuers(patients)
    return sum(max(1, len(named)) for named in issuers.values())


def why_to_check(patients: Collection[Patient]) -> str:
    """Why a person has to look at a study of these patients; "" where they can be one patient.

    The sentence names no patient.
    """
    if len(patients) > PATIENTS:
        return f"its images name more than {PATIENTS} patients"
    issuers = _issuers(patients)
    if len(issuers) > 1:
        return f"its images name {len(issuers)} Patient IDs"
    for named in issuers.values():
        if len(named) > 1:
            return f"its images name one Patient ID of {len(named)} issuers"
    return ""


def _issuers(patients: Iterable[Patient]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for patient_id, issuer in patients:
        named = found.setdefault(patient_id.strip(), set())
        if issuer.strip():
            named.add(issuer.strip())
    return found


def identities(patients: Iterable[Patient]) -> tuple[str, ...]:
    """These patients as the log commits to them, at most `PATIENTS`, in order."""
    return tuple(patient_identity(*each) for each in sorted(patients)[:PATIENTS])


OF_STUDY = "SELECT patient_id, issuer FROM study_patients WHERE study_uid = ?"
"""SQL: the patients of a study in the catalog."""


def patients_of(connection: sqlite3.Connection, study_uid: str) -> set[Patient]:
    """The patients of a study in the catalog."""
    return {tuple(row) for row in connection.execute(OF_STUDY, (study_uid,))}


def update_study(
    connection: sqlite3.Connection,
    study_uid: str,
    described: Described,
    *,
    is_all: bool = False,
    received: bool = False,
) -> None:
    """Add the attributes of instances to an existing study.

    Empty attributes are filled. If the study gets a patient that cannot be one of its
    present patients, it is no longer shared, until a person has looked at it.

    Args:
        connection: connection in a transaction.
        study_uid: UID of the study.
        described: attributes of the instances.
        is_all: these are all instances of the study, so other patients are dropped.
        received: the instances came from a peer.
    """
    _fill_row(connection, study_uid, described)
    before = patients_of(connection, study_uid)
    connection.executemany(
        "INSERT INTO study_patients VALUES (?,?,?)"
        " ON CONFLICT (study_uid, patient_id, issuer) DO NOTHING",
        # Keep one patient more than can be named, to show that there are too many.
        [
            (study_uid, *each)
            for each in sorted(described.patients - before)[: max(0, PATIENTS + 1 - len(before))]
        ],
    )
    why = why_of_change(before, described)
    if received and not why:
        [shared] = connection.execute(
            f"SELECT {IS_SHARED_TO_ANY} FROM studies WHERE study_uid = ?", (study_uid,)
        ).fetchone()
        why = why_of_first(before, described) if shared else ""
    _keep_values(connection, study_uid, described, is_all=is_all)
    if is_all:
        _drop_others(connection, study_uid, before - described.patients)
    if why:
        connection.execute(
            "UPDATE studies SET shared = 0, to_check = ? WHERE study_uid = ?", (why, study_uid)
        )
    index_study(connection, study_uid)


def _keep_values(
    connection: sqlite3.Connection, study_uid: str, described: Described, *, is_all: bool
) -> None:
    """Keep what the instances say otherwise than the row; at most `SEVERAL` + 1 of each."""
    row = connection.execute("SELECT * FROM studies WHERE study_uid = ?", (study_uid,)).fetchone()
    if is_all:
        connection.execute("DELETE FROM study_values WHERE study_uid = ?", (study_uid,))
    for name, values in described.values.items():
        others = values - {row[name]}
        if not others:
            continue
        known = {
            each["value"]
            for each in connection.execute(
                "SELECT value FROM study_values WHERE study_uid = ? AND name = ?",
                (study_uid, name),
            )
        }
        connection.executemany(
            "INSERT INTO study_values VALUES (?,?,?)",
            [
                (study_uid, name, one)
                for one in sorted(others - known)[: max(0, SEVERAL + 1 - len(known))]
            ],
        )


def _drop_others(connection: sqlite3.Connection, study_uid: str, gone: Iterable[Patient]) -> None:
    connection.executemany(
        "DELETE FROM study_patients WHERE (study_uid, patient_id, issuer) = (?,?,?)",
        [(study_uid, *each) for each in gone],
    )
    if not why_to_check(patients_of(connection, study_uid)):
        connection.execute("UPDATE studies SET to_check = '' WHERE study_uid = ?", (study_uid,))


def why_of_change(before: set[Patient], described: Described) -> str:
    """Why a study with the patients `before` has to be checked again; "" if it need not be."""
    after = before | described.patients
    is_new = count_of(after) > max(1, count_of(before)) or len(before) <= PATIENTS < len(after)
    return why_to_check(after) if is_new else ""


def why_of_first(before: set[Patient], described: Described) -> str:
    """Why a shared study without a patient has to be checked when a peer's instances name
    one: it may have been shared because it named nobody."""
    is_first = not before and described.patients
    return "its new images name a patient, and those before named none" if is_first else ""


def _fill_row(connection: sqlite3.Connection, study_uid: str, described: Described) -> None:
    row = connection.execute("SELECT * FROM studies WHERE study_uid = ?", (study_uid,)).fetchone()
    changes = described.missing_of(row)
    names = {folded(row["patient_name"]), *described.names} - {""}
    if len(names) > 1:
        changes["note"] = "its images write the patient's name in several ways"
    if changes:
        columns = ", ".join(f"{column} = ?" for column in changes)
        connection.execute(
            f"UPDATE studies SET {columns} WHERE study_uid = ?", (*changes.values(), study_uid)
        )
