"""Reports, exports that name less, sending and erasing, as a person types them."""

import csv
import hashlib
import json
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from audit_message_schema import problems
from certificates_made import Authority, collector
from terminal import STUDY, Terminal, images, north, terminal

from node.audit.erasure import Erasures
from node.errors import ExitCode
from node.home import Home
from protocol.log.entry import commitment

__all__ = ["images", "north", "terminal"]

PATIENT = "1CT1"


@pytest.fixture
def log(north: Terminal, images: Path) -> Terminal:
    """A home that has taken in one study."""
    assert north.run("ingest", str(images)).code == 0
    north.session = ""
    return north


def _entries(log: Terminal, *words: str) -> list[dict]:
    return json.loads(log.run("audit", "show", "--all", "--json", *words).out)["entries"]


def test_reports_and_erasing_on_the_terminal(log: Terminal, tmp_path: Path) -> None:
    for form in ("dicom", "fhir", "accounting"):
        ran = log.run("audit", "report", form, "--output", str(tmp_path / f"report.{form}"))
        log.session = re.sub(r"salt [0-9a-f]{32}", "salt SALT", log.session)
        log.session = re.sub(r"\([0-9.]+ k?B\)", "(SIZE)", log.session)
        assert ran.code == 0
    log.run("audit", "erase", STUDY, "--yes")
    log.session = re.sub(r"salt [0-9a-f]{32}", "salt SALT", log.session)
    log.run("audit", "erase", STUDY, "--yes")
    log.expect(
        f"""
        $ radmesh audit report dicom --output DIR/report.dicom
        wrote 2 messages (SIZE) to DIR/report.dicom
        entry 2 says so; to show later that it is this file, keep: salt SALT
        $ radmesh audit report fhir --output DIR/report.fhir
        wrote 3 messages (SIZE) to DIR/report.fhir
        entry 3 says so; to show later that it is this file, keep: salt SALT
        $ radmesh audit report accounting --output DIR/report.accounting
        wrote 0 disclosures (SIZE) to DIR/report.accounting
        entry 4 says so; to show later that it is this file, keep: salt SALT
        $ radmesh audit erase {STUDY} --yes
        erased 2 openings of 1 entry; entry 5 says so
        to show later what was erased, keep: commitment HEX salt SALT
        not touched: the images and the catalog, which still have 1 study of it
        not touched either: backups, bundles and reports of before, and what peers hold
        $ radmesh audit erase {STUDY} --yes
        radmesh: error: nothing beside the log names this study or patient
        radmesh: hint: give the whole Study Instance UID, or the Patient ID as in the images
        (exit 5)
        """
    )


