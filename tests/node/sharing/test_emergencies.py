"""Break-glass at the source and at the asking node: entries, limits, alerts, and the review."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import exchange_pair
import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study
from recipient_made import RecipientMade
from two_in_memory import two_nodes

from keys.trust import Peer
from node.alerts import alerts_of, waiting_persons
from node.app import Node
from node.callers import SERVICE, Caller, asked_by
from node.config import EmergencySettings
from node.errors import ExitCode, NodeError
from node.home import Home
from node.sharing.emergencies import IN, NOTE_CHARACTERS, OUT, REVIEW_SECONDS
from node.sharing.offered import require_fit
from node.sharing.offering import decide_send
from node.transfer.lately import DAY_MS
from protocol.errors import WireCode
from protocol.log.entry import Event
from protocol.messages import Request
from protocol.offers import ACCEPTED, DECLINED
from protocol.transfer import BatchArrived, Countersigned, ManifestArrived

STUDY = exchange_pair.STUDY
SOUTH = Other("South Clinic", MadeClock().now())
REASON = "life-threatening: bleeding"
ASKER = {"person": "Dr. B. Beispiel", "role": "emergency", "reason": REASON}
RULE = "allow emergency"
REVIEWER = Caller("person", "c.pruefer", role="audit", person="p2")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North", clock=MadeClock())


@pytest.fixture
def north(home: Home) -> Iterator[Node]:
    with Node.open(home) as node:
        _prepare(node)
        yield node


def _prepare(node: Node, rule: str = RULE) -> None:
    publish_study(node, instances=3)
    SOUTH.pair(node)
    node.peers.add_rule("South Clinic", rule.split(), node.facts.blind)


async def _asks(
    node: Node, transfer: bytes = exchange_pair.TRANSFER, purpose: str = "BTG", **ask: str
) -> RecipientMade:
    recipient = RecipientMade(node, SOUTH, transfer=transfer, purpose=purpose, ask={**ASKER, **ask})
    await recipient.fetch()
    return recipient


def _move(node: Node, seconds: int) -> None:
    clock = node.clock
    assert isinstance(clock, MadeClock)
    clock.move(seconds)


def _set(node: Node, **settings: bool) -> None:
    node.emergencies.settings = EmergencySettings(**settings)


def _kinds(node: Node) -> list[str]:
    wanted = ("requested", "refused", "disclosure-begun", "disclosed", "disclosure-failed")
    ours = ("emergency-begun", "emergency-ended", "emergency-overdue", "emergency-reviewed")
    return [entry["type"] for entry in entries(node, *wanted, *ours)]


def _review(node: Node, caller: Caller = REVIEWER, number: int = 1) -> None:
    node.emergencies.review(number, "justified", "the patient bled", caller)


# --- at the source ----------------------------------------------------------------------


async def test_the_source_gives_it_alerts_and_waits_for_a_review(
    north: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Without `see` and `fetch`; the entry comes before the first byte."""
    assert (await _asks(north)).heard(Countersigned)
    assert _kinds(north) == [
        "emergency-begun", "requested", "disclosure-begun", "disclosed", "emergency-ended",
    ]  # fmt: skip
    [one] = north.emergencies.open()
    assert (one.number, one.direction, one.study) == (1, OUT, STUDY)
    assert one.ended is not None
    assert any(f"emergency 1: South Clinic asked us for study {STUDY}" in alert
               for alert in alerts_of(north, None))  # fmt: skip
    assert waiting_persons(north) == {"reviews": 1}
    [line] = [one.getMessage() for one in caplog.records if one.name == "radmesh.emergencies"]
    assert "South Clinic asked" in line
    for secret in (STUDY, ASKER["person"], REASON):
        assert secret not in line
    # For any other purpose it still has no right.
    assert (await _asks(north, bytes(16), "treatment")).refused is WireCode.NOT_GRANTED


async def test_who_asked_and_why_are_an_opening(north: Node) -> None:
    await _asks(north)
    [entry] = entries(north, "emergency-begun")
    found = [north.audit.opening_of(one["commitment"]) for one in entry["subjects"]]
    told = {one.kind: one.value for one in found if one is not None}
    assert told["asker"] == "^^^".join(ASKER.values())
    assert told["study"] == STUDY
    assert entry["purpose"] == "BTG"
    log = b"".join(north.audit.entries())
    assert ASKER["person"].encode() not in log
    assert REASON.encode() not in log


@pytest.mark.parametrize("reason", ["", "too short", "  ten blanks? "[:9]])
async def test_without_a_reason_it_is_refused(north: Node, reason: str) -> None:
    assert (await _asks(north, reason=reason)).refused is WireCode.NOT_GRANTED
    assert _kinds(north) == ["requested", "refused"]
    assert north.emergencies.all() == []
    [refused] = entries(north, "refused")
    assert "needs a reason" in refused["details"]["why"]


