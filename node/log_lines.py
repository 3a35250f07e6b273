"""A limit for the process log: lines of one kind about one peer cannot fill it."""

import logging
import threading
import time
from collections.abc import Callable

from node.bucket import Bucket
from protocol.limits import BUDGETS

_KINDS = 10_000
"""Most kinds with a bucket of their own; further kinds share one bucket."""


class LineLimit(logging.Filter):
    """Limits the lines of each kind; the next line says how many were left out.

    A kind is the text of a line before its values are filled in, together with the first
    value, which names the peer if there is one.

    Args:
        now: seconds of a clock that does not go back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._lock = threading.Lock()
        self._buckets: dict[object, Bucket] = {}
        self._left_out: dict[object, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line may be written; changes its text when others were left out."""
        budget = BUDGETS["log-line"]
        arguments = record.args if isinstance(record.args, tuple) else ()
        kind: object = (record.name, record.msg, str(arguments[0])[:64] if arguments else "")
        with self._lock:
            if kind not in self._buckets and len(self._buckets) >= _KINDS:
                kind = None
            bucket = self._buckets.setdefault(kind, Bucket())
            if not bucket.take(1, budget.per_hour / 3600, budget.burst, self._now()):
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                return False
            left_out = self._left_out.pop(kind, 0)
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out} more like this)"
            record.args = ()
        return True