def test_a_report_is_whole_and_its_entry_fits_it(log: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    made = json.loads(log.run("audit", "report", "dicom", "--output", str(path), "--json").out)
    root = ElementTree.fromstring(path.read_bytes())
    assert [problem for message in root for problem in problems(message)] == []
    assert len(root) == made["count"] == 2
    assert path.stat().st_mode & 0o777 == 0o600
    digest = hashlib.sha256(path.read_bytes())
    assert made["sha256"] == digest.hexdigest()
    [entry] = _entries(log, "--type", "log-exported")
    assert entry["index"] == made["entry"]
    assert entry["details"] == {
        "bytes": path.stat().st_size,
        "count": 2,
        "digest": hashlib.sha256(bytes.fromhex(made["salt"]) + digest.digest()).hexdigest(),
        "end": 2,
        "first": 0,
        "format": "dicom",
        "left_out": 0,
    }


def test_a_report_never_replaces_a_file_and_says_where_it_cannot_write(
    log: Terminal, tmp_path: Path
) -> None:
    path = tmp_path / "there"
    path.write_text("mine")
    for target, code in ((path, ExitCode.USAGE), (tmp_path / "no/such/folder", ExitCode.DISK)):
        ran = log.run("audit", "report", "fhir", "--output", str(target))
        assert ran.code == code
        assert "hint" in ran.err
    assert path.read_text() == "mine"
    assert _entries(log, "--type", "log-exported") == []
    assert [one.name for one in tmp_path.iterdir() if one.name.endswith(".new")] == []


def test_a_report_of_a_patient_leaves_a_commitment_in_the_log(
    log: Terminal, tmp_path: Path
) -> None:
    path = tmp_path / "report.csv"
    log.run("audit", "report", "accounting", "--output", str(path), "--patient", PATIENT)
    assert list(csv.DictReader(path.read_text().splitlines())) == []
    [entry] = _entries(log, "--type", "log-exported")
    assert [subject["kind"] for subject in entry["subjects"]] == ["patient"]
    assert PATIENT not in json.dumps({**entry, "opened": []})
    assert entry["opened"] == [{"kind": "patient", "value": PATIENT}]


def test_a_patient_whom_the_log_cannot_name_is_an_error_that_names_nobody(
    log: Terminal, tmp_path: Path
) -> None:
    ran = log.run(
        "audit", "report", "accounting", "--output", str(tmp_path / "r"), "--patient", "SECRET-9"
    )
    assert ran.code == ExitCode.NOT_FOUND
    assert "SECRET-9" not in ran.err
    assert not (tmp_path / "r").exists()


def test_entries_are_shown_by_study_patient_peer_and_time(log: Terminal) -> None:
    assert [entry["type"] for entry in _entries(log, "--study", STUDY)] == ["ingest"]
    assert [entry["type"] for entry in _entries(log, "--study", STUDY[:12])] == ["ingest"]
    assert [entry["type"] for entry in _entries(log, "--patient", PATIENT)] == ["ingest"]
    assert _entries(log, "--until", "2020-01-01") == []
    assert len(_entries(log, "--since", "2020-01-01", "--until", "2999-01-01T00:00Z")) == 2
    assert log.run("audit", "show", "--peer", "Nobody").code == ExitCode.NOT_FOUND
    assert log.run("audit", "show", "--study", "9.9.9.9.9").code == ExitCode.NOT_FOUND
    assert log.run("audit", "show", "--since", "noon").code == ExitCode.USAGE
    assert len(json.loads(log.run("audit", "show", "--last", "1", "--json").out)["entries"]) == 1


def test_a_bundle_names_only_what_it_may(log: Terminal, images: Path, tmp_path: Path) -> None:
    import pydicom

    other = pydicom.dcmread(images / "ct.dcm")
    other.StudyInstanceUID, other.PatientID = "1.2.3.4.5.6", "OTHER-1"
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5.6.7"
    other.save_as(tmp_path / "other.dcm")
    log.run("ingest", str(tmp_path / "other.dcm"))
    for words, named in (((), 4), (("--study", STUDY), 2), (("--without-openings",), 0)):
        path = tmp_path / f"bundle-{named}.zip"
        assert log.run("audit", "export", str(path), *words).code == 0
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            text = archive.read("openings.jsonl").decode() if "openings.jsonl" in names else ""
            assert len(archive.read("entries.jsonl").splitlines()) >= 3
        # The export of one study names it by an opening of its own.
        values = [json.loads(line)["value"] for line in text.splitlines()]
        assert len(values) == named
        assert named == 4 or "OTHER-1" not in values
        card = str(log.home / "card")
        assert log.run("audit", "verify", str(path), "--facility", card).code == 0
    exported = [entry["details"] for entry in _entries(log, "--type", "log-exported")]
    assert [details["openings"] for details in exported] == ["all", "some", "none"]
    for details, named in zip(exported, (4, 2, 0), strict=True):
        content = (tmp_path / f"bundle-{named}.zip").read_bytes()
        assert details["sha256"] == hashlib.sha256(content).hexdigest()
        assert details["bytes"] == len(content)


def test_erasing_asks_first(log: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = log.run("audit", "erase", PATIENT)
    assert (nobody.code, "--yes" in nobody.err) == (ExitCode.USAGE, True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, code in (("n", ExitCode.INTERRUPTED), ("y", ExitCode.OK)):
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _, given=answer: given)
        ran = log.run("audit", "erase", PATIENT)
        assert ran.code == code
        assert "named by 2 openings of 1 entry (1 study)" in ran.err
    [entry] = _entries(log, "--type", "erased")
    assert entry["details"]["openings"] == 2
    assert _entries(log, "--type", "ingest")[0]["opened"] == []


def test_what_was_erased_is_in_no_file_of_the_log_and_can_be_shown_by_whoever_kept_the_salt(
    log: Terminal, tmp_path: Path
) -> None:
    before = b"".join(one.read_bytes() for one in (log.home / "audit").iterdir())
    assert STUDY.encode() in before
    done = json.loads(log.run("audit", "erase", PATIENT, "--yes", "--json").out)
    assert commitment("patient", PATIENT, bytes.fromhex(done["salt"])) == done["commitment"]
    after = b"".join(one.read_bytes() for one in (log.home / "audit").iterdir())
    assert STUDY.encode() not in after
    assert PATIENT.encode() not in after
    path = tmp_path / "bundle.zip"
    log.run("audit", "export", str(path))
    assert log.run("audit", "verify", str(path), "--facility", str(log.home / "card")).code == 0
    assert STUDY in log.run("studies", "--json").out


def test_an_erasure_that_a_crash_interrupted_is_finished_by_the_next_command(
    log: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Erasures, "finish", _crash)
        assert log.run("audit", "erase", STUDY, "--yes").code != 0
    assert len(_entries(log, "--type", "erased")) == 1
    audit = Home(log.home).audit_path
    assert STUDY.encode() not in b"".join(one.read_bytes() for one in audit.iterdir())


def _crash(*_: object) -> None:
    raise ZeroDivisionError


def test_the_log_is_sent_to_a_collector_once(log: Terminal, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with collector(authority.issue("localhost")) as server:
        to = f"localhost:{server.port}"
        words = ("audit", "send", "--to", to, "--ca", str(authority.ca))
        assert log.run(*words).out == f"{to} has 2 messages\n"
        assert len(server.wait(2)) == 2
        assert STUDY.encode() in server.messages[1]
        assert log.run(*words, "--format", "json", "--study", STUDY).out == f"{to} has 1 message\n"
        assert STUDY.encode() not in server.wait(3)[2]
    told = [entry["details"] for entry in _entries(log, "--type", "log-exported")]
    assert [(one["format"], one["messages"], one["to"]) for one in told] == [
        ("syslog", "dicom", to),
        ("syslog", "json", to),
    ]
    ran = log.run(*words)
    assert ran.code == ExitCode.UNREACHABLE
    assert len(_entries(log, "--type", "log-exported")) == 2
