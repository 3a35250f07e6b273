"""Watched folders: what is taken, when, once; what is left alone; and what a share does."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from studies_made import make_study

from node.app import Node
from node.config import read_settings
from node.edges import folders
from node.edges.door_settings import BadEdge
from node.edges.folder_settings import FolderSettings, read_folders
from node.edges.folders import DONE, LOOK_SECONDS, REFUSED, TAKEN, TROUBLE_SECONDS, Folder
from node.errors import NodeError
from node.home import Home
from node.images.spool import Spool
from node.parts import arrivals_of


@asynccontextmanager
async def _watching(home: Home, settings: FolderSettings) -> AsyncIterator[tuple[Node, Folder]]:
    """A node that watches a folder."""
    with Node.open(home) as node:
        spool = Spool(home.arrivals_path, node.store.require_free)
        arrivals = arrivals_of(node, spool)
        folder = Folder(settings, arrivals, node.doors)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(arrivals.run)
                nursery.start_soon(folder.run)
                yield node, folder
                nursery.cancel_scope.cancel()
        finally:
            spool.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "north", name="North")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def _settings(place: Path, still_seconds: int = 0, **more: Any) -> FolderSettings:
    """Without a wait by default, which the settings of a file do not allow."""
    [found] = read_folders({"scanner": {"path": str(place), **more}}).values()
    return replace(found, still_seconds=still_seconds)


def _remove(place: Path) -> None:
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir()
    place.rmdir()


async def _until(condition: Callable[[], Any], what: str) -> None:
    with trio.fail_after(60):
        # What is waited for is a folder and counts, which tell nobody.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)
    assert condition(), what


def _names(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "LOOK_SECONDS", LOOK_SECONDS / 40)
    monkeypatch.setattr(folders, "TROUBLE_SECONDS", TROUBLE_SECONDS / 300)


async def test_what_is_still_is_taken_and_goes(home: Home, place: Path) -> None:
    study = make_study(place / "CT" / "series", 3)
    async with _watching(home, _settings(place)) as (node, folder):
        await _until(lambda: folder.counts.taken == 3, "three are taken")
        assert _names(place) == set()
        group = [one for one in folder._arrivals._groups.waiting if one.study == study]
        assert [one.source for one in group] == ["folder:scanner"]
        assert folder.describe()["trouble"] == ""
        assert node.home.quarantine_path.exists()


async def test_kept_files_of_one_name_replace_none(home: Home, place: Path) -> None:
    for number in range(3):
        make_study(place / str(number), 1)
    async with _watching(home, _settings(place, keep=True)) as (_, folder):
        await _until(lambda: folder.counts.taken == 3, "three are taken")
    assert _names(place) == {f"{DONE}/{name}" for name in
                             ("IM00001.dcm", "1-IM00001.dcm", "2-IM00001.dcm")}  # fmt: skip


async def test_a_file_that_is_written_slowly_is_taken_whole_and_once(
    home: Home, place: Path, tmp_path: Path
) -> None:
    make_study(tmp_path / "whole", 1)
    content = (tmp_path / "whole" / "IM00001.dcm").read_bytes()
    async with _watching(home, _settings(place, still_seconds=1)) as (_, folder):
        with (place / "slow.dcm").open("wb", buffering=0) as writer:
            for start in range(0, len(content), 1 + len(content) // 6):
                writer.write(content[start : start + 1 + len(content) // 6])
                await trio.sleep(0.3)
                assert folder.counts.taken == folder.counts.set_aside == folder.counts.refused == 0
        await _until(lambda: folder.counts.taken == 1, "it is taken")
        assert (folder.counts.set_aside, folder.counts.refused) == (0, 0)


async def test_who_still_writes_to_a_file_that_was_moved_is_waited_for(
    home: Home, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(tmp_path / "whole", 1)
    content = (tmp_path / "whole" / "IM00001.dcm").read_bytes()
    path = place / "a.dcm"
    path.write_bytes(content[:-100])
    writer = path.open("ab", buffering=0)
    inode = path.stat().st_ino
    read = os.pread
    growing: list[int] = []

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        found = read(descriptor, length, offset)
        # Its writer wakes up after it was moved, while it is read.
        if os.fstat(descriptor).st_ino == inode and not writer.closed:
            writer.write(content[-100:])
            writer.close()
            growing.append(len(found))
        return found

    monkeypatch.setattr(os, "pread", pread)
    async with _watching(home, _settings(place)) as (_, folder):
        await _until(lambda: folder.counts.taken == 1, "it is taken")
        assert (folder.counts.set_aside, folder.counts.trouble) == (0, "")
    assert growing == [len(content) - 100]
    assert _names(place) == set()


async def test_what_is_no_image_is_moved_away_and_counted(home: Home, place: Path) -> None:
    (place / "Thumbs.db").write_bytes(b"x" * 5000)
    make_study(place, 1)
    async with _watching(home, _settings(place)) as (_, folder):
        await _until(
            lambda: folder.counts.taken + folder.counts.refused == 2, "both are dealt with"
        )
        assert folder.counts.refused == 1
    assert _names(place) == {f"{REFUSED}/Thumbs.db"}


async def test_links_unfinished_and_hidden_files_are_left_alone(
    home: Home, place: Path, tmp_path: Path
) -> None:
    make_study(tmp_path / "else", 2)
    (place / "link.dcm").symlink_to(tmp_path / "else" / "IM00001.dcm")
    (place / "folder").symlink_to(tmp_path / "else")
    for name in ("a.part", "b.TMP", "c~", ".d.dcm"):
        (place / name).write_bytes((tmp_path / "else" / "IM00001.dcm").read_bytes())
    os.mkfifo(place / "pipe")
    make_study(place / "real", 1)
    async with _watching(home, _settings(place)) as (_, folder):
        await _until(lambda: folder.counts.taken == 1, "the real one is taken")
        await trio.sleep(0.3)
        assert folder.counts.taken == 1
    assert len(list((tmp_path / "else").iterdir())) == 2
    assert {"a.part", "b.TMP", "c~", ".d.dcm", "link.dcm"} <= _names(place)


async def test_a_share_that_goes_away_and_comes_back(home: Home, place: Path) -> None:
    study = make_study(place, 2)
    async with _watching(home, _settings(place)) as (node, folder):
        await _until(lambda: folder.counts.taken == 2, "two are taken")
        _remove(place)
        await _until(lambda: folder.counts.trouble, "it is said")
        assert folder.counts.trouble == "it cannot be read: No such file or directory"
        # Nothing is taken for deleted.
        assert [one.study for one in folder._arrivals._groups.waiting] == [study]
        make_study(place, 1)
        await _until(lambda: folder.counts.taken == 3, "it goes on")
        assert folder.counts.trouble == ""
        assert node.catalog.studies() == []


async def test_what_a_killed_process_left_aside_is_taken_up(home: Home, place: Path) -> None:
    make_study(place / TAKEN, 2)
    async with _watching(home, _settings(place)) as (_, folder):
        await _until(lambda: folder.counts.taken == 2, "two are taken")
    assert _names(place) == set()


async def test_a_disk_that_is_full_loses_nothing(
    home: Home, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(place, 2)
    is_full = True
    async with _watching(home, _settings(place)) as (_, folder):
        require_sound = folder._arrivals._require_sound

        def require() -> None:
            if is_full:
                raise NodeError("the disk is full")
            require_sound()

        monkeypatch.setattr(folder._arrivals, "_require_sound", require)
        await _until(lambda: folder.counts.trouble == "the disk is full", "it is said")
        assert len(_names(place)) == 2
        is_full = False
        await _until(lambda: folder.counts.taken == 2, "two are taken")
    assert _names(place) == set()


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (PermissionError(13, "Permission denied"), ""),
        (OSError(5, "Input/output error"), "it cannot be read: Input/output error"),
    ],
)
async def test_one_file_that_cannot_be_read_holds_up_no_other(
    home: Home, place: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, trouble: str
) -> None:
    make_study(place, 12)
    opened = folders._open

    def opens(path: Path) -> int:
        if path.name == "IM00001.dcm":
            raise error
        return opened(path)

    monkeypatch.setattr(folders, "_open", opens)
    async with _watching(home, _settings(place)) as (_, folder):
        await _until(lambda: folder.counts.taken == 11, "the others are taken")
        await _until(lambda: folder.counts.refused or folder.counts.trouble, "it is said")
        assert folder.counts.trouble == trouble
    where = TAKEN if trouble else REFUSED
    assert _names(place) == {f"{where}/IM00001.dcm"}


async def test_what_comes_into_a_folder_that_sends_on_is_noted(home: Home, place: Path) -> None:
    study = make_study(place, 2)
    settings = _settings(place, to="South Clinic", purpose="treatment")
    async with _watching(home, settings) as (node, folder):
        await _until(lambda: folder.counts.taken == 2, "two are taken")
        [one] = node.doors.waiting()
        assert (one.study_uid, one.door, one.brought_by) == (study, "folder:scanner", "scanner")


async def test_names_of_files_are_in_no_log(
    home: Home, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "Beispiel^Anna.txt").write_bytes(b"x" * 1000)
    async with _watching(home, _settings(place)) as (_, folder):
        await _until(lambda: folder.counts.refused == 1, "it is refused")
    assert "Beispiel" not in caplog.text


def test_without_links_a_file_is_renamed_and_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", fail)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a").write_text("first")
    (tmp_path / "a").write_text("second")
    moved = folders._moved(tmp_path / "a", tmp_path / "to")
    assert {path.name: path.read_text() for path in (tmp_path / "to").iterdir()} == {
        "a": "first",
        "1-a": "second",
    }
    assert moved.name == "1-a"


BAD = [
    ({"path": "relative"}, "not absolute"),
    ({}, "no path"),
    ({"path": "/x", "still_seconds": 0}, "still_seconds"),
    ({"path": "/x", "other": 1}, "other: its entries are"),
    ({"path": "/x", "to": "South"}, "one of `to` and `purpose`"),
    ({"path": "/x", "to": "South", "purpose": "BTG"}, "not for offers"),
    ({"path": "/x", "keep": 1}, "true or false"),
]


@pytest.mark.parametrize(("entry", "sentence"), BAD)
def test_what_the_settings_refuse(entry: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadEdge, match=sentence):
        read_folders({"scanner": entry})


def test_folders_in_each_other_or_in_the_home_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadEdge, match="in the folder of"):
        read_folders({"a": {"path": "/x"}, "b": {"path": "/x/y"}})
    with pytest.raises(BadEdge, match="a name that is none"):
        read_folders({"a b": {"path": "/x"}})
    config = tmp_path / "config.toml"
    config.write_text(f'[folders."a"]\npath = "{tmp_path}/store"\n')
    with pytest.raises(NodeError, match="is in the home"):
        read_settings(config)
