"""The connection below Noise: exact reads, what counts as a sign of life, whole writes."""

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import IOException
from libp2p.io.utils import read_exactly
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID

from node.network.bounds import NetworkLimits
from node.network.hardening import SocketConnection, _after, node_id, node_public
from node.network.transport import TcpLine

LIMITS = NetworkLimits()


class Ends:
    """A connection, and the other end of its socket."""

    def __init__(self, *, is_trusted: bool = True) -> None:
        ours, theirs = trio.socket.socketpair()
        self.theirs = trio.SocketStream(theirs)
        self.ours = SocketConnection(
            TcpLine(trio.SocketStream(ours)), is_initiator=False, limits=LIMITS
        )
        if is_trusted:
            self.ours.trust()


@contextlib.asynccontextmanager
async def connected(*, is_trusted: bool = True) -> AsyncIterator[Ends]:
    ends = Ends(is_trusted=is_trusted)
    try:
        yield ends
    finally:
        ends.ours.abort()
        await ends.theirs.aclose()


async def test_reads_are_exact_and_what_came_too_far_waits() -> None:
    async with connected() as ends:
        await ends.theirs.send_all(b"onetwothree")
        assert await ends.ours.read(3) == b"one"
        assert ends.ours.received == 11
        assert await ends.ours.read(3) == b"two"
        assert ends.ours.received == 11, "it was here already"
        assert await ends.ours.read() == b"three", "all that waits"
        assert ends.ours.take_rest() == b""
        await ends.theirs.send_all(b"abc")
        assert await ends.ours.read() == b"a", "and one byte when nothing does"
        assert ends.ours.take_rest() == b"bc"
        assert ends.ours.take_rest() == b""
        assert not ends.ours.ended


async def test_a_read_that_is_not_whole_has_begun_when_its_first_bytes_came(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with connected() as ends, trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def read(count: int) -> None:
            got.append(await ends.ours.read(count))

        async def bring(data: bytes) -> None:
            before = ends.ours.received
            await ends.theirs.send_all(data)
            while ends.ours.received < before + len(data):
                await trio.lowlevel.checkpoint()

        nursery.start_soon(read, 6)
        await trio.testing.wait_all_tasks_blocked()
        assert ends.ours.partial_since is None, "nothing has come"
        mock_clock.jump(10)
        await bring(b"ab")
        began = trio.current_time()
        assert ends.ours.partial_since == began
        mock_clock.jump(10)
        await bring(b"cd")
        assert ends.ours.partial_since == began, "more of it does not begin it anew"
        await bring(b"efgh")
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"abcdef"]
        assert ends.ours.partial_since is None
        # The next one has begun with what was read too far.
        mock_clock.jump(10)
        nursery.start_soon(read, 4)
        await trio.testing.wait_all_tasks_blocked()
        assert ends.ours.partial_since == trio.current_time()
        await bring(b"ij")
        await trio.testing.wait_all_tasks_blocked()
        assert got[1:] == [b"ghij"]
        assert ends.ours.received == 10


async def test_a_message_in_many_small_segments_is_one_message() -> None:
    async with connected() as ends, trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def receive() -> None:
            # Of libp2p's, which gives up after a hundred reads that were not whole.
            got.append(await read_exactly(ends.ours, 300))

        nursery.start_soon(receive)
        for number in range(300):
            await ends.theirs.send_all(bytes([number % 256]))
            while ends.ours.received <= number:
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert got == [bytes(number % 256 for number in range(300))]
        assert ends.ours.partial_since is None
        await ends.theirs.send_eof()
        with pytest.raises(IOException):
            await read_exactly(ends.ours, 1)


async def test_an_end_gives_what_there_was_and_says_so() -> None:
    async with connected() as ends:
        await ends.theirs.send_all(b"ab")
        await ends.theirs.send_eof()
        assert await ends.ours.read(5) == b"ab"
        assert ends.ours.ended
        assert ends.ours.partial_since is None
        assert await ends.ours.read(5) == b""


async def test_bytes_straight_from_the_socket_count_as_life() -> None:
    async with connected() as ends:
        buffer = bytearray(10)
        await ends.theirs.send_all(b"abcd")
        assert await ends.ours.receive_into(memoryview(buffer)) == 4
        assert (bytes(buffer[:4]), ends.ours.received, ends.ours.ended) == (b"abcd", 4, False)
        await ends.theirs.send_all(b"ef")
        assert await ends.ours.receive_into(memoryview(buffer)) == 2
        assert ends.ours.received == 6
        await ends.theirs.send_eof()
        assert await ends.ours.receive_into(memoryview(buffer)) == 0
        assert ends.ours.ended
        assert ends.ours.received == 6
        ends.ours.abort()
        assert await ends.ours.receive_into(memoryview(buffer)) == 0


