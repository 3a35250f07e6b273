"""A stream between two nodes in memory, as the product reads and writes one."""

import trio
import trio.testing

from node.network.streams import PeerStream
from protocol.messages import STUDY_PROTOCOL


class Muxed:
    """One end of a stream in memory, as `PeerStream` uses libp2p's."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream

    def take(self, n: int) -> bytes:
        return b""

    async def read(self, n: int) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(n))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            data = b""
        if not data:
            raise EOFError
        return data

    async def write(self, data: memoryview) -> int:
        await self._stream.send_all(bytes(data))
        return len(data)

    async def close(self) -> None:
        await self._stream.send_eof()

    def abandon(self) -> None:
        trio.lowlevel.spawn_system_task(trio.aclose_forcefully, self._stream)


def stream_pair(first: bytes, second: bytes) -> tuple[PeerStream, PeerStream]:
    """Two ends of a stream between two node keys; each knows the other's."""
    ends = []
    for stream, peer in zip(trio.testing.memory_stream_pair(), (second, first), strict=True):
        muxed = Muxed(stream)
        ends.append(
            PeerStream(
                muxed,
                peer=peer,
                protocol_id=STUDY_PROTOCOL,
                abandon=muxed.abandon,
                linger=lambda: None,
            )
        )
    return ends[0], ends[1]
