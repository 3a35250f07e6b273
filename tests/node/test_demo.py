"""The demonstration, as a person runs it."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from facilities import RADMESH, wait_until
from studies_made import make_study

from node.api.client import is_running
from node.demo import MARKER
from node.errors import ExitCode
from node.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def _demo(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RADMESH, "demo", *words, "--home", str(directory)],
        capture_output=True,
        text=True,
        timeout=90,
    )


def _no_node_runs(directory: Path) -> bool:
    return not any(
        is_running(Home(directory / name).socket_path)
        for name in ("north", "south")
        if (directory / name).exists()
    )


def test_it_shows_the_whole_way_and_can_be_run_again(tmp_path: Path) -> None:
    directory = tmp_path / "demo-home"
    ran = _demo(directory)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.findall(r"^(\d)\. ", ran.stdout, re.M) == [str(number) for number in range(1, 10)]
    assert "17 files exported at South Clinic: 17 identical with the originals" in ran.stdout
    assert re.search(r"North General +\d+ entries: SOUND\n", ran.stdout)
    assert re.search(r"South Clinic +\d+ entries: SOUND\n", ran.stdout)
    assert re.search(r"witness +South Clinic saw \d+ entries at ", ran.stdout)
    assert "the verifier: NOT SOUND: " in ran.stdout
    assert _no_node_runs(directory)

    (directory / "old").touch()
    study = make_study(tmp_path / "mine", 3)
    ran = _demo(directory, str(tmp_path / "mine"))
    assert ran.returncode == 0
    assert study in ran.stdout
    assert "3 files exported at South Clinic: 3 identical" in ran.stdout
    assert not (directory / "old").exists()


def test_a_folder_without_images_is_an_error_and_nothing_runs_on(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = _demo(tmp_path / "demo-home", str(empty))
    assert ran.returncode == ExitCode.NOT_FOUND
    assert "there is no DICOM image that can be taken in" in ran.stderr
    assert _no_node_runs(tmp_path / "demo-home")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_stops_its_nodes(tmp_path: Path, number: int) -> None:
    directory = tmp_path / "demo-home"
    with subprocess.Popen(
        [*RADMESH, "demo", "--home", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        for name in ("north", "south"):
            home = Home(directory / name)
            wait_until(lambda home=home: home.exists and is_running(home.socket_path))
        process.send_signal(number)
        assert process.wait(15) == ExitCode.INTERRUPTED
    assert _no_node_runs(directory)


def test_a_demonstration_whose_node_still_runs_is_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "demo-home"
    directory.mkdir()
    (directory / MARKER).touch()
    home = Home.create(directory / "north", name="North General")
    release = home.lock()
    try:
        ran = _demo(directory)
        assert ran.returncode == ExitCode.BUSY
        assert home.exists
    finally:
        release()
