"""One stream to a peer, with deadlines, and the errors that it ends in.

Owns reading, writing and ending a stream; `node/network/connection.py` opens and accepts streams.

- End of stream proves nothing (a crash of the peer looks the same), so every end of a stream is
  `StreamLost`; the layer above checks by length, digest and answer that everything came.
- A read or write that is cancelled may have lost bytes: the stream is then unusable for good, and
  raises `StreamLost`.
- A stream that we opened may be written to before the peer has agreed to its
  protocol. If the peer declines, the first read or write after its answer has come raises the
  error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import trio

from node.network.muxed import MuxedStream
from node.network.negotiation import Answers, BadLine, Declined

READ_BYTES = 1024 * 1024
"""Most bytes of one read."""

CLOSE_SECONDS = 5.0

Bytes = bytes | bytearray | memoryview


class StreamLost(Exception):
    """The stream is over: closed or reset by the peer, or its connection is gone."""


class PeerTimeout(StreamLost):
    """The peer did not answer, or did not take what we sent, in the time given."""


class Muxed(Protocol):
    """The part of `node.network.muxed.MuxedStream` that is used here; see there."""

    def take(self, most: int) -> bytes | memoryview: ...

    async def read(self, most: int) -> bytes | memoryview: ...

    async def write(self, data: memoryview) -> int: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class _Opening:
    """A stream of ours to which the peer has not agreed yet."""

    answers: Answers
    muxed: MuxedStream
    deadline: float


class PeerStream:
    """A byte stream to an authenticated peer.

    One task may read while another writes. `async with stream:` finishes it: on leaving, data that
    was written still reaches the peer; after an exception the stream is reset instead.

    Attributes:
        peer: node public key of the peer, 32 bytes, proved by Noise.
        protocol_id: the protocol this stream was opened for.
    """

    def __init__(
        self,
        muxed: Muxed,
        *,
        peer: bytes,
        protocol_id: str,
        abandon: Callable[[], None],
        linger: Callable[[], object],
    ) -> None:
        """Wrap a stream.

        Args:
            muxed: the yamux stream below.
            peer: node public key of the peer, 32 bytes.
            protocol_id: the protocol of the stream.
            abandon: resets the stream without waiting.
            linger: lets the peer finish reading, then frees the stream.
        """
        self.peer = peer
        self.protocol_id = protocol_id
        self._muxed = muxed
        self._abandon = abandon
        self._linger = linger
        self._lost = False
        self._finished = False
        self._opening: _Opening | None = None

    def await_answers(self, answers: Answers, muxed: MuxedStream, deadline: float) -> None:
        """Expect the peer to agree to the protocol by the deadline (trio's time)."""
        self._opening = _Opening(answers, muxed, deadline)

    async def read(
        self, max_bytes: int = READ_BYTES, *, timeout_seconds: float
    ) -> bytes | memoryview:
        """Wait for data; returns 1..max_bytes bytes: at most one message of the connection.

        Raises:
            StreamLost: the peer closed, reset or declined the stream, or the connection ended.
            PeerTimeout: nothing came in time; the stream has been reset.
        """
        if self._lost:
            raise StreamLost("the stream is over")
        if self._opening is None:
            data = await self._take(max_bytes)
            if data:
                return data
        with self._deadline(timeout_seconds) as scope:
            try:
                if self._opening is not None:
                    await self._wait_answers(scope)
                data = await self._muxed.read(max_bytes)
            except trio.Cancelled:
                self._lost = True
                raise
            except StreamLost:
                raise
            except EOFError as error:
                # Only the peer's half is over; our answer may still go out.
                raise StreamLost("the peer closed the stream or went away") from error
            except Exception as error:
                self._lose()
                raise StreamLost("the peer reset the stream or went away") from error
        if scope.cancelled_caught:
            self._lose()
            if self._opening is not None:
                raise PeerTimeout("the peer did not answer on a new stream")
            raise PeerTimeout(f"nothing from the peer for {timeout_seconds:g} s")
        if not data:
            raise StreamLost("the peer closed the stream or went away")
        return data

    async def _take(self, max_bytes: int) -> bytes | memoryview:
        """Take data that is there already; a scope with a deadline costs more than all the rest."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            self._lost = True
            raise
        return self._muxed.take(max_bytes)

    async def write(self, data: Bytes, *, timeout_seconds: float) -> None:
        """Send everything; returning does not mean that the peer has it.

        Args:
            data: any number of bytes.
            timeout_seconds: longest wait for the peer to make room for more, so that
                a large write may take longer in all.

        Raises:
            StreamLost: the stream or the connection ended, or the peer declined the stream.
            PeerTimeout: the peer accepted nothing for that long; the stream has been reset.
        """
        if self._lost:
            raise StreamLost("the stream is over")
        left = memoryview(data).cast("B")
        with self._deadline(timeout_seconds) as scope:
            try:
                while left:
                    if self._opening is not None:
                        self._hear_answers()
                    left = left[await self._muxed.write(left) :]
                    if left:
                        scope.deadline = trio.current_time() + timeout_seconds
            except trio.Cancelled:
                self._lost = True
                raise
            except StreamLost:
                raise
            except Exception as error:
                self._lose()
                if self._opening is not None:
                    raise self._declined() from error
                raise StreamLost("the peer reset the stream or went away") from error
        if scope.cancelled_caught:
            self._lose()
            raise PeerTimeout(f"the peer took nothing for {timeout_seconds:g} s")

    async def _wait_answers(self, scope: trio.CancelScope) -> None:
        """Wait until the peer has agreed to the protocol, at most until its deadline."""
        read_deadline = scope.deadline
        while (opening := self._opening) is not None:
            scope.deadline = min(read_deadline, opening.deadline)
            try:
                await opening.muxed.wait_data()
            except (EOFError, ConnectionError) as error:
                self._lose()
                raise self._declined() from error
            self._hear_answers()
        scope.deadline = read_deadline

    def _hear_answers(self) -> None:
        """Read those of the peer's answers that have come.

        Raises:
            StreamLost: the peer declined the stream, which has been reset.
        """
        while (opening := self._opening) is not None and opening.muxed.buffered:
            data = opening.muxed.take(opening.answers.missing)
            try:
                if opening.answers.receive_untrusted(data):
                    self._opening = None
            except (Declined, BadLine) as error:
                self._lose()
                raise self._declined() from error

    def _declined(self) -> StreamLost:
        return StreamLost(f"the peer does not take a stream of {self.protocol_id}")

    async def close(self) -> None:
        """Tell the peer that we will write no more; reading goes on. Never raises StreamLost."""
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
