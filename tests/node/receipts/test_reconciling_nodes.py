"""`radmesh audit reconcile --peer` between two real nodes."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import make_study

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facility, Facility]]:
    directory = tmp_path_factory.mktemp("reconciling")
    with two_facilities(directory) as (north, south):
        south.trust(north, "see", "fetch")
        for source, recipient in ((north, south), (south, north)):
            folder = directory / source.name
            study = make_study(folder, 2)
            source.call("ingest", paths=[str(folder)])
            wait_until(lambda s=study, a=source, b=recipient: s in b.announced(a))
            recipient.call("fetch", study=study)
        yield north, south


def test_both_nodes_sign_and_log_one_result(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    done = south.cli("audit", "reconcile", "--peer", north.name)
    assert done.stdout.startswith("AGREED: no difference in 2 disclosures\n  A  South Clinic: ")
    results = [facility.entries("reconciled")[-1]["details"] for facility in (south, north)]
    assert [one["side"] for one in results] == ["a", "b"]
    assert results[0]["result"] == results[1]["result"]
    assert results[0]["result"] in done.stdout
    assert [one["matched"] for one in results] == [2, 2]
    for facility in pair:
        facility.check_log(tmp_path)
        assert "Traceback" not in facility.stderr()


def test_the_result_as_json_holds_what_both_signed(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    words = ("audit", "reconcile", "--peer", south.name, "--save", str(tmp_path / "result"))
    said = north.cli_json(*words)
    again = north.cli(*words, check=False)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    assert (said["differences"], said["counts"]["MATCHED"]) == (0, 2)
    signed = base64.b64decode(said["signed_result"])
    assert (tmp_path / "result").read_bytes() == signed
    assert hashlib.sha256(signed).hexdigest() == said["result"]
    assert north.entries("reconciled")[-1]["index"] == said["entry"]


def test_a_peer_that_is_not_there_cannot_tell(pair: tuple[Facility, Facility]) -> None:
    north, south = pair
    north.stop()
    wait_until(lambda: not south.peer(north)["connected"], what="North is gone")
    gone = south.cli("audit", "reconcile", "--peer", north.name, check=False)
    assert gone.returncode == 2
    assert "did not answer" in gone.stderr
    away = north.cli("audit", "reconcile", "--peer", south.name, check=False)
    assert away.returncode == 2
    assert "not running" in away.stderr
    nobody = south.cli("audit", "reconcile", "--peer", "Nobody", check=False)
    assert nobody.returncode == 2
    assert "there is no peer of this name" in nobody.stderr
