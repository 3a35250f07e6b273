"""Two-person rules: what is held, who may be the two, and what a kill leaves of a confirmation."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killed import killed_at_commit
from people_made import PEOPLE, as_person, ask, list_people, post, proposed

from keys.fingerprint import parse_fingerprint
from node.alerts import alerts_of
from node.app import Node
from node.callers import Caller, asked_by
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.home import Home
from node.operations import TABLE
from node.operations.base import HELD, Call
from node.operations.pairing import CallThere, Show, pair_call, pair_show
from node.people.acts import LIFE_MS
from node.people.rules import KINDS
from protocol.verify import Code, verify_bundle

DAY = 24 * 3600


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def south(clock: MadeClock) -> Other:
    return Other("South Clinic", clock.now())


@pytest.fixture
def home(tmp_path: Path, clock: MadeClock) -> Home:
    return Home.create(tmp_path / "home", name="North General", clock=clock)


@pytest.fixture
def node(home: Home, south: Other) -> Iterator[Node]:
    """A node with people and both rules, which knows South and a study."""
    with Node.open(home) as opened:
        _prepare(opened, south)
        yield opened


def _prepare(node: Node, south: Other) -> None:
    publish_study(node)
    south.pair(node, "see")
    list_people(node)
    for kind in KINDS:
        assert ask(node, "owner", "people.rule", kind=kind, persons=2)["result"]["persons"] == 2


def _grant(node: Node, name: str = "anna", grant: str = "fetch") -> dict[str, Any]:
    return ask(node, name, "trust.grant", peer="South Clinic", grants=[grant])


def _grants(node: Node) -> set[str]:
    return set(node.peers.find("South Clinic").grants)


def _code(answer: dict[str, Any]) -> int:
    code: int = answer["error"]["code"]
    return code


def _persons(node: Node, entry: dict[str, Any]) -> list[str]:
    found = [node.audit.opening_of(one["commitment"]) for one in entry["subjects"]]
    return [one.value for one in found if one is not None and one.kind == "person"]


# --- the way of an act ------------------------------------------------------------------


def test_an_act_waits_for_a_second_person_and_names_both(node: Node) -> None:
    number = proposed(_grant(node))
    assert _grants(node) == {"see"}
    [entry] = entries(node, "proposed")
    assert (entry["index"], entry["peer"]) == (
        number,
        node.peers.find("South Clinic").facility_key.hex(),
    )
    assert entry["details"] == {"kind": "trust", "operation": "trust.grant"}
    assert _persons(node, entry) == ["anna^^^admin^^^Dr. Anna"]
    shown = ask(node, "bert", "proposals")["result"]["proposals"]
    assert [(one["number"], one["proposer"], one["state"]) for one in shown] == [
        (number, "Dr. Anna", "proposed")
    ]
    assert "let South Clinic" in shown[0]["what"]
    assert shown[0]["what"].endswith("fetch")
    assert any("1 act wait" in alert for alert in alerts_of(node, None))

    done = ask(node, "bert", "confirm", number=number)["result"]
    assert done["proposal"]["state"] == "done"
    assert done["result"]["grants"] == ["fetch", "see"]
    assert _grants(node) == {"see", "fetch"}
    both = ["anna^^^admin^^^Dr. Anna", "bert^^^approve^^^Dr. Bert"]
    confirmed, granted = entries(node)[-2:]
    assert (confirmed["type"], granted["type"]) == ("confirmed", "trust-granted")
    for entry in (confirmed, granted):
        assert _persons(node, entry) == both
        assert entry["details"]["proposal"] == number
    assert _code(ask(node, "dora", "confirm", number=number)) == ExitCode.REFUSED, "once"
    assert not any("second person" in alert for alert in alerts_of(node, None))


def test_it_survives_a_restart(home: Home, south: Other) -> None:
    with Node.open(home) as node:
        _prepare(node, south)
        number = proposed(_grant(node))
    with Node.open(home) as node:
        assert [one.number for one in node.proposals.open()] == [number]
        assert "result" in ask(node, "dora", "confirm", number=number)
        assert _grants(node) == {"see", "fetch"}
    with Node.open(home) as node:
        assert node.proposals.open() == []
        assert _grants(node) == {"see", "fetch"}
        assert entries(node)[-1]["outcome"] == "success"


def test_it_is_declined_by_another_by_who_made_it_and_by_the_owner(node: Node) -> None:
    for name in ("bert", "anna", "owner"):
        number = proposed(_grant(node))
        answer = ask(node, name, "decline", number=number, reason="not now, for DOE^JANE")
        assert answer["result"]["state"] == "declined"
        assert _code(ask(node, "bert", "confirm", number=number)) == ExitCode.REFUSED
        [*_, entry] = entries(node, "declined")
        assert entry["details"] == {"operation": "trust.grant", "proposal": number}
    assert _grants(node) == {"see"}
    assert b"DOE" not in b"".join(node.audit.entries())
    [*_, last] = ask(node, "bert", "proposals")["result"]["proposals"]
    assert (last["state"], last["reason"], last["what"]) == (
        "declined",
        "not now, for DOE^JANE",
        "",
    )
    assert _code(ask(node, "bert", "decline", number=1, reason="x")) == ExitCode.NOT_FOUND
    number = proposed(_grant(node))
    for reason in ("", " ", "x" * 201):
        answer = ask(node, "bert", "decline", number=number, reason=reason)
        assert _code(answer) == ExitCode.USAGE


def test_it_ends_after_a_week_and_is_forgotten_after_a_month(node: Node, clock: MadeClock) -> None:
    number = proposed(_grant(node))
    clock.move(LIFE_MS / 1000 - 1)
    assert [one.number for one in node.proposals.open()] == [number]
    clock.move(1)
    assert node.proposals.open() == [], "from then on it does not wait, whoever has looked"
    assert _code(ask(node, "bert", "confirm", number=number)) == ExitCode.REFUSED
    assert _grants(node) == {"see"}
    [entry] = entries(node, "proposal-ended")
    assert (entry["actor"], entry["details"]["proposal"]) == ("node", number)
    assert _persons(node, entry) == []
    clock.move(30 * DAY)
    node.proposals.lapse()
    assert node.proposals.all() == []
    assert len(entries(node, "proposal-ended")) == 1


def test_the_same_is_not_proposed_twice_and_not_too_much(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = proposed(_grant(node))
    for name in ("anna", "dora"):
        answer = _grant(node, name)
        assert answer["error"]["message"] == f"this is proposed already, as {number}"
    assert _grants(node) == {"see"}, "two proposals are no confirmation"
    monkeypatch.setattr("node.people.proposals.MOST_OPEN", 1)
    assert "proposals wait already" in _grant(node, grant="witness")["error"]["message"]


def test_a_petname_that_goes_to_another_facility_changes_nothing(
    node: Node, south: Other, clock: MadeClock
) -> None:
    number = proposed(_grant(node))
    east = Other("East Imaging", clock.now())
    added = {"card": east.card.encoded.decode(), "fingerprint": east.card.fingerprint}
    adding = proposed(ask(node, "anna", "trust.add", **added, grants=["see"], petname="East"))
    assert "result" in ask(node, "bert", "confirm", number=adding)
    for peer, petname in (("South Clinic", "Old"), ("East", "South Clinic")):
        assert "result" in ask(node, "anna", "trust.rename", peer=peer, petname=petname)
    assert "result" in ask(node, "bert", "confirm", number=number)
    assert set(node.peers.find("Old").grants) == {"see", "fetch"}
    assert set(node.peers.find("South Clinic").grants) == {"see"}


def test_a_card_with_another_fingerprint_is_refused_and_not_proposed(
    node: Node, clock: MadeClock
) -> None:
    east = Other("East Imaging", clock.now())
    answer = ask(
        node,
        "anna",
        "trust.add",
        card=east.card.encoded.decode(),
        fingerprint=node.card.fingerprint,
    )
    assert _code(answer) == ExitCode.INTEGRITY
    assert node.proposals.open() == []


def test_what_cannot_be_done_any_more_waits_as_before(node: Node) -> None:
    number = proposed(_grant(node))
    assert "result" in ask(node, "owner", "trust.revoke", peer="South Clinic")
    assert _code(ask(node, "bert", "confirm", number=number)) == ExitCode.REFUSED
    first, second = entries(node, "confirmed")
    assert (second["outcome"], second["details"]["of"]) == ("failed", first["index"])
    assert [one.number for one in node.proposals.open()] == [number]
    assert "result" in ask(node, "bert", "decline", number=number, reason="revoked")


def test_a_facility_that_was_revoked_meanwhile_is_not_trusted_again_by_an_older_proposal(
    node: Node, south: Other, clock: MadeClock
) -> None:
    """It may have been hacked since."""
    card = {"card": south.card.encoded.decode(), "fingerprint": south.card.fingerprint}
    again = proposed(ask(node, "anna", "trust.add", **card, grants=["see", "fetch"]))
    rule = {"peer": "South Clinic", "rule": ["allow", "fetch"]}
    more = proposed(ask(node, "anna", "rules.add", **rule))
    clock.move(DAY)
    assert "result" in ask(node, "dora", "trust.revoke", peer="South Clinic")
    answer = ask(node, "bert", "confirm", number=again)
    assert "was revoked after this was proposed" in answer["error"]["message"]
    assert not node.peers.find("South Clinic").is_trusted(clock.now())
    # Two people may trust it anew, and that is no word for the rule of before.
    clock.move(DAY)
    assert "result" in ask(node, "bert", "decline", number=again, reason="hacked")
    anew = proposed(ask(node, "anna", "trust.add", **card, grants=["see"]))
    assert "result" in ask(node, "bert", "confirm", number=anew)
    answer = ask(node, "bert", "confirm", number=more)
    assert "was revoked after this was proposed" in answer["error"]["message"]
    assert node.peers.find("South Clinic").rules == ()


def test_two_who_confirm_at_once_do_it_once(node: Node) -> None:
    number = proposed(_grant(node))
    answers: list[dict[str, Any]] = []

    async def confirm(name: str) -> None:
        answers.append(await post(node, as_person(name), "confirm", {"number": number}))

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(confirm, "bert")
            nursery.start_soon(confirm, "dora")

    trio.run(both)
    assert sorted("result" in answer for answer in answers) == [False, True]
    [refused] = [answer for answer in answers if "error" in answer]
    assert _code(refused) in (ExitCode.BUSY, ExitCode.REFUSED)
    assert len(entries(node, "trust-granted")) == len(entries(node, "confirmed")) == 1


def test_a_member_who_is_not_in_the_list_is_neither_of_the_two(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = node.settings.people.__class__(unlisted="all")
    monkeypatch.setattr(node, "settings", node.settings.__class__(people=people))
    answer = _grant(node, "nobody")
    assert "two people of the list have to do this together" in answer["error"]["message"]
    number = proposed(_grant(node))
    assert _code(ask(node, "nobody", "confirm", number=number)) == ExitCode.REFUSED
    assert _grants(node) == {"see"}


# --- who the two are --------------------------------------------------------------------


def test_nobody_confirms_alone_and_the_owner_is_nobody(node: Node) -> None:
    number = proposed(_grant(node))
    assert "is yours" in ask(node, "anna", "confirm", number=number)["error"]["message"]
    for name in ("carl", "nobody", "owner"):
        assert _code(ask(node, name, "confirm", number=number)) == ExitCode.REFUSED
    assert _grants(node) == {"see"}
    for name in ("bert", "carl", "nobody", "owner"):
        assert _code(_grant(node, name)) == ExitCode.REFUSED
    assert len(node.proposals.open()) == 1


def test_the_owner_cannot_give_trust_whatever_way_it_comes(node: Node, clock: MadeClock) -> None:
    with pytest.raises(NodeError, match="two people of the list have to do this together"):
        node.peers.grant("South Clinic", ["fetch"])
    with pytest.raises(NodeError, match="two people of the list have to do this together"):
        Other("East Imaging", clock.now()).pair(node, "see")
    with pytest.raises(NodeError, match="two people of the list have to do this together"):
        node.persons.change("carl", ["admin"], [])
    assert _code(ask(node, "owner", "people.role", name="carl", give=["approve"])) == (
        ExitCode.REFUSED
    )
    assert entries(node)[-1]["type"] == "two-person-rule"


@pytest.mark.parametrize(
    ("operation", "asked"),
    [(pair_show, Show()), (pair_call, CallThere("radmesh.south.example", "48291570639"))],
)
def test_a_pairing_that_nobody_could_accept_is_not_begun(
    node: Node, operation: Any, asked: Any
) -> None:
    with pytest.raises(NodeError, match="two people have to trust a facility together here"):
        trio.run(operation, Call(node, cast(Any, object())), asked)


def test_a_proposer_who_lost_the_role_or_left_is_not_carried_out(node: Node) -> None:
    number = proposed(_grant(node))
    assert "result" in ask(node, "owner", "people.role", name="anna", take=["admin"])
    answer = ask(node, "bert", "confirm", number=number)
    assert "may not do this any more" in answer["error"]["message"]
    assert _code(ask(node, "dora", "confirm", number=number)) == ExitCode.REFUSED
    assert _grants(node) == {"see"}
    assert entries(node)[-1]["type"] == "proposal-ended"
    number = proposed(_grant(node, "dora"))
    assert proposed(ask(node, "dora", "people.role", name="anna", give=["admin"])) > number


def test_a_role_goes_to_the_person_who_was_meant_and_not_to_a_namesake(node: Node) -> None:
    number = proposed(ask(node, "anna", "people.role", name="carl", give=["admin"]))
    assert "result" in ask(node, "anna", "people.remove", name="carl")
    added = {"name": "carl", "users": ["#4000000002"], "roles": ["look"]}
    assert "result" in ask(
        node, "bert", "confirm", number=proposed(ask(node, "anna", "people.add", **added))
    )
    answer = ask(node, "bert", "confirm", number=number)
    assert answer["error"]["message"] == "carl is another person now"
    assert node.persons.find("carl").roles == ("look",)


def test_a_person_does_not_end_alone_a_rule_that_was_made_meanwhile(node: Node) -> None:
    with asked_by(Caller("person", "anna", role="admin", person=node.persons.find("anna").id)):
        with pytest.raises(NodeError, match="have to do this together"):
            node.rules.set("trust", 1)
    assert node.rules.holding(["trust"])


def test_a_second_person_is_made_by_two_persons_only(node: Node) -> None:
    added = {"name": "eve", "users": ["#4000000002"], "roles": ["approve"]}
    assert _code(ask(node, "owner", "people.add", **added)) == ExitCode.REFUSED
    number = proposed(ask(node, "anna", "people.add", **added))
    assert "as #4000000002, with the roles approve" in node.proposals.open()[0].what
    assert "result" in ask(node, "dora", "confirm", number=number)
    assert node.persons.find("eve").roles == ("approve",)


# --- what is never held, and rules themselves -------------------------------------------


def test_nothing_that_takes_away_is_held(node: Node) -> None:
    study = publish_study(node, "1.2.826.0.1.3680043.8.498.12")
    for name, operation, given_ in (
        ("anna", "trust.revoke", {"peer": "South Clinic", "grants": ["see"]}),
        ("anna", "rules.add", {"peer": "South Clinic", "rule": ["deny", "fetch", "modality=MR"]}),
        ("anna", "objection.add", {"patient": "4711"}),
        ("anna", "trust.revoke", {"peer": "South Clinic"}),
        ("carl", "withdraw", {"study": study}),
        ("anna", "people.role", {"name": "carl", "take": ["send"]}),
        ("anna", "people.remove", {"name": "carl"}),
        ("dora", "discard", {"what": study, "reason": "wrong patient"}),
    ):
        answer = ask(node, name, operation, **given_)
        if operation != "discard":
            assert "waits_for_second" not in answer["result"], operation
    assert node.proposals.open() == []
    assert set(HELD) == {
        "trust.add", "trust.grant", "people.add", "people.role", "people.rule", "audit.erase",
        "rules.add", "rules.remove", "retention",
    }  # fmt: skip
    for operation in TABLE:
        assert (operation.act is not None) == bool(operation.held_by)
        assert set(operation.held_by) <= set(KINDS)


def test_a_rule_of_a_peer_that_gives_waits_for_a_second_person(node: Node) -> None:
    node.peers.add_rule("South Clinic", ["deny", "fetch", "modality=MG"], node.facts.blind)
    for operation, given_, left in (
        ("rules.add", {"rule": ["allow", "fetch", "modality=CT"]}, [1, 2]),
        ("rules.remove", {"number": 1}, [2]),
    ):
        before = node.peers.find("South Clinic").rules
        answer = ask(node, "anna", operation, peer="South Clinic", **given_)
        number = answer["result"]["waits_for_second"]["number"]
        assert node.peers.find("South Clinic").rules == before
        assert "result" in ask(node, "bert", "confirm", number=number)
        assert [rule.number for rule in node.peers.find("South Clinic").rules] == left


def test_a_rule_that_asks_is_held_where_it_lets_a_peer_ask_for_more(node: Node) -> None:
    """Else one person could make the rule, and approve by it what nobody has allowed."""
    asks = {"peer": "South Clinic", "rule": ["ask", "fetch", "modality=CT"]}
    number = proposed(ask(node, "anna", "rules.add", **asks))
    with pytest.raises(NodeError, match="two people of the list have to do this together"):
        node.peers.add_rule("South Clinic", ["ask", "fetch"], node.facts.blind)
    assert "result" in ask(node, "bert", "confirm", number=number)
    # It is taken back by one: nothing else allows what it has people asked for.
    removed = ask(node, "anna", "rules.remove", peer="South Clinic", number=1)["result"]
    assert "waits_for_second" not in removed
    assert "result" in ask(node, "bert", "confirm", number=proposed(_grant(node)))
    # Now all may be fetched, and a rule that asks only holds back.
    assert "waits_for_second" not in ask(node, "anna", "rules.add", **asks)["result"]
    proposed(ask(node, "anna", "rules.remove", peer="South Clinic", number=2))


def test_the_second_person_reads_whom_a_rule_lists_and_the_log_does_not(node: Node) -> None:
    rule = ["allow", "fetch", "modality=CT", "patient=JANE@NORTH"]
    number = proposed(ask(node, "anna", "rules.add", peer="South Clinic", rule=rule))
    [shown] = ask(node, "bert", "proposals")["result"]["proposals"]
    assert shown["what"].endswith(
        "the rule: allow fetch modality=CT 'patient=1 listed' (patient=JANE@NORTH)"
    )
    assert "result" in ask(node, "bert", "confirm", number=number)
    assert node.proposals.all()[-1].what == ""
    assert b"JANE" not in b"".join(node.audit.entries())


def test_a_rule_needs_two_who_can_keep_it(tmp_path: Path) -> None:
    with Node.open(Home.create(tmp_path / "home", name="North")) as node:

        def rule() -> dict[str, Any]:
            return ask(node, "owner", "people.rule", kind="trust", persons=2)

        for names in (("anna",), ("carl",)):
            list_people(node, *names)
            assert "fewer than two people" in rule()["error"]["message"]
        node.persons.change("carl", ["approve"], [])
        assert "result" in rule()
        for change in (
            {"operation": "people.remove", "name": "carl"},
            {"operation": "people.remove", "name": "anna"},
            {"operation": "people.role", "name": "carl", "take": ["approve"]},
            {"operation": "people.role", "name": "anna", "take": ["admin"]},
        ):
            operation = change.pop("operation")
            answer = ask(node, "owner", str(operation), **change)
            assert "then fewer than two people could keep" in answer["error"]["message"]
        assert "result" in ask(node, "owner", "people.role", name="carl", take=["send"])
        assert [person.name for person in node.persons.all()] == ["anna", "carl"]


def test_two_who_approve_and_nobody_who_proposes_are_not_enough(tmp_path: Path) -> None:
    with Node.open(Home.create(tmp_path / "home", name="North")) as node:
        for name in ("bert", "carl"):
            list_people(node, name)
        node.persons.change("carl", ["approve"], [])
        answer = ask(node, "owner", "people.rule", kind="trust", persons=2)
        assert "fewer than two people" in answer["error"]["message"]


def test_the_owner_ends_a_rule_with_an_entry_and_an_alert(node: Node, clock: MadeClock) -> None:
    assert "result" in ask(node, "owner", "people.rule", kind="trust", persons=1)
    entry = entries(node)[-1]
    assert (entry["type"], entry["details"]) == (
        "two-person-rule",
        {"kind": "trust", "persons": 1},
    )
    [alert] = [one for one in alerts_of(node, None) if "has ended the two-person rule" in one]
    assert "trust that is given" in alert
    assert "waits_for_second" not in _grant(node)["result"]
    clock.move(8 * DAY)
    assert not any("has ended the two-person rule" in one for one in alerts_of(node, None))
    for kind, persons in (("trust", 1), ("erasure", 2), ("other", 2), ("trust", 3)):
        answer = ask(node, "owner", "people.rule", kind=kind, persons=persons)
        assert _code(answer) == ExitCode.USAGE
    assert ask(node, "bert", "people.list")["result"]["rules"] == ["erasure"]


def test_the_owner_does_not_end_the_alert_by_making_the_rule_again(
    node: Node, clock: MadeClock
) -> None:
    assert "result" in ask(node, "owner", "people.rule", kind="trust", persons=1)
    assert _grants(node) == {"see"}
    assert "result" in _grant(node, "owner")
    clock.move(DAY)
    for persons in (2, 1, 2):
        assert "result" in ask(node, "owner", "people.rule", kind="trust", persons=persons)
        [alert] = [one for one in alerts_of(node, None) if "has ended the two-person rule" in one]
    assert "one person was enough until it was made again" in alert
    assert node.rules.holding(["trust"]) == ("trust",)
    clock.move(8 * DAY)
    assert not any("has ended the two-person rule" in one for one in alerts_of(node, None))
    # A rule that is made for the first time is no news.
    assert not any(rule.by_owner for rule in node.rules.all() if rule.kind == "erasure")


def test_people_end_a_rule_together_and_that_is_no_alert(node: Node) -> None:
    number = proposed(ask(node, "anna", "people.rule", kind="trust", persons=1))
    assert _code(ask(node, "anna", "confirm", number=number)) == ExitCode.REFUSED
    assert node.rules.holding(["trust"])
    assert "result" in ask(node, "bert", "confirm", number=number)
    assert not node.rules.holding(["trust"])
    assert not any("has ended the two-person rule" in one for one in alerts_of(node, None))


# --- erasing ----------------------------------------------------------------------------


def test_two_persons_erase_and_nothing_of_the_name_is_left(
    node: Node, home: Home, tmp_path: Path
) -> None:
    study = publish_study(node, "1.2.826.0.1.3680043.8.498.13")
    ask(node, "carl", "withdraw", study=study)
    erase = {"what": study, "kind": "study"}
    assert ask(node, "anna", "audit.erase", **erase)["result"]["openings"] > 0, "counting is free"
    assert _code(ask(node, "owner", "audit.erase", **erase, confirmed=True)) == ExitCode.REFUSED
    assert _code(ask(node, "carl", "audit.erase", **erase)) == ExitCode.REFUSED
    number = proposed(ask(node, "anna", "audit.erase", **erase, confirmed=True))
    assert study not in str(entries(node, "proposed"))
    done = ask(node, "bert", "confirm", number=number)["result"]
    assert done["result"]["erased"]
    [entry] = entries(node, "erased")
    assert _persons(node, entry) == ["anna^^^admin^^^Dr. Anna", "bert^^^approve^^^Dr. Bert"]
    assert node.audit.evidence.entries_about(study=study) == []
    [kept] = [one for one in node.proposals.all() if one.number == number]
    assert (kept.what, kept.parameters) == ("", {})
    bundle = tmp_path / "log.zip"
    ask(node, "owner", "audit.export", path=str(bundle))
    with bundle.open("rb") as file:
        fingerprint = parse_fingerprint(node.card.fingerprint)
        assert verify_bundle(file, facility_fingerprint=fingerprint).code == Code.OK


def test_deleting_by_age_waits_for_a_second_person_as_erasing_does(node: Node) -> None:
    kept = dataclasses.replace(node.settings.retention, openings_days=1)
    node.settings = dataclasses.replace(node.settings, retention=kept)
    study = publish_study(node, "1.2.826.0.1.3680043.8.498.14")
    ask(node, "carl", "withdraw", study=study)
    assert "result" in ask(node, "anna", "retention"), "showing is free"
    node.clock = _Later(node.clock)
    assert _code(ask(node, "owner", "retention", apply=True)) == ExitCode.REFUSED
    number = proposed(ask(node, "anna", "retention", apply=True))
    assert node.audit.evidence.entries_about(study=study)
    assert "result" in ask(node, "bert", "confirm", number=number)
    assert node.audit.evidence.entries_about(study=study) == []
    [entry] = entries(node, "erased")
    assert entry["details"]["kind"] == "before"
    assert _persons(node, entry) == ["anna^^^admin^^^Dr. Anna", "bert^^^approve^^^Dr. Bert"]


def test_what_became_due_after_the_proposal_is_not_deleted_by_it(
    node: Node, clock: MadeClock
) -> None:
    """Nor what a setting that was changed since would delete."""
    kept = dataclasses.replace(node.settings.retention, openings_days=1)
    node.settings = dataclasses.replace(node.settings, retention=kept)
    study = publish_study(node)
    ask(node, "carl", "withdraw", study=study)
    about = node.audit.evidence.entries_about
    older = set(about(study=study))
    clock.move(2 * DAY)
    number = proposed(ask(node, "anna", "retention", apply=True))
    ask(node, "carl", "share", study=study)
    newer = set(about(study=study)) - older
    assert older
    assert newer
    node.clock = _Later(node.clock)
    assert "result" in ask(node, "bert", "confirm", number=number)
    assert set(about(study=study)) == newer
    for wrong in ("openings", "openings=tomorrow", ""):
        answer = ask(node, "owner", "retention", before=[wrong])
        assert _code(answer) == ExitCode.USAGE


class _Later:
    """The clock of a node two days from now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now_ms(self) -> int:
        return self._clock.now_ms() + 2 * 24 * 3600 * 1000

    def now(self) -> int:
        return self.now_ms() // 1000

    def running(self) -> float:
        return self._clock.running()


