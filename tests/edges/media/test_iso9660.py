"""Images of discs: pycdlib writes what is read here, and reads what is written here."""

import io
import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import pycdlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edges.media import iso9660, iso_writing
from edges.media.iso9660 import SECTOR_BYTES, BadImage, Member, members_untrusted
from edges.media.iso_writing import FIRST_FILE, Placed, finish

NOW = datetime(2026, 12, 1, 9, 30, 5, tzinfo=UTC)


def written(files: Mapping[tuple[str, ...], bytes], label: str = "DICOM") -> bytes:
    """An image of these files, as a disc is written."""
    image = bytearray(FIRST_FILE * SECTOR_BYTES)
    placed = []
    for path, content in files.items():
        placed.append(Placed(path, len(image) // SECTOR_BYTES, len(content)))
        image += content + bytes(-len(content) % SECTOR_BYTES)
    descriptors, rest = finish(placed, len(image) // SECTOR_BYTES, label, NOW)
    image[16 * SECTOR_BYTES : 18 * SECTOR_BYTES] = descriptors
    return bytes(image + rest)


def members(image: bytes) -> list[Member]:
    return list(members_untrusted(reader(image), len(image)))


def reader(image: bytes) -> iso9660.Read:
    return lambda offset, length: image[offset : offset + length]


def read(image: bytes) -> dict[str, bytes]:
    """The files of an image by their names; none may have a problem."""
    found = {}
    for one in members(image):
        assert not one.problem, one
        found[one.name] = b"".join(image[at : at + size] for at, size in one.extents)
    return found


def some_files(count: int = 300) -> dict[tuple[str, ...], bytes]:
    chance = random.Random(7)
    files = {("DICOMDIR",): b"directory", ("README.TXT",): b"", ("INDEX.HTM",): b"x" * 2048}
    for number in range(count):
        path = ("IMAGES", f"ST{number % 3:06}", f"SE{number % 5:06}", f"IM{number:06}")
        files[path] = chance.randbytes(chance.randrange(5000))
    return files


def test_another_reader_reads_an_image_that_was_written() -> None:
    files = some_files()
    disc = pycdlib.PyCdlib()
    disc.open_fp(io.BytesIO(written(files, "MADE_HERE")))
    assert disc.pvd.volume_identifier.rstrip() == b"MADE_HERE"
    found = {}
    for folder, _, names in disc.walk(iso_path="/"):
        for name in names:
            # Level 1: names of at most eight characters and three.
            assert re.fullmatch(r"[A-Z0-9_]{1,8}\.[A-Z0-9_]{0,3};1", name)
            content = io.BytesIO()
            disc.get_file_from_iso_fp(content, iso_path=f"{folder.rstrip('/')}/{name}")
            path = f"{folder.strip('/')}/{name.split(';')[0].rstrip('.')}".strip("/")
            found[tuple(path.split("/"))] = content.getvalue()
    assert found == files


def test_what_was_written_is_read() -> None:
    files = some_files()
    assert read(written(files)) == {"/".join(path): content for path, content in files.items()}
    assert read(written({})) == {}


def test_a_folder_of_many_sectors_and_many_folders() -> None:
    files = {("A", f"F{number:06}"): b"" for number in range(2000)}
    files |= {(f"D{number:06}", "X"): b"y" for number in range(500)}
    assert len(read(written(files))) == len(files)


@pytest.mark.parametrize(
    "options",
    [
        {"interchange_level": 1},
        {"interchange_level": 3},
        {"interchange_level": 3, "joliet": 3, "rock_ridge": "1.09"},
        {"interchange_level": 4},
    ],
)
def test_images_by_another_writer_are_read(options) -> None:
    disc = pycdlib.PyCdlib()
    disc.new(**options)
    more = {"rr_name": "x"} if "rock_ridge" in options else {}

    def named(name: str) -> dict[str, str]:
        joliet = {"joliet_path": f"/{name}"} if "joliet" in options else {}
        return {"iso_path": f"/{name}", **joliet, **({"rr_name": "x"} if more else {})}

    folder = named("DIR1")
    disc.add_directory(**folder)
    for name, content in (("A.;1", b"first"), ("DIR1/B.DCM;1", b"second" * 999)):
        where = {"iso_path": f"/{name}", **more}
        if "joliet" in options:
            where["joliet_path"] = f"/{name.split(';')[0].rstrip('.').lower()}".replace(
                "dir1", "DIR1"
            )
        disc.add_fp(io.BytesIO(content), len(content), **where)
    image = io.BytesIO()
    disc.write_fp(image)
    assert read(image.getvalue()) == {"A": b"first", "DIR1/B.DCM": b"second" * 999}


def test_a_file_in_several_parts_is_one() -> None:
    """As files of more than 4 GiB have it: all records but the last have a flag."""
    image = bytearray(written({("A1",): b"x" * SECTOR_BYTES, ("A2",): b"tail"}))
    for at in record_places(image, b"A1.;1", b"A2.;1"):
        image[at + 33 : at + 38] = b"AA.;1"
    first, _ = record_places(image, b"AA.;1")
    image[first + 25] |= 0x80
    assert read(bytes(image)) == {"AA": b"x" * SECTOR_BYTES + b"tail"}


def test_a_file_of_very_many_parts_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {(f"A{number:02}",): b"x" for number in range(6)}
    image = bytearray(written({**files, ("B",): b"whole"}))
    for at in record_places(image, *(f"A{number:02}.;1".encode() for number in range(5))):
        image[at + 25] |= 0x80
    assert len(members(bytes(image))[0].extents) == 6
    monkeypatch.setattr(iso9660, "MOST_PARTS", 5)
    found = {one.name: (len(one.extents), one.problem) for one in members(bytes(image))}
    assert found == {"A05": (0, "has too many parts"), "B": (1, "")}


def test_folders_are_together_not_larger_than_any(monkeypatch: pytest.MonkeyPatch) -> None:
    image = written(some_files())
    monkeypatch.setattr(iso9660, "MOST_FOLDERS_BYTES", 5 * SECTOR_BYTES)
    with pytest.raises(BadImage, match="together larger"):
        members(image)


def record_places(image: bytes, *names: bytes) -> list[int]:
    """Offsets of the records of these names."""
    found = []
    for name in names:
        at = image.find(name, FIRST_FILE * SECTOR_BYTES)
        while at > 0:
            found.append(at - 33)
            at = image.find(name, at + 1)
    return found


def _loop(image: bytearray) -> None:
    """Let a folder contain the root, and another one itself."""
    root = image[16 * SECTOR_BYTES + 156 :][2:18]
    [at] = [one for one in record_places(image, b"ST000000") if image[one + 25] == 2]
    image[at + 2 : at + 18] = root


def test_an_image_that_leads_in_circles_ends() -> None:
    image = bytearray(written(some_files()))
    _loop(image)
    found = members(bytes(image))
    assert len({one.name for one in found}) == len(found) < 303


def test_what_lies_beyond_the_end_is_named_and_the_rest_is_read() -> None:
    image = bytearray(written({("A",): b"here", ("B",): b"there", ("FOLDER", "C"): b"below"}))
    for name, extent in ((b"B.;1", 2**31), (b"FOLDER", 2**30)):
        [at] = [
            one
            for one in record_places(image, name)
            if image[one + 32 : one + 33] == bytes((len(name),))
            and image[one] == 33 + len(name) + (len(name) + 1) % 2
        ]
        image[at + 2 : at + 6] = extent.to_bytes(4, "little")
    found = {one.name: one.problem for one in members(bytes(image))}
    assert found == {
        "A": "",
        "B": "lies beyond the end of the image",
        "FOLDER": "is a folder beyond the end of the image",
    }


def test_claims_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    image = written(some_files())
    for name, most in (("MOST_FILES", 100), ("MOST_FOLDERS", 3)):
        with monkeypatch.context() as bound:
            bound.setattr(iso9660, name, most)
            with pytest.raises(BadImage) as refused:
                members(image)
            assert f"more than {most}" in refused.value.reason
    with monkeypatch.context() as bound:
        bound.setattr(iso9660, "MOST_FOLDER_BYTES", 1000)
        assert [one.problem for one in members(image)] == ["claims to be a folder larger than any"]
    with monkeypatch.context() as bound:
        bound.setattr(iso9660, "MOST_DEPTH", 1)
        problems = [one.problem for one in members(image) if one.problem]
        assert problems == ["is deeper than 1 folders"] * 3


def test_names_lead_nowhere() -> None:
    image = bytearray(written({("AAAAAA",): b"x", ("BBBBBB",): b"y"}))
    for old, new in ((b"AAAAAA.;1", b"../../A;1"), (b"BBBBBB.;1", b"\x1b[2J\0\r\n;1")):
        for at in record_places(image, old):
            image[at + 33 : at + 42] = new
    names = [one.name for one in members(bytes(image))]
    assert len(names) == 2
    assert all(name.isprintable() and "/" not in name and name[0] != "." for name in names)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "no ISO 9660"),
        (bytes(40 * SECTOR_BYTES), "no ISO 9660"),
        (written({})[: 17 * SECTOR_BYTES - 1], "no ISO 9660"),
        (bytes(16 * SECTOR_BYTES) + b"\0BEA01".ljust(SECTOR_BYTES, b"\0"), "mount it"),
    ],
)
def test_what_is_no_image_says_so(image: bytes, reason: str) -> None:
    with pytest.raises(BadImage) as refused:
        members(image)
    assert reason in refused.value.reason


