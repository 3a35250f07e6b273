"""Facilities that pair over real sockets in this process, and strangers from other addresses."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio
from pairing_made import OTHER_CODE, statement

from keys.pake import Role
from node.app import Node
from node.clock import SystemClock
from node.errors import NodeError
from node.home import Home
from node.network.network import Network
from node.network.sockets import parse_address
from node.network.transport import TCP
from node.parts import pairings_of
from node.sharing.pairing_stage import Asked, Meeting, Stage
from node.sharing.peers import UNBOUNDED, Terms
from protocol.pairing import PAIR_PROTOCOL, PairingExchange

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
GREETING = b"\x13/multistream/1.0.0\n"
PROPOSAL = GREETING + bytes((len(PAIR_PROTOCOL) + 1,)) + PAIR_PROTOCOL.encode() + b"\n"
"""What a caller sends first, and what it gets when a pairing is open."""


class MovedClock(SystemClock):
    """The machine's clock, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead_ns = 0
        super().__init__(
            lambda: time.time_ns() + self.ahead_ns, lambda: time.monotonic_ns() + self.ahead_ns
        )

    def move(self, seconds: float) -> None:
        self.ahead_ns += round(seconds * 1e9)


class PairingSite:
    """A node that can pair, and nothing else of it.

    Attributes:
        stages: what was reported of its pairing.
        ended: what its pairing came to: a meeting, or an error.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.clock = MovedClock()
        home = Home.create(
            folder / name.split()[0].lower(),
            name=name,
            addresses=("/dns4/radmesh.example/tcp/4101",),
            clock=self.clock,
        )
        self.node = Node.open(home)
        self.pairings = pairings_of(self.node, TCP)
        self.network = Network(
            self.node.keys.node,
            listen=[LOOPBACK],
            is_trusted=lambda public: False,
            handlers={},
            door=self.pairings.door,
        )
        self.stages: list[Stage] = []
        self.ended: Meeting | Exception | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.network.addresses[0]

    @property
    def port(self) -> int:
        return parse_address(self.address).port

    @property
    def code(self) -> str:
        """The code that it shows."""
        window = self.stages[-1].window
        assert window is not None
        return window.code

    @property
    def tries(self) -> int:
        window = next(one.window for one in self.stages if one.window is not None)
        return window.tries

    async def show(self, asked: Asked = Asked(), **_: Any) -> None:  # noqa: B008 (frozen)
        """Show a code and note how that ends."""
        self.stages.clear()
        self.ended = None
        try:
            self.ended = await self.pairings.show(asked, self.stages.append)
        except Exception as error:
            self.ended = error

    async def call(self, other: "PairingSite", code: str, fingerprint: str = "") -> None:
        """Type a code and note how that ends."""
        self.stages.clear()
        self.ended = None
        asked = Asked(("see",), ("research",))
        try:
            self.ended = await self.pairings.call(
                other.address, code, asked, fingerprint, self.stages.append
            )
        except Exception as error:
            self.ended = error

    async def has_shown(self) -> None:
        await until(lambda: self.stages and self.stages[-1].window is not None)

    async def has_met(self) -> Meeting:
        """Wait until the other facility is known."""
        await until(lambda: self.ended is not None or (self.stages and self.stages[-1].meeting))
        assert self.ended is None, self.ended
        meeting = self.stages[-1].meeting
        assert meeting is not None
        return meeting

    async def has_ended(self) -> Meeting | Exception:
        await until(lambda: self.ended is not None)
        assert self.ended is not None
        return self.ended

    async def accept(self, *grants: str, terms: Terms = UNBOUNDED) -> None:
        meeting = self.stages[-1].meeting if self.stages else None
        seen = (self.node.card if meeting is None else meeting.met.card).fingerprint
        await self.pairings.accept(seen, grants, "", terms)

    def trusts(self, other: "PairingSite") -> bool:
        peer = self.node.find_peer(other.node.card.facility_key)
        return peer is not None and peer.is_trusted(self.clock.now())

    def entries(self, *kinds: str) -> list[dict[str, Any]]:
        """Entries of some types, of all pairings so far."""
        import json

        found = [json.loads(each) for each in self.node.audit.entries(0)]
        return [entry for entry in found if entry["type"] in kinds]


async def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait until something holds."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (any condition, not an event)
            await trio.sleep(0.005)


@contextlib.asynccontextmanager
async def sites(folder: Path, *names: str) -> AsyncIterator[list[PairingSite]]:
    """Facilities that listen; all that they do ends with the block."""
    made = [PairingSite(folder, name) for name in names]
    try:
        async with contextlib.AsyncExitStack() as stack:
            for site in made:
                await stack.enter_async_context(site.network.running())
            yield made
    finally:
        for site in made:
            site.node.close()


class Stranger:
    """Somebody who calls a node from an address of this machine.

    Args:
        port: of the node.
        host: where the stranger calls from; all of 127.0.0.0/8 is this machine.
    """

    def __init__(self, port: int, host: str = "127.0.0.9") -> None:
        self._port, self._host = port, host
        self.stream: trio.SocketStream

    async def __aenter__(self) -> "Stranger":
        socket = trio.socket.socket()
        try:
            await socket.bind((self._host, 0))
            await socket.connect(("127.0.0.1", self._port))
        except BaseException:
            socket.close()
            raise
        self.stream = trio.SocketStream(socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def read_exactly(self, count: int) -> bytes:
        """That many bytes; fewer when the node hangs up."""
        data = b""
        while len(data) < count:
            with contextlib.suppress(trio.BrokenResourceError):
                if more := await self.stream.receive_some(count - len(data)):
                    data += more
                    continue
            break
        return data

    async def read_all(self) -> bytes:
        """What comes until the node hangs up."""
        return await self.read_exactly(1 << 20)

    async def ask(self) -> bool:
        """Propose a pairing; whether the node takes it."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_all(PROPOSAL)
        short, rest = len(GREETING) + 4, len(PROPOSAL) - len(GREETING) - 4
        answer = await self.read_exactly(short)
        if not answer.startswith(PROPOSAL[: len(GREETING) + 1]):
            return False
        return answer + await self.read_exactly(rest) == PROPOSAL

    async def guess(self, code: str, role: Role = Role.INITIATOR) -> bool:
        """Run the exchange with a code, up to the tag; whether the node went on that far."""
        if not await self.ask():
            return False
        said, key = statement("Mallory Clinic")
        exchange = PairingExchange(role, code, said, key)
        while True:
            with contextlib.suppress(trio.BrokenResourceError):
                await self.stream.send_all(exchange.take_outgoing())
            if exchange.has_guessed:
                return True
            try:
                data = await self.stream.receive_some(4096)
            except trio.BrokenResourceError:
                return False
            if not data:
                return False
            exchange.receive_untrusted(data)


