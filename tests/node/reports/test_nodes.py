"""Reports of two running nodes: a real transfer in each format, and a collector of one."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import balp_rules
import pytest
from audit_message_schema import problems
from certificates_made import Authority, SyslogCollector, collector
from facilities import Facility, two_facilities, wait_until
from studies_made import make_study

pytestmark = [pytest.mark.slow, pytest.mark.integration]

PATIENT = "MARKER-PATIENT-ID"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyslogCollector]:
    """The collector of South."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with collector(authority.issue("localhost"), clients=authority.ca) as found:
        found.ca, found.ours = authority.ca, authority.issue("south", name="south")
        yield found


@pytest.fixture(scope="module")
def fetched(
    server: SyslogCollector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Facility, Facility, str]]:
    """North, South, and the study that South has fetched from North."""
    directory = tmp_path_factory.mktemp("pair")
    with two_facilities(directory, start=False) as (north, south):
        settings = south.home.config_path
        settings.write_text(
            settings.read_text()
            + f'[audit.syslog]\naddress = "localhost:{server.port}"\nca = "{server.ca}"\n'
            f'certificate = "{server.ours}"\nformat = "json"\n'
        )
        north.start()
        south.start()
        study = make_study(directory / "in", 3)
        north.call("ingest", paths=[str(directory / "in")])
        wait_until(lambda: study in south.announced(north), what="announcement")
        assert south.call("fetch", study=study, purpose="research")["state"] == "complete"
        yield north, south, study


def test_both_sides_account_for_the_transfer(
    fetched: tuple[Facility, Facility, str], tmp_path: Path
) -> None:
    north, south, study = fetched
    path = tmp_path / "north.csv"
    north.cli("audit", "report", "accounting", "--output", str(path), "--patient", PATIENT)
    with path.open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["recipient_name"], row["study"], row["patient"]) == (south.name, study, PATIENT)
    assert (row["purpose"], row["instances"]) == ("research", "3")
    assert row["outcome"] == "received by the recipient"
    assert f"/tcp/{south.port}" in row["recipient_network_address"]

    for facility, kind, ends in ((north, "Source", "Export"), (south, "Recipient", "Import")):
        path = tmp_path / f"{kind}.ndjson"
        facility.cli("audit", "report", "fhir", "--output", str(path), "--study", study)
        events = [json.loads(line) for line in path.read_text().splitlines()]
        [told] = [event for event in events if "meta" in event]
        assert told["meta"]["profile"][0].endswith(f".{kind}")
        assert told["type"]["display"] == ends
        assert balp_rules.problems(told) == []
        assert PATIENT in json.dumps(told)

        path = tmp_path / f"{kind}.xml"
        facility.cli("audit", "report", "dicom", "--output", str(path), "--study", study)
        messages = list(ElementTree.fromstring(path.read_bytes()))
        assert [problem for message in messages for problem in problems(message)] == []
        assert "110104" in {message.find("*/EventID").attrib["csd-code"] for message in messages}
    north.check_log(tmp_path)
    south.check_log(tmp_path)


def test_every_entry_of_a_transfer_names_the_patient(
    fetched: tuple[Facility, Facility, str],
) -> None:
    for facility, kinds in (
        (fetched[0], ("disclosure-begun", "disclosed", "receipt")),
        (fetched[1], ("received", "receipt")),
    ):
        for kind in kinds:
            [entry] = facility.entries(kind)
            assert {"kind": "patient", "value": PATIENT} in entry["opened"], kind


def test_a_running_node_forwards_its_log(
    fetched: tuple[Facility, Facility, str], server: SyslogCollector
) -> None:
    _, south, _ = fetched

    def is_level() -> bool:
        status = south.call("status")
        assert status["collector"]["last_error"] is None
        return status["collector"]["delivered"] >= status["log_size"]

    wait_until(is_level, what="the collector has all")
    sent = [json.loads(one.partition(b"\xef\xbb\xbf")[2]) for one in server.wait(1)]
    shown = south.entries()
    for entry in shown:
        del entry["opened"], entry["peer_name"]
    assert sent == shown[: len(sent)]
    assert len(sent) > 8
    assert "the collector localhost:" in south.cli("status").stdout
    assert "CN" in str(server.peers[0]) or "south" in str(server.peers[0])


def test_a_running_node_erases_and_its_log_verifies(
    fetched: tuple[Facility, Facility, str], tmp_path: Path
) -> None:
    _, south, study = fetched
    shown = south.cli("audit", "erase", PATIENT, "--yes").stdout
    assert "not touched: the images" in shown
    files = [path for path in south.home.audit_path.iterdir() if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    assert study.encode() not in content
    assert PATIENT.encode() not in content
    assert all(entry["opened"] == [] for entry in south.entries("received"))
    assert south.call("transfers")["transfers"] == []
    south.check_log(tmp_path, "erased")
