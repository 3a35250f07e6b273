"""How much each facility may cause here: one bucket per facility and kind, and today's counts.

The table is `protocol.limits.BUDGETS`; settings may set other numbers for a facility, or
for all (`[limits]`). They are in memory only: a restart gives each facility its burst again.
Thread-safe.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from keys.trust import Peer
from node.bucket import Bucket
from node.clock import Clock
from protocol.limits import BUDGETS, Budget

EVERYONE = "*"

RESERVE_BYTES = 32 * 1024 * 1024
"""Free space that peers cannot use up with requests, refusals and announcements."""

_HOUR_SECONDS = 3600
_DAY_SECONDS = 24 * 3600


class BadBudget(ValueError):
    """An invalid table `limits`; the text says what is wrong with it."""


Overrides = Mapping[str, Mapping[str, Budget]]
"""By petname, fingerprint or "*", then by kind."""


def read_overrides(table: Any) -> Overrides:
    """Read the table `limits` of the settings: for each facility, kinds to [rate an hour, burst].

    Raises:
        BadBudget: a value is of the wrong kind.
    """
    if not isinstance(table, Mapping):
        raise BadBudget('must be a table, written [limits."NAME"]')
    found: dict[str, dict[str, Budget]] = {}
    for name, kinds in table.items():
        if not isinstance(kinds, Mapping):
            raise BadBudget(f'has {name}, which must be a table, written [limits."{name}"]')
        for kind, pair in kinds.items():
            if kind not in BUDGETS:
                raise BadBudget(f"names no kind {kind}; there are {', '.join(BUDGETS)}")
            if not (
                isinstance(pair, list)
                and len(pair) == 2
                and all(type(one) in (int, float) and 0 < one <= 1e12 for one in pair)
                and pair[1] >= 1
            ):
                raise BadBudget(f"needs for {kind} a pair [rate an hour, burst], the burst from 1")
            budget = replace(BUDGETS[kind], per_hour=float(pair[0]), burst=float(pair[1]))
            found.setdefault(name, {})[kind] = budget
    return found


@dataclass
class Count:
    """How much was asked of one budget today, and how much of that exceeded it."""

    asked: float = 0
    over: float = 0


class Budgets:
    """The buckets.

    Args:
        find: the peer with a facility key, or None.
        overrides: from the settings.
        clock: tells the day.
        now: gives seconds of a clock that does not go back.
        free_bytes: gives the free space on the home's disk; asks the disk.
    """

    def __init__(
        self,
        find: Callable[[bytes], Peer | None],
        overrides: Overrides,
        clock: Clock,
        now: Callable[[], float],
        free_bytes: Callable[[], int],
    ) -> None:
        self._free_bytes = free_bytes
        self._find = find
        self._overrides = overrides
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._buckets: dict[tuple[bytes, str], Bucket] = {}
        self._day = 0
        self._counts: dict[bytes, dict[str, Count]] = {}

    def take(self, facility_key: bytes, kind: str, amount: float = 1) -> bool:
        """Use an amount of a budget if that much is left now; returns whether it is."""
        budget = self._budget(facility_key, kind)
        per_second = budget.per_hour / _HOUR_SECONDS
        with self._lock:
            bucket = self._buckets.setdefault((facility_key, kind), Bucket())
            taken = bucket.take(amount, per_second, budget.burst, self._now())
            self._count(facility_key, kind, amount, over=not taken)
        return taken

    def wait(self, facility_key: bytes, kind: str, amount: float = 1) -> float:
        """Use an amount of a budget; returns the seconds to wait before doing what it is for."""
        budget = self._budget(facility_key, kind)
        per_second = budget.per_hour / _HOUR_SECONDS
        with self._lock:
            bucket = self._buckets.setdefault((facility_key, kind), Bucket())
            seconds = bucket.reserve(amount, per_second, budget.burst - amount, self._now())
            self._count(facility_key, kind, amount, over=seconds > 0)
        return seconds

    def missing(self, facility_key: bytes, kind: str) -> float:
        """Seconds until an amount of 1 can be taken from a budget; asking uses nothing of it."""
        budget = self._budget(facility_key, kind)
        per_second = budget.per_hour / _HOUR_SECONDS
        with self._lock:
            bucket = self._buckets.get((facility_key, kind))
            if bucket is None:
                return 0.0
            return bucket.missing(1, per_second, budget.burst, self._now())

    def has_room(self) -> bool:
        """Whether the disk has room for what peers cause in database and log.

        Images stop earlier (`RESERVE_BYTES` of the store). The space that is left is for the
        operator: a revocation needs its entry.
        """
        return self._free_bytes() > RESERVE_BYTES

    def today(self, facility_key: bytes) -> dict[str, dict[str, int]]:
        """What a facility caused since midnight UTC: by kind, the amount, and how much was over."""
        with self._lock:
            self._turn_day()
            counts = self._counts.get(facility_key, {})
            return {
                kind: {"count": round(one.asked), "over": round(one.over)}
                for kind, one in counts.items()
            }

    def _budget(self, facility_key: bytes, kind: str) -> Budget:
        if self._overrides:
            peer = self._find(facility_key)
            names = (peer.fingerprint, peer.petname) if peer is not None else ()
            for name in (*names, EVERYONE):
                if kind in self._overrides.get(name, {}):
                    return self._overrides[name][kind]
        return BUDGETS[kind]

    def _count(self, facility_key: bytes, kind: str, amount: float, *, over: bool) -> None:
        self._turn_day()
        count = self._counts.setdefault(facility_key, {}).setdefault(kind, Count())
        count.asked += amount
        count.over += amount if over else 0

    def _turn_day(self) -> None:
        day = self._clock.now() // _DAY_SECONDS
        if day != self._day:
            self._day = day
            self._counts.clear()
