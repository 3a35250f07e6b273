"""Many streams on one connection: yamux 1.0.0, and bounds on what a peer can make us hold.

libp2p has yamux too; it reads, copies and locks several times for each frame, accepts any amount
that a peer sends beyond its window, and abandons a writer that waits for room. This is the same
protocol on the wire (hashicorp's yamux specification, as libp2p uses it).

A peer can make us hold: 256 KiB for a stream that nobody has read, at most `buffered_bytes` and
`stream_entries` streams for a connection, and `_CONTROL_BYTES` of answers that it does not accept
(plus the answers to one read of the socket). A stream counts until its data was read or dropped.

The work that a peer can cause is bounded too: a frame that carries little costs as much as a full
one. So a peer that sends many tiny frames is read more slowly (they wait in its own machine), only
a few are handled before other tasks have their turn, and a peer that goes on is cut off.

Tasks: `run` reads and handles frames without waiting for anybody, so that a full socket
never keeps it from reading; `run_writer` sends the short frames that arise meanwhile;
the task that writes data sends it, together with waiting short frames.
"""

import logging
import struct
from collections.abc import Callable

import trio

from node.bucket import Bucket
from node.network.bounds import NetworkLimits
from node.network.channel import PLAIN_BYTES, Channel, ChannelBroken
from node.network.muxed import MuxedStream
from protocol.limits import (
    OPENING_FRAMES,
    TINY_FRAME_BYTES,
    TINY_FRAMES_AT_ONCE,
    TINY_FRAMES_BURST_SECONDS,
    TINY_FRAMES_LASTING_SECONDS,
)

log = logging.getLogger("radmesh.network")

_HEADER = struct.Struct("!BBHII")
_DATA, _WINDOW, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_LAST_STREAM_ID = 2**32 - 1
GONE_NORMALLY, GONE_FOR_A_BROKEN_RULE, GONE_FOR_AN_ERROR_HERE = range(3)
"""Codes of the last frame of a connection (yamux specification, "Go Away")."""
_CONTROL_BYTES = 64 * 1024
_BLOCKS_AT_ONCE = 4
"""Most blocks of data sent together: one system call, and other streams wait only that long."""


class PeerMisbehaved(Exception):
    """The peer broke a rule of yamux; its connection is closed."""


class TooManyStreams(Exception):
    """The most streams of ours that are allowed are open."""


