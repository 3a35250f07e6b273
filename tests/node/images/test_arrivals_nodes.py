"""Real nodes: images that come one by one, one entry and one announcement for all of them."""

from pathlib import Path

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import contents, make_study

from node.errors import ExitCode

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def waiting(facility: Facility) -> int:
    return int(facility.call("status")["arrivals"]["instances"])


def test_a_study_that_came_one_by_one_is_announced_once_and_fetched(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    with two_facilities(tmp_path / "pair") as (north, south):
        study = make_study(tmp_path / "in", 40)
        files = [str(path) for path in sorted((tmp_path / "in").iterdir())]
        done = north.cli_json("arrive", *files, "--stat", "--source", "night shift")
        assert done == {"taken": 40, "known": 0, "problems": []}
        wait_until(lambda: study in south.announced(north), what="announcement")
        assert waiting(north) == 0
        [entry] = north.entries("ingest")
        assert entry["actor"] == "operator"
        assert entry["details"]["source"] == "command:night shift"
        assert entry["details"]["instances"] == 40
        assert len(north.entries("announced")) == 1
        south.cli("fetch", study)
        south.cli("export", study, str(tmp_path / "out"))
        assert contents(tmp_path / "out") == contents(tmp_path / "in")
        # It is known now; what is no image is told, and the study grows.
        (tmp_path / "notes.txt").write_text("no image, and long enough to be looked at" * 10)
        make_study(tmp_path / "more", 1, study=study, first=41)
        [more] = (tmp_path / "more").iterdir()
        ran = north.cli(
            "arrive", files[0], str(tmp_path / "notes.txt"), str(more), "--stat", check=False
        )
        assert ran.returncode == ExitCode.PARTLY
        assert "1 image taken, 1 known already" in ran.stdout
        assert "notes.txt" in ran.stdout
        wait_until(
            lambda: south.announced(north)[study]["instances"] == 41, what="second announcement"
        )
        assert len(north.entries("ingest")) == 2
        north.check_log(tmp_path)


def test_what_was_taken_outlives_a_kill_and_is_shown_meanwhile(tmp_path: Path) -> None:
    north = Facility(tmp_path, "North General")
    study = make_study(tmp_path / "in", 6)
    files = [str(path) for path in sorted((tmp_path / "in").iterdir())]
    assert north.cli("arrive", *files, check=False).returncode == ExitCode.BUSY
    north.start()
    try:
        north.cli("arrive", *files)
        assert waiting(north) == 6
        assert "6 images" in north.cli("status").stdout
        assert north.call("studies")["studies"] == []
        north.kill()
        assert "to be packed when the node runs" in north.cli("status").stdout
        assert north.cli("check").returncode == ExitCode.OK
        north.start()
        assert waiting(north) == 6
        # One that comes again and is urgent makes its study urgent.
        assert north.cli_json("arrive", files[0], "--stat")["known"] == 1
        wait_until(lambda: waiting(north) == 0, what="packing")
        [found] = north.call("studies")["studies"]
        assert (found["study"], found["instances"]) == (study, 6)
        [entry] = north.entries("ingest")
        assert entry["details"]["source"] == "command"
        assert not any(path.stat().st_size for path in north.home.arrivals_path.iterdir())
        assert north.stop() == 0
    finally:
        if north.process is not None:
            north.kill()
