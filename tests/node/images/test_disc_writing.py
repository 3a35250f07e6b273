"""Discs that are written: other programs find no error, and they are whole or not there at all."""

import errno
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import blake3
import pydicom
import pytest
from discs_made import NOW, make_disc_study
from faulty_disk import FaultyDisk
from killed import killed_at
from node_home import ImageHome

from edges.media import iso_writing
from node.errors import ExitCode, NodeError
from node.images import disc_writing
from node.images.disc_texts import beyond_profile
from node.images.disc_writing import Disc, Written, write_disc
from node.images.looking import look
from node.images.media_forms import form_for
from protocol.manifest import Manifest

FORMS = ["folder", "zip", "iso"]
TOOLS = Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ImageHome]:
    made = ImageHome(tmp_path / "home")
    yield made
    made.close()


def disc(target: Path, form: str = "folder", **changes: object) -> Disc:
    made = Disc(
        target=target, form=form, facility="North & General", sop_instance="2.25.1", now=NOW,
        mode=0o600,
    )  # fmt: skip
    return replace(made, **changes)


def write(
    home: ImageHome,
    target: Path,
    form: str = "folder",
    log: Callable[[Sequence[Manifest]], None] = lambda manifests: None,
    **changes: object,
) -> Written:
    rows = sorted(home.catalog.studies(), key=lambda row: row.study_uid)
    return write_disc(home.catalog, home.store, rows, disc(target, form, **changes), log)


def run(*words: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=60, check=False,
        errors="replace",
    )  # fmt: skip
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout + done.stderr


def digests(home: ImageHome) -> set[bytes]:
    return {
        digest
        for row in home.catalog.studies()
        for digest in home.catalog.held_instances(row.study_uid).values()
    }


def records_and_files(root: Path) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The files that the records of a disc name, and those that are there."""
    directory = pydicom.dcmread(root / "DICOMDIR")
    named = [
        tuple(one.ReferencedFileID)
        for one in directory.DirectoryRecordSequence
        if "ReferencedFileID" in one
    ]
    there = [path.relative_to(root).parts for path in root.rglob("IM*") if path.is_file()]
    return sorted(named), sorted(there)


@pytest.mark.slow
def test_all_samples_on_a_disc_that_others_read(
    home: ImageHome, tmp_path: Path, shared: Path
) -> None:
    """One in six of these files is refused by pydicom's FileSet."""
    home.ingest(shared / "data")
    written = write(home, tmp_path / "disc")
    root = tmp_path / "disc"
    named, there = records_and_files(root)
    assert named == there
    assert len(named) == written.files > 700
    assert {blake3.blake3(root.joinpath(*one).read_bytes()).digest() for one in there} == digests(
        home
    )

    found = run(TOOLS / "dciodvfy", root / "DICOMDIR", code=1).splitlines()
    errors = [line for line in found if line.startswith("Error")]
    # What some images say of themselves: UIDs that no authority gave. It makes the code 1.
    assert all("Illegal root for UID" in line for line in errors), errors
    dumped = run(TOOLS / "dcdirdmp", root / "DICOMDIR")
    assert dumped.count("-> IMAGES") == written.files
    assert "rror" not in dumped
    assert written.made_up["Study ID"] > 10
    text = (root / "README.TXT").read_text()
    assert f"Study ID: {written.made_up['Study ID']} records" in text
    assert "Implicit VR Little Endian" in text


