import contextlib
import gc
import json
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from node_home import ImageHome
from studies_made import contents, make_instance, make_study

from node.errors import ExitCode, NodeError
from node.images import ingest, ingest_batches, sources
from node.images.export import export_study
from protocol import encoding, limits
from protocol.manifest import Manifest
from protocol.pixels import Workspace


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


def unclaimed(home):
    """Batches in the store that no study needs."""
    return [digest for digest in home.store.digests() if not home.catalog.has_batch(digest)]


# --- the normal way -------------------------------------------------------------


def test_an_ingest_leaves_no_workspace_in_a_circle(home, tmp_path):
    """Ten megabytes for each thread; the collector of circles may not come for hours."""
    make_study(tmp_path / "in", 3)
    before = _workspaces()
    gc.disable()
    try:
        home.ingest(tmp_path / "in")
        assert _workspaces() == before
    finally:
        gc.enable()


def _workspaces():
    return sum(isinstance(one, Workspace) for one in gc.get_objects())


def test_ingest_and_export(home, tmp_path):
    study = make_study(tmp_path / "in", 12)
    report = home.ingest(tmp_path / "in")
    assert (report.files, report.instances_new, report.instances_known) == (12, 12, 0)
    assert report.is_complete
    assert exported(home, study, tmp_path / "out") == contents(tmp_path / "in")
    row = home.catalog.study(study)
    assert row is not None
    assert (row.patient_id, row.patient_name) == ("MARKER-PATIENT-ID", "Marker^Patient")
    assert (row.description, row.modalities) == ("MADE FOR A TEST", ("CT",))
    assert row.original_bytes == report.original_bytes == sum(map(len, contents(tmp_path / "in")))
    assert row.encoded_bytes == report.encoded_bytes
    manifest = home.catalog.manifest(study)
    assert Manifest.decode_untrusted(manifest.encode()) == manifest
    assert [one.number for one in manifest.instances] == list(range(1, 13))
    assert report.studies[0].study == study
    json.dumps(report.to_json())


def test_small_instances_share_a_batch_and_large_ones_are_split(home, tmp_path):
    study = make_study(tmp_path / "in", 40)
    make_study(tmp_path / "in" / "large", 1, study=study, first=41, rows=1024, frames=3)
    home.ingest(tmp_path / "in")
    manifest = home.catalog.manifest(study)
    assert [len(manifest.segments(batch)) for batch in range(len(manifest.batches))] == [
        40, 1, 1,
    ]  # fmt: skip
    assert exported(home, study, tmp_path / "out") == contents(tmp_path / "in")


def test_equal_pieces_of_a_large_black_image(home, tmp_path):
    instance = make_instance("1.2.826.9", 1)
    instance.PixelData = bytes(3 * limits.BATCH_BYTES)
    instance.save_as(tmp_path / "black.dcm", enforce_file_format=True)
    home.ingest(tmp_path / "black.dcm")
    assert len(set(home.catalog.manifest("1.2.826.9").batches)) < 4
    assert exported(home, "1.2.826.9", tmp_path / "out") == {(tmp_path / "black.dcm").read_bytes()}


