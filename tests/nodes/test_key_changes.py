"""Real nodes whose keys are replaced: peers know them again without pairing."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import contents, make_study

from keys.identity import peer_id
from node.home import Home

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Facility, Facility]]:
    with two_facilities(tmp_path) as both:
        yield both


@pytest.fixture
def one_way(tmp_path: Path) -> Iterator[tuple[Facility, Facility]]:
    """A facility that listens, and one that only calls; trusted, and not running."""
    listener = Facility(tmp_path, "North General")
    caller = Facility(tmp_path, "South Clinic", only_calls=True)
    for one, other in ((listener, caller), (caller, listener)):
        one.trust(other, "see", "fetch")
    try:
        yield listener, caller
    finally:
        for facility in (listener, caller):
            if facility.process is not None:
                facility.kill()


def _node(facility: Facility) -> str:
    return peer_id(facility.home.read_card().node_key)


def _wait_known_again(one: Facility, other: Facility) -> None:
    for facility, peer in ((one, other), (other, one)):
        wait_until(
            lambda facility=facility, peer=peer: (
                facility.peer(peer)["connected"] and facility.peer(peer)["peer_id"] == _node(peer)
            ),
            what=f"{facility.name} knows {peer.name} again\n{one.stderr()}\n{other.stderr()}",
        )


def _fetch(source: Facility, recipient: Facility, directory: Path) -> None:
    study = make_study(directory / "in", 2)
    source.call("ingest", paths=[str(directory / "in")])
    wait_until(lambda: study in recipient.announced(source), what="announcement")
    assert recipient.call("fetch", study=study, peer=source.name)["state"] == "complete"
    recipient.call("export", study=study, directory=str(directory / "out"))
    assert contents(directory / "out") == contents(directory / "in")


@pytest.mark.parametrize("extra", [[], ["--compromised"]])
def test_a_node_key_is_replaced_while_both_nodes_run(
    pair: tuple[Facility, Facility], tmp_path: Path, extra: list[str]
) -> None:
    north, south = pair
    # Receipts by the old key stay verifiable.
    _fetch(north, south, tmp_path / "before")
    old = _node(north)
    done = north.cli_json("keys", "rotate", "node", *extra)
    assert (done["peers_told"], done["peers_away"]) == (1, 0)
    assert done["peer_id"] == _node(north) != old
    _wait_known_again(north, south)
    (updated,) = [entry for entry in south.entries("card-updated") if entry["actor"] == "node"][-1:]
    assert updated["details"]["card"] == done["card"]
    assert north.entries("rotation")[-1]["index"] == done["entry"]
    for source, recipient in ((north, south), (south, north)):
        source.call("trust.grant", peer=recipient.name, grants=["see", "fetch"])
        _fetch(source, recipient, tmp_path / source.home.path.name)
    north.stop()
    north.start()
    _wait_known_again(north, south)
    for facility in pair:
        facility.check_log(tmp_path)


@pytest.mark.parametrize("which", ["listener", "caller", "both"])
def test_a_peer_that_was_away_knows_the_new_key_from_the_card_in_the_handshake(
    one_way: tuple[Facility, Facility], tmp_path: Path, which: str
) -> None:
    listener, caller = one_way
    for facility in one_way:
        if which in ("both", "listener" if facility is listener else "caller"):
            facility.cli("keys", "rotate", "node")
    listener.start()
    caller.start()
    _wait_known_again(listener, caller)
    _fetch(listener, caller, tmp_path)


def test_a_stolen_node_key_is_no_use_once_the_peer_has_the_newer_card(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    north.stop()
    stolen = tmp_path / "stolen"
    shutil.copytree(north.home.path, stolen)
    north.cli("keys", "rotate", "node", "--compromised")
    north.start()
    _wait_known_again(north, south)
    north.stop()
    known = south.peer(north)["peer_id"]
    north.home = Home(stolen)
    north.start()
    wait_until(
        lambda: "may not trust this node" in str(north.peer(south)["last_error"]),
        what="the thief is refused",
    )
    assert south.peer(north)["peer_id"] == known
    assert not south.peer(north)["connected"]


def test_a_log_key_is_replaced_and_revoked_while_both_nodes_run(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    old = north.call("keys.show")["log"][-1]["key"]
    done = north.cli_json("keys", "rotate", "log")
    assert done["old_key"] == old
    wait_until(lambda: south.peer(north)["card_serial"] == done["serial"])
    trusted = north.call("status")
    pin = f"{trusted['log_size']}:{trusted['log_root']}"
    done = north.cli_json("keys", "revoke", "log", "--trusted", pin)
    assert done["since_size"] == trusted["log_size"] + 1
    assert north.entries("key-revoked")[-1]["details"]["trusted_root"] == trusted["log_root"]
    north.stop()
    north.start()
    _wait_known_again(north, south)
    assert [key["until_size"] for key in north.call("keys.show")["log"]][-1] is None
    north.check_log(tmp_path)


@pytest.mark.parametrize("who", ["source", "recipient"])
def test_a_transfer_under_way_goes_on_after_a_change_of_the_node_key(
    tmp_path: Path, who: str
) -> None:
    with two_facilities(tmp_path, start=False) as (north, south):
        with north.home.config_path.open("a") as settings:
            settings.write('\n[[bandwidth]]\npeer = "*"\nmbit_per_second = 8\n')
        study = make_study(tmp_path / "in", 8, rows=1024)
        north.call("ingest", paths=[str(tmp_path / "in")])
        for facility in (north, south):
            facility.start()
        wait_until(lambda: study in south.announced(north), what="announcement")
        result: dict[str, object] = {}
        fetching = threading.Thread(
            target=lambda: result.update(south.call("fetch", study=study, peer=north.name))
        )
        fetching.start()
        wait_until(lambda: any(each["wire_bytes"] for each in south.call("transfers")["transfers"]))
        (north if who == "source" else south).cli("keys", "rotate", "node")
        assert south.call("transfers")["transfers"][0]["state"] != "complete"
        fetching.join(timeout=60)
        assert result["state"] == "complete"
        south.call("export", study=study, directory=str(tmp_path / "out"))
        assert contents(tmp_path / "out") == contents(tmp_path / "in")
        _wait_known_again(north, south)
        for facility in (north, south):
            facility.check_log(tmp_path)