async def test_a_stranger_may_say_so_much_and_no_more() -> None:
    async with connected(is_trusted=False) as ends:
        await ends.theirs.send_all(bytes(LIMITS.greeting_bytes + 1))
        assert len(await ends.ours.read(LIMITS.greeting_bytes)) == LIMITS.greeting_bytes
        with pytest.raises(IOException):
            await ends.ours.read(1)
        # A handshake has its own measure, and who is trusted has none.
        ends.ours.begin_handshake()
        await ends.theirs.send_all(bytes(LIMITS.unproved_bytes))
        assert len(await ends.ours.read(LIMITS.unproved_bytes)) == LIMITS.unproved_bytes
        with pytest.raises(IOException):
            await ends.ours.read(1)
        ends.ours.trust()
        assert len(await ends.ours.read(1)) == 1


async def test_a_write_that_stalls_ends_the_connection(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with connected() as ends, trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(RawConnError):
                await ends.ours.write(bytes(8 << 20))

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(LIMITS.stall_seconds - 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        # What moves is not stalled, however slowly.
        taken = 0
        while taken < 2 << 20:
            taken += len(await ends.theirs.receive_some(1 << 20))
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(LIMITS.stall_seconds - 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert nursery.child_tasks
        mock_clock.jump(2)
    with pytest.raises(ConnectionError):
        await ends.ours.send([b"more"])


async def test_a_write_that_is_cancelled_is_whole_all_the_same() -> None:
    async with connected() as ends:
        size = 4 << 20
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def write() -> None:
                with scope:
                    await ends.ours.send([b"head", bytes(size)])

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.01)
            scope.cancel()
            left = size + 4
            while left:
                left -= len(await ends.theirs.receive_some(1 << 20))


async def test_what_is_aborted_is_closed_and_nothing_of_it_is_read() -> None:
    async with connected() as ends:
        await ends.theirs.send_all(b"abc")
        assert await ends.ours.read(1) == b"a"
        await ends.ours.close()
        assert ends.ours.take_rest() == b""
        assert await ends.ours.read(1) == b""
        assert await ends.theirs.receive_some(1) == b""
        with pytest.raises(ConnectionError):
            await ends.ours.send([b"x"])
        ends.ours.send_now(b"x")


async def test_last_words_go_out_as_far_as_the_socket_takes_them() -> None:
    async with connected() as ends:
        ends.ours.send_now(b"last words")
        assert await ends.theirs.receive_some(100) == b"last words"
        taken = 0
        for _ in range(100):
            ends.ours.send_now(bytes(1 << 20))
        ends.ours.abort()
        while some := await ends.theirs.receive_some(1 << 20):
            taken += len(some)
        assert 0 < taken < 100 << 20


async def test_a_write_to_a_peer_that_is_gone_closes_our_end() -> None:
    async with connected() as ends:
        await ends.theirs.aclose()
        with pytest.raises(ConnectionError):
            await ends.ours.send([b"x"])
        assert ends.ours.ended
        assert ends.ours._line._socket.fileno() == -1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_connection_knows_its_peers_address_while_it_lasts(host: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        port = listener.socket.getsockname()[1]
        stream = await trio.open_tcp_stream(host, port)
        raw = SocketConnection(TcpLine(stream), is_initiator=True, limits=LIMITS)
        assert raw.get_remote_address() == (host, port)
        assert raw.get_transport_addresses() == []
        assert raw.get_connection_type() is ConnectionType.DIRECT
        raw.abort()
        assert raw.get_remote_address() is None


@pytest.mark.parametrize("count", range(10))
def test_what_is_left_of_parts(count: int) -> None:
    parts = [b"abc", b"", b"de", b"fghi"]
    assert b"".join(_after(list(parts), count)) == b"".join(parts)[count:]


def test_a_peer_id_is_that_of_a_node_key_or_refused() -> None:
    key = bytes(range(32))
    assert node_public(node_id(key)) == key
    raw = node_id(key).to_bytes()
    for other in (b"", bytes(38), raw[:-1], raw + b"\0", b"\x01" + raw[1:]):
        with pytest.raises(ValueError, match="Ed25519"):
            node_public(ID(other))
