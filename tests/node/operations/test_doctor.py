"""`radmesh doctor`: each check says what is wrong, and one that fails stops no other."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other

from node.app import Node
from node.edges.archive_settings import read_archives
from node.edges.dimse_settings import read_dimse
from node.errors import NodeError
from node.home import Home
from node.operations import OPERATIONS, Call, doctor
from node.operations.findings import Check, blocking, finding


class TwoClocks(MadeClock):
    """A clock whose wall was set back after it was looked at."""

    back_ms = 0

    def now_ms(self) -> int:
        return self.time_ms - self.back_ms


PACS = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104, "index_days": 10}
DOORS = {"RM_SOUTH": {"to": "South", "purpose": "treatment"}}


@pytest.fixture
def clock() -> TwoClocks:
    return TwoClocks()


@pytest.fixture
def node(tmp_path: Path, clock: TwoClocks) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as opened:
        yield opened


def _findings(node: Node) -> list[dict[str, Any]]:
    answer = trio.run(OPERATIONS["doctor"].answer, Call(node), {})
    found: list[dict[str, Any]] = answer["findings"]
    return found


def _of(node: Node, about: str) -> list[tuple[str, str]]:
    return [(one["state"], one["found"]) for one in _findings(node) if one["about"] == about]


def test_a_check_that_fails_or_never_ends_keeps_no_other_from_being_made(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(call: Call) -> Iterator[dict[str, str]]:
        yield finding("x", "fine", "begun")
        raise NodeError("the table is damaged")

    def fault(call: Call) -> Iterator[dict[str, str]]:
        raise KeyError("Doe^John")

    async def silent(call: Call) -> list[dict[str, str]]:
        await trio.sleep_forever()
        return []

    added = (blocking("first", damaged), blocking("second", fault), Check("third", silent))
    monkeypatch.setattr(doctor, "CHECKS", (*added, *doctor.CHECKS))
    monkeypatch.setattr(doctor, "CHECK_SECONDS", 0.2)
    found = _findings(node)
    assert [one["found"] for one in found[:3]] == [
        "it could not be checked: the table is damaged",
        f"it could not be checked: KeyError in test_doctor.py:{fault.__code__.co_firstlineno + 1}",
        "it could not be checked: it took longer than 0 s",
    ]
    assert all(one["state"] == "wrong" for one in found[:3])
    assert "the node" in {one["about"] for one in found}


def test_a_node_that_does_not_run_is_looked_at_all_the_same(node: Node) -> None:
    assert _of(node, "the node") == [("wrong", "it does not run")]
    assert _of(node, "disk")[0][0] == "fine"
    assert _of(node, "log") == [("fine", "1 entry")]
    assert _of(node, "DICOM") == [("fine", "no DICOM associations are taken")]
    assert _of(node, "witnesses") == [("note", "no facility has the grant to cosign our log")]


def test_a_clock_that_was_set_back(node: Node, clock: TwoClocks) -> None:
    assert _of(node, "clock")[0][0] == "fine"
    clock.back_ms = 90_000
    assert _of(node, "clock") == [("wrong", "it was set back by 1 min 30 s while the node runs")]


def test_a_log_in_doubt_and_too_few_witnesses(node: Node) -> None:
    audit = dataclasses.replace(node.settings.audit, witness_quorum=1)
    node.settings = dataclasses.replace(node.settings, audit=audit)
    node.audit.halt.reason = NodeError("a witness holds a later checkpoint")
    assert _of(node, "log") == [("wrong", "a witness holds a later checkpoint")]
    assert _of(node, "witnesses")[0][0] == "wrong"


def test_folders_of_the_home_that_cannot_be_written(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != node.home.store_path)
    [(state, found)] = _of(node, "disk")[1:]
    assert state == "wrong"
    assert "store cannot be read and written" in found


def test_what_is_known_of_a_facility_without_asking_it(node: Node, clock: TwoClocks) -> None:
    south = Other("South Clinic", clock.now())
    node.peers.add(south.card.encoded, south.card.fingerprint, [], "", clock.now())
    found = _of(node, "facility South Clinic")
    assert ("note", "it may do nothing here") in found
    assert ("note", "it has not told what this node may do there") in found
    node.peers.grant("South Clinic", ["see"])
    assert ("note", "it may do nothing here") not in _of(node, "facility South Clinic")
    clock.move(south.card.expires - clock.now() - 10 * 24 * 3600)
    [(state, text), *_] = [one for one in _of(node, "facility South Clinic") if "card" in one[1]]
    assert (state, text.startswith("its card ends")) == ("wrong", True)
    node.peers.revoke("South Clinic", [], clock.now())
    assert _of(node, "facility South Clinic") == [("note", "it is not trusted any more")]


def test_what_waits_for_a_person_is_no_fault(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.catalog, "waiting_count", lambda: (2, 0))
    [(state, text)] = _of(node, "to-check")
    assert (state, text.startswith("2 studies to check")) == ("note", True)


def test_an_archive_that_is_indexed_needs_a_way_to_send(node: Node) -> None:
    def wrong(**dimse: Any) -> list[str]:
        read = read_dimse(dimse.get("entries", {}), dimse.get("callers", {}), DOORS)
        node.settings = dataclasses.replace(
            node.settings,
            archives=read_archives({"PACS": {**PACS, **dimse.get("archive", {})}}, Path("/")),
            dimse=read,
        )
        return [found for state, found in _of(node, "archive PACS") if state == "wrong"]

    listens, callers = {"listen": ["127.0.0.1:11112"]}, {"PACS": {"addresses": ["127.0.0.1"]}}
    assert wrong() == ["it is indexed, and has nowhere to send what is wanted of it"]
    assert wrong(entries=listens) == [
        "it is indexed, and PACS may not send here what is wanted of it"
    ]
    assert wrong(entries=listens, callers=callers) == []
    for door, why in (("NONE", "there is no such door"), ("RM_SOUTH", "is offered to South")):
        [found] = wrong(entries=listens, callers=callers, archive={"moves_to": door})
        assert why in found
    assert wrong(archive={"index_days": 0}) == []
