"""Two real nodes, real sockets: the main job from end to end."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import contents, make_study

from node.errors import ExitCode, NodeError

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facility, Facility]]:
    with two_facilities(tmp_path_factory.mktemp("pair")) as both:
        yield both


def _ingest(facility: Facility, directory: Path, count: int = 5, **kwargs: int) -> str:
    study = make_study(directory, count, **kwargs)
    report = facility.call("ingest", paths=[str(directory)])
    assert report["instances_new"] == count
    return study


def test_a_study_is_announced_and_fetched_byte_for_byte(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in", 12)
    wait_until(lambda: study in south.announced(north), what="announcement")

    progress: list[dict[str, object]] = []
    result = south.call("fetch", progress.append, study=study)
    assert result["state"] == "complete"
    assert result["instances"] == 12
    assert progress
    south.call("export", study=study, directory=str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "in")

    own = {row["study"]: row for row in south.call("studies")["studies"]}[study]
    assert own["origin"] == north.name
    assert own["patient_id"] == "MARKER-PATIENT-ID"
    assert own["state"] == "withheld"


def test_both_logs_tell_the_transfer_and_verify(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in", 3)
    wait_until(lambda: study in south.announced(north))
    transfer = south.call("fetch", study=study)["transfer"]
    told = {}
    for facility, kinds in (
        (north, ["requested", "disclosure-begun", "disclosed", "receipt"]),
        (south, ["requested", "received", "receipt"]),
    ):
        entries = [
            entry for entry in facility.entries() if entry["details"].get("transfer") == transfer
        ]
        assert [entry["type"] for entry in entries] == kinds
        told[facility.name] = entries[-1]["details"]["receipt"]
        for entry in entries:
            assert {"kind": "study", "value": study} in entry["opened"]
        facility.check_log(tmp_path)
    assert len(set(told.values())) == 1


def test_no_patient_data_stands_in_the_logs(pair: tuple[Facility, Facility]) -> None:
    north, south = pair
    for facility in (north, south):
        assert "MARKER" not in facility.stderr().upper()
        logged = b"".join(
            path.read_bytes()
            for path in facility.home.audit_path.rglob("*")
            if path.is_file() and not path.name.startswith("evidence")
        )
        assert b"MARKER" not in logged.upper()


def test_a_fetch_without_the_grant_is_refused_and_logged_on_both_sides(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(south, tmp_path / "in", 2)
    with pytest.raises(NodeError) as caught:
        north.call("fetch", study=study, peer=south.name)
    assert caught.value.code == ExitCode.REFUSED
    assert "South Clinic does not allow us to fetch" in caught.value.message
    for facility in (north, south):
        last = facility.entries("refused")[-1]
        assert last["outcome"] == "refused"
        assert {"kind": "study", "value": study} in last["opened"]


def test_without_the_grant_nothing_tells_whether_a_study_exists(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(south, tmp_path / "in", 1)
    said = []
    for uid in (study, "1.2.3.4.5"):
        with pytest.raises(NodeError) as caught:
            north.call("fetch", study=uid, peer=south.name)
        said.append(caught.value.message.replace(uid, ""))
    assert said[0] == said[1]
    assert study not in north.announced(south)


def test_withdrawn_and_shared_again(pair: tuple[Facility, Facility], tmp_path: Path) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in", 1)
    wait_until(lambda: study in south.announced(north))
    assert north.call("withdraw", study=study)["state"] == "withheld"
    wait_until(lambda: study not in south.announced(north), 2.0, "withdrawal")
    with pytest.raises(NodeError) as caught:
        south.call("fetch", study=study, peer=north.name)
    assert caught.value.code == ExitCode.REFUSED
    north.call("share", study=study)
    wait_until(lambda: study in south.announced(north), 2.0, "sharing again")
    assert north.entries("withdrawn")
    assert north.entries("shared")


def test_a_study_that_grew_sends_only_the_new_batches(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in", 6, rows=128)
    wait_until(lambda: study in south.announced(north))
    first = south.call("fetch", study=study)
    make_study(tmp_path / "in", 2, study=study, rows=128, first=7)
    assert north.call("ingest", paths=[str(tmp_path / "in")])["instances_new"] == 2
    wait_until(lambda: south.announced(north)[study]["instances"] == 8)
    second = south.call("fetch", study=study)
    assert 0 < second["wire_bytes"] < first["wire_bytes"]
    assert second["held_bytes"] == first["bytes"]
    south.call("export", study=study, directory=str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "in")


def test_large_instances_cross_batches(pair: tuple[Facility, Facility], tmp_path: Path) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in", 2, rows=1024, frames=5)
    wait_until(lambda: study in south.announced(north))
    assert south.call("fetch", study=study)["bytes"] > 20_000_000
    south.call("export", study=study, directory=str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "in")


def test_fetching_again_sends_nothing(pair: tuple[Facility, Facility], tmp_path: Path) -> None:
    north, south = pair
    study = _ingest(north, tmp_path / "in", 3)
    wait_until(lambda: study in south.announced(north))
    south.call("fetch", study=study)
    again = south.call("fetch", study=study)
    assert (again["wire_bytes"], again["held_bytes"]) == (0, again["bytes"])


def test_status_tells_who_is_there(pair: tuple[Facility, Facility]) -> None:
    north, south = pair
    status = south.call("status")
    [peer] = status["peers"]
    assert (peer["petname"], peer["connected"]) == (north.name, True)
    assert status["addresses"] == [south.address]
    assert status["log_size"] > 1


def test_a_second_start_in_the_same_home_is_refused(pair: tuple[Facility, Facility]) -> None:
    done = pair[0].cli("serve", check=False)
    assert done.returncode == ExitCode.BUSY
    assert "running already" in done.stderr
    assert "Traceback" not in done.stderr
