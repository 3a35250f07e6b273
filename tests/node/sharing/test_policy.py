"""Who may have a study: each reason for a no, and that nothing else is one."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import exchange_pair
import pytest
from clocks_made import MadeClock
from facility_in_memory import Other, publish_study, told_to
from recipient_made import RecipientMade

from keys import grants
from keys.grants import ASK, Facts, Rule, Yes
from keys.peer import PURPOSES, Peer
from keys.trust import TrustStore
from node.alerts import alerts_of
from node.app import Node
from node.catalog.catalog import StudyRow
from node.home import Home
from node.sharing.peers import Peers
from node.sharing.policy import (
    SENTENCES,
    Refusal,
    Sight,
    decide_fetch,
    sentence,
    witnesses,
)
from node.transfer.right import Right
from node.transfer.transfers import TransferState
from protocol.errors import WireCode
from protocol.limits import CLOCK_SKEW_SECONDS
from protocol.messages import Request

NOW = MadeClock().now()
SOUTH = Other("South Clinic", NOW)
OWN = bytes(32)


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        publish_study(node, instances=1)
        yield node


def _peer(*grants: str, purposes: tuple[str, ...] = ()) -> tuple[TrustStore, Peer]:
    peer = Peer(
        SOUTH.key,
        "South",
        SOUTH.card,
        grants=frozenset(grants),
        purposes=frozenset(purposes),
        added=NOW,
    )
    return TrustStore([peer], OWN), peer


def _request(purpose: str = "treatment", late_ms: int = 0) -> Request:
    return Request(
        transfer=bytes(16),
        source=OWN,
        study=exchange_pair.STUDY,
        purpose=purpose,
        ephemeral=OWN,
        time=NOW * 1000 + late_ms,
    )


def _decide(
    store: TrustStore,
    peer: Peer,
    purpose: str,
    row: StudyRow | None,
    now: int = NOW,
    node_key: bytes = SOUTH.node.public,
) -> Refusal | Yes:
    asked = grants.Request(speaks=store.speaks_for(node_key, peer, now), purpose=purpose)
    facts = None if row is None else Facts(study_uid=row.study_uid, state=row.state)
    return decide_fetch(store, peer, asked, facts, now=now)


NOT_GRANTED, PURPOSE, AWAY = (
    WireCode.NOT_GRANTED,
    WireCode.PURPOSE_NOT_ALLOWED,
    WireCode.NOT_AVAILABLE,
)
CASES = [
    # grants, purposes, asked for, state of the study, the answer
    (("see", "fetch"), (), "treatment", "shared", None),
    (("see", "fetch"), (), "research", "shared", None),
    (("see", "fetch"), ("treatment",), "treatment", "shared", None),
    (("see", "fetch"), ("treatment",), "research", "shared", PURPOSE),
    (("see", "fetch"), (), "curiosity", "shared", PURPOSE),
    # Of the purpose before the study: who may not have it learns nothing of it.
    (("see", "fetch"), ("treatment",), "research", "withheld", PURPOSE),
    (("see", "fetch"), ("treatment",), "research", None, PURPOSE),
    (("see", "fetch"), (), "treatment", "withheld", AWAY),
    (("see", "fetch"), (), "treatment", None, AWAY),
    (("fetch",), (), "treatment", "shared", NOT_GRANTED),
    (("see",), (), "treatment", "shared", NOT_GRANTED),
    ((), ("treatment",), "research", None, NOT_GRANTED),
]


@pytest.mark.parametrize(("grants", "purposes", "asked", "state", "code"), CASES)
def test_each_reason_for_a_no_has_its_code(
    north: Node,
    grants: tuple[str, ...],
    purposes: tuple[str, ...],
    asked: str,
    state: str | None,
    code: WireCode | None,
) -> None:
    assert "research" in PURPOSES
    store, peer = _peer(*grants, purposes=purposes)
    study = north.catalog.study(exchange_pair.STUDY)
    assert study is not None
    row = None if state is None else study._replace(state=state)
    decided = _decide(store, peer, asked, row)
    assert (decided.code if isinstance(decided, Refusal) else None) == code
    assert isinstance(decided, Yes) or decided.reason


@pytest.mark.parametrize("sign", [1, -1])
def test_clocks_may_differ_by_a_day_and_no_more(north: Node, sign: int) -> None:
    peer = SOUTH.pair(north, "see", "fetch")
    key = SOUTH.node.public
    right = Right(
        north.catalog,
        north.facts,
        north.peers,
        north.lately,
        north.requests,
        north.emergencies,
        north.clock,
        peer,
        key,
        north.offers,
    )
    right.begin(exchange_pair.STUDY)
    day = CLOCK_SKEW_SECONDS * 1000
    assert right.refusal(_request(late_ms=sign * day)) is None
    refusal = right.refusal(_request(late_ms=sign * (day + 1)))
    assert refusal is not None
    assert refusal.code is WireCode.CLOCK_SKEW


def test_what_ends_by_a_date_ends_though_the_wall_clock_is_set_back(north: Node) -> None:
    store, peer = _peer("see", "fetch")
    study = north.catalog.study(exchange_pair.STUDY)
    ends = SOUTH.card.expires
    assert isinstance(_decide(store, peer, "treatment", study, now=ends - 1), Yes)
    refusal = _decide(store, peer, "treatment", study, now=ends)
    assert isinstance(refusal, Refusal)
    assert refusal.code is NOT_GRANTED


def test_a_node_key_that_does_not_count_any_more_is_refused(north: Node) -> None:
    store, peer = _peer("see", "fetch")
    study = north.catalog.study(exchange_pair.STUDY)
    refusal = _decide(store, peer, "treatment", study, node_key=OWN)
    assert refusal == Refusal(NOT_GRANTED, "its node key does not count any more")


def test_what_a_person_has_to_approve_waits(
    north: Node,
) -> None:
    store, peer = _peer("see", "fetch")
    store._rules[SOUTH.key] += (Rule("the rule for research", "fetch", ASK),)
    refusal = _decide(store, peer, "treatment", north.catalog.study(exchange_pair.STUDY))
    assert refusal == Refusal(
        WireCode.WAITING,
        "a person has to approve this first, by the rule for research",
        "the rule for research",
    )


def test_a_filter_that_this_release_cannot_read_refuses_all(north: Node) -> None:
    """As a later release may have written it, before the home came back to this one."""
    peer = SOUTH.pair(north, "see", "fetch", "witness")
    state = json.loads(peer.to_json()) | {"filters": {"modality": ["CT"]}}
    north.database.transact(
        lambda connection: connection.execute("UPDATE peers SET state = ?", (json.dumps(state),))
    )
    later = Peers(north.database, OWN, north.audit.append, north.effects, north.decisions)
    north.peers._store = later.store
    assert any("South Clinic" in alert and "filter" in alert for alert in alerts_of(north, None))
    assert north.feeds.sight.peers() == frozenset()
    assert witnesses(north.peers.store, NOW) == []
    north.feeds.peer_changed(SOUTH.key)
    assert told_to(north, SOUTH) == []
    study = north.catalog.study(exchange_pair.STUDY)
    refusal = _decide(north.peers.store, peer, "treatment", study)
    assert refusal == Refusal(
        NOT_GRANTED,
        "the grant fetch has a condition that this release cannot read",
        "the grant fetch",
    )


async def test_a_purpose_that_is_not_allowed_is_refused_by_the_node(north: Node) -> None:
    peer = SOUTH.pair(north, "see", "fetch")
    north.peers._store = TrustStore([replace(peer, purposes=frozenset({"treatment"}))], OWN)
    refused = RecipientMade(north, SOUTH, purpose="research")
    await refused.fetch()
    assert refused.refused is PURPOSE
    [shown] = north.transfers.recent()
    assert shown.state is TransferState.REFUSED
    assert shown.why == "South Clinic is not trusted for this purpose"


def test_each_refusal_has_its_sentence_and_what_to_do() -> None:
    for code in SENTENCES:
        what, hint = sentence(code, "South")
        assert "South" in what
        assert "{" not in what
        assert hint
    what, hint = sentence(WireCode.MALFORMED, "South")
    assert what == ("South ended the transfer since something did not fit the protocol (code 1)")
    assert hint


def test_who_sees_at_all_is_asked_before_any_study_is_looked_at(north: Node) -> None:
    store, _ = _peer("see")
    sight = Sight(lambda: store, lambda: NOW, north.facts)
    shared = north.catalog.study(exchange_pair.STUDY)
    assert shared is not None
    assert sight.peers() == {SOUTH.key}
    assert sight.shows(SOUTH.key, shared)
    assert not sight.shows(SOUTH.key, shared._replace(state="withheld"))
    assert not sight.shows(OWN, shared)
    assert not sight.tells_apart(SOUTH.key)
    # A rule that no study can meet now leaves nobody to look for.
    store._rules[SOUTH.key] = (Rule("a few", "see", limits={"studies": 2}),)
    assert sight.peers() == frozenset()
    # One that some may meet has each looked at.
    store._rules[SOUTH.key] = (
        Rule("all", "see"),
        Rule("CT", "see", ASK, conditions={"modality": ("CT",)}),
    )
    assert sight.tells_apart(SOUTH.key)
    assert sight.peers() == {SOUTH.key}
    # What is shown on request only is not told, but may be fetched by its UID.
    store._rules[SOUTH.key] = (Rule("found", "see", shows="on-request"), Rule("all", "fetch"))
    assert sight.peers() == frozenset()
    assert not sight.shows(SOUTH.key, shared)
