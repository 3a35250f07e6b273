"""A study that comes from another node is matched with the commands that a person has."""

import io
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from facilities import Facility, two_facilities, wait_until
from studies_made import make_instance

from node.app import Node
from node.dicom.coercion import coerced
from node.errors import ExitCode

pytestmark = [pytest.mark.integration, pytest.mark.slow]

STUDY, OWN = "1.2.826.0.1.3680043.8.498.51", "1.2.826.0.1.3680043.8.498.52"
SETTINGS = """
[identity]
issuer = "HOSP-A"

[identity.peers."North General"]
prefix = "N-"
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Facility, Facility]]:
    with two_facilities(tmp_path, start=False) as (north, south):
        with south.home.config_path.open("a") as file:
            file.write(SETTINGS)
        north.start()
        south.start()
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        yield north, south


def _ingest(facility: Facility, folder: Path, study: str, **said: str) -> None:
    dataset = make_instance(study, 1, rows=16)
    dataset.PatientBirthDate, dataset.PatientSex = "19700131", "F"
    for name, value in said.items():
        setattr(dataset, name, value)
    folder.mkdir()
    dataset.save_as(folder / "one.dcm", enforce_file_format=True)
    facility.call("ingest", paths=[str(folder)])


def test_who_may_be_meant_is_shown_and_a_person_says_who_it_is(
    pair: tuple[Facility, Facility], tmp_path: Path
) -> None:
    north, south = pair
    there = {"PatientID": "4711", "IssuerOfPatientID": "NORTH", "AccessionNumber": "ACC1"}
    _ingest(north, tmp_path / "there", STUDY, PatientName="Mueller^Anna", **there)
    _ingest(south, tmp_path / "here", OWN, PatientID="H-77", PatientName="Müller^Anna")
    south.call("fetch", study=STUDY, peer=north.name)
    listed = south.cli("match")
    assert f"{STUDY}  from North General: CT, 20260301, MADE FOR A TEST" in listed.stdout
    assert "nothing says which patient here it is" in listed.stdout
    [there_line] = [line for line in listed.stdout.splitlines() if "there" in line]
    assert there_line.split() == ["there", "4711", "NORTH", "Mueller^Anna", "19700131", "F"]
    [here_line] = [line for line in listed.stdout.splitlines() if " here " in line and "77" in line]
    assert here_line.split()[:6] == ["here", "H-77", "HOSP-A", "Müller^Anna", "19700131", "F"]

    south.call("match.set", study=STUDY, temporary=True)
    assert "now under the temporary Patient ID TEMP-" in south.cli("match").stdout
    words = ["--patient-id", "H-77", "--name", "Müller, Anna", "--born", "1970-01-31"]
    assert "is of the patient H-77 of HOSP-A" in south.cli("match", STUDY, *words).stdout
    assert south.call("match.list", study=STUDY)["studies"] == []
    assert south.cli("match", OWN, "--patient-id", "X", check=False).returncode == ExitCode.USAGE
    for word in ("4711", "H-77", "ller", "ACC1"):
        assert word not in south.stderr()
    south.check_log(tmp_path)

    # What goes to an archive after a new start of the node.
    south.call("export", study=STUDY, directory=str(tmp_path / "out"))
    [path] = [one for one in (tmp_path / "out").rglob("*") if one.is_file()]
    assert path.read_bytes() == (tmp_path / "there" / "one.dcm").read_bytes()
    south.stop()
    with Node.open(south.home) as node:
        identity = node.matches.ready(STUDY)
        assert identity is not None
        image = pydicom.dcmread(io.BytesIO(coerced(path.read_bytes(), identity, 1)))
    assert (image.PatientID, image.IssuerOfPatientID) == ("H-77", "HOSP-A")
    assert (str(image.PatientName), image.AccessionNumber) == ("Müller^Anna", "N-ACC1")
    assert "waits again" in south.cli("match", STUDY, "--undo").stdout
    assert "its match was undone" in south.cli("match").stdout
