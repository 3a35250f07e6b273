"""The node's clock: the wall clock of the machine, passed in wherever time decides.

What ends by a date (a card, a trust, a grant) ends by the wall clock. A suspended
machine or a clock that was set must not prolong it, so `sleep_until` never waits for a
date in one piece: it looks again each second.
"""

import time
from typing import Protocol

import trio

LOOK_SECONDS = 1.0
"""How long a wait for a date goes on without a look at the wall clock."""


class Clock(Protocol):
    """Tells the time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""

    def now(self) -> int:
        """Whole seconds since the epoch, UTC."""


class SystemClock:
    """The machine's wall clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000

    def now(self) -> int:
        """Whole seconds since the epoch, UTC."""
        return self.now_ms() // 1000


SYSTEM_CLOCK = SystemClock()
"""What a node has unless it is given another."""


async def sleep_until(clock: Clock, seconds: float) -> None:
    """Wait until the clock shows a date, seconds since the epoch, UTC."""
    # A wall clock gives no event to wait for.
    while (left := seconds - clock.now_ms() / 1000) > 0:  # noqa: ASYNC110
        await trio.sleep(min(left, LOOK_SECONDS))
