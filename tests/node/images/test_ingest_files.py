import contextlib
import errno
import json
import os
import socket
import sqlite3
import struct
import threading
from pathlib import Path

import blake3
import pydicom
import pytest
from node_home import NOW, ImageHome
from part10_made import element
from studies_made import contents, make_instance, make_study

from node.errors import ExitCode, NodeError
from node.images import ingest, quarantine, sources
from node.images.export import export_study
from node.images.ingest_report import IngestReport
from node.images.media import listing_of
from protocol import limits
from protocol.manifest import Manifest


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
        (told,) = report.studies
        assert (told.new, told.known, told.conflicting) == (0, 0, 1)
        assert "the study keeps the one that came first" in problem.reason
        kept = home.quarantine / problem.kept_at / "file"
        assert kept.read_bytes() == (tmp_path / "other.dcm").read_bytes()
        assert not report.is_complete
    assert len(list(home.quarantine.iterdir())) == 1
    (row,) = home.catalog.conflicts(study)
    assert row.digest == blake3.blake3((tmp_path / "other.dcm").read_bytes()).digest()
    assert row.kept_at == problem.kept_at
    assert exported(home, study, tmp_path / "out") == contents(tmp_path / "in")


def test_other_bytes_too_large_to_keep_are_only_reported(home, tmp_path, monkeypatch):
    study = make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    _other_version(tmp_path / "in" / "IM00001.dcm", tmp_path / "other.dcm")
    monkeypatch.setattr(quarantine, "MAX_FILE_BYTES", 100)
    report = home.ingest(tmp_path / "other.dcm")
    assert [one.kept_at for one in report.conflicts] == [""]
    # The catalog names conflicts of which there is a copy to look at.
    assert home.catalog.conflicts(study) == []


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
    [note] = report.notes
    assert "its images name 2 Patient IDs; it is not shared" in note
    assert home.catalog.study(study).state == "to check"
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
    assert report.skipped_not_dicom == 1
    assert names(report.unreadable) == ["pipe.dcm", "socket"]
    assert {one.reason for one in report.unreadable} == {"is no regular file"}
    odd, empty = report.quarantined
    assert empty.reason == "is empty"
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


# --- files that a medium should have ------------------------------------------------


def test_lost_files_of_a_medium_are_told(home, tmp_path):
    study = make_study(tmp_path / "in", 1)
    whole = (tmp_path / "in" / "IM00001.dcm").read_bytes()
    for name, data in (("IM0001", b""), ("IM0002", bytes(5000)), ("IM0003", whole[128:]),
                       ("IM0004", bytes(128) + whole), ("IM0005", whole[132:])):  # fmt: skip
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in" / "._IM0001").write_bytes(b"\0\5\x16\7" + bytes(4092))
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "__MACOSX" / "._IM00001.dcm").write_bytes(b"\0\5\x16\7" + bytes(50))
    report = home.ingest(tmp_path / "in")
    assert names(report.quarantined) == ["IM0001", "IM0002", "IM0003", "IM0004", "IM0005"]
    assert report.skipped_not_dicom == 2
    assert not report.is_complete
    assert exported(home, study, tmp_path / "out") == {whole}


@pytest.fixture
def medium(tmp_path):
    """A medium with two files, of which one is named in another way, and a DICOMDIR of three."""
    make_study(tmp_path / "medium" / "DIR1", 3)
    folder = tmp_path / "medium"
    (folder / "DIR1" / "IM00001.dcm").rename(folder / "DIR1" / "IM1")
    (folder / "DIR1" / "IM00002.dcm").rename(folder / "DIR1" / "im2.;1")
    (folder / "DIR1" / "IM00003.dcm").unlink()
    return folder


def _media_directory(files: list[bytes], form: str) -> bytes:
    """A DICOMDIR with records of these file IDs, in a transfer syntax."""
    syntax = {"explicit": "1.2.840.10008.1.2.1", "implicit": "1.2.840.10008.1.2",
              "big": "1.2.840.10008.1.2.2"}[form]  # fmt: skip
    order = ">" if form == "big" else "<"
    head = bytes(128) + b"DICM" + element(0x00020002, b"UI", b"1.2.840.10008.1.3.10")
    head += element(0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    records = b""
    for file in files:
        value = file + b" " * (len(file) % 2)
        record = struct.pack(f"{order}HH", 0x0004, 0x1500)
        if form == "implicit":
            record += struct.pack("<I", len(value)) + value
        else:
            record += b"CS" + struct.pack(f"{order}H", len(value)) + value
        records += struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(record)) + record
    sequence = struct.pack(f"{order}HH", 0x0004, 0x1220)
    sequence += b"" if form == "implicit" else b"SQ\0\0"
    return head + sequence + struct.pack(f"{order}I", len(records)) + records


