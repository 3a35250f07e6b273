"""Streams between two nodes: bytes, deadlines and ends."""

import logging
from hashlib import sha256

import pytest
import trio
import trio.testing
from network_nodes import (
    ALICE,
    BOB,
    CAROL,
    CRASH,
    ECHO,
    FAST,
    FLOOD,
    LAST_WORDS,
    SILENT,
    SINK,
    Site,
    read_on,
    two_sites,
    until,
    write_on,
)

from node.network.network import NetworkLimits, PeerTimeout, StreamLost, Unreachable

pytestmark = pytest.mark.integration

SIZES = [1, 65_506, 65_507, 65_508, 1_000_000]


@pytest.mark.parametrize("size", SIZES)
async def test_bytes_arrive_as_sent(size: int) -> None:
    data = sha256(b"seed").digest() * (size // 32 + 1)
    async with two_sites() as (alice, _):
        async with await alice.network.open_stream(BOB.public, ECHO) as stream:
            assert stream.peer == BOB.public
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: stream.write(data[:size], timeout_seconds=5))
                while len(received) < size:
                    received += await stream.read(timeout_seconds=5)
            assert received == data[:size]


async def test_blocks_size_is_a_setting() -> None:
    async with two_sites(NetworkLimits(block_bytes=1000)) as (alice, _):
        async with await alice.network.open_stream(BOB.public, SINK) as stream:
            await stream.write(memoryview(bytes(12_345)), timeout_seconds=5)
            await stream.close()
            assert await stream.read(timeout_seconds=5) == b"12345"


async def test_half_close_lets_the_answer_through() -> None:
    async with two_sites() as (alice, _):
        async with await alice.network.open_stream(BOB.public, SINK) as stream:
            await stream.close()
            assert await stream.read(timeout_seconds=5) == b"0"
            with pytest.raises(StreamLost):
                await stream.read(timeout_seconds=5)


@pytest.mark.slow
async def test_last_bytes_of_a_handler_arrive_after_it_returned() -> None:
    async with two_sites(FAST) as (alice, bob):
        async with await alice.network.open_stream(BOB.public, LAST_WORDS) as stream:
            await until(lambda: bob.network._handling[ALICE.public] == 0)
            size = 0
            while size < 200_000:
                size += len(await stream.read(timeout_seconds=5))
            with pytest.raises(StreamLost):
                await stream.read(timeout_seconds=5)
            assert size == 200_000
            # The handler is gone, but what we still say is taken, not answered with a reset.
            await stream.write(bytes(2_000_000), timeout_seconds=5)
        await until(lambda: not _streams(alice) and not _streams(bob))


@pytest.mark.slow
async def test_a_stream_that_the_peer_never_closes_is_freed() -> None:
    async with two_sites(FAST) as (alice, _):
        async with await alice.network.open_stream(BOB.public, SILENT):
            pass
        await until(lambda: not _streams(alice), seconds=5)


async def test_a_crashed_handler_resets_its_stream_and_says_no_patient_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with two_sites() as (alice, _):
        for _ in range(20):
            with pytest.raises(StreamLost):
                await read_on(await alice.network.open_stream(BOB.public, CRASH))
        async with await alice.network.open_stream(BOB.public, ECHO) as stream:
            await stream.write(b"alive", timeout_seconds=5)
            assert await stream.read(timeout_seconds=5) == b"alive"
    assert "ZeroDivisionError" in caplog.text
    assert "DOE" not in caplog.text


@pytest.mark.slow
async def test_cancelled_reads_and_writes_do_not_harm_the_connection() -> None:
    async with two_sites() as (alice, bob):
        async with trio.open_nursery() as nursery:
            for number in range(60):
                protocol = FLOOD if number % 2 else SINK
                stream = await alice.network.open_stream(BOB.public, protocol)
                with trio.move_on_after(0.01 + number * 0.0003):
                    await (read_on(stream) if protocol == FLOOD else write_on(stream))
                with pytest.raises(StreamLost):
                    await stream.read(timeout_seconds=5)
                await stream.reset()
            nursery.cancel_scope.cancel()
        async with await alice.network.open_stream(BOB.public, ECHO) as stream:
            await stream.write(b"alive", timeout_seconds=5)
            assert await stream.read(timeout_seconds=5) == b"alive"
        assert bob.came == {ALICE.public: 1}


