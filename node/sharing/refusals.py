"""Logging refusals: the first of an hour one by one, the others as a count.

The first 20 an hour are logged before they are answered. Beyond that, one entry for each would let
a peer without any right fill the disk; so one entry an hour for each peer and kind says how many
there were, and when the first and the last. It is written when the hour is over, or when the node
stops; a crash loses the count of its hour. Disclosures are never counted so.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.clock import Clock
from node.errors import NodeError
from node.sharing.budgets import Budgets
from protocol.log.entry import Event, format_time

log = logging.getLogger("radmesh.refusals")

_HOUR_MS = 3_600_000


@dataclass
class _Counted:
    first_ms: int
    last_ms: int
    count: int = 0


class Refusals:
    """Logs refusals. Synchronous and thread-safe.

    Args:
        append: writes audit entries durably with one flush.
        budgets: holds the budget `logged-refusal`.
        clock: dates the counted refusals.
    """

    def __init__(
        self,
        append: Callable[[Sequence[Event]], object],
        budgets: Budgets,
        clock: Clock,
    ) -> None:
        self._append = append
        self._budgets = budgets
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: dict[tuple[bytes, str], _Counted] = {}

    def log(self, peer: bytes, what: str, events: Sequence[Event]) -> bool:
        """Log a refusal before it is answered, or count it.

        Args:
            peer: facility key of the peer that is refused.
            what: what the peer asked for: `study`, `receipt`, `stored` or `find`.
            events: the entries to write, if the budget allows it.

        Returns:
            Whether they were written; if not, the refusal was counted.

        Raises:
            NodeError: the log cannot be written.
        """
        if self._budgets.take(peer, "logged-refusal"):
            self._append(events)
            return True
        now = self._clock.now_ms()
        with self._lock:
            counted = self._counted.setdefault((peer, what), _Counted(now, now))
            counted.count += 1
            counted.last_ms = now
        return False

    @property
    def is_due(self) -> bool:
        """Whether there is a count of an hour that is over; needs no disk."""
        with self._lock:
            return bool(self._due())

    def _due(self) -> dict[tuple[bytes, str], _Counted]:
        hour = self._clock.now_ms() // _HOUR_MS
        return {
            key: counted
            for key, counted in self._counted.items()
            if counted.first_ms // _HOUR_MS != hour
        }

    def write(self, *, all_of_it: bool = False) -> None:
        """Write the counts of hours that are over, or all of them; a failing disk keeps them."""
        with self._lock:
            due = dict(self._counted) if all_of_it else self._due()
            for key in due:
                del self._counted[key]
        if not due:
            return
        try:
            self._append([_summary(peer, what, one) for (peer, what), one in due.items()])
        except NodeError as error:
            log.error("how many requests were refused could not be logged: %s", error.message)
            with self._lock:
                for key, counted in due.items():
                    known = self._counted.setdefault(key, counted)
                    if known is not counted:
                        known.count += counted.count
                        known.first_ms = counted.first_ms


def _summary(peer: bytes, what: str, counted: _Counted) -> Event:
    return Event(
        type="refused",
        peer=peer,
        outcome="refused",
        details={
            "what": what,
            "count": counted.count,
            "first": format_time(counted.first_ms),
            "last": format_time(counted.last_ms),
            "why": "more refusals in an hour than are logged one by one",
        },
    )
