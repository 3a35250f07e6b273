"""From the send list of a PACS at North into the PACS of South, and back the word of it."""

import subprocess
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from archives_made import LOOPBACK
from dimse_made import with_dcmtk
from facilities import free_port, two_facilities, wait_until
from orthanc_made import made_orthanc, with_orthanc
from studies_made import make_study

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@with_dcmtk
@with_orthanc
def test_a_radiographer_sends_and_the_study_is_in_the_partners_pacs(tmp_path: Path) -> None:
    """Nobody does anything at South: a rule takes the offer, the issuer says whose it is."""
    port, orthanc = free_port(), made_orthanc(tmp_path / "pacs")
    study = make_study(tmp_path / "in", 5, rows=64)
    files = sorted((tmp_path / "in").iterdir())
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.PatientID, dataset.IssuerOfPatientID = "R-12", "REGION"
        dataset.AccessionNumber = "A-1"
        dataset.save_as(path)
    with two_facilities(tmp_path, grants=(), start=False) as (north, south), orthanc.running():
        with north.home.config_path.open("a") as settings:
            settings.write(f"""
[dimse]
listen = ["{LOOPBACK}:{port}"]
[dimse.callers."CT1"]
addresses = ["{LOOPBACK}"]
[dimse.doors."RM_SOUTH"]
to = "{south.name}"
purpose = "treatment"
[arrivals."dimse"]
quiet_seconds = 1
""")
        with south.home.config_path.open("a") as settings:
            settings.write(f"""
[archives."PACS"]
ae_title = "PACS"
host = "{LOOPBACK}"
port = {orthanc.port}
rules = [{{ source = ["peer:*"] }}]
[identity]
issuer = "HOSPITAL"
ours = ["REGION"]
[identity.peers."{north.name}"]
prefix = "N-"
""")
        north.start()
        south.start()
        south.call("rules.add", peer=north.name, rule=["allow", "send"])
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        command = ["storescu", "-aet", "CT1", "-aec", "RM_SOUTH", "+sd", LOOPBACK, port,
                   tmp_path / "in"]  # fmt: skip
        sent = subprocess.run([str(one) for one in command], capture_output=True, timeout=60)
        assert sent.returncode == 0, sent.stderr
        wait_until(lambda: north.entries("stored-heard"), what="North is told that it is stored")
        [transfer] = north.call("transfers")["transfers"]
        assert transfer["study"] == study
        shown = north.cli("transfers").stdout
        assert "received" in shown
        assert "stored" in shown
        found = {str(one.SOPInstanceUID): one for one in
                 (pydicom.dcmread(BytesIO(data)) for data in orthanc.files())}  # fmt: skip
        assert len(found) == len(files)
        for ours in map(pydicom.dcmread, files):
            theirs = found[str(ours.SOPInstanceUID)]
            assert theirs.PixelData == ours.PixelData
            assert (theirs.PatientID, theirs.IssuerOfPatientID) == ("R-12", "HOSPITAL")
            assert theirs.AccessionNumber == "N-A-1"
        for facility in (north, south):
            facility.check_log(tmp_path, facility.name)
            assert "R-12" not in facility.stderr()