def wrong(code: str) -> str:
    """Another code than this one."""
    return OTHER_CODE if code != OTHER_CODE else "48291570639"


def error_of(site: PairingSite) -> NodeError:
    """The error with which its pairing ended."""
    assert isinstance(site.ended, NodeError), site.ended
    return site.ended


def meeting_of(site: PairingSite) -> Meeting:
    """The meeting with which its pairing ended."""
    assert isinstance(site.ended, Meeting), site.ended
    return site.ended


async def relayed(to: int, listeners: list[trio.SocketListener]) -> None:
    """Pass each connection on to another port, as somebody in between can."""

    async def carry(one: trio.SocketStream, other: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in one:
                await other.send_all(data)
        await other.aclose()

    async def serve(stream: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", to) as far, trio.open_nursery() as both:
            both.start_soon(carry, stream, far)
            both.start_soon(carry, far, stream)

    await trio.serve_listeners(serve, listeners)


class Relay:
    """A port that passes what comes on to another one.

    Attributes:
        addresses: where it listens, as of a network.
    """

    def __init__(self, listeners: list[trio.SocketListener]) -> None:
        self.listeners = listeners
        port = listeners[0].socket.getsockname()[1]
        self.addresses = [f"/ip4/127.0.0.1/tcp/{port}"]

    def as_site(self) -> PairingSite:
        """What can be called like a site."""
        site = PairingSite.__new__(PairingSite)
        site.network = self  # type: ignore[assignment]
        return site


async def relay() -> Relay:
    """A relay that listens; `relayed` serves it."""
    return Relay(await trio.open_tcp_listeners(0, host="127.0.0.1"))
