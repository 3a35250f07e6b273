"""Places for work, shared fairly among the sources whose work it is.

Each batch that arrives is decoded and compared in a thread, and there are few of them.
First come, first served would give most of them to the source that sends the most, or whose batches
take longest. Here the source with the fewest places goes first; among equals, the one that has used
them for the least time.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass
class _Share:
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
        self._shares: dict[bytes, _Share] = {}

    @asynccontextmanager
    async def place(self, whose: bytes) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Args:
            whose: name of the source whose work it is.
        """
        share = self._shares.get(whose)
        if share is None:
            # A source that comes, or comes back, is owed nothing for the time it was away.
            least = min((one.used_seconds for one in self._shares.values()), default=0.0)
            share = self._shares[whose] = _Share(least)
        try:
            await self._begin(share)
            began = self._clock()
            try:
                yield
            finally:
                share.used_seconds += self._clock() - began
                share.running -= 1
                self._free += 1
        finally:
            if not share.running and not share.waiting:
                del self._shares[whose]
            self._admit()

    async def _begin(self, share: _Share) -> None:
        turn = trio.Event()
        share.waiting.append(turn)
        self._admit()
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                share.running -= 1
                self._free += 1
            else:
                share.waiting.remove(turn)
            raise

    def _admit(self) -> None:
        while self._free:
            waiting = [share for share in self._shares.values() if share.waiting]
            if not waiting:
                return
            share = min(waiting, key=lambda one: (one.running, one.used_seconds))
            share.running += 1
            self._free -= 1
            share.waiting.popleft().set()
