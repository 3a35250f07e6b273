"""Bounds on what a peer can make a yamux connection hold or wait for.

A part of `node/hardening.py`, for the multiplexer. libp2p builds its Yamux class
by name, whatever it is given, so that a subclass would never be used: the tables
of a connection are replaced instead, before it starts, by ones that say no.

What a peer can make us hold is then: 256 KiB for a stream that nobody has read,
at most `buffered_bytes` (and one stride of 8 MiB) and `stream_entries` streams
for a connection, and one data frame of `frame_bytes` that is being received.
"""

import logging
import struct

import trio
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from node.hardening import NetworkLimits

log = logging.getLogger("radmesh.network")

_STRIDE_BYTES = 8 * 1024 * 1024
_FRAME_HEADER = struct.Struct("!BBHII")
_TYPE_PING, _FLAG_SYN = 2, 1


class PeerMisbehaved(trio.TooSlowError):
    """The peer broke a rule of yamux; its connection is closed.

    A TooSlowError, because that is the one exception which the library's receive
    loop answers by closing the connection cleanly; any other it logs and goes on.
    """


class _Buffer(bytearray):
    """What one stream has received and nobody has read yet."""

    __slots__ = ("_owner", "_stream", "discarding")

    def __init__(self, owner: "_Buffers", stream: YamuxStream) -> None:
        super().__init__()
        self._owner = owner
        self._stream = stream
        self.discarding = False

    def extend(self, data: bytes) -> None:  # type: ignore[override]
        if self.discarding:
            return
        # The library notices the same thing after it has taken the data, and only
        # warns. recv_window is what we granted and the peer has not used: an
        # honest peer cannot exceed it.
        if len(data) > self._stream.recv_window:
            raise self._owner.misbehaved("sent more than the receive window")
        self._owner.count(len(data))
        super().extend(data)


class _Streams(dict[int, YamuxStream]):
    """Streams of a connection by id, bounded in number."""

    def __init__(self, peer: str, most: int) -> None:
        super().__init__()
        self._peer = peer
        self._most = most

    def misbehaved(self, what: str) -> PeerMisbehaved:
        """The error to raise; logged here, since the library calls it a timeout."""
        log.warning("%s %s: its connection is closed", self._peer, what)
        return PeerMisbehaved(what)

    def __setitem__(self, stream_id: int, stream: YamuxStream) -> None:
        if len(self) >= self._most:
            raise self.misbehaved("opened too many streams")
        super().__setitem__(stream_id, stream)


class _Buffers(dict[int, bytearray]):
    """Receive buffers of a connection by stream id, bounded in sum.

    The sum is taken anew each 8 MiB, so that reading need not be watched.
    """

    def __init__(self, streams: _Streams, most_bytes: int) -> None:
        super().__init__()
        self._streams = streams
        self._most_bytes = most_bytes
        self._stride = min(most_bytes, _STRIDE_BYTES)
        self._since = 0

    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        super().__setitem__(stream_id, _Buffer(self, self._streams[stream_id]))

    def count(self, size: int) -> None:
        """Account for size bytes that are about to be buffered."""
        self._since += size
        if self._since < self._stride:
            return
        self._since = 0
        if sum(map(len, self.values())) > self._most_bytes:
            raise self.misbehaved("sent too much that nobody has read")

    def misbehaved(self, what: str) -> PeerMisbehaved:
        """The error to raise; logged here, since the library calls it a timeout."""
        return self._streams.misbehaved(what)


class _Events(dict[int, trio.Event]):
    """Wake-up events by stream id; none for streams that are gone.

    A reader that is woken by the end of its stream puts a new event back, which
    would stay for the life of the connection.
    """

    def __init__(self, streams: dict[int, YamuxStream]) -> None:
        super().__init__()
        self._streams = streams

    def __setitem__(self, stream_id: int, event: trio.Event) -> None:
        if stream_id in self._streams:
            super().__setitem__(stream_id, event)


def guard_muxer(muxed: Yamux, limits: NetworkLimits) -> None:
    """Bound what a peer can make a connection hold; call before it starts."""
    streams = _Streams(str(muxed.peer_id), limits.stream_entries)
    read_body = muxed._read_data_body

    async def read_bounded_body(length: int) -> bytes:
        # A frame is held four times over before its window is looked at.
        if length > limits.frame_bytes:
            raise streams.misbehaved("announced a frame beyond all measure")
        return await read_body(length)

    # mypy has no way to say that a method is replaced on one object.
    muxed._read_data_body = read_bounded_body  # type: ignore[method-assign]
    muxed.streams = streams
    muxed.stream_buffers = _Buffers(streams, limits.buffered_bytes)
    muxed.stream_events = _Events(streams)


def discard_input(stream: YamuxStream) -> None:
    """Forget what a stream has received, take no more, and wake its reader.

    The library keeps unread data of a closed stream for a minute: a peer that
    opens, fills and leaves streams would fill memory with it. Nor does it wake a
    reader when our own side resets the stream.
    """
    muxed, stream_id = stream.conn, stream.stream_id
    stream.recv_closed = True
    stream.send_closed = True
    buffer = muxed.stream_buffers.get(stream_id)
    if isinstance(buffer, _Buffer):
        buffer.discarding = True
        buffer.clear()
    if stream_id in muxed.stream_events:
        muxed.stream_events[stream_id].set()


def release_waiters(muxed: Yamux) -> None:
    """Make sure that nobody waits for a connection whose yamux task has ended.

    The library does so when it closes a connection itself, not when it crashes or
    is cancelled.
    """
    muxed.event_shutting_down.set()
    muxed.event_started.set()
    muxed.new_stream_send_channel.close()
    for stream in list(muxed.streams.values()):
        discard_input(stream)
        stream.closed = True


async def ping(muxed: Yamux) -> None:
    """Ask for a sign of life; the answer shows as bytes received.

    The library pings too, but does not care about the answer.
    """
    await muxed._write_frame(_FRAME_HEADER.pack(0, _TYPE_PING, _FLAG_SYN, 0, 0))
