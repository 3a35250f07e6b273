"""A clock that a test sets."""

from dataclasses import dataclass

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
