"""Yamux: with libp2p's own at the other end, frames cut anywhere, windows, ends of streams."""

import struct
from hashlib import sha256

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import example, given
from hypothesis import strategies as st
from libp2p_peer import libp2p_peer, muxer, open_silent
from network_nodes import (
    ALICE,
    BOB,
    ECHO,
    FLOOD,
    MALLORY,
    SILENT,
    SINK,
    Site,
    two_sites,
    until,
    victim,
)

from node.network.bounds import NetworkLimits
from node.network.channel import Channel, Cipher
from node.network.muxed import INITIAL_WINDOW_BYTES, MuxedStream
from node.network.muxer import Muxer, PeerMisbehaved
from node.network.negotiation import proposal
from node.network.network import StreamLost

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
DATA, WINDOW = 0, 1
SYN, FIN, RST = 1, 4, 8


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    """A yamux frame."""
    return struct.pack("!BBHII", 0, kind, flags, stream_id, len(body)) + body


async def write_all(stream: MuxedStream, data: memoryview) -> None:
    """Write everything, below `PeerStream`."""
    while data:
        data = data[await stream.write(data) :]


# --- with libp2p at the other end -----------------------------------------------------------


async def test_libp2p_sends_and_gets_its_bytes_back() -> None:
    data = sha256(b"seed").digest() * (3 * MIB // 32)
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream, back = await muxed.open_stream(), bytearray()
        await stream.write(proposal(ECHO))
        answer = b""
        while len(answer) < len(proposal(ECHO)):
            answer += await stream.read(len(proposal(ECHO)) - len(answer))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, data)
            while len(back) < len(data):
                back += await stream.read(MIB)
        assert back == data
        await stream.close()


