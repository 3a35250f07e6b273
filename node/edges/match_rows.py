"""What is kept of a match: the local patient of a study, and whom its images named then."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from keys.canonical import canonical_json
from node.catalog.patients import Patient, count_of
from node.catalog.rows import StudyRow
from node.dicom.identity import is_among
from node.edges.identity_settings import ACCESSION_CHARACTERS, ID_CHARACTERS, is_text
from node.errors import ExitCode, NodeError

MATCHES_SCHEMA = """
CREATE TABLE IF NOT EXISTS study_matches (
    study_uid TEXT PRIMARY KEY,
    state TEXT NOT NULL,                -- matched, temporary, undone
    patient_id TEXT NOT NULL,           -- of the local patient; '' when it is undone
    issuer TEXT NOT NULL,
    name TEXT NOT NULL,                 -- as the local systems have it, or ''
    birth_date TEXT NOT NULL,           -- YYYYMMDD, or ''
    sex TEXT NOT NULL,
    accession_number TEXT NOT NULL,     -- of the local order, or ''
    prefix TEXT NOT NULL,               -- for the numbers of the other facility
    rule TEXT NOT NULL,                 -- the rule that made it; '' for a person
    made INTEGER NOT NULL               -- seconds since the epoch, UTC
) STRICT, WITHOUT ROWID;
-- The patients that the images of the study named when it was matched.
CREATE TABLE IF NOT EXISTS matched_patients (
    study_uid TEXT NOT NULL,
    patient_id TEXT NOT NULL,
    issuer TEXT NOT NULL,
    PRIMARY KEY (study_uid, patient_id, issuer)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS matched_patients_by_patient ON matched_patients (patient_id);
"""

MATCHED, TEMPORARY, UNDONE = "matched", "temporary", "undone"


@dataclass(frozen=True, kw_only=True)
class LocalPatient:
    """A patient as the systems of this facility have him or her.

    Attributes:
        patient_id, issuer: the local Patient ID; the issuer may be "".
        name, birth_date, sex: as DICOM writes them (YYYYMMDD); "" where it is not known.
        accession_number: of a local order that waits for these images, or "".
        why: what speaks for this patient, for people; "" where a person said it.
    """

    patient_id: str
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""
    why: str = ""


@dataclass(frozen=True)
class Match:
    """Which local patient a study is of. Columns as in the table."""

    study_uid: str
    state: str
    patient_id: str
    issuer: str
    name: str
    birth_date: str
    sex: str
    accession_number: str
    prefix: str
    rule: str
    made: int


def are_same(seen: Sequence[Patient], now: Sequence[Patient]) -> bool:
    """Whether images that name these patients are of those for whom a study was matched."""
    return all(is_among(*one, seen) for one in now) and count_of({*seen, *now}) <= max(
        1, count_of(seen)
    )


def require_whole(local: LocalPatient) -> None:
    """Refuse what cannot be written into an image.

    Raises:
        NodeError: a value is malformed, or there is no Patient ID. The text repeats no value.
    """
    wrong = ""
    if not local.patient_id.strip() or not is_text(local.patient_id, ID_CHARACTERS):
        wrong = f"a match needs a Patient ID of at most {ID_CHARACTERS} characters, without \\"
    elif not is_text(local.issuer, ID_CHARACTERS) or not is_text(local.name, ID_CHARACTERS):
        wrong = f"an issuer and a name have at most {ID_CHARACTERS} characters, without \\"
    elif local.birth_date and not (len(local.birth_date) == 8 and local.birth_date.isdecimal()):
        wrong = "a birth date is written YYYYMMDD"
    elif local.sex not in ("", "M", "F", "O"):
        wrong = "a sex is M, F or O"
    elif not is_text(local.accession_number, ACCESSION_CHARACTERS):
        wrong = f"an accession number has at most {ACCESSION_CHARACTERS} characters, without \\"
    if wrong:
        raise NodeError(wrong, code=ExitCode.USAGE)


def facts_of(row: StudyRow, match: Match) -> str:
    """What the study was and is named by, beside its Patient IDs; canonical JSON."""
    there = {
        "accession_number": row.accession_number,
        "birth_date": row.patient_birth_date,
        "name": row.patient_name,
        "sex": row.patient_sex,
        "study_id": row.study_id,
    }
    here = {
        "accession_number": match.accession_number,
        "birth_date": match.birth_date,
        "name": match.name,
        "prefix": match.prefix,
        "sex": match.sex,
    }
    return canonical_json({"here": here, "there": there}).decode()


def store(connection: sqlite3.Connection, match: Match, patients: Sequence[Patient]) -> None:
    """Keep a match, in place of the one before, with the patients that the images name."""
    connection.execute("DELETE FROM study_matches WHERE study_uid = ?", (match.study_uid,))
    connection.execute("DELETE FROM matched_patients WHERE study_uid = ?", (match.study_uid,))
    connection.execute(
        "INSERT INTO study_matches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            match.study_uid, match.state, match.patient_id, match.issuer, match.name,
            match.birth_date, match.sex, match.accession_number, match.prefix, match.rule,
            match.made,
        ),
    )  # fmt: skip
    connection.executemany(
        "INSERT INTO matched_patients VALUES (?, ?, ?)",
        [(match.study_uid, *one) for one in patients],
    )


def undo(connection: sqlite3.Connection, study_uid: str) -> None:
    """Take the match of a study back; that it was taken back is kept."""
    connection.execute(
        f"UPDATE study_matches SET state = '{UNDONE}', patient_id = '', issuer = '', name = '',"
        " birth_date = '', sex = '', accession_number = '' WHERE study_uid = ?",
        (study_uid,),
    )
