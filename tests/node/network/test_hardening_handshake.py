"""Handshakes: who may not have one, what we say of it, and what the library logs of it."""

import logging
from collections.abc import Iterator

import pytest
import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.exceptions import RawConnError
from libp2p.security.exceptions import HandshakeFailure
from network_nodes import ALICE, BOB, CAROL

from node.network.bounds import NetworkLimits
from node.network.hardening import (
    SocketConnection,
    TrustedNoise,
    handshake,
    make_upgrader,
    node_id,
    tame_logging,
)
from node.network.introduction import PRESENTED_BYTES
from node.network.sockets import Unreachable
from node.network.transport import TcpLine
from node.network.vouching import NOBODY, Introductions

LIMITS = NetworkLimits()


def pair() -> tuple[SocketConnection, SocketConnection]:
    """Who calls and who is called."""
    caller, called = (trio.SocketStream(each) for each in trio.socket.socketpair())
    return (
        SocketConnection(TcpLine(caller), is_initiator=True, limits=LIMITS),
        SocketConnection(TcpLine(called), is_initiator=False, limits=LIMITS),
    )


class Unbounded(IRawConnection):
    """A connection that sets a stranger no bounds; all that libp2p asks for."""

    def __init__(self, raw: SocketConnection) -> None:
        raw.trust()
        self.is_initiator = raw.is_initiator
        self._raw = raw

    async def read(self, n: int | None = None) -> bytes:
        return await self._raw.read(n)

    async def write(self, data: bytes) -> None:
        await self._raw.write(data)

    async def close(self) -> None:
        self._raw.abort()

    def get_remote_address(self) -> None:
        return None

    def get_transport_addresses(self) -> list[object]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


@pytest.mark.parametrize("unbounded", ["caller", "called"])
async def test_noise_over_a_connection_without_bounds_trusts_nobody(unbounded: str) -> None:
    caller, called = pair()
    alice, bob = (TrustedNoise(key.seed, lambda _: True, NOBODY) for key in (ALICE, BOB))
    refused: list[str] = []

    async def call() -> None:
        conn = Unbounded(caller) if unbounded == "caller" else caller
        try:
            await alice.secure_outbound(conn, node_id(BOB.public))
        except HandshakeFailure:
            refused.append("caller")

    async def answer() -> None:
        conn = Unbounded(called) if unbounded == "called" else called
        try:
            await bob.secure_inbound(conn)
        except HandshakeFailure:
            refused.append("called")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(answer)
    assert refused == [unbounded]
    caller.abort()
    called.abort()


async def test_the_largest_card_that_is_presented_fits_into_the_bounds_of_a_stranger() -> None:
    card, taken = bytes(PRESENTED_BYTES), []
    introductions = Introductions(
        own_card=lambda _: card,
        vouches=lambda presented, _, expected: presented == card and expected is None,
        take=lambda presented, public: taken.append((presented, public)),
    )
    caller, called = pair()
    alice, bob = (make_upgrader(key.seed, lambda _: True, introductions) for key in (ALICE, BOB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handshake, caller, BOB.public, alice)
        nursery.start_soon(handshake, called, None, bob)
    assert sorted(taken) == sorted([(card, ALICE.public), (card, BOB.public)])
    caller.abort()
    called.abort()


async def _call(caller: SocketConnection) -> str | bytes:
    """The key that is reached, or why none is."""
    try:
        peer, _ = await handshake(caller, BOB.public, make_upgrader(ALICE.seed, lambda _: True))
    except Unreachable as error:
        return error.message
    else:
        return peer
    finally:
        caller.abort()


async def test_who_hangs_up_before_the_handshake_is_said_to_have_hung_up() -> None:
    caller, called = pair()
    called.abort()
    assert "hung up while connecting" in str(await _call(caller))


async def test_who_hangs_up_within_the_handshake_is_said_to_have_hung_up() -> None:
    caller, called = pair()
    said: list[str | bytes] = []

    async def call() -> None:
        said.append(await _call(caller))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        # What a caller begins with, and no more than a part of the answer.
        await called.read(20)
        await called.write(b"\x13/multistream")
        called.abort()
    assert "hung up while connecting" in str(said[0])


@pytest.mark.parametrize("answers", ["bob", "carol", "a stranger to Noise", "who trusts nobody"])
async def test_a_caller_says_what_is_wrong_with_who_answers(answers: str) -> None:
    caller, called = pair()
    said: list[str | bytes] = []

    async def call() -> None:
        said.append(await _call(caller))

    async def answer() -> None:
        key = CAROL if answers == "carol" else BOB
        upgrader = make_upgrader(key.seed, lambda _: answers != "who trusts nobody")
        if answers == "a stranger to Noise":
            await called.read(20)
            await called.write(b"\x13/multistream/1.0.0\n\x03na\n")
            await called.read(1)
            return
        try:
            peer, _ = await handshake(called, None, upgrader)
            assert peer == ALICE.public
        except (Unreachable, RawConnError):
            called.abort()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            nursery.start_soon(answer)
    called.abort()
    expected = {
        "carol": "another key or does not speak Noise",
        "a stranger to Noise": "another key or does not speak Noise",
        "who trusts nobody": "may not trust this node yet",
    }
    if answers == "bob":
        assert said == [BOB.public]
    else:
        assert expected[answers] in str(said[0])


# --- the library's log --------------------------------------------------------------------


class Heard(logging.Handler):
    """Keeps what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.levelno, record.getMessage()))


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What a program's log gets; loggers are as before in the end."""
    library, ours, root = map(logging.getLogger, ("libp2p", "radmesh.libp2p", None))
    before = library.handlers, library.propagate, library.level, ours.level
    library.propagate = True
    library.setLevel(logging.DEBUG)
    ours.setLevel(logging.DEBUG)
    handler = Heard()
    root.addHandler(handler)
    tame_logging()
    yield handler
    root.removeHandler(handler)
    library.handlers, library.propagate = before[:2]
    library.setLevel(before[2])
    ours.setLevel(before[3])


@pytest.mark.parametrize(
    ("said", "level", "line"),
    [
        ("strange thing\nand its traceback", logging.WARNING, "strange thing"),
        ("the connection was RESET\nstrange", logging.DEBUG, "the connection was RESET"),
        ("strange\nand reset", logging.WARNING, "strange"),
        ("x" * 1000 + "closed", logging.WARNING, "x" * 300),
    ],
)
def test_a_line_of_the_library_is_short_and_as_loud_as_it_deserves(
    heard: Heard, said: str, level: int, line: str
) -> None:
    logging.getLogger("libp2p.module").error(said)
    assert heard.lines == [("radmesh.libp2p", level, f"libp2p.module: {line}")]


def test_what_the_library_says_below_a_warning_is_not_heard(heard: Heard) -> None:
    logging.getLogger("libp2p.module").info("strange")
    assert heard.lines == []
