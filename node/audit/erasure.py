"""Records durably which openings an erasure deletes; `erasing` carries it out.

Deleted rows are overwritten (`secure_delete`, set for every database), and the database's
write-ahead log, which holds older pages, is emptied. Copies that a disk keeps underneath
its file system are out of reach here.
"""

import secrets
import sqlite3
from dataclasses import dataclass

from node.callers import parts_of
from node.database import Database
from protocol.log.entry import SALT_BYTES, Event, commitment

ERASURES_SCHEMA = """
CREATE TABLE IF NOT EXISTS erasures (
    name BLOB PRIMARY KEY,      -- 16 random bytes
    since INTEGER NOT NULL,     -- size of the log when it began
    kind TEXT NOT NULL,
    commitment BLOB NOT NULL,
    openings INTEGER NOT NULL,
    entries INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erasing (
    name BLOB NOT NULL REFERENCES erasures,
    entry INTEGER NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (name, entry, place)
) STRICT, WITHOUT ROWID;
"""

_IS_PATIENT = "kind = 'patient' AND (value = ?1 OR substr(value, 1, length(?1) + 3) = ?1 || '^^^')"
"""A Patient ID without its issuer stands for that Patient ID of every issuer."""


def is_patient(identity: str, wanted: str) -> bool:
    """The same rule in Python: whether an identity is the patient meant by `wanted`."""
    return identity == wanted or identity.startswith(f"{wanted}^^^")


STUDIES_OF_PATIENT = f"""
SELECT value FROM openings WHERE kind = 'study' AND entry IN (
    SELECT entry FROM openings WHERE {_IS_PATIENT})
"""
"""SQL: studies (with repetitions) of the patient ?1, as far as openings show."""

_BY_NAME = "kind = 'patient' AND value LIKE '%^^^________ _'"
"""Whether a patient was asked for by name, as `NAME^^^YYYYMMDD S` (`node.sharing.find_entries`)."""

_NAMES_OF_PATIENT = f"""
SELECT value FROM openings WHERE {_BY_NAME} AND entry IN (
    SELECT entry FROM openings WHERE kind = 'study' AND value IN ({STUDIES_OF_PATIENT}))
"""
"""SQL: how the patient ?1 was asked for by name, where studies of this patient were found so."""

OF_PATIENT = f"""(
    ({_IS_PATIENT})
    OR ({_BY_NAME} AND value IN ({_NAMES_OF_PATIENT}))
    OR (kind = 'study' AND value IN ({STUDIES_OF_PATIENT}))
    OR (kind IN ('instance', 'facts', 'asker', 'message', 'note') AND entry IN (
        SELECT entry FROM openings WHERE {_IS_PATIENT}))
    OR (kind IN ('facts', 'message') AND entry IN (
        SELECT entry FROM openings WHERE kind = 'study' AND value IN ({STUDIES_OF_PATIENT})))
)"""
"""SQL: whether an opening names the patient ?1 or a study of this patient."""

OF_STUDY = """(
    (kind = 'study' AND value = ?1)
    OR (kind IN ('patient', 'instance', 'facts', 'asker', 'message', 'note') AND entry IN (
        SELECT entry FROM openings WHERE kind = 'study' AND value = ?1))
)"""
"""SQL: whether an opening names the study ?1, its patient, an instance, what decided, a message."""

OF_PERSON = """(kind = 'person'
    AND (value = ?1 OR substr(value, 1, length(?1) + 3) = ?1 || '^^^'))"""
"""SQL: whether an opening names the person ?1, in whatever role and under whatever display name."""

BEFORE = "before"
"""The kind of an erasure by age: of all openings of entries below an index, written as text."""

OF_BEFORE = "(entry < CAST(?1 AS INTEGER))"
"""SQL: whether an opening is of an entry below the index ?1."""

