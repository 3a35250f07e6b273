"""Offers of studies: what they let a peer do, how long, and what a hostile one can cause."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
from budgets_made import Time, budgets_of
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study, told_to
from streams_made import stream_pair
from two_in_memory import TwoNodes, two_nodes

from keys.trust import Peer
from node.app import Node
from node.audit.appending import Appender
from node.audit.erasing import erase
from node.errors import ExitCode, NodeError
from node.home import Home
from node.network.messaging import MessageStream
from node.operations import OPERATIONS, Call
from node.sharing import offers
from node.sharing.offered import ENDED, IN, KEPT_SECONDS, OFFERED, OPEN, OUT, StudyOffered
from node.sharing.offering import Offering, decide_send
from node.transfer.right import Right, RightEnded
from protocol import limits, messages
from protocol.errors import WireCode
from protocol.messages import Heartbeat, Message, Refusal
from protocol.offers import (
    ACCEPTED,
    ANSWERS,
    DECLINED,
    OfferAnswer,
    OfferEnd,
    OfferNoted,
    StudyOffer,
)

STUDY = exchange_pair.STUDY
DAY = 24 * 3600


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def node(tmp_path: Path, clock: MadeClock) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as opened:
        yield opened


@pytest.fixture
def south(node: Node) -> Other:
    return Other("South", node.clock.now())


@pytest.fixture
def peer(node: Node, south: Other) -> Peer:
    return south.pair(node)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoNodes]:
    """North with one shared study; South may neither see nor fetch."""
    with two_nodes(tmp_path) as made:
        made.north.peers.revoke("South", ["see", "fetch"], made.north.clock.now())
        publish_study(made.north)
        yield made


def _offer(node: Node, purpose: str = "treatment", message: str = "look") -> StudyOffered:
    return node.offers.make(STUDY, "South", purpose, message, None)


# --- what an offer lets a peer do --------------------------------------------------------


def test_only_what_was_offered_can_be_fetched_and_only_so(two: TwoNodes) -> None:
    assert not two.fetch(STUDY, "treatment")
    offered = _offer(two.north)
    assert not two.fetch(STUDY, "research")
    assert not two.fetch("1.2.3.4", "treatment")
    assert two.fetch(STUDY, "treatment")
    assert two.south.catalog.study(STUDY) is not None
    [begun] = entries(two.north, "disclosure-begun")
    assert begun["details"]["rule"] == f"offer {offered.number}"


def test_it_is_explained_as_it_is_decided(node: Node, south: Other, peer: Peer) -> None:
    publish_study(node)

    def explained(study: str = STUDY) -> dict[str, Any]:
        asked = {"peer": "South", "study": study, "purpose": "treatment"}
        return trio.run(OPERATIONS["trust.explain"].answer, Call(node), asked)

    assert not explained()["allowed"]
    _offer(node)
    found = explained()
    assert (found["allowed"], found["decides"], found["told"]) == (True, "offer 1", "")
    [who] = trio.run(OPERATIONS["trust.who"].answer, Call(node), {"study": STUDY})["peers"]
    assert (who["see"], who["fetch"], who["fetch_why"]) == ("", "yes", "allowed by offer 1")
    node.offers.end(1)
    assert not explained()["allowed"]


def test_a_transfer_under_way_ends_with_its_offer(two: TwoNodes) -> None:
    north, south = two.north, two.south
    offered = _offer(north)
    peer = north.peers.find("South")
    right = Right(
        north.catalog,
        north.facts,
        north.peers,
        north.lately,
        north.requests,
        north.emergencies,
        north.clock,
        peer,
        south.keys.node.public,
        north.offers,
    )
    right.begin(STUDY)
    request = messages.Request(
        transfer=bytes(16),
        source=north.keys.node.public,
        study=STUDY,
        purpose="treatment",
        ephemeral=bytes(32),
        time=north.clock.now_ms(),
    )
    assert right.refusal(request) is None
    right.require(request)
    north.offers.end(offered.number)
    # Within the second for which an answer is kept.
    with pytest.raises(RightEnded):
        right.require(request)


def test_the_peer_is_announced_nothing_by_an_offer(node: Node, south: Other, peer: Peer) -> None:
    publish_study(node)
    _offer(node)
    assert told_to(node, south) == []
    assert not node.feeds.sight.peers()


def test_an_ended_offer_lets_it_do_nothing(two: TwoNodes) -> None:
    offered = _offer(two.north)
    two.north.offers.end(offered.number)
    assert two.north.offers.rules(two.south.card.facility_key) == ()
    assert not two.fetch(STUDY, "treatment")
    with pytest.raises(NodeError, match="is not an open one of ours"):
        two.north.offers.end(offered.number)


def test_a_declined_offer_lets_it_do_nothing(two: TwoNodes) -> None:
    offered = _offer(two.north)
    key = two.south.card.facility_key
    two.north.offers.heard_answer(key, offered.offer, DECLINED)
    assert not two.fetch(STUDY, "treatment")
    # The first answer counts.
    two.north.offers.heard_answer(key, offered.offer, ACCEPTED)
    assert two.north.offers.find(offered.number).state == DECLINED


def _withdraw(node: Node) -> None:
    node.shared_studies.withdraw(STUDY)


def _revoke(node: Node) -> None:
    node.peers.revoke("South", [], node.clock.now())


def _deny(node: Node) -> None:
    node.peers.add_rule("South", ["deny", "fetch", "modality=CT,MR,OT"], node.facts.blind)


def _object(node: Node) -> None:
    row = node.catalog.study(STUDY)
    assert row is not None
    node.wishes.add("objection", row.patient_id, "", b"", "all")


@pytest.mark.parametrize("act", [_withdraw, _deny, _object])
def test_what_takes_away_goes_before_an_offer(two: TwoNodes, act: Callable[[Node], None]) -> None:
    _offer(two.north)
    act(two.north)
    assert not two.fetch(STUDY, "treatment")


@pytest.mark.parametrize("act", [_withdraw, _deny, _object])
def test_what_it_may_not_have_cannot_be_offered(two: TwoNodes, act: Callable[[Node], None]) -> None:
    act(two.north)
    with pytest.raises(NodeError) as refused:
        _offer(two.north)
    assert refused.value.code is ExitCode.REFUSED
    assert not entries(two.north, "offered")


def test_an_offer_does_not_come_back_with_trust(node: Node, south: Other, peer: Peer) -> None:
    publish_study(node)
    _offer(node)
    _revoke(node)
    south.pair(node)
    assert node.offers.rules(south.key) == ()
    [one] = node.offers.all()
    assert (one.state, one.message) == (ENDED, "")


def _told(node: Node, peer: Peer) -> None:
    node.offers.told(1, OFFERED)


def _fetch_begins(node: Node, peer: Peer) -> None:
    node.offers.fetch_begins(1)


def _answered(node: Node, peer: Peer) -> None:
    [one] = node.offers.all()
    if one.direction == OUT:
        node.offers.heard_answer(peer.facility_key, one.offer, ACCEPTED)
    else:
        node.offers.answer(1, ACCEPTED)


@pytest.mark.parametrize("direction", [OUT, IN])
@pytest.mark.parametrize("act", [_told, _fetch_begins, _answered])
def test_what_another_thread_notes_meanwhile_does_not_reopen_it(
    node: Node,
    peer: Peer,
    monkeypatch: pytest.MonkeyPatch,
    direction: str,
    act: Callable[[Node, Peer], None],
) -> None:
    publish_study(node)
    if direction == OUT:
        _offer(node)
    else:
        node.offers.take_untrusted(peer, _word(node))
    # The end of trust is committed, and the list in memory is not read anew yet.
    with monkeypatch.context() as between:
        between.setattr(node.offers, "_load", lambda: None)
        _revoke(node)
        act(node, peer)
    node.offers._load()
    [one] = node.offers.all()
    assert (one.state, one.message) == (ENDED, "")
    assert node.offers.rules(peer.facility_key) == ()


def test_an_end_that_is_not_written_is_not_written_by_the_way(
    node: Node, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but its entry makes it an end for the next start."""
    publish_study(node)
    _offer(node)
    with monkeypatch.context() as full:
        _fail(full)
        with pytest.raises(NodeError, match="does not count any more in this process"):
            node.offers.end(1)
    node.offers.told(1, ENDED)
    [row] = node.database.query("SELECT state, told FROM offers")
    assert tuple(row) == (OFFERED, ENDED)
    assert node.offers.find(1).state == ENDED
    node.offers.end_due()
    [row] = node.database.query("SELECT state FROM offers")
    assert row["state"] == ENDED
    assert len(entries(node, "offer-ended")) == 1