def test_an_image_is_known_by_its_descriptors() -> None:
    assert iso9660.is_image(reader(written({})))
    assert iso9660.is_image(reader(bytes(16 * SECTOR_BYTES) + b"\0BEA01"))
    assert not iso9660.is_image(reader(bytes(40 * SECTOR_BYTES)))
    assert not iso9660.is_image(reader(b""))


SMALL = written({("DICOMDIR",): b"d", ("A", "B", "C"): b"x" * 100, ("A", "D"): b"y"})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(16 * SECTOR_BYTES, len(SMALL) - 1), st.integers(0, 255)),
                max_size=12))  # fmt: skip
def test_any_bytes_give_members_or_one_error(changes: list[tuple[int, int]]) -> None:
    image = bytearray(SMALL)
    for at, value in changes:
        image[at] = value
    try:
        found = members(bytes(image))
    except BadImage:
        return
    assert all(one.problem or one.size <= len(image) * len(found) for one in found)


@pytest.mark.parametrize(
    "path", [("lower",), ("TOOLONGNAME",), ("A.B", "C"), ("A.HTML",), (), ("X",) * 9, ("..",)]
)
def test_names_beyond_level_one_are_refused(path: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, IndexError)):
        finish([Placed(path, FIRST_FILE, 1)], FIRST_FILE + 1, "DICOM", NOW)


def test_sectors() -> None:
    assert [iso_writing.sectors(size) for size in (0, 1, 2048, 2049)] == [0, 1, 1, 2]
