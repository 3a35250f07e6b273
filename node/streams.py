"""One libp2p stream to a peer, with deadlines, and the errors that it ends in.

Owns what may be done with a stream; opening and accepting belongs to
`node/network.py`. The rules come from what the library does:

- End of stream proves nothing (a crash of the peer looks the same), so that
  every way a stream can end is `StreamLost`; what was promised is checked by
  length, digest and answer, one layer up.
- A read or write that is cancelled may have lost bytes on the way: the stream
  is then unusable for good and says so.
- The library gives a writer up after 5 s without window, which a peer busy with
  its disk needs. Here the writer waits for room *before* it enters the library,
  for as long as the caller allows.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import trio

READ_BYTES = 1024 * 1024
"""Most bytes of one read: reading with less than 256 KiB costs throughput."""

WINDOW_POLL_SECONDS = 0.002
CLOSE_SECONDS = 5.0


class StreamLost(Exception):
    """The stream is over: closed or reset by the peer, or its connection is gone."""


class PeerTimeout(StreamLost):
    """The peer did not answer, or did not take what we sent, in the time given."""


class MuxedStream(Protocol):
    """What is used of libp2p's YamuxStream."""

    send_window: int
    closed: bool
    send_closed: bool

    async def read(self, n: int) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class PeerStream:
    """A byte stream to an authenticated peer.

    One task may read while another writes. `async with stream:` finishes it: on
    leaving, what was written still reaches the peer, or the stream is reset when
    an exception is on its way.

    Attributes:
        peer: node public key of the peer, 32 bytes, proved by Noise.
        protocol_id: the protocol this stream was opened for.
    """

    def __init__(
        self,
        muxed: MuxedStream,
        *,
        peer: bytes,
        protocol_id: str,
        block_bytes: int,
        abandon: Callable[[], None],
        linger: Callable[[], None],
    ) -> None:
        """Wrap a negotiated stream.

        Args:
            muxed: the library's stream.
            peer: 32 bytes.
            protocol_id: what was negotiated.
            block_bytes: most bytes given to the library at once.
            abandon: resets the stream without waiting.
            linger: lets the peer finish reading, then frees the stream.
        """
        self.peer = peer
        self.protocol_id = protocol_id
        self._muxed = muxed
        self._block_bytes = block_bytes
        self._abandon = abandon
        self._linger = linger
        self._lost = False
        self._finished = False

    async def read(self, max_bytes: int = READ_BYTES, *, timeout_seconds: float) -> bytes:
        """Wait for data; returns 1..max_bytes bytes, whatever is there.

        Raises:
            StreamLost: the peer closed or reset the stream, or the connection died.
            PeerTimeout: nothing came in time; the stream has been reset.
        """
        if self._lost:
            raise StreamLost("the stream is over")
        with self._deadline(timeout_seconds) as scope:
            try:
                data = await self._muxed.read(max_bytes)
            except trio.Cancelled:
                self._lost = True
                raise
            except EOFError as error:
                # Only the peer's half is over; our answer may still go out.
                raise StreamLost("the peer closed the stream or went away") from error
            except Exception as error:
                self._lose()
                raise StreamLost("the peer reset the stream or went away") from error
        if scope.cancelled_caught:
            self._lose()
            raise PeerTimeout(f"nothing from the peer for {timeout_seconds:g} s")
        if not data:
            raise StreamLost("the peer closed the stream or went away")
        return data

    async def write(self, data: bytes | bytearray | memoryview, *, timeout_seconds: float) -> None:
        """Send everything; returning does not mean that the peer has it.

        Args:
            data: any number of bytes; split into blocks.
            timeout_seconds: longest wait for the peer to make room for one block,
                so that a large write may take longer in all.

        Raises:
            StreamLost: the stream or the connection ended.
            PeerTimeout: the peer took nothing for so long; the stream has been reset.
        """
        if self._lost:
            raise StreamLost("the stream is over")
        view = memoryview(data).cast("B")
        muxed = self._muxed
        with self._deadline(timeout_seconds) as scope:
            try:
                for start in range(0, len(view), self._block_bytes):
                    block = view[start : start + self._block_bytes]
                    scope.deadline = trio.current_time() + timeout_seconds
                    while muxed.send_window < len(block):
                        if muxed.closed or muxed.send_closed:
                            raise StreamLost("the peer reset the stream or went away")
                        await trio.sleep(WINDOW_POLL_SECONDS)
                    # The library only slices and concatenates what it is given.
                    await muxed.write(block)  # type: ignore[arg-type]
            except trio.Cancelled:
                self._lost = True
                raise
            except Exception as error:
                self._lose()
                raise StreamLost("the peer reset the stream or went away") from error
        if scope.cancelled_caught:
            self._lose()
            raise PeerTimeout(f"the peer took nothing for {timeout_seconds:g} s")

    async def close(self) -> None:
        """Say that we will write no more; reading goes on. Never raises StreamLost."""
        if self._lost:
            return
        with trio.move_on_after(CLOSE_SECONDS) as scope:
            try:
                await self._muxed.close()
            except Exception:
                self._lose()
        if scope.cancelled_caught:
            self._lose()

    async def reset(self) -> None:
        """End the stream in both directions now; does not wait for the peer."""
        self._lose()

    async def finish(self) -> None:
        """Close our side and free the stream once the peer has closed its own."""
        if self._finished:
            return
        if self._lost:
            self._lose()
            return
        await self.close()
        if not self._finished:
            self._finished = True
            self._linger()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.finish()
        else:
            self._lose()

    def _deadline(self, seconds: float) -> trio.CancelScope:
        return trio.CancelScope(deadline=trio.current_time() + seconds)

    def _lose(self) -> None:
        self._lost = True
        if not self._finished:
            self._finished = True
            self._abandon()
