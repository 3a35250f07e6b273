"""Which entries of our log are about which exchange with which peer.

An index in SQLite, derived from the log and never the other way round: it is brought up
to date before each query, and rebuilt when the log is not the one that it was made from.
So no crash can leave it in contradiction to the log.

An exchange is one transfer id with one peer in one direction. It is *open* while the
log has its entry `disclosure-begun` or `received`, and no entry with its receipt.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from node.audit.log import AuditLog
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Entry, decode_entry_untrusted
from protocol.log.tree import leaf_hash
from protocol.reconcile import TYPES

EXCHANGES_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchange_entries (
    entry INTEGER PRIMARY KEY,          -- its index in the log
    peer BLOB NOT NULL,                 -- facility key
    outgoing INTEGER NOT NULL,          -- whether we are the source
    transfer BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS exchange_entries_by_transfer
    ON exchange_entries (peer, outgoing, transfer);
CREATE INDEX IF NOT EXISTS exchange_entries_by_peer ON exchange_entries (peer);
CREATE TABLE IF NOT EXISTS exchanges (
    peer BLOB NOT NULL,
    outgoing INTEGER NOT NULL,
    transfer BLOB NOT NULL,
    told INTEGER NOT NULL,              -- last entry that something went over; -1 none
    confirmed INTEGER NOT NULL,         -- whether a receipt is named
    PRIMARY KEY (peer, outgoing, transfer)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exchanges_open ON exchanges (told) WHERE confirmed = 0 AND told >= 0;
CREATE TABLE IF NOT EXISTS exchange_receipts (
    entry INTEGER PRIMARY KEY,          -- an entry `receipt`
    peer BLOB NOT NULL,
    outgoing INTEGER NOT NULL,
    transfer BLOB NOT NULL,
    content_root BLOB NOT NULL,         -- of the study, as it arrived
    time INTEGER NOT NULL               -- of the entry; milliseconds since the epoch, UTC
) STRICT;
CREATE INDEX IF NOT EXISTS exchange_receipts_by_transfer ON exchange_receipts (transfer);
CREATE INDEX IF NOT EXISTS exchange_receipts_by_root ON exchange_receipts (content_root);
CREATE TABLE IF NOT EXISTS exchanges_read (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    size INTEGER NOT NULL,              -- entries of the log that the index covers
    last BLOB NOT NULL                  -- leaf hash of the last of them
) STRICT;
"""

_TELLING = frozenset({"disclosure-begun", "received"})
_OF_A_SOURCE = frozenset({"disclosure-begun", "disclosed", "disclosure-failed"})
_MARKS = tuple(f'"type":"{kind}"'.encode() for kind in sorted(TYPES))
_AT_ONCE = 5_000
"""Entries read in one transaction."""


@dataclass(frozen=True)
class OpenExchange:
    """An exchange without its receipt.

    Attributes:
        peer: facility key of the other side.
        outgoing: whether we are the source.
        transfer: its transfer id.
        entry: index of its last `disclosure-begun` or `received`.
    """

    peer: bytes
    outgoing: bool
    transfer: bytes
    entry: int


@dataclass(frozen=True)
class ReceiptEntry:
    """An entry of our log that names a receipt.

    Attributes:
        peer: facility key of the other side.
        outgoing: whether we are the source.
        transfer: the transfer id.
        time: of the entry; milliseconds since the epoch, UTC.
    """

    peer: bytes
    outgoing: bool
    transfer: bytes
    time: int


