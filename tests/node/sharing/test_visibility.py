"""Nobody is told of what they may not know, whatever ends or interrupts the node."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, available, entries, open_node, publish_study, told_to
from killed import killed_at_commit

from keys.trust import Peer
from node.app import Node
from node.clock import SYSTEM_CLOCK, SystemClock
from node.home import Home
from node.sharing.endings import Endings

NOW = SYSTEM_CLOCK.now()
SOUTH, EAST = Other("South Clinic", NOW), Other("East Imaging", NOW)


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North")) as node:
        yield node


# --- killed at every commit -----------------------------------------------------------


def _trade(node: Node) -> None:
    """All that changes who may know of what."""
    study = publish_study(node)
    SOUTH.pair(node, "see", "fetch")
    EAST.pair(node)
    node.peers.grant("East Imaging", ["see"])
    node.shared_studies.withdraw(study)
    node.shared_studies.share(study)
    node.peers.revoke("South Clinic", ["see"], NOW)
    node.shared_studies.withdraw(study)
    node.peers.grant("South Clinic", ["see"])
    node.shared_studies.share(study)
    south = node.peers.find("South Clinic")
    node.shared_studies.withdraw_from(study, south)
    node.shared_studies.withdraw(study)
    node.shared_studies.share_to(study, south)
    node.peers.revoke("East Imaging", [], NOW)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit_the_announcer_tells_what_is_allowed_and_no_more(
    tmp_path: Path, when: str
) -> None:
    commit, ended = 0, False
    while not ended:
        commit += 1
        home = tmp_path / f"{when}-{commit}"
        Home.create(home, name="North").require()
        ended = not killed_at_commit(commit, when, lambda home=home: Node.open(Home(home)), _trade)
        with open_node(home) as node:
            for other in (SOUTH, EAST):
                may_see = other.key in node.feeds.sight.peers()
                facts = node.facts.of_each(node.catalog.studies(), other.key)
                shared = {one.study_uid for one in facts if one.state == "shared"}
                told = available(told_to(node, other))
                assert told == (shared if may_see else set()), f"{when} commit {commit}"
            _check_agreement(node)
    assert commit > 15


def _check_agreement(node: Node) -> None:
    """What the log says last of a right is how it is; or it says that it failed."""
    failed = {entry["details"]["of"] for entry in entries(node) if entry["outcome"] == "failed"}
    grants: dict[str, set[str]] = {}
    for entry in entries(node):
        if entry["index"] in failed or entry["outcome"] == "failed":
            continue
        named = set(filter(None, str(entry["details"].get("grants", "")).split(",")))
        held = grants.setdefault(entry["peer"], set())
        match entry["type"]:
            case "trust-added" | "trust-granted":
                held |= named
            case "trust-ungranted":
                held -= named
            case "trust-revoked":
                held.clear()
    for peer in node.peers.store.peers:
        assert grants[peer.facility_key.hex()] == peer.grants


# --- races ----------------------------------------------------------------------------


def test_feeds_are_right_whatever_changes_at_once(north: Node) -> None:
    study = publish_study(north)
    SOUTH.pair(north, "see")
    rounds = 40

    def shares() -> None:
        for _ in range(rounds):
            north.shared_studies.withdraw(study)
            north.shared_studies.share(study)

    def grants() -> None:
        for _ in range(rounds):
            north.peers.revoke("South Clinic", ["see"], NOW)
            north.peers.grant("South Clinic", ["see"])
        north.peers.revoke("South Clinic", ["see"], NOW)

    threads = [threading.Thread(target=work) for work in (shares, grants)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not available(list(north.feeds.pending(SOUTH.key, bytes(16), 0).records))
    assert not available(told_to(north, SOUTH))


# --- the announcer asks once more -----------------------------------------------------


@pytest.mark.parametrize("taken", ["see", "study"])
def test_a_feed_that_was_not_brought_up_to_date_is_not_told(
    north: Node, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    study = publish_study(north)
    SOUTH.pair(north, "see")
    # As if a change had come without its feed: the announcer is the last to ask.
    north.peers.in_change = lambda peer: None
    north.catalog.in_change = lambda study: None
    if taken == "see":
        north.peers.revoke("South Clinic", ["see"], NOW)
    else:
        north.shared_studies.withdraw(study)
    assert north.feeds.pending(SOUTH.key, bytes(16), 0).records
    assert told_to(north, SOUTH) == []
    assert not entries(north, "announced")
    # And what it found is mended.
    assert not north.feeds.pending(SOUTH.key, bytes(16), 0).records


# --- what a date ends -----------------------------------------------------------------


class Heard:
    """What the task of the endings does to connections."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.ended: list[bytes] = []


def _endings(node: Node, heard: Heard, *connected: bytes) -> Endings:
    def peer_changed(peer: Peer) -> None:
        heard.changed.append(peer.petname)

    return Endings(
        peers=node.peers,
        studies=node.shared_studies,
        wishes=node.wishes,
        discards=node.discards,
        feeds=node.feeds,
        connected=lambda: connected,
        peer_changed=peer_changed,
        node_key_ended=heard.ended.append,
        clock=node.clock,
        refusals=node.refusals,
    )


def test_a_card_that_ends_ends_what_is_told_and_the_connection(tmp_path: Path) -> None:
    clock = MadeClock()
    other = Other("South Clinic", clock.now(), expires=clock.now() + 100)
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as node:
        study = publish_study(node)
        other.pair(node, "see")
        heard = Heard()
        endings = _endings(node, heard, other.node.public)
        pending = node.feeds.pending(other.key, bytes(16), 0)
        node.feeds.mark_told(other.key, pending.records)

        clock.move(99)
        trio.run(endings.look)
        assert (heard.changed, heard.ended) == ([], [])
        assert available(list(node.feeds.pending(other.key, bytes(16), 0).records)) == {study}

        clock.move(1)
        trio.run(endings.look)
        assert heard.changed == ["South Clinic"]
        assert heard.ended == [other.node.public]
        news = node.feeds.pending(other.key, pending.epoch, pending.cursor)
        assert [(one.kind, one.study) for one in news.records] == [("withdrawn", study)]
        trio.run(endings.look)
        assert heard.changed == ["South Clinic"]


def test_a_clock_that_is_set_back_prolongs_nothing() -> None:
    wall, running = 1_800_000_000 * 10**9, 5 * 10**9
    at = {"wall": wall, "running": running}
    clock = SystemClock(lambda: at["wall"], lambda: at["running"])
    at["running"] += 60 * 10**9
    at["wall"] += 60 * 10**9
    assert clock.now() == 1_800_000_060
    at["wall"] -= 3600 * 10**9
    at["running"] += 10**9
    assert clock.now() == 1_800_000_061
    assert clock.now_ms() == 1_799_996_460_000
    # A suspended machine: the wall went on, the time since did not.
    at["wall"] = wall + 7200 * 10**9
    assert clock.now() == 1_800_007_200


def test_what_ended_while_the_node_was_down_is_not_told(tmp_path: Path) -> None:
    clock = MadeClock()
    other = Other("South Clinic", clock.now(), expires=clock.now() + 100)
    home = Home.create(tmp_path / "north", name="North", clock=clock)
    with Node.open(home) as node:
        publish_study(node)
        other.pair(node, "see")
    clock.move(101)
    with Node.open(home) as node:
        node.clean_up()
        assert not node.feeds.pending(other.key, bytes(16), 0).records
