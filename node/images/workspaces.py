"""Workspaces of the pixel-aware encoding, lent to working threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.pixels import Workspace


class Workspaces:
    """As many workspaces as were ever needed at once, of some megabytes each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Workspace] = []

    @contextmanager
    def borrowed(self) -> Iterator[Workspace]:
        """A workspace for this thread alone; data decoded in it is valid only inside the block."""
        with self._lock:
            workspace = self._idle.pop() if self._idle else Workspace()
        try:
            yield workspace
        finally:
            with self._lock:
                self._idle.append(workspace)

    def clear(self) -> None:
        """Let go of those that nobody uses."""
        with self._lock:
            self._idle.clear()
