"""Which source is asked for which batches next: arithmetic on sizes and times, no effects.

Each source is asked for about `WORK_SECONDS` of work at its measured speed, and for more when half
of that is left, so that its pipe stays full and little is outstanding; near the end, only for
batches that it will have sent before the others finish the rest. When no batch is left to ask for,
a free source takes over a batch with which another is late; the copy that comes second is
discarded.
"""

import heapq
import math
from collections.abc import Mapping

from protocol import limits

WORK_SECONDS = 1.5
"""How much work a source is asked for. Less costs round trips, more delays the end."""

LEAST_BATCHES = 2
"""Fewest batches under way with a source: one on the wire while the other is verified."""

LATE_SECONDS = 1.0
"""A batch that is expected later than this may also be asked of another source."""

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
            # Idle time must not count against its speed.
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
        """How long it takes for the batches it was asked for and `size` bytes more."""
        if self.speed == 0:
            return 0.0
        return (sum(self.under_way.values()) + size) / self.speed

    def expected(self, now: float) -> dict[int, float]:
        """Seconds until each batch should be here; silence so far counts as a delay to come."""
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
        """From now on there may be more than one source."""
        self._several = True

    @property
    def missing(self) -> frozenset[int]:
        """Batches that have not arrived."""
        return frozenset(self._missing)

    def is_missing(self, batch: int) -> bool:
        """Whether this batch has not arrived."""
        return batch in self._missing

    def join(self, source: bytes, now: float) -> None:
        """A source is ready to be asked for any missing batch.

        Args:
            source: its name.
            now: seconds, of any clock that only goes forward.
        """
        self._sources[source] = _Source(now)

    def leave(self, source: bytes) -> None:
        """A source is gone; batches that only it was asked for are free for others."""
        gone = self._sources.pop(source)
        others = {batch for one in self._sources.values() for batch in one.under_way}
        for batch in gone.under_way:
            if batch in self._missing and batch not in others:
                heapq.heappush(self._free, batch)
                self._free_bytes += self._missing[batch]

    def owes(self, source: bytes) -> bool:
        """Whether a batch that a source was asked for is still to come."""
        return bool(self._sources[source].under_way)

    def next_portion(self, source: bytes, now: float) -> tuple[list[int], bool]:
        """Batches to ask of a source now, ascending, and whether it will be asked for no more."""
        one = self._sources[source]
        if not self._several:
            portion = self._free[: limits.WANT_RUNS]
            del self._free[: limits.WANT_RUNS]
            self._free_bytes -= sum(self._missing[batch] for batch in portion)
        else:
            portion = self._fresh(one, now) or self._late(one, now)
        for batch in portion:
            one.ask(batch, self._missing[batch], now)
        return sorted(portion), not (self._free if not self._several else self._missing)

    def arrived(self, source: bytes, batch: int, now: float) -> bool:
        """A batch came from a source and is stored; False when it was here already.

        A source that sends a whole study unasked sends batches that it was never asked for.
        """
        one = self._sources[source]
        was_asked = batch in one.under_way
        one.arrived(batch, now)
        size = self._missing.pop(batch, None)
        if size is not None and not was_asked and batch in self._free:
            self._free.remove(batch)
            heapq.heapify(self._free)
            self._free_bytes -= size
        return size is not None

    def _fresh(self, one: _Source, now: float) -> list[int]:
        """Batches that no source was asked for yet, as many as this source should have."""
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

        The fastest source always does, once it has nothing else to send. Silent sources do not
        count.
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
        """A batch with which another source is late and which this one can bring twice as early."""
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
