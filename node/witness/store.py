"""The node's records of witnessing, in its database.

They are: the last checkpoint that it cosigned of each peer's log; the cosigned
checkpoints of its own log; and alerts on logs that forked or went back, each with both
signed checkpoints as received. Synchronous, thread-safe, durable on return.
"""

import hashlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from node.database import Database
from protocol.log.checkpoint import Checkpoint, parse_checkpoint_untrusted
from protocol.log.note import parse_note_untrusted
from protocol.log.witness import Held

WITNESS_SCHEMA = """
CREATE TABLE IF NOT EXISTS witnessed (
    facility BLOB PRIMARY KEY,  -- whose log
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note BLOB NOT NULL,         -- the checkpoint as received
    time INTEGER NOT NULL       -- seconds since the epoch, UTC
) STRICT;
CREATE TABLE IF NOT EXISTS own_checkpoints (
    size INTEGER PRIMARY KEY,
    note TEXT NOT NULL,         -- signed by our log key alone
    day INTEGER NOT NULL        -- days since the epoch, UTC
) STRICT;
CREATE TABLE IF NOT EXISTS own_cosignatures (
    size INTEGER NOT NULL REFERENCES own_checkpoints ON DELETE CASCADE,
    facility BLOB NOT NULL,     -- of the witness
    line TEXT NOT NULL,
    time INTEGER NOT NULL,      -- seconds since the epoch, UTC
    PRIMARY KEY (size, facility)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log_alerts (
    number INTEGER PRIMARY KEY,
    facility BLOB NOT NULL,     -- whose log
    witness BLOB NOT NULL,      -- who cosigned what it contradicts
    kind TEXT NOT NULL,
    held BLOB NOT NULL,         -- the checkpoint that was cosigned
    shown BLOB NOT NULL,        -- the one that contradicts it
    seen INTEGER NOT NULL,      -- seconds since the epoch, UTC
    logged INTEGER NOT NULL DEFAULT 0,
    settled INTEGER             -- seconds since the epoch, UTC
) STRICT;
"""

KEPT_CHECKPOINTS = 64
"""Newest cosigned checkpoints that are all kept; of older ones, the last of each day."""

FORK = "fork"
ROLLBACK = "rollback"
UNPROVEN = "unproven"
"""Kinds of alerts: two roots for one size; a size smaller than one that was signed; a
larger size that no proof joins to the one that was cosigned."""

_DAY_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Alert:
    """A log that contradicts itself, and the proof: two checkpoints that it signed.

    Attributes:
        number: the number by which an operator names it.
        facility: facility key (32 bytes) of the log's facility.
        witness: facility key (32 bytes) of the witness that had cosigned `held`.
        kind: `FORK`, `ROLLBACK` or `UNPROVEN`.
        held: the signed note that was cosigned.
        shown: the signed note that contradicts it.
        seen: when it was found, seconds since the epoch, UTC.
        settled: when an operator settled it, or its proof ended; None before that.
    """

    number: int
    facility: bytes
    witness: bytes
    kind: str
    held: bytes
    shown: bytes
    seen: int
    settled: int | None

    @property
    def held_checkpoint(self) -> Checkpoint:
        """The checkpoint in `held`."""
        return parse_checkpoint_untrusted(parse_note_untrusted(self.held)[0])

    @property
    def shown_checkpoint(self) -> Checkpoint:
        """The checkpoint in `shown`."""
        return parse_checkpoint_untrusted(parse_note_untrusted(self.shown)[0])

    @property
    def digests(self) -> tuple[str, str]:
        """SHA-256 of `held` and `shown`, hex."""
        held, shown = (hashlib.sha256(note).hexdigest() for note in (self.held, self.shown))
        return held, shown


@dataclass(frozen=True)
class Cosigned:
    """A checkpoint of our own log that witnesses cosigned.

    Attributes:
        size: size of the log.
        note: the note signed by our log key, without cosignatures.
        lines: signature line and time of each witness, by its facility key.
    """

    size: int
    note: str
    lines: dict[bytes, tuple[str, int]]

    @property
    def merged(self) -> str:
        """The note with all its cosignatures."""
        return self.note + "".join(line for line, _ in self.lines.values())