class Muxer:
    """The streams of one connection.

    Args:
        channel: the messages of the connection.
        peer: name of the peer, for the log.
        is_initiator: whether we dialled; decides which stream ids are ours.
        limits: bounds.
        accept: called with each stream that the peer opens; must not block.

    Attributes:
        streams: the streams that are not over, by id.
        block_bytes: most data in a frame that we send; at most half of a new window.
        buffered: bytes that came on any stream and were not read yet.
        is_over: whether the connection has ended.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        peer: str,
        is_initiator: bool,
        limits: NetworkLimits,
        accept: Callable[[MuxedStream], None],
    ) -> None:
        self.streams: dict[int, MuxedStream] = {}
        self.block_bytes = limits.block_bytes
        self.buffered = 0
        self.is_over = False
        self._channel = channel
        self._peer = peer
        self._limits = limits
        self._accept = accept
        self._next_id = 1 if is_initiator else 2
        self._ours = self._next_id % 2
        self._ours_open = 0
        self._grown = 0
        self._header = bytearray()
        self._body: MuxedStream | None = None
        self._body_missing = 0
        self._body_flags = 0
        self._control = bytearray()
        self._control_waits = trio.lowlevel.ParkingLot()
        self._sending = trio.Lock()
        self._stay = trio.CancelScope()
        self._leaving = False
        self._tiny = 0
        self._pace = Bucket()
        self._lasting = Bucket()

    # --- tasks ---------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the connection ends; never raises for what a peer does."""
        try:
            with self._stay:
                while messages := await self._channel.receive():
                    for message in messages:
                        await self._handle(message)
                    if len(self._control) > _CONTROL_BYTES:
                        await self._send_control()
        except PeerMisbehaved as error:
            log.warning("%s %s: its connection is closed", self._peer, error)
            self.say_goodbye(GONE_FOR_A_BROKEN_RULE)
        except ChannelBroken:
            log.warning("%s sent a message that does not decrypt", self._peer)
            self.say_goodbye(GONE_FOR_A_BROKEN_RULE)
        except ConnectionError as error:
            log.debug("the connection to %s ends: %s", self._peer, error)
        except Exception:
            self.say_goodbye(GONE_FOR_AN_ERROR_HERE)
            raise
        finally:
            self.end()

    async def run_writer(self) -> None:
        """Send short frames as they arise, until the connection ends."""
        try:
            while not self.is_over:
                if self._control:
                    await self._send_control()
                else:
                    await self._control_waits.park()
        except ConnectionError as error:
            log.debug("the connection to %s ends: %s", self._peer, error)

    def say_goodbye(self, code: int) -> None:
        """Tell the peer why the connection ends, if that is possible now; the caller then ends it.

        A message that is being sent may be stuck, and nothing can overtake it: then the peer only
        sees the connection end.
        """
        if not self._sending.locked():
            self._channel.send_last(_HEADER.pack(0, _GO_AWAY, 0, 0, code))

    def end(self) -> None:
        """The connection has ended; end every stream on it."""
        self.is_over = True
        self._control_waits.unpark_all()
        for stream in list(self.streams.values()):
            stream.lose()

    # --- for who has a stream ----------------------------------------------------------

    def open_stream(self, first: bytes) -> MuxedStream:
        """Open a stream without asking the peer; its first bytes go out at once.

        Args:
            first: the first bytes of the stream; sent together with the next data, or earlier.

        Raises:
            TooManyStreams: as many as the limit says are open.
            ConnectionError: the connection is gone.
        """
        if self.is_over or self._leaving or self._next_id > _LAST_STREAM_ID:
            raise ConnectionResetError("the connection is over")
        if self._ours_open >= self._limits.opened_streams:
            raise TooManyStreams
        stream = MuxedStream(self, self._next_id)
        self._next_id += 2
        self._ours_open += 1
        self.streams[stream.stream_id] = stream
        self._put_control(_WINDOW, _SYN, stream.stream_id, stream.widen())
        self._put_control(_DATA, 0, stream.stream_id, len(first))
        self._control += first
        stream.spend(len(first))
        return stream

    async def send_data(self, stream: MuxedStream, data: memoryview) -> int:
        """Send the beginning of the data, for which there must be room; returns how many bytes.

        Raises:
            ConnectionError: the stream is over.
        """
        block_bytes = self.block_bytes
        data = data[: _BLOCKS_AT_ONCE * block_bytes]
        try:
            # Sending lets other tasks run; taking a free lock need not do so as well.
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            stream.check_open()
            stream.spend(len(data))
            messages = self._take_control()
            for at in range(0, len(data), block_bytes):
                block = data[at : at + block_bytes]
                header = _HEADER.pack(0, _DATA, 0, stream.stream_id, len(block))
                messages.append(b"".join((header, block)))
            await self._channel.send(messages)
        finally:
            self._sending.release()
        return len(data)

    def send_end(self, stream: MuxedStream) -> None:
        """Tell the peer that we write no more on a stream."""
        self._put_control(_WINDOW, _FIN, stream.stream_id, 0)

    def send_reset(self, stream: MuxedStream) -> None:
        """Tell the peer that a stream is over."""
        if self.streams.get(stream.stream_id) is stream:
            self._put_control(_WINDOW, _RST, stream.stream_id, 0)

    def send_grant(self, stream: MuxedStream, more: int) -> None:
        """Allow the peer to send so many more bytes on a stream."""
        self._put_control(_WINDOW, 0, stream.stream_id, more)

    def ping(self) -> None:
        """Ask for a sign of life; the answer shows as bytes received."""
        self._put_control(_PING, _SYN, 0, 0)

    # --- for the streams -----------------------------------------------------------------

    def hold(self, size: int) -> None:
        """Count so many more bytes that wait for a reader.

        Raises:
            PeerMisbehaved: too many bytes wait.
        """
        self.buffered += size
        if self.buffered > self._limits.buffered_bytes:
            raise PeerMisbehaved("sent too much that nobody has read")

    def release(self, size: int) -> None:
        """Count so many bytes that were read or dropped."""
        self.buffered -= size

    def may_grow(self, window_bytes: int) -> bool:
        """Whether a window of that size may double; if so, it is counted as doubled.

        Half of `buffered_bytes` is for windows that have grown, so that a peer that respects its
        windows is not cut off when all our readers stop.
        """
        grown = self._grown + window_bytes
        if 2 * window_bytes > self._limits.window_bytes or 2 * grown > self._limits.buffered_bytes:
            return False
        self._grown = grown
        return True

    def forget(self, stream: MuxedStream) -> None:
        """A stream is over for both sides."""
        if self.streams.get(stream.stream_id) is not stream:
            return
        del self.streams[stream.stream_id]
        self._grown -= stream.grown_bytes
        self._ours_open -= stream.stream_id % 2 == self._ours

    # --- frames that come ------------------------------------------------------------------

    async def _handle(self, message: bytes) -> None:
        """Handle the frames and parts of frames in one message, a few at a time."""
        self._tiny += len(message) < TINY_FRAME_BYTES
        at = self._take(message, 0)
        while self._tiny >= TINY_FRAMES_AT_ONCE:
            await self._let_others_go_on()
            at = self._take(message, at)

    async def _let_others_go_on(self) -> None:
        """Account for the tiny frames of a turn, and wait while there are too many.

        Raises:
            PeerMisbehaved: too many tiny frames came for too long.
        """
        count, self._tiny = self._tiny, 0
        rate, now = self._limits.tiny_frames_per_second, trio.current_time()
        wait_seconds = self._pace.reserve(count, rate, rate * TINY_FRAMES_BURST_SECONDS, now)
        half = rate / 2
        if not self._lasting.take(count, half, half * TINY_FRAMES_LASTING_SECONDS, now):
            raise PeerMisbehaved("sends frames with little in them without end")
        await trio.sleep(wait_seconds)

    def _take(self, message: bytes, at: int) -> int:
        """Handle a message from offset `at` on; returns the offset where the turn ended."""
        view, end = memoryview(message), len(message)
        while at < end and self._tiny < TINY_FRAMES_AT_ONCE:
            if self._body_missing:
                step = min(self._body_missing, end - at)
                if self._body is not None:
                    self._body.put(view[at : at + step], end)
                self._body_missing -= step
                at += step
                if not self._body_missing:
                    self._finish_frame(self._body, self._body_flags)
            elif self._header or end - at < _HEADER.size:
                step = min(_HEADER.size - len(self._header), end - at)
                self._header += view[at : at + step]
                at += step
                if len(self._header) == _HEADER.size:
                    self._begin_frame(*_HEADER.unpack(self._header))
                    self._header.clear()
            else:
                self._begin_frame(*_HEADER.unpack_from(message, at))
                at += _HEADER.size
        return at

    def _begin_frame(self, version: int, kind: int, flags: int, stream_id: int, size: int) -> None:
        if version != 0 or kind > _GO_AWAY:
            raise PeerMisbehaved("sent a frame that yamux does not have")
        self._tiny += kind != _DATA or size < TINY_FRAME_BYTES
        if kind == _PING:
            if flags & _SYN:
                self._put_control(_PING, _ACK, 0, size)
        elif kind == _GO_AWAY:
            self._hear_goodbye(size)
        else:
            if flags & _SYN:
                self._open_for_peer(stream_id, flags)
            stream = self.streams.get(stream_id)
            if kind == _WINDOW:
                if stream is not None:
                    stream.add_room(size)
                self._finish_frame(stream, flags)
            else:
                self._begin_data(stream, flags, size)

    def _hear_goodbye(self, code: int) -> None:
        """Open no more streams; after a normal goodbye, open streams have a while to end."""
        if code != GONE_NORMALLY:
            raise ConnectionAbortedError(f"the peer says goodbye, with code {code}")
        if not self._leaving:
            self._leaving = True
            self._stay.deadline = trio.current_time() + self._limits.linger_seconds

    def _begin_data(self, stream: MuxedStream | None, flags: int, size: int) -> None:
        if size > self._limits.frame_bytes:
            raise PeerMisbehaved("announced a frame beyond all measure")
        if stream is not None and not stream.admits(size):
            raise PeerMisbehaved("sent more than the receive window")
        if size:
            self._body, self._body_flags, self._body_missing = stream, flags, size
        else:
            self._finish_frame(stream, flags)

    def _finish_frame(self, stream: MuxedStream | None, flags: int) -> None:
        if stream is not None:
            if flags & _FIN:
                stream.end_by_peer()
            if flags & _RST:
                stream.reset_by_peer()
        self._body = None

    def _open_for_peer(self, stream_id: int, flags: int) -> None:
        if stream_id == 0 or stream_id % 2 == self._ours or stream_id in self.streams:
            raise PeerMisbehaved("opened a stream under a number that is not free")
        if flags & _RST:
            return
        if len(self.streams) >= self._limits.stream_entries:
            raise PeerMisbehaved("opened too many streams")
        self._tiny += OPENING_FRAMES
        stream = MuxedStream(self, stream_id)
        self.streams[stream_id] = stream
        self._put_control(_WINDOW, _ACK, stream_id, 0)
        self._accept(stream)

    # --- short frames that go ------------------------------------------------------------

    def _put_control(self, kind: int, flags: int, stream_id: int, size: int) -> None:
        if self.is_over:
            return
        self._control += _HEADER.pack(0, kind, flags, stream_id, size)
        self._control_waits.unpark_all()

    def _take_control(self) -> list[bytes | bytearray]:
        """Take the waiting short frames, as messages."""
        control, self._control = self._control, bytearray()
        if len(control) <= PLAIN_BYTES:
            return [control] if control else []
        return [control[at : at + PLAIN_BYTES] for at in range(0, len(control), PLAIN_BYTES)]

    async def _send_control(self) -> None:
        async with self._sending:
            await self._channel.send(self._take_control())
