"""The evidence beside the audit log: openings of commitments, and receipts.

Openings name patients and studies, so they are kept apart from the log, where
they can be erased without breaking it. Both are durable before the entry that
refers to them. An entry may lack its opening, which was erased; an opening of an
entry that was never written is dropped when the log is opened.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from node.audit.erasure import (
    ERASURES_SCHEMA,
    OF_PATIENT,
    OF_PERSON,
    OF_STUDY,
    STUDIES_OF_PATIENT,
    Erasures,
)
from node.database import Database
from node.migrations import EVIDENCE_MIGRATIONS
from protocol.log.entry import Opening

EVIDENCE_SCHEMA = """
CREATE TABLE IF NOT EXISTS openings (
    entry INTEGER NOT NULL,
    place INTEGER NOT NULL,
    commitment BLOB NOT NULL,
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    salt BLOB NOT NULL,
    PRIMARY KEY (entry, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS openings_by_commitment ON openings (commitment);
CREATE TABLE IF NOT EXISTS receipts (
    digest BLOB PRIMARY KEY,
    receipt BLOB NOT NULL
) STRICT;
"""

_PAGE = 4096


class EvidenceStore:
    """Openings and receipts in `audit/evidence.db`. Thread-safe.

    Raises:
        NodeError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, [EVIDENCE_SCHEMA, ERASURES_SCHEMA], EVIDENCE_MIGRATIONS)
        self.erasures = Erasures(self._database)

    def add_openings(self, first: int, openings: Iterable[tuple[int, int, Opening]]) -> None:
        """Store openings as (entry, place in its subjects, opening); durable on return.

        Openings stored earlier for entries from `first` on are dropped: those entries were
        never written.
        """
        rows = [
            (entry, place, bytes.fromhex(each.commitment), each.kind, each.value, each.salt)
            for entry, place, each in openings
        ]

        def add(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM openings WHERE entry >= ?", (first,))
            connection.executemany("INSERT INTO openings VALUES (?, ?, ?, ?, ?, ?)", rows)

        self._database.transact(add)

    def opening_of(self, commitment: str) -> Opening | None:
        """The opening of a commitment (64 hex digits); None when there is none here."""
        row = self._database.query_one(
            "SELECT kind, value, salt FROM openings WHERE commitment = ?",
            (bytes.fromhex(commitment),),
        )
        return None if row is None else Opening(row["kind"], row["value"], row["salt"])

    def openings(self, stop: int) -> Iterator[tuple[int, Opening]]:
        """All openings of entries before `stop`, in the order of entries and subjects."""
        return ((entry, opening) for entry, _, opening in self.placed_openings(0, stop))

    def placed_openings(self, start: int, stop: int) -> Iterator[tuple[int, int, Opening]]:
        """Openings of entries `start` to `stop - 1` as (entry, place, opening), in order."""
        entry, place = start, -1
        while True:
            rows = self._database.query(
                "SELECT entry, place, kind, value, salt FROM openings "
                "WHERE (entry, place) > (?, ?) AND entry < ? ORDER BY entry, place LIMIT ?",
                (entry, place, stop, _PAGE),
            )
            for row in rows:
                entry, place = row["entry"], row["place"]
                yield entry, place, Opening(row["kind"], row["value"], row["salt"])
            if len(rows) < _PAGE:
                return

    def entries_about(self, *, study: str = "", patient: str = "", person: str = "") -> list[int]:
        """Entries that, by their openings, are about a study or a patient, or that a person
        asked for; in ascending order.

        Args:
            study: a Study Instance UID, or "".
            patient: an identity, or a Patient ID that stands for it with any issuer, or "".
            person: a name, or "".
        """
        found: set[int] | None = None
        for value, chosen in ((study, OF_STUDY), (patient, OF_PATIENT), (person, OF_PERSON)):
            if value:
                rows = self._database.query(
                    f"SELECT DISTINCT entry FROM openings WHERE {chosen}", (value,)
                )
                entries = {row["entry"] for row in rows}
                found = entries if found is None else found & entries
        return sorted(found or ())

    def studies_of(self, patient: str) -> frozenset[str]:
        """Study Instance UIDs that openings show to be of a patient, as in `entries_about`."""
        return frozenset(
            row["value"] for row in self._database.query(STUDIES_OF_PATIENT, (patient,))
        )

    def add_receipt(self, receipt: bytes) -> str:
        """Store a receipt; durable on return. Returns its SHA-256 in hex."""
        digest = hashlib.sha256(receipt).digest()
        self._database.transact(
            lambda connection: connection.execute(
                "INSERT INTO receipts (digest, receipt) VALUES (?, ?)"
                " ON CONFLICT (digest) DO NOTHING",
                (digest, receipt),
            )
        )
        return digest.hex()

    def receipt(self, digest: str) -> bytes | None:
        """The receipt of this SHA-256 (64 hex digits), or None."""
        row = self._database.query_one(
            "SELECT receipt FROM receipts WHERE digest = ?", (bytes.fromhex(digest),)
        )
        return None if row is None else bytes(row["receipt"])

    def close(self) -> None:
        """Close the file."""
        self._database.close()
