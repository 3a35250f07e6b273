"""Requests that wait for a person: what the peer is told, what an approval is for, and its end."""

from collections.abc import Callable, Iterator
from pathlib import Path

import exchange_pair
import pytest
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study
from recipient_made import RecipientMade

from node.alerts import alerts_of
from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import Home
from node.sharing.requests import APPROVED_SECONDS, WAITING_PER_PEER, WAITS_SECONDS
from node.transfer.transfers import TransferState
from protocol.errors import WireCode
from protocol.messages import Request
from protocol.transfer import Countersigned

STUDY = exchange_pair.STUDY
SOUTH = Other("South Clinic", MadeClock().now())
ASKER = {"person": "Dr. B. Beispiel", "role": "radiologist", "reason": "before the operation"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North", clock=MadeClock())


@pytest.fixture
def north(home: Home) -> Iterator[Node]:
    with Node.open(home) as node:
        _prepare(node)
        yield node


def _prepare(node: Node) -> None:
    publish_study(node, instances=3)
    SOUTH.pair(node, "see", "fetch")
    node.peers.add_rule("South Clinic", ["ask", "fetch"], node.facts.blind)


async def _asks(
    node: Node,
    transfer: bytes = exchange_pair.TRANSFER,
    *,
    purpose: str = "treatment",
    **ask: str,
) -> RecipientMade:
    recipient = RecipientMade(node, SOUTH, transfer=transfer, purpose=purpose, ask={**ASKER, **ask})
    await recipient.fetch()
    return recipient


def _kinds(node: Node) -> list[str]:
    wanted = ("requested", "refused", "approval-asked", "approved", "denied", "disclosure-begun")
    return [entry["type"] for entry in entries(node, *wanted)]


async def test_it_waits_is_approved_goes_on_and_was_for_one_use(north: Node) -> None:
    for _ in range(3):
        assert (await _asks(north)).refused is WireCode.WAITING
    [waiting] = north.requests.waiting()
    assert (waiting.study, waiting.purpose, waiting.rule) == (STUDY, "treatment", "rule 1")
    assert (waiting.person, waiting.role, waiting.reason) == tuple(ASKER.values())
    assert any("1 request waits for approval" in alert for alert in alerts_of(north, None))
    # However often it asks: one entry, and nothing in the register of transfers.
    assert _kinds(north) == ["approval-asked"]
    assert north.transfers.recent() == []
    north.requests.approve(waiting.number)
    assert (await _asks(north)).heard(Countersigned)
    assert _kinds(north) == ["approval-asked", "approved", "requested", "disclosure-begun"]
    [ended] = north.requests.all()
    assert (ended.state, ended.person, ended.reason) == ("ended", "", "")
    # For another transfer it has to be approved anew.
    assert (await _asks(north, bytes(16))).refused is WireCode.WAITING


async def test_what_no_rule_allows_waits_by_a_rule_that_asks_and_goes_on(north: Node) -> None:
    north.peers.revoke("South Clinic", ["fetch"], north.clock.now())
    assert (await _asks(north)).refused is WireCode.WAITING
    north.requests.approve(1)
    assert (await _asks(north)).heard(Countersigned)
    assert _kinds(north) == ["approval-asked", "approved", "requested", "disclosure-begun"]
    assert entries(north, "disclosure-begun")[0]["details"]["rule"] == "rule 1"
    # It still needs `see` of the study.
    north.peers.revoke("South Clinic", ["see"], north.clock.now())
    assert (await _asks(north, bytes(16))).refused is WireCode.NOT_GRANTED


async def test_two_rules_that_ask_are_answered_one_after_the_other(north: Node) -> None:
    north.peers.add_rule("South Clinic", ["ask", "fetch", "purpose=TREAT"], north.facts.blind)
    for rule in ("rule 1", "rule 2"):
        assert (await _asks(north)).refused is WireCode.WAITING
        [waiting] = north.requests.waiting()
        assert waiting.rule == rule
        north.requests.approve(waiting.number)
    assert (await _asks(north)).heard(Countersigned)


async def test_who_asks_is_an_opening_and_not_in_the_log(north: Node) -> None:
    await _asks(north)
    [entry] = entries(north, "approval-asked")
    found = [north.audit.opening_of(one["commitment"]) for one in entry["subjects"]]
    told = {one.kind: one.value for one in found if one is not None}
    assert told["asker"] == "^^^".join(ASKER.values())
    assert told["study"] == STUDY
    assert ASKER["person"].encode() not in b"".join(north.audit.entries())


async def test_both_logs_have_who_asked_for_what_needs_no_approval(north: Node) -> None:
    north.peers.remove_rule("South Clinic", 1)
    assert (await _asks(north)).heard(Countersigned)
    [requested] = entries(north, "requested")
    found = [north.audit.opening_of(one["commitment"]) for one in requested["subjects"]]
    assert ("asker", "^^^".join(ASKER.values())) in [(one.kind, one.value) for one in found if one]
    await _asks(north, bytes(15) + b"1", person="", role="", reason="")
    assert "asker" not in [one["kind"] for one in entries(north, "requested")[1]["subjects"]]


async def test_an_approval_ends_by_its_time(north: Node) -> None:
    await _asks(north)
    north.requests.approve(1)
    clock = north.clock
    assert isinstance(clock, MadeClock)
    clock.move(APPROVED_SECONDS)
    refused = await _asks(north)
    assert refused.refused is WireCode.NOT_GRANTED
    assert entries(north, "refused")[-1]["details"]["why"] == (
        "the approval of request 1 has ended"
    )


async def test_an_approval_is_taken_back_on_a_full_disk(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node.open(home) as node:
        _prepare(node)
        await _asks(node)
        node.requests.approve(1)

        def fail(_: object) -> None:
            raise NodeError("the disk is full", code=ExitCode.DISK)

        with monkeypatch.context() as full:
            full.setattr(node.audit, "append", fail)
            with pytest.raises(NodeError, match="request 1 is denied in this process"):
                node.requests.deny(1, "the wrong patient")
        assert any("request 1 is denied, and that is not" in one for one in alerts_of(node, None))
        [asked] = node.requests.all()
        assert (asked.state, asked.note) == ("denied", "the wrong patient")
        assert (await _asks(node)).refused is WireCode.NOT_GRANTED
        node.requests.write_unwritten()
        assert _kinds(node)[-1] == "denied"
    with Node.open(home) as node:
        [asked] = node.requests.all()
        assert (asked.state, asked.note) == ("denied", "the wrong patient")


@pytest.mark.parametrize("is_approved", [False, True])
async def test_who_asked_is_forgotten_when_it_is_over(home: Home, is_approved: bool) -> None:
    with Node.open(home) as node:
        _prepare(node)
        await _asks(node)
        if is_approved:
            node.requests.approve(1)
        clock = node.clock
        assert isinstance(clock, MadeClock)
        clock.move(WAITS_SECONDS)
        with pytest.raises(NodeError, match="no request 1 waits"):
            node.requests.approve(1)
        await _asks(node, bytes(16))
        old, new = sorted(node.requests.all(), key=lambda one: one.number)
        assert (old.person, old.role, old.reason) == ("", "", "")
        assert (new.person, new.role, new.reason) == tuple(ASKER.values())
        clock.move(WAITS_SECONDS)
        node.clean_up()
        assert {one.person for one in node.requests.all()} == {""}


async def test_an_erasure_forgets_requests_in_any_state(north: Node) -> None:
    for number, settle in enumerate((lambda n: None, north.requests.approve, _denies(north)), 1):
        await _asks(north, number.to_bytes(16))
        settle(number)
    assert len(north.requests.all()) == 3
    north.forget(["1.2.3"])
    assert len(north.requests.all()) == 3
    north.forget([STUDY])
    assert north.requests.all() == []
    assert (await _asks(north, (2).to_bytes(16))).refused is WireCode.WAITING


def _denies(node: Node) -> Callable[[int], object]:
    return lambda number: node.requests.deny(number, "no")


async def test_no_approval_and_no_request_comes_back_with_trust(north: Node) -> None:
    await _asks(north)
    north.requests.approve(1)
    await _asks(north, bytes(16))
    north.peers.revoke("South Clinic", [], north.clock.now())
    assert [one.state for one in north.requests.all()] == ["ended", "ended"]
    assert {one.person for one in north.requests.all()} == {""}
    SOUTH.pair(north, "see", "fetch")
    north.peers.add_rule("South Clinic", ["ask", "fetch"], north.facts.blind)
    assert (await _asks(north)).refused is WireCode.WAITING
    assert [one.state for one in north.requests.all()] == ["ended", "waiting"]


async def test_a_request_waits_no_more_when_its_study_has_gone_out(north: Node) -> None:
    await _asks(north)
    number = north.peers.store.rules(SOUTH.key)[-1].number
    north.peers.remove_rule("South Clinic", number)
    assert (await _asks(north)).heard(Countersigned)
    assert north.requests.waiting() == []
    [asked] = north.requests.all()
    assert (asked.state, asked.person) == ("ended", "")


async def test_what_was_denied_is_refused(north: Node) -> None:
    await _asks(north)
    north.requests.deny(1, "ask the ward")
    assert (await _asks(north)).refused is WireCode.NOT_GRANTED
    [shown] = north.transfers.recent()
    assert (shown.state, shown.why) == (TransferState.REFUSED, "request 1 was denied")
    with pytest.raises(NodeError, match="no request 1 waits"):
        north.requests.approve(1)
    with pytest.raises(NodeError, match="no request 2 waits"):
        north.requests.deny(2, "no")


async def test_what_nobody_answers_ends(north: Node) -> None:
    await _asks(north)
    clock = north.clock
    assert isinstance(clock, MadeClock)
    clock.move(WAITS_SECONDS)
    assert (await _asks(north)).refused is WireCode.NOT_GRANTED
    assert north.requests.waiting() == []


async def test_it_outlives_a_restart(home: Home) -> None:
    with Node.open(home) as node:
        _prepare(node)
        await _asks(node)
    with Node.open(home) as node:
        [waiting] = node.requests.waiting()
        node.requests.approve(waiting.number)
    with Node.open(home) as node:
        assert (await _asks(node)).heard(Countersigned)


async def test_a_study_that_it_may_not_see_is_no_request(north: Node) -> None:
    north.shared_studies.withdraw(STUDY)
    assert (await _asks(north)).refused is WireCode.NOT_AVAILABLE
    assert north.requests.all() == []


async def test_a_peer_cannot_fill_the_list(north: Node) -> None:
    for number in range(WAITING_PER_PEER + 1):
        recipient = await _asks(north, number.to_bytes(16))
        expected = WireCode.WAITING if number < WAITING_PER_PEER else WireCode.NOT_GRANTED
        assert recipient.refused is expected
    assert len(north.requests.all()) == WAITING_PER_PEER


async def test_a_role_can_be_demanded(north: Node) -> None:
    north.peers.remove_rule("South Clinic", 1)
    north.peers.revoke("South Clinic", ["fetch"], north.clock.now())
    north.peers.add_rule("South Clinic", ["allow", "fetch", "role=radiologist"], north.facts.blind)
    assert (await _asks(north, role="porter")).refused is WireCode.NOT_GRANTED
    assert (await _asks(north, role="")).refused is WireCode.NOT_GRANTED
    assert (await _asks(north)).heard(Countersigned)


async def test_a_deny_goes_before_an_approval(north: Node) -> None:
    await _asks(north)
    north.requests.approve(1)
    north.peers.add_rule("South Clinic", ["deny", "fetch"], north.facts.blind)
    assert (await _asks(north)).refused is WireCode.NOT_GRANTED


@pytest.mark.parametrize(
    "other",
    [{"purpose": "research"}, {"person": "Dr. C."}, {"role": "porter"}, {"reason": "curious"}],
    ids=lambda other: next(iter(other)),
)
async def test_an_approval_is_for_what_was_asked(north: Node, other: dict[str, str]) -> None:
    await _asks(north)
    north.requests.approve(1)
    assert (await _asks(north, **other)).refused is WireCode.NOT_GRANTED
    assert entries(north, "refused")[-1]["details"]["why"] == (
        "request 1 of the same transfer asked for something else"
    )
    assert (await _asks(north)).heard(Countersigned)


async def test_one_transfer_makes_one_request(north: Node) -> None:
    """Two rules that ask, and a peer that changes its purpose to be asked about by each in turn."""
    north.peers.remove_rule("South Clinic", 1)
    for purpose in ("treatment", "research"):
        words = ["ask", "fetch", f"purpose={purpose}"]
        north.peers.add_rule("South Clinic", words, north.facts.blind)
    for _ in range(3):
        assert (await _asks(north)).refused is WireCode.WAITING
        assert (await _asks(north, purpose="research")).refused is WireCode.NOT_GRANTED
    [asked] = north.requests.all()
    assert (asked.purpose, asked.rule) == ("treatment", "rule 2")
    assert len(entries(north, "approval-asked")) == 1


async def test_another_rule_has_it_asked_about_anew_but_it_waits_no_longer(north: Node) -> None:
    await _asks(north)
    first = north.requests.all()[0].asked
    clock = north.clock
    assert isinstance(clock, MadeClock)
    clock.move(WAITS_SECONDS - 60)
    north.peers.add_rule("South Clinic", ["ask", "fetch"], north.facts.blind)
    north.peers.remove_rule("South Clinic", 1)
    assert (await _asks(north)).refused is WireCode.WAITING
    [asked] = north.requests.all()
    assert (asked.rule, asked.asked) == ("rule 2", first)
    assert len(entries(north, "approval-asked")) == 2
    clock.move(60)
    assert (await _asks(north)).refused is WireCode.NOT_GRANTED


async def test_what_is_approved_while_it_asks_stays_approved(north: Node) -> None:
    """The decision rests on the state before the approval, and what follows it on the one after."""
    await _asks(north)
    request = Request(
        transfer=exchange_pair.TRANSFER, source=north.keys.node.public, study=STUDY,
        purpose="treatment", ephemeral=bytes(32), time=north.clock.now_ms(), **ASKER,
    )  # fmt: skip
    north.requests.approve(1)
    assert north.requests.why_refused(SOUTH.key, request, "rule 1") == ""
    north.requests.note(SOUTH.key, request, "rule 1")
    assert [one.state for one in north.requests.all()] == ["approved"]
    assert (await _asks(north)).heard(Countersigned)


async def test_requests_are_within_a_budget(north: Node) -> None:
    budgets = north.budgets
    key = SOUTH.key
    while budgets.take(key, "request"):
        pass
    assert (await _asks(north)).refused is WireCode.BUSY
    assert north.requests.all() == []
    assert entries(north, "approval-asked") == []


@pytest.mark.parametrize(("until", "why"), [(0, "ends in the past"), (1, "ends in the past")])
async def test_an_approval_of_the_past_is_none(north: Node, until: int, why: str) -> None:
    await _asks(north)
    with pytest.raises(NodeError, match=why):
        north.requests.approve(1, until)