@pytest.mark.parametrize("form", ["explicit", "implicit", "big"])
def test_what_a_media_directory_lists_and_is_missing_is_named(home, medium, form):
    listed = [rb"DIR1\IM1", rb"DIR1\IM2", rb"DIR1\IM3", rb"DIR2\IM1", rb"..\..\etc\passwd",
              b"WITH\x1b[2J", rb"DIR1\IM3"]  # fmt: skip
    (medium / "DICOMDIR").write_bytes(_media_directory(listed, form))
    report = home.ingest(medium)
    assert report.instances_new == 2
    assert report.skipped_media_directories == 1
    assert [Path(one.file).relative_to(medium).as_posix() for one in report.missing] == [
        "DIR1/IM3", "DIR2/IM1",
    ]  # fmt: skip
    assert all("is listed in" in one.reason for one in report.missing)
    assert not report.is_complete


def test_a_whole_medium_and_any_bytes_of_a_media_directory(home, medium):
    (medium / "DICOMDIR").write_bytes(_media_directory([rb"DIR1\IM1", rb"DIR1\IM2"], "explicit"))
    assert home.ingest(medium).is_complete
    (medium / "DICOMDIR").write_bytes(
        _media_directory([], "explicit") + b"\x04\0\0\x15CS\xff\xff" * 999 + os.urandom(5000)
    )
    assert home.ingest(medium).is_complete
    assert listing_of(sources.Found(medium / "nothing")).missing == []


# --- more than a peer takes ---------------------------------------------------------


