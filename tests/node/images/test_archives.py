"""Images out of ZIP files and ISO images: as out of a folder, and nothing beside."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from discs_made import archive, make_disc_study
from hypothesis import given, settings
from hypothesis import strategies as st
from node_home import ImageHome
from studies_made import contents, make_instance

from node.images import archives, sources
from node.images.archives import BadArchive, form_of, members
from node.images.export import export_study
from node.images.ingest import Chosen
from node.images.ingest_report import IngestReport
from node.images.reading import FileChanged

FORMS = ["zip", "iso"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ImageHome]:
    made = ImageHome(tmp_path / "home")
    yield made
    made.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_study_comes_out_of_an_archive_byte_for_byte(
    home: ImageHome, tmp_path: Path, form: str
) -> None:
    study = make_disc_study(tmp_path / "in" / "IMAGES", 5)
    disc = archive(tmp_path / "in", tmp_path / f"disc.{form}")
    # By its content, whatever its name.
    disc = disc.rename(tmp_path / "disc.bin")
    report = home.ingest(disc)
    assert (report.instances_new, report.is_complete) == (5, True)
    export_study(home.catalog, home.store, study, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    assert home.ingest(disc).instances_known == 5
    # Nothing was unpacked, anywhere.
    assert not [path for path in home.path.rglob("*") if path.name.startswith("IM0")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("whole", [0, 2**30])
def test_large_files_are_read_in_windows(
    home: ImageHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, whole: int
) -> None:
    monkeypatch.setattr(sources, "_WHOLE_BYTES", whole)
    monkeypatch.setattr(archives, "_WINDOW_BYTES", 1000)
    study = make_disc_study(tmp_path / "in", 2)
    large = make_instance(study, 3, rows=1100, frames=2)
    large.save_as(tmp_path / "in" / "IM000003", enforce_file_format=True)
    assert home.ingest(archive(tmp_path / "in", tmp_path / f"d.{form}")).instances_new == 3
    export_study(home.catalog, home.store, study, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "in")


@pytest.mark.parametrize("form", FORMS)
def test_what_a_dicomdir_lists_is_looked_for_in_the_archive(
    home: ImageHome, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "in"
    make_disc_study(folder / "A", 2)
    files = [rb"A\IM000001", rb"A\IM000002", rb"B\IM000009"]
    value = b"".join(
        struct.pack("<HH2sH", 4, 0x1500, b"CS", len(one) + len(one) % 2)
        + one
        + b" " * (len(one) % 2)
        for one in files
    )
    head = bytes(128) + b"DICM"
    for tag, uid in ((2, b"1.2.840.10008.1.3.10"), (16, b"1.2.840.10008.1.2.1\0")):
        head += struct.pack("<HH2sH", 2, tag, b"UI", len(uid)) + uid
    (folder / "DICOMDIR").write_bytes(head + value)
    disc = archive(folder, tmp_path / f"d.{form}")
    report = home.ingest(disc)
    assert report.instances_new == 2
    assert [one.file for one in report.missing] == [f"{disc}/B/IM000009"]


@pytest.mark.parametrize("form", FORMS)
def test_only_what_was_chosen_is_taken(home: ImageHome, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "in"
    make_disc_study(folder / "A", 2, study="1.2.3", PatientID="P1")
    make_disc_study(folder / "B", 3, study="1.2.4", PatientID="P1")
    make_disc_study(folder / "C", 4, study="1.2.5", PatientID="")
    (folder / "C" / "IM000009").write_bytes((folder / "C" / "IM000001").read_bytes()[:-99])
    disc = archive(folder, tmp_path / f"d.{form}")

    def taken(report: IngestReport) -> tuple[list[str], int]:
        return [one.study for one in report.studies], report.not_chosen

    one = home.ingest(disc, chosen=Chosen(studies=frozenset(("1.2.4",))))
    assert taken(one) == (["1.2.4"], 6)
    assert [each.kept_at for each in one.quarantined] == [""]
    assert "no copy was kept" in one.quarantined[0].reason
    nobody = home.ingest(disc, chosen=Chosen(patients=frozenset(("",))))
    assert taken(nobody) == (["1.2.5"], 5)
    assert taken(home.ingest(disc, chosen=Chosen(frozenset(("P1",)), frozenset(("1.2.5",))))) == (
        [], 9,
    )  # fmt: skip
    whole = home.ingest(disc)
    assert (whole.instances_new, whole.not_chosen) == (2, 0)
    [bad] = whole.quarantined
    kept = (home.quarantine / bad.kept_at / "file").read_bytes()
    assert kept == (folder / "C" / "IM000009").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_that_changes_meanwhile_is_noticed(tmp_path: Path, form: str) -> None:
    make_disc_study(tmp_path / "in", 1)
    disc = archive(tmp_path / "in", tmp_path / f"d.{form}")
    [found] = sources.find_files([disc], exclude=tmp_path / "home")
    source = sources.read_found(found)
    content = bytearray(disc.read_bytes())
    with source.reader() as reader:
        assert len(reader.read(0, source.size)) == source.size
    os.utime(disc, ns=(1, 1))
    with pytest.raises(FileChanged), source.reader():
        pass
    # The same size and time, and other bytes.
    kept = disc.stat()
    content[50_000 if form == "iso" else 2000] ^= 1
    disc.write_bytes(content)
    os.utime(disc, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    with pytest.raises((FileChanged, OSError)), source.reader() as reader:
        reader.read(0, source.size)


# --- hostile and broken ZIP files ------------------------------------------------------------


def _zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def _image(number: int = 1) -> bytes:
    file = BytesIO()
    make_instance("1.2.3", number).save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_names_open_nothing(home: ImageHome, tmp_path: Path) -> None:
    names = ["../../../etc/x", "/etc/passwd", "C:\\x\\y", "\x1b[2J", "a/../../b"]
    disc = _zip(tmp_path / "d.zip", {name: _image(at) for at, name in enumerate(names)})
    before = {path for path in tmp_path.rglob("*") if home.path not in path.parents}
    report = home.ingest(disc)
    assert report.instances_new == 5
    assert {path for path in tmp_path.rglob("*") if home.path not in path.parents} == before


@pytest.mark.parametrize("damage", ["cut", "crc", "bits", "local"])
def test_a_damaged_file_is_named_and_the_others_are_taken(
    home: ImageHome, tmp_path: Path, damage: str
) -> None:
    disc = _zip(tmp_path / "d.zip", {f"IM{at}": _image(at) for at in range(3)})
    content = bytearray(disc.read_bytes())
    with zipfile.ZipFile(disc) as made:
        about = made.getinfo("IM1")
    central = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    if damage == "crc":
        content[central + 16] ^= 1
    elif damage == "cut":
        # It claims one byte more than it has.
        content[central + 24 : central + 28] = struct.pack("<I", about.file_size + 1)
    elif damage == "local":
        content[about.header_offset] = 0
    else:
        content[about.header_offset + 200 : about.header_offset + 300] = bytes(100)
    disc.write_bytes(content)
    report = home.ingest(disc)
    assert report.instances_new == 2
    [problem] = report.unreadable + report.quarantined
    assert problem.file.endswith("IM1")


def test_what_is_encrypted_or_packed_otherwise_is_named(home: ImageHome, tmp_path: Path) -> None:
    disc = _zip(tmp_path / "d.zip", {"A": _image()}, zipfile.ZIP_LZMA)
    assert "in a way that is not read here" in home.ingest(disc).unreadable[0].reason
    disc = _zip(tmp_path / "e.zip", {"A": _image()})
    content = bytearray(disc.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    disc.write_bytes(content)
    assert "is encrypted" in home.ingest(disc).unreadable[0].reason


def test_a_zip_bomb_ends_early(home: ImageHome, tmp_path: Path) -> None:
    """A file that claims little and inflates to much, and files that claim much together."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = packer.compress(bytes(64 * 1024 * 1024)) + packer.flush()
    disc = _zip(tmp_path / "d.zip", {"A": b"x" * 1000})
    with zipfile.ZipFile(disc) as made:
        about = made.getinfo("A")
    content = disc.read_bytes()
    start = about.header_offset + 30 + 1
    central = content.index(b"PK\1\2")
    head = bytearray(content[central:])
    head[20:24] = struct.pack("<I", len(zeros))
    end = head.index(b"PK\5\6")
    head[end + 16 : end + 20] = struct.pack("<I", start + len(zeros))
    disc.write_bytes(content[:start] + zeros + bytes(head))
    [one] = members(disc, "zip")
    assert one.member is not None
    with one.member.opened() as read, pytest.raises(OSError, match="damaged"):
        read(0, 1000)

    monster = _zip(tmp_path / "m.zip", {f"F{at}": b"" for at in range(9)}, zipfile.ZIP_STORED)
    content = bytearray(monster.read_bytes())
    at = -1
    while (at := content.find(b"PK\1\2", at + 1)) >= 0:
        content[at + 24 : at + 28] = struct.pack("<I", 300_000_000)
    monster.write_bytes(content)
    report = home.ingest(monster)
    assert report.instances_new == 0
    assert "200 times as large" in report.unreadable[-1].reason
    assert len(report.unreadable) + len(report.quarantined) == 4


