"""Objections and consents: for whom they hold, what is told, and that nothing delays them."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import exchange_pair
import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study, told_to
from hypothesis import given
from hypothesis import strategies as st

from keys import grants
from keys.grants import Yes
from keys.trust import TrustStore
from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import Home
from node.sharing.policy import Refusal, decide_fetch
from node.sharing.wishes import CONSENT, OBJECTION, Standing, Wish
from node.transfer.rereading import Rereading
from protocol.errors import WireCode

STUDY, PATIENT = exchange_pair.STUDY, "MARKER-PATIENT-ID"
SOUTH = Other("South Clinic", MadeClock().now())
EAST = Other("East Imaging", MadeClock().now())


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        publish_study(node, instances=2)
        for other in (SOUTH, EAST):
            other.pair(node, "see", "fetch")
        yield node


def decided(
    node: Node, purpose: str = "treatment", *, study: str = STUDY, other: Other = SOUTH
) -> Refusal | Yes:
    asked = grants.Request(speaks=True, purpose=purpose)
    facts = node.facts.of(node.catalog.study(study), other.key)
    peer = node.peers.find(other.name)
    return decide_fetch(node.peers.store, peer, asked, facts, now=node.clock.now())


def kinds_told(node: Node, other: Other = SOUTH) -> list[str]:
    return [record.kind for record in told_to(node, other)]


def test_a_study_of_a_patient_who_objects_is_no_study_for_the_peer(north: Node) -> None:
    assert isinstance(decided(north), Yes)
    assert kinds_told(north) == ["available"]
    north.wishes.add(OBJECTION, PATIENT, "", SOUTH.key, "all")
    none = decided(north, study="1.2.3")
    refused = decided(north)
    assert isinstance(refused, Refusal)
    assert isinstance(none, Refusal)
    # The sentence is for our log; the peer gets the code.
    assert refused.reason == "the patient objects"
    assert refused.code is none.code is WireCode.NOT_AVAILABLE
    assert kinds_told(north) == []
    # Against one peer only.
    assert isinstance(decided(north, other=EAST), Yes)
    assert kinds_told(north, EAST) == ["available"]
    north.wishes.end(OBJECTION, 1)
    assert isinstance(decided(north), Yes)
    assert kinds_told(north) == ["available"]


def test_an_objection_to_research_leaves_care(north: Node) -> None:
    north.wishes.add(OBJECTION, PATIENT, "", b"", "research")
    assert isinstance(decided(north, "treatment"), Yes)
    for purpose in ("research", "HRESCH", "CLINTRCH", "MLTRAINING"):
        assert isinstance(decided(north, purpose), Refusal), purpose
    assert kinds_told(north) == ["available"]


def test_an_objection_to_care_leaves_research_to_who_does_nothing_else(north: Node) -> None:
    north.wishes.add(OBJECTION, PATIENT, "", b"", "care")
    for purpose in ("treatment", "operations", "TREAT", "PATRQT", "research"):
        assert isinstance(decided(north, purpose), Refusal), purpose
    assert kinds_told(north) == []
    peer = replace(north.peers.find("East Imaging"), purposes=frozenset({"HRESCH"}))
    north.peers._store = TrustStore([peer], bytes(32))
    assert isinstance(decided(north, "research", other=EAST), Yes)
    north.feeds.peer_changed(EAST.key)
    assert kinds_told(north, EAST) == ["available"]


def test_it_holds_for_a_study_that_comes_later(tmp_path: Path) -> None:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        SOUTH.pair(node, "see", "fetch")
        node.wishes.add(OBJECTION, PATIENT, "", b"", "all")
        publish_study(node, instances=2)
        assert kinds_told(node) == []
        assert isinstance(decided(node), Refusal)
        announced = [entry for entry in entries(node) if entry["type"] == "announced"]
        assert announced == []


def test_it_holds_when_reading_a_study_again_finds_the_patient(north: Node) -> None:
    """As after a release that took the patient from one image only."""

    def forget(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM study_patients")
        connection.execute("INSERT INTO unread_studies VALUES (?)", (STUDY,))

    north.database.transact(forget)
    north.wishes.add(OBJECTION, PATIENT, "", b"", "all")
    told = north.feeds.pending(SOUTH.key, bytes(16), 0)
    assert [record.kind for record in told.records] == ["available"]
    north.feeds.mark_told(SOUTH.key, told.records)
    assert trio.run(Rereading(north.catalog, north.store, north.audit.append).read, STUDY)
    news = north.feeds.pending(SOUTH.key, told.epoch, told.cursor).records
    assert [record.kind for record in news] == ["withdrawn"]


def test_it_outlives_a_restart_and_its_entry_names_nobody(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "north", name="North", clock=MadeClock())
    with Node.open(home) as node:
        SOUTH.pair(node, "see", "fetch")
        publish_study(node, instances=2)
        noted = node.wishes.add(OBJECTION, PATIENT, "NORTH", SOUTH.key, "all")
        assert node.wishes.add(OBJECTION, PATIENT, "NORTH", SOUTH.key, "all") == noted
    with Node.open(home) as node:
        assert node.wishes.all(OBJECTION) == [noted]
        assert isinstance(decided(node), Refusal)
        [entry] = [entry for entry in entries(node) if entry["type"] == "objection-added"]
        assert entry["details"] == {"number": 1, "uses": "all"}
        assert entry["peer"] == SOUTH.key.hex()
        opening = node.audit.opening_of(entry["subjects"][0]["commitment"])
        assert opening is not None
        assert (opening.kind, opening.value) == ("patient", f"{PATIENT}^^^NORTH")
        assert PATIENT.encode() not in b"".join(node.audit.entries())


def test_a_full_disk_does_not_delay_it(north: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise NodeError("the audit log cannot be written", code=ExitCode.DISK)

    with monkeypatch.context() as patch:
        patch.setattr(north.audit, "append", full)
        with pytest.raises(NodeError, match="counts in this process"):
            north.wishes.add(OBJECTION, PATIENT, "", b"", "all")
        assert isinstance(decided(north), Refusal)
        assert north.wishes.unwritten == ("objection 1",)
        # Whoever notes it once more is not told that all is well.
        with pytest.raises(NodeError, match="counts in this process"):
            north.wishes.add(OBJECTION, PATIENT, "", b"", "all")
    north.wishes.write_unwritten()
    assert north.wishes.unwritten == ()
    assert kinds_told(north) == []


def test_what_cannot_be_looked_up_does_not_lose_it(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: str) -> None:
        raise NodeError("the database is damaged", code=ExitCode.NO_HOME)

    with monkeypatch.context() as patch:
        patch.setattr(north.wishes, "on_change", broken)
        north.wishes.add(OBJECTION, PATIENT, "", b"", "all")
    assert isinstance(decided(north), Refusal)
    assert len(north.database.query("SELECT * FROM patient_wishes")) == 1


def test_consent_on_file_is_a_condition(north: Node) -> None:
    for grant in ("fetch",):
        north.peers.revoke("South Clinic", [grant], 0)
    north.peers.add_rule("South Clinic", ["allow", "fetch", "consent=yes"], north.facts.blind)
    assert isinstance(decided(north), Refusal)
    north.wishes.add(CONSENT, PATIENT, "", SOUTH.key, "care")
    assert isinstance(decided(north), Yes)
    assert isinstance(decided(north, "research"), Refusal)
    assert isinstance(decided(north, other=EAST), Yes)
    north.wishes.end(CONSENT, 1)
    assert isinstance(decided(north), Refusal)


@pytest.mark.parametrize(("patient", "uses"), [("", "all"), ("  ", "care"), ("4711", "everything")])
def test_what_is_no_objection_is_refused(north: Node, patient: str, uses: str) -> None:
    with pytest.raises(NodeError, match="objection needs a Patient ID"):
        north.wishes.add(OBJECTION, patient, "", b"", uses)
    with pytest.raises(NodeError, match="there is no objection 1 that holds"):
        north.wishes.end(OBJECTION, 1)


_PATIENTS = st.tuples(st.sampled_from(["4711", "4712"]), st.sampled_from(["", "NORTH", "SOUTH"]))


@given(wish=_PATIENTS, patients=st.lists(_PATIENTS, max_size=3))
def test_an_objection_covers_who_may_be_meant_and_a_consent_who_surely_is(
    wish: tuple[str, str], patients: list[tuple[str, str]]
) -> None:
    wishes = Standing(
        Wish(number, kind, *wish, SOUTH.key, "care", 1)
        for number, kind in ((1, OBJECTION), (2, CONSENT))
    )
    may_be = [
        number == wish[0] and (issuer == wish[1] or "" in (issuer, wish[1]))
        for number, issuer in patients
    ]
    assert bool(wishes.objections(SOUTH.key, patients)) is any(may_be)
    consents = bool(patients) and all(each == wish for each in patients)
    assert bool(wishes.consents(SOUTH.key, patients)) is consents
    assert not wishes.objections(EAST.key, patients)
    assert not wishes.consents(EAST.key, patients)


def test_a_study_of_two_patients_needs_the_consent_of_both(north: Node) -> None:
    both = [(PATIENT, ""), ("4712", "")]
    for patient, uses in ((PATIENT, "all"), ("4712", "research")):
        assert north.wishes.standing.consents(SOUTH.key, both) == frozenset()
        north.wishes.add(CONSENT, patient, "", b"", uses)
    assert north.wishes.standing.consents(SOUTH.key, both) == {"research"}
    north.wishes.end(CONSENT, 2)
    assert north.wishes.standing.consents(SOUTH.key, both) == frozenset()


def test_an_objection_does_not_hang_on_the_case_of_an_issuer(north: Node) -> None:
    north.wishes.add(OBJECTION, "4711", "North", SOUTH.key, "care")
    assert north.wishes.standing.objections(SOUTH.key, [("4711", "NORTH")]) == {"care"}
    assert north.wishes.standing.objections(SOUTH.key, [("4711", "SOUTH")]) == frozenset()
