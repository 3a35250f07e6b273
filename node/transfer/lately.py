"""What each peer began to receive in the last 24 hours, for limits a day.

Kept in memory and read from the log, at the first question and then as the log grows; so a restart
forgets nothing. What began in the last 24 hours counts, and nothing before: each study once,
however often its transfer began anew, with the most bytes that it had. Emergencies count among
themselves. Synchronous and thread-safe.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keys.grants import study_action
from node.audit.log import AuditLog
from node.audit.of_day import DAY_MS, EntriesOfDay
from protocol.log.entry import Entry


@dataclass(frozen=True, slots=True)
class _Begun:
    """One disclosure that began: of which study, "" if that was erased, and of how many bytes."""

    time_ms: int
    study: str
    size: int
    action: str


class DisclosedLately:
    """The disclosures of the last day, by peer.

    Args:
        audit: the log.
        now: seconds since the epoch, UTC.
        in_past: whether that is a past moment, after which nothing counts.

    Attributes:
        deciding: held while a limit is checked and the entry that counts is written, so that two
            requests at one time do not both get what is left.
    """

    def __init__(self, audit: AuditLog, now: Callable[[], int], *, in_past: bool = False) -> None:
        self._entries = EntriesOfDay(audit, now, ("disclosure-begun",))
        self._now = now
        self._in_past = in_past
        self._lock = threading.Lock()
        self._begun: dict[bytes, deque[_Begun]] = {}
        self.deciding = threading.Lock()

    def with_this(
        self, peer: bytes, study: str, size: int, action: str = "fetch"
    ) -> Mapping[str, int]:
        """What a peer would have used of each limit if it began to receive a study now.

        Args:
            peer: its facility key.
            study: Study Instance UID.
            size: bytes of the study.
            action: `fetch` or `emergency`: the limits of which rules.

        Raises:
            NodeError: the log or the disk is damaged.
        """
        with self._lock:
            for entry in self._entries.new():
                self._take(entry)
            studies, size_erased, most = 0, 0, {study: size}
            for one in self._of_day(peer):
                if one.action != action:
                    continue
                if one.study:
                    most[one.study] = max(one.size, most.get(one.study, 0))
                else:
                    # Nobody can tell any more which study it was, so it counts as one of its own.
                    studies += 1
                    size_erased += one.size
            return {
                "studies-a-day": studies + len(most),
                "bytes-a-day": size_erased + sum(most.values()),
            }

    def _of_day(self, peer: bytes) -> deque[_Begun]:
        begun, now_ms = self._begun.setdefault(peer, deque()), self._now() * 1000
        while begun and begun[0].time_ms <= now_ms - DAY_MS:
            begun.popleft()
        return begun

    def _take(self, entry: Entry) -> None:
        if self._in_past and entry.time_ms > self._now() * 1000 + 999:
            return
        study = next(self._entries.opened(entry, "study"), "")
        size = int(entry.details.get("bytes", 0))
        # Also for a peer without limits, of which nobody asks: else this would grow for ever.
        begun = self._of_day(entry.peer)
        begun.append(_Begun(entry.time_ms, study, size, study_action(entry.purpose)))
