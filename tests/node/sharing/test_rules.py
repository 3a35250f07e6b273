"""Rules on a node: what is announced, cut, refused and logged because of them."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
from clocks_made import START_MS, MadeClock
from facility_in_memory import Other, available, entries, publish_study, sender_of, told_to
from recipient_made import RecipientMade
from studies_made import make_instance

from node.app import Node
from node.audit.erasing import erase
from node.errors import NodeError
from node.home import Home
from node.network.streams import PeerStream
from node.operations import OPERATIONS, Call
from node.sharing.endings import Endings
from node.sharing.peers import Terms
from node.transfer.transfers import TransferState
from protocol.errors import WireCode
from protocol.recipient import RecipientTransfer
from protocol.transfer import BatchArrived, ManifestArrived

STUDY = exchange_pair.STUDY
MR_STUDY = "1.2.826.0.1.3680043.8.498.2"
TODAY = datetime.datetime.fromtimestamp(START_MS / 1000, datetime.UTC)
AGE = (TODAY - datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)).days
"""Days from the date of the studies made to the clock's first day."""
SOUTH = Other("South Clinic", START_MS // 1000, expires=START_MS // 1000 + 10**8)
DAY = 86_400


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    """A node with a shared CT of one patient; South is paired and may do nothing."""
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        publish_study(node, instances=6)
        SOUTH.pair(node)
        yield node


def _answer(node: Node, operation: str, **parameters: Any) -> dict[str, Any]:
    """The answer of an operation, as the command line has it."""
    return dict(trio.run(OPERATIONS[operation].answer, Call(node), parameters))


def _rule(node: Node, words: str) -> int:
    return node.peers.add_rule("South Clinic", words.split(), node.facts.blind)[1].number


def _remove(node: Node, number: int) -> None:
    node.peers.remove_rule("South Clinic", number)


def _move(node: Node, seconds: float) -> None:
    assert isinstance(node.clock, MadeClock)
    node.clock.move(seconds)


def _ingest_mr(node: Node, folder: Path) -> None:
    made = make_instance(MR_STUDY, 1, rows=8)
    made.Modality = "MR"
    folder.mkdir()
    made.save_as(folder / "mr.dcm", enforce_file_format=True)
    assert _answer(node, "ingest", paths=[str(folder)])["instances_new"] == 1


def _endings(node: Node) -> Endings:
    return Endings(
        peers=node.peers,
        studies=node.shared_studies,
        wishes=node.wishes,
        feeds=node.feeds,
        connected=lambda: (),
        peer_changed=lambda peer: None,
        node_key_ended=lambda key: None,
        clock=node.clock,
        refusals=node.refusals,
        discards=node.discards,
    )


# --- what is announced ------------------------------------------------------------------


def test_a_peer_is_told_of_what_its_rules_allow_it_to_see(north: Node, tmp_path: Path) -> None:
    _ingest_mr(north, tmp_path / "in")
    assert available(told_to(north, SOUTH)) == set()
    _rule(north, "allow see modality=CT")
    assert available(told_to(north, SOUTH)) == {STUDY}
    _rule(north, "allow see modality=MR")
    assert available(told_to(north, SOUTH)) == {STUDY, MR_STUDY}
    _rule(north, "deny see modality=CT")
    assert available(told_to(north, SOUTH)) == {MR_STUDY}
    _remove(north, 3)
    assert available(told_to(north, SOUTH)) == {STUDY, MR_STUDY}
    _remove(north, 1)
    assert available(told_to(north, SOUTH)) == {MR_STUDY}


def test_a_study_shown_on_request_is_not_announced(north: Node) -> None:
    _rule(north, "allow see shows=on-request")
    assert told_to(north, SOUTH) == []
    _rule(north, "allow see")
    assert available(told_to(north, SOUTH)) == {STUDY}


@pytest.mark.parametrize("cut", ["deny see modality=CT", "deny see", "remove"])
def test_what_a_rule_takes_is_withdrawn_in_the_feed(north: Node, cut: str) -> None:
    _rule(north, "allow see modality=CT")
    told = north.feeds.pending(SOUTH.key, bytes(16), 0)
    assert available(list(told.records)) == {STUDY}
    north.feeds.mark_told(SOUTH.key, told.records)
    if cut == "remove":
        _remove(north, 1)
    else:
        _rule(north, cut)
    news = north.feeds.pending(SOUTH.key, told.epoch, told.cursor).records
    assert [(one.kind, one.study) for one in news] == [("withdrawn", STUDY)]


def test_the_end_of_a_rule_and_the_age_of_a_study_withdraw_it(north: Node) -> None:
    endings = _endings(north)
    end = TODAY.replace(hour=23, minute=30, second=0, microsecond=0)
    _rule(north, f"allow see until={end.strftime('%Y-%m-%dT%H:%M:%SZ')}")
    _rule(north, f"allow see max-age={AGE}d")
    left = round(end.timestamp() - START_MS / 1000)
    trio.run(endings.look)
    # Until the day is over one of them holds.
    for seconds, told in ((left, {STUDY}), (30 * 60 - 1, {STUDY}), (1, set())):
        _move(north, seconds)
        trio.run(endings.look)
        assert available(told_to(north, SOUTH)) == told


def test_a_rule_to_deny_that_ends_lets_the_study_be_told(north: Node) -> None:
    endings = _endings(north)
    _rule(north, "allow see")
    end = TODAY + datetime.timedelta(seconds=100)
    _rule(north, f"deny see until={end.strftime('%Y-%m-%dT%H:%M:%SZ')}")
    for seconds, told in ((99, set()), (1, {STUDY})):
        _move(north, seconds)
        trio.run(endings.look)
        assert available(told_to(north, SOUTH)) == told


@pytest.mark.parametrize("first", ["WARD", "CLINIC"])
def test_one_image_of_the_ward_is_enough_for_a_deny(
    north: Node, tmp_path: Path, first: str
) -> None:
    """Whichever image came first, and what the study's row says."""
    folder = tmp_path / "in"
    _rule(north, "allow see")
    _rule(north, "deny see institution=WARD")
    _rule(north, "allow fetch accession=A-WARD")
    told = []
    for number, name in enumerate([first, *({"WARD", "CLINIC"} - {first})]):
        made = make_instance(MR_STUDY, number + 1, rows=8)
        made.InstitutionName, made.AccessionNumber = name, f"A-{name}"
        folder.mkdir(exist_ok=True)
        made.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        _answer(north, "ingest", paths=[str(folder)])
        told.append(MR_STUDY in available(told_to(north, SOUTH)))
    assert told == [first == "CLINIC", False]
    facts = north.facts.of(north.catalog.study(MR_STUDY), SOUTH.key)
    assert facts is not None
    other = "CLINIC" if first == "WARD" else "WARD"
    assert facts.more == (("accession", f"A-{other}"), ("institution", other))
    found = _answer(north, "trust.explain", peer="South Clinic", study=MR_STUDY)
    assert found["decides"] == "rule 3"
    assert "is not known to hold" in found["answer"]


# --- what is cut ------------------------------------------------------------------------

CUTS = {
    "a deny": lambda node: _rule(node, "deny fetch modality=CT"),
    "a deny to see": lambda node: _rule(node, "deny see"),
    "a question": lambda node: _rule(node, "ask fetch"),
    "the rule is removed": lambda node: _remove(node, 2),
    "the rule to see is removed": lambda node: _remove(node, 1),
    "the rule ends": lambda node: _move(node, 2 * DAY),
}


@pytest.mark.parametrize("cut", CUTS)
async def test_a_running_transfer_ends_with_its_rule(north: Node, cut: str) -> None:
    end = (TODAY + datetime.timedelta(days=1)).strftime("%Y-%m-%d")
    _rule(north, "allow see")
    _rule(north, f"allow fetch modality=CT until={end}")
    done: list[str] = []

    async def change(_: RecipientTransfer, __: PeerStream) -> None:
        if not done:
            done.append(cut)
            CUTS[cut](north)

    recipient = RecipientMade(north, SOUTH, at={BatchArrived: change})
    await recipient.fetch()
    told = WireCode.WAITING if cut == "a question" else WireCode.NOT_GRANTED
    assert recipient.refused is told
    assert sum(isinstance(event, BatchArrived) for event in recipient.told) < 6
    [transfer] = north.transfers.recent()
    assert transfer.state is TransferState.FAILED
    [failed] = entries(north, "disclosure-failed")
    assert failed["details"]["why"] == transfer.why


async def test_a_limit_that_is_used_up_by_a_transfer_does_not_cut_it(north: Node) -> None:
    _rule(north, "allow see")
    _rule(north, "allow fetch studies-a-day=1")
    for _ in range(3):
        # The same study again is no further one.
        recipient = RecipientMade(north, SOUTH)
        await recipient.fetch()
        assert recipient.refused is None
    assert len(entries(north, "disclosed")) == 3


# --- what is told of what is not there --------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        ("allow see", "allow fetch"),
        ("allow see", "allow fetch bytes-a-day=1kB"),
        ("allow see", "allow fetch studies-a-day=0"),
        ("allow see modality=MR", "allow fetch"),
        ("allow see", "allow fetch", "deny fetch modality=CT"),
        ("allow see", "allow fetch", "ask fetch modality=CT"),
        ("allow see", "allow fetch", "deny see institution=Ward"),
        ("allow fetch",),
    ],
)
@pytest.mark.parametrize("state", ["withdrawn", "objected"])
async def test_a_hidden_study_is_told_like_none(
    north: Node, tmp_path: Path, rules: tuple[str, ...], state: str
) -> None:
    answers = []
    with Node.open(Home.create(tmp_path / "none", name="North", clock=MadeClock())) as without:
        SOUTH.pair(without)
        if state == "withdrawn":
            north.shared_studies.withdraw(STUDY)
        else:
            north.wishes.add("objection", "MARKER-PATIENT-ID", "", SOUTH.key, "care")
        for node in (north, without):
            for words in rules:
                _rule(node, words)
            recipient = RecipientMade(node, SOUTH)
            await recipient.fetch()
            answers.append([(type(one).__name__, str(one)) for one in recipient.told])
    assert len(answers[0]) == 1
    assert answers[0] == answers[1]


