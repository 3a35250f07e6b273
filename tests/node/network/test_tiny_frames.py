"""Frames with little in them: how many are taken, and who has to wait for whom.

Time is a fake clock: what is counted is frames, and seconds that nobody waits for.
"""

import logging
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from tiny_frames_peer import DATA, KINDS, RST, SYN, WINDOW, frame

from node.network.bounds import NetworkLimits
from node.network.channel import PLAIN_BYTES, Channel, Cipher
from node.network.muxed import MuxedStream
from node.network.muxer import GONE_FOR_A_BROKEN_RULE, Muxer
from protocol.limits import (
    OPENING_FRAMES,
    TINY_FRAMES_AT_ONCE,
    TINY_FRAMES_BURST_SECONDS,
    TINY_FRAMES_LASTING_SECONDS,
    TINY_FRAMES_PER_SECOND,
    WRITE_BLOCK_BYTES,
)

AEAD = ChaCha20Poly1305(bytes(32))


class Wire:
    """A connection that brings what it is given, as fast as that is taken."""

    partial_since: float | None = None

    def __init__(self, messages: Iterator[bytes]) -> None:
        self.last_words = b""
        self.before_read: Callable[[], None] = lambda: None
        self._messages = messages
        self._cipher = Cipher(AEAD, 0)
        self._rest = b""

    async def receive_into(self, buffer: memoryview) -> int:
        self.before_read()
        await trio.lowlevel.checkpoint()
        while len(self._rest) < len(buffer):
            message = next(self._messages, None)
            if message is None:
                break
            sealed = self._cipher.seal(message)
            self._rest += len(sealed).to_bytes(2, "big") + sealed
        count = min(len(self._rest), len(buffer))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    async def send(self, parts: object) -> None:
        await trio.lowlevel.checkpoint()

    def send_now(self, data: bytes | bytearray | memoryview) -> None:
        self.last_words += data


class Counting(Muxer):
    """Counts the frames that it handles, and the streams that are opened."""

    frames = 0
    opened = 0

    def _begin_frame(self, *values: int) -> None:
        self.frames += 1
        super()._begin_frame(*values)


def counting(
    messages: Iterator[bytes],
    accept: Callable[[MuxedStream], None] = lambda _: None,
    limits: NetworkLimits | None = None,
) -> tuple[Counting, Wire]:
    """A muxer to which a peer sends these messages."""
    wire = Wire(messages)
    channel = Channel(
        wire, sending=Cipher(AEAD, 0), receiving=Cipher(AEAD, 0), opened=b"", rest=b""
    )
    one = Counting(
        channel, peer="Mallory", is_initiator=False, limits=limits or NetworkLimits(), accept=accept
    )
    return one, wire


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
async def test_tiny_frames_are_taken_at_their_rate_and_no_faster(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    messages = 0

    def counted() -> Iterator[bytes]:
        nonlocal messages
        for message in KINDS[kind]():
            messages += 1
            yield message

    opened: list[int] = []
    one, _ = counting(counted(), lambda stream: opened.append(stream.stream_id))
    seconds = 4
    with trio.move_on_after(seconds):
        await one.run()
    most = TINY_FRAMES_PER_SECOND * (seconds + TINY_FRAMES_BURST_SECONDS)
    taken = one.frames + OPENING_FRAMES * len(opened)
    if kind in ("small messages", "no frames"):
        taken += messages
    slack = 2 * (TINY_FRAMES_AT_ONCE + OPENING_FRAMES)
    if kind in ("small messages", "no frames"):
        # What the last read brought is not handled yet.
        slack += 256 * 1024 // 16
    assert 0.9 * most < taken < most + slack


@pytest.mark.slow
async def test_tiny_frames_without_end_end_the_connection(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    one, wire = counting(KINDS["windows"]())
    begin = trio.current_time()
    await one.run()
    seconds = trio.current_time() - begin
    # A burst comes first, and is over twice as soon.
    expected = TINY_FRAMES_LASTING_SECONDS - 2 * TINY_FRAMES_BURST_SECONDS
    assert seconds == pytest.approx(expected, rel=0.05)
    assert "sends frames with little in them without end" in caplog.text
    goodbye = Cipher(AEAD, 0).open(wire.last_words[2:])
    assert goodbye == frame(3, 0, 0, GONE_FOR_A_BROKEN_RULE)


@pytest.mark.slow
async def test_half_the_rate_may_go_on_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    async def paced() -> None:
        for _ in range(1200):
            await one._handle(frame(WINDOW, 0, 7, 1) * (TINY_FRAMES_PER_SECOND // 40))
            await trio.sleep(0.05)

    one, _ = counting(iter(()))
    begin = trio.current_time()
    await paced()
    # Nothing was waited for but the sender.
    assert trio.current_time() - begin == pytest.approx(60)


@pytest.mark.slow
async def test_bulk_is_never_held_back(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Data in full frames, ten times as many as there may be tiny ones; some windows beside it."""
    full = frame(DATA, 0, 7, WRITE_BLOCK_BYTES, bytes(WRITE_BLOCK_BYTES))
    assert len(full) == PLAIN_BYTES
    size = 0

    def messages() -> Iterator[bytes]:
        yield frame(WINDOW, SYN, 7, 0)
        for number in range(10_000):
            yield full
            if number % 32 == 0:
                yield frame(WINDOW, 0, 7, 1000)

    def read() -> None:
        nonlocal size
        for stream in accepted:
            while data := stream.take(1024 * 1024):
                size += len(data)

    accepted: list[MuxedStream] = []
    one, wire = counting(messages(), accepted.append, NetworkLimits(tiny_frames_per_second=1000))
    wire.before_read = read
    begin = trio.current_time()
    with caplog.at_level(logging.WARNING):
        await one.run()
    assert trio.current_time() == begin
    assert size == 10_000 * WRITE_BLOCK_BYTES
    assert caplog.text == ""


class Turns(trio.abc.Instrument):
    """The most frames handled before another task had its turn."""

    def __init__(self, one: Counting) -> None:
        self.most = 0
        self._one = one
        self._before = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self._one.frames - self._before)
        self._before = self._one.frames


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
async def test_others_have_their_turn_after_a_few_frames(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    one, _ = counting(KINDS[kind]())
    turns = Turns(one)
    trio.lowlevel.add_instrument(turns)
    with trio.move_on_after(1):
        await one.run()
    trio.lowlevel.remove_instrument(turns)
    assert turns.most <= TINY_FRAMES_AT_ONCE
    if kind.startswith("opened"):
        assert turns.most <= 4 * TINY_FRAMES_AT_ONCE / OPENING_FRAMES


async def test_a_full_buffer_of_small_messages_is_opened_a_few_at_a_time() -> None:
    wire = Wire(iter([b""] * 20_000 + [b"last"]))
    channel = Channel(
        wire, sending=Cipher(AEAD, 0), receiving=Cipher(AEAD, 0), opened=b"", rest=b""
    )
    messages: list[bytes] = []
    while some := await channel.receive():
        assert len(some) <= 64
        messages += some
    assert messages == [b""] * 20_000 + [b"last"]


def test_the_kinds_are_what_they_say() -> None:
    assert next(KINDS["open and reset"]())[:12] == frame(WINDOW, SYN | RST, 1, 0)
    assert all(len(next(make())) <= PLAIN_BYTES for make in KINDS.values())
