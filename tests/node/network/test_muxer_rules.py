"""Yamux frame by frame: what a muxer says to each, on a connection in memory.

Frames are written and read by struct, as the specification has them (`muxer_peer.py`).
"""

import gc
import struct
import weakref
from dataclasses import replace

import pytest
import trio
import trio.testing
from muxer_peer import LIMITS, joined
from tiny_frames_peer import ACK, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW, frame

from node.network.channel import PLAIN_BYTES
from node.network.muxed import INITIAL_WINDOW_BYTES, OPENED_WINDOW_BYTES
from node.network.muxer import (
    GONE_FOR_A_BROKEN_RULE,
    GONE_FOR_AN_ERROR_HERE,
    GONE_NORMALLY,
    Muxer,
    TooManyStreams,
)

KIB = 1024


def ended(muxer: Muxer) -> bool:
    """Whether a connection is over, and says so to who wants a stream."""
    if muxer.is_over:
        with pytest.raises(ConnectionResetError):
            muxer.open_stream(b"")
    return muxer.is_over


# --- pings and goodbyes -------------------------------------------------------------------


async def test_a_ping_is_answered_with_its_number_and_an_answer_is_not() -> None:
    async with joined() as (_, peer):
        await peer.send(frame(PING, SYN, 0, 77), frame(PING, ACK, 0, 78), frame(PING, SYN, 0, 79))
        assert await peer.heard() == [(PING, ACK, 0, 77, b""), (PING, ACK, 0, 79, b"")]


async def test_a_ping_of_ours_is_one() -> None:
    async with joined() as (muxer, peer):
        muxer.ping()
        assert await peer.heard() == [(PING, SYN, 0, 0, b"")]


