"""One yamux stream: its unread data and both windows.

`node/network/muxer.py` owns the connection of the stream, and the frames.

Windows (yamux specification, "Flow control"): each side may send 256 KiB on a new
stream, and more as the other grants it, first in the frame that opens it. We grant
when half of the window has been read, so that one frame of grant serves many reads,
and double the window while the reader keeps up, since then the window is what holds
the peer back.

Data is kept as it was decrypted, without a copy, unless it is a small part of its message: a peer
that sends one byte in a frame must not make us hold its whole message.
"""

from collections import deque
from typing import Protocol

import trio

INITIAL_WINDOW_BYTES = 256 * 1024
OPENED_WINDOW_BYTES = 1024 * 1024
"""Window of a stream that we open, to request something: at 12.5 MB/s and 40 ms round trip the peer
would have sent the first 256 KiB before it hears that it may send more."""
_LEAST_VIEW_BYTES = 2048
_COLLECTED_BYTES = 64 * 1024


class Carrier(Protocol):
    """The connection, as its streams use it; see `node.network.muxer.Muxer`."""

    block_bytes: int

    async def send_data(self, stream: "MuxedStream", data: memoryview) -> int:
        """Send the beginning of the data; returns how many bytes."""

    def send_end(self, stream: "MuxedStream") -> None:
        """Tell the peer that we write no more."""

    def send_reset(self, stream: "MuxedStream") -> None:
        """Tell the peer that the stream is over."""

    def send_grant(self, stream: "MuxedStream", more: int) -> None:
        """Allow the peer to send so many more bytes."""

    def hold(self, size: int) -> None:
        """Count so many more bytes that wait for a reader."""

    def release(self, size: int) -> None:
        """Count so many bytes that were read or dropped."""

    def may_grow(self, window_bytes: int) -> bool:
        """Whether a window may double; if so, it is counted as doubled."""

    def forget(self, stream: "MuxedStream") -> None:
        """The stream is over for both sides."""