async def test_a_read_that_times_out_ends_the_stream() -> None:
    async with two_sites() as (alice, _):
        stream = await alice.network.open_stream(BOB.public, SILENT)
        with pytest.raises(PeerTimeout):
            await stream.read(timeout_seconds=0.1)
        with pytest.raises(StreamLost):
            await stream.write(b"x", timeout_seconds=1)


async def test_reset_wakes_a_reader_of_ours() -> None:
    async with two_sites() as (alice, _):
        stream = await alice.network.open_stream(BOB.public, SILENT)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(StreamLost):
                    await stream.read(timeout_seconds=60)

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await stream.reset()
            await until(lambda: not nursery.child_tasks, seconds=2)


@pytest.mark.slow
async def test_a_peer_that_takes_nothing_times_a_writer_out() -> None:
    async with two_sites() as (alice, _):
        stream = await alice.network.open_stream(BOB.public, SILENT)
        with pytest.raises(PeerTimeout):
            await stream.write(bytes(40_000_000), timeout_seconds=0.3)


async def test_a_reader_that_pauses_keeps_its_stream(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 1
    async with two_sites() as (alice, _):
        async with await alice.network.open_stream(BOB.public, FLOOD) as stream:
            (connection,) = alice.network._connections[BOB.public]
            await until(lambda: connection._muxer.buffered > 900_000)
            # Seven seconds: libp2p's own yamux gives a writer up after five without room.
            mock_clock.jump(7)
            await trio.testing.wait_all_tasks_blocked(0.01)
            size = 0
            while size < 40_000_000:
                size += len(await stream.read(timeout_seconds=5))
            await stream.reset()


async def test_an_unknown_protocol_is_declined() -> None:
    async with two_sites() as (alice, _):
        stream = await alice.network.open_stream(BOB.public, "/test/none/1")
        with pytest.raises(StreamLost, match="does not take a stream of /test/none/1"):
            await stream.read(timeout_seconds=5)
        with pytest.raises(StreamLost, match="not connected"):
            await alice.network.open_stream(CAROL.public, ECHO)


@pytest.mark.slow
async def test_streams_beyond_the_limit_fail_instead_of_waiting() -> None:
    limits = NetworkLimits(streams_per_peer=1000)
    async with two_sites(limits) as (alice, _):
        streams = [await alice.network.open_stream(BOB.public, SILENT) for _ in range(256)]
        with trio.fail_after(2):
            with pytest.raises(StreamLost, match="too many"):
                await alice.network.open_stream(BOB.public, SILENT)
        for stream in streams[:2]:
            await stream.reset()
        await until(lambda: len(_streams(alice)) < 256)
        await alice.network.open_stream(BOB.public, SILENT)


# --- the library's log ---------------------------------------------------------------


async def test_the_librarys_log_is_ours_without_tracebacks(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = list(logging.getLogger().handlers)
    async with two_sites() as (_, bob):
        await bob.network.close_peer(ALICE.public)
        try:
            raise ValueError("inner")
        except ValueError:
            logging.getLogger("libp2p.some.module").exception("strange thing\nmore")
            logging.getLogger("libp2p.some.module").error("connection closed", exc_info=True)
    records = [record for record in caplog.records if record.name == "radmesh.libp2p"]
    warnings = [record for record in records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings] == ["libp2p.some.module: strange thing"]
    assert all(record.exc_info is None for record in records)
    assert logging.getLogger().handlers == handlers
    assert "inner" not in capfd.readouterr().err


def _streams(site: Site) -> list[int]:
    """Ids of the streams that a site keeps, over all connections."""
    return [
        stream_id
        for group in site.network._connections.values()
        for connection in group
        for stream_id in connection._muxer.streams
    ]


async def test_a_node_does_not_talk_to_itself() -> None:
    alice = Site(ALICE, ALICE)
    async with alice.network.running():
        with pytest.raises(Unreachable):
            await alice.network.connect(ALICE.public, alice.addresses)
        assert alice.came == {}
