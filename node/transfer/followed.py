"""Which sources are followed for which studies, in SQLite.

A source is followed from the moment a fetch from it is complete, in the transaction that
says so. The event that ends the following deletes its row in the same transaction: the source
withdrew or recalled the study, or is revoked; the study was withdrawn or discarded here, or erased;
a fetch was cancelled or asked for with `--no-follow`. So a crash leaves both or neither, and a
follow-up checks for its row before it publishes. `node.transfer.following` decides when to fetch.
Synchronous and thread-safe.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.clock import Clock
from node.database import Database
from node.transfer.transfers import Transfer, TransferState
from protocol.messages import Record

FOLLOW_SECONDS = 24 * 3600
"""How long a source is followed after the last fetch from it."""

MOST_SECONDS = 7 * 24 * 3600
"""Longest following after the last fetch that a person asked for: a study that grows every day is
not followed for longer than that person had in mind."""

FOLLOW_UPS_A_DAY = 60
"""Most follow-ups of one study in 24 hours, from all its sources together. An examination of some
hours grows in fewer steps; a source that never stops is limited by this."""

FOLLOW_RESERVE_BYTES = 1024 * 1024 * 1024
"""Free space that follow-ups must leave, as nobody here asked for them: four times that of other
fetches."""

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

_UNTIL = (
    f"CASE WHEN f.fetched + {FOLLOW_SECONDS} < f.asked + {MOST_SECONDS}"
    f" THEN f.fetched + {FOLLOW_SECONDS} ELSE f.asked + {MOST_SECONDS} END"
)

_ANNOUNCED = f"""
SELECT f.study, f.peer, f.purpose, f.only_peer, f.stat, f.content_root AS came, f.tried,
    s.content_root AS here, s.original_bytes AS bytes_here, r.content_root AS root, r.bytes
FROM followed_sources f
    JOIN remote_studies r ON r.peer = f.peer AND r.study = f.study
    JOIN studies s ON s.study_uid = f.study
WHERE {_UNTIL} > ? AND r.content_root <> '{"00" * 32}'
"""
"""What followed sources announce now of studies that are here."""

_IS_SPENT = f"follow_ups >= {FOLLOW_UPS_A_DAY} AND counted_since + {FOLLOW_SECONDS} > ?"

_LAST_DISCARD = "(SELECT coalesce(max(number), -1) FROM discards d WHERE d.study = {study})"


@dataclass(frozen=True, kw_only=True)
class News:
    """Content that a source announces and that is not here.

    Attributes:
        study: Study Instance UID.
        peer: the source's facility key.
        purpose, only_peer, stat: of the fetch that is followed.
        root: the content root that the source announces.
        more_bytes: how many more bytes of images it has than are here.
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
    """How a study grew while it was followed.

    Attributes:
        before, images: how many images it had when a person's fetch was complete, and how many
            after the last growth since then; both 0 when it did not grow.
        grown: when it last grew; milliseconds since the epoch, UTC.
        until: when the following ends; seconds since the epoch, UTC, 0 when it is not followed.
    """

    before: int = 0
    images: int = 0
    grown: int = 0
    until: int = 0


