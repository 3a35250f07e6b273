"""A running muxer on a connection in memory, and a peer that can write any frames."""

import contextlib
import struct
from collections.abc import AsyncIterator, Sequence

import trio
import trio.testing
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from tiny_frames_peer import DATA

from node.network.bounds import NetworkLimits
from node.network.channel import Bytes, Channel, Cipher
from node.network.muxed import MuxedStream
from node.network.muxer import Muxer

LIMITS = NetworkLimits()
Frame = tuple[int, int, int, int, bytes]
"""Kind, flags, stream, length and data."""


class End:
    """One end of a connection in memory.

    Attributes:
        takes: set while what is sent from here goes through.
        waiting: bytes that came and were not received.
    """

    def __init__(self) -> None:
        self.partial_since: float | None = None
        self.takes = trio.Event()
        self.takes.set()
        self.waiting = bytearray()
        self.other = self
        self._is_over = False
        self._news = trio.lowlevel.ParkingLot()

    async def receive_into(self, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        while not self.waiting and not self._is_over:
            await self._news.park()
        count = min(len(buffer), len(self.waiting))
        buffer[:count] = self.waiting[:count]
        del self.waiting[:count]
        return count

    async def send(self, parts: Sequence[Bytes]) -> None:
        await self.takes.wait()
        await trio.lowlevel.checkpoint()
        for part in parts:
            self.send_now(part)

    def send_now(self, data: Bytes) -> None:
        self.other.waiting += data
        self.other._news.unpark_all()

    def end(self) -> None:
        """End the incoming bytes."""
        self._is_over = True
        self._news.unpark_all()


class Peer:
    """The peer at the other end of a muxer; it can write any frames.

    Attributes:
        messages: whole messages from the muxer.
        accepted: streams that the muxer regards as opened.
        near: the muxer's end of the connection.
    """

    def __init__(self, *, is_caller: bool, limits: NetworkLimits) -> None:
        near, far = End(), End()
        near.other, far.other = far, near
        self.near = near
        self.messages: list[bytes] = []
        self.accepted: list[MuxedStream] = []
        self._far = far
        self._channel = _channel(far)
        self.muxer = Muxer(
            _channel(near),
            peer="Mallory",
            is_initiator=not is_caller,
            limits=limits,
            accept=self.accepted.append,
        )

    async def send(self, *frames: bytes) -> None:
        """Send frames, a message each, and let the muxer answer."""
        await self._channel.send(frames)
        await trio.testing.wait_all_tasks_blocked()

    async def heard(self) -> list[Frame]:
        """The frames that came since the last time."""
        await trio.testing.wait_all_tasks_blocked()
        data, at = bytearray(), 0
        while self._far.waiting:
            messages = await self._channel.receive()
            self.messages += messages
            data += b"".join(messages)
        frames: list[Frame] = []
        while at < len(data):
            version, kind, flags, stream_id, length = struct.unpack_from("!BBHII", data, at)
            assert version == 0
            end = at + 12 + (length if kind == DATA else 0)
            assert end <= len(data)
            frames.append((kind, flags, stream_id, length, bytes(data[at + 12 : end])))
            at = end
        return frames

    def hang_up(self) -> None:
        """End the connection."""
        self.near.end()


def _channel(end: End) -> Channel:
    aead = ChaCha20Poly1305(bytes(32))
    return Channel(end, sending=Cipher(aead, 0), receiving=Cipher(aead, 0), opened=b"", rest=b"")


@contextlib.asynccontextmanager
async def joined(
    *, is_caller: bool = True, limits: NetworkLimits = LIMITS
) -> AsyncIterator[tuple[Muxer, Peer]]:
    """A muxer at work, and its peer; both of its tasks must end with the connection."""
    peer = Peer(is_caller=is_caller, limits=limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.muxer.run)
        nursery.start_soon(peer.muxer.run_writer)
        await trio.testing.wait_all_tasks_blocked()
        yield peer.muxer, peer
        peer.hang_up()
    assert peer.muxer.is_over
