"""The one writer of the audit log: threads that append at the same time share one flush.

Each thread puts its events in the queue, and the first to get the commit lock writes
the whole queue. The order of writes is: openings, entries, (memory,) checkpoint.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import nacl.utils

from node.audit.evidence import EvidenceStore
from node.audit.files import LogFile
from node.audit.tree import NodeFile
from node.errors import ExitCode, NodeError
from protocol.errors import ProtocolError
from protocol.log.entry import SALT_BYTES, Event, Opening, encode_entry
from protocol.log.tree import Frontier, leaf_hash

MEND_PAUSE_SECONDS = 5.0
"""Least time between two attempts to mend after a failed flush; each attempt reads the log."""


@dataclass
class _Pending:
    events: Sequence[Event]
    first: int = -1
    error: Exception | None = None
    done: bool = False


class Appender:
    """Writes entries. Thread-safe.

    Args:
        file: the file of entries.
        evidence: stores the openings.
        nodes: the nodes of the tree.
        tree: the tree over the entries that are on disk.
        last_ms: time of the last entry; no later entry gets an earlier time.
        clock_ms: returns milliseconds since the epoch, UTC.
        on_durable: called after each flush; must not block.
        running: returns seconds of a clock that never goes back.
    """

    def __init__(
        self,
        *,
        file: LogFile,
        evidence: EvidenceStore,
        nodes: NodeFile,
        tree: Frontier,
        last_ms: int,
        clock_ms: Callable[[], int],
        on_durable: Callable[[], None],
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._evidence = evidence
        self._nodes = nodes
        # Each flush replaces this object and never changes it, so any thread may read it.
        self.durable = tree
        self._last_ms = last_ms
        self._clock_ms = clock_ms
        self._on_durable = on_durable
        self._running = running
        self._queue: list[_Pending] = []
        self._queue_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._stale_openings = False
        self._mend_after = 0.0
        self._closed = False

    def append_many(self, events: Sequence[Event]) -> range:
        """Write events one after the other with one flush, all or none.

        Raises:
            NodeError: they could not be logged.
            LocalProtocolError: an entry would be too large.
        """
        pending = _Pending(events)
        with self._queue_lock:
            self._queue.append(pending)
        with self._commit_lock:
            if not pending.done:
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit(batch)
        if pending.error is not None:
            raise pending.error
        return range(pending.first, pending.first + len(events))

    def append_last(self, make: Callable[[int, bytes], Event]) -> int:
        """Write an event that names the size and the root of the log before it.

        Args:
            make: returns the event; nothing else is appended while it runs.

        Raises:
            NodeError, LocalProtocolError: as `append_many`, and what `make` raises.
        """
        with self._commit_lock:
            tree = self.durable
            pending = _Pending([make(tree.size, tree.root())])
            self._commit([pending])
        if pending.error is not None:
            raise pending.error
        return pending.first

    def mend(self) -> None:
        """After a failed flush, check that the disk holds all acknowledged entries.

        Raises:
            NodeError: the disk still fails, or has lost entries.
        """
        with self._commit_lock:
            if self._file.is_broken:
                self._mend()

    def require_room(self) -> None:
        """Check that an entry could be written, without writing one.

        Raises:
            NodeError: the disk is full or failing.
        """
        with self._commit_lock:
            if self._file.is_broken:
                self._mend()
            self._file.require_room()

    def _commit(self, batch: list[_Pending]) -> None:
        try:
            if self._closed:
                raise NodeError("the audit log is closed", code=ExitCode.FAILED)
            self._write(batch)
        except NodeError as error:
            for pending in batch:
                # Each thread raises its own error: a shared one would mix their tracebacks.
                pending.error = pending.error or NodeError(
                    error.message, hint=error.hint, code=error.code
                )
        except BaseException as error:
            for pending in batch:
                pending.error = NodeError(f"the audit log failed: {type(error).__name__}")
            raise
        finally:
            for pending in batch:
                pending.done = True

    def _write(self, batch: list[_Pending]) -> None:
        if self._file.is_broken:
            self._mend()
        tree = self.durable.copy()
        first = tree.size
        now = max(self._clock_ms(), self._last_ms)
        entries: list[bytes] = []
        openings: list[tuple[int, int, Opening]] = []
        for pending in batch:
            pending.first = first + len(entries)
            try:
                encoded, opened = _encode(pending.events, pending.first, now)
            except ProtocolError as error:
                # The error concerns this caller only; the others' events are still written.
                pending.error = error
                continue
            entries += encoded
            openings += opened
        if not entries:
            return
        if openings or self._stale_openings:
            self._evidence.add_openings(first, openings)
        self._stale_openings = bool(openings)
        self._file.append(entries)
        self._stale_openings = False
        for entry in entries:
            self._nodes.add(tree.append(leaf_hash(entry)))
        self.durable, self._last_ms = tree, now
        self._on_durable()

    def _mend(self) -> None:
        """After a failed flush: compare the entries on disk with the acknowledged ones."""
        now = self._running()
        if now < self._mend_after:
            raise NodeError(
                "the audit log cannot be written: a flush failed a moment ago",
                hint="repair the disk; what could not be logged was not done",
                code=ExitCode.DISK,
            )
        self._mend_after = now + MEND_PAUSE_SECONDS
        tree = Frontier()
        for entry in self._file.reopen():
            if tree.size == self.durable.size:
                break
            tree.append(leaf_hash(entry))
        if tree.size != self.durable.size or tree.root() != self.durable.root():
            raise NodeError(
                "the disk has lost entries of the audit log that it had taken",
                hint="stop the node, keep the folder `audit` as it is, and replace the disk; "
                "what could not be logged was not done",
                code=ExitCode.INTEGRITY,
            )
        self._file.mend()
        self._mend_after = 0.0

    def rebuild_nodes(self) -> None:
        """Rebuild the nodes of the tree from the entries; appends wait.

        Raises:
            NodeError: an entry is damaged on disk.
        """
        with self._commit_lock:
            self._nodes.restart()
            tree = Frontier()
            for entry in self._file.read(0, self.durable.size):
                self._nodes.add(tree.append(leaf_hash(entry)))

    def close(self) -> bool:
        """Refuse further appends, after waiting for a write under way; return if it was open."""
        with self._commit_lock:
            was_open = not self._closed
            self._closed = True
            return was_open


def _encode(
    events: Sequence[Event], first: int, now: int
) -> tuple[list[bytes], list[tuple[int, int, Opening]]]:
    entries: list[bytes] = []
    openings: list[tuple[int, int, Opening]] = []
    for index, event in enumerate(events, first):
        opened = [
            Opening(kind, value, nacl.utils.random(SALT_BYTES)) for kind, value in event.subjects
        ]
        entries.append(encode_entry(event, index=index, time_ms=now, openings=opened))
        openings += [(index, place, opening) for place, opening in enumerate(opened)]
    return entries, openings