async def test_after_a_goodbye_no_stream_is_opened_and_the_others_have_their_time(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (muxer, peer):
        await peer.send(frame(WINDOW, SYN, 1, 0), frame(GO_AWAY, 0, 0, GONE_NORMALLY))
        with pytest.raises(ConnectionResetError):
            muxer.open_stream(b"")
        mock_clock.jump(LIMITS.linger_seconds - 1)
        # Saying it again wins no time.
        await peer.send(frame(GO_AWAY, 0, 0, GONE_NORMALLY), frame(DATA, 0, 1, 2, b"ab"))
        assert not ended(muxer)
        assert bytes(peer.accepted[0].take(9)) == b"ab"
        mock_clock.jump(1.5)
        await trio.testing.wait_all_tasks_blocked()
        assert ended(muxer)
        assert peer.accepted[0].is_over


@pytest.mark.parametrize("code", [GONE_FOR_A_BROKEN_RULE, GONE_FOR_AN_ERROR_HERE, 77])
async def test_a_goodbye_for_a_reason_is_the_end(code: int) -> None:
    async with joined() as (muxer, peer):
        await peer.send(frame(GO_AWAY, 0, 0, code))
        assert ended(muxer)
        assert await peer.heard() == []


async def test_a_goodbye_of_ours_says_why_unless_a_message_is_on_its_way() -> None:
    async with joined() as (muxer, peer):
        muxer.say_goodbye(GONE_FOR_AN_ERROR_HERE)
        assert await peer.heard() == [(GO_AWAY, 0, 0, GONE_FOR_AN_ERROR_HERE, b"")]
        async with muxer._sending:
            muxer.say_goodbye(GONE_NORMALLY)
        assert await peer.heard() == []


# --- streams that we open -----------------------------------------------------------------


@pytest.mark.parametrize("is_caller", [True, False])
async def test_streams_of_ours_have_our_numbers_a_window_and_first_words(is_caller: bool) -> None:
    async with joined(is_caller=is_caller) as (muxer, peer):
        opened = [muxer.open_stream(word) for word in (b"one", b"")]
        numbers = [2, 4] if is_caller else [1, 3]
        assert [stream.stream_id for stream in opened] == numbers
        wider = OPENED_WINDOW_BYTES - INITIAL_WINDOW_BYTES
        assert await peer.heard() == [
            (WINDOW, SYN, numbers[0], wider, b""),
            (DATA, 0, numbers[0], 3, b"one"),
            (WINDOW, SYN, numbers[1], wider, b""),
            (DATA, 0, numbers[1], 0, b""),
        ]
        # They are ours: the peer speaks on them, and opens none under their numbers.
        await peer.send(frame(DATA, ACK, numbers[0], 3, b"two"))
        assert bytes(opened[0].take(9)) == b"two"
        await peer.send(frame(WINDOW, SYN, numbers[1] + 2, 0))
        assert ended(muxer)


async def test_first_words_and_what_follows_wait_for_the_same_room() -> None:
    async with joined() as (muxer, peer), trio.open_nursery() as nursery:
        stream = muxer.open_stream(bytes(1000))
        size = muxer.block_bytes
        # Four blocks fit into a new window, and not beside these first words.
        missing = 4 * size - (INITIAL_WINDOW_BYTES - 1000)
        await peer.heard()

        async def write() -> None:
            data = memoryview(bytes(5 * size))
            while data:
                data = data[await stream.write(data) :]

        nursery.start_soon(write)
        assert [each[3] for each in await peer.heard()] == [size] * 3
        await peer.send(frame(WINDOW, 0, 2, missing - 1))
        assert await peer.heard() == []
        await peer.send(frame(WINDOW, 0, 2, 1))
        assert [each[3] for each in await peer.heard()] == [size]
        await peer.send(frame(WINDOW, 0, 2, size))
        assert [each[3] for each in await peer.heard()] == [size]


async def test_the_last_number_is_used_and_none_after_it() -> None:
    async with joined(is_caller=False) as (muxer, peer):
        muxer._next_id = 2**32 - 1
        assert muxer.open_stream(b"").stream_id == 2**32 - 1
        with pytest.raises(ConnectionResetError):
            muxer.open_stream(b"")
        assert [stream_id for _, _, stream_id, _, _ in await peer.heard()] == [2**32 - 1] * 2


async def test_as_many_streams_of_ours_are_open_as_the_limit_says() -> None:
    async with joined(limits=replace(LIMITS, opened_streams=2)) as (muxer, peer):
        # A stream of the peer's takes nobody's place.
        await peer.send(frame(WINDOW, SYN, 1, 0))
        first, _ = muxer.open_stream(b""), muxer.open_stream(b"")
        for _ in range(2):
            with pytest.raises(TooManyStreams):
                muxer.open_stream(b"")
        peer.accepted[0].reset()
        with pytest.raises(TooManyStreams):
            muxer.open_stream(b"")
        first.reset()
        muxer.open_stream(b"")
        with pytest.raises(TooManyStreams):
            muxer.open_stream(b"")


async def test_windows_double_up_to_the_largest_and_to_half_of_what_may_be_held() -> None:
    limits = replace(LIMITS, window_bytes=512 * KIB, buffered_bytes=1024 * KIB)
    async with joined(limits=limits) as (muxer, _):
        first = muxer.open_stream(b"")
        assert first.grown_bytes == 256 * KIB, "no window larger than the largest"
        second = muxer.open_stream(b"")
        assert second.grown_bytes == 256 * KIB, "just half of what may be held"
        assert muxer.open_stream(b"").grown_bytes == 0
        first.reset()
        assert muxer.open_stream(b"").grown_bytes == 256 * KIB, "what is over makes room"


# --- what we say on a stream ----------------------------------------------------------------


async def test_data_goes_out_in_blocks_after_what_waits() -> None:
    async with joined() as (muxer, peer):
        stream = muxer.open_stream(b"hello")
        size = muxer.block_bytes
        data = bytes(range(256)) * (6 * size // 256 + 1)
        assert await stream.write(memoryview(data)) == 4 * size
        heard = await peer.heard()
        assert heard[1] == (DATA, 0, 2, 5, b"hello")
        assert [each[:4] for each in heard[2:]] == [(DATA, 0, 2, size)] * 4
        assert b"".join(each[4] for each in heard[2:]) == data[: 4 * size]


async def test_ends_and_resets_are_said_once() -> None:
    async with joined() as (muxer, peer):
        ends, resets = muxer.open_stream(b""), muxer.open_stream(b"")
        await peer.heard()
        await ends.close()
        await ends.close()
        resets.reset()
        resets.reset()
        assert await peer.heard() == [(WINDOW, FIN, 2, 0, b""), (WINDOW, RST, 4, 0, b"")]
        # What both have ended is over: a reset has nothing to say, and to nobody.
        await peer.send(frame(WINDOW, FIN, 2, 0))
        assert not muxer.streams
        ends.reset()
        assert await peer.heard() == []


async def test_who_has_read_half_a_window_grants_it_anew() -> None:
    async with joined() as (_, peer):
        await peer.send(frame(WINDOW, SYN, 1, 0))
        assert await peer.heard() == [(WINDOW, ACK, 1, 0, b"")]
        half = INITIAL_WINDOW_BYTES // 2
        block = bytes(32 * KIB)
        for _ in range(half // len(block)):
            await peer.send(frame(DATA, 0, 1, len(block), block))
        while peer.accepted[0].take(half):
            pass
        ((kind, flags, stream_id, more, _),) = await peer.heard()
        assert (kind, flags, stream_id) == (WINDOW, 0, 1)
        assert more >= half


async def test_writers_take_turns_and_one_that_is_over_says_nothing() -> None:
    async with joined() as (muxer, peer), trio.open_nursery() as nursery:
        stays, goes = muxer.open_stream(b""), muxer.open_stream(b"")
        await peer.heard()
        peer.near.takes = trio.Event()

        async def write(data: bytes) -> None:
            await stays.write(memoryview(data))

        async def write_too_late() -> None:
            with pytest.raises(ConnectionResetError):
                await goes.write(memoryview(b"lost"))

        nursery.start_soon(write, b"one")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(write_too_late)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(write, b"two")
        await trio.testing.wait_all_tasks_blocked()
        goes.reset()
        peer.near.takes.set()
        assert await peer.heard() == [
            (DATA, 0, 2, 3, b"one"),
            (WINDOW, RST, 4, 0, b""),
            (DATA, 0, 2, 3, b"two"),
        ]


@pytest.mark.parametrize("size", [PLAIN_BYTES - 1, PLAIN_BYTES, PLAIN_BYTES + 1, 2 * PLAIN_BYTES])
async def test_short_frames_that_wait_fill_whole_messages(size: int) -> None:
    async with joined() as (muxer, peer):
        head = 2 * 12
        muxer.open_stream(bytes(size - head))
        assert [each[3] for each in await peer.heard()][1] == size - head
        expected = [PLAIN_BYTES] * (size // PLAIN_BYTES)
        assert [len(each) for each in peer.messages] == expected + [size % PLAIN_BYTES] * (
            size % PLAIN_BYTES > 0
        )


async def test_a_peer_that_takes_no_answers_is_not_read_on() -> None:
    limits = replace(LIMITS, tiny_frames_per_second=1e9)
    async with joined(limits=limits) as (muxer, peer):
        peer.near.takes = trio.Event()
        pings = frame(PING, SYN, 0, 1) * (PLAIN_BYTES // 12)
        await peer.send(*[pings] * 10)
        # 64 KiB, and what one read of the socket brings.
        assert len(muxer._control) <= (64 + 256) * KIB
        assert len(peer.near.waiting) > 4 * PLAIN_BYTES
        peer.near.takes.set()
        assert len(await peer.heard()) == 10 * (PLAIN_BYTES // 12)


# --- streams that the peer opens --------------------------------------------------------------


async def test_a_stream_of_the_peers_is_acknowledged_and_handed_over() -> None:
    async with joined() as (muxer, peer):
        await peer.send(frame(DATA, SYN, 1, 2, b"ab"), frame(WINDOW, SYN, 5, 9))
        assert [stream.stream_id for stream in peer.accepted] == [1, 5]
        assert list(muxer.streams.values()) == peer.accepted
        assert bytes(peer.accepted[0].take(9)) == b"ab"
        assert await peer.heard() == [(WINDOW, ACK, 1, 0, b""), (WINDOW, ACK, 5, 0, b"")]


@pytest.mark.parametrize("kind", [DATA, WINDOW])
async def test_what_is_opened_and_reset_at_once_is_no_stream(kind: int) -> None:
    async with joined() as (muxer, peer):
        await peer.send(frame(kind, SYN | RST, 1, 0))
        assert not muxer.streams
        assert peer.accepted == []
        assert await peer.heard() == []
        # The number is free as before.
        await peer.send(frame(kind, SYN, 1, 0))
        assert [stream.stream_id for stream in peer.accepted] == [1]


async def test_frames_of_streams_that_are_not_there_are_passed_over() -> None:
    async with joined() as (muxer, peer):
        await peer.send(
            frame(WINDOW, 0, 1, 5),
            frame(WINDOW, FIN, 1, 5),
            frame(DATA, 0, 1, 0),
            frame(DATA, RST, 2, 3, b"abc"),
            frame(PING, SYN, 0, 7),
        )
        assert await peer.heard() == [(PING, ACK, 0, 7, b"")]
        assert not muxer.is_over


async def test_a_frame_as_large_as_may_be_is_passed_over_whole() -> None:
    async with joined() as (muxer, peer):
        size = LIMITS.frame_bytes
        data = frame(DATA, 0, 1, size) + bytes(size) + frame(PING, SYN, 0, 7)
        step = PLAIN_BYTES
        await peer.send(*(data[at : at + step] for at in range(0, len(data), step)))
        assert await peer.heard() == [(PING, ACK, 0, 7, b"")]
        assert not muxer.is_over


async def test_bounds_may_be_reached_and_not_passed() -> None:
    limits = replace(LIMITS, stream_entries=3, buffered_bytes=10)
    async with joined(limits=limits) as (muxer, peer):
        for stream_id in (1, 3, 5):
            await peer.send(frame(DATA, SYN, stream_id, 3, b"abc"))
        await peer.send(frame(DATA, 0, 5, 1, b"d"))
        assert not ended(muxer)
        assert muxer.buffered == 10
        # What was read makes room.
        assert bytes(peer.accepted[0].take(3)) == b"abc"
        await peer.send(frame(DATA, 0, 5, 3, b"efg"))
        assert not ended(muxer)
        await peer.heard()
        await peer.send(frame(DATA, 0, 5, 1, b"h"))
        assert ended(muxer)
        assert muxer.buffered == 0


BROKEN = {
    "another version": struct.pack("!BBHII", 1, PING, SYN, 0, 1),
    "an unknown kind": frame(4, 0, 0, 0),
    "a frame beyond all measure": frame(DATA, 0, 9, LIMITS.frame_bytes + 1),
    "more than the window": frame(DATA, 0, 1, INITIAL_WINDOW_BYTES + 1),
    "stream zero": frame(WINDOW, SYN, 0, 0),
    "a number of ours": frame(WINDOW, SYN, 2, 0),
    "a number in use": frame(WINDOW, SYN, 1, 0),
    "one stream too many": frame(WINDOW, SYN, 5, 0),
}


@pytest.mark.parametrize("broken", list(BROKEN))
async def test_who_breaks_a_rule_is_told_so_and_cut_off(broken: str) -> None:
    async with joined(limits=replace(LIMITS, stream_entries=2)) as (muxer, peer):
        await peer.send(frame(WINDOW, SYN, 1, 0), frame(WINDOW, SYN, 3, 0))
        assert [flags for _, flags, _, _, _ in await peer.heard()] == [ACK, ACK]
        await peer.send(BROKEN[broken] + frame(PING, SYN, 0, 1))
        assert ended(muxer)
        assert all(stream.is_over for stream in peer.accepted)
        assert await peer.heard() == [(GO_AWAY, 0, 0, GONE_FOR_A_BROKEN_RULE, b"")]


async def test_a_window_may_be_used_to_its_last_byte() -> None:
    async with joined() as (muxer, peer):
        await peer.send(frame(WINDOW, SYN, 1, 0), frame(DATA, 0, 1, INITIAL_WINDOW_BYTES))
        assert not ended(muxer)


@pytest.mark.parametrize("closed", ["by the peer", "by us"])
async def test_a_stream_that_is_over_is_kept_by_nobody(closed: str) -> None:
    async with joined() as (muxer, peer):
        await peer.send(frame(DATA, SYN, 1, 4, b"last"))
        known = weakref.ref(peer.accepted[0])
        if closed == "by us":
            peer.accepted[0].reset()
        else:
            await peer.send(frame(WINDOW, RST, 1, 0))
        peer.accepted.clear()
        gc.collect()
        assert known() is None
        assert not muxer.streams
