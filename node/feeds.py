"""The feeds in SQLite: what each peer is told of our studies, and what peers told us.

Outgoing: table `feed` holds per peer one row a study, `sequence` moving to the
end at each change. Incoming: `remote_studies` holds the latest record of each
announced study. Synchronous and thread-safe; deciding is `protocol.feed`'s.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from node.catalog import Catalog, StudyRow
from node.database import Database
from protocol import limits
from protocol.feed import Change, Subscription, Told, next_change
from protocol.fields import from_map_untrusted, to_map
from protocol.messages import Announcement, Record

FEEDS_SCHEMA = """
CREATE TABLE IF NOT EXISTS feed_heads (
    peer BLOB PRIMARY KEY,              -- facility key
    epoch BLOB NOT NULL,
    last_sequence INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS feed (
    peer BLOB NOT NULL,
    study TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,                 -- available, changed, withdrawn
    content_root BLOB NOT NULL,
    told INTEGER NOT NULL,              -- whether the peer ever learned of it
    PRIMARY KEY (peer, study)
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS feed_by_sequence ON feed (peer, sequence);
CREATE TABLE IF NOT EXISTS remote_feeds (
    peer BLOB PRIMARY KEY,
    epoch BLOB NOT NULL,
    cursor INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS remote_studies (
    peer BLOB NOT NULL,
    study TEXT NOT NULL,
    record TEXT NOT NULL,               -- protocol.messages.Record as JSON
    PRIMARY KEY (peer, study)
) STRICT;
CREATE INDEX IF NOT EXISTS remote_studies_by_study ON remote_studies (study);
"""

_NO_ROOT = bytes(32)


@dataclass(frozen=True)
class Pending:
    """What a peer has not been told yet."""

    epoch: bytes
    reset: bool
    cursor: int
    records: tuple[Record, ...]
    more: bool


class Feeds:
    """Outgoing and incoming announcements.

    Args:
        database: where they are kept.
        catalog: what there is to tell.
    """

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    # --- outgoing ------------------------------------------------------------

    def study_changed(self, study: str, seeing: Iterable[bytes]) -> None:
        """Bring every feed up to date with one study.

        Args:
            study: Study Instance UID.
            seeing: facility keys of the peers that may learn of studies now.
        """
        allowed = set(seeing)
        row = self._catalog.study(study)
        with self._database.transaction() as connection:
            holding = {
                found["peer"]
                for found in connection.execute("SELECT peer FROM feed WHERE study=?", (study,))
            }
            for peer in allowed | holding:
                self._refresh(connection, peer, study, row, peer in allowed)

    def peer_changed(self, peer: bytes, sees: bool) -> None:
        """Bring one peer's feed up to date with the whole catalog, after a change of grants."""
        with self._database.transaction() as connection:
            rows = {row.study_uid: row for row in self._catalog.studies()}
            holding = {
                found["study"]
                for found in connection.execute("SELECT study FROM feed WHERE peer=?", (peer,))
            }
            for study in sorted(rows.keys() | holding):
                self._refresh(connection, peer, study, rows.get(study), sees)

    def pending(self, peer: bytes, epoch: bytes, cursor: int) -> Pending:
        """The next records for a peer that stands at `cursor` of `epoch`.

        A subscriber that stands nowhere in this feed is to start anew.
        """
        with self._database.transaction() as connection:
            head = connection.execute(
                "SELECT epoch, last_sequence FROM feed_heads WHERE peer=?", (peer,)
            ).fetchone()
            if head is None:
                head = {"epoch": secrets.token_bytes(16), "last_sequence": 0}
                connection.execute(
                    "INSERT INTO feed_heads (peer, epoch, last_sequence) VALUES (?, ?, 0)",
                    (peer, head["epoch"]),
                )
            reset = epoch != head["epoch"] or cursor > head["last_sequence"]
            start = 0 if reset else cursor
            rows = connection.execute(
                "SELECT study, sequence, kind FROM feed WHERE peer=? AND sequence>? "
                "ORDER BY sequence LIMIT ?",
                (peer, start, limits.ANNOUNCE_RECORDS + 1),
            ).fetchall()
        more = len(rows) > limits.ANNOUNCE_RECORDS
        rows = rows[: limits.ANNOUNCE_RECORDS]
        records = tuple(
            self._record(row["study"], row["sequence"], row["kind"])
            for row in rows
            if not (reset and row["kind"] == "withdrawn")
        )
        end = rows[-1]["sequence"] if rows else max(start, 0 if reset else cursor)
        return Pending(head["epoch"], reset, end, records, more)

    def mark_told(self, peer: bytes, records: Iterable[Record]) -> None:
        """Remember that these records are on their way to the peer."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE feed SET told=1 WHERE peer=? AND study=?",
                [(peer, record.study) for record in records],
            )

    def _refresh(
        self,
        connection: sqlite3.Connection,
        peer: bytes,
        study: str,
        row: StudyRow | None,
        sees: bool,
    ) -> None:
        found = connection.execute(
            "SELECT kind, content_root, told FROM feed WHERE peer=? AND study=?", (peer, study)
        ).fetchone()
        if found is None:
            told = Told.NOTHING
        elif found["kind"] == "withdrawn":
            told = Told.WITHDRAWN
        else:
            told = Told.TOLD if found["told"] else Told.PENDING
        visible = sees and row is not None and row.state == "shared"
        root = row.content_root if row is not None and visible else _NO_ROOT
        change = next_change(
            told,
            visible=visible,
            same_content=found is not None and found["content_root"] == root,
        )
        if change is Change.NONE:
            return
        if change is Change.FORGET:
            connection.execute("DELETE FROM feed WHERE peer=? AND study=?", (peer, study))
            return
        connection.execute(
            "INSERT INTO feed_heads (peer, epoch, last_sequence) VALUES (?, ?, 1) "
            "ON CONFLICT (peer) DO UPDATE SET last_sequence=last_sequence+1",
            (peer, secrets.token_bytes(16)),
        )
        connection.execute(
            "INSERT INTO feed (peer, study, sequence, kind, content_root, told) "
            "VALUES (?, ?, (SELECT last_sequence FROM feed_heads WHERE peer=?), ?, ?, ?) "
            "ON CONFLICT (peer, study) DO UPDATE SET sequence=excluded.sequence, "
            "kind=excluded.kind, content_root=excluded.content_root",
            (peer, study, peer, change.value, root, int(told is Told.TOLD)),
        )

    def _record(self, study: str, sequence: int, kind: str) -> Record:
        row = self._catalog.study(study) if kind != "withdrawn" else None
        if row is None:
            return Record(
                sequence=sequence,
                kind="withdrawn",
                study=study,
                content_root=_NO_ROOT,
                series=0,
                instances=0,
                bytes=0,
                encoded_bytes=0,
                modalities=(),
                study_date="",
            )
        return Record(
            sequence=sequence,
            kind=kind,
            study=study,
            content_root=row.content_root,
            series=row.series_count,
            instances=row.instance_count,
            bytes=row.original_bytes,
            encoded_bytes=row.encoded_bytes,
            modalities=tuple(row.modalities),
            study_date=row.study_date,
        )

    # --- incoming ------------------------------------------------------------

    def subscription(self, peer: bytes, own_node: bytes) -> Subscription:
        """Where we stand in a peer's feed."""
        row = self._database.query_one(
            "SELECT epoch, cursor FROM remote_feeds WHERE peer=?", (peer,)
        )
        if row is None:
            return Subscription(own_node)
        return Subscription(own_node, row["epoch"], row["cursor"])

    def store_announcement(
        self, peer: bytes, announcement: Announcement, subscription: Subscription
    ) -> None:
        """Keep what a peer announced, with the new cursor, in one transaction."""
        with self._database.transaction() as connection:
            if announcement.reset:
                connection.execute("DELETE FROM remote_studies WHERE peer=?", (peer,))
            for record in announcement.records:
                if record.kind == "withdrawn":
                    connection.execute(
                        "DELETE FROM remote_studies WHERE peer=? AND study=?", (peer, record.study)
                    )
                else:
                    connection.execute(
                        "INSERT OR REPLACE INTO remote_studies (peer, study, record) "
                        "VALUES (?, ?, ?)",
                        (peer, record.study, _to_json(record)),
                    )
            connection.execute(
                "INSERT OR REPLACE INTO remote_feeds (peer, epoch, cursor) VALUES (?, ?, ?)",
                (peer, subscription.epoch, subscription.cursor),
            )

    def announced(
        self, *, peer: bytes | None = None, study: str = ""
    ) -> list[tuple[bytes, Record]]:
        """What peers announced, as (facility key, record), by study date, newest first.

        Args:
            peer: only of this peer.
            study: only studies whose UID begins so.
        """
        rows = self._database.query(
            "SELECT peer, record FROM remote_studies "
            "WHERE (? IS NULL OR peer=?) AND study >= ? AND study < ?",
            (peer, peer, study, study + "\x7f"),
        )
        found = [(row["peer"], _from_json(row["record"])) for row in rows]
        return sorted(found, key=lambda item: (item[1].study_date, item[1].study), reverse=True)

    def forget_peer(self, peer: bytes) -> None:
        """Forget all that a peer announced: it is not trusted any more."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM remote_studies WHERE peer=?", (peer,))
            connection.execute("DELETE FROM remote_feeds WHERE peer=?", (peer,))


def _to_json(record: Record) -> str:
    fields: dict[str, Any] = to_map(record)
    fields["content_root"] = record.content_root.hex()
    return json.dumps(fields)


def _from_json(text: str) -> Record:
    fields = json.loads(text)
    fields["content_root"] = bytes.fromhex(fields["content_root"])
    record: Record = from_map_untrusted(Record, fields)
    return record
