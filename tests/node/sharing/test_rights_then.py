"""A decision made again from the log: whatever changed since, it is as it was."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
from clocks_made import START_MS, MadeClock
from facility_in_memory import Other, entries
from recipient_made import RecipientMade
from studies_made import make_instance

from keys.card import issue_card
from node.app import Node
from node.audit.erasing import erase
from node.home import Home
from node.operations import OPERATIONS, Call
from node.sharing.peers import Terms

STUDY = exchange_pair.STUDY
SOUTH = Other("South Clinic", START_MS // 1000)
EAST = Other("East Imaging", START_MS // 1000)
DAY = 86_400
GROWN = ["images of the study came or went since: what they say beside the patient is of today"]
COMPARED = (
    "verdict", "answer", "decides", "shows", "rules", "told", "left", "approved", "changes",
    "beyond_rules", "rights",
)  # fmt: skip


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    """A node that took in one study by hand."""
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        node.record_start()
        _ingest(node, tmp_path / "in")
        yield node


def _ingest(node: Node, folder: Path, number: int = 1, **changes: str) -> None:
    made = make_instance(STUDY, number, rows=8)
    for name, value in changes.items():
        setattr(made, name, value)
    folder.mkdir(exist_ok=True)
    made.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    _answer(node, "ingest", paths=[str(folder)])


def _answer(node: Node, operation: str, **parameters: Any) -> dict[str, Any]:
    return dict(trio.run(OPERATIONS[operation].answer, Call(node), parameters))


def _explain(node: Node, **more: Any) -> dict[str, Any]:
    return _answer(node, "trust.explain", peer="South Clinic", study=STUDY, **more)


def _moment(node: Node) -> str:
    moment = datetime.datetime.fromtimestamp(node.clock.now(), datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _move(node: Node, seconds: float) -> None:
    assert isinstance(node.clock, MadeClock)
    node.clock.move(seconds)


def _rule(node: Node, words: str) -> int:
    return node.peers.add_rule("South Clinic", words.split(), node.facts.blind)[1].number


def _trust(node: Node, *grants: str, purposes: str = "", expires: int | None = None) -> None:
    only = frozenset(filter(None, purposes.split(",")))
    terms = Terms(only, None if expires is None else node.clock.now() + expires)
    known = node.find_peer(SOUTH.key)
    card = SOUTH.card if known is None else known.card
    node.peers.add(card.encoded, card.fingerprint, grants, "", node.clock.now(), terms)


def _newer_card(node: Node) -> None:
    now = node.clock.now()
    card = issue_card(
        SOUTH.facility,
        name=SOUTH.name,
        node_key=SOUTH.node.public,
        log_key=SOUTH.log.public,
        witness_key=SOUTH.witness.public,
        addresses=(),
        serial=2,
        issued=now,
        expires=now + 3 * 366 * DAY,
    )
    assert node.peers.take_newer_card(card.encoded, SOUTH.key, now) is not None


def _wish(node: Node, kind: str, uses: str, peer: bytes = b"") -> None:
    [(patient, issuer)] = node.facts.of(node.catalog.study(STUDY), SOUTH.key).patients  # type: ignore[union-attr]
    node.wishes.add(kind, patient, issuer, peer, uses)


def _offer(node: Node, purpose: str) -> None:
    node.offers.make(STUDY, "South Clinic", purpose, "", node.clock.now() + 3 * DAY)


def _ask(node: Node, transfer: bytes) -> None:
    recipient = RecipientMade(node, SOUTH, transfer=transfer, receipt={"transfer": transfer})
    trio.run(recipient.fetch)


def _steps(node: Node, folder: Path) -> list[Callable[[], object]]:
    """Each changes something that decides, or lets a time pass."""
    peers, studies, wishes = node.peers, node.shared_studies, node.wishes
    south = lambda: peers.find("South Clinic")  # noqa: E731
    return [
        lambda: _trust(node),
        lambda: peers.grant("South Clinic", ["see", "fetch"]),
        # Purposes and the end of trust.
        lambda: _trust(node, purposes="research"),
        lambda: _trust(node, purposes="TREAT,HRESCH", expires=4 * DAY),
        lambda: _move(node, 4 * DAY),
        lambda: _trust(node, expires=2000 * DAY),
        # The end of its card.
        lambda: _move(node, 370 * DAY),
        lambda: _newer_card(node),
        # What is shared, and with whom.
        lambda: studies.withdraw_from(STUDY, south()),
        lambda: studies.withdraw(STUDY),
        lambda: studies.share_to(STUDY, south()),
        lambda: studies.share(STUDY),
        lambda: studies.withdraw(STUDY),
        lambda: studies.share(STUDY),
        # What patients want.
        lambda: _wish(node, "objection", "research"),
        lambda: _wish(node, "objection", "all", SOUTH.key),
        lambda: wishes.end("objection", 2),
        lambda: _wish(node, "objection", "all", EAST.key),
        lambda: wishes.end("objection", 1),
        lambda: peers.revoke("South Clinic", ["fetch"], node.clock.now()),
        lambda: _rule(node, "allow fetch consent=yes"),
        lambda: _wish(node, "consent", "research", SOUTH.key),
        lambda: wishes.end("consent", 4),
        lambda: peers.remove_rule("South Clinic", 1),
        # Offers: one that ends by a person, one by its date, one with trust.
        lambda: _offer(node, "treatment"),
        lambda: node.offers.end(1),
        lambda: _offer(node, "research"),
        lambda: _move(node, 3 * DAY),
        lambda: _offer(node, "treatment"),
        lambda: peers.revoke("South Clinic", [], node.clock.now()),
        lambda: _trust(node, "see", "fetch", purposes="treatment"),
        # Approvals: one that is taken back, one that is used, one that ends by its date.
        lambda: _rule(node, "ask fetch"),
        lambda: _ask(node, bytes(16)),
        lambda: node.requests.approve(1),
        lambda: node.requests.deny(1, ""),
        lambda: _ask(node, bytes(15) + b"1"),
        lambda: node.requests.approve(2),
        lambda: _ask(node, bytes(15) + b"1"),
        lambda: _ask(node, bytes(15) + b"2"),
        lambda: node.requests.approve(3, node.clock.now() + DAY),
        # Images of another patient: the study has to be looked at.
        lambda: _ingest(node, folder, 2, PatientID="SOMEBODY-ELSE"),
        lambda: studies.share_to(STUDY, south()),
        lambda: studies.share(STUDY),
        lambda: _rule(node, "allow emergency studies-a-day=3"),
        lambda: peers.revoke("South Clinic", [], node.clock.now()),
    ]


@pytest.mark.slow
def test_what_was_decided_then_is_decided_so_again(north: Node, tmp_path: Path) -> None:
    decided = []
    for number, step in enumerate(_steps(north, tmp_path / "in")):
        step()
        _move(north, 2)
        for purpose in ("treatment", "research", "BTG"):
            for action in ("fetch", "see", "find"):
                asked = {"purpose": purpose, "action": action}
                images = len(entries(north, "ingest"))
                decided.append((number, images, asked, _moment(north), _explain(north, **asked)))
        _move(north, 2)
    assert {found["verdict"] for *_, found in decided} == {"yes", "ask", "no"}
    assert {found["told"] for *_, found in decided} == {
        "", "not_granted", "purpose_not_allowed", "not_available", "waiting",
    }  # fmt: skip
    assert any(found["approved"] for *_, found in decided)
    assert entries(north, "disclosed"), "an approval was used"
    assert any(found["decides"].startswith("offer") for *_, found in decided)
    for number, images, asked, moment, found in decided:
        again = _explain(north, **asked, at=moment)
        for key in COMPARED:
            assert again[key] == found[key], (number, asked, key)
        # Only that the study has grown since.
        assert again["unknown"] == (GROWN if images == 1 else []), number


def test_rights_that_the_log_names_are_those_that_are_found_again(north: Node) -> None:
    _trust(north, "see", "fetch", purposes="treatment,research", expires=300 * DAY)
    _rule(north, "deny fetch modality=XX")
    _ask(north, bytes(16))
    at = _moment(north)
    _move(north, DAY)
    _trust(north, purposes="research", expires=500 * DAY)
    north.peers.remove_rule("South Clinic", 1)
    [begun] = entries(north, "disclosure-begun")
    assert _explain(north, at=at)["rights"] == begun["details"]["rights"]
    assert north.peers.find("South Clinic").rights_digest != begun["details"]["rights"]


def test_each_thing_that_decides_is_in_the_digest(north: Node) -> None:
    digests = set()
    for step in (
        lambda: _trust(north, "see"),
        lambda: _trust(north, purposes="research"),
        lambda: _trust(north, expires=300 * DAY),
        lambda: _newer_card(north),
        lambda: _rule(north, "deny fetch"),
    ):
        step()
        digests.add(north.peers.find("South Clinic").rights_digest)
    assert len(digests) == 5


def test_before_it_came_there_was_no_study(north: Node, tmp_path: Path) -> None:
    _trust(north, "see", "fetch")
    before = _moment(north)
    _move(north, 10)
    other = "1.2.826.0.1.3680043.8.498.77"
    folder = tmp_path / "other"
    folder.mkdir()
    make_instance(other, 1, rows=8).save_as(folder / "1.dcm", enforce_file_format=True)
    _answer(north, "ingest", paths=[str(folder)])
    asked = {"peer": "South Clinic", "study": other}
    assert _answer(north, "trust.explain", **asked)["verdict"] == "yes"
    found = _answer(north, "trust.explain", **asked, at=before)
    assert (found["verdict"], found["told"]) == ("no", "not_available")
    assert found["unknown"] == []


def test_what_is_erased_is_said(north: Node) -> None:
    _trust(north, "see", "fetch")
    at = _moment(north)
    assert _explain(north, at=at)["unknown"] == []
    _move(north, 10)
    north.shared_studies.withdraw(STUDY)
    withdrawn = _moment(north)
    erase(north.audit, "study", STUDY, north.forget)
    _move(north, 10)
    for moment, hidden in ((at, 0), (withdrawn, 1)):
        unknown = " ".join(_explain(north, at=moment)["unknown"])
        assert "how the study came here is not in the log" in unknown
        assert ("openings of 1 entry from before are erased" in unknown) is bool(hidden)


@pytest.mark.parametrize("over", [True, False])
def test_whether_an_emergency_goes_over_an_objection_is_as_it_was(
    north: Node, over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trust(north)
    _rule(north, "allow emergency studies-a-day=3")
    _wish(north, "objection", "all")

    def set_to(value: bool) -> None:
        settings = north.settings.emergency.__class__(over_objections=value)
        monkeypatch.setattr(north.settings.__class__, "emergency", settings, raising=False)
        object.__setattr__(north.settings, "emergency", settings)
        north.record_start()

    set_to(over)
    found = _explain(north, purpose="BTG")
    assert found["verdict"] == ("yes" if over else "no")
    at = _moment(north)
    _move(north, 10)
    set_to(not over)
    assert _explain(north, purpose="BTG")["verdict"] != found["verdict"]
    again = _explain(north, purpose="BTG", at=at)
    assert {key: again[key] for key in COMPARED} == {key: found[key] for key in COMPARED}
