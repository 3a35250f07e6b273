"""Terminal sessions with two running nodes."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from facilities import RADMESH, Facility, two_facilities, wait_until
from studies_made import contents, make_study

from node.errors import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facility, Facility]]:
    with two_facilities(tmp_path_factory.mktemp("pair")) as both:
        yield both


@pytest.fixture
def study(pair: tuple[Facility, Facility], tmp_path: Path) -> str:
    """A study that North took in and South knows of."""
    north, south = pair
    made = make_study(tmp_path / "in", 4)
    north.cli("ingest", str(tmp_path / "in"))
    wait_until(lambda: made in south.announced(north), what="announcement")
    return made


def _masked(text: str) -> list[str]:
    for pattern, word in (
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
        (r"\b[0-9a-f]{8}\b", "NAME"),
        (r"[0-9.]+ [kM]?B", "SIZE"),
        (r"in [0-9.]+ s", "in SECONDS"),
        (r"\([0-9.]+ times", "(N times"),
    ):
        text = re.sub(pattern, word, text)
    return [re.sub(" {2,}", "  ", line) for line in text.splitlines()]


def test_a_study_is_listed_fetched_and_exported(
    pair: tuple[Facility, Facility], study: str, tmp_path: Path
) -> None:
    _, south = pair
    listed = south.cli("studies", "--peer", "north general").stdout
    assert re.search(rf"^North General .* announced .*\n  {re.escape(study)}$", listed, re.M)
    fetched = south.cli("fetch", study, "--from", "North General")
    assert _masked(fetched.stdout) == [
        "fetched 4 images (SIZE) from North General in SECONDS, every one verified",
        "sent as SIZE (N times smaller), SIZE of images a second",
    ]
    assert "held here" in south.cli("studies", "--all").stdout
    south.cli("export", study, str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    table = _masked(south.cli("transfers").stdout)
    assert table[0] == "TRANSFER  STARTED  DIRECTION  STATE  DONE  SIZE  FACILITY"
    at = table.index(f"  {study}")
    assert table[at - 1] == "NAME  TIME  to us  complete  100 %  SIZE  North General"


def _follow(home: Path, study: str) -> tuple[subprocess.Popen[bytes], int]:
    """`radmesh fetch` with a terminal to draw on; the file to read that terminal from."""
    screen, terminal = pty.openpty()
    try:
        command = [*RADMESH, "--home", str(home), "fetch", study]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal), screen
    finally:
        os.close(terminal)


def _shown(screen: int, until: Callable[[str], object]) -> str:
    """What a terminal shows, read until it shows something or is closed; 20 seconds at most."""
    shown, deadline = "", time.monotonic() + 20
    while not until(shown):
        left = deadline - time.monotonic()
        assert left > 0, shown
        assert select.select([screen], [], [], left)[0], shown
        try:
            piece = os.read(screen, 4096).decode()
        except OSError:  # the other end is closed
            break
        shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece)
    return shown


def test_ctrl_c_leaves_the_node_fetching(pair: tuple[Facility, Facility], study: str) -> None:
    north, south = pair
    assert north.process is not None
    north.process.send_signal(signal.SIGSTOP)
    try:
        process, screen = _follow(south.home.path, study)
        with process, contextlib.ExitStack() as otherwise:
            otherwise.callback(process.kill)
            # The node's word for it: the command has heard of its transfer.
            _shown(screen, lambda text: "requesting" in text)
            process.send_signal(signal.SIGINT)
            told = _shown(screen, lambda text: False).splitlines()
            assert process.wait(10) == ExitCode.INTERRUPTED
            otherwise.pop_all()
            assert process.stdout is not None
            assert process.stdout.read() == b""
        os.close(screen)
        assert "radmesh: the node goes on fetching in the background" in told
        assert re.fullmatch(
            r"radmesh: look with `radmesh transfers`, stop it with `radmesh cancel (.{8})`",
            told[told.index("radmesh: the node goes on fetching in the background") + 1],
        )
    finally:
        north.process.send_signal(signal.SIGCONT)
    wait_until(
        lambda: (
            [
                transfer["state"]
                for transfer in south.call("transfers")["transfers"]
                if transfer["study"] == study
            ]
            == ["complete"]
        ),
        seconds=40,
    )


def test_a_transfer_is_cancelled(pair: tuple[Facility, Facility], study: str) -> None:
    north, south = pair
    assert north.process is not None
    north.process.send_signal(signal.SIGSTOP)
    try:
        follower = subprocess.Popen(
            [*RADMESH, "--home", str(south.home.path), "fetch", study],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        (transfer,) = wait_until(
            lambda: [each for each in south.call("status")["transfers"] if each["study"] == study]
        )
        ran = south.cli("cancel", transfer["transfer"][:10])
        assert ran.stdout == f"stopped the transfer of study {study}\n"
        _, err = follower.communicate(timeout=10)
        assert follower.returncode != 0
        assert "was cancelled" in err
    finally:
        north.process.send_signal(signal.SIGCONT)
    ran = south.cli("cancel", transfer["transfer"][:10], check=False)
    assert ran.returncode == ExitCode.NOT_FOUND


def test_what_nobody_announced_is_not_found(pair: tuple[Facility, Facility]) -> None:
    _, south = pair
    ran = south.cli("fetch", "1.2.3.4.5.6.7.8", check=False)
    assert ran.returncode == ExitCode.NOT_FOUND
    assert ran.stderr.startswith(
        "radmesh: error: no peer has announced a study 1.2.3.4.5.6.7.8\nradmesh: hint: "
    )


def test_a_fetch_without_the_grant_is_refused_with_a_sentence(
    pair: tuple[Facility, Facility], study: str
) -> None:
    north, south = pair
    north.cli("trust", "revoke", "South Clinic", "fetch")
    try:
        ran = south.cli("fetch", study, check=False)
        assert ran.returncode == ExitCode.REFUSED
        assert "North General does not allow us to fetch its studies" in ran.stderr
        assert ran.stderr.splitlines()[-1] == (
            "radmesh: hint: ask its admin for the grant `fetch` (`radmesh trust grant`)"
        )
    finally:
        north.cli("trust", "grant", "South Clinic", "fetch")


def test_status_shows_who_is_connected(pair: tuple[Facility, Facility]) -> None:
    _, south = pair
    shown = south.cli("status").stdout
    assert re.search(r"^running +yes, since ", shown, re.M)
    assert f"address      {south.address}" in shown
    assert re.search(r"^North General +nothing +yes +\d{4}-", shown, re.M)
    found = json.loads(south.cli("status", "--json").stdout)
    assert (found["running"], found["peers"][0]["connected"]) == (True, True)