_CHOICES = {"study": OF_STUDY, "patient": OF_PATIENT, "person": OF_PERSON, BEFORE: OF_BEFORE}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The extent of an erasure.

    Attributes:
        openings: number of openings.
        entries: number of entries that they belong to.
        studies: Study Instance UIDs that they name.
        patients: identities that they name.
    """

    openings: int
    entries: int
    studies: tuple[str, ...]
    patients: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """An erasure that has begun.

    Attributes:
        name: 16 random bytes.
        since: size of the log when it began; the entry `erased` comes at or after it.
        kind: `study`, `patient`, `person` or `BEFORE`.
        commitment: commitment to the study, patient or person, 64 hex digits.
        openings: number of openings that it erases.
        entries: number of entries that they belong to.
    """

    name: bytes
    since: int
    kind: str
    commitment: str
    openings: int
    entries: int

    def event(self) -> Event:
        """The entry that records it; it names nobody."""
        return Event(
            type="erased",
            actor="operator",
            details={
                "commitment": self.commitment,
                "entries": self.entries,
                "erasure": self.name.hex(),
                "kind": self.kind,
                "openings": self.openings,
            },
        )


class Erasures:
    """Erasures of openings, in the same file as those. Thread-safe.

    Args:
        database: `evidence.db`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, kind: str, value: str, size: int) -> Found:
        """What erasing a `study`, `patient` or `person` takes from the first `size` entries."""
        openings, entries = self.count(kind, value, size)
        named = self._database.query(
            f"SELECT DISTINCT kind, value FROM openings WHERE entry < ?2 AND {_CHOICES[kind]}",
            (value, size),
        )
        return Found(
            openings=openings,
            entries=entries,
            studies=tuple(sorted(row["value"] for row in named if row["kind"] == "study")),
            patients=tuple(sorted(row["value"] for row in named if row["kind"] == "patient")),
        )

    def count(self, kind: str, value: str, size: int) -> tuple[int, int]:
        """How many openings `find` would find, and of how many entries."""
        [counts] = self._database.query(
            "SELECT count(*), count(DISTINCT entry) FROM openings"
            f" WHERE entry < ?2 AND {_CHOICES[kind]}",
            (value, size),
        )
        return int(counts[0]), int(counts[1])

    def begin(self, kind: str, value: str, size: int) -> tuple[Erasure, bytes]:
        """Record durably which openings will be erased; nothing is erased yet.

        Args:
            kind: `study`, `patient`, `person` or `BEFORE`.
            value: the Study Instance UID, the patient's identity, the person's name, or the index.
            size: the size of the log now.

        Returns:
            The erasure, and the salt of its commitment, which is kept nowhere.
        """
        name, salt = secrets.token_bytes(16), secrets.token_bytes(SALT_BYTES)
        openings, entries = self.count(kind, value, size)
        erasure = Erasure(
            name=name,
            since=size,
            kind=kind,
            commitment=commitment(kind, value, salt),
            openings=openings,
            entries=entries,
        )

        def write_down(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO erasures VALUES (?, ?, ?, ?, ?, ?)",
                (
                    name, size, kind, bytes.fromhex(erasure.commitment),
                    openings, entries,
                ),
            )  # fmt: skip
            connection.execute(
                "INSERT INTO erasing SELECT ?3, entry, place FROM openings"
                f" WHERE entry < ?2 AND {_CHOICES[kind]}",
                (value, size, name),
            )

        self._database.transact(write_down)
        return erasure, salt

    def pending(self) -> list[Erasure]:
        """Erasures that have begun and are not finished."""
        return [
            Erasure(
                name=row["name"],
                since=row["since"],
                kind=row["kind"],
                commitment=row["commitment"].hex(),
                openings=row["openings"],
                entries=row["entries"],
            )
            for row in self._database.query("SELECT * FROM erasures ORDER BY since, name")
        ]

    def studies(self, erasure: Erasure) -> list[str]:
        """Study Instance UIDs that an unfinished erasure erases."""
        rows = self._database.query(
            "SELECT DISTINCT value FROM erasing JOIN openings USING (entry, place)"
            " WHERE name = ? AND kind = 'study' ORDER BY value",
            (erasure.name,),
        )
        return [row["value"] for row in rows]

    def persons(self, erasure: Erasure) -> list[str]:
        """Names of the persons whose openings an unfinished erasure erases."""
        rows = self._database.query(
            "SELECT DISTINCT value FROM erasing JOIN openings USING (entry, place)"
            " WHERE name = ? AND kind = 'person'",
            (erasure.name,),
        )
        return sorted({parts_of(row["value"])[0] for row in rows})

    def finish(self, erasure: Erasure) -> None:
        """Delete and overwrite the openings; call once the entry is durable.

        Raises:
            NodeError: the disk is full or failing; the next start goes on.
        """
        self._database.transact(
            lambda connection: connection.execute(
                "DELETE FROM openings WHERE (entry, place) IN"
                " (SELECT entry, place FROM erasing WHERE name = ?)",
                (erasure.name,),
            )
        )
        self._database.drop_copies()
        self._database.empty_write_ahead_log()
        self._database.transact(lambda connection: _end(connection, erasure.name))


def _end(connection: sqlite3.Connection, name: bytes) -> None:
    connection.execute("DELETE FROM erasing WHERE name = ?", (name,))
    connection.execute("DELETE FROM erasures WHERE name = ?", (name,))
