"""Budgets on a clock and a disk of a test."""

from clocks_made import MadeClock

from node.sharing.budgets import Budgets


class Time:
    """A clock that a test advances."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def budgets_of(time: Time, clock: MadeClock, free_bytes: int = 1 << 40) -> Budgets:
    """The protocol's budgets, for peers that nobody has trusted."""
    return Budgets(lambda key: None, {}, clock, time, lambda: free_bytes)
