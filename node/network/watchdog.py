"""Notices a peer that sends nothing while we wait for it."""

import contextlib
from collections.abc import Iterator

import trio

from node.network.network import PeerStream, PeerTimeout


class Watchdog:
    """Resets a stream when the peer has owed us something for too long.

    A deadline around each read would not work: reads go on all the time, also while the peer
    rightly waits for us.

    Args:
        stream: the stream to a peer.
    """

    def __init__(self, stream: PeerStream) -> None:
        self._stream = stream
        self._limit_seconds: float | None = None
        self._since = 0.0
        self._changed = trio.Event()

    @contextlib.contextmanager
    def expect(self, limit_seconds: float) -> Iterator[None]:
        """The peer owes us progress, at least every `limit_seconds`, within this block."""
        self._limit_seconds = limit_seconds
        self.progress()
        event, self._changed = self._changed, trio.Event()
        event.set()
        try:
            yield
        finally:
            self._limit_seconds = None

    def progress(self) -> None:
        """Something came from the peer."""
        self._since = trio.current_time()

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            PeerTimeout: the limit passed; the stream has been reset.
        """
        while True:
            if self._limit_seconds is None:
                await self._changed.wait()
                continue
            left = self._since + self._limit_seconds - trio.current_time()
            if left <= 0:
                await self._stream.reset()
                raise PeerTimeout("nothing came from the peer in time")
            await trio.sleep(left)