@pytest.mark.slow
def test_dcmtk_reads_the_directory(home: ImageHome, tmp_path: Path, shared: Path) -> None:
    if shutil.which("dcmdump") is None:
        pytest.skip("needs Debian's dcmtk: make dicom-peers (or: apt install dcmtk)")
    home.ingest(shared / "data" / "dicomdir-tiny-multistudy", shared / "data" / "charsets")
    written = write(home, tmp_path / "disc")
    shown = run("dcmdump", "--search", "DirectoryRecordType", tmp_path / "disc" / "DICOMDIR")
    assert "W:" not in shown
    assert "E:" not in shown
    kinds = Counter(line.split("[")[1].split("]")[0].strip() for line in shown.splitlines())
    assert (
        sum(kinds.values()) - kinds["PATIENT"] - kinds["STUDY"] - kinds["SERIES"] == written.files
    )
    # dcmtk appends only to a DICOMDIR that it finds consistent.
    run("dcmmkdir", "--append", "+I", "-Pgp", "-W", "+id", tmp_path / "disc", "+D",
        tmp_path / "disc" / "DICOMDIR", "IMAGES/ST000001/SE000001/IM000001")  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_each_form_holds_the_same_and_comes_in_again(
    home: ImageHome, tmp_path: Path, form: str
) -> None:
    make_disc_study(tmp_path / "in" / "A", 3, study="1.2.3", PatientName="Müller^<Änne>")
    make_disc_study(tmp_path / "in" / "B", 2, study="1.2.4", StudyDate="")
    home.ingest(tmp_path / "in")
    target = tmp_path / f"disc.{form}"
    written = write(home, target, form)
    assert (written.files, written.made_up) == (
        5,
        {"Study ID": 2, "Study Time": 2, "Series Number": 2, "Study Date": 1},
    )
    [seen] = look([target], catalog=home.catalog, exclude=home.path)
    assert (seen.form, seen.directories, seen.listed, seen.missing) == (form, 1, 5, [])
    assert (seen.problem_count, seen.other) == (0, 2)
    other = ImageHome(tmp_path / "other")
    report = other.ingest(target)
    assert (report.instances_new, report.is_complete) == (5, True)
    assert digests(other) == digests(home)
    other.close()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_texts(home: ImageHome, tmp_path: Path) -> None:
    make_disc_study(tmp_path / "in", 2, PatientName="Müller^<Änne>", StudyDescription="a&b")
    home.ingest(tmp_path / "in")
    write(home, tmp_path / "disc")
    readme, index = (
        (tmp_path / "disc" / name).read_bytes() for name in ("README.TXT", "INDEX.HTM")
    )
    assert b"Written by: North & General\r\n" in readme
    assert b"1 study, 2 images" in readme
    assert b"Ller" not in readme
    assert b"PS3.11" not in readme
    for text in (
        "Müller^&lt;Änne&gt;",
        "a&amp;b",
        "North &amp; General",
        "2026-03-01",
        "IMAGES/ST000001",
    ):
        assert text.encode() in index
    # A name of a patient is in no file name, and all names are of ISO 9660.
    for path in (tmp_path / "disc").rglob("*"):
        assert iso_writing._FILE.fullmatch(path.name)


def test_transfer_syntaxes_beyond_the_profiles_are_named() -> None:
    assert beyond_profile({"1.2.840.10008.1.2.1": 9}) == {}
    assert beyond_profile(
        {"1.2.840.10008.1.2.4.57": 1, "1.2.840.10008.1.2.4.70": 2, "1.2.3": 4}
    ) == {"JPEG, lossless": 3, "1.2.3": 4}


@pytest.mark.parametrize("form", FORMS)
def test_the_log_comes_before_the_first_byte(home: ImageHome, tmp_path: Path, form: str) -> None:
    make_disc_study(tmp_path / "in", 2)
    home.ingest(tmp_path / "in")
    place = tmp_path / "medium"
    place.mkdir()

    def refuse(manifests: Sequence[Manifest]) -> None:
        assert [one.study_instance_uid for one in manifests] == ["1.2.3"]
        assert not list(place.iterdir())
        raise NodeError("the log takes nothing", code=ExitCode.DISK)

    with pytest.raises(NodeError, match="takes nothing"):
        write(home, place / "disc", form, refuse)
    assert not list(place.iterdir())


def test_nothing_that_exists_is_touched(home: ImageHome, tmp_path: Path) -> None:
    make_disc_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for target, form in (("full", "folder"), ("full", "zip"), ("full/mine", "iso"),
                         ("full/mine", "folder"), ("link", "zip"), ("no/disc", "zip")):  # fmt: skip
        with pytest.raises(NodeError) as refused:
            write(home, tmp_path / target, form, lambda manifests: pytest.fail("logged"))
        assert refused.value.code in (ExitCode.USAGE, ExitCode.NOT_FOUND)
    assert (tmp_path / "full" / "mine").read_bytes() == b"x"
    assert not (tmp_path / "elsewhere").exists()
    # The folder of a stick is empty but for what its file system keeps there.
    stick = tmp_path / "stick"
    (stick / "System Volume Information").mkdir(parents=True)
    write(home, stick)
    assert len(list(stick.iterdir())) == 5


