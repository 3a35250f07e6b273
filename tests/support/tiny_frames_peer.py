"""A trusted peer gone bad that sends frames with little or nothing in them."""

import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Iterator

import trio

from node.network import hardening
from node.network.bounds import NetworkLimits
from node.network.channel import PLAIN_BYTES, Channel
from node.network.hardening import SocketConnection
from node.network.transport import TcpLine

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    """A yamux frame, honest or not."""
    return struct.pack("!BBHII", 0, kind, flags, stream_id, length) + body


def _full(one: bytes) -> Iterator[bytes]:
    """Messages full of one frame, for ever."""
    message = one * (PLAIN_BYTES // len(one))
    while True:
        yield message


def _numbered(one: Callable[[int], bytes]) -> Iterator[bytes]:
    """Messages full of what is made for each next stream of a dialler."""
    number = 1
    each = PLAIN_BYTES // len(one(1))
    while True:
        yield b"".join(one(number + 2 * at) for at in range(each))
        number += 2 * each


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "pings": lambda: _full(frame(PING, SYN, 0, 1)),
    "windows": lambda: _full(frame(WINDOW, 0, 7, 1)),
    "empty data": lambda: _full(frame(DATA, 0, 7, 0)),
    "one byte": lambda: _full(frame(DATA, 0, 7, 1, b"x")),
    "open and reset": lambda: _numbered(lambda n: frame(WINDOW, SYN | RST, n, 0)),
    "opened, reset": lambda: _numbered(
        lambda n: frame(WINDOW, SYN, n, 0) + frame(WINDOW, RST, n, 0)
    ),
    "opened, ended": lambda: _numbered(
        lambda n: frame(DATA, SYN, n, 2, b"\x01\n") + frame(WINDOW, RST, n, 0)
    ),
    "small messages": lambda: iter(lambda: frame(WINDOW, 0, 7, 1), None),
    "no frames": lambda: iter(lambda: b"", None),
}
"""Endless messages of each kind, as plain text."""


@contextlib.asynccontextmanager
async def raw_peer(seed: bytes, server: bytes, port: int) -> AsyncIterator[Channel]:
    """A connection below yamux, as a caller with the node key of this seed."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    raw = SocketConnection(TcpLine(stream), is_initiator=True, limits=NetworkLimits())
    upgrader = hardening.make_upgrader(seed, lambda _: True)
    try:
        _, channel = await hardening.handshake(raw, server, upgrader)
        yield channel
    finally:
        raw.abort()


async def attack(
    seed: bytes, server: bytes, port: int, kind: str, seconds: float = float("inf")
) -> None:
    """Send messages of a kind as fast as they are taken; returns when cut off."""
    messages = KINDS[kind]()

    async def drain(channel: Channel) -> None:
        while await channel.receive():
            pass

    async with raw_peer(seed, server, port) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(drain, channel)
        with trio.move_on_after(seconds), contextlib.suppress(ConnectionError):
            while True:
                await channel.send([next(messages) for _ in range(4)])
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
