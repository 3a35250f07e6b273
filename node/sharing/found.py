"""What searches for a patient leave in the database: questions of peers, and what we found at them.

Questions are counted over restarts, so that no restart gives a peer its budget again. What we found
is forgotten after a day: it names a patient, and the peer may have withdrawn the study since.
Synchronous and thread-safe.
"""

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from node.catalog.words import ANY, Search, words_of
from node.clock import Clock
from node.database import Database
from node.sharing.feed_words import record_from_json, record_to_json
from protocol import limits
from protocol.find_messages import Asked, ByNumber, ByPerson
from protocol.messages import Record

FOUND_SCHEMA = """
CREATE TABLE IF NOT EXISTS find_questions (
    name BLOB PRIMARY KEY,              -- 16 random bytes
    peer BLOB NOT NULL,                 -- facility key of who asked us
    asked INTEGER NOT NULL              -- milliseconds since the epoch, UTC
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS find_questions_by_peer ON find_questions (peer, asked);
CREATE TABLE IF NOT EXISTS found_studies (
    peer BLOB NOT NULL,                 -- facility key of who has it
    study TEXT NOT NULL,
    record TEXT NOT NULL,               -- as in remote_studies
    patient_id TEXT NOT NULL,           -- the patient as we named it
    issuer TEXT NOT NULL,
    patient_name TEXT NOT NULL,
    birth_date TEXT NOT NULL,
    until INTEGER NOT NULL,             -- forgotten then, seconds since the epoch, UTC
    PRIMARY KEY (peer, study)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS found_studies_by_study ON found_studies (study);
"""

_WINDOWS = (
    (limits.FINDS_AN_HOUR, limits.FIND_HOUR_SECONDS),
    (limits.FINDS_A_DAY, limits.FIND_DAY_SECONDS),
)


