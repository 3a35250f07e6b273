"""The feeds in SQLite: what each peer is told of our studies, and what peers told us.

Outgoing: table `feed` holds one row for each peer and study; each change moves its `sequence` to
the end. The table is derived from grants and catalog, in the transaction that changes one of them;
`derive` writes all of it again. Incoming: `remote_studies` holds the latest record of each
announced study. Synchronous and thread-safe.
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from keys.rules import PATIENT
from node.catalog.attributes import patients_of_each
from node.catalog.catalog import Catalog
from node.catalog.discards import Recall, recall_of
from node.catalog.patients import Patient
from node.catalog.words import ANY, Search
from node.database import Database
from node.dicom.headers import named_identity
from node.sharing.deriving import NO_ROOT, Derived, different, places_of, refresh
from node.sharing.feed_words import (
    forget_words,
    keep_words,
    record_from_json,
    record_to_json,
    size_of,
)
from node.sharing.policy import Sight
from protocol import limits, modalities
from protocol.feed import Subscription
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
    logged INTEGER NOT NULL DEFAULT 0,  -- the sequence for which the log has an entry
    recalls INTEGER NOT NULL DEFAULT 0, -- how many of the study it tells of
    shows TEXT NOT NULL DEFAULT 'exam', -- what is told of the study: exam, patient
    PRIMARY KEY (peer, study)
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS feed_by_sequence ON feed (peer, sequence);
CREATE INDEX IF NOT EXISTS feed_by_study ON feed (study);
CREATE TABLE IF NOT EXISTS remote_feeds (
    peer BLOB PRIMARY KEY,
    epoch BLOB NOT NULL,
    cursor INTEGER NOT NULL,
    records INTEGER NOT NULL DEFAULT 0, -- kept of it
    bytes INTEGER NOT NULL DEFAULT 0,   -- of those, as `feed_words.size_of`
    left_out INTEGER NOT NULL DEFAULT 0 -- announced beyond what is kept
) STRICT;
CREATE TABLE IF NOT EXISTS remote_studies (
    peer BLOB NOT NULL,
    study TEXT NOT NULL,
    record TEXT NOT NULL,               -- protocol.messages.Record as JSON
    study_date TEXT NOT NULL DEFAULT '', -- of that record
    recalls INTEGER NOT NULL DEFAULT 0, -- of that record, 0 for none
    content_root TEXT NOT NULL DEFAULT '', -- of that record, hex
    bytes INTEGER NOT NULL DEFAULT 0,   -- of that record
    PRIMARY KEY (peer, study)
) STRICT;
CREATE INDEX IF NOT EXISTS remote_studies_by_study ON remote_studies (study);
CREATE INDEX IF NOT EXISTS remote_studies_by_date
    ON remote_studies (study_date DESC, study DESC);
-- Derived from remote_studies: by which words its studies are searched.
CREATE TABLE IF NOT EXISTS remote_words (
    peer BLOB NOT NULL,
    study TEXT NOT NULL,
    kind TEXT NOT NULL,
    word TEXT NOT NULL,
    PRIMARY KEY (peer, study, kind, word)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS remote_words_by_word ON remote_words (kind, word, study, peer);
"""


@dataclass(frozen=True)
class Untold:
    """The records that a peer has not been told yet."""

    epoch: bytes
    reset: bool
    cursor: int
    records: tuple[Record, ...]
    more: bool


