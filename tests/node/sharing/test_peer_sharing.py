"""One study for one peer only, and for all but one: told, fetched, cut, kept, and derived alike."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, available, entries, publish_study, told_to
from hypothesis import given, settings
from hypothesis import strategies as st
from studies_made import make_study
from two_in_memory import TwoNodes, two_nodes

from keys.conditions import NOT_TO_PEER
from keys.grants import Yes
from node.alerts import alerts_of
from node.app import Node
from node.catalog.sharing import effects_for
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError
from node.fsck.check import check_home
from node.home import Home
from node.operations import OPERATIONS, Call
from node.sharing.feeds import Feeds
from protocol.log.entry import Event
from protocol.recalls import RETENTION

NOW = SYSTEM_CLOCK.now()
SOUTH, EAST = Other("South Clinic", NOW), Other("East Imaging", NOW)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North")


@pytest.fixture
def north(home: Home) -> Iterator[Node]:
    with Node.open(home) as node:
        SOUTH.pair(node, "see", "fetch")
        EAST.pair(node, "see", "fetch")
        yield node


def to(node: Node, study: str, other: Other = SOUTH) -> None:
    node.shared_studies.share_to(study, node.peers.find(other.name))


def withdraw_from(node: Node, study: str, other: Other = SOUTH) -> None:
    node.shared_studies.withdraw_from(study, node.peers.find(other.name))


def sees(node: Node, *others: Other) -> list[bool]:
    """Whether the real announcer tells each of anything, and whether it may fetch what is told."""
    found = []
    for other in others or (SOUTH, EAST):
        told = available(told_to(node, other))
        rows = [row for row in node.catalog.studies() if row.study_uid in told]
        assert all(may_fetch(node, row.study_uid, other) for row in rows)
        found.append(bool(told))
    return found


def may_fetch(node: Node, study: str, other: Other) -> bool:
    from keys.grants import Request

    facts = node.facts.of(node.catalog.study(study), other.key)
    asked = Request(speaks=True, purpose="treatment")
    answer = node.peers.store.may("fetch", other.key, NOW, facts=facts, request=asked)
    return isinstance(answer, Yes)


def call(node: Node, operation: str, **parameters: object) -> dict[str, object]:
    result = trio.run(OPERATIONS[operation].answer, Call(node), parameters)
    assert isinstance(result, dict)
    return result


def full(event: Event) -> int:
    raise NodeError("the disk is full", code=ExitCode.DISK)


# --- told and not told -----------------------------------------------------------------


def test_a_withheld_study_is_for_one_peer_alone(north: Node) -> None:
    study = publish_study(north, instances=1)
    north.shared_studies.withdraw(study)
    assert sees(north) == [False, False]
    to(north, study)
    assert sees(north) == [True, False]
    assert not may_fetch(north, study, EAST)
    [entry] = entries(north, "shared-to")
    assert entry["peer"] == SOUTH.key.hex()
    assert [one["kind"] for one in entry["subjects"]] == ["study", "patient"]
    # For all others it is withheld, as before.
    assert north.catalog.find_study(study).state == "withheld"
    withdraw_from(north, study)
    assert sees(north) == [False, False]


def test_a_shared_study_is_not_for_one_peer(north: Node) -> None:
    study = publish_study(north, instances=1)
    assert sees(north) == [True, True]
    withdraw_from(north, study)
    assert sees(north) == [False, True]
    assert not may_fetch(north, study, SOUTH)
    assert entries(north, "withdrawn-from")[0]["peer"] == SOUTH.key.hex()
    # Also when it is shared again.
    north.shared_studies.withdraw(study)
    north.shared_studies.share(study)
    assert sees(north) == [False, True]
    to(north, study)
    assert sees(north) == [True, True]
    assert not effects_for(north.database, SOUTH.key, [study])


def test_the_peer_hears_that_it_is_gone(north: Node) -> None:
    study = publish_study(north, instances=1)
    told = north.feeds.pending(SOUTH.key, bytes(16), 0)
    north.feeds.mark_told(SOUTH.key, told.records)
    withdraw_from(north, study)
    news = north.feeds.pending(SOUTH.key, told.epoch, told.cursor)
    assert [(one.kind, one.study) for one in news.records] == [("withdrawn", study)]
    assert available(told_to(north, EAST)) == {study}


def test_it_needs_the_rights_as_always(north: Node) -> None:
    study = publish_study(north, instances=1)
    north.shared_studies.withdraw(study)
    to(north, study)
    north.peers.revoke("South Clinic", ["see"], NOW)
    assert sees(north) == [False, False]
    north.peers.grant("South Clinic", ["see"])
    assert sees(north) == [True, False]
    north.peers.add_rule("South Clinic", ["deny", "see", "modality=CT"], north.facts.blind)
    assert sees(north) == [False, False]


def test_what_is_so_already_is_no_entry(north: Node) -> None:
    study = publish_study(north, instances=1)
    size = north.audit.size
    to(north, study)
    assert north.audit.size == size, "it is shared with all"
    withdraw_from(north, study)
    withdraw_from(north, study)
    assert north.audit.size == size + 1
    to(north, study)
    to(north, study)
    assert north.audit.size == size + 2


def test_withdrawn_is_withdrawn_from_the_one_peer_too(north: Node) -> None:
    study = publish_study(north, instances=1)
    north.shared_studies.withdraw(study)
    to(north, study)
    size = north.audit.size
    north.shared_studies.withdraw(study)
    assert [one["type"] for one in entries(north)[size:]] == ["withdrawn"]
    assert sees(north) == [False, False]
    size = north.audit.size
    north.shared_studies.withdraw(study)
    assert north.audit.size == size


def test_it_ends_with_trust_and_does_not_come_back(north: Node) -> None:
    study = publish_study(north, instances=1)
    north.shared_studies.withdraw(study)
    to(north, study)
    withdraw_from(north, study, EAST)
    for other in (SOUTH, EAST):
        north.peers.revoke(other.name, [], NOW)
    with pytest.raises(NodeError, match="was revoked") as caught:
        to(north, study)
    assert caught.value.code is ExitCode.REFUSED
    for other in (SOUTH, EAST):
        other.pair(north, "see", "fetch")
    assert sees(north) == [False, False]
    north.shared_studies.share(study)
    assert sees(north) == [True, False], "what one may not have stays so"


def test_a_peer_that_is_revoked_meanwhile_gets_nothing(north: Node) -> None:
    study = publish_study(north, instances=1)
    north.shared_studies.withdraw(study)
    known = north.peers.find(SOUTH.name)
    append = north.audit.append

    def revoke_first(event: Event) -> int:
        written = append(event)
        if event.type == "shared-to" and event.outcome == "success":
            north.peers.revoke(SOUTH.name, [], NOW)
        return written

    with patch.object(north.audit, "append", revoke_first), pytest.raises(NodeError):
        north.shared_studies.share_to(study, known)
    assert [one["outcome"] for one in entries(north, "shared-to")] == ["success", "failed"]
    SOUTH.pair(north, "see", "fetch")
    assert sees(north) == [False, False]


def test_a_study_that_comes_again_is_still_not_for_the_peer(north: Node) -> None:
    study = publish_study(north, instances=1)
    withdraw_from(north, study)
    north.shared_studies.withdraw(study)
    to(north, study, EAST)
    north.discards.discard(study, RETENTION)
    publish_study(north, instances=1)
    assert sees(north) == [False, True]
    north.shared_studies.withdraw(study)
    assert sees(north) == [False, False], "what one alone could have is over with the study"


def test_what_has_to_be_looked_at_is_not_for_the_one_peer_either(
    north: Node, tmp_path: Path
) -> None:
    study = make_study(tmp_path / "a", 1, rows=4)
    call(north, "ingest", paths=[str(tmp_path / "a")])
    north.shared_studies.withdraw(study)
    to(north, study)
    assert sees(north) == [True, False]
    north.sharing_rules.add(["check", "modality=CT"])
    make_study(tmp_path / "b", 1, study=study, rows=4, first=2)
    call(north, "ingest", paths=[str(tmp_path / "b")])
    assert north.catalog.find_study(study).state == "to check"
    assert sees(north) == [False, False]
    # Whoever shares it with the peer has looked at it.
    to(north, study)
    row = north.catalog.find_study(study)
    assert (row.state, row.to_check) == ("withheld", "")
    assert sees(north) == [True, False]


def test_it_is_shown_and_explained(north: Node) -> None:
    study = publish_study(north, instances=1)
    withdraw_from(north, study)
    found = call(north, "trust.explain", peer="South Clinic", study=study)
    assert found["answer"] == "the study is withdrawn from this peer"
    assert "--to" in str(found["beyond_rules"])
    # The peer is told what it is told of a study that does not exist.
    assert found["told"] == "not_available"
    assert call(north, "trust.explain", peer="East Imaging", study=study)["allowed"]
    [listed] = call(north, "studies")["studies"]  # type: ignore[misc]
    assert listed["withdrawn_from"] == ["South Clinic"]
    who = call(north, "trust.who", study=study)["peers"]
    assert [(one["peer"], one["fetch"]) for one in who] == [  # type: ignore[attr-defined]
        ("East Imaging", "yes"),
        ("South Clinic", "no"),
    ]
    north.shared_studies.withdraw(study)
    assert call(north, "share", study=study, peer="East Imaging")["shared_to"] == ["East Imaging"]


# --- the cut ---------------------------------------------------------------------------


def test_on_a_full_disk_the_peer_is_cut_off_and_it_is_written_when_there_is_room(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = publish_study(north, instances=1)
    with monkeypatch.context() as disk:
        disk.setattr(north.audit, "append", full)
        with pytest.raises(NodeError, match="held back") as caught:
            withdraw_from(north, study)
        assert caught.value.code is ExitCode.DISK
        facts = north.facts.of(north.catalog.study(study), SOUTH.key)
        assert facts is not None
        assert facts.state == NOT_TO_PEER
        assert not may_fetch(north, study, SOUTH)
        assert may_fetch(north, study, EAST)
        [alert] = [one for one in alerts_of(north, None) if "held back" in one]
        assert f"study {study} from South Clinic" in alert
    assert sees(north) == [False, True]
    # A withdrawal from all is not taken for the one that is unwritten.
    north.shared_studies.withdraw(study)
    assert [one["type"] for one in entries(north)][-2:] == ["withdrawn-from", "withdrawn"]
    assert north.shared_studies.unwritten == ()
    assert not north.catalog.is_held_back(study, SOUTH.key)
    assert sees(north) == [False, False]


def test_after_a_restart_all_is_as_it_was(home: Home) -> None:
    with Node.open(home) as node:
        SOUTH.pair(node, "see")
        EAST.pair(node, "see")
        study = publish_study(node, instances=1)
        node.shared_studies.withdraw(study)
        to(node, study)
    with Node.open(home) as node:
        node.clean_up()
        assert [available(told_to(node, one)) for one in (SOUTH, EAST)] == [{study}, set()]
        node.shared_studies.share(study)
        withdraw_from(node, study)
    with Node.open(home) as node:
        node.clean_up()
        assert [available(told_to(node, one)) for one in (SOUTH, EAST)] == [set(), {study}]


def test_what_the_log_says_of_one_peer_is_made_true_for_this_one_alone(home: Home) -> None:
    """As from a backup of the database that is older than the log."""
    with Node.open(home) as node:
        SOUTH.pair(node, "see", "fetch")
        EAST.pair(node, "see", "fetch")
        study = publish_study(node, instances=1)
        row = node.catalog.find_study(study)
        event = node.shared_studies._event("withdrawn-from", row, peer=SOUTH.key)
        node.audit.append(event)
    with Node.open(home) as node:
        assert effects_for(node.database, SOUTH.key, [study]) == {study: "withheld"}
        assert node.catalog.find_study(study).state == "shared"
        assert may_fetch(node, study, EAST)


# --- fetched for real ------------------------------------------------------------------


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    with two_nodes(tmp_path) as made:
        yield made


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_fetch_follows_what_holds_for_the_peer(nodes: TwoNodes, is_shared: bool) -> None:
    study = publish_study(nodes.north, instances=2)
    south = nodes.north.peers.find("South")
    if is_shared:
        nodes.north.shared_studies.withdraw_from(study, south)
        assert not nodes.fetch(study)
        [refused] = entries(nodes.north, "refused")
        assert refused["details"]["why"] == "the study is withdrawn from this peer"
        nodes.north.shared_studies.share_to(study, south)
    else:
        nodes.north.shared_studies.withdraw(study)
        assert not nodes.fetch(study)
        nodes.north.shared_studies.share_to(study, south)
    assert nodes.fetch(study)
    assert len(entries(nodes.north, "disclosed")) == 1


# --- feeds equal the rights, whatever happens ------------------------------------------

ACTS: dict[str, Callable[[Node, str], object]] = {
    "share": lambda node, study: node.shared_studies.share(study),
    "withdraw": lambda node, study: node.shared_studies.withdraw(study),
    "to South": to,
    "to East": lambda node, study: to(node, study, EAST),
    "from South": withdraw_from,
    "from East": lambda node, study: withdraw_from(node, study, EAST),
    "from South on a full disk": lambda node, study: _on_full_disk(node, study),
    "South loses see": lambda node, study: node.peers.revoke(SOUTH.name, ["see"], NOW),
    "South gets see": lambda node, study: SOUTH.pair(node, "see"),
    "South is revoked": lambda node, study: node.peers.revoke(SOUTH.name, [], NOW),
    "a rule for South": lambda node, study: node.peers.add_rule(
        SOUTH.name, ["deny", "see", "modality=MR"], node.facts.blind
    ),
    "to check": lambda node, study: _to_check(node, study),
}


def _on_full_disk(node: Node, study: str) -> None:
    with patch.object(node.audit, "append", full):
        withdraw_from(node, study)


def _to_check(node: Node, study: str) -> None:
    node.database.transact(
        lambda connection: connection.execute(
            "UPDATE studies SET shared = 0, to_check = 'a reason' WHERE study_uid = ?", (study,)
        )
    )
    node.feeds.study_changed(study)


def _rights(node: Node, other: Other) -> set[str]:
    return {
        row.study_uid for row in node.catalog.studies() if node.feeds.sight.shows(other.key, row)
    }


def _told(node: Node, other: Other) -> set[str]:
    rows = node.database.query(
        "SELECT study FROM feed WHERE peer = ? AND kind <> 'withdrawn'", (other.key,)
    )
    return {row[0] for row in rows}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(ACTS)), max_size=12), st.booleans())
def test_feeds_are_the_rights_whatever_is_shared_with_whom(acts: list[str], told: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home.create(Path(folder) / "north", name="North", clock=MadeClock())
        with Node.open(home) as node:
            for other in (SOUTH, EAST):
                other.pair(node, "see")
            study = publish_study(node, instances=1)
            for act in acts:
                if told:
                    for other in (SOUTH, EAST):
                        pending = node.feeds.pending(other.key, bytes(16), 0)
                        node.feeds.mark_told(other.key, pending.records)
                try:
                    ACTS[act](node, study)
                except NodeError:
                    assert act.startswith(("South", "to South", "a rule", "from South on"))
                if "full disk" in act:
                    assert study not in _rights(node, SOUTH)
                    node.shared_studies.write_unwritten()
                for other in (SOUTH, EAST):
                    assert _told(node, other) == _rights(node, other), act
            before = [_told(node, other) for other in (SOUTH, EAST)]
            # All derived anew is the same as what the changes made of it.
            Feeds(node.database, node.catalog, node.feeds.sight).derive([SOUTH.key, EAST.key])
            assert [_told(node, other) for other in (SOUTH, EAST)] == before
            has_rules = any("a rule" in act for act in acts)
        if not has_rules:
            findings = check_home(home.path, now=float(home.clock.now()), fast=True).findings
            assert not [one for one in findings if one.kind.startswith("feed-")]
