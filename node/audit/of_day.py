"""The entries of some types of the last day, and then each new one as the log grows."""

from collections.abc import Callable, Iterator, Sequence

from node.audit.log import AuditLog
from protocol.log.entry import Entry, decode_entry_untrusted

DAY_MS = 24 * 3600 * 1000

_AT_ONCE = 1000


class EntriesOfDay:
    """Reads the log on from where it was read last. Synchronous; its owner has a lock.

    Args:
        audit: the log.
        now: seconds since the epoch, UTC.
        types: of the entries that are wanted.
    """

    def __init__(self, audit: AuditLog, now: Callable[[], int], types: Sequence[str]) -> None:
        self._audit = audit
        self._now = now
        self._marks = [f'"type":"{one}"'.encode() for one in types]
        self._read = -1

    def new(self) -> Iterator[Entry]:
        """The entries that are new; the first time also those before, of the last day at least.

        Raises:
            NodeError: the log or the disk is damaged.
        """
        size = self._audit.size
        if self._read < 0:
            self._read = self._first_of_day(size)
        for encoded in self._audit.entries(self._read, size):
            if any(mark in encoded for mark in self._marks):
                yield decode_entry_untrusted(encoded)
            # Behind it: an entry that could not be read is read again, and not left out.
            self._read += 1

    def _first_of_day(self, size: int) -> int:
        """The index of an entry before which nothing is of the last day."""
        oldest = self._now() * 1000 - DAY_MS
        start = size
        while start > 0:
            start = max(0, start - _AT_ONCE)
            [first] = self._audit.entries(start, start + 1)
            if decode_entry_untrusted(first).time_ms < oldest:
                break
        return start

    def opened(self, entry: Entry, kind: str) -> Iterator[str]:
        """The values of an entry's subjects of a kind, as far as they are not erased."""
        for _, commitment in entry.subjects:
            opening = self._audit.opening_of(commitment)
            if opening is not None and opening.kind == kind:
                yield opening.value
