"""What an ingest tells of itself: progress, its report and notes, and the entry in the log."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from node_home import ImageHome
from studies_made import make_instance, make_study

from node.catalog.catalog import Discard
from node.images import ingest, quarantine
from node.images.export import export_study
from node.images.ingest_batches import BatchWriter, Written
from node.images.ingest_report import IngestProgress
from protocol import limits
from protocol.manifest import Manifest
from protocol.recalls import QUALITY

STUDY, OTHER = "1.2.826.51", "1.2.826.52"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ImageHome]:
    made = ImageHome(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that an ingest sees, which the test sets."""
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    monkeypatch.setattr(ingest, "time", clock)
    monkeypatch.setattr(ingest, "_PROGRESS_SECONDS", 0.5)
    return now


def write(path: Path, study: str, number: int, **attributes: object) -> int:
    """One small instance with these attributes; its size."""
    instance = make_instance(study, number, rows=8)
    for name, value in attributes.items():
        setattr(instance, name, value)
    path.parent.mkdir(exist_ok=True)
    instance.save_as(path, enforce_file_format=True)
    return path.stat().st_size


# --- progress and sums ----------------------------------------------------------------


def test_progress_is_told_twice_a_second_and_at_the_end_of_what_is_stored(
    home: ImageHome, tmp_path: Path, seconds: list[float]
) -> None:
    sizes = [write(tmp_path / "in" / f"{n}.dcm", STUDY, n) for n in range(1, 6)]
    (tmp_path / "in" / "a.txt").write_bytes(b"no image")
    told: list[IngestProgress] = []
    asked = iter((0.0, 0.25, 0.25, 0.25, 0.25, 0.5))

    def cancelled() -> bool:
        seconds[0] += next(asked, 0.0)
        return False

    report = home.ingest(tmp_path / "in", progress=told.append, cancelled=cancelled)
    read = [one for one in told if one.phase == "read"]
    assert [(one.files, one.bytes) for one in read] == [
        (1, sizes[0]),
        (3, sum(sizes[:3])),
        (5, sum(sizes)),
        (6, sum(sizes)),
    ]
    assert {(one.bytes_total, one.encoded_bytes, one.instances) for one in read} == {(0, 0, 0)}
    [stored] = [one for one in told if one.phase == "store"]
    assert (stored.files, stored.instances) == (6, 0)
    assert stored.bytes == stored.bytes_total == report.original_bytes == sum(sizes)
    assert stored.encoded_bytes == report.encoded_bytes
    assert report.seconds == 1.5


def test_what_is_known_already_is_not_in_the_total_to_store(
    home: ImageHome, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "1.dcm", STUDY, 1)
    home.ingest(tmp_path / "in")
    size = write(tmp_path / "in" / "2.dcm", STUDY, 2)
    other = write(tmp_path / "in" / "3.dcm", OTHER, 1)
    told: list[IngestProgress] = []
    home.ingest(tmp_path / "in", progress=told.append)
    assert (told[-1].bytes, told[-1].bytes_total) == (size + other, size + other)
    assert told[-1].instances == 1


def test_the_report_is_the_sum_of_its_studies(home: ImageHome, tmp_path: Path) -> None:
    write(tmp_path / "in" / "0.dcm", STUDY, 1)
    home.ingest(tmp_path / "in")
    sizes = {
        study: sum(write(tmp_path / "in" / f"{study}.{n}", study, n) for n in range(2, 5))
        for study in (STUDY, OTHER)
    }
    report = home.ingest(tmp_path / "in")
    assert [(one.study, one.new, one.known, one.conflicting) for one in report.studies] == [
        (STUDY, 3, 1, 0),
        (OTHER, 3, 0, 0),
    ]
    assert {one.study: one.original_bytes for one in report.studies} == sizes
    assert sum(one.encoded_bytes for one in report.studies) == report.encoded_bytes
    assert (report.instances_new, report.instances_known) == (6, 1)
    assert report.original_bytes == sum(sizes.values())


