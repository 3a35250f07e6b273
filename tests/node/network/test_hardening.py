"""What a trusted peer gone bad tries against a node, on real sockets.

The bad peer is libp2p's own Noise and yamux, told to send what it would not.
"""

import contextlib
import logging
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.abc import ISecureConn
from libp2p.network.connection.exceptions import RawConnError
from libp2p_peer import libp2p_peer, muxer, open_silent
from network_nodes import BOB, ECHO, FAST, MALLORY, Site, resident_bytes, until, victim

from node.network import hardening
from node.network.bounds import NetworkLimits
from node.network.hardening import SocketConnection
from node.network.network import StreamLost, Unreachable
from node.network.transport import TcpLine

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    """A yamux frame, honest or not."""
    return struct.pack("!BBHII", 0, kind, flags, stream_id, length) + body


@pytest.mark.parametrize(
    "line",
    [b"\x02\xff\n", b"\x13/multistream/1.0.0\n\x02\xff\n", b"\x01\n", b"\x00", b"\xff" * 100],
    ids=["hello", "name", "empty", "nothing", "varint"],
)
async def test_three_bad_bytes_on_a_stream_end_the_stream_only(
    line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        for _ in range(5):
            stream = await muxed.open_stream()
            await stream.write(line)
            await stream.close()
        await until(lambda: not muxer(bob).streams)
        assert MALLORY.public in bob.network.connected()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def slow_clock(mock_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """A tenth of the speed of the wall's: seconds are those of a busy machine."""
    mock_clock.rate = 0.1
    return mock_clock


async def test_a_protocol_name_of_two_gib_is_not_awaited(
    slow_clock: trio.testing.MockClock,
) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream = await muxed.open_stream()
        await stream.write(b"\x13/multistream/1.0.0\n\x80\x80\x80\x80\x08")
        with contextlib.suppress(Exception), trio.fail_after(5):
            while True:
                await stream.write(bytes(65_507))
        await until(lambda: not muxer(bob).streams, seconds=1)


async def test_our_own_negotiation_is_bounded_too(slow_clock: trio.testing.MockClock) -> None:
    async with victim() as bob:
        async with libp2p_peer(bob) as muxed:

            async def answer() -> None:
                stream = await muxed.accept_stream()
                await stream.write(b"\x13/multistream/1.0.0\n\x80\x80\x80\x80\x08")
                with contextlib.suppress(Exception):
                    while True:
                        await stream.write(bytes(65_507))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                opened = await bob.network.open_stream(MALLORY.public, ECHO)
                with trio.fail_after(2), pytest.raises(StreamLost, match="does not take"):
                    await opened.read(timeout_seconds=60)
                nursery.cancel_scope.cancel()


async def test_ignoring_the_window_ends_the_connection_before_memory_is_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        theirs, before, most = muxer(bob), resident_bytes(), 0
        await open_silent(muxed, bob, 101)
        block = bytes(64 * 1024)
        for _ in range(300 * MIB // len(block)):
            most = max(most, theirs.buffered)
            try:
                await muxed._write_frame(frame(DATA, 0, 101, len(block), block))
            except RawConnError:
                break
        await until(lambda: MALLORY.public not in bob.network.connected())
        assert most <= 17 * MIB
        assert resident_bytes() - before < 64 * MIB
    assert "sent more than the receive window" in caplog.text


@pytest.mark.parametrize("flags", [0, SYN, ACK])
async def test_a_huge_frame_is_not_awaited(flags: int) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        await muxed._write_frame(frame(DATA, flags, 99, 2 * MIB))
        await until(lambda: MALLORY.public not in bob.network.connected())


@pytest.mark.parametrize("flags", [SYN, ACK])
async def test_ignoring_the_window_in_the_first_frame_ends_the_connection(flags: int) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        if flags == ACK:
            await muxed._write_frame(frame(WINDOW, SYN, 99, 0))
        with contextlib.suppress(RawConnError):
            await muxed._write_frame(frame(DATA, flags, 99, MIB // 2, bytes(MIB // 2)))
        await until(lambda: MALLORY.public not in bob.network.connected())


@pytest.mark.slow
async def test_unread_data_of_all_streams_together_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = NetworkLimits(buffered_bytes=4 * MIB)
    async with victim(limits) as bob, libp2p_peer(bob) as muxed:
        theirs, most = muxer(bob), 0
        with contextlib.suppress(RawConnError):
            for number in range(60):
                await open_silent(muxed, bob, 101 + 2 * number)
                for _ in range(4):
                    body = bytes(60_000)
                    await muxed._write_frame(frame(DATA, 0, 101 + 2 * number, len(body), body))
                most = max(most, theirs.buffered)
        await until(lambda: MALLORY.public not in bob.network.connected())
        assert 3 * MIB < most <= 8 * MIB
    assert "that nobody has read" in caplog.text


@pytest.mark.slow
async def test_streams_that_are_filled_and_left_leave_nothing_behind() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        body = b"\x02\xff\n" + bytes(200_000)
        for number in range(400):
            stream_id = 1001 + 2 * number
            await muxed._write_frame(frame(DATA, SYN, stream_id, len(body), body))
            await muxed._write_frame(frame(WINDOW, FIN, stream_id, 0))
        await until(lambda: not muxer(bob).streams)
        assert muxer(bob).buffered == 0


@pytest.mark.slow
async def test_a_thousand_streams_at_once_are_not_a_thousand_handlers() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        most = 0
        for number in range(1000):
            with contextlib.suppress(RawConnError):
                await muxed._write_frame(frame(WINDOW, SYN, 1001 + 2 * number, 0))
            most = max(most, bob.network._shared.handling[MALLORY.public])
        assert most <= bob.network.limits.streams_per_peer


async def test_streams_without_end_end_the_connection() -> None:
    limits = NetworkLimits(stream_entries=100, streams_per_peer=1000)
    async with victim(limits) as bob, libp2p_peer(bob) as muxed:
        with contextlib.suppress(RawConnError):
            for number in range(1000):
                await muxed._write_frame(frame(WINDOW, SYN, 1001 + 2 * number, 0))
        await until(lambda: MALLORY.public not in bob.network.connected())


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, False])
async def test_more_connections_than_a_peer_needs_are_refused(at_once: bool) -> None:
    made, refused = [], []

    async def hold(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        mallory = Site(MALLORY, BOB, listen="")
        async with mallory.network.running():
            try:
                await mallory.network.connect(BOB.public, bob.addresses)
            except Unreachable as error:
                refused.append(error)
            else:
                made.append(mallory)
            task_status.started()
            await trio.sleep_forever()

    async with victim() as bob, trio.open_nursery() as nursery:
        for _ in range(10):
            if at_once:
                nursery.start_soon(hold)
            else:
                await nursery.start(hold)
        await until(lambda: len(made) + len(refused) == 10)
        await until(lambda: len(bob.network._connections.get(MALLORY.public, ())) == 4)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(bob.network._connections[MALLORY.public]) == 4
        assert bob.came[MALLORY.public] == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "sent",
    [
        frame(DATA, 0, 7777, 10, b"0123456789"),
        frame(9, 0, 1, 0),
        frame(DATA, 0xFFFF, 0, 0),
        frame(WINDOW, RST | SYN, 1001, 0),
        frame(WINDOW, SYN, 0, 0) + frame(WINDOW, SYN, 0, 0),
        frame(DATA, 0, 1, 2**32 - 1),
        frame(GO_AWAY, 0, 0, 3),
        frame(PING, SYN, 0, 1) * 1000,
        frame(WINDOW, SYN, 2, 2**32 - 1) + frame(WINDOW, 0, 2, 2**32 - 1),
        bytes(range(256)) * 10,
    ],
    ids=[
        "unknown stream",
        "unknown type",
        "all flags",
        "open and reset",
        "stream zero twice",
        "endless frame",
        "go away",
        "pings",
        "huge window",
        "noise",
    ],
)
async def test_broken_yamux_frames_harm_their_connection_at_most(sent: bytes) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        for _ in range(3):
            with contextlib.suppress(RawConnError):
                await muxed._write_frame(sent)


@contextlib.asynccontextmanager
async def deaf_peer(bob: Site) -> AsyncIterator[ISecureConn]:
    """Mallory's connection to Bob, from which nothing is read unless a test does."""
    stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
    raw = SocketConnection(TcpLine(stream), is_initiator=True, limits=NetworkLimits())
    upgrader = hardening.make_upgrader(MALLORY.seed, lambda _: True)
    try:
        session = await upgrader.upgrade_security(raw, True, hardening.node_id(BOB.public))
        await upgrader.upgrade_connection(session, session.get_remote_peer())
        await until(lambda: MALLORY.public in bob.network.connected())
        yield session
    finally:
        raw.abort()


async def ping_until_stuck(session: ISecureConn) -> None:
    """Send pings that are answered into a socket nobody reads, until both are full."""
    pings = frame(PING, SYN, 0, 1) * 5000
    with contextlib.suppress(RawConnError):
        while True:
            await session.write(pings)


UNPACED = replace(FAST, tiny_frames_per_second=1e9)
"""With as many pings as it takes to fill both sockets with answers."""


@pytest.mark.slow
async def test_a_peer_that_reads_no_answers_is_cut_off() -> None:
    async with victim(UNPACED) as bob, deaf_peer(bob) as session:
        await ping_until_stuck(session)
        await until(lambda: MALLORY.public not in bob.network.connected())


@pytest.mark.slow
async def test_a_peer_that_talks_but_does_not_read_is_cut_off(
    mock_clock: trio.testing.MockClock,
) -> None:
    mock_clock.rate = 1
    async with victim() as bob, deaf_peer(bob) as session:
        theirs, limit = muxer(bob), bob.network.limits.stall_seconds
        hello = b"\x13/multistream/1.0.0\n\x0e/test/flood/1\n"
        await session.write(frame(DATA, SYN, 101, len(hello), hello))
        await session.write(frame(WINDOW, 0, 101, 64 * MIB))
        await until(lambda: theirs._sending.locked())
        # Both sockets are full. Time goes on by what the peer says alone: a second each.
        mock_clock.rate = 0
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert theirs._sending.locked()
        seconds = 0
        with contextlib.suppress(RawConnError):
            while not theirs.is_over and seconds < 2 * limit:
                await session.write(frame(WINDOW, 0, 101, 1))
                await trio.testing.wait_all_tasks_blocked(0.001)
                assert theirs.is_over or MALLORY.public in bob.network.connected()
                mock_clock.jump(1)
                await trio.testing.wait_all_tasks_blocked(0.001)
                seconds += 1
        assert limit - 1 <= seconds <= limit + 1
        mock_clock.rate = 1
        await until(lambda: MALLORY.public not in bob.network.connected())


@pytest.mark.slow
async def test_stopping_does_not_wait_for_a_peer_that_reads_no_answers(
    mock_clock: trio.testing.MockClock,
) -> None:
    bob = Site(BOB, MALLORY, limits=NetworkLimits(tiny_frames_per_second=1e9))
    mock_clock.rate = 1
    async with trio.open_nursery() as nursery:
        async with bob.network.running():
            peer = deaf_peer(bob)
            session = await peer.__aenter__()
            nursery.start_soon(ping_until_stuck, session)
            theirs = muxer(bob)
            await until(lambda: theirs._sending.locked() and len(theirs._control) > 64 * 1024)
            # A tenth of the speed of the wall's: two seconds are those of a busy machine.
            mock_clock.rate, started = 0.1, trio.current_time()
        assert trio.current_time() - started < 2
        await peer.__aexit__(None, None, None)


@pytest.mark.slow
async def test_cut_in_the_middle_of_everything() -> None:
    async with victim() as bob:
        for number in range(20):
            async with libp2p_peer(bob) as muxed:
                for _ in range(3):
                    stream = await muxed.open_stream()
                    await stream.write(b"\x13/multistream/1.0.0\n\x0d/test/sink/1\n"[: 5 + number])
                await muxed.secured_conn.conn.read_writer.read_write_closer.close()
        await until(lambda: MALLORY.public not in bob.network.connected())
        await until(lambda: not bob.network._shared.handling[MALLORY.public])


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_the_wrong_length_is_refused(seed: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        hardening.host_keys(seed)
