"""The node's clock: the wall clock of the machine, passed in wherever time decides.

What ends by a date (a card, a trust, a grant) ends by the wall clock, and a clock that
is set back must not prolong it. So `now`, by which rights are decided, is never less than
the wall clock at the start plus the time since. Dates in the log are those of the wall.
A suspended machine stops the time since, not the wall clock; so nobody waits for a date
in one piece, but looks again each second.
"""

import time
from collections.abc import Callable
from typing import Protocol

LOOK_SECONDS = 1.0
"""How long a wait for a date goes on without a look at the wall clock."""


class Clock(Protocol):
    """Tells the time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""

    def now(self) -> int:
        """Whole seconds since the epoch, UTC, for decisions: a clock set back is passed over."""

    def running(self) -> float:
        """Seconds that never go back, since some moment: for budgets and pauses."""


class SystemClock:
    """The machine's wall clock.

    Args:
        wall: gives nanoseconds since the epoch, UTC.
        running: gives nanoseconds that never go back.
    """

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        running: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall, self._running = wall, running
        self._ahead = wall() - running()

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return self._wall() // 1_000_000

    def now(self) -> int:
        """Whole seconds since the epoch, UTC, for decisions: a clock set back is passed over."""
        return max(self._wall(), self._running() + self._ahead) // 1_000_000_000

    def running(self) -> float:
        """Seconds that never go back, since some moment: for budgets and pauses."""
        return self._running() / 1_000_000_000


SYSTEM_CLOCK = SystemClock()
"""What a node has unless it is given another."""
