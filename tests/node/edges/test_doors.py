"""What comes in by a door that sends on: offered once, whole, and only where it may be."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, entries, publish_study

from node.alerts import alerts_of
from node.app import Node
from node.edges.door_settings import Door
from node.edges.doors import TRIED_MS, DoorStudy
from node.errors import ExitCode, NodeError
from node.home import Home
from node.sharing.offered import ENDED, OFFERED

STUDY = exchange_pair.STUDY
SOUTH = Other("South Clinic", MadeClock().now())
DOOR = Door(name="RM_SOUTH", to="South Clinic", purpose="treatment")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North", clock=MadeClock())


@pytest.fixture
def north(home: Home) -> Iterator[Node]:
    with _opened(home) as node:
        yield node


def _opened(home: Home) -> Any:
    node = Node.open(home)
    return _With(node)


class _With:
    """A node with a door to South."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def __enter__(self) -> Node:
        node: Node = self._opened.__enter__()
        node.doors._doors = {DOOR.name: DOOR}
        return node

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)


def _comes(node: Node, door: str = DOOR.name) -> None:
    """A study was sent to a door by CT1 and is packed."""
    if node.catalog.study(STUDY) is None:
        publish_study(node)
        node.shared_studies.withdraw(STUDY)
    node.doors.note(STUDY, door, "CT1")


def _offer_all(node: Node) -> None:
    node.doors.offer_all(node.doors.waiting())


def _states(node: Node) -> list[str]:
    return [one.state for one in node.offers.all()]


def test_it_is_shared_to_that_facility_alone_and_offered(north: Node) -> None:
    SOUTH.pair(north)
    _comes(north)
    _offer_all(north)
    [offer] = north.offers.all()
    assert (offer.peer, offer.study, offer.purpose) == (SOUTH.key, STUDY, "treatment")
    assert offer.message == "sent by CT1"
    assert north.doors.waiting() == []
    row = north.catalog.study(STUDY)
    assert row is not None
    assert row.state == "withheld"
    for kind in ("shared-to", "offered"):
        [entry] = entries(north, kind)
        assert (entry["actor"], entry["details"]["door"]) == ("node", "RM_SOUTH")


def test_what_is_sent_again_is_offered_once_and_what_has_grown_anew(north: Node) -> None:
    SOUTH.pair(north)
    for _ in range(3):
        _comes(north)
        _offer_all(north)
    assert _states(north) == [OFFERED]
    # As if it had been offered with fewer images.
    [one] = north.offers.all()
    north.offers._put(replace(one, instances=one.instances - 1))
    _comes(north)
    _offer_all(north)
    assert _states(north) == [ENDED, OFFERED]


def test_after_a_kill_it_is_offered(home: Home) -> None:
    with _opened(home) as node:
        SOUTH.pair(node)
        _comes(node)
    with _opened(home) as node:
        # Killed again between the offer and its end: not offered twice.
        _offer_all(node)
        node.doors.note(STUDY, DOOR.name, "CT1")
    with _opened(home) as node:
        _offer_all(node)
        assert _states(node) == [OFFERED]
        assert node.doors.waiting() == []


def test_what_comes_while_it_is_offered_is_not_forgotten(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    SOUTH.pair(north)
    _comes(north)
    make = north.offers.make

    def more_comes(*given: Any, **named: Any) -> Any:
        made = make(*given, **named)
        north.doors.note(STUDY, DOOR.name, "CT1")
        return made

    monkeypatch.setattr(north.offers, "make", more_comes)
    _offer_all(north)
    assert [one.study_uid for one in north.doors.waiting()] == [STUDY]


def _untrusted(node: Node) -> str:
    node.peers.revoke("South Clinic", [], node.clock.now())
    return "trust in South Clinic was revoked"


def _withdrawn(node: Node) -> str:
    node.shared_studies.withdraw_from(STUDY, node.peers.find("South Clinic"))
    return "it is withdrawn from South Clinic"


def _to_check(node: Node) -> str:
    node.database.transact(
        lambda connection: connection.execute("UPDATE studies SET to_check = 'look', shared = 0")
    )
    return "a person has to look at it first"


def _objected(node: Node) -> str:
    study = node.catalog.study(STUDY)
    assert study is not None
    node.wishes.add("objection", study.patient_id, "", b"", "all")
    return "cannot be offered"


def _no_door(node: Node) -> str:
    node.doors._doors = {}
    return "the settings have no door RM_SOUTH that offers"


@pytest.mark.parametrize("act", [_untrusted, _withdrawn, _to_check, _objected, _no_door])
def test_what_may_not_be_offered_waits_with_its_reason(north: Node, act: Any) -> None:
    SOUTH.pair(north)
    _comes(north)
    why = act(north)
    _offer_all(north)
    [one] = north.doors.waiting()
    assert why in one.why
    assert north.offers.all() == []
    assert any(
        "1 study that came in to be offered is not" in text for text in alerts_of(north, None)
    )
    clock = north.clock
    assert isinstance(clock, MadeClock)
    clock.move(TRIED_MS // 1000)
    _offer_all(north)
    assert north.doors.waiting() == []


def test_a_study_of_which_nothing_was_taken_is_done(north: Node) -> None:
    SOUTH.pair(north)
    north.doors.note("1.2.3", DOOR.name, "CT1")
    _offer_all(north)
    assert north.doors.waiting() == []


def test_an_erasure_forgets_it(north: Node) -> None:
    _comes(north)
    north.doors.note("1.2.3", DOOR.name, "CT1")
    north.forget([STUDY])
    assert [one.study_uid for one in north.doors.waiting()] == ["1.2.3"]


async def test_what_still_comes_is_not_offered_before_it_is_packed(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order matters: what is noted after the look at what comes, comes already."""
    SOUTH.pair(north)
    looked: list[list[DoorStudy]] = []
    coming = {STUDY}
    packed = trio.Event()

    def offer_all(studies: Any) -> None:
        looked.append(list(studies))

    async def look() -> set[str]:
        return set(coming)

    async def next_packing() -> None:
        coming.clear()
        if len(looked) > 1:
            packed.set()
            await trio.sleep_forever()

    monkeypatch.setattr(north.doors, "offer_all", offer_all)
    _comes(north)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(north.doors.run, look, next_packing)
        with trio.fail_after(30):
            await packed.wait()
        nursery.cancel_scope.cancel()
    assert [[one.study_uid for one in each] for each in looked] == [[], [STUDY]]


def test_a_full_disk_loses_nothing(north: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    SOUTH.pair(north)
    _comes(north)

    def fail(_: object) -> None:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    with monkeypatch.context() as full:
        full.setattr(north.audit, "append", fail)
        _offer_all(north)
    [one] = north.doors.waiting()
    assert "the disk is full" in one.why
    _offer_all(north)
    assert _states(north) == [OFFERED]
