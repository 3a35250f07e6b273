"""Workspaces of the pixel-aware encoding, lent to the threads that are at work."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.pixels import Workspace


class Workspaces:
    """As many as were ever needed at once, of some megabytes each; threads come and go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Workspace] = []

    @contextmanager
    def borrowed(self) -> Iterator[Workspace]:
        """One for this thread alone; what was decoded in it is good inside of the block."""
        with self._lock:
            workspace = self._idle.pop() if self._idle else Workspace()
        try:
            yield workspace
        finally:
            with self._lock:
                self._idle.append(workspace)