def test_without_the_rule_erasing_is_for_the_owner_alone(node: Node) -> None:
    assert "result" in ask(node, "owner", "people.rule", kind="erasure", persons=1)
    for confirmed in (False, True):
        answer = ask(node, "anna", "audit.erase", what="1.2.3", confirmed=confirmed)
        assert answer["error"]["message"] == "audit.erase is for the owner of the node alone"


# --- property ---------------------------------------------------------------------------

_STEPS = st.lists(
    st.tuples(
        st.sampled_from([*PEOPLE, "owner", "nobody"]),
        st.sampled_from(["grant", "confirm", "decline", "revoke", "week"]),
    ),
    max_size=12,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_STEPS)
@pytest.mark.slow
def test_whatever_people_do_trust_is_given_by_two(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    clock = MadeClock()
    south = Other("South Clinic", clock.now())
    home = Home.create(tmp_path_factory.mktemp("n") / "home", name="North", clock=clock)
    with Node.open(home) as node:
        _prepare(node, south)
        for name, step in steps:
            if step == "week":
                clock.move(LIFE_MS / 1000)
            elif step == "grant":
                _grant(node, name)
            elif step == "revoke":
                ask(node, name, "trust.revoke", peer="South Clinic", grants=["fetch"])
            elif node.proposals.all():
                number = node.proposals.all()[-1].number
                more = {"reason": "no"} if step == "decline" else {}
                ask(node, name, step, number=number, **more)
        proposals = {entry["index"]: entry for entry in entries(node, "proposed")}
        for entry in entries(node, "trust-granted"):
            first, second = _persons(node, entry)
            assert first != second
            assert first.startswith(("anna^^^admin", "dora^^^admin"))
            assert second.split("^^^")[0] in ("anna", "bert", "dora")
            of = proposals[entry["details"]["proposal"]]
            assert _persons(node, of) == [first]


# --- kills ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("act", ["grant", "erase"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit_an_act_is_done_once_or_waits(
    tmp_path: Path, act: str, when: str
) -> None:
    outcomes = set()
    for commit in range(1, 40):
        clock = MadeClock()
        south = Other("South Clinic", clock.now())
        home = Home.create(tmp_path / f"{commit}", name="North", clock=clock)
        with Node.open(home) as node:
            _prepare(node, south)
            study = publish_study(node, "1.2.826.0.1.3680043.8.498.14")
            ask(node, "carl", "withdraw", study=study)
            if act == "grant":
                number = proposed(_grant(node))
            else:
                what = {"what": study, "kind": "study", "confirmed": True}
                number = proposed(ask(node, "anna", "audit.erase", **what))

        def confirm(node: Node, number: int = number) -> None:
            ask(node, "bert", "confirm", number=number)

        killed = killed_at_commit(commit, when, lambda home=home: Node.open(home), confirm)
        for _ in range(2):
            with Node.open(home) as node:
                is_open = [one.number for one in node.proposals.open()] == [number]
                if act == "grant":
                    is_done = _grants(node) == {"see", "fetch"}
                else:
                    is_done = node.audit.evidence.entries_about(study=study) == []
                assert is_done is not is_open
                told = entries(node, "confirmed")
                failed = {one["details"]["of"] for one in told if one["outcome"] == "failed"}
                standing = [
                    one
                    for one in told
                    if one["outcome"] == "success" and one["index"] not in failed
                ]
                assert len(standing) == (1 if is_done else 0)
                outcomes.add((is_done, len(told)))
        if not is_done:
            with Node.open(home) as node:
                assert "result" in ask(node, "bert", "confirm", number=number)
                assert node.proposals.open() == []
                kind = "trust-granted" if act == "grant" else "erased"
                done = [one for one in entries(node, kind) if one["outcome"] == "success"]
                assert json.dumps(done[-1]["details"]).count(f'"proposal": {number}') == 1
        if not killed:
            break
    else:
        pytest.fail("it never came to its end")
    assert (True, 1) in outcomes
    if (act, when) != ("erase", "after"):
        # The first commit after the confirmation is there that of the erasure itself.
        assert (False, 2) in outcomes, "a confirmation without its act"
