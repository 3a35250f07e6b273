"""multistream-select on a stream: in one flight, step by step, refused, and never answered."""

import contextlib

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.utils import encode_delim
from libp2p_peer import libp2p_peer, muxer
from network_nodes import (
    BOB,
    ECHO,
    MALLORY,
    Site,
    two_sites,
    until,
    victim,
)

from node.network.negotiation import (
    HEADER,
    LINE_BYTES,
    NOT_HERE,
    PROPOSALS,
    Answers,
    BadLine,
    Choice,
    Declined,
    LineReader,
    encode_line,
    proposal,
)
from node.network.network import NetworkLimits, PeerStream, PeerTimeout, StreamLost

pytestmark = pytest.mark.integration

AGREED = encode_line(HEADER) + encode_line(ECHO)


# --- bytes in, bytes out --------------------------------------------------------------


@pytest.mark.parametrize("text", ["na", HEADER, "x" * 126, "x" * 127, "x" * 1023, "/ä/1"])
def test_a_line_is_as_libp2p_writes_it(text: str) -> None:
    assert encode_line(text) == encode_delim(text.encode())
    assert _lines(encode_line(text) + b"rest") == ([text], b"rest")


def test_a_line_of_ours_is_not_longer_than_one_that_we_take() -> None:
    with pytest.raises(ValueError, match="too long"):
        encode_line("x" * LINE_BYTES)


def _lines(data: bytes, most: int = 1) -> tuple[list[str], bytes]:
    """The first `most` lines of some bytes, and what follows them."""
    reader, lines = LineReader(), []
    while len(lines) < most:
        step, data = data[: reader.missing], data[reader.missing :]
        line = reader.receive_untrusted(step)
        if line is not None:
            lines.append(line)
    return lines, data


