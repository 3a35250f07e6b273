"""A workspace for the pixel-aware encoding in each worker thread."""

import threading

from protocol.pixels import Workspace


class Workspaces(threading.local):
    """Attribute `own` is the workspace of the thread that asks."""

    def __init__(self) -> None:
        self.own = Workspace()