def test_a_list_of_a_zip_file_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disc = _zip(tmp_path / "d.zip", {f"F{at:09}": b"" for at in range(2000)})
    monkeypatch.setattr(archives, "_MOST_LIST_BYTES", 70_000)
    with pytest.raises(BadArchive) as refused:
        list(members(disc, "zip"))
    assert "list of files" in refused.value.reason


def test_a_file_is_not_read_from_its_beginning_without_end(tmp_path: Path) -> None:
    disc = _zip(tmp_path / "d.zip", {"A": os.urandom(600_000)})
    [one] = members(disc, "zip")
    assert one.member is not None
    with one.member.opened() as read:
        first = read(0, 10)
        for _ in range(archives._MOST_TURNS - 1):
            assert len(read(599_990, 100)) == 10
            assert read(0, 10) == first
        read(599_990, 100)
        with pytest.raises(OSError, match="unpack it"):
            read(0, 10)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=8), st.integers(0, 400)
)
def test_any_zip_file_gives_members_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    disc = tmp_path_factory.mktemp("fuzz", numbered=True) / "d.zip"
    _zip(disc, {"A": b"x" * 300, "B/C": b"y"})
    content = bytearray(disc.read_bytes())
    for at, value in changes:
        content[at % len(content)] = value
    disc.write_bytes(bytes(content[: len(content) - cut]) or b"PK\3\4")
    try:
        for one in members(disc, "zip"):
            if one.member is not None:
                with one.member.opened() as read:
                    assert len(read(0, one.member.size)) <= one.member.size
    except (BadArchive, OSError, FileChanged):
        pass


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(_image())
    (tmp_path / "empty.iso").write_bytes(b"")
    assert form_of(tmp_path / "x.zip") == form_of(tmp_path / "empty.iso") == ""
    assert form_of(_zip(tmp_path / "e", {})) == "zip"
    # One that lies in a folder is a file like any other.
    folder = tmp_path / "folder"
    folder.mkdir()
    _zip(folder / "d.zip", {"A": _image()})
    [found] = sources.find_files([folder], exclude=tmp_path / "home")
    assert found.member is None
