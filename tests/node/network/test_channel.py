"""Encrypted messages: cut anywhere, damaged, and in buffers of the right size."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from node.network.channel import PLAIN_BYTES, Bytes, Channel, ChannelBroken, Cipher

SIZES = [0, 1, 17, 65_518, PLAIN_BYTES]


class Wire:
    """A connection in memory: what is sent is kept, what comes was put there by the test."""

    def __init__(self) -> None:
        self.partial_since: float | None = None
        self.sent = bytearray()
        self.arriving: list[bytes] = []
        self.rooms: list[int] = []

    async def receive_into(self, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        self.rooms.append(len(buffer))
        if not self.arriving:
            return 0
        chunk = self.arriving.pop(0)
        if len(chunk) > len(buffer):
            self.arriving.insert(0, chunk[len(buffer) :])
            chunk = chunk[: len(buffer)]
        buffer[: len(chunk)] = chunk
        return len(chunk)

    async def send(self, parts: Sequence[Bytes]) -> None:
        self.sent += b"".join(parts)


def channel(wire: Wire, opened: bytes = b"", rest: bytes = b"") -> Channel:
    """One whose messages its own twin can read."""
    sending, receiving = (Cipher(ChaCha20Poly1305(bytes(32)), 0) for _ in range(2))
    return Channel(wire, sending=sending, receiving=receiving, opened=opened, rest=rest)


async def sealed(messages: Sequence[bytes]) -> bytes:
    """The messages as they are on the wire."""
    wire = Wire()
    await channel(wire).send(messages)
    return bytes(wire.sent)


async def received(reader: Channel) -> list[bytes]:
    """Everything until the end."""
    messages: list[bytes] = []
    while some := await reader.receive():
        messages += some
    return messages


MESSAGES = [bytes([number]) * size for number, size in enumerate(SIZES)]


@pytest.mark.parametrize("step", [1, 2, 3, 1000, 65_536, 1 << 20])
async def test_messages_arrive_however_they_are_cut(step: int) -> None:
    messages = MESSAGES if step > 10 else MESSAGES[:3]
    data = await sealed(messages)
    wire = Wire()
    wire.arriving = [data[at : at + step] for at in range(0, len(data), step)]
    assert await received(channel(wire)) == messages
    assert wire.partial_since is None


@given(st.lists(st.integers(0, 3000), max_size=20), st.lists(st.integers(1, 5000), min_size=1))
def test_messages_and_cuts_of_any_size(sizes: list[int], cuts: list[int]) -> None:
    async def check() -> None:
        messages = [bytes([size % 256]) * size for size in sizes]
        data, wire = await sealed(messages), Wire()
        for cut in cuts:
            wire.arriving.append(data[:cut])
            data = data[cut:]
        wire.arriving = [chunk for chunk in [*wire.arriving, data] if chunk]
        assert await received(channel(wire)) == messages

    trio.run(check)


async def test_what_the_handshake_has_read_too_far_comes_first() -> None:
    data, wire = await sealed([b"two", b"three"]), Wire()
    wire.arriving = [data[30:]]
    assert await received(channel(wire, b"one", data[:30])) == [b"one", b"two", b"three"]


async def test_a_message_that_is_not_whole_has_a_time(
    mock_clock: trio.testing.MockClock,
) -> None:
    data, wire = await sealed([b"whole", b"not whole"]), Wire()
    wire.arriving = [data[:-1]]
    reader = channel(wire)
    assert await reader.receive() == [b"whole"]
    began = wire.partial_since
    assert began is not None
    mock_clock.jump(0.01)
    wire.arriving = [data[-1:]]
    assert await reader.receive() == [b"not whole"]
    assert wire.partial_since is None


async def test_more_bytes_of_one_message_do_not_start_its_time_anew(
    mock_clock: trio.testing.MockClock,
) -> None:
    data, wire = await sealed([bytes(1000)]), Wire()
    wire.arriving = [data[:100]]
    reader = channel(wire)
    assert await reader.receive() == []
    began = wire.partial_since
    assert began is not None
    mock_clock.jump(0.01)
    wire.arriving = [data[100:200]]
    assert await reader.receive() == []
    assert wire.partial_since == began


@pytest.mark.parametrize("place", [2, 10, -1])
async def test_a_damaged_message_ends_the_channel(place: int) -> None:
    data, wire = bytearray(await sealed([b"message"])), Wire()
    data[place] ^= 1
    wire.arriving = [bytes(data)]
    with pytest.raises(ChannelBroken):
        await channel(wire).receive()


@pytest.mark.parametrize("data", [b"\0\0", b"\0\x0f" + bytes(15)], ids=["empty", "below a tag"])
async def test_a_message_without_a_tag_ends_the_channel(data: bytes) -> None:
    wire = Wire()
    wire.arriving = [data]
    with pytest.raises(ChannelBroken):
        await channel(wire).receive()


async def test_messages_out_of_order_end_the_channel() -> None:
    data, wire = await sealed([b"one", b"two"]), Wire()
    half = len(data) // 2
    wire.arriving = [data[half:] + data[:half]]
    with pytest.raises(ChannelBroken):
        await channel(wire).receive()


async def test_little_is_held_for_an_idle_connection_and_much_is_read_of_a_busy_one() -> None:
    bulk, little = [bytes(PLAIN_BYTES)] * 40, [b"ping"] * 40
    data, wire = await sealed([*bulk, *little]), Wire()
    small = len(await sealed([b"ping"]))
    wire.arriving = [data[: -40 * small]]
    wire.arriving += [
        data[at : at + small] for at in range(len(data) - 40 * small, len(data), small)
    ]
    reader = channel(wire)
    assert await received(reader) == [*bulk, *little]
    assert wire.rooms[0] <= 16 * 1024
    assert max(wire.rooms) >= 128 * 1024
    assert wire.rooms[-1] <= 16 * 1024
