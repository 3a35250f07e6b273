"""Who may have a study: each reason for a no, and that nothing else is one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import exchange_pair
import pytest
from clocks_made import MadeClock
from facility_in_memory import Other, publish_study
from recipient_made import RecipientMade

from keys.peer import PURPOSES, Peer
from keys.trust import TrustStore
from node.app import Node
from node.home import Home
from node.sharing.policy import SENTENCES, decide_fetch, decide_having, sentence
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
def test_a_request_and_each_batch_are_decided_alike(
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
    asked_for = decide_fetch(store, peer, _request(asked), row, now_ms=NOW * 1000)
    going_on = decide_having(store, peer, asked, row, now=NOW)
    assert asked_for == going_on
    assert (None if asked_for is None else asked_for.code) == code
    assert asked_for is None or asked_for.reason


@pytest.mark.parametrize("sign", [1, -1])
def test_clocks_may_differ_by_a_day_and_no_more(north: Node, sign: int) -> None:
    store, peer = _peer("see", "fetch")
    study = north.catalog.study(exchange_pair.STUDY)
    day = CLOCK_SKEW_SECONDS * 1000
    same = decide_fetch(store, peer, _request(late_ms=sign * day), study, now_ms=NOW * 1000)
    assert same is None
    late = _request(late_ms=sign * (day + 1))
    refusal = decide_fetch(store, peer, late, study, now_ms=NOW * 1000)
    assert refusal is not None
    assert refusal.code is WireCode.CLOCK_SKEW


def test_the_time_of_the_decision_is_that_of_the_clock(north: Node) -> None:
    """A card that ends between two seconds ends at the second."""
    store, peer = _peer("see", "fetch")
    study = north.catalog.study(exchange_pair.STUDY)
    ends = SOUTH.card.expires * 1000
    request = replace(_request(), time=ends)
    assert decide_fetch(store, peer, request, study, now_ms=ends - 1) is None
    refusal = decide_fetch(store, peer, request, study, now_ms=ends)
    assert refusal is not None
    assert refusal.code is NOT_GRANTED


async def test_a_purpose_that_is_not_allowed_is_refused_by_the_node(north: Node) -> None:
    peer = SOUTH.pair(north, "see", "fetch")
    north.peers._store = TrustStore([replace(peer, purposes=frozenset({"treatment"}))], OWN)
    refused = RecipientMade(north, SOUTH, purpose="research")
    await refused.fetch()
    assert refused.refused is PURPOSE
    [shown] = north.transfers.recent()
    assert shown.state is TransferState.REFUSED
    assert shown.why == "South Clinic is not trusted for the purpose research"


def test_each_refusal_has_its_sentence_and_what_to_do() -> None:
    for code in SENTENCES:
        what, hint = sentence(code, "South")
        assert "South" in what
        assert "{" not in what
        assert hint
    what, hint = sentence(WireCode.MALFORMED, "South")
    assert what == ("South ended the transfer since something did not fit the protocol (code 1)")
    assert hint
