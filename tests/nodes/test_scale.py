"""The cases of tests/bench/scale.py in small: many peers, many instances, a large instance."""

from pathlib import Path

import pytest
from catalogs_made import fill, study_uid
from facilities import Facility, two_facilities, wait_until
from large_made import many_instances, one_instance
from peers_simulated import card, crowd
from studies_made import contents, make_study

from node.app import Node

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PEERS = 25


def _peak_bytes(facility: Facility) -> int:
    assert facility.process is not None
    status = Path(f"/proc/{facility.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_many_peers_are_told_of_a_study_and_of_nothing_else(tmp_path: Path) -> None:
    north = Facility(tmp_path, "North General")
    with Node.open(north.home) as node:
        fill(node, 30, 2)
    for number in range(PEERS):
        one = card(number)
        north.call(
            "trust.add",
            card=one.encoded.decode(),
            fingerprint=one.fingerprint,
            grants=["see"],
            petname="",
        )
    north.start()
    try:
        with crowd(north.address, north.home.read_keys().node.public, PEERS) as peers:
            peers.wait("connected")
            before = len(north.entries("announced"))
            make_study(tmp_path / "in", 1, rows=8)
            north.call("ingest", paths=[str(tmp_path / "in")])
            peers.wait("told 1")
            north.call("withdraw", study=study_uid(7))
            peers.wait("told 2")
            told = north.entries("announced")[before:]
            assert len(told) == 2 * PEERS
            for entry in told:
                assert entry["details"]["available"] + entry["details"]["withdrawn"] == 1
            status = north.call("status")
            assert sum(bool(peer["connected"]) for peer in status["peers"]) == PEERS
    finally:
        assert north.process is not None
        north.kill()


@pytest.mark.timeout(120)
def test_a_study_of_many_instances(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):
        study = many_instances(tmp_path / "in", 2000, rows=16)
        assert north.call("ingest", paths=[str(tmp_path / "in")])["instances_new"] == 2000
        wait_until(lambda: study in south.announced(north))
        fetched = south.call("fetch", study=study)
        assert fetched["instances"] == 2000
        south.call("export", study=study, directory=str(tmp_path / "out"))
        assert contents(tmp_path / "out") == contents(tmp_path / "in")


@pytest.mark.timeout(120)
def test_memory_does_not_grow_with_an_instance(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):
        study = one_instance(tmp_path / "in" / "large.dcm", rows=1024, frames=150)
        assert (tmp_path / "in" / "large.dcm").stat().st_size > 300_000_000
        assert north.call("ingest", paths=[str(tmp_path / "in")])["instances_new"] == 1
        wait_until(lambda: study in south.announced(north))
        assert south.call("fetch", study=study)["state"] == "complete"
        for facility in (north, south):
            assert _peak_bytes(facility) < 230_000_000
