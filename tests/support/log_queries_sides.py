"""Two networks in this process that ask each other about logs, each with one trusted facility."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import trio
from network_nodes import ALICE, BOB, LOOPBACK, WAIT_SECONDS

from keys.card import Card, issue_card
from keys.identity import KeyPair
from keys.trust import Peer
from node.audit.effects import EFFECTS_SCHEMA, Effects
from node.clock import SYSTEM_CLOCK
from node.database import Database
from node.network.network import Network
from node.sharing.budgets import Budgets
from node.sharing.decisions import Decisions
from node.sharing.log_queries import Answer, LogQueries
from node.sharing.peers import PEERS_SCHEMA, Peers
from node.witness.store import WITNESS_SCHEMA
from protocol import messages
from protocol.fields import number
from protocol.log.entry import Event
from protocol.messages import Message


@dataclass(frozen=True, kw_only=True)
class Question(Message):
    """A number."""

    TYPE: ClassVar[str] = "question"
    value: int = number()


@dataclass(frozen=True, kw_only=True)
class Reply(Message):
    """Twice the number."""

    TYPE: ClassVar[str] = "reply"
    value: int = number()


def budgets() -> Budgets:
    """Those of the protocol, on an endless disk."""
    return Budgets(lambda key: None, {}, SYSTEM_CLOCK, time.monotonic, lambda: 1 << 40)


class NoLog:
    """Takes entries and keeps none."""

    def append(self, event: Event) -> int:
        return 0


class Side:
    """A network that answers questions of the one facility that it trusts.

    Args:
        directory: for its database.
        key: its node key, from which `derived` makes the others.
        other: the node key of the facility that it trusts.
        answers: what answers what.
    """

    def __init__(
        self,
        directory: Path,
        key: KeyPair,
        other: KeyPair,
        answers: Mapping[type[Message], Answer],
    ) -> None:
        self.key = key
        self.own_card = card_of(key)
        self.database = Database(
            directory / f"{key.public.hex()[:8]}.db", (PEERS_SCHEMA, WITNESS_SCHEMA, EFFECTS_SCHEMA)
        )
        no_log: Any = NoLog()
        self.peers = Peers(
            self.database,
            derived(key, b"f").public,
            no_log.append,
            Effects(self.database, no_log),
            Decisions(),
        )
        card = card_of(other)
        self.other = self.peers.add(
            card.encoded, card.fingerprint, ("witness",), "", SYSTEM_CLOCK.now()
        )
        self.log_queries = LogQueries(
            self.peers,
            lambda peer: self.network.open_stream(peer, messages.AUDIT_PROTOCOL),
            answers,
            clock=SYSTEM_CLOCK,
            budgets=budgets(),
        )
        self.network = Network(
            key,
            listen=[LOOPBACK],
            is_trusted=lambda public: public == other.public,
            handlers={messages.AUDIT_PROTOCOL: self.log_queries.serve},
        )

    async def ask(self, value: int = 1, seconds: float = WAIT_SECONDS) -> int:
        """Ask the other side a question."""
        reply = await self.log_queries.ask(
            self.other, Question(value=value), Reply, timeout_seconds=seconds
        )
        return reply.value


def derived(key: KeyPair, role: bytes) -> KeyPair:
    """The key of a role (one byte: f, l or w) of the facility with this node key."""
    return KeyPair.from_seed(key.seed[:31] + role)


def card_of(key: KeyPair) -> Card:
    """The card of the facility with this node key."""
    now = SYSTEM_CLOCK.now()
    return issue_card(
        derived(key, b"f"),
        name=f"site {key.public.hex()[:4]}",
        node_key=key.public,
        log_key=derived(key, b"l").public,
        witness_key=derived(key, b"w").public,
        addresses=(),
        serial=1,
        issued=now,
        expires=now + 1000,
    )


async def double(peer: Peer, request: Message) -> Message:
    """The answer to a question."""
    assert isinstance(request, Question)
    return Reply(value=2 * request.value)


@contextlib.asynccontextmanager
async def sides(
    directory: Path,
    answer: Answer = double,
    answers: Mapping[type[Message], Answer] | None = None,
) -> AsyncIterator[tuple[Side, Side]]:
    """Alice, who asks; and Bob, who answers."""
    alice = Side(directory, ALICE, BOB, {Question: double})
    bob = Side(directory, BOB, ALICE, {Question: answer, **(answers or {})})
    try:
        async with bob.network.running(), alice.network.running():
            await alice.network.connect(BOB.public, bob.network.addresses)
            yield alice, bob
    finally:
        alice.database.close()
        bob.database.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test that must end soon."""

    async def bounded() -> None:
        with trio.fail_after(WAIT_SECONDS):
            await test()

    trio.run(bounded)
