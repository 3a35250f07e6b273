"""Real nodes and real archives: a study of North goes into South's Orthanc, whatever is killed."""

import contextlib
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from archives_made import (
    LOOPBACK,
    OddArchive,
    data_set_of,
)
from facilities import Facility, free_port, two_facilities, wait_until
from orthanc_made import Orthanc, made_orthanc, with_orthanc
from studies_made import make_study

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def _archive(port: int, *more: str) -> str:
    lines = ['ae_title = "PACS"', f'host = "{LOOPBACK}"', f"port = {port}", "rules = [{}]", *more]
    return '\n[archives."PACS"]\n' + "\n".join(lines) + "\n"


def _set(facility: Facility, text: str) -> None:
    with facility.home.config_path.open("a") as settings:
        settings.write(text)


@contextlib.contextmanager
def _north(path: Path, settings: str) -> Iterator[Facility]:
    north = Facility(path, "North")
    _set(north, settings)
    try:
        north.start()
        yield north
    finally:
        if north.process is not None:
            north.kill()


def _states(facility: Facility) -> list[str]:
    return [one["state"] for one in facility.call("archive")["studies"]]


@with_orthanc
def test_from_north_into_the_archive_of_south_under_the_local_patient(tmp_path: Path) -> None:
    listens = free_port()
    orthanc = made_orthanc(tmp_path / "pacs", calls={"radmesh": ("RADMESH", listens)})
    study = make_study(tmp_path / "in", 6, rows=150)
    with two_facilities(tmp_path, grants=("see", "fetch"), start=False) as (north, south):
        # Orthanc reports on an association that it opens.
        _set(south, _archive(orthanc.port, 'proof = "commitment"'))
        _set(south, f'[dimse]\nlisten = ["{LOOPBACK}:{listens}"]\n')
        _set(south, f'[dimse.callers."PACS"]\naddresses = ["{LOOPBACK}"]\n')
        north.start()
        south.start()
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        wait_until(lambda: study in south.announced(north), what="South knows of it")
        south.call("fetch", study=study, peer=north.name)
        wait_until(lambda: _states(south) == ["waits for a match"], what="it waits for a match")
        # Nobody is asked for it, and nothing goes, before that; nor since the archive is away.
        south.call("match.set", study=study, patient_id="LOCAL-7", name="Local^Name")
        trouble = wait_until(lambda: south.call("archive")["archives"][0]["trouble"])
        assert "cannot be reached" in trouble
        doctor = south.cli("doctor", check=False)
        assert "WRONG  archive PACS" in doctor.stdout
        with orthanc.running():
            south.cli("archive", "retry")
            wait_until(lambda: _states(south) == ["stored"], 40, "it is stored")
            files = {str(one.SOPInstanceUID): one for one in _read(orthanc)}
            assert len(files) == 6
            for path in (tmp_path / "in").iterdir():
                ours = pydicom.dcmread(path)
                theirs = files[str(ours.SOPInstanceUID)]
                assert theirs.PixelData == ours.PixelData
                assert (theirs.PatientID, str(theirs.PatientName)) == ("LOCAL-7", "Local^Name")
                [original] = theirs.OriginalAttributesSequence
                assert original.ModifiedAttributesSequence[0].PatientID == ours.PatientID
            assert "ok     archive PACS: it answers" in south.cli("doctor", check=False).stdout
            shown = south.cli("archive").stdout
            assert re.search(r"PACS: PACS at 127.0.0.1 port \d+, without TLS; 1 stored", shown)
            assert study in shown
        kinds = [one["type"] for one in south.entries() if one["type"].startswith(("forw", "stor"))]
        assert kinds[:3] == ["forward-begun", "forwarded", "stored"]
        assert south.entries("stored")[0]["details"]["proven_by"] == "commitment"
        # North, which sent it, is told, and sees both receipts.
        wait_until(lambda: north.entries("stored-heard"), what="North is told that it is stored")
        south.check_log(tmp_path)
        # No patient in the process log.
        assert "MARKER" not in south.stderr()
        assert "LOCAL-7" not in south.stderr()


def _read(orthanc: Orthanc) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(BytesIO(data)) for data in orthanc.files()]


def test_kill_9_of_the_node_in_the_middle(tmp_path: Path) -> None:
    count, kills = 150, {1, 70}
    make_study(tmp_path / "in", count, rows=32)
    odd = OddArchive()
    with odd.running(), contextlib.ExitStack() as stack:
        north = stack.enter_context(_north(tmp_path, _archive(odd.port)))
        killed: list[int] = []

        def kill(uid: str) -> None:
            if len(odd.got) in kills - set(killed):
                killed.append(len(odd.got))
                north.kill()

        odd.before = kill
        north.call("ingest", paths=[str(tmp_path / "in")])
        for number in (1, 2):
            wait_until(
                lambda now=number: len(killed) == now and north.process is None,  # type: ignore[misc]
                40,
                "a kill",
            )
            north.start()
        wait_until(lambda: _states(north) == ["stored"], 40, "it is stored")
        north.stop()
    went: dict[str, list[bytes]] = {}
    for uid, data in odd.got:
        went.setdefault(uid, []).append(data)
    # Nothing lost; what went more than once went with the same bytes.
    assert len(went) == count
    assert all(len(set(each)) == 1 and len(each) <= 1 + len(kills) for each in went.values())
    assert sorted(each[0] for each in went.values()) == sorted(
        data_set_of(path.read_bytes()) for path in (tmp_path / "in").iterdir()
    )


@with_orthanc
def test_kill_9_of_orthanc_in_the_middle(tmp_path: Path) -> None:
    count = 200
    make_study(tmp_path / "in", count, rows=64)
    orthanc = made_orthanc(tmp_path / "pacs")
    with contextlib.ExitStack() as stack:
        north = stack.enter_context(_north(tmp_path, _archive(orthanc.port)))
        _kill_orthanc(north, orthanc, tmp_path / "in")


def _count(orthanc: Orthanc) -> int:
    return int(orthanc.rest("GET", "/statistics")["CountInstances"])


def _kill_orthanc(north: Facility, orthanc: Orthanc, folder: Path) -> None:
    with orthanc.running():
        north.call("ingest", paths=[str(folder)])
        wait_until(lambda: _count(orthanc) >= 20, what="some arrive")
    wait_until(lambda: north.call("archive")["archives"][0]["trouble"], what="it is noticed")
    with orthanc.running():
        north.cli("archive", "retry")
        wait_until(lambda: _states(north) == ["stored"], 60, "it is stored")
        assert sorted(map(data_set_of, orthanc.files())) == sorted(
            data_set_of(path.read_bytes()) for path in folder.iterdir()
        )