class ExchangeIndex:
    """The index. All methods are synchronous and thread-safe.

    Args:
        database: holds the index.
        audit: the log.
    """

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._lock = threading.Lock()

    def open(self, peer: bytes | None = None) -> list[OpenExchange]:
        """Exchanges without a receipt, oldest first; with one peer, or with all.

        Raises:
            NodeError: the log or the disk is damaged.
        """
        self.catch_up()
        of_peer = "" if peer is None else "AND peer = ?"
        rows = self._database.query(
            "SELECT peer, outgoing, transfer, told FROM exchanges "
            f"WHERE confirmed = 0 AND told >= 0 {of_peer} ORDER BY told",
            () if peer is None else (peer,),
        )
        return [OpenExchange(row[0], bool(row[1]), row[2], row[3]) for row in rows]

    def entries(self, peer: bytes, transfer: bytes, *, outgoing: bool) -> list[Entry]:
        """The entries about one exchange, in log order; empty when there are none."""
        self.catch_up()
        rows = self._database.query(
            "SELECT entry FROM exchange_entries "
            "WHERE peer = ? AND outgoing = ? AND transfer = ? ORDER BY entry",
            (peer, int(outgoing), transfer),
        )
        return [self.entry(row[0]) for row in rows]

    def receipts(self, transfers: Iterable[bytes]) -> list[ReceiptEntry]:
        """The entries that name receipts of transfers, whoever the other side is, oldest first.

        While the disk is full, those that the index had before: people look at transfers then.
        """
        try:
            self.catch_up()
        except NodeError as error:
            if error.code is not ExitCode.DISK:
                raise
        rows = self._database.query_among(
            "SELECT peer, outgoing, transfer, time FROM exchange_receipts WHERE transfer IN (?*)",
            transfers,
        )
        found = [ReceiptEntry(row[0], bool(row[1]), row[2], row[3]) for row in rows]
        return sorted(found, key=lambda one: one.time)

    def entry(self, index: int) -> Entry:
        """One entry of the log."""
        return decode_entry_untrusted(self.encoded(index))

    def encoded(self, index: int) -> bytes:
        """One entry of the log as it is stored."""
        return next(self._audit.entries(index, index + 1))

    def about(self, peer: bytes, start: int, stop: int, most: int) -> list[int]:
        """Indexes of the first `most` entries about a peer from `start` to `stop - 1`."""
        self.catch_up()
        rows = self._database.query(
            "SELECT entry FROM exchange_entries WHERE peer = ? AND entry >= ? AND entry < ? "
            "ORDER BY entry LIMIT ?",
            (peer, start, stop, most),
        )
        return [row[0] for row in rows]

    # --- keeping up with the log ----------------------------------------------------

    def catch_up(self) -> None:
        """Read the entries that the index lacks; for an owner that joins these tables.

        Raises:
            NodeError: the log or the disk is damaged.
        """
        with self._lock:
            done = self._start()
            size = self._audit.size
            while done < size:
                upto = min(done + _AT_ONCE, size)
                self._read(done, upto)
                done = upto

    def _start(self) -> int:
        """How many entries the index covers; an index of another log is emptied first."""
        row = self._database.query_one("SELECT size, last FROM exchanges_read")
        if row is None:
            return 0
        size, last = int(row["size"]), bytes(row["last"])
        if size <= self._audit.size and leaf_hash(self.encoded(size - 1)) == last:
            return size
        self._database.transact(_empty)
        return 0

    def _read(self, start: int, stop: int) -> None:
        found: list[Entry] = []
        last = b""
        for last in self._audit.entries(start, stop):
            # Most entries are of other types; parsing each would cost most of the reading time.
            if any(mark in last for mark in _MARKS):
                found += _parse(last)

        def take(connection: sqlite3.Connection) -> None:
            for entry in found:
                outgoing = int(is_outgoing(entry))
                key = (entry.peer, outgoing, bytes.fromhex(str(entry.details["transfer"])))
                connection.execute(
                    "INSERT INTO exchange_entries (entry, peer, outgoing, transfer)"
                    " VALUES (?, ?, ?, ?) ON CONFLICT (entry) DO NOTHING",
                    (entry.index, *key),
                )
                connection.execute(
                    "INSERT INTO exchanges (peer, outgoing, transfer, told, confirmed)"
                    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (peer, outgoing, transfer) DO UPDATE SET"
                    " told = CASE WHEN excluded.told > exchanges.told"
                    "  THEN excluded.told ELSE exchanges.told END,"
                    " confirmed = CASE WHEN excluded.confirmed > exchanges.confirmed"
                    "  THEN excluded.confirmed ELSE exchanges.confirmed END",
                    (
                        *key,
                        entry.index if entry.type in _TELLING else -1,
                        int(entry.type == "receipt"),
                    ),
                )
                root = _root_of(entry)
                if root is not None:
                    connection.execute(
                        "INSERT INTO exchange_receipts"
                        " (entry, peer, outgoing, transfer, content_root, time)"
                        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (entry) DO NOTHING",
                        (entry.index, *key, root, entry.time_ms),
                    )
            connection.execute(
                "INSERT INTO exchanges_read (one, size, last) VALUES (1, ?, ?)"
                " ON CONFLICT (one) DO UPDATE SET size = excluded.size, last = excluded.last",
                (stop, leaf_hash(last)),
            )

        self._database.transact(take)


def _empty(connection: sqlite3.Connection) -> None:
    for table in ("exchange_entries", "exchanges", "exchange_receipts", "exchanges_read"):
        connection.execute(f"DELETE FROM {table}")


def is_outgoing(entry: Entry) -> bool:
    """Whether an entry is about the direction from us to the peer."""
    return entry.type in _OF_A_SOURCE or entry.details.get("direction") == "out"


def _root_of(entry: Entry) -> bytes | None:
    """The content root in an entry `receipt`; None for another entry, or where none is told."""
    if entry.type != "receipt":
        return None
    try:
        return bytes.fromhex(str(entry.details["content_root"]))
    except (KeyError, ValueError):
        return None


def _parse(encoded: bytes) -> Iterator[Entry]:
    try:
        entry = decode_entry_untrusted(encoded)
        named = len(bytes.fromhex(str(entry.details.get("transfer", "")))) == 16
    except (RemoteProtocolError, ValueError):
        return
    if named and len(entry.peer) == 32 and entry.type in TYPES:
        yield entry
