"""Clocks that a test sets: the node's, and trio's."""

from dataclasses import dataclass

import trio
import trio.testing

START_MS = 1_800_000_000_000


@dataclass
class MadeClock:
    """A `node.clock.Clock` that stands still until a test moves it."""

    time_ms: int = START_MS

    def now_ms(self) -> int:
        return self.time_ms

    def now(self) -> int:
        return self.time_ms // 1000

    def move(self, seconds: float) -> None:
        self.time_ms += round(seconds * 1000)


class IdleClock(trio.testing.MockClock):
    """trio's clock, moved to the next deadline when nothing runs, worker threads included.

    `MockClock` alone takes waiting for a thread for idleness: on a slow machine a write to the
    disk would then cost a minute, and time out.
    """

    def __init__(self) -> None:
        # Real seconds: how often it is looked whether something runs.
        super().__init__(autojump_threshold=0.002)

    def _autojump(self) -> None:
        if not trio.to_thread.current_default_thread_limiter().borrowed_tokens:
            super()._autojump()
