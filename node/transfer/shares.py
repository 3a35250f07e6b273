"""Places for work, shared fairly among the sources whose work it is.

Each batch that arrives is decoded and compared in a thread, and there are few of them.
First come, first served would give most of them to the source that sends the most, or whose batches
take longest. Here the source with the fewest places goes first; among equals, the one that has used
them for the least time.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio


@dataclass
class _Used:
    """What one source uses."""

    used_seconds: float
    running: int = 0
    waiting: deque[trio.Event] = field(default_factory=deque)


class Shares:
    """A number of places, and who waits for one.

    Args:
        places: how many may work at once.
        clock: seconds, of any clock that only goes forward.
    """

    def __init__(self, places: int, clock: Callable[[], float] = trio.current_time) -> None:
        self._free = places
        self._clock = clock
        self._sources: dict[bytes, _Used] = {}

    def of(self, whose: bytes) -> "Share":
        """The share of one source.

        Args:
            whose: name of the source whose work it is.
        """
        return Share(self, whose)

    async def _take(self, whose: bytes) -> float:
        """Wait for a place; when it was taken, by our clock."""
        await trio.lowlevel.checkpoint_if_cancelled()
        used = self._sources.get(whose)
        if used is None:
            # A source that comes, or comes back, is owed nothing for the time it was away.
            least = min((one.used_seconds for one in self._sources.values()), default=0.0)
            used = self._sources[whose] = _Used(least)
        turn = trio.Event()
        used.waiting.append(turn)
        self._admit()
        # A free place is taken without a round through the event loop.
        if not turn.is_set():
            try:
                await turn.wait()
            except trio.Cancelled:
                if turn.is_set():
                    self._leave(whose, 0.0)
                else:
                    used.waiting.remove(turn)
                    self._forget(whose)
                raise
        return self._clock()

    def _leave(self, whose: bytes, seconds: float) -> None:
        used = self._sources[whose]
        used.used_seconds += seconds
        used.running -= 1
        self._free += 1
        self._forget(whose)
        self._admit()

    def _forget(self, whose: bytes) -> None:
        used = self._sources[whose]
        if not used.running and not used.waiting:
            del self._sources[whose]

    def _admit(self) -> None:
        while self._free:
            waiting = [used for used in self._sources.values() if used.waiting]
            if not waiting:
                return
            used = min(waiting, key=lambda one: (one.running, one.used_seconds))
            used.running += 1
            self._free -= 1
            used.waiting.popleft().set()


class Share:
    """What one source has of the places: a limiter for `node.blocking.in_thread`.

    As a limiter, it gives a place on as soon as a thread is done, which is a round through the
    event loop earlier than the task that waits for the thread could.
    """

    def __init__(self, shares: Shares, whose: bytes) -> None:
        self._shares = shares
        self._whose = whose
        self._since: dict[object, float] = {}

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a place and hold it."""
        self._since[borrower] = await self._shares._take(self._whose)

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give a place back, and count how long it was held."""
        since = self._since.pop(borrower)
        self._shares._leave(self._whose, self._shares._clock() - since)
