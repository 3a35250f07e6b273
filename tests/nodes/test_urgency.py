"""Urgent fetches and bandwidth caps between two real nodes."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import contents, make_study

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CAP = """
[[bandwidth]]
peer = "South Clinic"
mbit_per_second = 24
"""
CAP_BYTES = 3_000_000


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facility, Facility]]:
    """North, which sends at most 3 MB a second to South."""
    with two_facilities(tmp_path_factory.mktemp("pair"), start=False) as (north, south):
        with north.home.config_path.open("a") as config:
            config.write(CAP)
        north.start()
        south.start()
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        yield north, south


def _shared_study(pair: tuple[Facility, Facility], directory: Path, count: int) -> str:
    north, south = pair
    study = make_study(directory, count, rows=512)
    north.call("ingest", paths=[str(directory)])
    wait_until(lambda: study in south.announced(north))
    return study


class _Fetch:
    """A fetch in a thread of its own, like that of another user."""

    def __init__(self, facility: Facility, study: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, args=(facility, study))
        self._thread.start()
        wait_until(lambda: self.events and self.events[-1]["wire_bytes"], what="first bytes")

    def _run(self, facility: Facility, study: str) -> None:
        self.result = facility.call("fetch", self.events.append, study=study)

    def wait(self) -> dict[str, Any]:
        self._thread.join(60)
        return self.result


@pytest.mark.alone
def test_an_urgent_study_overtakes_a_routine_one_under_the_cap(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    _, south = pair
    long = _shared_study(pair, tmp_path / "long", 40)
    short = _shared_study(pair, tmp_path / "short", 12)
    began = time.monotonic()
    routine = _Fetch(south, long)
    before = routine.events[-1]["wire_bytes"]
    urgent = south.call("fetch", study=short, stat=True)
    assert not routine.result
    # What was under way when it came, and then a trickle: never an equal share.
    assert routine.events[-1]["wire_bytes"] - before < urgent["wire_bytes"] / 2
    assert routine.wait()["state"] == "complete"
    total = urgent["wire_bytes"] + routine.result["wire_bytes"]
    assert time.monotonic() - began > 0.9 * total / CAP_BYTES
    assert (urgent["stat"], routine.result["stat"]) == (True, False)
    for study, name in ((long, "long"), (short, "short")):
        south.call("export", study=study, directory=str(tmp_path / f"{name}-out"))
        assert contents(tmp_path / f"{name}-out") == contents(tmp_path / name)
    for facility in pair:
        entries = [
            entry
            for entry in facility.entries()
            if entry["details"].get("transfer") == urgent["transfer"]
        ]
        assert len(entries) >= 3
        assert all(entry["details"]["stat"] is True for entry in entries)
        assert any("stat" not in entry["details"] for entry in facility.entries("receipt"))
        facility.check_log(tmp_path)
    listed = south.cli("transfers").stdout
    assert "complete, stat" in listed


def test_a_routine_fetch_becomes_urgent(pair: tuple[Facility, Facility], tmp_path: Path) -> None:
    north, south = pair
    study = _shared_study(pair, tmp_path / "in", 40)
    routine = _Fetch(south, study)
    urgent = south.call("fetch", study=study, stat=True)
    assert routine.wait() == urgent
    assert urgent["stat"]
    requested = [
        entry["details"].get("stat", False)
        for entry in north.entries("requested")
        if entry["details"]["transfer"] == urgent["transfer"]
    ]
    assert requested == [False, True]
    assert sum(1 for entry in south.entries("received") if entry["details"].get("stat")) >= 1
    south.call("export", study=study, directory=str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "in")


def test_status_shows_the_cap_in_force(pair: tuple[Facility, Facility]) -> None:
    north, south = pair
    assert "at most 24 Mbit/s to South Clinic at all times" in north.cli("status").stdout
    assert north.peer(south)["cap"]["mbit_per_second"] == 24
    assert "Mbit/s" not in south.cli("status").stdout