def test_a_fetch_of_what_was_erased_meanwhile_is_no_fault(node: Node, peer: Peer) -> None:
    node.offers.take_untrusted(peer, _word(node))
    node.offers.answer(1, ACCEPTED)
    node.forget([STUDY])
    node.offers.fetch_begins(1)
    assert node.offers.all() == []


def test_it_ends_by_its_date(node: Node, peer: Peer, clock: MadeClock) -> None:
    publish_study(node)
    offered = _offer(node)
    now, key = node.clock.now(), peer.facility_key
    assert offered.until == now + 7 * DAY

    def may() -> bool:
        moment, extra = node.clock.now(), node.offers.rules(key)
        return node.peers.store.why_never("fetch", key, moment, extra) is None

    clock.move(7 * DAY - 1)
    node.offers.end_due()
    assert may()
    clock.move(1)
    # At the second, before anything has looked.
    assert not may()
    node.offers.end_due()
    [one] = node.offers.all()
    assert (one.state, one.message) == (ENDED, "")
    [entry] = entries(node, "offer-ended")
    assert entry["details"]["why"] == "date"
    assert node.offers.to_tell(key) == []
    clock.move(KEPT_SECONDS)
    node.offers.end_due()
    assert node.offers.all() == []


def test_purposes_that_were_narrowed_count_for_offers(node: Node, south: Other, peer: Peer) -> None:
    publish_study(node)
    _offer(node, "research")
    trial = replace(peer, purposes=frozenset({"treatment"}))
    node.peers._store._peers[peer.facility_key] = trial
    assert node.offers.rules(peer.facility_key) == ()
    node.offers.end(1)
    with pytest.raises(NodeError, match="not trusted for the purpose research"):
        _offer(node, "research")


