"""Keeps the database in step with the log: each logged change has its effect, or a failure.

A change is logged before it takes effect. A full disk or a kill in between leaves an entry
without effect. So the transaction of an effect also stores the index of its entry, and the
next start compares. If the entry narrows rights, its effect is applied (the log decides);
for any other entry a second entry says that it failed. A database from an older backup than
its log is brought up to date in the same way.

Order of writes: entry -> effect with the entry's index, in one transaction.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping

from node.audit.log import AuditLog
from node.database import Database
from node.errors import NodeError
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Entry, Event, decode_entry_untrusted

log = logging.getLogger("radmesh.effects")

EFFECTS_SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (
    entry INTEGER PRIMARY KEY           -- index of an entry whose effect is in this file
) STRICT;
CREATE TABLE IF NOT EXISTS effects_compared (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    size INTEGER NOT NULL               -- of the log, up to which the two agree
) STRICT;
"""

ENTRY_FIRST = (
    "trust-added",
    "trust-granted",
    "trust-ungranted",
    "trust-revoked",
    "rule-added",
    "rule-removed",
    "objection-added",
    "objection-ended",
    "consent-added",
    "consent-ended",
    "approval-asked",
    "approved",
    "denied",
    "emergency-begun",
    "emergency-ended",
    "emergency-overdue",
    "emergency-reviewed",
    "card-updated",
    "shared",
    "withdrawn",
    "shared-to",
    "withdrawn-from",
    "sharing-rule-added",
    "sharing-rule-removed",
    "ingest",
    "discarded",
    "hold-placed",
    "hold-lifted",
    "quarantine-taken",
    "quarantine-dropped",
    "recall-settled",
    "person-added",
    "person-changed",
    "person-removed",
    "two-person-rule",
    "proposed",
    "confirmed",
    "declined",
    "proposal-ended",
    "offered",
    "offer-heard",
    "offer-answered",
    "offer-ended",
    "forward-asked",
    "forward-dropped",
    "stored",
    "stored-told",
    "stored-heard",
    "commitment-asked",
    "commitment-heard",
    "matched",
    "match-undone",
)
"""Types of entries that a change of `node.db` follows. Others are completed elsewhere:
`received` (the fetch goes on), `commitment-given` (judged once more), `erased` and key changes
(finished by the next start)."""

_MARKS = tuple(f'"type":"{kind}"'.encode() for kind in ENTRY_FIRST)

Effect = Callable[[sqlite3.Connection], object]
"""Applies the effect of an entry in a transaction: see `Database.transact`."""

Handler = Callable[[Entry, sqlite3.Connection], bool]
"""Applies an entry's effect in a transaction at start; returns whether it could."""


def once(append: Callable[[Event], int]) -> Callable[[Event], int]:
    """Wrap `append` for an entry that is written inside a transaction, before its commit.

    When the transaction is run again, an equal event is not written twice. If the event has
    changed, another entry is written, and the next start logs that the first had no effect,
    as it does when the node ends before the commit.

    Args:
        append: writes one audit entry durably.
    """
    written: list[tuple[Event, int]] = []

    def append_once(event: Event) -> int:
        for known, index in written:
            if known == event:
                return index
        index = append(event)
        written.append((event, index))
        return index

    return append_once


