"""Two real nodes: an image of the wrong patient is recalled, and goes on both sides."""

import shutil
from pathlib import Path

import pytest
from facilities import two_facilities, wait_until
from studies_made import contents, make_study

from node.errors import ExitCode

pytestmark = [pytest.mark.integration]


@pytest.mark.slow
def test_a_recall_from_the_discard_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    with two_facilities(tmp_path / "pair") as (north, south):
        study = make_study(tmp_path / "in", 5)
        assert north.call("ingest", paths=[str(tmp_path / "in")])["instances_new"] == 5
        wait_until(lambda: study in south.announced(north), what="announcement")
        south.call("fetch", study=study)
        # One image is wrong: the rest stays shared, and South hears of it.
        wrong = f"{study}.1.2"
        done = north.cli_json("discard", wrong, "--reason", "quality", "--yes")
        assert (done["instances"], done["left"]) == (1, 4)
        [alert] = wait_until(lambda: south.call("status")["alerts"], what="recall")
        assert f"something of study {study} was recalled by {north.name}: quality" in alert
        assert south.announced(north)[study]["instances"] == 4
        assert south.call("studies")["studies"][0]["instances"] == 5
        # Then all of it is.
        north.cli("discard", study, "--reason", "wrong-patient", "--yes")
        wait_until(lambda: study not in south.announced(north), what="withdrawal")
        [alert] = south.call("status")["alerts"]
        assert f"study {study} was recalled by {north.name}: wrong patient" in alert
        assert "was recalled by" in south.cli("status").stdout
        assert north.call("studies")["studies"] == []
        assert not any(
            path.is_file() for path in north.home.store_path.rglob("*") if path.parent.name != "tmp"
        )
        # South deletes it and says so; the alert ends then, and stays away over a restart.
        south.cli("discard", study, "--reason", "wrong-patient", "--yes")
        assert len(south.call("status")["alerts"]) == 1
        assert "settled" in south.cli("recalls", "settle", study).stdout
        assert south.call("status")["alerts"] == []
        south.stop()
        south.start()
        wait_until(lambda: south.peer(north)["connected"], what="connection")
        assert south.call("status")["alerts"] == []
        assert len(south.entries("recalled")) == 1
        assert len(south.entries("recall-settled")) == 1
        # It comes in again nowhere, until an operator takes it.
        ran = north.cli("ingest", str(tmp_path / "in"), check=False)
        assert ran.returncode == ExitCode.PARTLY
        assert "was discarded here (wrong patient)" in ran.stdout
        assert north.call("studies")["studies"] == []
        assert len(north.cli_json("quarantine", "list")["aside"]) == 5
        north.cli("quarantine", "take", study, "--reason", "mistake")
        north.cli("share", study)
        wait_until(lambda: study in south.announced(north), what="announcement")
        south.call("fetch", study=study)
        assert south.call("studies")["studies"] == []
        aside = south.cli_json("quarantine", "list")["aside"]
        assert [one["origin"] for one in aside] == [north.name] * 5
        south.cli("quarantine", "take", study, "--reason", "mistake")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        south.call("export", study=study, directory=str(tmp_path / "out"))
        assert contents(tmp_path / "out") == contents(tmp_path / "in")
        for facility in (north, south):
            facility.check_log(tmp_path, facility.name)
            assert facility.cli("check").returncode == 0
