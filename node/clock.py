"""The node's clock: the wall clock of the machine, passed in wherever time decides.

A card, a trust or a grant ends at a date by the wall clock, and a clock that is set back
must not prolong it. So `now`, which decides about rights, is never less than the wall
clock at the start plus the running time since. Dates in the log are from the wall clock.
While a machine is suspended, the running time stops but the wall clock does not; so a wait
for a date looks at the clock again each second.
"""

import time
from collections.abc import Callable
from typing import Protocol

LOOK_SECONDS = 1.0
"""Longest time in a wait for a date without a look at the wall clock."""


class Clock(Protocol):
    """The time, for all parts of a node."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""

    def now(self) -> int:
        """Whole seconds since the epoch, UTC, for decisions: a clock set back is passed over."""

    def running(self) -> float:
        """Seconds that never go back, since some moment: for budgets and pauses."""


class SystemClock:
    """The machine's wall clock.

    Args:
        wall: returns nanoseconds since the epoch, UTC.
        running: returns nanoseconds of a clock that never goes back.
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
"""The clock of a node that is given no other."""


def local_date(now: int) -> str:
    """The date here, YYYYMMDD, by the time zone of this machine.

    Args:
        now: seconds since the epoch, UTC.
    """
    return time.strftime("%Y%m%d", time.localtime(now))


def local_time(now: int) -> tuple[int, int]:
    """Minute of the day and weekday (0 for Monday) here, by the time zone of this machine.

    Args:
        now: seconds since the epoch, UTC.
    """
    local = time.localtime(now)
    return local.tm_hour * 60 + local.tm_min, local.tm_wday
