import errno
import json
import os
import socket
from pathlib import Path

import blake3
import pydicom
import pytest
from node_home import ImageHome
from studies_made import contents, make_instance, make_study

from node.errors import ExitCode, NodeError
from node.images import quarantine, sources
from node.images.export import export_study
from node.images.ingest_report import IngestReport


@pytest.fixture
def home(tmp_path):
    made = ImageHome(tmp_path / "home")
    yield made
    made.close()


def exported(home: ImageHome, study: str, directory: Path) -> set[bytes]:
    export_study(home.catalog, home.store, study, directory)
    return contents(directory)


def names(problems):
    return sorted(Path(one.file).name for one in problems)


# --- files that are not taken ------------------------------------------------------


def _other_version(path: Path, target: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.PatientID = "SOMEBODY-ELSE"
    dataset.save_as(target)


def test_other_bytes_under_a_known_uid(home, tmp_path):
    study = make_study(tmp_path / "in", 2)
    home.ingest(tmp_path / "in")
    _other_version(tmp_path / "in" / "IM00001.dcm", tmp_path / "other.dcm")
    for _ in range(2):
        report = home.ingest(tmp_path / "other.dcm")
        (problem,) = report.conflicts
        assert "the study keeps the one that came first" in problem.reason
        kept = home.quarantine / problem.kept_at / "file"
        assert kept.read_bytes() == (tmp_path / "other.dcm").read_bytes()
        assert not report.is_complete
    assert len(list(home.quarantine.iterdir())) == 1
    (row,) = home.catalog.conflicts(study)
    assert row.digest == blake3.blake3((tmp_path / "other.dcm").read_bytes()).digest()
    assert row.kept_at == problem.kept_at
    assert exported(home, study, tmp_path / "out") == contents(tmp_path / "in")


def test_two_versions_in_one_run_keep_the_first_by_name(home, tmp_path):
    make_study(tmp_path / "in", 1)
    _other_version(tmp_path / "in" / "IM00001.dcm", tmp_path / "in" / "IM00002.dcm")
    report = home.ingest(tmp_path / "in")
    assert report.instances_new == 1
    assert names(report.conflicts) == ["IM00002.dcm"]


def test_another_patient_in_a_known_study_is_noted(home, tmp_path):
    study = make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    instance = make_instance(study, 2)
    instance.PatientID = "SOMEBODY-ELSE"
    instance.save_as(tmp_path / "two.dcm", enforce_file_format=True)
    report = home.ingest(tmp_path / "two.dcm")
    assert report.instances_new == 1
    (note,) = report.notes
    assert "another Patient ID" in note
    assert "SOMEBODY" not in note


def test_quarantine_keeps_bytes_and_reason(home, tmp_path):
    make_study(tmp_path / "in", 1)
    whole = (tmp_path / "in" / "IM00001.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-10])
    for _ in range(2):
        report = home.ingest(tmp_path / "cut.dcm")
        (problem,) = report.quarantined
        assert problem.reason.startswith("is cut")
    (folder,) = home.quarantine.iterdir()
    digest = blake3.blake3(whole[:-10]).hexdigest()
    assert folder.name == problem.kept_at == f"20260921-{digest[:32]}"
    assert (folder / "file").read_bytes() == whole[:-10]
    reason = json.loads((folder / "reason.json").read_text())
    assert reason["reason"] == problem.reason
    assert reason["blake3"] == digest
    assert reason["path"] == str(tmp_path / "cut.dcm")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_files_too_large_to_keep_are_only_reported(home, tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "MAX_FILE_BYTES", 100)
    (tmp_path / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"x" * 500)
    (problem,) = home.ingest(tmp_path / "bad.dcm").quarantined
    assert problem.kept_at == ""
    assert list(home.quarantine.iterdir()) == []


def test_odd_things_in_a_folder(home, tmp_path):
    study = make_study(tmp_path / "in", 1)
    folder = tmp_path / "in"
    (folder / "notes.txt").write_text("not an image")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to(tmp_path / "nothing")
    (folder / "secret.dcm").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        (folder / "caf\udce9 \x1b[2J.dcm").write_bytes(b"odd name")
        (folder / "empty").write_bytes(b"")
        report = home.ingest(folder)
    assert report.instances_new == 1
    assert report.skipped_links == 3
    assert report.skipped_not_dicom == 2
    assert names(report.unreadable) == ["pipe.dcm", "socket"]
    assert {one.reason for one in report.unreadable} == {"is no regular file"}
    (odd,) = report.quarantined
    assert odd.file.isprintable()
    json.dumps(report.to_json()).encode("ascii")
    assert home.catalog.study(study) is not None


def test_given_path_may_be_a_link(home, tmp_path):
    make_study(tmp_path / "in", 1)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert home.ingest(tmp_path / "link").instances_new == 1


def test_home_is_never_ingested(home, tmp_path):
    make_study(tmp_path / "in", 1)
    (tmp_path / "cut.dcm").write_bytes(bytes(128) + b"DICM")
    home.ingest(tmp_path)
    report = home.ingest(tmp_path)
    assert report.files == 2
    assert len(list(home.quarantine.iterdir())) == 1


def test_path_that_does_not_exist(home, tmp_path):
    make_study(tmp_path / "in", 1)
    with pytest.raises(NodeError) as caught:
        home.ingest(tmp_path / "in", tmp_path / "nothing")
    assert caught.value.code is ExitCode.NOT_FOUND
    assert home.catalog.studies() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_and_folders(home, tmp_path):
    make_study(tmp_path / "in", 2)
    (tmp_path / "in" / "IM00001.dcm").chmod(0)
    (tmp_path / "in" / "closed").mkdir(mode=0)
    report = home.ingest(tmp_path / "in")
    assert report.instances_new == 1
    assert names(report.unreadable) == ["IM00001.dcm", "closed"]


def test_files_that_the_system_does_not_let_us_open(home, tmp_path, monkeypatch):
    make_study(tmp_path / "in", 2)
    real = sources.open_file

    def open_file(path):
        if path.name == "IM00001.dcm":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    monkeypatch.setattr(sources, "open_file", open_file)
    report = home.ingest(tmp_path / "in")
    assert report.instances_new == 1
    (problem,) = report.unreadable
    assert problem.reason == "cannot be read: Permission denied"


# --- every file of the broken set ---------------------------------------------------

TAKEN = "taken"
"""Whole Part 10 files with the four UIDs: what is odd inside is the images' own."""
SKIPPED = "not dicom"
DIRECTORY = "media directory"
BROKEN = {
    "3gb-bulk-data-truncated": "is cut: the element (7FE0,0010)",
    "DICOMDIR-empty.dcm": DIRECTORY,
    "DICOMDIR-nooffset": DIRECTORY,
    "DICOMDIR-nopatient": DIRECTORY,
    "D_CLUNIE_CT1_RLE_FRAGS.dcm": TAKEN,
    "ExplVR_BigEndNoMeta.dcm": "is a bare data set",
    "ExplVR_LitEndNoMeta.dcm": "is a bare data set",
    "GDCMJ2K_TextGBR.dcm": TAKEN,
    "GH177_D_CLUNIE_CT1_IVRLE_BigEndian_ELE_undefinded_length.dcm": "kept aside",
    "GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm": "has an element where an item",
    "Issue1097_FailToOpenDeflatedFileWithSQ.dcm": TAKEN,
    "J2K_pixelrep_mismatch.dcm": TAKEN,
    "JLSL_RGB_ILV0.dcm": "has its file meta without preamble",
    "JPEG2000-embedded-sequence-delimiter.dcm": TAKEN,
    "JPEGLSNearLossless_16.dcm": "has no Study Instance UID",
    "MR_small_padded.dcm": TAKEN,
    "MR_truncated.dcm": "is cut: the element (7FE0,0010)",
    "OT-PAL-8-face.dcm": "is a bare data set",
    "SC_rgb_small_odd.dcm": TAKEN,
    "UN_sequence.dcm": "has no Study Instance UID",
    "badVR.dcm": TAKEN,
    "bad_sequence.dcm": "has a Study Instance UID that is no UID",
    "cut-in-header.dcm": "is cut",
    "cut-in-pixel-data.dcm": "is cut: the element (7FE0,0010)",
    "empty.dcm": "is named as DICOM and is empty",
    "empty_charset_LEI.dcm": "has no Study Instance UID",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "is cut: it ends inside a sequence",
    "explicit_VR-UN.dcm": TAKEN,
    "meta_missing_tsyntax.dcm": "has file meta without a Transfer Syntax UID",
    "nested_priv_SQ.dcm": "has no Study Instance UID",
    "no-sop-instance-uid.dcm": "has no SOP Instance UID",
    "no-study-uid.dcm": "has no Study Instance UID",
    "no_meta.dcm": "is named as DICOM and is none",
    "no_meta_group_length.dcm": "has no Study Instance UID",
    "no_preamble_dicm_in_data": "has file meta without a Transfer Syntax UID",
    "preamble-only.dcm": "has file meta without a Transfer Syntax UID",
    "priv_SQ.dcm": "has no Study Instance UID",
    "reportsi_with_empty_number_tags.dcm": TAKEN,
    "rtplan_truncated.dcm": "is cut",
    "rtstruct.dcm": "is a bare data set",
    "same-sop-uid-other-bytes.dcm": TAKEN,
    "study-uid-is-a-path.dcm": "has a Study Instance UID that is no UID",
    "test1.json": SKIPPED,
    "zipMR.gz": SKIPPED,
}


def verdict(report: IngestReport) -> str:
    """What became of the one file of an ingest."""
    assert report.files == 1
    if report.instances_new:
        return TAKEN
    if report.skipped_not_dicom:
        return SKIPPED
    if report.skipped_media_directories:
        return DIRECTORY
    if report.conflicts:
        return "kept aside"
    (problem,) = report.quarantined
    return problem.reason


def test_every_broken_file_has_its_verdict(home, shared, tmp_path):
    folder = shared / "data" / "broken"
    found = {path.name for path in folder.iterdir()}
    assert found == set(BROKEN)
    taken = set()
    for name, expected in BROKEN.items():
        report = home.ingest(folder / name)
        assert verdict(report).startswith(expected), name
        for problem in report.quarantined + report.conflicts:
            kept = home.quarantine / problem.kept_at / "file"
            assert kept.read_bytes() == (folder / name).read_bytes(), name
        if expected == TAKEN:
            taken.add((folder / name).read_bytes())
    out = set()
    for number, row in enumerate(home.catalog.studies()):
        out |= exported(home, row.study_uid, tmp_path / "out" / str(number))
    assert out == taken
    # Nothing left the home, and no name in it comes from a file.
    assert {path.name for path in tmp_path.iterdir()} == {"home", "out"}
    assert all(
        part.replace("-", "").isalnum() or part in ("reason.json",)
        for path in home.quarantine.rglob("*")
        for part in path.relative_to(home.quarantine).parts
    )


def test_known_instance_of_the_broken_set_wins_over_its_forgery(home, shared):
    ct_small = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
    home.ingest(ct_small)
    report = home.ingest(shared / "data" / "broken" / "same-sop-uid-other-bytes.dcm")
    assert len(report.conflicts) == 1
    (row,) = home.catalog.studies()
    assert row.patient_id == pydicom.dcmread(ct_small).PatientID


@pytest.mark.slow
def test_all_shared_files_at_once(home, shared, tmp_path):
    report = home.ingest(shared / "data")
    assert report.instances_new > 740
    assert report.unreadable == []
    originals = {path.read_bytes() for path in (shared / "data").rglob("*") if path.is_file()}
    out = set()
    for number, row in enumerate(home.catalog.studies()):
        out |= exported(home, row.study_uid, tmp_path / "out" / str(number))
    assert len(out) == report.instances_new
    assert out <= originals