def test_a_damaged_store_gives_no_disc(home: ImageHome, tmp_path: Path) -> None:
    make_disc_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    [batch] = [path for path in (home.path / "store").rglob("*") if path.is_file()]
    batch.chmod(0o600)
    batch.write_bytes(batch.read_bytes()[:-1] + b"?")
    for form in FORMS:
        with pytest.raises(NodeError) as refused:
            write(home, tmp_path / "disc", form)
        assert refused.value.code == ExitCode.INTEGRITY
        assert not (tmp_path / "disc").exists()


def test_a_file_too_large_for_an_image(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_disc_study(tmp_path / "in", 1)
    home.ingest(tmp_path / "in")
    monkeypatch.setattr(iso_writing, "MOST_FILE_BYTES", 5000)
    with pytest.raises(NodeError, match="4 GiB"):
        write(home, tmp_path / "disc", "iso")
    assert not [path for path in tmp_path.iterdir() if "disc" in path.name]
    write(home, tmp_path / "disc", "zip")


def test_more_images_than_a_disc_holds(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_disc_study(tmp_path / "in", 2)
    home.ingest(tmp_path / "in")
    monkeypatch.setattr(disc_writing, "MOST_FILES", 1)
    with pytest.raises(NodeError, match="at most 1 images"):
        write(home, tmp_path / "disc", log=lambda manifests: pytest.fail("logged"))


@pytest.mark.parametrize("form", FORMS)
def test_stopping(home: ImageHome, tmp_path: Path, form: str) -> None:
    make_disc_study(tmp_path / "in", 3)
    home.ingest(tmp_path / "in")
    done: list[int] = []
    with pytest.raises(NodeError, match="stopped"):
        write_disc(
            home.catalog, home.store, home.catalog.studies(), disc(tmp_path / "disc", form),
            lambda _: None, lambda progress: done.append(progress.instances),
            lambda: len(done) == 2,
        )  # fmt: skip
    assert done == [1, 2]
    assert not [path for path in tmp_path.iterdir() if "disc" in path.name]


def _looks_whole(target: Path, form: str) -> bool:
    """Whether somebody would take it for a disc."""
    return (target / "DICOMDIR").exists() if form == "folder" else target.exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_killed_anywhere_there_is_no_half_disc(home: ImageHome, tmp_path: Path, form: str) -> None:
    make_disc_study(tmp_path / "in", 2)
    home.ingest(tmp_path / "in")
    home.close()
    step, whole_after_kill = 0, 0
    while True:
        target = tmp_path / f"disc{step}"

        def prepare() -> ImageHome:
            return ImageHome(home.path)

        was_killed = killed_at(step, prepare, lambda made: write(made, target, form))  # noqa: B023
        again = ImageHome(home.path)
        if _looks_whole(target, form):
            # Killed behind its name: all of it is there.
            [seen] = look([target], catalog=again.catalog, exclude=again.path)
            assert (seen.listed, seen.missing, seen.problem_count) == (2, [], 0)
            whole_after_kill += was_killed
        else:
            # The same command again makes it, and leaves nothing beside it.
            write(again, target, form)
            assert _looks_whole(target, form)
            assert not [one for one in tmp_path.rglob(".*") if one.is_file()]
        again.close()
        if not was_killed:
            break
        step += 1
    assert step > 5
    assert whole_after_kill


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_anywhere_leaves_nothing(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    make_disc_study(tmp_path / "in", 2)
    home.ingest(tmp_path / "in")
    place = tmp_path / "medium"
    place.mkdir()
    disk = FaultyDisk(place, monkeypatch)
    step = 0
    while True:
        disk.fail(step, errno.ENOSPC)
        try:
            write(home, place / "disc", form)
        except NodeError as error:
            assert error.code == ExitCode.DISK  # noqa: PT017
            assert not list(place.iterdir()), step
        else:
            break
        step += 1
    assert step > 5


@pytest.mark.parametrize(
    ("name", "form", "found"),
    [("a.zip", None, "zip"), ("a.ISO", None, "iso"), ("a", None, "folder"),
     ("a.zip", "folder", "folder"), ("a", "iso", "iso")],
)  # fmt: skip
def test_the_form_of_a_target(name: str, form: str | None, found: str) -> None:
    assert form_for(Path(name), form) == found


def test_a_form_that_is_none() -> None:
    with pytest.raises(NodeError, match="no form"):
        form_for(Path("a"), "tape")
