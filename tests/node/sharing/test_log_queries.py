"""One request and one answer a stream: who is answered, and what a bad peer costs."""

from pathlib import Path

import pytest
import trio
from log_queries_sides import Question, Reply, run, sides
from network_nodes import until

from keys.trust import Peer
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError
from node.network.network import StreamLost
from node.sharing.log_queries import QueryRefused
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.messages import Heartbeat, Message

pytestmark = pytest.mark.integration


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
        (NodeError("the log is damaged"), WireCode.OTHER),
        (NodeError("the disk is full", code=ExitCode.DISK), WireCode.BUSY),
    ],
)
def test_a_no_crosses_the_wire_as_a_code(
    tmp_path: Path, failure: Exception, code: WireCode
) -> None:
    async def refuse(peer: Peer, request: Message) -> Message:
        raise failure

    async def main() -> None:
        async with sides(tmp_path, refuse) as (alice, _):
            with pytest.raises(QueryRefused) as caught:
                await alice.ask()
            assert caught.value.code is code

    run(main)


def test_a_request_that_nobody_answers_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with sides(tmp_path) as (alice, _):
            with pytest.raises(QueryRefused) as caught:
                await alice.log_queries.ask(alice.other, Heartbeat(), Reply)
            assert caught.value.code is WireCode.UNEXPECTED

    run(main)


def test_an_answer_of_another_type_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with sides(tmp_path) as (alice, _):
            with pytest.raises(RemoteProtocolError):
                await alice.log_queries.ask(alice.other, Question(value=1), Heartbeat)

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
            with pytest.raises(QueryRefused) as caught:
                await alice.ask()
            assert caught.value.code is WireCode.BUSY
            for event in waiting:
                event.set()

    run(main)


def test_a_facility_that_is_not_trusted_any_more_is_not_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with sides(tmp_path) as (alice, bob):
            bob.peers.revoke(bob.other.petname, (), SYSTEM_CLOCK.now())
            with pytest.raises(StreamLost):
                await alice.ask()

    run(main)
