"""Decisions and the changes that end them: no entry says yes behind one that says no.

Who decides that something may be told or sent does so together with writing the entry of
it, inside `made`. Who takes a right away first has it gone from memory, then calls
`wait_earlier`, and only then writes its own entry. So the order in the log is the truth.
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
        """Look at what is allowed, and log the decision, inside this block."""
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
        """Wait for the decisions that may rest on what was allowed before this call."""
        with self._changed:
            self._generation += 1
            now = self._generation
            self._changed.wait_for(lambda: all(one >= now for one in self._under_way))