async def test_libp2p_takes_and_answers_a_stream_of_ours() -> None:
    data = sha256(b"seed").digest() * (3 * MIB // 32)
    async with victim() as bob, libp2p_peer(bob) as muxed:

        async def echo() -> None:
            stream = await muxed.accept_stream()
            left = len(data) + len(proposal(ECHO))
            while left:
                some = await stream.read(MIB)
                left -= len(some)
                await stream.write(some)
            await stream.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            async with await bob.network.open_stream(MALLORY.public, ECHO) as stream:
                nursery.start_soon(lambda: stream.write(data, timeout_seconds=10))
                back = bytearray()
                while len(back) < len(data):
                    back += await stream.read(timeout_seconds=10)
                assert back == data


@pytest.mark.parametrize("step", [1, 5, 12, 13, 40])
async def test_frames_are_whole_however_messages_cut_them(step: int) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream = await muxed.open_stream()
        number = stream.stream_id
        sent = frame(DATA, 0, number, proposal(SINK) + b"abc") + frame(DATA, 0, number)
        sent += frame(DATA, 0, number, b"defg") + frame(DATA, FIN, number, b"h")
        for at in range(0, len(sent), step):
            await muxed.secured_conn.write(sent[at : at + step])
        answer = b""
        with trio.fail_after(5):
            while len(answer) < len(proposal(SINK)) + 1:
                answer += await stream.read(1000)
        assert answer == proposal(SINK) + b"8"


# --- what is held ------------------------------------------------------------------------------


async def test_frames_of_one_byte_are_held_as_bytes() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream = await open_silent(muxed, bob, 7)
        frames = frame(DATA, 0, 7, b"x") * 2000
        for at in range(0, len(frames), 13 * 500):
            await muxed.secured_conn.write(frames[at : at + 13 * 500])
        # And as messages of one byte, within one frame.
        await muxed.secured_conn.write(frame(DATA, 0, 7, bytes(300))[:12])
        for _ in range(300):
            await muxed.secured_conn.write(b"y")
        await until(lambda: stream.buffered == 2300)
        assert len(stream._chunks) < 5
        assert bytes(stream.take(3)) == b"xxx"
        left = stream.buffered
        while left:
            left -= len(stream.take(1000))
        assert stream.buffered == muxer(bob).buffered == 0


async def test_a_window_grows_while_its_reader_keeps_up() -> None:
    async with two_sites() as (alice, _):
        async with await alice.network.open_stream(BOB.public, FLOOD) as stream:
            opened = _muxer(alice).streams[1]
            size = 0
            while size < 16 * MIB:
                size += len(await stream.read(timeout_seconds=5))
            assert opened.grown_bytes > 2 * MIB
            await stream.reset()
        assert _muxer(alice)._grown == 0


async def test_windows_grow_no_further_than_the_connection_may_hold() -> None:
    async with two_sites(NetworkLimits(buffered_bytes=MIB)) as (alice, _):
        streams = [await alice.network.open_stream(BOB.public, FLOOD) for _ in range(2)]
        for stream in streams:
            size = 0
            while size < 4 * MIB:
                size += len(await stream.read(timeout_seconds=5))
        grown = sum(stream.grown_bytes for stream in _muxer(alice).streams.values())
        assert grown == MIB // 2
        for stream in streams:
            await stream.reset()


def _muxer(site: Site) -> Muxer:
    """A site's only connection."""
    (group,) = site.network._connections.values()
    return group[0]._muxer


async def test_a_slow_reader_is_sent_no_more_than_its_window() -> None:
    async with two_sites() as (alice, bob):
        stream = await alice.network.open_stream(BOB.public, SILENT)
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(StreamLost):
                    await stream.write(bytes(4 * MIB), timeout_seconds=60)

            nursery.start_soon(write)
            theirs = _muxer(bob)
            await until(lambda: theirs.buffered > INITIAL_WINDOW_BYTES - 65_507)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert theirs.buffered < INITIAL_WINDOW_BYTES
            # A reset wakes a writer that waits for room.
            await stream.reset()
        await until(lambda: not theirs.buffered)


async def test_who_is_cancelled_sends_no_more() -> None:
    async with two_sites() as (alice, bob):
        stream = await alice.network.open_stream(BOB.public, SINK)
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.write(b"not said", timeout_seconds=5)
        assert scope.cancelled_caught
        with pytest.raises(StreamLost):
            await stream.write(b"nor this", timeout_seconds=5)
        await stream.reset()
        await until(lambda: not _muxer(alice).streams and not _muxer(bob).streams)


@pytest.mark.slow
async def test_both_sides_send_all_they_can_at_once() -> None:
    size = 8 * MIB
    async with two_sites() as (alice, bob):

        async def push(site: Site, to: bytes) -> None:
            async with await site.network.open_stream(to, SINK) as stream:
                await stream.write(bytes(size), timeout_seconds=10)
                await stream.close()
                assert await stream.read(timeout_seconds=10) == str(size).encode()

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(push, alice, BOB.public)
                    nursery.start_soon(push, bob, ALICE.public)


class Nowhere:
    """A connection that is never read and takes everything."""

    partial_since: float | None = None

    async def receive_into(self, buffer: memoryview) -> int:
        return 0

    async def send(self, parts: object) -> None:
        pass

    def send_now(self, data: object) -> None:
        pass


def some_frame(kind: int, flags: int, stream_id: int, length: int, body: bytes) -> bytes:
    """A frame whose length may be a lie."""
    return struct.pack("!BBHII", 0, kind, flags, stream_id, length) + body


FRAMES = st.builds(
    some_frame,
    st.integers(0, 5),
    st.sampled_from([0, 1, 2, 4, 8, 3, 5, 9, 12, 15, 65_535]),
    st.sampled_from([0, 1, 2, 3, 5, 7, 2**32 - 1]),
    st.sampled_from([0, 1, 3, 5, 1000, 70_000, 2**20 + 1, 2**32 - 1]),
    st.binary(max_size=5),
)
HONEST = st.builds(frame, st.just(DATA), st.sampled_from([0, SYN, FIN]), st.just(7), st.binary())


ONE_BYTE = frame(DATA, SYN, 7, b"x")


@example([ONE_BYTE, frame(WINDOW, FIN | RST, 7)], 1)
@example([ONE_BYTE, frame(WINDOW, FIN, 7), frame(WINDOW, RST, 7)], 100)
@given(st.lists(FRAMES | HONEST | st.binary(max_size=30), max_size=30), st.integers(1, 100))
def test_any_bytes_are_frames_or_a_broken_rule(frames: list[bytes], step: int) -> None:
    data = b"".join(frames)
    ends = [trio.run(_take_all, data, cut) for cut in (step, len(data) + 1)]
    if "nobody has read" not in ends[0][0] + ends[1][0]:
        assert ends[0] == ends[1]


async def _take_all(data: bytes, cut: int) -> tuple[str, list[bytes], bytearray]:
    """A muxer gets data in pieces: why it ended, what the streams got, what it answers."""
    accepted: list[MuxedStream] = []
    limits = NetworkLimits(stream_entries=3, buffered_bytes=2000)
    one = _unconnected(limits, accepted)
    end = ""
    try:
        for at in range(0, len(data), cut):
            await one._handle(data[at : at + cut])
    except (PeerMisbehaved, ConnectionError) as error:
        end = str(error)
    assert one.buffered == sum(stream.buffered for stream in one.streams.values())
    assert one.buffered == sum(stream.buffered for stream in accepted)
    assert one.buffered <= 2000 or end
    assert len(one.streams) <= 3
    result = end, [bytes(b"".join(map(bytes, s._chunks))) for s in accepted], one._control
    one.end()
    assert one.buffered == 0
    assert not one.streams
    return result


def _unconnected(limits: NetworkLimits, accepted: list[MuxedStream]) -> Muxer:
    """A muxer that hears nothing but what a test hands it."""
    aead = ChaCha20Poly1305(bytes(32))
    channel = Channel(
        Nowhere(), sending=Cipher(aead, 0), receiving=Cipher(aead, 0), opened=b"", rest=b""
    )
    return Muxer(channel, peer="", is_initiator=False, limits=limits, accept=accepted.append)


@pytest.mark.parametrize("closed", ["by both", "by the peer, and reset"])
async def test_what_was_not_read_is_held_by_the_connection_and_goes_with_it(closed: str) -> None:
    accepted: list[MuxedStream] = []
    one = _unconnected(NetworkLimits(), accepted)
    await one._handle(ONE_BYTE + frame(DATA, 0, 7, b"yz") + frame(DATA, FIN, 7))
    if closed == "by both":
        await accepted[0].close()
    else:
        await one._handle(frame(WINDOW, RST, 7))
    assert one.buffered == 3
    assert bytes(accepted[0].take(1)) == b"x"
    assert one.streams
    assert bytes(accepted[0].take(3)) == b"yz"
    # All of it was read: nothing is left to hold.
    assert not one.streams
    assert one._ours_open == one._grown == one.buffered == 0


# --- how streams end ------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [frame(WINDOW, FIN, 7), frame(DATA, FIN, 7, b"!")])
async def test_what_came_before_the_end_is_read_before_it(ends: bytes) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream = await open_silent(muxed, bob, 7)
        await muxed._write_frame(frame(DATA, 0, 7, b"last words") + ends)
        # Nor does a reset after the end take them away.
        await muxed._write_frame(frame(WINDOW, RST, 7))
        await until(lambda: stream.is_over)
        assert bytes(await stream.read(10)) == b"last words"
        if stream.buffered:
            assert bytes(await stream.read(10)) == b"!"
        with pytest.raises(EOFError):
            await stream.read(10)


async def test_a_reset_takes_away_what_was_not_read_and_wakes_who_waits() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream = await open_silent(muxed, bob, 7)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(ConnectionResetError):
                    await stream.read(10)

            async def write() -> None:
                data = memoryview(bytes(MIB))
                with pytest.raises(ConnectionResetError):
                    await write_all(stream, data)

            nursery.start_soon(read)
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            await muxed._write_frame(frame(WINDOW, RST, 7))
        assert stream.buffered == muxer(bob).buffered == 0
        assert 7 not in muxer(bob).streams


async def test_streams_that_both_sides_have_ended_are_forgotten() -> None:
    async with two_sites() as (alice, bob):
        for _ in range(50):
            async with await alice.network.open_stream(BOB.public, SINK) as stream:
                await stream.close()
                assert await stream.read(timeout_seconds=5) == b"0"
        await until(lambda: not _muxer(alice).streams and not _muxer(bob).streams)
        assert _muxer(alice)._ours_open == 0


@pytest.mark.parametrize("stream_id", [0, 2, 7])
async def test_a_stream_under_a_number_that_is_not_free_ends_the_connection(
    stream_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        await open_silent(muxed, bob, 7)
        await muxed._write_frame(frame(WINDOW, SYN, stream_id))
        await until(lambda: MALLORY.public not in bob.network.connected(), seconds=2)
    assert "under a number that is not free" in caplog.text
