"""Images come by DICOM at North and are at South: dcmtk sends to real nodes."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import Facility, free_port, two_facilities, wait_until
from places import ROOT
from studies_made import make_study

from node.config import Settings, read_settings
from node.edges import statuses

pytestmark = [pytest.mark.slow, pytest.mark.integration]

ABSENT = "needs Debian's dcmtk: make dicom-peers (or: apt install dcmtk)"
with_dcmtk = pytest.mark.skipif(shutil.which("storescu") is None, reason=ABSENT)
TEXT = (ROOT / "docs/edges.md").read_text()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Facility, Facility, int]]:
    """North, which takes DICOM; and South, which fetches what it is offered."""
    with two_facilities(tmp_path, grants=(), start=False) as (north, south):
        port = free_port()
        with north.home.config_path.open("a") as settings:
            settings.write(_settings(port))
        north.start()
        south.start()
        south.call("rules.add", peer=north.name, rule=["allow", "send"])
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        yield north, south, port


def _settings(port: int) -> str:
    """The first settings of the document, with our address and port, and a quick packing."""
    found = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    text = found[1].replace("10.1.2.3:11112", f"127.0.0.1:{port}").replace("10.1.2.4", "127.0.0.1")
    return f'\n{text}\n[arrivals."dimse"]\nquiet_seconds = 1\n'


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_settings_of_the_document_can_be_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 9
    path = tmp_path / "config.toml"
    for block in blocks:
        path.write_text(block)
        assert read_settings(path) != Settings()
    assert statuses.document() in TEXT


@with_dcmtk
def test_from_the_send_list_of_a_pacs_to_the_partner(
    pair: tuple[Facility, Facility, int], tmp_path: Path
) -> None:
    north, south, port = pair
    study = make_study(tmp_path / "in", 5)
    other = make_study(tmp_path / "other", 2)
    commands = re.findall(r"^    ((?:echoscu|storescu) .*)$", TEXT, re.MULTILINE)
    for command in commands:
        words = command.replace("10.1.2.3 11112", f"127.0.0.1 {port}").split()
        done = _run(*(str(tmp_path / "in") if word == "FOLDER" else word for word in words))
        assert done.returncode == 0, done.stderr
    done = _run("storescu", "-aet", "CT1", "-aec", "RADMESH", "+sd", "127.0.0.1", str(port),
                tmp_path / "other")  # fmt: skip
    assert done.returncode == 0, done.stderr

    def here(facility: Facility, uid: str) -> dict[str, object] | None:
        found = facility.call("studies")["studies"]
        return next((one for one in found if one["study"] == uid), None)

    wait_until(lambda: here(south, study), what="the study is at South")
    wait_until(lambda: here(north, other), what="the other study is at North")
    assert here(south, study)["instances"] == 5  # type: ignore[index]
    # What came in by the other door is withheld, and offered to nobody.
    assert here(north, other)["state"] == "withheld"  # type: ignore[index]
    assert [one["study"] for one in north.call("offers")["offers"]] == [study]
    [offered] = north.entries("offered")
    assert offered["details"]["door"] == "RM_SOUTH"
    # The same bytes as North has them.
    for facility in (north, south):
        facility.call("export", study=study, directory=str(tmp_path / facility.name))
    first, second = (
        sorted(path.read_bytes() for path in (tmp_path / one.name).rglob("*") if path.is_file())
        for one in (north, south)
    )
    assert first == second
    # Sent once more, it is known and offered already.
    done = _run("storescu", "-aet", "CT1", "-aec", "RM_SOUTH", "+sd", "127.0.0.1", str(port),
                tmp_path / "in")  # fmt: skip
    assert done.returncode == 0
    found = north.call("doctor")
    table = {one["ae_title"]: one["does"] for one in found["doors"]}
    assert table["RM_SOUTH"] == "offers to South Clinic for treatment"
    assert not [one for one in found["findings"] if one["state"] == "wrong"]
    shown = north.cli("doctor").stdout
    assert "caller CT1: it may call from 127.0.0.1 without TLS" in shown
    assert "without TLS  CT1 from 127.0.0.1" in north.cli("status").stdout
    wait_until(lambda: not north.call("status")["arrivals"]["instances"], what="all is packed")
    assert len(north.entries("offered")) == 1


@with_dcmtk
def test_what_was_answered_before_a_kill_is_offered_after_it(
    pair: tuple[Facility, Facility, int], tmp_path: Path
) -> None:
    north, south, port = pair
    study = make_study(tmp_path / "in", 3)
    done = _run("storescu", "-aet", "CT1", "-aec", "RM_SOUTH", "+sd", "127.0.0.1", str(port),
                tmp_path / "in")  # fmt: skip
    assert done.returncode == 0, done.stderr
    north.kill()
    north.start()
    wait_until(
        lambda: any(one["study"] == study for one in south.call("studies")["studies"]),
        40,
        "the study is at South",
    )


@with_dcmtk
def test_who_is_not_listed_is_told_so_and_named_in_the_log(
    pair: tuple[Facility, Facility, int],
) -> None:
    north, _, port = pair
    for words, reason in (
        (("-aet", "OTHER", "-aec", "RADMESH"), "Calling AE Title Not Recognized"),
        (("-aet", "PACS", "-aec", "RADMESH"), "Calling AE Title Not Recognized"),
        (("-aet", "CT1", "-aec", "RM_WEST"), "Called AE Title Not Recognized"),
    ):
        done = _run("echoscu", "-v", *words, "127.0.0.1", str(port))
        assert done.returncode != 0
        assert reason in done.stderr + done.stdout
    log = north.stderr()
    assert "the caller's AE title is not in the settings" in log
    assert "this caller calls from elsewhere than the settings say" in log
    assert "there is no door of the called AE title" in log
    assert "3 refused" in north.cli("status").stdout
