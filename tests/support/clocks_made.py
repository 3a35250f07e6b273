"""Clocks that a test sets, or that jump."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trio
import trio.testing

START_MS = 1_800_000_000_000


@dataclass
class MadeClock:
    """A `node.clock.Clock` that moves only when a test moves it."""

    time_ms: int = START_MS

    def now_ms(self) -> int:
        return self.time_ms

    def now(self) -> int:
        return self.time_ms // 1000

    def running(self) -> float:
        return self.time_ms / 1000

    def move(self, seconds: float) -> None:
        self.time_ms += round(seconds * 1000)


@contextmanager
def jumps_when_idle(clock: trio.testing.MockClock) -> Iterator[None]:
    """Inside this block, a mock clock jumps when all tasks wait and no thread works.

    Trio's own autojump does not consider threads: on a busy machine it jumps past every
    time limit while a thread works.
    """
    run_sync, at_work = trio.to_thread.run_sync, 0

    async def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal at_work
        at_work += 1
        clock.autojump_threshold = math.inf
        try:
            return await run_sync(*arguments, **more)
        finally:
            at_work -= 1
            if not at_work:
                clock.autojump_threshold = 0

    trio.to_thread.run_sync = counted  # type: ignore[assignment]
    clock.autojump_threshold = 0
    try:
        yield
    finally:
        clock.autojump_threshold = math.inf
        trio.to_thread.run_sync = run_sync