@pytest.mark.parametrize(
    "data", [b"\x00", b"\x01x", b"\x02\xff\n", b"\x81\x08", b"\x80\x80", b"\xff\xff"]
)
def test_a_line_that_is_none(data: bytes) -> None:
    with pytest.raises(BadLine):
        _lines(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_line_or_none(data: bytes) -> None:
    for parser in (LineReader(), Answers(ECHO), Choice([ECHO])):
        left, agreed = data, False
        with contextlib.suppress(BadLine, Declined):
            while left and not agreed:
                assert parser.missing > 0
                step, left = left[: parser.missing], left[parser.missing :]
                agreed = parser.receive_untrusted(step) is True
                agreed = agreed or (isinstance(parser, Choice) and parser.chosen is not None)


def test_what_a_peer_may_ask_for_and_how_it_is_answered() -> None:
    choice, answers, data = Choice([ECHO]), b"", encode_line(HEADER)
    data += encode_line("ls") + encode_line("/other/1") + encode_line(ECHO)
    while choice.chosen is None:
        step, data = data[: choice.missing], data[choice.missing :]
        answers += choice.receive_untrusted(step)
    assert choice.chosen == ECHO
    assert _lines(answers, 4) == ([HEADER, NOT_HERE, NOT_HERE, ECHO], b"")


def test_a_peer_may_not_ask_without_end() -> None:
    choice, line = Choice([ECHO]), encode_line("/")
    asked = encode_line(HEADER) + line * PROPOSALS
    while asked:
        step, asked = asked[: choice.missing], asked[choice.missing :]
        choice.receive_untrusted(step)
    choice.receive_untrusted(line[:1])
    with pytest.raises(BadLine, match="too many"):
        choice.receive_untrusted(line[1:])


# --- with libp2p's own multistream-select, step by step -----------------------------------


async def test_a_peer_that_asks_step_by_step_is_served() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream = await muxed.open_stream()
        communicator = MultiselectCommunicator(stream)
        chosen = await MultiselectClient().select_one_of(
            [TProtocol("/none/1"), TProtocol(ECHO)], communicator
        )
        assert chosen == ECHO
        await stream.write(b"hello")
        assert await stream.read(5) == b"hello"
        await stream.close()


async def test_a_peer_that_answers_step_by_step_takes_our_stream() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:

        async def serve() -> None:
            stream = await muxed.accept_stream()
            choices = Multiselect({TProtocol(ECHO): None})
            assert (await choices.negotiate(MultiselectCommunicator(stream)))[0] == ECHO
            await stream.write((await stream.read(100)).upper())
            await stream.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with await bob.network.open_stream(MALLORY.public, ECHO) as stream:
                await stream.write(b"hello", timeout_seconds=5)
                assert await stream.read(timeout_seconds=5) == b"HELLO"


async def test_a_request_goes_out_before_any_answer() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        async with await bob.network.open_stream(MALLORY.public, ECHO) as opened:
            await opened.write(b"request", timeout_seconds=5)
            stream = await muxed.accept_stream()
            first = b""
            with trio.fail_after(5):
                while len(first) < len(proposal(ECHO)) + 7:
                    first += await stream.read(1000)
            assert first == proposal(ECHO) + b"request"
            await stream.write(AGREED + b"answer")
            assert await opened.read(timeout_seconds=5) == b"answer"
            await stream.close()


@pytest.mark.parametrize("size", [1, 2, 3, 19, 20, 21, 33])
async def test_answers_in_odd_pieces(size: int) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        opened = await bob.network.open_stream(MALLORY.public, ECHO)
        stream = await muxed.accept_stream()
        data, received = AGREED + b"and what follows", b""
        for at in range(0, len(data), size):
            await stream.write(data[at : at + size])
            await trio.lowlevel.checkpoint()
        while len(received) < 16:
            received += await opened.read(timeout_seconds=5)
        assert received == b"and what follows"
        await opened.reset()


# --- refusals -------------------------------------------------------------------------------


async def test_a_refusal_is_found_by_the_first_read() -> None:
    async with two_sites() as (alice, _):
        stream = await alice.network.open_stream(BOB.public, "/test/none/1")
        await stream.write(b"request", timeout_seconds=5)
        with pytest.raises(StreamLost, match="does not take a stream of /test/none/1"):
            await stream.read(timeout_seconds=5)
        with pytest.raises(StreamLost):
            await stream.write(b"more", timeout_seconds=5)
        await until(lambda: not _open_streams(alice))


async def test_a_refusal_is_found_by_a_write_after_it() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        opened = await bob.network.open_stream(MALLORY.public, ECHO)
        stream = await muxed.accept_stream()
        await stream.write(encode_line(HEADER) + encode_line(NOT_HERE))
        with pytest.raises(StreamLost, match="does not take a stream of"):
            await _write_until_lost(opened)


async def test_a_stream_that_is_reset_before_it_is_agreed_on_is_refused() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        for writes in (False, True):
            opened = await bob.network.open_stream(MALLORY.public, ECHO)
            await (await muxed.accept_stream()).reset()
            with pytest.raises(StreamLost, match="does not take a stream of"):
                await (_write_until_lost(opened) if writes else opened.read(timeout_seconds=5))


@pytest.mark.parametrize("answer", [encode_line("/other/1"), b"\x02\xff\n", AGREED[:10] * 3])
async def test_another_answer_is_a_refusal(answer: bytes) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        opened = await bob.network.open_stream(MALLORY.public, ECHO)
        await (await muxed.accept_stream()).write(answer)
        with pytest.raises(StreamLost, match="does not take a stream of"):
            await opened.read(timeout_seconds=5)
        await until(lambda: not muxer(bob).streams)


async def _write_until_lost(stream: PeerStream) -> None:
    with trio.fail_after(5):
        while True:
            await stream.write(b"more", timeout_seconds=5)
            await trio.sleep(0.01)


# --- deadlines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"", AGREED[:1], AGREED[:-1]])
async def test_a_peer_that_does_not_answer_in_time(answer: bytes) -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        opened = await bob.network.open_stream(MALLORY.public, ECHO, timeout_seconds=0.2)
        await opened.write(b"request", timeout_seconds=60)
        stream = await muxed.accept_stream()
        if answer:
            await stream.write(answer)
        with trio.fail_after(2), pytest.raises(PeerTimeout, match="did not answer on a new"):
            await opened.read(timeout_seconds=60)
        assert not muxer(bob).streams


async def test_an_answer_that_has_come_lifts_its_deadline(
    mock_clock: trio.testing.MockClock,
) -> None:
    mock_clock.rate = 1
    async with two_sites() as (alice, _):
        stream = await alice.network.open_stream(BOB.public, ECHO, timeout_seconds=4)
        await stream.write(b"one", timeout_seconds=4)
        assert await stream.read(timeout_seconds=4) == b"one"
        # Past that deadline, and not so far that the connection is taken for dead.
        mock_clock.jump(5)
        await stream.write(b"two", timeout_seconds=5)
        assert await stream.read(timeout_seconds=5) == b"two"
        await stream.reset()


async def test_a_caller_that_asks_for_nothing_is_not_waited_for() -> None:
    async with victim(NetworkLimits(negotiate_seconds=0.2)) as bob, libp2p_peer(bob) as muxed:
        await muxed.open_stream()
        await until(lambda: muxer(bob).streams)
        await until(lambda: not muxer(bob).streams, seconds=2)


async def test_a_caller_that_asks_without_end_loses_its_stream() -> None:
    async with victim() as bob, libp2p_peer(bob) as muxed:
        stream = await muxed.open_stream()
        with trio.fail_after(5):
            with contextlib.suppress(MuxedStreamError):
                await stream.write(encode_line(HEADER) + encode_line("") * 100_000)
            await until(lambda: not muxer(bob).streams)


def _open_streams(site: Site) -> list[int]:
    return [
        stream_id
        for group in site.network._connections.values()
        for connection in group
        for stream_id in connection._muxer.streams
    ]