def test_studies_that_are_in_several_portions_are_told_in_each(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_PORTION_FILES", 2)
    for number in range(1, 6):
        write(tmp_path / "in" / f"{number}.dcm", STUDY, number)
    report = home.ingest(tmp_path / "in")
    assert [one.new for one in report.studies] == [2, 2, 1]
    assert [event.details["instances"] for event in home.events] == [2, 2, 1]


# --- notes ----------------------------------------------------------------------------


def test_a_study_of_two_patients_is_noted_once_and_named_in_its_entry(
    home: ImageHome, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "1.dcm", STUDY, 1)
    write(tmp_path / "in" / "2.dcm", STUDY, 2, PatientID="SOMEBODY-ELSE")
    [note] = home.ingest(tmp_path / "in").notes
    why = "its images name 2 Patient IDs"
    assert note.startswith(f"study {STUDY}: {why}; it is not shared until somebody has looked")
    assert home.events[-1].details["to_check"] == why
    write(tmp_path / "in" / "3.dcm", STUDY, 3)
    assert home.ingest(tmp_path / "in").notes == []
    # It still waits to be looked at.
    assert home.events[-1].details["to_check"] == why
    write(tmp_path / "in" / "4.dcm", STUDY, 4, PatientID="A-THIRD")
    [note] = home.ingest(tmp_path / "in").notes
    assert "its images name 3 Patient IDs" in note


def test_the_entry_of_a_study_of_one_patient_says_nothing_of_a_check(
    home: ImageHome, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "1.dcm", STUDY, 1)
    assert home.ingest(tmp_path / "in", shared=False).notes == []
    manifest = home.catalog.manifest(STUDY)
    [event] = home.events
    assert (event.type, event.actor) == ("ingest", "operator")
    assert event.details == {
        "instances": 1,
        "bytes": manifest.total_original_bytes,
        "batches": 1,
        "content_root": manifest.content_root.hex(),
        "sharing": "default",
        "state": "withheld",
    }


def test_a_name_that_is_written_in_several_ways_is_noted_once(
    home: ImageHome, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "1.dcm", STUDY, 1)
    write(tmp_path / "in" / "2.dcm", STUDY, 2, PatientName="Marker^P")
    expected = f"study {STUDY}: its images write the patient's name in several ways"
    assert home.ingest(tmp_path / "in").notes == [expected]
    write(tmp_path / "in" / "3.dcm", STUDY, 3)
    assert home.ingest(tmp_path / "in").notes == []
    write(tmp_path / "in" / "4.dcm", OTHER, 4)
    assert home.ingest(tmp_path / "in").notes == []
    write(tmp_path / "in" / "5.dcm", OTHER, 5, PatientName="Other^Name")
    assert home.ingest(tmp_path / "in").notes == [expected.replace(STUDY, OTHER)]


@pytest.mark.parametrize("more", [0, 1])
def test_as_many_modalities_as_a_record_names_are_no_note(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    monkeypatch.setattr(limits, "MODALITIES", 3)
    for number in range(3 + more):
        instance = make_instance(STUDY, 1, rows=8, series=f"{STUDY}.{number + 1}")
        instance.Modality = f"M{number}"
        instance.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    notes = home.ingest(*sorted(tmp_path.glob("*.dcm"))).notes
    expected = f"study {STUDY}: it has 4 modalities, of which peers are told the first 3"
    assert [note.partition(";")[0] for note in notes] == [expected] * more


def test_what_is_odd_about_files_that_were_taken_is_told_once_with_their_number(
    home: ImageHome, tmp_path: Path
) -> None:
    for number in range(1, 5):
        path = tmp_path / "in" / f"{number}.dcm"
        write(path, STUDY, number)
        if number > 1:
            # Delimiters that close nothing.
            path.write_bytes(path.read_bytes() + b"\xfe\xff\xdd\xe0\0\0\0\0")
    [note] = home.ingest(tmp_path / "in").notes
    assert note.endswith(f": 3 of the files taken, the first is {tmp_path / 'in' / '2.dcm'}")


# --- what is not taken ----------------------------------------------------------------


def test_what_was_discarded_is_not_taken_again_and_is_told_as_a_conflict(
    home: ImageHome, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "1.dcm", STUDY, 1)
    write(tmp_path / "in" / "2.dcm", STUDY, 2)
    home.ingest(tmp_path / "in")
    row = home.catalog.study(STUDY)
    assert row is not None
    discard = Discard(STUDY, "", "", QUALITY)
    assert home.catalog.discard(discard, None, entry=lambda: 1, revision=row.revision)
    report = home.ingest(tmp_path / "in")
    assert [(one.new, one.known, one.conflicting) for one in report.studies] == [(0, 0, 2)]
    assert len(report.conflicts) == 2
    for problem in report.conflicts:
        assert problem.reason.startswith("was discarded here (")
        kept = home.quarantine / problem.kept_at / "file"
        assert kept.read_bytes() == Path(problem.file).read_bytes()
    assert home.catalog.study(STUDY) is None
    assert len(home.catalog.conflicts(STUDY)) == 2


def test_what_cannot_be_read_for_its_copy_is_told_all_the_same(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(quarantine, "open_file", gone)
    (tmp_path / "bad.dcm").write_bytes(b"no DICOM")
    [problem] = home.ingest(tmp_path / "bad.dcm").quarantined
    assert problem.reason.endswith("; no copy was kept: Stale file handle")
    assert problem.kept_at == ""


@pytest.mark.parametrize("same", [True, False])
def test_what_another_ingest_published_meanwhile_is_told_as_if_it_had_been_here(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    for number in (1, 2, 3):
        write(tmp_path / "in" / f"{number}.dcm", STUDY, number)
    write(tmp_path / "other.dcm", STUDY, 1, **({} if same else {"StudyDescription": "ANOTHER"}))
    real = BatchWriter.write

    def overtaken(writer: BatchWriter, *arguments: Any) -> Written:
        with monkeypatch.context() as patch:
            patch.setattr(BatchWriter, "write", real)
            home.ingest(tmp_path / "other.dcm")
        (tmp_path / "in" / "3.dcm").unlink()
        return real(writer, *arguments)

    monkeypatch.setattr(BatchWriter, "write", overtaken)
    report = home.ingest(tmp_path / "in")
    [study] = report.studies
    assert (study.new, study.known, study.conflicting) == (1, int(same), int(not same))
    assert (report.instances_new, report.instances_known) == (1, int(same))
    assert [Path(one.file).name for one in report.conflicts] == ["1.dcm"] * (not same)
    assert [Path(one.file).name for one in report.unreadable] == ["3.dcm"]
    if not same:
        assert "came meanwhile" in report.conflicts[0].reason
    assert len(home.catalog.conflicts(STUDY)) == int(not same)


def test_a_run_that_is_stopped_takes_no_further_file(home: ImageHome, tmp_path: Path) -> None:
    for number in range(1, 4):
        write(tmp_path / "in" / f"{number}.dcm", STUDY, number)
    asked = iter((False, False, True))
    report = home.ingest(tmp_path / "in", cancelled=lambda: next(asked))
    assert report.cancelled
    assert (report.files, report.instances_new) == (2, 0)
    assert home.catalog.studies() == []


# --- as much as a peer takes, and no more ---------------------------------------------


def length_of(home: ImageHome) -> tuple[int, int]:
    """The bytes and batches of the study's manifest."""
    manifest = home.catalog.manifest(STUDY)
    return len(manifest.encode()), len(manifest.batches)


def test_a_manifest_may_be_exactly_as_large_as_a_peer_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(tmp_path / "in", 3, study=STUDY)
    home = ImageHome(tmp_path / "first")
    home.ingest(tmp_path / "in")
    size, _ = length_of(home)
    home.close()
    for most, taken in ((size, 3), (size - 1, 0)):
        monkeypatch.setattr(limits, "MANIFEST_BYTES", most)
        home = ImageHome(tmp_path / f"home-{most}")
        report = home.ingest(tmp_path / "in")
        assert report.instances_new == taken
        assert len(report.quarantined) == 3 - taken
        if taken:
            assert Manifest.decode_untrusted(home.catalog.manifest(STUDY).encode())
        else:
            [told] = report.studies
            assert (told.new, told.original_bytes, told.encoded_bytes) == (0, 0, 0)
            assert home.events == []
        home.close()


@pytest.mark.parametrize(("most", "taken"), [(3, 3), (2, 2), (1, 1)])
def test_a_study_may_have_exactly_as_many_batches_as_a_peer_takes(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, taken: int
) -> None:
    monkeypatch.setattr(limits, "MANIFEST_BATCHES", most)
    monkeypatch.setattr(ingest, "_PORTION_FILES", 1)
    make_study(tmp_path / "in", 3, study=STUDY)
    report = home.ingest(tmp_path / "in")
    assert report.instances_new == taken
    assert length_of(home)[1] == taken
    export_study(home.catalog, home.store, STUDY, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == taken


def test_what_is_there_counts_with_what_is_added(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(tmp_path / "a", 3, study=STUDY)
    make_study(tmp_path / "b", 3, study=STUDY, first=4)
    other = ImageHome(tmp_path / "other")
    for part in ("a", "b"):
        other.ingest(tmp_path / part)
    whole, _ = length_of(other)
    other.close()
    home.ingest(tmp_path / "a")
    monkeypatch.setattr(limits, "MANIFEST_BYTES", whole - 1)
    report = home.ingest(tmp_path / "b")
    assert (report.instances_new, len(report.quarantined)) == (0, 3)
    assert "as many instances as can be sent" in report.quarantined[0].reason
    monkeypatch.setattr(limits, "MANIFEST_BYTES", 2 * whole)
    assert home.ingest(tmp_path / "b").instances_new == 3
    assert length_of(home)[0] == whole