class WitnessStore:
    """The tables of `WITNESS_SCHEMA`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # --- logs of peers ---------------------------------------------------------------

    def held(self, facility: bytes) -> tuple[Held, bytes]:
        """The checkpoint that we cosigned last of a peer's log, and its note; size 0 and b""
        if there is none."""
        row = self.database.query_one(
            "SELECT size, root, note FROM witnessed WHERE facility=?", (facility,)
        )
        return (Held(), b"") if row is None else (Held(row["size"], row["root"]), row["note"])

    def keep(self, facility: bytes, checkpoint: Checkpoint, note: bytes, now: int) -> None:
        """Replace the checkpoint cosigned last; `now` in seconds since the epoch, UTC."""
        self.database.transact(
            lambda connection: connection.execute(
                "INSERT INTO witnessed VALUES (?, ?, ?, ?, ?) ON CONFLICT (facility) DO UPDATE "
                "SET size=excluded.size, root=excluded.root, note=excluded.note, "
                "time=excluded.time",
                (facility, checkpoint.size, checkpoint.root, note, now),
            )
        )

    def forget(self, facility: bytes) -> None:
        """Accept the next checkpoint of a peer as its first, as an operator decided."""
        self.database.transact(
            lambda connection: connection.execute(
                "DELETE FROM witnessed WHERE facility=?", (facility,)
            )
        )

    def all_held(self) -> list[tuple[bytes, int, int]]:
        """Facility key, size and time for each peer whose log we cosigned."""
        rows = self.database.query("SELECT facility, size, time FROM witnessed ORDER BY facility")
        return [(row["facility"], row["size"], row["time"]) for row in rows]

    # --- our own log -------------------------------------------------------------------

    def add_cosignature(
        self, size: int, note: str, facility: bytes, line: str, time: int, now: int
    ) -> None:
        """Keep a witness's cosignature of our log.

        Args:
            size: size of the checkpoint.
            note: the checkpoint, signed by our log key alone.
            facility: facility key (32 bytes) of the witness.
            line: its signature line.
            time: when it cosigned, seconds since the epoch, UTC.
            now: the time on our clock, seconds since the epoch, UTC.
        """

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO own_checkpoints VALUES (?, ?, ?) "
                "ON CONFLICT (size) DO UPDATE SET note=excluded.note",
                (size, note, now // _DAY_SECONDS),
            )
            connection.execute(
                "INSERT INTO own_cosignatures VALUES (?, ?, ?, ?) ON CONFLICT (size, facility) "
                "DO UPDATE SET line=excluded.line, time=excluded.time",
                (size, facility, line, time),
            )
            self._thin(connection)

        self.database.transact(keep)

    @staticmethod
    def _thin(connection: sqlite3.Connection) -> None:
        connection.execute(
            "DELETE FROM own_checkpoints AS old WHERE size < coalesce((SELECT size FROM "
            "own_checkpoints ORDER BY size DESC LIMIT 1 OFFSET ?), 0) AND EXISTS (SELECT 1 "
            "FROM own_checkpoints WHERE day = old.day AND size > old.size)",
            (KEPT_CHECKPOINTS - 1,),
        )

    def cosigned(self, size: int | None = None) -> list[Cosigned]:
        """Our cosigned checkpoints, or only that of one size; largest first."""
        where = "" if size is None else "WHERE size = ?"
        checkpoints = self.database.query(
            f"SELECT size, note FROM own_checkpoints {where} ORDER BY size DESC",
            () if size is None else (size,),
        )
        return [self._with_lines(row["size"], row["note"]) for row in checkpoints]

    def newest_by(self, facility: bytes) -> tuple[int, int] | None:
        """The largest size of our log that a witness cosigned, and when."""
        row = self.database.query_one(
            "SELECT size, time FROM own_cosignatures WHERE facility=? ORDER BY size DESC LIMIT 1",
            (facility,),
        )
        return None if row is None else (row["size"], row["time"])

    def drop_cosigned(self, sizes: Iterable[int]) -> None:
        """Drop cosigned checkpoints that our log does not have."""
        dropped = [(size,) for size in sizes]
        self.database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM own_checkpoints WHERE size=?", dropped
            )
        )

    def _with_lines(self, size: int, note: str) -> Cosigned:
        rows = self.database.query(
            "SELECT facility, line, time FROM own_cosignatures WHERE size=? ORDER BY facility",
            (size,),
        )
        return Cosigned(size, note, {row["facility"]: (row["line"], row["time"]) for row in rows})

    # --- alerts --------------------------------------------------------------------------

    def add_alert(
        self, facility: bytes, witness: bytes, kind: str, held: bytes, shown: bytes, now: int
    ) -> Alert | None:
        """Keep the evidence; returns None if an alert of this kind is unsettled already."""

        def add(connection: sqlite3.Connection) -> Alert | None:
            known = connection.execute(
                "SELECT 1 FROM log_alerts WHERE facility=? AND witness=? AND kind=? "
                "AND settled IS NULL",
                (facility, witness, kind),
            ).fetchone()
            if known is not None:
                return None
            # No alert is ever deleted, so a number is never given twice.
            [number] = connection.execute(
                "INSERT INTO log_alerts (number, facility, witness, kind, held, shown, seen) "
                "VALUES ((SELECT coalesce(max(number), 0) + 1 FROM log_alerts), ?, ?, ?, ?, ?, ?) "
                "RETURNING number",
                (facility, witness, kind, held, shown, now),
            ).fetchone()
            return Alert(number, facility, witness, kind, held, shown, now, None)

        return self.database.transact(add)

    def alerts(self, *, open_only: bool = False, unlogged_only: bool = False) -> list[Alert]:
        """The alerts, oldest first."""
        chosen = ["settled IS NULL"] * open_only + ["logged = 0"] * unlogged_only
        where = f"WHERE {' AND '.join(chosen)}" if chosen else ""
        rows = self.database.query(f"SELECT * FROM log_alerts {where} ORDER BY number")
        return [Alert(**{name: row[name] for name in Alert.__dataclass_fields__}) for row in rows]

    def mark_logged(self, number: int) -> None:
        """Mark an alert whose entry is in the log."""
        self.database.transact(
            lambda connection: connection.execute(
                "UPDATE log_alerts SET logged=1 WHERE number=?", (number,)
            )
        )

    def settle(self, numbers: Iterable[int], now: int) -> None:
        """Settle these alerts; their evidence is kept (`now` in seconds since the epoch)."""
        settled = [(now, number) for number in numbers]
        self.database.transact(
            lambda connection: connection.executemany(
                "UPDATE log_alerts SET settled=? WHERE number=? AND settled IS NULL", settled
            )
        )