@pytest.mark.parametrize("origin", ["local", "00" * 32])
def test_what_has_to_be_checked_is_no_withheld_study_for_an_emergency(
    north: Node, origin: str
) -> None:
    """Also one that was fetched, which is listed as withheld."""
    _rule(north, "allow emergency withheld=yes")
    asked = {"peer": "South Clinic", "study": STUDY, "purpose": "BTG"}
    north.shared_studies.withdraw(STUDY)
    assert _answer(north, "trust.explain", **asked)["verdict"] == "yes"
    north.database.transact(
        lambda connection: connection.execute(
            "UPDATE studies SET to_check = 'two patients', origin = ?", (origin,)
        )
    )
    assert _answer(north, "trust.explain", **asked)["verdict"] == "no"


async def test_while_emergencies_rest_nobody_can_tell_which_studies_there_are(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rule(north, "allow emergency")
    monkeypatch.setattr(north.emergencies, "why_rests", lambda *_: "a review is overdue")
    told = []
    for _ in range(2):
        recipient = RecipientMade(
            north, SOUTH, purpose="BTG", ask={"reason": "life-threatening: bleeding"}
        )
        await recipient.fetch()
        told.append(recipient.refused)
        # The second time it is not shared.
        await trio.to_thread.run_sync(north.shared_studies.withdraw, STUDY)
    assert told == [WireCode.NOT_GRANTED] * 2


# --- what is logged ---------------------------------------------------------------------


async def test_entries_name_rule_and_rights_and_facts_that_can_be_erased(north: Node) -> None:
    _rule(north, "allow see")
    _rule(north, "allow fetch modality=CT patient=SOMEBODY,MARKER-PATIENT-ID purpose=TREAT")
    await RecipientMade(north, SOUTH).fetch()
    given = north.peers.find("South Clinic").rights_digest
    _rule(north, "deny fetch modality=CT")
    await RecipientMade(north, SOUTH).fetch()
    [begun], [refused] = entries(north, "disclosure-begun"), entries(north, "refused")
    assert (begun["details"]["rule"], begun["details"]["rights"]) == ("rule 2", given)
    assert refused["details"]["rule"] == "rule 3"
    assert refused["details"]["rights"] == north.peers.find("South Clinic").rights_digest != given
    found = [opening.value for _, opening in north.audit.evidence.openings(north.audit.size)]
    facts = [json.loads(one) for one in found if one.startswith("{")]
    assert len(facts) == 2
    for one in facts:
        assert one["modality"] == ["CT"]
    # The rules themselves, which the log keeps in clear, name nobody.
    assert not any("MARKER" in json.dumps(entry["details"]) for entry in entries(north))


@pytest.mark.parametrize("kind", ["study", "patient"])
async def test_facts_are_erased_with_their_study_and_their_patient(
    north: Node, tmp_path: Path, kind: str
) -> None:
    study = "1.2.826.0.1.3680043.8.498.1"
    folder = tmp_path / "in"
    folder.mkdir()
    make_instance(study, 99, rows=16).save_as(folder / "one.dcm", enforce_file_format=True)
    await OPERATIONS["ingest"].answer(Call(north), {"paths": [str(folder)]})
    [(patient, _)] = north.facts.of(north.catalog.study(study), SOUTH.key).patients  # type: ignore[union-attr]
    _rule(north, "allow see")
    number = _rule(north, f"allow fetch patient={patient}")
    await RecipientMade(north, SOUTH).fetch()
    _remove(north, number)
    _rule(north, f"allow fetch patient=SOMEBODY@ELSE accession={patient}")
    await RecipientMade(north, SOUTH).fetch()
    assert entries(north, "disclosure-begun")
    assert entries(north, "refused")
    before = [one for _, one in north.audit.evidence.openings(north.audit.size)]
    assert sum(one.kind == "facts" and patient in one.value for one in before) == 2
    erase(north.audit, kind, study if kind == "study" else patient, north.forget)
    after = [one for _, one in north.audit.evidence.openings(north.audit.size)]
    assert not any(one.kind == "facts" for one in after)


# --- explained later --------------------------------------------------------------------


def _moment(node: Node) -> str:
    moment = datetime.datetime.fromtimestamp(node.clock.now(), datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _pair(node: Node, purposes: frozenset[str], seconds: int | None) -> None:
    now = node.clock.now()
    terms = Terms(purposes, None if seconds is None else now + seconds)
    card = SOUTH.card
    node.peers.add(card.encoded, card.fingerprint, ["fetch"], "South Clinic", now, terms)


def test_what_was_decided_then_is_explained_so_today(north: Node) -> None:
    far = (TODAY + datetime.timedelta(days=5)).strftime("%Y-%m-%d")
    steps = [
        lambda: None,
        lambda: north.peers.grant("South Clinic", ["see", "fetch"]),
        lambda: _rule(north, "deny fetch modality=CT"),
        lambda: _remove(north, 1),
        lambda: north.peers.revoke("South Clinic", ["fetch"], north.clock.now()),
        lambda: _rule(north, f"allow fetch max-age={AGE + 4}d purpose=TREAT"),
        lambda: _rule(north, "allow fetch studies-a-day=1"),
        lambda: trio.run(RecipientMade(north, SOUTH).fetch),
        lambda: _rule(north, f"ask fetch until={far}"),
        lambda: north.peers.revoke("South Clinic", [], north.clock.now()),
        lambda: SOUTH.pair(north, "see"),
        lambda: _rule(north, "allow fetch purpose=HRESCH"),
        lambda: _pair(north, frozenset({"research"}), None),
        lambda: _pair(north, frozenset({"treatment"}), round(3 * DAY / 4)),
        lambda: None,
        lambda: _pair(north, frozenset(), 10 * DAY),
    ]
    decided = []
    for step in steps:
        step()
        for purpose in ("treatment", "research"):
            asked = {"peer": "South Clinic", "study": STUDY, "purpose": purpose}
            decided.append((asked, _moment(north), _answer(north, "trust.explain", **asked)))
        _move(north, DAY / 2)
    assert {found["verdict"] for _, _, found in decided} == {"yes", "ask", "no"}
    assert {found["told"] for _, _, found in decided} >= {"", "not_granted", "purpose_not_allowed"}
    for asked, moment, found in decided:
        again = _answer(north, "trust.explain", **asked, at=moment)
        for key in ("verdict", "answer", "decides", "told", "left", "rights"):
            assert again[key] == found[key], (asked, moment, key)


@pytest.mark.parametrize("cut", CUTS)
async def test_a_transfer_that_stands_still_ends_at_once(north: Node, cut: str) -> None:
    """Also when the recipient takes nothing, so that no batch asks for the right anew."""
    end = (TODAY + datetime.timedelta(days=1)).strftime("%Y-%m-%d")
    _rule(north, "allow see")
    _rule(north, f"allow fetch modality=CT until={end}")
    sender = sender_of(north)

    async def stand_still(_: RecipientTransfer, stream: PeerStream) -> None:
        await sender.stop_ended(facility_key=SOUTH.key)
        assert sender.sessions(SOUTH.key) == 1, "its right has not ended"
        CUTS[cut](north)
        await sender.stop_ended(facility_key=SOUTH.key)
        # The source ends the stream.
        while True:
            await stream.read(timeout_seconds=10)

    recipient = RecipientMade(north, SOUTH, at={ManifestArrived: stand_still})
    await recipient.fetch(sender)
    assert not recipient.heard(BatchArrived)
    [failed] = entries(north, "disclosure-failed")
    assert "rule" in failed["details"]["why"]


@pytest.mark.parametrize("effect", ["allow", "deny", "ask"])
def test_a_rule_that_has_ended_already_is_not_taken(north: Node, effect: str) -> None:
    """Who mistypes the year of a rule that denies must not believe that it denies."""
    today = datetime.datetime.fromtimestamp(north.clock.now(), datetime.UTC)
    before = len(north.peers.find("South Clinic").rules)
    for days, is_taken in ((-1, False), (0, True)):
        end = (today + datetime.timedelta(days=days)).strftime("%Y-%m-%d")
        rule = [effect, "fetch", f"until={end}"]
        if is_taken:
            _answer(north, "rules.add", peer="South Clinic", rule=rule)
        else:
            with pytest.raises(NodeError, match="has ended already"):
                _answer(north, "rules.add", peer="South Clinic", rule=rule)
        assert len(north.peers.find("South Clinic").rules) == before + is_taken
