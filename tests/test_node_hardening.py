"""What a trusted peer gone bad tries against a node, on real sockets.

The bad peer is libp2p's own Noise and yamux, told to send what it would not.
"""

import contextlib
import logging
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.abc import ISecureConn
from libp2p.io.exceptions import IOException
from libp2p.io.utils import read_exactly
from libp2p.network.connection.exceptions import RawConnError
from libp2p_peer import libp2p_peer, muxer, open_silent
from network_nodes import BOB, ECHO, FAST, MALLORY, Site, resident_bytes, until, victim

from node.network import hardening
from node.network.bounds import NetworkLimits
from node.network.hardening import SocketConnection
from node.network.network import StreamLost, Unreachable

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


async def test_a_protocol_name_of_two_gib_is_not_awaited() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream = await muxed.open_stream()
        await stream.write(b"\x13/multistream/1.0.0\n\x80\x80\x80\x80\x08")
        with contextlib.suppress(Exception), trio.fail_after(5):
            while True:
                await stream.write(bytes(65_507))
        await until(lambda: not muxer(bob).streams, seconds=1)


async def test_our_own_negotiation_is_bounded_too() -> None:
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
        await until(lambda: MALLORY.public not in bob.network.connected(), seconds=2)
        assert most <= 17 * MIB
        assert resident_bytes() - before < 64 * MIB
    assert "sent more than the receive window" in caplog.text


@pytest.mark.parametrize("flags", [0, SYN, ACK])
async def test_a_huge_frame_is_not_awaited(flags: int) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        await muxed._write_frame(frame(DATA, flags, 99, 2 * MIB))
        await until(lambda: MALLORY.public not in bob.network.connected(), seconds=2)


@pytest.mark.parametrize("flags", [SYN, ACK])
async def test_ignoring_the_window_in_the_first_frame_ends_the_connection(flags: int) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        if flags == ACK:
            await muxed._write_frame(frame(WINDOW, SYN, 99, 0))
        with contextlib.suppress(RawConnError):
            await muxed._write_frame(frame(DATA, flags, 99, MIB // 2, bytes(MIB // 2)))
        await until(lambda: MALLORY.public not in bob.network.connected(), seconds=2)


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
        await until(lambda: MALLORY.public not in bob.network.connected(), seconds=2)
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
        await until(lambda: not muxer(bob).streams, seconds=5)
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
        await until(lambda: MALLORY.public not in bob.network.connected(), seconds=2)


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
    raw = SocketConnection(stream, is_initiator=True, limits=NetworkLimits())
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
        await until(lambda: MALLORY.public not in bob.network.connected(), seconds=5)


@pytest.mark.slow
async def test_a_peer_that_talks_but_does_not_read_is_cut_off() -> None:
    async with victim(FAST) as bob, deaf_peer(bob) as session:
        hello = b"\x13/multistream/1.0.0\n\x0e/test/flood/1\n"
        await session.write(frame(DATA, SYN, 101, len(hello), hello))
        with contextlib.suppress(RawConnError), trio.fail_after(8):
            while MALLORY.public in bob.network.connected():
                await session.write(frame(WINDOW, 0, 101, 16 * MIB))
                await trio.sleep(0.1)


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


# --- the repaired connection by itself ----------------------------------------------------


@pytest.mark.slow
async def test_a_message_in_many_small_segments_is_one_message() -> None:
    async with trio.open_nursery() as nursery:
        done = trio.Event()

        async def receive(stream: trio.SocketStream) -> None:
            raw = SocketConnection(stream, is_initiator=False, limits=FAST)
            assert await read_exactly(raw, 300) == bytes(300)
            assert raw.received == 300
            with pytest.raises(IOException):
                await read_exactly(raw, 1)
            done.set()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, receive, listeners)
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
        for _ in range(300):
            await stream.send_all(b"\0")
            await trio.sleep(0.0005)
        await stream.aclose()
        await done.wait()
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _ends() -> AsyncIterator[tuple[SocketConnection, trio.SocketStream]]:
    """A connection as we have it, and the socket at its other end."""
    ours, theirs = trio.socket.socketpair()
    raw = SocketConnection(trio.SocketStream(ours), is_initiator=False, limits=FAST)
    async with trio.SocketStream(theirs) as stream:
        try:
            yield raw, stream
        finally:
            raw.abort()


async def test_every_byte_that_comes_is_a_sign_of_life() -> None:
    async with _ends() as (raw, peer):
        await peer.send_all(bytes(7))
        assert await raw.read(5) == bytes(5)
        assert raw.received == 7
        # From the buffer: nothing has come meanwhile.
        assert await raw.read(2) == bytes(2)
        assert raw.received == 7
        buffer = bytearray(100)
        await peer.send_all(bytes(11))
        assert await raw.receive_into(memoryview(buffer)) == 11
        assert raw.received == 18
        await peer.send_all(bytes(3))
        assert await raw.receive_into(memoryview(buffer)) == 3
        assert raw.received == 21
        await peer.send_eof()
        assert not raw.ended
        assert await raw.receive_into(memoryview(buffer)) == 0
        assert raw.ended
        assert raw.received == 21


async def test_what_is_read_in_part_has_a_time_until_it_is_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with _ends() as (raw, peer), trio.open_nursery() as nursery:
        nursery.start_soon(raw.read, 10)
        await trio.testing.wait_all_tasks_blocked()
        assert raw.partial_since is None
        autojump_clock.autojump_threshold = float("inf")
        autojump_clock.jump(5)
        began = trio.current_time()
        await peer.send_all(bytes(4))
        await _while(lambda: raw.partial_since is None)
        assert raw.partial_since == began
        # More of the same does not start its time anew.
        autojump_clock.jump(5)
        await peer.send_all(bytes(4))
        await _while(lambda: raw.received < 8)
        assert raw.partial_since == began
        await peer.send_all(bytes(2))
        await _while(lambda: bool(nursery.child_tasks))
        assert raw.partial_since is None


async def test_a_read_that_begins_in_the_buffer_has_a_time_too() -> None:
    async with _ends() as (raw, peer), trio.open_nursery() as nursery:
        await peer.send_all(bytes(6))
        assert await raw.read(4) == bytes(4)
        assert raw.partial_since is None
        nursery.start_soon(raw.read, 4)
        await _while(lambda: raw.partial_since is None)
        await peer.send_all(bytes(2))
        await _while(lambda: bool(nursery.child_tasks))
        assert raw.partial_since is None


async def _while(condition: Callable[[], bool]) -> None:
    """Let others go on while something holds; of a clock that stands still, too."""
    for _ in range(100_000):
        if not condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("it goes on")


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_the_wrong_length_is_refused(seed: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        hardening.host_keys(seed)


def test_only_ed25519_peer_ids_have_a_node_key() -> None:
    assert hardening.node_public(hardening.node_id(BOB.public)) == BOB.public
    for raw in (b"", bytes(38), bytes.fromhex("002408011220") + bytes(31)):
        assert hardening.node_public(type(hardening.node_id(BOB.public))(raw)) is None