class Feeds:
    """Outgoing and incoming feeds.

    Args:
        database: holds them.
        catalog: the studies of this node.
        sight: decides which peer may learn of which study now.

    Attributes:
        has_ended: whether trust in a peer (facility key) is over.
        in_end: called with such a peer in the transaction that brings its feed up to date.
        in_withdrawal: called with a peer and the studies (UIDs) that it has withdrawn, in the
            transaction that keeps this.
    """

    def __init__(self, database: Database, catalog: Catalog, sight: Sight) -> None:
        self._database = database
        self._catalog = catalog
        self.sight = sight
        self.has_ended: Callable[[bytes], bool] = lambda peer: False
        self.in_end: Callable[[bytes], None] = lambda peer: None
        self.in_withdrawal: Callable[[bytes, Sequence[str]], None] = lambda peer, studies: None

    # --- outgoing ------------------------------------------------------------

    def study_changed(self, study: str) -> None:
        """Bring every feed up to date with one study (UID); in the transaction at hand."""

        def bring(connection: sqlite3.Connection) -> None:
            places = places_of(connection, study)
            row = self._catalog.study(study)
            for peer in sorted(self.sight.peers() | places.keys()):
                shows = "" if row is None else self.sight.shows(peer, row)
                root = row.content_root if row is not None and shows else None
                refresh(connection, peer, [Derived(study, places.get(peer), root, shows)])

        self._database.transact(bring)

    def recounted(self, study: str) -> None:
        """What is told of an indexed study (UID) has changed: it is told again.

        In the transaction at hand, before `study_changed`.
        """
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE feed SET content_root=? WHERE study=? AND kind<>'withdrawn'", (b"", study)
            )
        )

    def peer_changed(self, peer: bytes) -> None:
        """Bring one peer's feed up to date with all studies; in the transaction at hand."""

        def bring(connection: sqlite3.Connection) -> None:
            refresh(connection, peer, different(connection, self._catalog, self.sight, peer))
            if self.has_ended(peer):
                self.in_end(peer)

        self._database.transact(bring)

    def derive(self, peers: Iterable[bytes]) -> None:
        """Derive the feeds of these peers (facility keys) and all existing ones again."""
        wanted = set(peers)

        def write(connection: sqlite3.Connection) -> None:
            known = {row["peer"] for row in connection.execute("SELECT peer FROM feed_heads")}
            for peer in sorted(known | wanted):
                self.peer_changed(peer)

        self._database.transact(write)

    def may_tell(self, peer: bytes, records: Iterable[Record]) -> tuple[Record, ...]:
        """Those of the records that the peer may still be told of, by its rules and the catalog.

        A peer that was told of a study may always be told that it is gone. Who the patient is, is
        left out where that may not be told any more.
        """
        chosen = tuple(records)
        told = [record.study for record in chosen if record.kind != "withdrawn"]
        rows = self._catalog.rows(told) if told else {}
        shows = dict(zip(rows, self.sight.shows_each(peer, rows.values()), strict=True))
        return tuple(
            record if shows.get(record.study) == PATIENT else without_patient(record)
            for record in chosen
            if record.kind == "withdrawn" or shows.get(record.study)
        )

    def pending(
        self, peer: bytes, epoch: bytes, cursor: int, most: int = limits.ANNOUNCE_RECORDS
    ) -> Untold:
        """The next records, at most `most`, for a peer that has read up to `cursor` of `epoch`.

        A subscriber whose position is not in this feed has to start anew.
        """

        def read(connection: sqlite3.Connection) -> Untold:
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
                "SELECT f.study, f.sequence, f.kind, s.study_uid, s.content_root, "
                "s.series_count, s.instance_count, s.original_bytes, s.encoded_bytes, "
                "s.modalities, s.study_date, f.shows, s.patient_id, s.patient_name, "
                "s.patient_birth_date, s.patient_sex, s.accession_number, s.description, "
                "s.indexed_in "
                "FROM feed f LEFT JOIN studies s ON s.study_uid=f.study "
                "WHERE f.peer=? AND f.sequence>? ORDER BY f.sequence LIMIT ?",
                (peer, start, most + 1),
            ).fetchall()
            more = len(rows) > most
            rows = rows[:most]
            shown = [row["study"] for row in rows if row["shows"] == PATIENT]
            issuers = patients_of_each(self._database, shown)
            told = (
                (
                    row["kind"],
                    _record(
                        row,
                        recall_of(connection, row["study"]),
                        issuers.get(row["study"]),
                    ),
                )
                for row in rows
            )
            # A peer that starts anew needs no withdrawals, except recalls: it may have those
            # studies.
            records = tuple(
                record
                for kind, record in told
                if not (reset and kind == "withdrawn" and not record.recalls)
            )
            end = rows[-1]["sequence"] if rows else max(start, 0 if reset else cursor)
            return Untold(head["epoch"], reset, end, records, more)

        return self._database.transact(read)

    def unlogged(self, peer: bytes, records: Iterable[Record]) -> tuple[Record, ...]:
        """Those of the records that are not in the log in their current state.

        When a peer reads its feed from the beginning again, nothing is logged again: a row keeps
        the sequence under which it was logged.
        """
        chosen = tuple(records)
        logged = {
            row["study"]: row["logged"]
            for row in self._database.query_among(
                "SELECT study, logged FROM feed WHERE peer=? AND study IN (?*)",
                (record.study for record in chosen),
                (peer,),
            )
        }
        return tuple(one for one in chosen if logged.get(one.study) != one.sequence)

    def patients_told(self, records: Iterable[Record]) -> dict[str, tuple[str, ...]]:
        """The patients whom these records name, as the log commits to them, by study (UID)."""
        return {
            record.study: self._catalog.patients(record.study) or (_by_name(record),)
            for record in records
            if record.patient_id or record.patient_name
        }

    def rules_of(self, peer: bytes, studies: Iterable[str]) -> dict[str, str]:
        """The names of the rules by which a peer is told of these studies (UIDs)."""
        rows = self._catalog.rows(studies)
        return dict(zip(rows, self.sight.rules_each(peer, rows.values()), strict=True))

    def mark_told(self, peer: bytes, records: Iterable[Record]) -> None:
        """Remember that these records are logged and are being sent to the peer."""
        told = [(record.sequence, peer, record.study) for record in records]
        self._database.transact(
            lambda connection: connection.executemany(
                "UPDATE feed SET told=1, logged=? WHERE peer=? AND study=?", told
            )
        )

    def announce_again(self, peer: bytes, studies: Iterable[str]) -> None:
        """Move studies (UIDs) to the end of a peer's feed, so that it is told of them once more."""
        moved = list(studies)

        def move(connection: sqlite3.Connection) -> None:
            for study in moved:
                connection.execute(
                    "UPDATE feed_heads SET last_sequence=last_sequence+1 WHERE peer=?", (peer,)
                )
                connection.execute(
                    "UPDATE feed SET sequence=(SELECT last_sequence FROM feed_heads WHERE peer=?1)"
                    " WHERE peer=?1 AND study=?2",
                    (peer, study),
                )

        self._database.transact(move)

    # --- incoming ------------------------------------------------------------

    def subscription(self, peer: bytes, own_node: bytes) -> Subscription:
        """How far we have read a peer's feed."""
        row = self._database.query_one(
            "SELECT epoch, cursor FROM remote_feeds WHERE peer=?", (peer,)
        )
        if row is None:
            return Subscription(own_node)
        return Subscription(own_node, row["epoch"], row["cursor"])

    def store_announcement(
        self,
        peer: bytes,
        announcement: Announcement,
        subscription: Subscription,
        recall: Callable[[sqlite3.Connection], None] = lambda connection: None,
    ) -> None:
        """Store what a peer announced, with the new cursor, in one transaction.

        `recall` stores what was recalled, in the same transaction.
        """

        def keep(connection: sqlite3.Connection) -> None:
            recall(connection)
            kept = _Kept.read(connection, peer)
            if announcement.reset:
                connection.execute("DELETE FROM remote_studies WHERE peer=?", (peer,))
                forget_words(connection, peer)
                kept = _Kept()
            for record in announcement.records:
                kept.take(connection, peer, record)
            withdrawn = [one.study for one in announcement.records if one.kind == "withdrawn"]
            self.in_withdrawal(peer, withdrawn)
            connection.execute(
                "INSERT INTO remote_feeds (peer, epoch, cursor, records, bytes, left_out) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (peer) DO UPDATE SET "
                "epoch=excluded.epoch, cursor=excluded.cursor, records=excluded.records, "
                "bytes=excluded.bytes, left_out=excluded.left_out",
                (
                    peer,
                    subscription.epoch,
                    subscription.cursor,
                    kept.records,
                    kept.size,
                    kept.left_out,
                ),
            )

        self._database.transact(keep)

    def left_out(self) -> dict[bytes, int]:
        """By facility key, how many announced records were left out, as the feed was too large."""
        rows = self._database.query("SELECT peer, left_out FROM remote_feeds WHERE left_out > 0")
        return {row["peer"]: row["left_out"] for row in rows}

    def announced(
        self,
        *,
        peer: bytes | None = None,
        study: str = "",
        search: Search = ANY,
        limit: int | None = None,
        after: tuple[str, str, bytes] | None = None,
    ) -> list[tuple[bytes, Record]]:
        """The records that peers announced, as (facility key, record), by study date, newest first.

        Args:
            peer: only of this peer.
            study: only the study with this UID.
            search: only those that a person looks for.
            limit: most records.
            after: only what comes after the study of this date and UID that this peer announced.
        """
        date, uid, key = after or ("", "", b"")
        sought, values = search.conditions("remote_words", "peer, study")
        where = _where(peer, study, after is not None, sought)
        rows = self._database.query(
            f"SELECT peer, record FROM remote_studies {where} "
            "ORDER BY study_date DESC, study DESC, peer DESC"
            + ("" if limit is None else " LIMIT :limit"),
            {
                "peer": peer,
                "study": study,
                "limit": limit,
                "date": date,
                "uid": uid,
                "key": key,
                **values,
            },
        )
        return [(row["peer"], record_from_json(row["record"])) for row in rows]

    def announced_studies(self, prefix: str, *, peer: bytes | None, limit: int) -> list[str]:
        """The first announced Study Instance UIDs that begin with `prefix`, in order.

        Args:
            prefix: the UID, or its beginning.
            peer: only of this peer.
            limit: most studies.
        """
        of_peer = "" if peer is None else "AND peer=:peer"
        rows = self._database.query(
            "SELECT DISTINCT study FROM remote_studies "
            f"WHERE study>=:study AND study<:end {of_peer} ORDER BY study LIMIT :limit",
            {"study": prefix, "end": prefix + "\x7f", "peer": peer, "limit": limit},
        )
        return [row["study"] for row in rows]

    def announced_by(self, peer: bytes, study: str) -> Record | None:
        """What a peer announced last of one study; None if nothing, or if it withdrew the study."""
        row = self._database.query_one(
            "SELECT record FROM remote_studies WHERE peer = ? AND study = ?", (peer, study)
        )
        return None if row is None else record_from_json(row["record"])

    def announced_count(self, peer: bytes | None = None, search: Search = ANY) -> int:
        """How many studies peers announced, or one peer did; of those that a person looks for."""
        sought, values = search.conditions("remote_words", "peer, study")
        [row] = self._database.query(
            f"SELECT count(*) FROM remote_studies {_where(peer, '', sought=sought)}",
            {"peer": peer, **values},
        )
        return int(row[0])

    def forget_peer(self, peer: bytes) -> None:
        """Forget all that a peer announced, as it is not trusted any more."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM remote_studies WHERE peer=?", (peer,))
            forget_words(connection, peer)
            connection.execute("DELETE FROM remote_feeds WHERE peer=?", (peer,))

        self._database.transact(delete)


@dataclass
class _Kept:
    """How much of one peer's feed is kept, within `FEED_RECORDS` and `FEED_BYTES`."""

    records: int = 0
    size: int = 0
    left_out: int = 0

    @classmethod
    def read(cls, connection: sqlite3.Connection, peer: bytes) -> "_Kept":
        row = connection.execute(
            "SELECT records, bytes, left_out FROM remote_feeds WHERE peer=?", (peer,)
        ).fetchone()
        return cls() if row is None else cls(*row)

    def take(self, connection: sqlite3.Connection, peer: bytes, record: Record) -> None:
        """Replace the stored record of a study by the one announced now."""
        gone = connection.execute(
            "DELETE FROM remote_studies WHERE peer=? AND study=? RETURNING record",
            (peer, record.study),
        ).fetchall()
        if gone:
            forget_words(connection, peer, record.study)
        self.records -= len(gone)
        self.size -= sum(size_of(record_from_json(row[0]), row[0]) for row in gone)
        if record.kind == "withdrawn":
            return
        text = record_to_json(record)
        size = size_of(record, text)
        if self.records >= limits.FEED_RECORDS or self.size + size > limits.FEED_BYTES:
            self.left_out += 1
            return
        connection.execute(
            "INSERT INTO remote_studies "
            "(peer, study, record, study_date, recalls, content_root, bytes) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                peer,
                record.study,
                text,
                record.study_date,
                record.recalls or 0,
                record.content_root.hex(),
                record.bytes,
            ),
        )
        keep_words(connection, peer, record)
        self.records += 1
        self.size += size


