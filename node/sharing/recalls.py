"""Recalls by peers of studies that we fetched from them.

A source that discards something as wrong says so in its next record of the study. Here that becomes
an entry and an alert, which stays until an operator has settled it. There is one row for each peer
and study; a record holds the number of the source's recalls, so that each is reported once.
Synchronous and thread-safe.
"""

import functools
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from node.audit.effects import Effects
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event, subjects_of
from protocol.messages import Record
from protocol.recalls import meaning

RECALLS_SCHEMA = """
CREATE TABLE IF NOT EXISTS recalls (
    peer BLOB NOT NULL,                 -- facility key of who recalled it
    study TEXT NOT NULL,
    code TEXT NOT NULL,                 -- the last one, protocol.recalls
    count INTEGER NOT NULL,             -- how many the peer has told of
    whole INTEGER NOT NULL,             -- whether the peer has nothing of it any more
    told INTEGER NOT NULL,              -- milliseconds since the epoch, UTC
    settled INTEGER NOT NULL,
    PRIMARY KEY (peer, study)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """A recall; attributes as in the table."""

    peer: bytes
    study: str
    code: str
    count: int
    whole: bool
    told: int
    settled: bool


class Recalls:
    """The recalls of peers.

    Args:
        database: where they are kept.
        catalog: tells from which peer a study is, and its patients.
        effects: ties entries to their effects.
        clock: dates them.
    """

    def __init__(
        self, database: Database, catalog: Catalog, effects: Effects, clock: Clock
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._effects = effects
        self._clock = clock

    def news(self, peer: bytes, records: Sequence[Record]) -> list[Record]:
        """Those of a peer's records that bring a new recall of something that we fetched."""
        return [
            record
            for record in records
            if record.recalls
            and record.recalls > self._known(peer, record.study)
            and self._has_fetched(peer, record.study)
        ]

    def events(self, peer: bytes, news: Sequence[Record]) -> list[Event]:
        """The entries of recalls; none for a study whose last recall is not settled yet."""
        waiting = {one.study for one in self.all() if one.peer == peer and not one.settled}
        return [
            Event(
                type="recalled",
                peer=peer,
                subjects=subjects_of(record.study, self._catalog.patients(record.study)),
                details={
                    "code": record.recall or "",
                    "reason": meaning(record.recall or ""),
                    "whole": record.kind == "withdrawn",
                    "recalls": record.recalls or 0,
                },
            )
            for record in news
            if record.study not in waiting
        ]

    def keep(self, connection: sqlite3.Connection, peer: bytes, news: Sequence[Record]) -> None:
        """Store recalls that are to be settled; in the transaction at hand."""
        connection.executemany(
            "INSERT INTO recalls (peer, study, code, count, whole, told, settled)"
            " VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT (peer, study) DO UPDATE SET"
            " code = excluded.code, count = excluded.count, whole = excluded.whole,"
            " told = excluded.told, settled = 0",
            (
                (
                    peer, record.study, record.recall or "", record.recalls,
                    record.kind == "withdrawn", self._clock.now_ms(),
                )
                for record in news
            ),
        )  # fmt: skip

    def all(self) -> list[Recalled]:
        """All recalls, oldest first."""
        rows = self._database.query("SELECT * FROM recalls ORDER BY told, study, peer")
        return [
            Recalled(
                peer=row["peer"],
                study=row["study"],
                code=row["code"],
                count=row["count"],
                whole=bool(row["whole"]),
                told=row["told"],
                settled=bool(row["settled"]),
            )
            for row in rows
        ]

    def settle(self, study: str, peer: bytes | None) -> list[Recalled]:
        """An operator has seen to the recalls of a study: their alerts end.

        Args:
            study: Study Instance UID, or the beginning of one.
            peer: only the recall of this peer (facility key).

        Returns:
            The recalls that were settled.

        Raises:
            NodeError: there is no such recall, or the disk is full.
        """
        wanted = study.strip()
        chosen = [
            one
            for one in self.all()
            if not one.settled and one.study.startswith(wanted) and peer in (None, one.peer)
        ]
        if not wanted or len({one.study for one in chosen}) != 1:
            raise NodeError(
                f"there is no recall of a study {wanted}"
                if not chosen
                else f"several studies that begin with {wanted} were recalled",
                hint="see `radmesh recalls list`",
                code=ExitCode.NOT_FOUND,
            )
        for one in chosen:
            event = Event(
                type="recall-settled",
                actor="operator",
                peer=one.peer,
                subjects=subjects_of(one.study, self._catalog.patients(one.study)),
                details={"code": one.code, "recalls": one.count},
            )
            self._effects.after_entry(event, functools.partial(_settle, one))
        return chosen

    def forget(self, studies: Sequence[str]) -> None:
        """Forget when these studies (UIDs) were recalled: times show which entries name them.

        Recalls that are not settled stay as they are.
        """
        self._database.transact(
            lambda connection: connection.executemany(
                "UPDATE recalls SET told = 0 WHERE study = ? AND settled <> 0",
                [(study,) for study in studies],
            )
        )

    def _known(self, peer: bytes, study: str) -> int:
        """How many recalls of a study a peer has announced."""
        rows = self._database.query(
            "SELECT count AS known FROM recalls WHERE peer = ?1 AND study = ?2"
            " UNION ALL SELECT recalls FROM remote_studies WHERE peer = ?1 AND study = ?2",
            (peer, study),
        )
        return max((int(row["known"]) for row in rows), default=0)

    def _has_fetched(self, peer: bytes, study: str) -> bool:
        """Whether the study is here from this peer, may be from it, or is being fetched from it."""
        row = self._catalog.study(study)
        if row is not None and row.origin == peer.hex():
            return True
        found = self._database.query_one(
            "SELECT 1 FROM transfers WHERE direction = 'in' AND study = ?1"
            " AND (peer = ?2 OR only_peer = 0)"
            " AND state NOT IN ('refused', 'failed', 'cancelled') LIMIT 1",
            (study, peer),
        )
        return found is not None


def _settle(one: Recalled, connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE recalls SET settled = 1 WHERE peer = ? AND study = ? AND count <= ?",
        (one.peer, one.study, one.count),
    )
