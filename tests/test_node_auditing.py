"""One request and one answer a stream: who is answered, and what a bad peer costs."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from network_nodes import ALICE, BOB, LOOPBACK, WAIT_SECONDS, until

from keys.card import issue_card
from keys.identity import KeyPair
from keys.trust import Peer
from node.auditing import Answer, Auditing, AuditRefused
from node.database import Database
from node.errors import NodeError
from node.home import now_ms
from node.network import Network, StreamLost
from node.peers import PEERS_SCHEMA, Peers
from protocol import limits, messages
from protocol.errors import RemoteProtocolError, WireCode
from protocol.fields import number
from protocol.messages import Heartbeat, Message

pytestmark = pytest.mark.integration


@dataclass(frozen=True, kw_only=True)
class Question(Message):
    TYPE: ClassVar[str] = "question"
    value: int = number()


@dataclass(frozen=True, kw_only=True)
class Reply(Message):
    TYPE: ClassVar[str] = "reply"
    value: int = number()


class Side:
    """A network that answers questions of the one facility that it trusts."""

    def __init__(self, directory: Path, key: KeyPair, other: KeyPair, answer: Answer) -> None:
        self.database = Database(directory / f"{key.public.hex()[:8]}.db", (PEERS_SCHEMA,))
        self.peers = Peers(self.database, _facility(key).public, lambda event: 0, lambda peer: None)
        now = now_ms() // 1000
        facility = _facility(other)
        card = issue_card(
            facility,
            name=f"site {other.public.hex()[:4]}",
            node_key=other.public,
            log_key=_derived(other, b"l").public,
            witness_key=_derived(other, b"w").public,
            addresses=(),
            serial=1,
            issued=now,
            expires=now + 1000,
        )
        self.other = self.peers.add(card.encoded, card.fingerprint, (), "", now)
        self.auditing = Auditing(
            self.peers,
            lambda peer: self.network.open_stream(peer, messages.AUDIT_PROTOCOL),
            {Question: answer},
        )
        self.network = Network(
            key,
            listen=[LOOPBACK],
            is_trusted=lambda public: public == other.public,
            handlers={messages.AUDIT_PROTOCOL: self.auditing.serve},
        )

    async def ask(self, value: int = 1, seconds: float = WAIT_SECONDS) -> int:
        reply = await self.auditing.ask(
            self.other, Question(value=value), Reply, timeout_seconds=seconds
        )
        return reply.value


def _facility(key: KeyPair) -> KeyPair:
    return _derived(key, b"f")


def _derived(key: KeyPair, role: bytes) -> KeyPair:
    return KeyPair.from_seed(key.seed[:31] + role)


async def double(peer: Peer, request: Message) -> Message:
    assert isinstance(request, Question)
    return Reply(value=2 * request.value)


@contextlib.asynccontextmanager
async def sides(directory: Path, answer: Answer = double) -> AsyncIterator[tuple[Side, Side]]:
    """Alice, who asks; and Bob, who answers."""
    alice, bob = Side(directory, ALICE, BOB, double), Side(directory, BOB, ALICE, answer)
    try:
        async with bob.network.running(), alice.network.running():
            await alice.network.connect(BOB.public, bob.network.addresses)
            yield alice, bob
    finally:
        alice.database.close()
        bob.database.close()


def run(test: Callable[[], object]) -> None:
    async def bounded() -> None:
        with trio.fail_after(WAIT_SECONDS):
            await test()  # type: ignore[misc]

    trio.run(bounded)


def test_a_question_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with sides(tmp_path) as (alice, bob):
            assert [await alice.ask(value) for value in (1, 5)] == [2, 10]
            await until(lambda: bob.other.petname in {p.petname for p in bob.peers.store.peers})
            assert await bob.ask(4) == 8

    run(main)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (RemoteProtocolError("no", WireCode.NOT_GRANTED), WireCode.NOT_GRANTED),
        (NodeError("the disk is full"), WireCode.OTHER),
    ],
)
def test_a_no_crosses_the_wire_as_a_code(
    tmp_path: Path, failure: Exception, code: WireCode
) -> None:
    async def refuse(peer: Peer, request: Message) -> Message:
        raise failure

    async def main() -> None:
        async with sides(tmp_path, refuse) as (alice, _):
            with pytest.raises(AuditRefused) as caught:
                await alice.ask()
            assert caught.value.code is code

    run(main)


def test_a_request_that_nobody_answers_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with sides(tmp_path) as (alice, _):
            with pytest.raises(AuditRefused) as caught:
                await alice.auditing.ask(alice.other, Heartbeat(), Reply)
            assert caught.value.code is WireCode.UNEXPECTED

    run(main)


def test_an_answer_of_another_type_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with sides(tmp_path) as (alice, _):
            with pytest.raises(RemoteProtocolError):
                await alice.auditing.ask(alice.other, Question(value=1), Heartbeat)

    run(main)


def test_a_peer_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    async def hang(peer: Peer, request: Message) -> Message:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        async with sides(tmp_path, hang) as (alice, _):
            with pytest.raises(StreamLost):
                await alice.ask(seconds=0.3)

    run(main)


def test_one_peer_has_few_requests_answered_at_once(tmp_path: Path) -> None:
    waiting: list[trio.Event] = []

    async def wait(peer: Peer, request: Message) -> Message:
        waiting.append(trio.Event())
        await waiting[-1].wait()
        return Reply(value=0)

    async def main() -> None:
        async with sides(tmp_path, wait) as (alice, _), trio.open_nursery() as nursery:
            for _ in range(limits.AUDIT_STREAMS_PER_PEER):
                nursery.start_soon(alice.ask)
            await until(lambda: len(waiting) == limits.AUDIT_STREAMS_PER_PEER)
            with pytest.raises(AuditRefused) as caught:
                await alice.ask()
            assert caught.value.code is WireCode.BUSY
            for event in waiting:
                event.set()

    run(main)


def test_a_facility_that_is_not_trusted_any_more_is_not_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with sides(tmp_path) as (alice, bob):
            bob.peers.revoke(bob.other.petname, (), now_ms() // 1000)
            with pytest.raises(StreamLost):
                await alice.ask()

    run(main)
