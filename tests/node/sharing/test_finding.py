"""Asking a peer: what leaves, what the log has before, and what a lying peer gains."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blake3
import pytest
import trio
from facility_in_memory import Other, entries
from streams_made import stream_pair

from keys.purposes import WORDS
from node import parts
from node.app import Node
from node.callers import Caller, asked_by
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError
from node.home import Home
from node.network.messaging import MessageStream
from node.network.network import PeerStream, StreamLost
from node.operations.find import Find as Asking
from node.operations.find import read_asked
from node.sharing.finding import Answer
from protocol import messages
from protocol.errors import WireCode
from protocol.find_messages import Asked, ByNumber, ByPerson, Find, FindRefused, Found
from protocol.messages import Heartbeat, Message, Record, Signed

NOW = SYSTEM_CLOCK.now()
NORTH, EAST = Other("North General", NOW), Other("East Imaging", NOW)
NUMBER, ANNA = ByNumber("P1", "NORTH"), ByPerson("Müller^Anna", "19700131", "F")


@pytest.fixture
def south(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "south", name="South")) as node:
        NORTH.pair(node)
        yield node


def record(study: str = "1.2.3", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "sequence": 1, "kind": "available", "study": study, "content_root": bytes(32),
        "series": 1, "instances": 1, "bytes": 1, "encoded_bytes": 1, "modalities": ("CT",),
        "study_date": "20260101", **changes,
    }  # fmt: skip
    return Record(**values)


Reply = Callable[[Signed, Find], Message | None]


def found(signed: Signed, find: Find, /, *records: Record, **changes: Any) -> Found:
    """What an honest peer answers."""
    values: dict[str, Any] = {
        "find": find.find, "recipient": b"", "question": blake3.blake3(signed.body).digest(),
        "time": find.time, "records": records, **changes,
    }  # fmt: skip
    return Found(**values)


def ask(
    south: Node, reply: Reply, asked: Asked = NUMBER, seen: Callable[[Find], None] = lambda _: None
) -> Answer:
    """Ask North, which answers so; `seen` is called when it has read the question."""
    own = south.keys.node.public

    async def main() -> Answer:
        ours, theirs = stream_pair(own, NORTH.node.public)

        async def answer() -> None:
            channel = MessageStream(theirs)
            signed = await channel.receive_untrusted()
            assert isinstance(signed, Signed)
            find = messages.open_signed_untrusted(signed, Find, own)
            seen(find)
            said = reply(signed, find)
            if isinstance(said, Found) and not said.recipient:
                said = messages.sign(dataclasses.replace(said, recipient=own), NORTH.node)
            if said is None:
                await theirs.reset()
            else:
                await channel.send(said)

        async def open_stream(_: bytes) -> PeerStream:
            return ours

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            peer = south.peers.find("North General")
            return await parts.finder_of(south, open_stream).ask(peer, asked, "treatment")

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        [error] = group.exceptions
        raise error from None


def test_the_question_is_logged_before_it_leaves_and_the_answer_before_it_is_kept(
    south: Node,
) -> None:
    def seen(find: Find) -> None:
        [entry] = entries(south, "find-asked")
        assert entry["details"] == {"find": find.find.hex(), "by": "person"}
        assert entry["peer"] == NORTH.key.hex()
        assert entry["purpose"] == find.purpose == "treatment"

    answer = ask(south, lambda signed, find: found(signed, find, record()), ANNA, seen)
    assert [one.record for one in answer.studies] == [record()]
    [entry] = entries(south, "found")
    assert entry["details"] == {"find": answer.find.hex(), "by": "person", "studies": 1}
    assert south.found.all() == list(answer.studies)


def test_only_what_was_given_is_sent(south: Node) -> None:
    sent: list[Find] = []
    for asked in (NUMBER, ANNA):
        ask(south, lambda signed, find: found(signed, find), asked, sent.append)
    for find, asked in zip(sent, (NUMBER, ANNA), strict=True):
        named = {name: getattr(find, name) for name in dataclasses.asdict(asked)}
        assert named == dataclasses.asdict(asked)
        others = {"patient_id", "issuer", "name", "birth_date", "sex"} - named.keys()
        assert all(getattr(find, name) is None for name in others)
        assert find.person == ""
    assert sent[0].find != sent[1].find


def test_the_person_who_asks_is_named(south: Node) -> None:
    sent: list[Find] = []
    with asked_by(Caller("person", "meier")):
        ask(south, lambda signed, find: found(signed, find), NUMBER, sent.append)
    assert sent[0].person == "meier"


def test_without_an_entry_nothing_leaves(south: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    async def never(_: bytes) -> PeerStream:
        raise AssertionError("a stream was opened")

    monkeypatch.setattr(south.audit, "append", full)
    finder = parts.finder_of(south, never)
    with pytest.raises(NodeError, match="disk is full"):
        trio.run(finder.ask, south.peers.find("North General"), NUMBER, "treatment")


def test_what_more_a_peer_tells_of_the_patient_is_dropped(south: Node) -> None:
    loud = record(
        patient_id="P1", patient_name="Müller^Anna", description="CT of her head", issuer="N",
        birth_date="19700131", sex="F", accession="A100",
    )  # fmt: skip
    answer = ask(south, lambda signed, find: found(signed, find, loud))
    assert [one.record for one in answer.studies] == [record()]
    kept = south.database.query("SELECT record FROM found_studies")[0][0]
    assert not any(text in kept for text in ("Anna", "head", "19700131", "A100"))


@pytest.mark.parametrize(
    "lie",
    [
        lambda signed, find: messages.sign(found(signed, find, record()), EAST.node),
        lambda signed, find: found(signed, find, find=bytes(16)),
        lambda signed, find: found(signed, find, question=bytes(32)),
        lambda signed, find: messages.sign(
            found(signed, find, recipient=EAST.node.public), NORTH.node
        ),
        lambda signed, find: found(signed, find, record(), record()),
        lambda signed, find: found(signed, find, record(kind="withdrawn")),
        lambda signed, find: found(signed, find, *(record(f"1.2.{n}") for n in range(201))),
        lambda signed, find: messages.sign(find, NORTH.node),
        lambda signed, find: Heartbeat(),
        lambda signed, find: signed,
    ],
)
def test_a_lying_peer_has_nothing_kept(south: Node, lie: Reply) -> None:
    with pytest.raises(NodeError) as caught:
        ask(south, lie)
    assert caught.value.code is ExitCode.INTEGRITY
    assert south.found.all() == []
    [entry] = entries(south, "found")
    assert (entry["outcome"], entry["details"]["studies"]) == ("refused", 0)


@pytest.mark.parametrize(
    ("code", "wait", "sentence"),
    [
        (WireCode.NOT_GRANTED, 0, "does not let us search"),
        (WireCode.PURPOSE_NOT_ALLOWED, 0, "for this purpose"),
        (WireCode.BUSY, 1800, "as many searches"),
        (WireCode.TOO_LARGE, 0, "more than 200 studies"),
        (WireCode.CLOCK_SKEW, 0, "clocks"),
        (WireCode.LOG_IN_DOUBT, 0, "in doubt"),
        (WireCode.SOURCE_DISK, 0, "disk"),
        (WireCode.OTHER, 0, "refused the search"),
        (200, 0, "refused the search"),
    ],
)
def test_a_refusal_is_a_sentence(south: Node, code: int, wait: int, sentence: str) -> None:
    with pytest.raises(NodeError) as caught:
        ask(south, lambda signed, find: FindRefused(code=code, wait=wait))
    assert sentence in caught.value.message
    assert "North General" in caught.value.message
    assert caught.value.code is ExitCode.REFUSED
    assert not wait or "30 min" in caught.value.hint
    [entry] = entries(south, "found")
    assert (entry["outcome"], entry["details"]["why"]) == ("refused", caught.value.message)


def test_a_peer_that_is_away_or_of_an_earlier_release_is_a_sentence(south: Node) -> None:
    async def away(_: bytes) -> PeerStream:
        raise StreamLost("not connected")

    finder = parts.finder_of(south, away)
    with pytest.raises(NodeError) as caught:
        trio.run(finder.ask, south.peers.find("North General"), NUMBER, "treatment")
    assert caught.value.code is ExitCode.UNREACHABLE
    with pytest.raises(NodeError) as caught:
        ask(south, lambda signed, find: None)
    assert caught.value.code is ExitCode.UNREACHABLE


def test_a_facility_that_is_not_trusted_any_more_is_not_asked(south: Node) -> None:
    peer = south.peers.find("North General")
    assert ask(south, lambda signed, find: found(signed, find, record())).studies
    south.peers.revoke("North General", [], NOW)
    assert south.found.all() == [], "and what was found there is forgotten"

    async def never(_: bytes) -> PeerStream:
        raise AssertionError("a stream was opened")

    with pytest.raises(NodeError) as caught:
        trio.run(parts.finder_of(south, never).ask, peer, NUMBER, "treatment")
    assert caught.value.code is ExitCode.REFUSED
    assert len(entries(south, "find-asked")) == 1


def test_a_search_may_be_for_any_purpose_that_a_rule_can_name() -> None:
    for purpose in (*WORDS, "ETREAT", "HRESCH"):
        asked = Asking("North General", patient_id="P1", issuer="NORTH", purpose=purpose)
        assert read_asked(asked) == NUMBER
    with pytest.raises(NodeError, match="there is no purpose 'curiosity'"):
        read_asked(Asking("North General", patient_id="P1", issuer="NORTH", purpose="curiosity"))
