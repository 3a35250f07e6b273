"""What is stored in our archive, and the statements of it between peers and us: the records.

Whoever forwards studies to the archive calls `note` when all instances of a study are proven to be
there. From then on each source that gave us just this content, by a transfer with a receipt, is
owed a statement. `node/receipts/stating.py` makes, says and hears them.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from keys.sharing import FROM_ARCHIVE
from node.audit.effects import Effects
from node.audit.exchanges import ExchangeIndex
from node.audit.log import AuditLog
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.database import Database
from node.images.keeping import Stored as StoredStudy
from protocol.errors import WireCode
from protocol.log.entry import Entry, Event, subjects_of
from protocol.stored import WAYS

STORED_SCHEMA = """
CREATE TABLE IF NOT EXISTS stored_contents (
    content_root BLOB PRIMARY KEY,      -- of a study, all of which is in our archive
    instances INTEGER NOT NULL,
    proven_by TEXT NOT NULL,            -- commitment, query, returned
    proven_at INTEGER NOT NULL,         -- seconds since the epoch, UTC
    entry INTEGER NOT NULL              -- index of its `stored`
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stored_contents_by_entry ON stored_contents (entry);
CREATE TABLE IF NOT EXISTS stored_statements (
    peer BLOB NOT NULL,                 -- facility key
    outgoing INTEGER NOT NULL,          -- whether we are the source, and heard it
    transfer BLOB NOT NULL,
    digest BLOB NOT NULL,               -- of the signed statement, which is beside the log
    instances INTEGER NOT NULL,
    proven_by TEXT NOT NULL,
    proven_at INTEGER NOT NULL,         -- seconds since the epoch, UTC, by the recipient
    time INTEGER NOT NULL,              -- when the source noted it, 0 not yet; milliseconds, UTC
    tries INTEGER NOT NULL,             -- how often it was said in vain
    due INTEGER NOT NULL,               -- when it may be said again; milliseconds, UTC
    answer TEXT NOT NULL,               -- the last one in vain, a word of the wire codes, or ""
    PRIMARY KEY (peer, outgoing, transfer)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stored_statements_due ON stored_statements (peer, due)
    WHERE outgoing = 0 AND time = 0;
"""

SILENT = "silent"
"""No answer at all, although the peer is connected."""

UNKNOWN = WireCode.UNEXPECTED.name.lower()
"""The answer of a release that does not know such statements."""

_PASSING = (SILENT, WireCode.BUSY.name.lower())

OF_ALL = (*_PASSING, UNKNOWN)
"""Answers that any other statement would have, too."""

_FIRST_SECONDS = 5.0
_DAY_SECONDS = 24 * 3600.0
_MONTH_SECONDS = 30 * _DAY_SECONDS

_AT_ONCE = 1_000
"""Owed statements that are looked up at once."""


def pause_seconds(tries: int, answer: str) -> float:
    """How long a source is not told again after so many tries in vain, of which the last had this
    answer. It doubles each time, to a day; where the source refuses, from a day to a month. A
    release that does not know it may be replaced any day.
    """
    doubled = _FIRST_SECONDS * 2.0 ** min(tries - 1, 30)
    if answer in _PASSING:
        return min(doubled, _DAY_SECONDS)
    if answer == UNKNOWN:
        return _DAY_SECONDS
    return min(max(doubled, _DAY_SECONDS), _MONTH_SECONDS)


@dataclass(frozen=True)
class StoredContent:
    """A content that is stored in our archive; attributes as in the table."""

    content_root: bytes
    instances: int
    proven_by: str
    proven_at: int


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement, heard (`outgoing`) or ours; attributes as in the table."""

    peer: bytes
    outgoing: bool
    transfer: bytes
    digest: bytes
    instances: int
    proven_by: str
    proven_at: int
    time: int
    tries: int
    due: int
    answer: str


@dataclass(frozen=True)
class Owed:
    """A transfer to us whose source is owed a statement.

    Attributes:
        transfer: its name.
        entry: index of the entry of ours that names its receipt.
        content: what arrived.
    """

    transfer: bytes
    entry: int
    content: StoredContent


class StoredStudies:
    """The records. All methods are synchronous and thread-safe; they raise NodeError when the disk
    or the log is damaged, or the log cannot be written.

    Args:
        database: holds them.
        audit: our log.
        effects: ties entries to records.
        exchanges: the index of receipts in our log.
        catalog: the studies that are here.
        clock: dates what is proven and noted.

    Attributes:
        on_change: called when a content is stored; in any thread.
    """

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        effects: Effects,
        exchanges: ExchangeIndex,
        catalog: Catalog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._audit = audit
        self._effects = effects
        self._exchanges = exchanges
        self._catalog = catalog
        self._clock = clock
        self.on_change: Callable[[], None] = lambda: None
        # One thread at a time logs that a content is stored, or looks who is owed what for it.
        self._lock = threading.Lock()
        # By peer: the size of our log up to which we looked for what is owed, and what we found.
        self._looked: dict[bytes, int] = {}
        self._owed: dict[bytes, list[Owed]] = {}

    # --- what our archive has ------------------------------------------------------------

    def note(self, study: str, proven_by: str, instances: int) -> bool:
        """All instances of a study, as it is here now, are proven to be in our archive.

        May be called again at any time: what is known changes nothing. So whoever proves it can
        call this before it marks its own work as done, and again after a kill.

        Args:
            study: Study Instance UID.
            proven_by: one of `protocol.stored.WAYS`.
            instances: how many instances were proven.

        Returns:
            Whether it is on record; False if the study is not here with just so many instances,
            since it grew or shrank meanwhile.
        """
        if proven_by not in WAYS:
            raise ValueError(f"there is no proof {proven_by!r} of storage")
        with self._lock:
            row = self._catalog.study(study)
            if row is None or row.instance_count != instances:
                return False
            if self.content(row.content_root) is None:
                event = Event(
                    type="stored",
                    subjects=subjects_of(study, self._catalog.patients(study)),
                    details={
                        "content_root": row.content_root.hex(),
                        "instances": instances,
                        "proven_by": proven_by,
                        "proven_at": self._clock.now_ms() // 1000,
                    },
                )
                self._effects.numbered_after_entry(
                    event, lambda connection, index: _keep_content(connection, index, event.details)
                )
        self.on_change()
        return True

    def content(self, content_root: bytes) -> StoredContent | None:
        """What is on record about a content: None if it is not proven to be in our archive."""
        row = self._database.query_one(
            "SELECT content_root, instances, proven_by, proven_at FROM stored_contents"
            " WHERE content_root = ?",
            (content_root,),
        )
        return None if row is None else StoredContent(*row)

    def present(self) -> list[StoredStudy]:
        """The studies that are in our archive as they are here, the longest there first.

        Before all others come those that nobody but the archive has brought (`archive_index`).
        """
        rows = self._database.query(
            "SELECT s.study_uid, c.content_root, c.proven_at FROM stored_contents c"
            " JOIN studies s ON s.content_root = c.content_root"
            " LEFT JOIN (SELECT study_uid, min(CASE WHEN source LIKE :indexed THEN 1 ELSE 0 END)"
            "  AS is_copy FROM study_sources GROUP BY study_uid) AS b ON b.study_uid = s.study_uid"
            " ORDER BY coalesce(b.is_copy, 0) DESC, c.proven_at, s.study_uid",
            {"indexed": f"{FROM_ARCHIVE}:%"},
        )
        return [StoredStudy(*row) for row in rows]

    # --- statements ----------------------------------------------------------------------

    def waiting(self, peer: bytes) -> list[Statement]:
        """Our statements that a source has not noted, those that are due first at the beginning."""
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM stored_statements WHERE peer = ? AND outgoing = 0"
            " AND time = 0 ORDER BY due LIMIT ?",
            (peer, _AT_ONCE),
        )
        return [_statement(row) for row in rows]

    def connected(self, peer: bytes) -> None:
        """A source has connected again: what it did not answer at all may be said at once."""
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE stored_statements SET due = 0"
                " WHERE peer = ? AND outgoing = 0 AND time = 0 AND answer = ?",
                (peer, SILENT),
            )
        )

    def owed(self, peer: bytes) -> Owed | None:
        """A transfer whose source is owed a statement and has none, if there is one."""
        with self._lock:
            owed = self._owed.setdefault(peer, [])
            if not owed:
                owed += self._find_owed(peer)
            return owed[-1] if owed else None

    def settle(self, peer: bytes, owed: Owed) -> None:
        """What was owed has been made, or cannot be."""
        with self._lock:
            self._owed[peer].remove(owed)

    def keep(self, event: Event) -> None:
        """Log a statement, `stored-told` or `stored-heard`, then keep it here; the signed bytes
        are beside the log before.
        """
        now = self._clock.now_ms()
        self._effects.after_entry(
            event,
            lambda connection: _keep_said(connection, event.type, event.peer, event.details, now),
        )

    def answered(self, statement: Statement, answer: str) -> None:
        """The source has answered a statement of ours: "" if it noted it, else why it did not."""
        now, tries = self._clock.now_ms(), statement.tries + 1
        due = now + round(1000 * pause_seconds(tries, answer)) if answer else 0
        values = (0 if answer else now, tries if answer else statement.tries, due, answer)
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE stored_statements SET time = ?, tries = ?, due = ?, answer = ?"
                " WHERE peer = ? AND outgoing = 0 AND transfer = ?",
                (*values, statement.peer, statement.transfer),
            )
        )

    def _find_owed(self, peer: bytes) -> list[Owed]:
        """The transfers whose source is owed a statement, or some of them."""
        since, size = self._looked.get(peer, 0), self._audit.size
        if since == size:
            return []
        self._exchanges.catch_up()
        found: dict[bytes, Owed] = {}
        is_all = True
        # New receipts of stored contents, then all receipts of newly stored contents.
        for new in ("r.entry >= ?", "s.entry >= ?"):
            rows = self._database.query(
                "SELECT r.transfer, r.entry, s.content_root, s.instances, s.proven_by, s.proven_at"
                " FROM exchange_receipts r JOIN stored_contents s"
                " ON s.content_root = r.content_root"
                " LEFT JOIN stored_statements t ON t.peer = r.peer AND t.outgoing = 0"
                " AND t.transfer = r.transfer"
                f" WHERE {new} AND r.peer = ? AND r.outgoing = 0 AND t.peer IS NULL"
                " ORDER BY r.entry LIMIT ?",
                (since, peer, _AT_ONCE),
            )
            is_all = is_all and len(rows) < _AT_ONCE
            for row in rows:
                found[row["transfer"]] = Owed(row[0], row[1], StoredContent(*row[2:]))
        if is_all:
            self._looked[peer] = size
        return list(found.values())

    def statement(self, peer: bytes, transfer: bytes, *, outgoing: bool) -> Statement | None:
        """What was said (or with `outgoing`, heard) about one transfer."""
        row = self._database.query_one(
            f"SELECT {_COLUMNS} FROM stored_statements"
            " WHERE peer = ? AND outgoing = ? AND transfer = ?",
            (peer, int(outgoing), transfer),
        )
        return None if row is None else _statement(row)

    def statements(self, transfers: Iterable[bytes]) -> list[Statement]:
        """What was said and heard about transfers, whoever the other side is."""
        rows = self._database.query_among(
            f"SELECT {_COLUMNS} FROM stored_statements WHERE transfer IN (?*)", transfers
        )
        return [_statement(row) for row in rows]

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Give an entry of ours that a kill left without its effect that effect, at start."""
        if entry.type == "stored":
            _keep_content(connection, entry.index, entry.details)
        else:
            _keep_said(connection, entry.type, entry.peer, entry.details, entry.time_ms)
        return True


_COLUMNS = ", ".join(Statement.__dataclass_fields__)

_Details = Mapping[str, str | int | bool]


def _statement(row: sqlite3.Row) -> Statement:
    return Statement(**{**dict(row), "outgoing": bool(row["outgoing"])})


def _keep_content(connection: sqlite3.Connection, index: int, details: _Details) -> None:
    connection.execute(
        "INSERT INTO stored_contents (content_root, instances, proven_by, proven_at, entry)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (content_root) DO NOTHING",
        (
            bytes.fromhex(str(details["content_root"])),
            details["instances"],
            details["proven_by"],
            details["proven_at"],
            index,
        ),
    )


def _keep_said(
    connection: sqlite3.Connection, kind: str, peer: bytes, details: _Details, time_ms: int
) -> None:
    is_heard = kind == "stored-heard"
    connection.execute(
        "INSERT INTO stored_statements (peer, outgoing, transfer, digest, instances, proven_by,"
        " proven_at, time, tries, due, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, '')"
        " ON CONFLICT (peer, outgoing, transfer) DO NOTHING",
        (
            peer,
            int(is_heard),
            bytes.fromhex(str(details["transfer"])),
            bytes.fromhex(str(details["stored"])),
            details["instances"],
            details["proven_by"],
            details["proven_at"],
            time_ms if is_heard else 0,
        ),
    )
