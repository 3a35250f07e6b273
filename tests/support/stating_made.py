"""North sent South a study, both have its receipt, and South says what its archive has."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio
from clocks_made import MadeClock
from facility_in_memory import entries, publish_study
from two_in_memory import TwoNodes

from keys.trust import Peer
from node import parts
from node.app import Node
from node.errors import NodeError
from node.home import Home
from node.network.network import StreamLost
from node.receipts.stating import Stating
from node.sharing.log_queries import QueryRefused
from protocol import messages
from protocol.errors import RemoteProtocolError, WireCode

KINDS = ("stored", "stored-told", "stored-heard")


class Line:
    """Asks the other node without a network.

    Attributes:
        asked: how many requests left.
        fault: "request" or "answer" for the message that never arrives, a code for a refusal, or
            "nonsense" for an answer that breaks a rule.
    """

    def __init__(self) -> None:
        self.other: Stating
        self.us: Peer
        self.asked = 0
        self.fault: str | WireCode = ""

    async def ask(self, peer: Peer, request: Any, *expected: Any, **_: Any) -> Any:
        self.asked += 1
        if isinstance(self.fault, WireCode):
            raise QueryRefused(self.fault)
        if self.fault == "request":
            raise StreamLost("cut")
        if self.fault == "nonsense":
            raise RemoteProtocolError("not an answer")
        known = {type(request).TYPE: type(request)}
        arrived = messages.decode_untrusted(messages.encode(request), known)
        try:
            answer = await self.other.answers[type(request)](self.us, arrived)
        except RemoteProtocolError as error:
            raise QueryRefused(error.code) from None
        except NodeError:
            raise QueryRefused(WireCode.BUSY) from None
        if self.fault == "answer":
            raise StreamLost("cut")
        return messages.decode_untrusted(
            messages.encode(answer), {one.TYPE: one for one in expected}
        )


class Pair:
    """The two nodes, with one clock."""

    def __init__(self, north: Node, south: Node, clock: MadeClock) -> None:
        self.north, self.south, self.clock = north, south, clock
        self.line = Line()
        self.hearing = parts.stating_of(north, lambda key: self.peer_of(south), _none)
        self.telling = parts.stating_of(south, lambda key: self.peer_of(north), lambda: self.line)  # type: ignore[arg-type, return-value]
        self.line.other = self.hearing

    def peer_of(self, node: Node) -> Peer:
        """A node as the other one trusts it."""
        other = self.south if node is self.north else self.north
        peer = other.find_peer(node.card.facility_key)
        assert peer is not None
        return peer

    def tell(self, fault: str | WireCode = "") -> int:
        """Have South tell North all that it may; how often it asked."""
        self.line.fault, self.line.us, before = fault, self.peer_of(self.south), self.line.asked

        async def run() -> None:
            with trio.fail_after(30):
                await self.telling._tell_all(self.peer_of(self.north))

        trio.run(run)
        return self.line.asked - before

    def stored_due(self) -> int:
        """When South may say the first of its statements again, seconds since the epoch."""
        waiting = self.south.stored.waiting(self.north.card.facility_key)
        return -(-waiting[0].due // 1000)

    def count(self) -> dict[str, int]:
        """How many entries of each type about storage both logs have."""
        both = [*entries(self.north, *KINDS), *entries(self.south, *KINDS)]
        return {kind: sum(one["type"] == kind for one in both) for kind in KINDS}


def _none() -> Any:
    raise AssertionError("North asks nothing")


@contextlib.contextmanager
def opened(directory: Path, clock: MadeClock) -> Iterator[Pair]:
    """The two nodes of a directory, made at the first time."""
    paths = {name: directory / name.lower() for name in ("North", "South")}
    is_new = not paths["North"].exists()
    if is_new:
        for name, path in paths.items():
            Home.create(path, name=name, clock=clock)
    homes = [Home(path, clock=clock) for path in paths.values()]
    with Node.open(homes[0]) as north, Node.open(homes[1]) as south:
        if is_new:
            two = TwoNodes(north, south)
            assert two.fetch(publish_study(north), "treatment")
        yield Pair(north, south, clock)