def test_a_study_grows_no_larger_than_a_peer_takes(home, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MANIFEST_INSTANCES", 3)
    study = make_study(tmp_path / "in", 5)
    for _ in range(2):
        report = home.ingest(tmp_path / "in")
        assert names(report.quarantined) == ["IM00004.dcm", "IM00005.dcm"]
        assert "as many instances as can be sent" in report.quarantined[0].reason
    assert Manifest.decode_untrusted(home.catalog.manifest(study).encode())


@pytest.mark.parametrize("portion", [1, 100])
@pytest.mark.parametrize(("bound", "most"), [("MANIFEST_BYTES", 1000), ("MANIFEST_BATCHES", 2)])
def test_a_manifest_grows_no_larger_than_a_peer_takes(
    home, tmp_path, monkeypatch, portion, bound, most
):
    monkeypatch.setattr(limits, bound, most)
    monkeypatch.setattr(ingest, "_PORTION_FILES", portion)
    study = make_study(tmp_path / "in", 20)
    report = home.ingest(tmp_path / "in")
    row = home.catalog.study(study)
    held = row.instance_count if row is not None else 0
    assert len(report.quarantined) == 20 - held
    # In one portion they are one batch.
    assert held == (20 if portion == 100 and bound == "MANIFEST_BATCHES" else held)
    assert (held > 0) == (portion == 1 or bound == "MANIFEST_BATCHES")
    assert held == 0 or Manifest.decode_untrusted(home.catalog.manifest(study).encode())


def test_more_modalities_than_a_record_names_are_noted(home, tmp_path):
    for number in range(limits.MODALITIES + 2):
        instance = make_instance("1.2.826.3", 1, rows=2, series=f"1.2.826.3.{number + 1}")
        instance.Modality = f"M{number}"
        instance.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    report = home.ingest(*sorted(tmp_path.glob("*.dcm")))
    assert report.is_complete
    (note,) = report.notes
    assert "66 modalities" in note
    assert Manifest.decode_untrusted(home.catalog.manifest("1.2.826.3").encode())


def test_a_modality_of_an_earlier_release_is_told_as_a_peer_takes_it(home, tmp_path):
    study = make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    with contextlib.closing(sqlite3.connect(home.path / "node.db")) as other:
        other.execute("UPDATE series SET modality = 'CT' || char(160) || 'PT'")
        other.commit()
    manifest = Manifest.decode_untrusted(home.catalog.manifest(study).encode())
    assert [one.modality for one in manifest.series] == ["CT PT"]


# --- several at once --------------------------------------------------------------------


def test_two_ingests_of_the_same_bad_files_at_once(home, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03}.dcm").write_bytes(b"no DICOM %d" % number)
    reports: list[IngestReport] = []
    together = threading.Barrier(4)

    def run() -> None:
        together.wait()
        reports.append(home.ingest(folder))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 4
    for report in reports:
        assert len(report.quarantined) == 60
        for problem in report.quarantined:
            kept = home.quarantine / problem.kept_at / "file"
            assert kept.read_bytes() == Path(problem.file).read_bytes()
    assert len(list(home.quarantine.iterdir())) == 60


def test_a_file_that_another_ingest_keeps_meanwhile_is_kept_once(home, tmp_path):
    """Both have looked at what is there before one of them writes."""
    (tmp_path / "bad.dcm").write_bytes(b"no DICOM")
    first, second = (quarantine.Quarantine(home.quarantine, now=NOW) for _ in range(2))
    kept = [one.keep(tmp_path / "bad.dcm", "why", free_bytes=10**9) for one in (first, second)]
    assert kept[0] == kept[1]
    assert [path.name for path in home.quarantine.iterdir()] == kept[:1]


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
    "emri_small_jpeg_2k_lossless_too_short.dcm": "is cut, or lacks the end of its pixel data",
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


# --- inputs made from reports of other systems ------------------------------------------

CASES = {
    "70-modalities": TAKEN,
    "charset-iso-ir-misspelled": TAKEN,
    "defined-sq-with-delimiter": "a delimiter follows a sequence",
    "dicm-at-0": "has its DICOM mark at byte 0",
    "dup-description-same": "the element (0008,1030) stands twice",
    "encaps-no-seq-end": "is cut, or lacks the end of its pixel data",
    "meta-repeated-in-data": "the element (0002,0010) stands twice",
    "modality-nbsp": TAKEN,
    "mrs-standard": TAKEN,
    "one-out-of-order-of-20": TAKEN,
    "order-number-before-uids": TAKEN,
    "pixel-longer-than-stated": "has bytes that are no DICOM behind the pixel data, from byte 618",
    "siemens-csa-non-image": TAKEN,
    "stray-item-end-at-eof": "stray delimiters follow",
    "trailing-crlf": "has bytes that are no DICOM behind the pixel data, from byte 618",
    "un-undef-explicit-items": "an unknown value has items in explicit form",
    "vr-future-32bit": "a value representation is unknown",
    "vr-two-spaces": "a value representation is unknown",
}
"""What becomes of each: taken, taken with this note, or not taken for this reason."""


@pytest.mark.parametrize("name", CASES)
def test_reported_files(home, shared, tmp_path, name):
    folder = shared / "cases" / "images" / name
    report = home.ingest(folder)
    if report.quarantined:
        (problem,) = report.quarantined
        assert problem.reason.startswith(CASES[name])
        return
    assert report.is_complete
    assert report.instances_new == report.files
    assert CASES[name] == TAKEN or report.notes[0].startswith(CASES[name])
    (row,) = home.catalog.studies()
    assert exported(home, row.study_uid, tmp_path / "out") == contents(folder)
    manifest = home.catalog.manifest(row.study_uid)
    assert Manifest.decode_untrusted(manifest.encode()) == manifest


def test_a_half_copied_file_does_not_keep_the_whole_one_out(home, shared, tmp_path):
    folder = shared / "cases" / "images" / "half-copied-4096-zeros"
    (problem,) = home.ingest(folder / "1-first").quarantined
    assert problem.reason.startswith("is cut: there are only zero bytes from byte")
    report = home.ingest(folder / "2-whole")
    assert report.is_complete
    (row,) = home.catalog.studies()
    assert exported(home, row.study_uid, tmp_path / "out") == contents(folder / "2-whole")


def test_a_misspelled_character_set_is_read_as_its_neighbour(home, shared):
    home.ingest(shared / "cases" / "images" / "charset-iso-ir-misspelled")
    (row,) = home.catalog.studies()
    assert row.patient_name == b"\xbb\xee\xda\xe1e\xdc\xd1yp\xd3".decode("iso8859-5")


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