class Questions:
    """How many patients each peer has asked for.

    Args:
        database: opened with `FOUND_SCHEMA`.
        clock: dates them.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def take(self, peer: bytes) -> int:
        """Count a question of a facility (key), if its budget has room; durable on return.

        Returns:
            0 when it was counted, else the seconds until the next may come.
        """
        now, name = self._clock.now_ms(), secrets.token_bytes(16)

        def count(connection: sqlite3.Connection) -> int:
            connection.execute(
                "DELETE FROM find_questions WHERE asked <= ?",
                (now - limits.FIND_DAY_SECONDS * 1000,),
            )
            # A clock that was set back must not keep a peer away for longer than a day.
            connection.execute("UPDATE find_questions SET asked = ?1 WHERE asked > ?1", (now,))
            rows = connection.execute(
                "SELECT asked FROM find_questions WHERE peer = ? ORDER BY asked DESC", (peer,)
            ).fetchall()
            wait = _wait([row["asked"] for row in rows], now)
            if not wait:
                connection.execute("INSERT INTO find_questions VALUES (?, ?, ?)", (name, peer, now))
            return wait

        return self._database.transact(count)


def _wait(asked: Sequence[int], now: int) -> int:
    """Seconds until a further question fits in each window; `asked` has the newest first."""
    ready = now
    for most, seconds in _WINDOWS:
        if len(asked) >= most:
            ready = max(ready, asked[most - 1] + seconds * 1000)
    return -((now - ready) // 1000)


@dataclass(frozen=True, kw_only=True)
class FoundStudy:
    """A study that a peer has, as it told us on a question; attributes as in the table."""

    peer: bytes
    record: Record
    patient_id: str
    issuer: str
    patient_name: str
    birth_date: str
    until: int


class FoundStudies:
    """What we found at peers.

    Args:
        database: opened with `FOUND_SCHEMA`.
        clock: tells what is to be forgotten.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def keep(self, peer: bytes, asked: Asked, records: Sequence[Record]) -> tuple[FoundStudy, ...]:
        """Store for a day what a peer (facility key) has of a patient; returns what is stored."""
        found = tuple(
            FoundStudy(
                peer=peer,
                record=record,
                patient_id=asked.patient_id if isinstance(asked, ByNumber) else "",
                issuer=asked.issuer if isinstance(asked, ByNumber) else "",
                patient_name=asked.name if isinstance(asked, ByPerson) else "",
                birth_date=asked.birth_date if isinstance(asked, ByPerson) else "",
                until=self._clock.now() + limits.FOUND_SECONDS,
            )
            for record in records
        )

        def store(connection: sqlite3.Connection) -> None:
            self._forget_old(connection)
            connection.executemany(
                "INSERT INTO found_studies VALUES (?,?,?,?,?,?,?,?)"
                " ON CONFLICT (peer, study) DO UPDATE SET record = excluded.record,"
                " patient_id = excluded.patient_id, issuer = excluded.issuer,"
                " patient_name = excluded.patient_name, birth_date = excluded.birth_date,"
                " until = excluded.until",
                [
                    (
                        peer, one.record.study, record_to_json(one.record), one.patient_id,
                        one.issuer, one.patient_name, one.birth_date, one.until,
                    )
                    for one in found
                ],
            )  # fmt: skip

        self._database.transact(store)
        return found

    def all(self, peer: bytes | None = None, search: Search = ANY) -> list[FoundStudy]:
        """What is not forgotten yet, by study date, newest first.

        Args:
            peer: only what this peer has.
            search: only those that a person looks for.
        """
        rows = self._database.query(
            "SELECT * FROM found_studies WHERE until > ?", (self._clock.now(),)
        )
        found = [_found(row) for row in rows if peer in (None, row["peer"])]
        chosen = [one for one in found if _is_sought(one, search)]
        chosen.sort(key=lambda one: (one.record.study_date, one.record.study, one.peer))
        return chosen[::-1]

    def of_study(self, beginning: str) -> list[tuple[bytes, str]]:
        """Who has studies whose UIDs begin so: facility key and UID, in the order of the UIDs."""
        rows = self._database.query(
            "SELECT peer, study FROM found_studies WHERE study >= ?1 AND study < ?2 AND until > ?3"
            " ORDER BY study, peer",
            (beginning, beginning + "\x7f", self._clock.now()),
        )
        return [(row["peer"], row["study"]) for row in rows]

    def forget_peer(self, peer: bytes) -> None:
        """Forget what was found at a peer, as it is not trusted any more."""
        self._database.transact(
            lambda connection: connection.execute(
                "DELETE FROM found_studies WHERE peer = ?", (peer,)
            )
        )

    def forget_of(self, peer: bytes, studies: Sequence[str]) -> None:
        """Forget that these studies (UIDs) were found at a peer: it has withdrawn them."""
        self._database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM found_studies WHERE peer = ? AND study = ?",
                [(peer, study) for study in studies],
            )
        )

    def forget(self, studies: Sequence[str]) -> None:
        """Forget that these studies (UIDs) were found, since their patient is erased."""
        self._database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM found_studies WHERE study = ?", [(study,) for study in studies]
            )
        )

    def sweep(self) -> None:
        """Delete what is to be forgotten by now."""
        if self._database.query("SELECT 1 FROM found_studies WHERE until <= ? LIMIT 1", self._now):
            self._database.transact(self._forget_old)

    def _forget_old(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM found_studies WHERE until <= ?", self._now)

    @property
    def _now(self) -> tuple[int]:
        return (self._clock.now(),)


def _is_sought(one: FoundStudy, search: Search) -> bool:
    words = words_of(
        name=one.patient_name,
        patients=[(one.patient_id, one.issuer)],
        birth_date=one.birth_date,
        modalities=one.record.modalities,
    )
    return search.fits(words, one.record.study_date)


def _found(row: sqlite3.Row) -> FoundStudy:
    return FoundStudy(
        peer=row["peer"],
        record=record_from_json(row["record"]),
        patient_id=row["patient_id"],
        issuer=row["issuer"],
        patient_name=row["patient_name"],
        birth_date=row["birth_date"],
        until=row["until"],
    )