class Followed:
    """The two tables.

    Args:
        database: which also has catalog, discards, feeds, recalls and transfers.
        clock: decides which followings have ended.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # --- what begins and ends it, in the transaction at hand -------------------

    def transfer_changed(self, connection: sqlite3.Connection, transfer: Transfer) -> None:
        """The state of a fetch has changed; see `Transfers.in_change`."""
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
        """A peer has announced records: stop following studies that it withdrew or recalled."""
        connection.executemany(
            "DELETE FROM followed_sources WHERE study = ? AND peer = ?",
            [(one.study, peer) for one in records if one.kind == "withdrawn"],
        )
        connection.executemany(
            "DELETE FROM followed_sources WHERE study = ? AND peer = ? AND recalls < ?",
            [(one.study, peer, one.recalls) for one in records if one.recalls],
        )

    def study_changed(self, study: str) -> None:
        """A study (UID) has changed here: stop following it if something of it was discarded."""

        def end(connection: sqlite3.Connection) -> None:
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

        self._database.transact(end)

    def end(self, connection: sqlite3.Connection, study: str) -> None:
        """Stop following every source of a study (UID)."""
        connection.execute("DELETE FROM followed_sources WHERE study = ?", (study,))

    def end_peer(self, peer: bytes) -> None:
        """Stop following a peer (facility key) that is not trusted any more."""
        self._database.transact(
            lambda connection: connection.execute(
                "DELETE FROM followed_sources WHERE peer = ?", (peer,)
            )
        )

    def forget(self, studies: Iterable[str]) -> None:
        """Forget these studies (UIDs): the times when they grew show which entries name them."""
        chosen = [(study,) for study in studies]

        def delete(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM followed_sources WHERE study = ?", chosen)
            connection.executemany("DELETE FROM followed_studies WHERE study = ?", chosen)

        self._database.transact(delete)

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
        # A following that ended meanwhile stays ended.
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
                _STORE,
                (
                    transfer.study, one.peer, transfer.purpose, int(transfer.only_peer),
                    int(transfer.stat), one.content_root, tried,
                    _recalls(connection, one.peer, transfer.study), row["discards"],
                    row["instance_count"], before["asked"] if transfer.follow_up else now, now,
                ),
            )  # fmt: skip
        if not transfer.follow_up:
            connection.execute(
                "UPDATE followed_studies SET before = 0, images = 0, grown = 0 WHERE study = ?",
                (transfer.study,),
            )
        elif row["instance_count"] > before["instances"]:
            connection.execute(
                "INSERT INTO followed_studies VALUES (?, ?, 0, ?, ?, ?)"
                " ON CONFLICT (study) DO UPDATE SET images = excluded.images,"
                " grown = excluded.grown, before = CASE WHEN followed_studies.images <> 0"
                " THEN followed_studies.before ELSE excluded.before END",
                (
                    transfer.study,
                    now,
                    before["instances"],
                    row["instance_count"],
                    self._clock.now_ms(),
                ),
            )

    def _wanted(self, connection: sqlite3.Connection, transfer: Transfer) -> bytes:
        """The content root that a follow-up asked for; after a restart, the one announced now."""
        if transfer.wanted_root:
            return transfer.wanted_root
        row = connection.execute(
            "SELECT content_root FROM remote_studies WHERE peer = ? AND study = ?",
            (transfer.peer, transfer.study),
        ).fetchone()
        return b"" if row is None else bytes.fromhex(row["content_root"])

    # --- what there is to do --------------------------------------------------------

    def news(self, heard: Mapping[bytes, Iterable[str]] | None = None) -> list[News]:
        """Content that followed sources announce and that is not here.

        Args:
            heard: only of these studies (UIDs), by facility key; None for all.
        """
        now = self._clock.now()
        if heard is None:
            rows = self._database.query(_ANNOUNCED, (now,))
        else:
            rows = [
                row
                for peer, studies in heard.items()
                for row in self._database.query_among(
                    _ANNOUNCED + " AND f.peer = ? AND f.study IN (?*)", studies, (now, peer)
                )
            ]
        return [_news(row) for row in rows if _is_news(row)]

    def take(self, study: str, peer: bytes) -> News | None:
        """Count a follow-up of a study (UID) from a peer that is about to start.

        Returns:
            None when there is nothing to fetch (any more), or today's follow-ups are used up.

        Raises:
            NodeError: the disk is full.
        """

        def count(connection: sqlite3.Connection) -> News | None:
            for news in self.news({peer: [study]}):
                now = self._clock.now()
                spent = connection.execute(
                    f"SELECT 1 FROM followed_studies WHERE study = ? AND {_IS_SPENT}",
                    (study, now),
                ).fetchone()
                if spent is not None:
                    return None
                connection.execute(
                    "INSERT INTO followed_studies VALUES (?, ?, 0, 0, 0, 0)"
                    " ON CONFLICT (study) DO NOTHING",
                    (study, now),
                )
                connection.execute(
                    "UPDATE followed_studies SET follow_ups = 0, counted_since = ?"
                    f" WHERE study = ? AND counted_since + {FOLLOW_SECONDS} <= ?",
                    (now, study, now),
                )
                connection.execute(
                    "UPDATE followed_studies SET follow_ups = follow_ups + 1 WHERE study = ?",
                    (study,),
                )
                return news
            return None

        return self._database.transact(count)

    def is_followed(self, study: str, peer: bytes) -> bool:
        """Whether a study (UID) from a peer is still followed."""
        row = self._database.query_one(
            "SELECT 1 FROM followed_sources WHERE study = ? AND peer = ?", (study, peer)
        )
        return row is not None

    def sweep(self) -> None:
        """Delete rows whose time is over; a follow-up under way keeps its row.

        Raises:
            NodeError: the disk is full.
        """

        def delete(connection: sqlite3.Connection) -> None:
            now = (self._clock.now(),)
            connection.execute(
                f"DELETE FROM followed_sources AS f WHERE {_UNTIL} <= ? AND NOT EXISTS"
                " (SELECT 1 FROM transfers t WHERE t.study = f.study AND t.direction = 'in'"
                " AND t.follow_up <> 0 AND t.ended IS NULL)",
                now,
            )
            connection.execute(
                "DELETE FROM followed_studies WHERE images = 0"
                f" AND counted_since + {FOLLOW_SECONDS} <= ?",
                now,
            )

        self._database.transact(delete)

    # --- for people -------------------------------------------------------------------

    def growth(self, studies: Iterable[str]) -> dict[str, Growth]:
        """How those of these studies (UIDs) grew that are or were followed."""
        wanted, now = list(studies), self._clock.now()
        until = {
            row["study"]: row["until"]
            for row in self._database.query_among(
                f"SELECT f.study, max({_UNTIL}) AS until FROM followed_sources f"
                " WHERE f.study IN (?*) GROUP BY f.study",
                wanted,
            )
            if row["until"] > now
        }
        grown = {
            row["study"]: row
            for row in self._database.query_among(
                "SELECT study, before, images, grown FROM followed_studies WHERE study IN (?*)",
                wanted,
            )
        }
        return {
            study: Growth(
                before=grown[study]["before"] if study in grown else 0,
                images=grown[study]["images"] if study in grown else 0,
                grown=grown[study]["grown"] if study in grown else 0,
                until=until.get(study, 0),
            )
            for study in wanted
            if study in until or (study in grown and grown[study]["images"])
        }

    def spent(self) -> list[tuple[str, bytes, int]]:
        """Studies that grew and are not fetched for now, as today's follow-ups are used up.

        Returns:
            Study (UID), source (facility key), and until when (seconds since the epoch, UTC).
        """
        spent = {
            row["study"]: row["counted_since"] + FOLLOW_SECONDS
            for row in self._database.query(
                f"SELECT study, counted_since FROM followed_studies WHERE {_IS_SPENT}",
                (self._clock.now(),),
            )
        }
        found = [(one.study, one.peer) for one in self.news()] if spent else []
        return [(study, peer, spent[study]) for study, peer in sorted(found) if study in spent]

    def to_check(self) -> list[tuple[str, str]]:
        """Studies (UIDs) that grew by follow-ups and should be looked at, and why."""
        rows = self._database.query(
            "SELECT study_uid, to_check FROM studies JOIN followed_studies ON study = study_uid"
            " WHERE to_check <> '' AND images <> 0 AND origin <> 'local' ORDER BY study_uid"
        )
        return [(row["study_uid"], row["to_check"]) for row in rows]


_COLUMNS = (
    "study", "peer", "purpose", "only_peer", "stat", "content_root", "tried", "recalls",
    "discards", "instances", "asked", "fetched",
)  # fmt: skip
_STORE = (
    f"INSERT INTO followed_sources ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (study, peer) DO UPDATE SET "
    + ", ".join(f"{one} = excluded.{one}" for one in _COLUMNS[2:])
)


def _recalls(connection: sqlite3.Connection, peer: bytes, study: str) -> int:
    """How many recalls of a study a peer has announced."""
    counts = [
        *connection.execute(
            "SELECT count FROM recalls WHERE peer = ? AND study = ?", (peer, study)
        ).fetchall(),
        *connection.execute(
            "SELECT recalls FROM remote_studies WHERE peer = ? AND study = ?", (peer, study)
        ).fetchall(),
    ]
    return max((int(row[0]) for row in counts), default=0)


def _is_news(row: Any) -> bool:
    """Whether the announced root is not here, and neither came last nor was tried last."""
    return bytes.fromhex(row["root"]) not in (row["came"], row["tried"], row["here"])


def _news(row: Any) -> News:
    return News(
        study=row["study"],
        peer=row["peer"],
        purpose=row["purpose"],
        only_peer=bool(row["only_peer"]),
        stat=bool(row["stat"]),
        root=bytes.fromhex(row["root"]),
        more_bytes=max(0, row["bytes"] - row["bytes_here"]),
    )
