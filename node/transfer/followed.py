"""Which studies follow which sources, in SQLite.

A source is followed from the moment a fetch from it is complete, in the transaction that
says so. What ends the following deletes its row in the transaction of what ended it: the
source withdrew or recalled the study, or is revoked; the study was withdrawn or discarded
here, or erased; a fetch was cancelled or asked for with `--no-follow`. So a crash leaves
both or neither, and a follow-up that is under way asks for its row before it publishes.
Deciding when to fetch is `node.transfer.following`'s. Synchronous and thread-safe.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.clock import Clock
from node.database import Database
from node.transfer.transfers import Transfer, TransferState
from protocol.messages import Record

FOLLOW_SECONDS = 24 * 3600
"""So long after the last fetch from a source it is followed."""

MOST_SECONDS = 7 * 24 * 3600
"""Never longer after the last fetch that a person asked for: a study that grows every day
is followed no further than somebody here had in mind."""

FOLLOW_UPS_A_DAY = 60
"""Most follow-ups of one study in 24 hours, from all its sources together. An examination
of some hours grows in fewer steps, and a source that never stops costs no more."""

FOLLOW_RESERVE_BYTES = 1024 * 1024 * 1024
"""Free space that is left by what nobody here asked for: four times that of another fetch."""

FOLLOWED_SCHEMA = """
CREATE TABLE IF NOT EXISTS followed_sources (
    study TEXT NOT NULL,
    peer BLOB NOT NULL,                 -- facility key of a source of the last fetch
    purpose TEXT NOT NULL,              -- as that fetch was asked for, with the next two
    only_peer INTEGER NOT NULL,
    stat INTEGER NOT NULL,
    content_root BLOB NOT NULL,         -- of the study as it came from there
    tried BLOB NOT NULL,                -- announced content that a follow-up asked for, or empty
    recalls INTEGER NOT NULL,           -- how many of the study the peer had told of
    discards INTEGER NOT NULL,          -- number of the last discard of it here, -1 for none
    instances INTEGER NOT NULL,         -- of the study here, after that fetch
    asked INTEGER NOT NULL,             -- when a person's fetch was complete; seconds, UTC
    fetched INTEGER NOT NULL,           -- when the last fetch was; seconds, UTC
    PRIMARY KEY (study, peer)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS followed_studies (
    study TEXT PRIMARY KEY,
    counted_since INTEGER NOT NULL,     -- when the day of `follow_ups` began; seconds, UTC
    follow_ups INTEGER NOT NULL,
    before INTEGER NOT NULL,            -- images when a person's fetch was complete
    images INTEGER NOT NULL,            -- images after the last growth, 0: it did not grow
    grown INTEGER NOT NULL              -- when that was; milliseconds, UTC
) STRICT, WITHOUT ROWID;
"""

_UNTIL = f"min(f.fetched + {FOLLOW_SECONDS}, f.asked + {MOST_SECONDS})"

_NEWS = f"""
SELECT f.study, f.peer, f.purpose, f.only_peer, f.stat,
    json_extract(r.record, '$.content_root') AS root,
    max(0, json_extract(r.record, '$.bytes') - s.original_bytes) AS more_bytes
FROM followed_sources f
    JOIN remote_studies r ON r.peer = f.peer AND r.study = f.study
    JOIN studies s ON s.study_uid = f.study
WHERE root NOT IN (lower(hex(f.content_root)), lower(hex(f.tried)), lower(hex(s.content_root)))
    AND {_UNTIL} > :now
"""
"""Followed sources that announce what is neither here nor came from them, nor was tried."""

_IS_SPENT = f"follow_ups >= {FOLLOW_UPS_A_DAY} AND counted_since + {FOLLOW_SECONDS} > :now"

_LAST_DISCARD = "(SELECT coalesce(max(number), -1) FROM discards d WHERE d.study = {study})"


@dataclass(frozen=True, kw_only=True)
class News:
    """Something at a source that is not here.

    Attributes:
        study: Study Instance UID.
        peer: the source's facility key.
        purpose, only_peer, stat: as the fetch was asked for that is followed.
        root: the content that the source announces.
        more_bytes: of images, more than are here.
    """

    study: str
    peer: bytes
    purpose: str
    only_peer: bool
    stat: bool
    root: bytes
    more_bytes: int


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What came of following a study.

    Attributes:
        before, images: how many images it had when a person's fetch was complete, and after
            the last growth since then; both 0 when it did not grow.
        grown: when that was; milliseconds since the epoch, UTC.
        until: how long it is followed; seconds since the epoch, UTC, 0 when it is not.
    """

    before: int = 0
    images: int = 0
    grown: int = 0
    until: int = 0


class Followed:
    """The two tables.

    Args:
        database: which also has catalog, discards, feeds, recalls and transfers.
        clock: decides what has ended.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # --- what begins and ends it, in the transaction at hand -------------------

    def transfer_changed(self, connection: sqlite3.Connection, transfer: Transfer) -> None:
        """A fetch has another state; see `Transfers.in_change`."""
        if transfer.direction != "in":
            return
        if not transfer.follow:
            self.end(connection, transfer.study)
        elif transfer.state is TransferState.COMPLETE:
            self._complete(connection, transfer)
        elif transfer.follow_up and transfer.state is TransferState.REFUSED:
            connection.execute(
                "DELETE FROM followed_sources WHERE study = ? AND peer = ?",
                (transfer.study, transfer.peer),
            )
        elif transfer.follow_up and transfer.is_ended:
            connection.execute(
                "UPDATE followed_sources SET tried = ? WHERE study = ? AND peer = ?",
                (self._wanted(connection, transfer), transfer.study, transfer.peer),
            )

    def heard(self, connection: sqlite3.Connection, peer: bytes, records: Sequence[Record]) -> None:
        """A peer has announced records: what it withdrew or recalled is not followed any more."""
        connection.executemany(
            "DELETE FROM followed_sources WHERE study = ? AND peer = ? AND (? OR recalls < ?)",
            [
                (one.study, peer, one.kind == "withdrawn", one.recalls or 0)
                for one in records
                if one.kind == "withdrawn" or one.recalls
            ],
        )

    def study_changed(self, study: str) -> None:
        """A study (UID) has changed here: one of which something was discarded is not followed."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM followed_sources WHERE study = ?1"
                f" AND discards <> {_LAST_DISCARD.format(study='?1')}",
                (study,),
            )
            connection.execute(
                "DELETE FROM followed_studies WHERE study = ?1"
                " AND NOT EXISTS (SELECT 1 FROM studies WHERE study_uid = ?1)",
                (study,),
            )

    def end(self, connection: sqlite3.Connection, study: str) -> None:
        """Follow no source of a study (UID) any more."""
        connection.execute("DELETE FROM followed_sources WHERE study = ?", (study,))

    def end_peer(self, peer: bytes) -> None:
        """Follow a peer (facility key) no more: it is not trusted."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM followed_sources WHERE peer = ?", (peer,))

    def forget(self, studies: Iterable[str]) -> None:
        """Forget these studies (UIDs): when they grew tells which entries name them."""
        chosen = [(study,) for study in studies]
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM followed_sources WHERE study = ?", chosen)
            connection.executemany("DELETE FROM followed_studies WHERE study = ?", chosen)

    def _complete(self, connection: sqlite3.Connection, transfer: Transfer) -> None:
        row = connection.execute(
            f"SELECT instance_count, {_LAST_DISCARD.format(study='s.study_uid')} AS discards"
            " FROM studies s WHERE study_uid = ?",
            (transfer.study,),
        ).fetchone()
        before = connection.execute(
            "SELECT asked, (SELECT max(instances) FROM followed_sources WHERE study = ?1)"
            " AS instances FROM followed_sources WHERE study = ?1 AND peer = ?2",
            (transfer.study, transfer.peer),
        ).fetchone()
        # What has ended meanwhile stays ended.
        if row is None or (transfer.follow_up and before is None):
            return
        now = self._clock.now()
        tried = self._wanted(connection, transfer) if transfer.follow_up else b""
        connection.execute(
            "UPDATE followed_sources SET tried = ? WHERE study = ? AND peer = ?",
            (tried, transfer.study, transfer.peer),
        )
        for one in list(transfer.contributions.values()):
            if not one.content_root or not (one.batches or one.is_signed):
                continue
            connection.execute(
                "INSERT OR REPLACE INTO followed_sources VALUES"
                f" (?1, ?2, ?3, ?4, ?5, ?6, ?7, {_RECALLS}, ?8, ?9, ?10, ?11)",
                (
                    transfer.study, one.peer, transfer.purpose, transfer.only_peer, transfer.stat,
                    one.content_root, tried, row["discards"], row["instance_count"],
                    before["asked"] if transfer.follow_up else now, now,
                ),
            )  # fmt: skip
        if not transfer.follow_up:
            connection.execute(
                "UPDATE followed_studies SET before = 0, images = 0, grown = 0 WHERE study = ?",
                (transfer.study,),
            )
        elif row["instance_count"] > before["instances"]:
            connection.execute(
                "INSERT INTO followed_studies VALUES (?1, ?2, 0, ?3, ?4, ?5)"
                " ON CONFLICT (study) DO UPDATE SET images = ?4, grown = ?5,"
                " before = iif(images, before, ?3)",
                (
                    transfer.study,
                    now,
                    before["instances"],
                    row["instance_count"],
                    self._clock.now_ms(),
                ),
            )

    def _wanted(self, connection: sqlite3.Connection, transfer: Transfer) -> bytes:
        """The content that a follow-up asked for; after a restart, what is announced now."""
        if transfer.wanted_root:
            return transfer.wanted_root
        row = connection.execute(
            "SELECT json_extract(record, '$.content_root') AS root FROM remote_studies"
            " WHERE peer = ? AND study = ?",
            (transfer.peer, transfer.study),
        ).fetchone()
        return b"" if row is None else bytes.fromhex(row["root"])

    # --- what there is to do --------------------------------------------------------

    def news(self, heard: Mapping[bytes, Iterable[str]] | None = None) -> list[News]:
        """What is announced by followed sources and is not here.

        Args:
            heard: only of these studies (UIDs), by facility key; None for all.
        """
        now = self._clock.now()
        if heard is None:
            return [_news(row) for row in self._database.query(_NEWS, {"now": now})]
        return [
            _news(row)
            for peer, studies in heard.items()
            for row in self._database.query(
                _NEWS
                + " AND f.peer = :peer AND f.study IN (SELECT value FROM json_each(:studies))",
                {"now": now, "peer": peer, "studies": json.dumps(list(studies))},
            )
        ]

    def take(self, study: str, peer: bytes) -> News | None:
        """Count a follow-up of a study (UID) from a peer, which is to be started now.

        Returns:
            None when there is nothing to fetch (any more), or too much was today.

        Raises:
            NodeError: the disk is full.
        """
        with self._database.transaction() as connection:
            for news in self.news({peer: [study]}):
                now = self._clock.now()
                spent = connection.execute(
                    f"SELECT 1 FROM followed_studies WHERE study = :study AND {_IS_SPENT}",
                    {"study": study, "now": now},
                ).fetchone()
                if spent is not None:
                    return None
                connection.execute(
                    "INSERT INTO followed_studies VALUES (?1, ?2, 1, 0, 0, 0)"
                    " ON CONFLICT (study) DO UPDATE SET"
                    f" follow_ups = iif(counted_since + {FOLLOW_SECONDS} > ?2, follow_ups + 1, 1),"
                    f" counted_since = iif(counted_since + {FOLLOW_SECONDS} > ?2,"
                    " counted_since, ?2)",
                    (study, now),
                )
                return news
        return None

    def is_followed(self, study: str, peer: bytes) -> bool:
        """Whether nothing has ended the following of a study (UID) from a peer."""
        row = self._database.query_one(
            "SELECT 1 FROM followed_sources WHERE study = ? AND peer = ?", (study, peer)
        )
        return row is not None

    def sweep(self) -> None:
        """Delete what has ended by the clock; a follow-up under way keeps its row.

        Raises:
            NodeError: the disk is full.
        """
        with self._database.transaction() as connection:
            now = {"now": self._clock.now()}
            connection.execute(
                f"DELETE FROM followed_sources AS f WHERE {_UNTIL} <= :now AND NOT EXISTS"
                " (SELECT 1 FROM transfers t WHERE t.study = f.study AND t.direction = 'in'"
                " AND t.follow_up AND t.ended IS NULL)",
                now,
            )
            connection.execute(
                "DELETE FROM followed_studies WHERE NOT images"
                f" AND counted_since + {FOLLOW_SECONDS} <= :now",
                now,
            )

    # --- for people -------------------------------------------------------------------

    def growth(self, studies: Iterable[str]) -> dict[str, Growth]:
        """What came of following these studies (UIDs), of those that were or are followed."""
        rows = self._database.query(
            "SELECT j.value AS study, coalesce(g.before, 0) AS before,"
            " coalesce(g.images, 0) AS images, coalesce(g.grown, 0) AS grown,"
            f" coalesce((SELECT max({_UNTIL}) FROM followed_sources f WHERE f.study = j.value),"
            " 0) AS until"
            " FROM json_each(?) j LEFT JOIN followed_studies g ON g.study = j.value",
            (json.dumps(list(studies)),),
        )
        now = self._clock.now()
        found = {
            row["study"]: Growth(
                before=row["before"],
                images=row["images"],
                grown=row["grown"],
                until=row["until"] if row["until"] > now else 0,
            )
            for row in rows
        }
        return {study: one for study, one in found.items() if one != Growth()}

    def spent(self) -> list[tuple[str, bytes, int]]:
        """What grows and is not fetched for now, since it was fetched too often today.

        Returns:
            Study (UID), source (facility key), and until when (seconds since the epoch, UTC).
        """
        rows = self._database.query(
            "SELECT n.study, n.peer, g.counted_since FROM"
            f" ({_NEWS}) n JOIN followed_studies g USING (study) WHERE {_IS_SPENT}"
            " ORDER BY n.study",
            {"now": self._clock.now()},
        )
        return [(row["study"], row["peer"], row["counted_since"] + FOLLOW_SECONDS) for row in rows]

    def to_check(self) -> list[tuple[str, str]]:
        """Studies (UIDs) that grew by themselves and should be looked at; and why."""
        rows = self._database.query(
            "SELECT study_uid, to_check FROM studies JOIN followed_studies ON study = study_uid"
            " WHERE to_check <> '' AND images AND origin <> 'local' ORDER BY study_uid"
        )
        return [(row["study_uid"], row["to_check"]) for row in rows]


_RECALLS = (
    "max(coalesce((SELECT count FROM recalls WHERE peer = ?2 AND study = ?1), 0),"
    " coalesce((SELECT json_extract(record, '$.recalls') FROM remote_studies"
    " WHERE peer = ?2 AND study = ?1), 0))"
)


def _news(row: Any) -> News:
    return News(
        study=row["study"],
        peer=row["peer"],
        purpose=row["purpose"],
        only_peer=bool(row["only_peer"]),
        stat=bool(row["stat"]),
        root=bytes.fromhex(row["root"]),
        more_bytes=row["more_bytes"],
    )