def _where(
    peer: bytes | None, study: str, is_after: bool = False, sought: Sequence[str] = ()
) -> str:
    """Only the conditions that are needed: optional ones keep SQLite from using its indexes."""
    conditions = ["peer=:peer"] if peer is not None else []
    conditions += ["study=:study"] if study else []
    conditions += sought
    if is_after:
        conditions.append("study_date<=:date AND (study_date<:date OR (study, peer)<(:uid, :key))")
    return "WHERE " + " AND ".join(conditions) if conditions else ""


def without_patient(record: Record) -> Record:
    """The record without who the patient is, and without what an examiner has written."""
    return replace(
        record,
        description=None,
        patient_id=None,
        patient_name=None,
        issuer=None,
        birth_date=None,
        sex=None,
        accession=None,
    )


def _by_name(record: Record) -> str:
    """A patient without a Patient ID, as in the entries of searches; `-` is for what is missing."""
    birth_date = record.birth_date if len(record.birth_date or "") == 8 else "-" * 8
    sex = record.sex if len(record.sex or "") == 1 else "-"
    return named_identity(record.patient_name or "", birth_date or "", sex or "")


def _told(text: str, most: int = limits.TEXT_CHARACTERS) -> str | None:
    """A text of an image as a record may have it; None if it is empty."""
    return "".join(one if one.isprintable() else " " for one in text)[:most].strip() or None