class MuxedStream:
    """One end of a yamux stream; one task may read while another writes.

    Attributes:
        stream_id: of yamux.
        buffered: bytes that came and were not read yet.
        is_over: reset by either side, or its connection is gone.
    """

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        self.stream_id = stream_id
        self.buffered = 0
        self.is_over = False
        self._carrier = carrier
        self._chunks: deque[memoryview | bytearray] = deque()
        self._target = INITIAL_WINDOW_BYTES
        self._granted = INITIAL_WINDOW_BYTES
        self._room = INITIAL_WINDOW_BYTES
        self._ended_by_peer = False
        self._ended_by_us = False
        self._came = trio.lowlevel.ParkingLot()
        self._may_send = trio.lowlevel.ParkingLot()

    @property
    def grown_bytes(self) -> int:
        """How much larger its window is than that of a new stream."""
        return self._target - INITIAL_WINDOW_BYTES

    # --- for who reads and writes --------------------------------------------------

    async def wait_data(self) -> None:
        """Wait until there is data to take.

        Raises:
            EOFError: the peer has ended its half, and all its data was read.
            ConnectionError: the stream is over.
        """
        while not self._chunks:
            if self._ended_by_peer:
                raise EOFError("the peer has ended its half")
            if self.is_over:
                raise ConnectionResetError("the stream is over")
            await self._came.park()

    def take(self, most: int) -> bytes | memoryview:
        """Take some of the unread data, at most `most` bytes; b"" when there is none."""
        if not self._chunks:
            return b""
        chunk = memoryview(self._chunks.popleft())
        if len(chunk) > most:
            self._chunks.appendleft(chunk[most:])
            chunk = chunk[:most]
        self._release(len(chunk))
        self._grant()
        return chunk

    async def read(self, most: int) -> bytes | memoryview:
        """Wait for data and take some of it; raises as `wait_data` does."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.wait_data()
        return self.take(most)

    async def write(self, data: memoryview) -> int:
        """Send the beginning of the data, as much as the peer has room for.

        Returns:
            How many bytes were sent, at least one.

        Raises:
            ConnectionError: the stream is over, or our half of it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        block_bytes = self._carrier.block_bytes
        while self._room < min(len(data), block_bytes):
            self.check_open()
            await self._may_send.park()
        if self._room < len(data):
            # Send whole blocks: a frame that does not fill a message costs as much as one that
            # does.
            data = data[: self._room - self._room % block_bytes]
        return await self._carrier.send_data(self, data)

    async def close(self) -> None:
        """End our half; data that was written before is still sent."""
        if not self._ended_by_us and not self.is_over:
            self._ended_by_us = True
            self._carrier.send_end(self)
            self._forget_when_read()

    def reset(self) -> None:
        """End both halves and drop unread data."""
        if not self.is_over:
            self._carrier.send_reset(self)
        self.lose()

    # --- for the connection -----------------------------------------------------------

    def check_open(self) -> None:
        """Raise ConnectionError when nothing more can be sent."""
        if self.is_over or self._ended_by_us:
            raise ConnectionResetError("the stream is over")

    def widen(self) -> int:
        """Enlarge the window of a stream that we open; returns by how much."""
        while self._target < OPENED_WINDOW_BYTES and self._carrier.may_grow(self._target):
            self._target *= 2
        self._granted = self._target
        return self.grown_bytes

    def spend(self, size: int) -> None:
        """Count so many bytes as sent."""
        self._room -= size

    def add_room(self, size: int) -> None:
        """The peer accepts so many more bytes."""
        self._room += size
        self._may_send.unpark_all()

    def admits(self, size: int) -> bool:
        """Whether the peer may send a frame of so many bytes now; if so, count them as sent."""
        if size > self._granted:
            return False
        self._granted -= size
        return True

    def put(self, chunk: memoryview, message_bytes: int) -> None:
        """Store a part of a frame that came in a message of `message_bytes`."""
        if self.is_over or self._ended_by_peer:
            return
        if len(chunk) >= max(_LEAST_VIEW_BYTES, message_bytes // 2):
            self._chunks.append(chunk)
        elif self._chunks and isinstance(last := self._chunks[-1], bytearray):
            last += chunk
            if len(last) >= _COLLECTED_BYTES:
                # A view cannot grow, so the next small part begins another collection.
                self._chunks[-1] = memoryview(last)
        else:
            self._chunks.append(bytearray(chunk))
        self.buffered += len(chunk)
        self._came.unpark_all()
        self._carrier.hold(len(chunk))

    def end_by_peer(self) -> None:
        """The peer has ended its half."""
        self._ended_by_peer = True
        self._came.unpark_all()
        self._forget_when_read()

    def reset_by_peer(self) -> None:
        """The peer has reset the stream; a half that it had ended before may still be read."""
        if not self._ended_by_peer:
            self.lose()
        elif not self.is_over:
            self._end()

    def lose(self) -> None:
        """End the stream and drop unread data."""
        self._chunks.clear()
        self._release(self.buffered)
        self._end()

    def _end(self) -> None:
        self.is_over = True
        self._forget_when_read()
        self._came.unpark_all()
        self._may_send.unpark_all()

    def _forget_when_read(self) -> None:
        """Leave the connection once both sides have ended the stream and all data was read.

        Not before: the connection counts unread data, and drops it when it ends.
        """
        over = self.is_over or (self._ended_by_us and self._ended_by_peer)
        if over and not self.buffered:
            self._carrier.forget(self)

    def _release(self, size: int) -> None:
        self.buffered -= size
        self._carrier.release(size)
        self._forget_when_read()

    def _grant(self) -> None:
        if self._ended_by_peer or self.is_over:
            return
        if self._target - self._granted - self.buffered < self._target // 2:
            return
        if 4 * self.buffered <= self._target and self._carrier.may_grow(self._target):
            self._target *= 2
        more = self._target - self._granted - self.buffered
        self._granted += more
        self._carrier.send_grant(self, more)
