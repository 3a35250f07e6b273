"""Budgets on a clock and a disk of a test."""

from clocks_made import MadeClock

from node.sharing.budgets import Budgets


class Time:
    """Seconds that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def budgets_of(time: Time, clock: MadeClock, free_bytes: int = 1 << 40) -> Budgets:
    """Those of the protocol, for peers that nobody has trusted."""
    return Budgets(lambda key: None, {}, clock, time, lambda: free_bytes)
