"""Decisions and the changes that end them: no entry that allows comes after one that forbids.

A decision that something may be told or sent is made and logged together, inside `made`. To take a
right away, first remove it from memory, then call `wait_earlier`, and only then write the entry. So
the order of the entries in the log is the true one.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator


class Decisions:
    """Decisions under way. Thread-safe; a decision lasts as long as its entry takes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._generation = 0
        self._under_way: Counter[int] = Counter()

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Check the rights and log the decision inside this block."""
        with self._changed:
            generation = self._generation
            self._under_way[generation] += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way[generation] -= 1
                if not self._under_way[generation]:
                    del self._under_way[generation]
                    self._changed.notify_all()

    def wait_earlier(self) -> None:
        """Wait for the decisions that may rest on rights from before this call."""
        with self._changed:
            self._generation += 1
            now = self._generation
            self._changed.wait_for(lambda: all(one >= now for one in self._under_way))