class Effects:
    """The register of effects. Synchronous and thread-safe.

    Args:
        database: where effects take place.
        audit: the log.
    """

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._unsaid: list[Event] = []

    def after_entry(self, event: Event, effect: Effect) -> int:
        """Log an event, then run its effect in a transaction; returns the index of the entry.

        When the effect fails, an entry says so, now or at the next start.

        Raises:
            NodeError: the log or the database cannot be written.
        """
        return self.numbered_after_entry(event, lambda connection, _: effect(connection))

    def numbered_after_entry(
        self, event: Event, effect: Callable[[sqlite3.Connection, int], object]
    ) -> int:
        """As `after_entry`, for an effect that stores the index of the entry."""
        index = self.append(event)
        with self._said_when_it_fails(event, index):
            self.of(index, lambda connection: effect(connection, index))
        return index

    def file_after_entry(self, event: Event, write: Callable[[], None]) -> None:
        """As `after_entry`, for an effect in a file, in which the next start can see it."""
        index = self.append(event)
        with self._said_when_it_fails(event, index):
            write()
            self.of(index, lambda connection: None)

    def append(self, event: Event) -> int:
        """Log an event whose effect follows by `of`, now or at a later try; returns its index.

        Raises:
            NodeError: the log cannot be written.
        """
        return self._audit.append(event)

    def of(self, index: int, effect: Effect) -> None:
        """Run the effect of a written entry in a transaction."""

        def both(connection: sqlite3.Connection) -> None:
            effect(connection)
            self.mark(connection, index)

        self._database.transact(both)

    def mark(self, connection: sqlite3.Connection, index: int) -> None:
        """Record, in this transaction, that it holds the effect of an entry."""
        connection.execute(
            "INSERT INTO effects (entry) VALUES (?) ON CONFLICT (entry) DO NOTHING", (index,)
        )

    def is_marked(self, connection: sqlite3.Connection, index: int) -> bool:
        """Whether the effect of an entry was made since database and log were compared."""
        found = connection.execute("SELECT entry FROM effects WHERE entry = ?", (index,))
        return found.fetchone() is not None

    def compare(self, handlers: Mapping[str, Handler], *, say: bool = True) -> None:
        """Bring log and database together after a stop, whatever ended it.

        Args:
            handlers: by type of entry, the function that applies its effect. Where there is
                none, or it cannot, a new entry says that the change failed.
            say: write these new entries now; otherwise `say_failed` writes them.

        Raises:
            NodeError: the log or the database cannot be read or written.
        """
        self._unsaid = [
            self._failure_of(entry)
            for entry in self._without_effect(self._audit.size)
            if not self._made_true(entry, handlers.get(entry.type))
        ]
        if say:
            self.say_failed()

    def say_failed(self) -> None:
        """Log the failures that `compare` found. A node that serves first waits for the peers
        that may hold a later checkpoint of its log.

        Raises:
            NodeError: the log or the database cannot be written.
        """
        while self._unsaid:
            self._audit.append(self._unsaid[0])
            del self._unsaid[0]
        self._database.transact(self._all_is_compared)

    def _all_is_compared(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO effects_compared (one, size) VALUES (1, ?)"
            " ON CONFLICT (one) DO UPDATE SET size = excluded.size",
            (self._audit.size,),
        )
        connection.execute("DELETE FROM effects")

    def _made_true(self, entry: Entry, handler: Handler | None) -> bool:
        if handler is None:
            return False

        def make_true(connection: sqlite3.Connection) -> bool:
            done = handler(entry, connection)
            self.mark(connection, entry.index)
            return done

        done = self._database.transact(make_true)
        if done:
            log.warning("entry %d had no effect, and has it now: %s", entry.index, entry.type)
        return done

    def _without_effect(self, size: int) -> list[Entry]:
        row = self._database.query_one("SELECT size FROM effects_compared")
        if row is None:
            # A home from before this register: earlier entries cannot be compared.
            return []
        done = {row["entry"] for row in self._database.query("SELECT entry FROM effects")}
        found: dict[int, Entry] = {}
        for encoded in self._audit.entries(min(int(row["size"]), size), size):
            # Most entries are of other types; parsing each would cost most of the reading time.
            if not any(mark in encoded for mark in _MARKS):
                continue
            try:
                entry = decode_entry_untrusted(encoded)
            except RemoteProtocolError:
                continue
            if entry.outcome == "failed":
                of = entry.details.get("of")
                found.pop(of if isinstance(of, int) else -1, None)
            elif entry.outcome == "success" and entry.index not in done:
                found[entry.index] = entry
        return list(found.values())

    def _failure_of(self, entry: Entry) -> Event:
        openings = [self._audit.opening_of(commitment) for _, commitment in entry.subjects]
        subjects = tuple((one.kind, one.value) for one in openings if one is not None)
        event = Event(
            type=entry.type,
            actor=entry.actor,
            peer=entry.peer,
            purpose=entry.purpose,
            subjects=subjects,
        )
        return _failure(event, entry.index, "the node ended before it took effect")

    @contextlib.contextmanager
    def _said_when_it_fails(self, event: Event, index: int) -> Iterator[None]:
        try:
            yield
        except NodeError as error:
            try:
                self._audit.append(_failure(event, index, error.message))
            except NodeError as another:
                log.error("that a change failed could not be logged: %s", another.message)
            raise


def _failure(event: Event, index: int, why: str) -> Event:
    return Event(
        type=event.type,
        actor=event.actor,
        peer=event.peer,
        purpose=event.purpose,
        outcome="failed",
        subjects=event.subjects,
        details={"of": index, "why": why},
    )