def _disclosed(node: Node, study: str, purpose: str) -> None:
    node.audit.append(
        Event(
            type="disclosure-begun",
            peer=SOUTH.key,
            purpose=purpose,
            subjects=(("study", study),),
            details={"bytes": 1},
        )
    )


def test_the_fourth_of_a_day_is_refused_also_after_a_restart(home: Home) -> None:
    with Node.open(home) as node:
        _prepare(node)
        for number in range(5):
            _disclosed(node, f"1.2.{number}", "TREAT")
        # Only emergencies count here.
        assert trio.run(_asks, node).refused is None
        for number in range(2):
            _disclosed(node, f"1.3.{number}", "BTG")
        # The same study again is no further one.
        assert trio.run(_asks, node).refused is None
    for _ in range(2):
        with Node.open(home) as node:
            assert node.lately.with_this(SOUTH.key, "1.9", 1, "emergency")["studies-a-day"] == 4
            assert node.lately.with_this(SOUTH.key, "1.9", 1)["studies-a-day"] == 6
    with Node.open(home) as node:
        _disclosed(node, "1.3.7", "BTG")
        _move(node, DAY_MS // 1000 - 1)
        for number in range(3):
            _disclosed(node, f"1.4.{number}", "BTG")
        _move(node, 2)
        assert trio.run(_asks, node).refused is WireCode.NOT_GRANTED
        assert "studies-a-day=3" in entries(node, "refused")[-1]["details"]["why"]
        _move(node, DAY_MS // 1000)
        assert trio.run(_asks, node).refused is None


@pytest.mark.parametrize("over", [False, True])
async def test_an_objection_holds_unless_the_setting_says_otherwise(
    north: Node, over: bool
) -> None:
    north.wishes.add("objection", "MARKER-PATIENT-ID", "", SOUTH.key, "care")
    _set(north, over_objections=over)
    told = (await _asks(north)).refused
    assert told is (None if over else WireCode.NOT_AVAILABLE)
    assert len(north.emergencies.open()) == over
    # For treatment it holds in any case.
    north.peers.add_rule("South Clinic", ["allow", "see"], north.facts.blind)
    north.peers.add_rule("South Clinic", ["allow", "fetch"], north.facts.blind)
    assert (await _asks(north, bytes(16), "treatment")).refused is WireCode.NOT_AVAILABLE


@pytest.mark.parametrize("withheld", [False, True])
async def test_a_withheld_study_only_by_a_rule_that_says_so(home: Home, withheld: bool) -> None:
    with Node.open(home) as node:
        _prepare(node, RULE + (" withheld=yes" if withheld else ""))
        node.shared_studies.withdraw(STUDY)
        told = (await _asks(node)).refused
        assert told is (None if withheld else WireCode.NOT_AVAILABLE)
        assert len(node.emergencies.open()) == withheld
        # What this peer alone may not have, it does not get in an emergency either.
        node.shared_studies.withdraw_from(STUDY, node.peers.find("South Clinic"))
        assert (await _asks(node, bytes(16))).refused is WireCode.NOT_AVAILABLE


async def test_a_session_that_breaks_off_is_over_and_goes_on_under_the_same_number(
    north: Node,
) -> None:
    async def hang_up(*_: object) -> None:
        raise RuntimeError("away")

    recipient = RecipientMade(north, SOUTH, purpose="BTG", ask=ASKER, at={BatchArrived: hang_up})
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True, allow_unwrapped=True):
        await recipient.fetch()
    [one] = north.emergencies.open()
    north.emergencies.end_interrupted(())
    assert (await _asks(north)).heard(Countersigned)
    [same] = north.emergencies.open()
    assert (same.number, same.begun) == (one.number, one.begun)
    assert [entry["details"]["number"] for entry in entries(north, "emergency-begun")] == [1, 1]
    assert [
        bool(entry["details"].get("broken_off")) for entry in entries(north, "emergency-ended")
    ] == [True, False]


async def test_one_transfer_name_does_not_hide_a_second_emergency(north: Node) -> None:
    await _asks(north)
    _review(north)
    await _asks(north)
    assert [one.number for one in north.emergencies.all()] == [2, 1]
    assert [one.is_open for one in north.emergencies.all()] == [True, False]


@pytest.mark.slow
async def test_a_peer_cannot_fill_the_list_of_reviews(north: Node) -> None:
    for number in range(5):
        assert (await _asks(north, bytes([number]) * 16)).heard(ManifestArrived)
    [one] = north.emergencies.open()
    assert (one.number, one.transfer) == (1, bytes([4]) * 16)
    begun = [entry["details"] for entry in entries(north, "emergency-begun")]
    assert [each["number"] for each in begun] == [1] * 5
    assert len({each["transfer"] for each in begun}) == 5


def test_an_offer_is_no_way_to_break_the_glass(north: Node) -> None:
    south = SOUTH.pair(north, "send")
    now = north.clock.now()
    assert decide_send(north.peers, south, "TREAT", now)[0] == ACCEPTED
    assert decide_send(north.peers, south, "BTG", now)[0] == DECLINED
    with pytest.raises(NodeError, match="not for an offer"):
        require_fit("BTG", "", now, now + 60)


# --- the review -------------------------------------------------------------------------


async def test_a_review_closes_it_once_with_a_note_that_can_be_erased(home: Home) -> None:
    with Node.open(home) as node:
        _prepare(node)
        await _asks(node)
    with Node.open(home) as node:
        _review(node)
        assert node.emergencies.open() == []
        assert waiting_persons(node) == {}
        assert not any("emergency" in alert for alert in alerts_of(node, None))
        [entry] = entries(node, "emergency-reviewed")
        assert (entry["details"]["verdict"], entry["actor"]) == ("justified", "operator")
        found = [node.audit.opening_of(one["commitment"]) for one in entry["subjects"]]
        assert ("note", "the patient bled") in [(one.kind, one.value) for one in found if one]
        assert b"the patient bled" not in b"".join(node.audit.entries())
        # Who asked and why are not kept twice.
        assert [one.asker for one in node.emergencies.all()] == [""]
        with pytest.raises(NodeError, match="no emergency 1 waits"):
            _review(node)
    with Node.open(home) as node:
        assert node.emergencies.open() == []
        node.forget([STUDY])
        assert node.emergencies.all() == []


@pytest.mark.parametrize(
    ("outcome", "note"),
    [
        ("fine", "x"),
        ("justified", ""),
        ("justified", "  "),
        ("justified", "a\nb"),
        ("justified", "x" * (NOTE_CHARACTERS + 1)),
    ],
)
async def test_a_review_in_wrong_words_changes_nothing(
    north: Node, outcome: str, note: str
) -> None:
    await _asks(north)
    with pytest.raises(NodeError) as failed:
        north.emergencies.review(1, outcome, note, REVIEWER)
    assert failed.value.code is ExitCode.USAGE
    assert len(north.emergencies.open()) == 1


def test_each_side_has_its_own_and_reviews_it_alone(tmp_path: Path) -> None:
    """And who did it cannot review it, by name or by place in the list."""
    doctor = Caller("person", "b.beispiel", role="emergency", display="Dr. B.", person="p1")
    with two_nodes(tmp_path) as two:
        publish_study(two.north, instances=3)
        two.north.peers.add_rule("South", RULE.split(), two.north.facts.blind)
        with asked_by(doctor):
            assert two.fetch(STUDY, "BTG", REASON)
        north, south = two.north, two.south
        begun = entries(south, "emergency-begun", "requested")
        assert [entry["type"] for entry in begun] == ["emergency-begun", "requested"]
        [ours], [theirs] = south.emergencies.open(), north.emergencies.open()
        assert (ours.direction, ours.person, ours.study) == (IN, "p1", STUDY)
        assert (theirs.direction, theirs.person) == (OUT, "")
        assert ours.transfer == theirs.transfer
        for caller in (doctor, Caller("person", "b.beispiel", role="audit")):
            if caller is not doctor and ours.person == "p1":
                continue
            with pytest.raises(NodeError, match="was yours"):
                _review(south, caller)
        _review(south)
        assert (len(south.emergencies.open()), len(north.emergencies.open())) == (0, 1)
        _review(north, SERVICE)
        assert north.emergencies.open() == []


# --- overdue ----------------------------------------------------------------------------


async def test_after_72_hours_it_is_said_once_more(home: Home) -> None:
    with Node.open(home) as node:
        _prepare(node)
        await _asks(node)
        _move(node, REVIEW_SECONDS - 60)
        assert not node.emergencies.is_any_overdue()
        assert not any("OVERDUE" in alert for alert in alerts_of(node, None))
        _move(node, 60)
        assert node.emergencies.is_any_overdue()
    with Node.open(home) as node:
        _move(node, REVIEW_SECONDS)
        assert node.emergencies.is_any_overdue()
        for _ in range(3):
            node.emergencies.say_overdue()
        assert not node.emergencies.is_any_overdue()
        assert len(entries(node, "emergency-overdue")) == 1
        assert any("OVERDUE" in alert for alert in alerts_of(node, None))
        # Nothing rests where nobody has set so.
        assert (await _asks(node, b"n" * 16)).heard(ManifestArrived)
        assert node.emergencies.why_rests(IN) == ""


async def test_the_name_of_a_transfer_that_goes_on_is_no_key_to_another_study(
    north: Node,
) -> None:
    _set(north, rest_until_reviewed=True)
    await _asks(north)
    _move(north, REVIEW_SECONDS)
    begun = Request(
        transfer=exchange_pair.TRANSFER, source=bytes(32), study=STUDY, purpose="BTG",
        ephemeral=bytes(32), time=0,
    )  # fmt: skip
    assert north.emergencies.why_rests(OUT, SOUTH.key, begun) == ""
    other = replace(begun, study="1.2.3")
    assert north.emergencies.why_rests(OUT, SOUTH.key, other) == (
        "the review of emergency 1 is overdue"
    )


async def test_an_erasure_forgets_the_study_and_the_review_still_waits(north: Node) -> None:
    await _asks(north)
    _review(north)
    await _asks(north, bytes(16))
    north.forget([STUDY])
    [one] = north.emergencies.all()
    assert (one.number, one.study, one.asker) == (2, "", "")
    assert any("was erased" in alert for alert in alerts_of(north, None))
    _review(north, number=2)
    assert north.emergencies.open() == []


@pytest.mark.slow
async def test_where_it_is_set_so_access_rests_until_it_is_reviewed(north: Node) -> None:
    _set(north, rest_until_reviewed=True)
    await _asks(north)
    _move(north, REVIEW_SECONDS - 1)
    assert (await _asks(north, b"2" * 16)).heard(ManifestArrived)
    _move(north, 1)
    assert (await _asks(north, b"3" * 16)).refused is WireCode.NOT_GRANTED
    assert entries(north, "refused")[-1]["details"]["why"] == (
        "the review of emergency 1 is overdue"
    )
    # What has begun goes on, and the own side does not rest for what the other did.
    assert (await _asks(north, b"2" * 16)).heard(ManifestArrived)
    assert north.emergencies.why_rests(IN) == ""
    _review(north)
    assert (await _asks(north, b"3" * 16)).heard(ManifestArrived)


# --- kill -9 ----------------------------------------------------------------------------

_CHILD = """
import os, signal, sys
from pathlib import Path
import trio
import exchange_pair, test_emergencies as here
from clocks_made import MadeClock
from node.app import Node
from node.home import Home
from node.transfer import transfers

place, when = Path(sys.argv[1]), sys.argv[2]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def dies_at(kind, append):
    return lambda events: die() if any(one.type == kind for one in events) else append(events)

async def die_soon(*_, **__):
    die()

if when.startswith("out"):
    with Node.open(Home(place / "north", clock=MadeClock())) as node:
        here._prepare(node)
        if when == "out entry":
            node.effects.of = die
        elif when == "out effect":
            node.audit.append_many = dies_at("disclosure-begun", node.audit.append_many)
        else:
            node.transfers.enter = die_soon
        trio.run(here._asks, node)
else:
    with here.two_nodes(place) as two:
        here.publish_study(two.north, instances=3)
        two.north.peers.add_rule("South", here.RULE.split(), two.north.facts.blind)
        if when == "in entry":
            two.south.effects.of = die
        else:
            two.south.audit.append_many = dies_at("requested", two.south.audit.append_many)
        two.fetch(here.STUDY, "BTG", here.REASON)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["out entry", "out effect", "out begun", "in entry", "in request"])
def test_a_kill_between_entry_and_first_byte_leaves_it_open(tmp_path: Path, when: str) -> None:
    """Never a byte without an emergency that waits; rather one that waits without a byte.

    An entry without effect is followed by one that says so: nobody had the study.
    """
    name = "north" if when.startswith("out") else "south"
    if name == "north":
        Home.create(tmp_path / "north", name="North", clock=MadeClock())
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path), when],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    with Node.open(Home(tmp_path / name, clock=MadeClock())) as node:
        began = [entry["outcome"] for entry in entries(node, "emergency-begun")]
        if when.endswith("entry"):
            assert (began, node.emergencies.all()) == (["success", "failed"], [])
            assert not entries(node, "requested", "disclosure-begun")
            return
        [one] = node.emergencies.open()
        assert (one.study, one.direction) == (STUDY, when.partition(" ")[0])
        assert REASON in one.asker
        assert began == ["success"]
        node.clean_up()
        # Ours goes on where the node still asks for it.
        goes_on = when == "in request" and bool(node.transfers.unfinished_incoming())
        assert len(entries(node, "emergency-ended")) == (not goes_on)
        _review(node)
    with Node.open(Home(tmp_path / name, clock=MadeClock())) as node:
        assert node.emergencies.open() == []


def test_a_second_request_of_one_transfer_writes_one_entry(north: Node) -> None:
    peer: Peer = north.peers.find("South Clinic")
    request = Request(
        transfer=bytes(16), source=bytes(32), study=STUDY, purpose="BTG", ephemeral=bytes(32),
        time=0,
    )  # fmt: skip
    for _ in range(3):
        north.emergencies.begin(OUT, peer, request, ("a", "b", REASON), ())
    assert len(entries(north, "emergency-begun")) == 1