@pytest.mark.parametrize(
    ("purpose", "message", "days"),
    [("fun", "", 7), ("treatment", "x" * 501, 7), ("treatment", "two\nlines", 7),
     ("treatment", "", -1), ("treatment", "", 91)],
)  # fmt: skip
def test_an_offer_that_makes_no_sense_is_none(
    node: Node, peer: Peer, purpose: str, message: str, days: int
) -> None:
    publish_study(node)
    with pytest.raises(NodeError) as refused:
        node.offers.make(STUDY, "South", purpose, message, node.clock.now() + days * DAY)
    assert refused.value.code is ExitCode.USAGE
    assert node.offers.all() == []


def test_a_study_is_offered_once_to_a_peer_at_a_time(node: Node, peer: Peer) -> None:
    publish_study(node)
    _offer(node)
    with pytest.raises(NodeError, match="already, as offer 1"):
        _offer(node)
    node.offers.end(1)
    assert _offer(node).number == 2


# --- the log, the disk and what is erased ------------------------------------------------


def _fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise NodeError("the audit log cannot be written", code=ExitCode.DISK)

    monkeypatch.setattr(Appender, "append_many", full)


def test_without_its_entry_there_is_no_offer(
    node: Node, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_study(node)
    _fail(monkeypatch)
    with pytest.raises(NodeError):
        _offer(node)
    assert node.offers.all() == []
    assert node.offers.rules(peer.facility_key) == ()


def test_an_end_counts_on_a_full_disk_and_is_written_later(
    node: Node, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_study(node)
    _offer(node)
    _fail(monkeypatch)
    with pytest.raises(NodeError):
        node.offers.end(1)
    assert node.offers.rules(peer.facility_key) == ()
    assert node.offers.unwritten == ("offer 1",)
    monkeypatch.undo()
    node.offers.end_due()
    assert node.offers.unwritten == ()
    assert len(entries(node, "offer-ended")) == 1
    [row] = node.database.query("SELECT state, message FROM offers")
    assert tuple(row) == (ENDED, "")


def test_the_log_has_the_message_as_an_opening_that_is_erased(node: Node, peer: Peer) -> None:
    publish_study(node)
    _offer(node, message="the lesion on the left")

    def kept() -> list[str]:
        found = node.audit.evidence.openings(node.audit.size)
        return [opening.value for _, opening in found if opening.kind == "message"]

    assert kept() == ["the lesion on the left"]
    assert all(b"lesion" not in data for data in node.audit.entries())
    erase(node.audit, "study", STUDY, node.forget)
    assert kept() == []
    assert node.offers.all() == []
    assert node.offers.rules(peer.facility_key) == ()


# --- hearing -----------------------------------------------------------------------------


def _word(node: Node, **fields: Any) -> StudyOffer:
    now = node.clock.now_ms()
    given: dict[str, Any] = {
        "recipient": node.keys.node.public, "offer": bytes(16), "time": now,
        "until": now + DAY * 1000, "study": STUDY, "purpose": "treatment", "message": "look",
        "series": 1, "instances": 12, "bytes": 1000, "modalities": ("CT",),
        "study_date": "20260101",
    }  # fmt: skip
    return StudyOffer(**given | fields)


async def _fetch_none(offered: StudyOffered) -> None:
    pytest.fail("nothing is fetched here")


def _offering(
    node: Node,
    clock: MadeClock,
    fetch: Callable[[StudyOffered], Awaitable[None]] = _fetch_none,
) -> Offering:

    return Offering(
        node.offers,
        node.peers,
        lambda: node.keys.node,
        lambda key: pytest.fail("nothing is told here"),
        fetch,
        clock=node.clock,
        budgets=budgets_of(Time(), clock),
    )


async def _say(offering: Offering, node: Node, south: Other, message: Message) -> Message:
    ours, theirs = stream_pair(node.keys.node.public, south.node.public)
    await MessageStream(theirs).send(message)
    await offering.serve(ours)
    return await MessageStream(theirs).receive_untrusted(ANSWERS)


def _hear(node: Node, clock: MadeClock, south: Other, *said: Message) -> list[Message]:
    """What a node answers to these messages of South, which signs what is not signed."""

    async def main() -> list[Message]:
        offering = _offering(node, clock)
        return [
            await _say(
                offering,
                node,
                south,
                one
                if isinstance(one, messages.Signed | Heartbeat)
                else messages.sign(one, south.node),
            )
            for one in said
        ]

    return trio.run(main)


RULES = [
    ((), OFFERED),
    (("allow send",), ACCEPTED),
    (("allow send purpose=TREAT",), ACCEPTED),
    (("allow send purpose=HRESCH",), OFFERED),
    (("ask send",), OFFERED),
    (("allow send", "ask send purpose=treatment"), OFFERED),
    (("deny send",), DECLINED),
    (("allow send", "deny send purpose=treatment"), DECLINED),
    (("allow send", "deny send purpose=research"), ACCEPTED),
    (("allow send purpose=HRESCH", "deny send purpose=TREAT"), DECLINED),
]


@pytest.mark.parametrize(("rules", "state"), RULES)
def test_rules_to_send_decide_and_else_a_person_is_asked(
    node: Node,
    clock: MadeClock,
    south: Other,
    peer: Peer,
    rules: tuple[str, ...],
    state: str,
) -> None:
    for rule in rules:
        node.peers.add_rule("South", rule.split(), node.facts.blind)
    assert _hear(node, clock, south, _word(node)) == [OfferNoted()]
    [one] = node.offers.all()
    assert one.state == state
    assert len(node.offers.waiting()) == (state == OFFERED)
    assert one.message == ("look" if state in OPEN else "")
    assert decide_send(node.peers, peer, "treatment", node.clock.now())[0] == state
    kinds = [entry["type"] for entry in entries(node, "offer-heard", "offer-answered")]
    assert kinds == ["offer-heard", *["offer-answered"] * (state != OFFERED)]


async def test_a_rule_that_comes_later_answers_what_waits(
    node: Node, clock: MadeClock, south: Other, peer: Peer
) -> None:
    fetched: list[int] = []
    done = trio.Event()

    async def fetch(offered: StudyOffered) -> None:
        fetched.append(offered.number)
        done.set()

    offering = _offering(node, clock, fetch)
    for number, purpose in ((1, "treatment"), (2, "research")):
        word = _word(node, purpose=purpose, offer=bytes([number]) * 16)
        await _say(offering, node, south, messages.sign(word, south.node))
    assert len(node.offers.waiting()) == 2
    node.peers.add_rule("South", ["allow", "send", "purpose=TREAT"], node.facts.blind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(offering.run)
        with trio.fail_after(30):
            await done.wait()
        nursery.cancel_scope.cancel()
    assert fetched == [1]
    assert [one.state for one in node.offers.all()] == [ACCEPTED, OFFERED]


def test_who_offers_is_shown_and_an_opening(
    node: Node, clock: MadeClock, south: Other, peer: Peer
) -> None:
    _hear(node, clock, south, _word(node, person="Dr. B. Beispiel", role="radiologist"))
    [entry] = entries(node, "offer-heard")
    found = [node.audit.opening_of(one["commitment"]) for one in entry["subjects"]]
    told = {one.kind: one.value for one in found if one is not None}
    assert told == {"study": STUDY, "asker": "Dr. B. Beispiel^^^radiologist^^^", "message": "look"}
    assert node.offers.find(1).person == "Dr. B. Beispiel"
    node.offers.answer(1, DECLINED)
    assert (node.offers.find(1).person, node.offers.find(1).role) == ("", "")


def test_a_person_answers_once(node: Node, clock: MadeClock, south: Other, peer: Peer) -> None:
    _hear(node, clock, south, _word(node))
    assert node.offers.answer(1, DECLINED).state == DECLINED
    with pytest.raises(NodeError, match="does not wait for an answer"):
        node.offers.answer(1, ACCEPTED)
    assert [one.state for one in node.offers.to_tell(south.key)] == [DECLINED]
    node.offers.told(1, DECLINED)
    assert node.offers.to_tell(south.key) == []
    # Asked again, as after a restored backup over there, it says so again.
    assert _hear(node, clock, south, _word(node)) == [OfferNoted()]
    assert [one.state for one in node.offers.to_tell(south.key)] == [DECLINED]
    assert len(entries(node, "offer-heard")) == 1


def test_a_rule_that_denies_goes_before_a_person_who_accepts(
    node: Node, clock: MadeClock, south: Other, peer: Peer
) -> None:
    _hear(node, clock, south, _word(node))
    node.peers.add_rule("South", ["deny", "send"], node.facts.blind)
    with pytest.raises(NodeError, match="rule 1 denies"):
        trio.run(_offering(node, clock).accept, 1)
    assert node.offers.find(1).state == OFFERED
    assert not entries(node, "offer-answered")


def test_an_offer_that_was_taken_back_waits_no_more(
    node: Node, clock: MadeClock, south: Other, peer: Peer
) -> None:
    end = OfferEnd(recipient=node.keys.node.public, offer=bytes(16), time=node.clock.now_ms())
    assert _hear(node, clock, south, _word(node), end, end) == [OfferNoted()] * 3
    assert node.offers.waiting() == []
    with pytest.raises(NodeError, match="does not wait"):
        node.offers.answer(1, ACCEPTED)
    assert len(entries(node, "offer-ended")) == 1


def test_hostile_messages_are_refused_and_leave_nothing(
    node: Node, clock: MadeClock, south: Other, peer: Peer
) -> None:
    east = Other("East", node.clock.now())
    good = messages.sign(_word(node), south.node)
    now = node.clock.now_ms()
    for said, code in (
        (_word(node, recipient=east.node.public), WireCode.UNEXPECTED),
        (_word(node, purpose="fun"), WireCode.MALFORMED),
        (_word(node, study="not a uid"), WireCode.MALFORMED),
        (_word(node, message="x" * 501), WireCode.MALFORMED),
        (_word(node, message="a\x1b[2J"), WireCode.MALFORMED),
        (_word(node, until=now), WireCode.NOT_AVAILABLE),
        (_word(node, until=0), WireCode.NOT_AVAILABLE),
        (_word(node, time=now - 2 * DAY * 1000), WireCode.CLOCK_SKEW),
        (messages.sign(_word(node), east.node), WireCode.BAD_SIGNATURE),
        (replace(good, signature=bytes(64)), WireCode.BAD_SIGNATURE),
        (replace(good, body=b"\xc1"), WireCode.MALFORMED),
        (messages.sign(Heartbeat(), south.node), WireCode.UNEXPECTED),
        (Heartbeat(), WireCode.UNEXPECTED),
    ):
        assert _hear(node, clock, south, said) == [Refusal(code=code)], said
    assert node.offers.all() == []
    assert not entries(node, "offer-heard")


def test_answers_and_ends_of_what_is_not_theirs_change_nothing(
    node: Node, clock: MadeClock, south: Other, peer: Peer
) -> None:
    publish_study(node)
    east = Other("East", node.clock.now())
    east.pair(node)
    offered = _offer(node)
    key, now = node.keys.node.public, node.clock.now_ms()
    answer = OfferAnswer(recipient=key, offer=offered.offer, time=now, answer=DECLINED)
    end = OfferEnd(recipient=key, offer=offered.offer, time=now)
    assert _hear(node, clock, east, answer, end) == [OfferNoted()] * 2
    assert _hear(node, clock, south, end) == [OfferNoted()]
    assert node.offers.find(1).state == OFFERED
    assert _hear(node, clock, south, answer) == [OfferNoted()]
    assert node.offers.find(1).state == DECLINED


def test_a_peer_that_offers_without_end_fills_nothing(
    node: Node, clock: MadeClock, south: Other, peer: Peer
) -> None:
    most = int(limits.BUDGETS["offer"].burst)
    words = [_word(node, offer=number.to_bytes(16)) for number in range(most + 10)]
    answers = _hear(node, clock, south, *words)
    assert answers.count(OfferNoted()) == most
    assert answers[most:] == [Refusal(code=WireCode.BUSY)] * 10
    assert len(node.offers.all()) == len(entries(node, "offer-heard")) == most
    # With time, no more than are open at once.
    for number in itertools.count(most):
        if len(node.offers.all()) == limits.OFFERS_OPEN:
            break
        node.offers.take_untrusted(peer, _word(node, offer=number.to_bytes(16)))
    answers = _hear(node, clock, south, _word(node, offer=b"x" * 16))
    assert answers == [Refusal(code=WireCode.BUSY)]


def test_a_peer_that_makes_and_ends_offers_fills_nothing(
    node: Node, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "OFFERS_KEPT", 3)
    words = [_word(node, offer=bytes([number]) * 16) for number in range(1, 8)]
    node.offers.take_untrusted(peer, words[0])
    for word in words[1:]:
        node.offers.take_untrusted(peer, word)
        node.offers.heard_end(peer.facility_key, word.offer)
    # The open one is kept.
    assert [one.offer[0] for one in node.offers.all()] == [1, 6, 7]
    assert len(entries(node, "offer-heard")) == 7


def test_a_kill_between_the_offer_and_its_message_loses_nothing(
    tmp_path: Path, clock: MadeClock
) -> None:
    home = Home.create(tmp_path / "north", name="North", clock=clock)
    south = Other("South", clock.now())
    with Node.open(home) as node:
        south.pair(node)
        publish_study(node)
        made = _offer(node)
    with Node.open(home) as node:
        assert node.offers.to_tell(south.key) == [made]
        assert node.offers.rules(south.key) != ()


def test_what_was_accepted_is_fetched_after_a_kill(
    node: Node, clock: MadeClock, south: Other, peer: Peer
) -> None:
    _hear(node, clock, south, _word(node))
    node.offers.answer(1, ACCEPTED)
    # Killed here; the next start looks.
    assert [one.number for one in node.offers.to_fetch()] == [1]
    node.offers.fetch_begins(1)
    assert node.offers.to_fetch() == []
