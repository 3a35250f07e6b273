"""Which source is asked for which batches next: arithmetic on sizes and times, no effects.

Each source is given work for about `WORK_SECONDS` by its measured speed, and new
work when half of that is left, so that its pipe stays full and what it has been
given is never much; near the end, only what it will have sent before the others
are done with the rest. When nothing is left to give, a source that is free takes
over what another one is late with; the batch that comes second is discarded.
"""

import heapq
import math
from collections.abc import Mapping

from protocol import limits

WORK_SECONDS = 1.5
"""How much work a source is given. Less costs round trips, more makes the end later."""

LEAST_BATCHES = 2
"""Under way with a source at least: one on the wire while the other is verified."""

LATE_SECONDS = 1.0
"""A batch that is expected later than this may be asked of another source too."""

_MEMORY_SECONDS = 2.0
"""How fast the measured speed forgets."""


class _Source:
    """What one source has been asked for, and how fast it is."""

    def __init__(self, now: float) -> None:
        self.under_way: dict[int, int] = {}
        self.asked: set[int] = set()
        self.heard = now
        self._bytes = 0.0
        self._seconds = 0.0

    @property
    def speed(self) -> float:
        """Encoded bytes a second, 0 while unknown."""
        return self._bytes / self._seconds if self._seconds > 0 else 0.0

    def ask(self, batch: int, size: int, now: float) -> None:
        if not self.under_way:
            # Time without work says nothing of its speed.
            self.heard = now
        self.under_way[batch] = size
        self.asked.add(batch)

    def arrived(self, batch: int, now: float) -> None:
        passed = now - self.heard
        kept = math.exp(-passed / _MEMORY_SECONDS)
        self._bytes = self._bytes * kept + self.under_way.pop(batch, 0)
        self._seconds = self._seconds * kept + passed
        self.heard = now

    def seconds_for(self, size: int) -> float:
        """How long it takes for what it was asked for and `size` bytes more."""
        if self.speed == 0:
            return 0.0
        return (sum(self.under_way.values()) + size) / self.speed

    def expected(self, now: float) -> dict[int, float]:
        """In how many seconds each batch should be here; who is silent stays silent as long."""
        ahead, expected = 0, {}
        for batch, size in self.under_way.items():
            ahead += size
            by_speed = ahead / self.speed if self.speed else 0.0
            expected[batch] = max(by_speed, now - self.heard)
        return expected


class Portions:
    """Divides the missing batches of a study among its sources.

    Args:
        missing: batches (indices into the manifest) and their encoded sizes.
        several: whether there may be more than one source; a lone one is asked for
            everything at once.
    """

    def __init__(self, missing: Mapping[int, int], *, several: bool) -> None:
        self._missing = dict(missing)
        self._several = several
        self._free = sorted(missing)
        self._free_bytes = sum(missing.values())
        self._sources: dict[bytes, _Source] = {}

    def expect_several(self) -> None:
        """There is going to be more than one source, also when there was one until now."""
        self._several = True

    @property
    def missing(self) -> frozenset[int]:
        """Batches that have not arrived."""
        return frozenset(self._missing)

    def is_missing(self, batch: int) -> bool:
        """Whether this batch has not arrived."""
        return batch in self._missing

    def join(self, source: bytes, now: float) -> None:
        """A source is ready; every missing batch may be asked of it.

        Args:
            source: its name.
            now: seconds, of any clock that only goes forward.
        """
        self._sources[source] = _Source(now)

    def leave(self, source: bytes) -> None:
        """A source is gone; what only it was asked for is given to others."""
        gone = self._sources.pop(source)
        others = {batch for one in self._sources.values() for batch in one.under_way}
        for batch in gone.under_way:
            if batch in self._missing and batch not in others:
                heapq.heappush(self._free, batch)
                self._free_bytes += self._missing[batch]

    def owes(self, source: bytes) -> bool:
        """Whether something that a source was asked for is still to come."""
        return bool(self._sources[source].under_way)

    def next_portion(self, source: bytes, now: float) -> tuple[list[int], bool]:
        """What to ask of a source now, ascending, and whether that is all for good."""
        one = self._sources[source]
        if not self._several:
            portion = self._free[: limits.WANT_RUNS]
            del self._free[: limits.WANT_RUNS]
        else:
            portion = self._fresh(one, now) or self._late(one, now)
        for batch in portion:
            one.ask(batch, self._missing[batch], now)
        return sorted(portion), not (self._free if not self._several else self._missing)

    def arrived(self, source: bytes, batch: int, now: float) -> bool:
        """A batch came from a source and is stored; False when it was here before.

        What comes with a whole study may never have been asked for.
        """
        self._sources[source].arrived(batch, now)
        return self._missing.pop(batch, None) is not None

    def _fresh(self, one: _Source, now: float) -> list[int]:
        """Batches that nobody was asked for, as many as the source is to have."""
        room = int(one.speed * WORK_SECONDS)
        under_way, count = sum(one.under_way.values()), len(one.under_way)
        if count >= LEAST_BATCHES and under_way > room / 2:
            return []
        portion: list[int] = []
        while (
            self._free
            and (under_way < room or count < LEAST_BATCHES)
            and len(portion) < limits.WANT_RUNS
            and self._is_worth_it(one, under_way, now)
        ):
            batch = heapq.heappop(self._free)
            portion.append(batch)
            self._free_bytes -= self._missing[batch]
            under_way += self._missing[batch]
            count += 1
        return portion

    def _is_worth_it(self, one: _Source, under_way: int, now: float) -> bool:
        """Whether a source brings the next batch before the others could bring all the rest.

        The fastest one always does, once it has nothing else to send. Silent ones
        do not count.
        """
        size = self._missing[self._free[0]]
        others = [
            other
            for other in self._sources.values()
            if other is not one
            and other.speed
            and (not other.under_way or now - other.heard < LATE_SECONDS)
        ]
        if not others or not one.speed:
            return True
        left = self._free_bytes + sum(sum(other.under_way.values()) for other in others)
        speeds = [other.speed for other in others]
        without = max(left / sum(speeds), size / max(speeds))
        return (under_way + size) / one.speed <= without

    def _late(self, one: _Source, now: float) -> list[int]:
        """A batch that another source is late with, when this one is twice as early."""
        if self._free or len(one.under_way) >= LEAST_BATCHES:
            return []
        soonest: dict[int, float] = {}
        for other in self._sources.values():
            for batch, seconds in other.expected(now).items():
                soonest[batch] = min(seconds, soonest.get(batch, math.inf))
        for batch, seconds in sorted(soonest.items(), key=lambda item: -item[1]):
            if seconds <= LATE_SECONDS:
                break
            if (
                batch in self._missing
                and batch not in one.asked
                and seconds > 2 * one.seconds_for(self._missing[batch])
            ):
                return [batch]
        return []
