"""A trusted peer that is libp2p's own Noise and yamux, for interoperability and for mischief."""

import contextlib
import struct
from collections.abc import AsyncIterator

import trio
from libp2p.stream_muxer.yamux.yamux import Yamux
from network_nodes import MALLORY, SILENT, Site, until

from node.network import hardening
from node.network.bounds import NetworkLimits
from node.network.hardening import SocketConnection
from node.network.muxed import MuxedStream
from node.network.muxer import Muxer
from node.network.negotiation import proposal
from node.network.transport import TcpLine


@contextlib.asynccontextmanager
async def libp2p_peer(bob: Site) -> AsyncIterator[Yamux]:
    """Mallory's connection to Bob, at the level of yamux: she is trusted."""
    stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
    raw = SocketConnection(TcpLine(stream), is_initiator=True, limits=NetworkLimits())
    upgrader = hardening.make_upgrader(MALLORY.seed, lambda _: True)
    try:
        async with trio.open_nursery() as nursery:
            session = await upgrader.upgrade_security(raw, True, hardening.node_id(bob.key.public))
            muxed = await upgrader.upgrade_connection(session, session.get_remote_peer())
            assert isinstance(muxed, Yamux)
            nursery.start_soon(muxed.start)
            await muxed.event_started.wait()
            await until(lambda: MALLORY.public in bob.network.connected())
            yield muxed
            nursery.cancel_scope.cancel()
    finally:
        raw.abort()


def muxer(bob: Site) -> Muxer:
    """Bob's side of his connection to Mallory."""
    return bob.network._connections[MALLORY.public][0]._muxer


async def open_silent(muxed: Yamux, bob: Site, stream_id: int) -> MuxedStream:
    """A stream of Mallory's to a handler of Bob's that never reads; Bob's end of it."""
    hello = proposal(SILENT)
    syn = 1
    await muxed._write_frame(struct.pack("!BBHII", 0, 0, syn, stream_id, len(hello)) + hello)
    await until(lambda: stream_id in muxer(bob).streams)
    stream = muxer(bob).streams[stream_id]
    await until(lambda: not stream.buffered)
    return stream
