"""Yamux's goodbye: what a peer is told, and what it may still do when it says so."""

import struct
from collections.abc import AsyncIterator, Callable

import pytest
import trio
from network_nodes import BOB, ECHO, FAST, MALLORY, Site, until, victim
from tiny_frames_peer import ACK, DATA, GO_AWAY, SYN, frame, raw_peer

from node.network.channel import Channel
from node.network.muxer import (
    GONE_FOR_A_BROKEN_RULE,
    GONE_FOR_AN_ERROR_HERE,
    GONE_NORMALLY,
    Muxer,
)
from node.network.negotiation import proposal
from node.network.network import StreamLost

pytestmark = pytest.mark.integration


async def frames(channel: Channel) -> AsyncIterator[tuple[int, int, int, int, bytes]]:
    """Kind, flags, stream, length and data of each frame, until the connection ends."""
    rest = b""
    while messages := await channel.receive():
        rest += b"".join(messages)
        while len(rest) >= 12:
            _, kind, flags, stream_id, length = struct.unpack_from("!BBHII", rest)
            size = length if kind == DATA else 0
            if len(rest) < 12 + size:
                break
            yield kind, flags, stream_id, length, rest[12 : 12 + size]
            rest = rest[12 + size :]


async def code_heard(channel: Channel) -> int | None:
    """The code of the goodbye with which a connection ends; None without one."""
    code = None
    with trio.fail_after(10):
        async for kind, _, _, length, _ in frames(channel):
            assert code is None, "something followed the goodbye"
            if kind == GO_AWAY:
                code = length
    return code


async def _close_peer(bob: Site, channel: Channel) -> None:
    await bob.network.close_peer(MALLORY.public)


async def _revoke(bob: Site, channel: Channel) -> None:
    bob.trusted.discard(MALLORY.public)
    await bob.network.close_untrusted()


async def _break_a_rule(bob: Site, channel: Channel) -> None:
    await channel.send([frame(9, 0, 0, 0)])


async def _garble(bob: Site, channel: Channel) -> None:
    await channel._wire.send([b"\0\x20" + bytes(32)])


async def _fail(bob: Site, channel: Channel) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    bob.network._connections[MALLORY.public][0]._muxer._accept = fail
    await channel.send([frame(DATA, SYN, 1, 1, b"x")])


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (_close_peer, GONE_NORMALLY),
        (_revoke, GONE_NORMALLY),
        (_break_a_rule, GONE_FOR_A_BROKEN_RULE),
        (_garble, GONE_FOR_A_BROKEN_RULE),
        (_fail, GONE_FOR_AN_ERROR_HERE),
    ],
)
async def test_what_a_peer_is_told_when_its_connection_ends(
    end: Callable[[Site, Channel], object], code: int
) -> None:
    async with victim() as bob, raw_peer(MALLORY.seed, BOB.public, bob.port) as channel:
        await until(lambda: MALLORY.public in bob.network.connected())
        await end(bob, channel)  # type: ignore[misc]
        assert await code_heard(channel) == code


async def test_a_node_that_stops_says_so() -> None:
    bob = Site(BOB, MALLORY)
    async with trio.open_nursery() as nursery:
        async with bob.network.running():
            peer = raw_peer(MALLORY.seed, BOB.public, bob.port)
            channel = await peer.__aenter__()
            await until(lambda: MALLORY.public in bob.network.connected())
            heard: list[int | None] = []

            async def hear() -> None:
                heard.append(await code_heard(channel))

            nursery.start_soon(hear)
    assert heard == [GONE_NORMALLY]
    await peer.__aexit__(None, None, None)


async def test_nothing_overtakes_a_message_that_is_stuck() -> None:
    async with victim() as bob, raw_peer(MALLORY.seed, BOB.public, bob.port) as channel:
        await until(lambda: MALLORY.public in bob.network.connected())
        theirs: Muxer = bob.network._connections[MALLORY.public][0]._muxer
        async with theirs._sending:
            await bob.network.close_peer(MALLORY.public)
        assert await code_heard(channel) is None


async def test_streams_under_way_may_end_after_a_goodbye() -> None:
    async with victim(FAST) as bob, raw_peer(MALLORY.seed, BOB.public, bob.port) as channel:
        hello = proposal(ECHO)
        await channel.send([frame(DATA, SYN, 1, len(hello), hello)])
        await channel.send([frame(GO_AWAY, 0, 0, GONE_NORMALLY)])
        await until(lambda: MALLORY.public in bob.network.connected())
        theirs: Muxer = bob.network._connections[MALLORY.public][0]._muxer
        await until(lambda: theirs._leaving)
        with pytest.raises(StreamLost):
            await bob.network.open_stream(MALLORY.public, ECHO)
        await channel.send([frame(DATA, 0, 1, 5, b"still")])
        came, code = b"", None
        async for kind, flags, _, length, data in frames(channel):
            assert kind != DATA or flags & ACK == 0
            came += data
            if kind == GO_AWAY:
                code = length
        # Bob waits for a while, and then ends it.
        assert came == hello + b"still"
        assert code is None
        await until(lambda: MALLORY.public not in bob.network.connected())


async def test_who_leaves_for_a_reason_has_left(caplog: pytest.LogCaptureFixture) -> None:
    async with victim() as bob, raw_peer(MALLORY.seed, BOB.public, bob.port) as channel:
        await until(lambda: MALLORY.public in bob.network.connected())
        with caplog.at_level("DEBUG", logger="radmesh.network"):
            await channel.send([frame(GO_AWAY, 0, 0, GONE_FOR_AN_ERROR_HERE)])
            await until(lambda: MALLORY.public not in bob.network.connected())
    assert "says goodbye, with code 2" in caplog.text
