"""`radmesh drill stolen-node-key`: the theft of the node key, played on a copy."""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from clocks_made import START_MS, MadeClock
from facilities import two_facilities
from facility_in_memory import Other
from sealed_homes import WORDS, asks, wrapping_of
from terminal import Terminal, north, terminal

from keys.keyfile import encode_key
from node import drill, drill_copies
from node.app import Node
from node.drill import RECENT_SECONDS, stolen_node_key
from node.errors import ExitCode, NodeError
from node.home import Home
from protocol.feed import Subscription
from protocol.log.entry import Event
from protocol.messages import Announcement, Record

__all__ = ["north", "terminal"]

NOW = START_MS // 1000


def _state(home: Home) -> dict[str, tuple[object, ...]]:
    """All that can be seen of a home: bytes, modes, times and inodes."""
    return {
        str(path.relative_to(home.path)): (
            (info := path.lstat()).st_mode,
            info.st_ino,
            info.st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted([home.path, *home.path.rglob("*")])
    }


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that trusts South, seen lately, and East, which was away for a week."""
    clock = MadeClock()
    home = Home.create(tmp_path / "home", name="North General", clock=clock)
    with Node.open(home) as node:
        south, east, gone = (Other(name, NOW) for name in ("South", "East", "Gone"))
        for other in (south, east, gone):
            other.pair(node, "see")
        node.peers.revoke("Gone", [], NOW)
        node.peers.saw(south.key, NOW - 60)
        node.peers.saw(east.key, NOW - 7 * 24 * 3600)
        records = tuple(
            Record(
                sequence=number,
                kind="available",
                study=f"1.2.{number}",
                content_root=bytes(32),
                series=1,
                instances=10 * number,
                bytes=1000 * number,
                encoded_bytes=500,
                modalities=("CT",),
                study_date="",
            )
            for number in (1, 2, 3)
        )
        epoch = bytes(16)
        node.feeds.store_announcement(
            south.key,
            Announcement(
                recipient=node.keys.node.public,
                epoch=epoch,
                reset=True,
                cursor=3,
                time=NOW,
                records=records,
            ),
            Subscription(south.node.public, epoch, 3),
        )
        received = Event(type="received", peer=south.key, subjects=(("study", "1.2.1"),))
        clock.move(3600)
        node.audit.append(received)
        clock.move(3600)
        node.audit.append(received)
    return home


def test_the_home_stays_as_it_is_to_the_byte(home: Home) -> None:
    before = _state(home)
    report = stolen_node_key(home)
    assert _state(home) == before
    assert sorted(path.name for path in home.path.parent.iterdir()) == ["home"]
    # And in the copy it really was replaced.
    assert report.has_ended
    assert report.serial == home.read_card().serial + 1
    assert report.old_peer_id != report.new_peer_id
    assert stolen_node_key(home).new_peer_id != report.new_peer_id


def test_who_would_know_and_what_the_thief_could_have_fetched(home: Home) -> None:
    report = stolen_node_key(home)
    assert [(one.petname, one.is_told) for one in report.peers] == [
        ("East", False),
        ("South", True),
    ]
    east, south = report.peers
    assert (south.studies, south.instances, south.bytes, south.fetched) == (3, 60, 6000, 2)
    assert (east.studies, east.fetched, east.last_seen) == (0, 0, NOW - 7 * 24 * 3600)
    assert report.since == NOW  # the key is in force since the home was made
    assert report.log_size == 7


def test_a_later_theft_leaves_less_in_question(home: Home) -> None:
    south = stolen_node_key(home, since=NOW + 5400).peers[1]
    assert (south.fetched, south.studies) == (1, 3)


def test_a_running_node_says_who_is_connected(home: Home) -> None:
    east = Other("East", NOW)
    report = stolen_node_key(home, connected=[east.key])
    assert [(one.petname, one.is_told) for one in report.peers] == [
        ("East", True),
        ("South", False),
    ]
    home.clock.move(RECENT_SECONDS * 2)
    # What counts without a node is the time of the last entry, not that of the drill.
    assert stolen_node_key(home).peers[1].is_told


def test_a_day_before_the_last_entry_is_still_lately(home: Home) -> None:
    last = NOW + 7200
    for seen, is_told in ((last - RECENT_SECONDS, True), (last - RECENT_SECONDS - 1, False)):
        with Node.open(home) as node:
            node.peers.saw(Other("South", NOW).key, seen)
        assert stolen_node_key(home).peers[1].is_told is is_told


def test_the_databases_of_a_running_node_are_copied_by_sqlite(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files may change while they are read."""
    copied, real = [], drill.copy_database

    def copying(path: Path, target: Path) -> None:
        copied.append(path.name)
        real(path, target)

    monkeypatch.setattr(drill, "copy_database", copying)
    with Node.open(home, to_serve=True) as node:
        size = node.audit.size
        report = stolen_node_key(home, connected=[])
        assert (report.has_ended, report.log_size) == (True, size)
        assert node.audit.size == size
    assert copied == ["node.db", "evidence.db"]


def test_sealed_keys_stay_sealed_in_the_copy_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Home.create(tmp_path / "home", name="North General", wrapping=wrapping_of(WORDS))
    with pytest.raises(NodeError) as caught:
        stolen_node_key(Home(tmp_path / "home"))
    assert caught.value.code is ExitCode.PASSPHRASE
    seen = []
    monkeypatch.setattr(drill_copies, "overwrite", lambda path: seen.append(path.read_bytes()))
    home = Home(tmp_path / "home", ask=asks(WORDS))
    assert stolen_node_key(home).has_ended
    assert len(seen) == 4
    assert all(b"argon2id" in data for data in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_without_the_facility_key_it_is_taken_from_its_file(home: Home) -> None:
    facility = home.read_keys().facility
    (home.keys_path / "facility").unlink()
    before = _state(home)
    with pytest.raises(NodeError, match="not in this home"):
        stolen_node_key(home)
    assert stolen_node_key(home, facility=facility).has_ended
    assert _state(home) == before
    assert [path.name for path in home.path.parent.iterdir()] == ["home"]


def test_the_keys_of_the_copy_are_overwritten(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def removing(path: Path, **more: object) -> None:
        if Path(path).name.startswith(".radmesh-drill-"):
            kept.extend(key.read_bytes() for key in (Path(path) / "keys").glob("*"))
        real(path, **more)

    real = drill.shutil.rmtree
    monkeypatch.setattr(drill.shutil, "rmtree", removing)
    stolen_node_key(home)
    assert len(kept) == 4
    assert not any(data.strip(b"\0") for data in kept)


def test_while_a_command_has_the_home_it_waits_for_its_end(home: Home) -> None:
    release = home.lock()
    with pytest.raises(NodeError) as caught:
        stolen_node_key(home)
    assert caught.value.code is ExitCode.BUSY
    release()
    assert stolen_node_key(home).has_ended


def test_what_people_see(north: Terminal) -> None:
    before = _state(Home(north.home))
    north.run("drill", "stolen-node-key")
    north.expect(
        """
        $ radmesh drill stolen-node-key
        drill: the node key of North General was stolen (played on a copy; this home is unchanged)
        the thief may have had it since TIME
        in the copy it was replaced in SECONDS by card serial 2: the old key counts no more

        no facility is trusted, so there is none that the thief could deceive
        """
    )
    facility = north.home.parent / "facility"
    facility.write_bytes(encode_key("facility", Home(north.home).read_keys().facility))
    words = ("--since", "2026-01-01", "--facility-key", str(facility), "--json")
    told = json.loads(north.run("drill", "stolen-node-key", *words).out)
    assert (told["drill"], told["told"], told["away"]) == ("stolen-node-key", [], [])
    assert told["since"] == 1767225600
    assert _state(Home(north.home)) == before
    assert north.run("drill", "stolen-node-key", "--since", "lately").code == ExitCode.USAGE
    north.home.rename(north.home.with_name("gone"))
    assert north.run("drill", "stolen-node-key").code == ExitCode.NO_HOME


@pytest.mark.slow
@pytest.mark.integration
def test_while_the_node_runs(tmp_path: Path, terminal: Terminal) -> None:
    """Its peer would be told, and neither node notices anything."""
    with two_facilities(tmp_path) as (north, south):
        terminal.home = north.home.path
        size = north.call("status")["log_size"]
        card = north.home.card_path.read_bytes()
        keys = {path.name: path.read_bytes() for path in north.home.keys_path.iterdir()}
        told = json.loads(terminal.run("drill", "stolen-node-key", "--json").out)
        assert told["told"] == ["South Clinic"]
        assert told["log_size"] >= size
        assert north.call("status")["log_size"] == size
        assert north.home.card_path.read_bytes() == card
        assert keys == {path.name: path.read_bytes() for path in north.home.keys_path.iterdir()}
        assert south.peer(north)["connected"]
        text = terminal.run("drill", "stolen-node-key").out
        assert "these peers would know at once, and refuse the thief:\n  South Clinic" in text
        assert 'radmesh audit reconcile --peer "South Clinic"' in text
    assert not list(north.home.path.parent.glob(".radmesh-drill-*"))


def _left(home: Home) -> list[Path]:
    return list(home.path.parent.glob(".radmesh-drill-*"))


@pytest.mark.parametrize("then", ["the node starts", "another drill"])
def test_what_a_killed_drill_left_does_not_stay(home: Home, then: str) -> None:
    """It has the private keys, and all that the catalog has of patients."""
    child = os.fork()
    if child == 0:
        try:
            drill._play = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            stolen_node_key(home)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    [left] = _left(home)
    key = os.open(left / "keys" / "node", os.O_RDONLY)
    if then == "another drill":
        stolen_node_key(home)
    else:
        with Node.open(home):
            pass
    assert _left(home) == []
    assert not any(os.pread(key, 4096, 0)), "overwritten"
    os.close(key)


def test_a_drill_that_runs_keeps_its_copy(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    play = drill._play

    def meanwhile(node: Node, *given: Any) -> Any:
        with Node.open(home):
            pass
        assert [path.name for path in _left(home)] == [node.home.path.name]
        assert (node.home.keys_path / "node").read_bytes().startswith(b"radmesh-key-v1")
        return play(node, *given)

    monkeypatch.setattr(drill, "_play", meanwhile)
    stolen_node_key(home)
    assert _left(home) == []