def _record(row: sqlite3.Row, recall: Recall, patients: Sequence[Patient] | None) -> Record:
    """The record for a row of a feed that is joined with its study; `patients` if shown."""
    code, recalls = (recall.code, recall.count) if recall.code else (None, None)
    if row["kind"] == "withdrawn" or row["study_uid"] is None:
        return Record(
            sequence=row["sequence"],
            kind="withdrawn",
            study=row["study"],
            content_root=NO_ROOT,
            series=0,
            instances=0,
            bytes=0,
            encoded_bytes=0,
            modalities=(),
            study_date="",
            recall=code,
            recalls=recalls,
        )
    patient: dict[str, str | None] = {}
    if row["shows"] == PATIENT:
        own = [issuer for one, issuer in patients or () if one == row["patient_id"]]
        patient = {
            "description": _told(row["description"]),
            "patient_id": _told(row["patient_id"]),
            "patient_name": _told(row["patient_name"]),
            "issuer": _told(max(own, default="")),
            "birth_date": _told(row["patient_birth_date"], 16),
            "sex": _told(row["patient_sex"], 16),
            "accession": _told(row["accession_number"]),
        }
    return Record(
        **patient,
        sequence=row["sequence"],
        kind=row["kind"],
        study=row["study"],
        content_root=row["content_root"],
        series=row["series_count"],
        instances=row["instance_count"],
        bytes=row["original_bytes"],
        encoded_bytes=row["encoded_bytes"],
        modalities=modalities.of_study(row["modalities"].split("\n")),
        study_date=row["study_date"],
        recall=code,
        recalls=recalls,
        indexed=True if row["indexed_in"] else None,
    )
