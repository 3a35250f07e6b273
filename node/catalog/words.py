"""The words by which studies are searched: names, numbers, birth dates, modalities, each of a kind.

A table of words has a row for each word of each study; it is derived from what is kept of that
study, in the same transaction. `Search` is what a person looks for; it makes the conditions of a
query on such a table, ours or that of what peers announced.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from node.catalog.names import FAMILY, GIVEN, Word, parts, words

_ID, _ISSUED, _BIRTH, _ACCESSION, _MODALITY = "id", "issued", "birth", "accession", "modality"

_LAST = "\U0010ffff"
"""Comes after each character that a word may go on with."""

WORDS_SCHEMA = """
-- Derived from the rows of a study: what it is searched by.
CREATE TABLE IF NOT EXISTS study_words (
    study_uid TEXT NOT NULL REFERENCES studies,
    kind TEXT NOT NULL,
    word TEXT NOT NULL,
    PRIMARY KEY (study_uid, kind, word)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS study_words_by_word ON study_words (kind, word, study_uid);
"""

Words = frozenset[tuple[str, str]]
"""Kind and word."""


def words_of(
    *,
    name: str = "",
    patients: Iterable[tuple[str, str]] = (),
    birth_date: str = "",
    accession_number: str = "",
    modalities: Iterable[str] = (),
) -> Words:
    """The words of a study.

    Args:
        name: the patient's name, as DICOM writes it.
        patients: Patient IDs with their issuers, or "".
        birth_date: YYYYMMDD.
        accession_number: the accession number.
        modalities: the modalities of its series.
    """
    found: set[tuple[str, str]] = set()
    for kind, each in zip((FAMILY, GIVEN), parts(name), strict=True):
        found.update((kind, form) for word in each for form in word)
    for patient_id, issuer in patients:
        found.add((_ID, patient_id.strip()))
        found.add((_ISSUED, _issued(patient_id, issuer)))
    found.add((_BIRTH, birth_date.strip()))
    found.add((_ACCESSION, accession_number.strip()))
    found.update((_MODALITY, one) for one in modalities)
    return frozenset((kind, word) for kind, word in found if word)


def _issued(patient_id: str, issuer: str) -> str:
    both = (patient_id.strip(), issuer.strip())
    return "\n".join(both) if all(both) else ""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a person looks for; "" is anything.

    Attributes:
        name: beginnings of words of the patient's name; `FAMILY^GIVEN` says which are which.
        patient_id: the whole Patient ID.
        issuer: its issuer, if only that one is meant.
        birth_date: YYYYMMDD.
        accession_number: the whole accession number.
        modality: a modality that the study has.
        first_date, last_date: the study date is one of these or between them, YYYYMMDD.
    """

    name: str = ""
    patient_id: str = ""
    issuer: str = ""
    birth_date: str = ""
    accession_number: str = ""
    modality: str = ""
    first_date: str = ""
    last_date: str = ""

    def conditions(self, table: str, study: str) -> tuple[list[str], dict[str, str]]:
        """The conditions on the rows of studies, and the values of their parameters.

        Args:
            table: a table of words.
            study: the columns that both tables name the study by.
        """
        found, values = [], {}
        for number, kinds in enumerate(self._wanted()):
            either = []
            for place, (kind, word, is_beginning) in enumerate(kinds):
                name = f"w{number}x{place}"
                values[f"{name}k"], values[f"{name}w"] = kind, word
                if is_beginning:
                    values[f"{name}z"] = word + _LAST
                    either.append(f"kind = :{name}k AND word >= :{name}w AND word < :{name}z")
                else:
                    either.append(f"kind = :{name}k AND word = :{name}w")
            # One search of the index for each: with OR it would be left aside.
            chosen = " UNION ".join(f"SELECT {study} FROM {table} WHERE {one}" for one in either)
            found.append(f"({study}) IN ({chosen})")
        for name, text, sign in (("first", self.first_date, ">="), ("last", self.last_date, "<=")):
            if text:
                found.append(f"study_date {sign} :{name}_date")
                values[f"{name}_date"] = text
        if self.last_date and not self.first_date:
            found.append("study_date <> ''")
        return found, values

    def fits(self, words: Words, study_date: str) -> bool:
        """Whether a study with these words and this date (YYYYMMDD) is one that is looked for."""
        for kinds in self._wanted():
            if not any(
                kind == other and (text.startswith(word) if is_beginning else text == word)
                for kind, word, is_beginning in kinds
                for other, text in words
            ):
                return False
        is_dated = study_date != "" or not (self.first_date or self.last_date)
        return is_dated and self.first_date <= study_date <= (self.last_date or _LAST)

    def _wanted(self) -> list[list[tuple[str, str, bool]]]:
        """For each condition, its alternatives: kind, word, and whether a beginning is enough."""
        found = [
            [(kind, form, True) for kind in kinds for form in sorted(word)]
            for kinds, word in self._names()
        ]
        if self.patient_id and self.issuer:
            found.append([(_ISSUED, _issued(self.patient_id, self.issuer), False)])
        elif self.patient_id:
            found.append([(_ID, self.patient_id.strip(), False)])
        for kind, text in (
            (_BIRTH, self.birth_date),
            (_ACCESSION, self.accession_number),
            (_MODALITY, self.modality),
        ):
            if text:
                found.append([(kind, text.strip(), False)])
        return found

    def _names(self) -> list[tuple[tuple[str, ...], Word]]:
        if not any(mark in self.name for mark in "^,"):
            return [((FAMILY, GIVEN), word) for word in words(self.name)]
        family, given = parts(self.name)
        return [*(((FAMILY,), word) for word in family), *(((GIVEN,), word) for word in given)]


ANY = Search()


def index_study(connection: sqlite3.Connection, study_uid: str) -> None:
    """Bring the words of a study of ours up to date; in the transaction at hand."""
    row = connection.execute("SELECT * FROM studies WHERE study_uid = ?", (study_uid,)).fetchone()
    wanted: Words = frozenset()
    if row is not None:
        patients = connection.execute(
            "SELECT patient_id, issuer FROM study_patients WHERE study_uid = ?", (study_uid,)
        ).fetchall()
        wanted = words_of(
            name=row["patient_name"],
            patients=((each["patient_id"], each["issuer"]) for each in patients),
            birth_date=row["patient_birth_date"],
            accession_number=row["accession_number"],
            modalities=row["modalities"].split("\n"),
        )
    before = {
        (each["kind"], each["word"])
        for each in connection.execute(
            "SELECT kind, word FROM study_words WHERE study_uid = ?", (study_uid,)
        )
    }
    connection.executemany(
        "DELETE FROM study_words WHERE (study_uid, kind, word) = (?,?,?)",
        [(study_uid, *each) for each in sorted(before - wanted)],
    )
    connection.executemany(
        "INSERT INTO study_words VALUES (?,?,?)",
        [(study_uid, *each) for each in sorted(wanted - before)],
    )