def test_file_over_the_block_size_is_walked_in_windows(home, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_WHOLE_BYTES", 1000)
    study = make_study(tmp_path / "in", 3, rows=300)
    assert home.ingest(tmp_path / "in").instances_new == 3
    assert exported(home, study, tmp_path / "out") == contents(tmp_path / "in")


def test_idempotent(home, tmp_path):
    study = make_study(tmp_path / "in", 5)
    home.ingest(tmp_path / "in")
    before = home.catalog.manifest(study)
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    report = home.ingest(tmp_path / "in", tmp_path / "copy")
    assert (report.instances_new, report.instances_known) == (0, 10)
    assert report.is_complete
    assert home.catalog.manifest(study) == before
    assert len(home.events) == 1


def test_same_file_twice_in_one_run(home, tmp_path):
    make_study(tmp_path / "in", 2)
    report = home.ingest(tmp_path / "in", tmp_path / "in" / "IM00001.dcm")
    assert (report.instances_new, report.instances_known) == (2, 1)


def test_growing_study_adds_batches(home, tmp_path):
    study = make_study(tmp_path / "in", 4)
    home.ingest(tmp_path / "in")
    first = home.catalog.manifest(study)
    make_study(tmp_path / "in", 3, study=study, first=5)
    report = home.ingest(tmp_path / "in")
    assert (report.instances_new, report.instances_known) == (3, 4)
    grown = home.catalog.manifest(study)
    assert grown.batches[: len(first.batches)] == first.batches
    assert exported(home, study, tmp_path / "out") == contents(tmp_path / "in")


def test_portions(home, tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "_PORTION_FILES", 4)
    study = make_study(tmp_path / "in", 10)
    assert home.ingest(tmp_path / "in").instances_new == 10
    assert len(home.catalog.manifest(study).batches) == 3
    assert exported(home, study, tmp_path / "out") == contents(tmp_path / "in")


def test_withheld_when_asked(home, tmp_path):
    study = make_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in", shared=False)
    row = home.catalog.study(study)
    assert row is not None
    assert row.state == "withheld"


def test_progress_reaches_the_end(home, tmp_path):
    make_study(tmp_path / "in", 6)
    told = []
    report = home.ingest(tmp_path / "in", progress=told.append)
    assert told[0].phase == "read"
    assert told[-1].phase == "store"
    assert told[-1].bytes == told[-1].bytes_total == report.original_bytes
    assert told[-1].encoded_bytes == report.encoded_bytes


# --- the audit log ---------------------------------------------------------------


def test_audit_entry_before_the_study_is_visible(home, tmp_path):
    study = make_study(tmp_path / "in", 3)
    seen = []

    def audit(event):
        with contextlib.closing(sqlite3.connect(home.path / "node.db")) as other:
            visible = other.execute("SELECT count(*) FROM studies").fetchone()[0]
        seen.append((event, visible, len(list(home.store.digests()))))
        return 0

    home.ingest(tmp_path / "in", audit=audit)
    ((event, visible, stored),) = seen
    assert visible == 0
    assert stored == 1
    assert event.type == "ingest"
    assert event.subjects == (("study", study), ("patient", "MARKER-PATIENT-ID"))
    assert event.details["instances"] == 3
    assert event.details["content_root"] == home.catalog.manifest(study).content_root.hex()
    # What is in clear in the log names nobody.
    assert study not in str(event.details)


def test_nothing_is_published_when_the_log_cannot_be_written(home, tmp_path):
    study = make_study(tmp_path / "in", 3)

    def full(_):
        raise NodeError("the audit log cannot be written", code=ExitCode.DISK)

    with pytest.raises(NodeError, match="audit log"):
        home.ingest(tmp_path / "in", audit=full)
    assert home.catalog.study(study) is None
    # What lies in the store is claimed by nothing until the ingest is run again.
    assert len(unclaimed(home)) == 1
    assert home.ingest(tmp_path / "in").instances_new == 3
    assert unclaimed(home) == []


# --- faults in the middle ----------------------------------------------------------


class Meddler:
    """Changes files between the two passes of an ingest."""

    def __init__(self, monkeypatch, change):
        real = ingest_batches.BatchWriter.write

        def write(writer, study, files, on_batch):
            change()
            return real(writer, study, files, on_batch)

        monkeypatch.setattr(ingest_batches.BatchWriter, "write", write)


def test_file_that_changes_between_the_passes_is_not_taken(home, tmp_path, monkeypatch):
    study = make_study(tmp_path / "in", 4)
    changed, removed = tmp_path / "in" / "IM00002.dcm", tmp_path / "in" / "IM00003.dcm"
    stat = changed.stat()

    def change():
        data = bytearray(changed.read_bytes())
        data[-1] ^= 1
        changed.write_bytes(data)
        # Not even the times tell; the digest does.
        os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        removed.unlink()

    Meddler(monkeypatch, change)
    report = home.ingest(tmp_path / "in")
    assert report.instances_new == 2
    assert names(report.unreadable) == ["IM00002.dcm", "IM00003.dcm"]
    assert {one.reason for one in report.unreadable} == {
        "changed while it was being ingested",
        "cannot be read: No such file or directory",
    }
    changed.unlink()
    assert exported(home, study, tmp_path / "out") == contents(tmp_path / "in")


def test_large_file_that_changes_between_the_passes(home, tmp_path, monkeypatch):
    study = make_study(tmp_path / "in", 1, rows=1024, frames=5)
    make_study(tmp_path / "in", 2, study=study, first=2)
    large = tmp_path / "in" / "IM00001.dcm"
    stat = large.stat()

    def change():
        with large.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")
        os.utime(large, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    Meddler(monkeypatch, change)
    report = home.ingest(tmp_path / "in")
    assert report.instances_new == 2
    assert names(report.unreadable) == ["IM00001.dcm"]
    manifest = home.catalog.manifest(study)
    assert Manifest.decode_untrusted(manifest.encode()) == manifest
    assert len(manifest.batches) == 1
    # Its first batches were stored before the change showed.
    assert len(unclaimed(home)) == 2


def test_study_of_which_every_file_is_gone(home, tmp_path, monkeypatch):
    study = make_study(tmp_path / "in", 2)
    Meddler(monkeypatch, lambda: shutil.rmtree(tmp_path / "in"))
    report = home.ingest(tmp_path / "in")
    assert report.instances_new == 0
    assert len(report.unreadable) == 2
    assert home.catalog.study(study) is None
    assert home.events == []


def test_encoder_that_is_wrong_is_caught(home, tmp_path, monkeypatch):
    make_study(tmp_path / "in", 1)
    real = encoding.encode

    def wrong(original, **_):
        return real(original[:-1] + bytes([original[-1] ^ 1]))

    monkeypatch.setattr(encoding, "encode", wrong)
    with pytest.raises(NodeError, match="does not decode to what was encoded") as caught:
        home.ingest(tmp_path / "in")
    assert caught.value.code is ExitCode.INTEGRITY
    assert home.catalog.studies() == []
    assert list(home.store.digests()) == []


def test_full_disk_keeps_what_was_finished(home, tmp_path, monkeypatch):
    first = make_study(tmp_path / "in" / "a", 2, study="1.2.826.1")
    make_study(tmp_path / "in" / "b", 2, study="1.2.826.2")
    real = home.store.put

    def full(encoded, pins=None):
        if home.catalog.study(first) is not None:
            raise NodeError("the disk is full", code=ExitCode.DISK)
        return real(encoded)

    monkeypatch.setattr(home.store, "put", full)
    with pytest.raises(NodeError) as caught:
        home.ingest(tmp_path / "in")
    assert caught.value.code is ExitCode.DISK
    assert [row.study_uid for row in home.catalog.studies()] == [first]
    monkeypatch.undo()
    assert home.ingest(tmp_path / "in").instances_new == 2


def test_cancelled(home, tmp_path):
    make_study(tmp_path / "in" / "a", 3, study="1.2.826.1")
    make_study(tmp_path / "in" / "b", 3, study="1.2.826.2")
    report = home.ingest(tmp_path / "in", cancelled=lambda: bool(home.catalog.studies()))
    assert report.cancelled
    assert not report.is_complete
    assert [row.study_uid for row in home.catalog.studies()] == ["1.2.826.1"]
    stop = threading.Event()
    stop.set()
    assert home.ingest(tmp_path / "in", cancelled=stop.is_set).files <= 1
    report = home.ingest(tmp_path / "in")
    assert (report.instances_new, report.instances_known) == (3, 3)
