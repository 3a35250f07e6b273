"""The files of the audit log by themselves: who has them, frames, and the small files beside."""

import errno
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk
from log_files import entries_in, failing, open_files, require_error

from node.audit import files
from node.audit.files import (
    FRAME_HEADER,
    LogFile,
    frame,
    read_file,
    rename_durable,
    replace_durable,
)
from node.errors import ExitCode, NodeError
from protocol.log.entry import ENTRY_BYTES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "audit").mkdir()
    return tmp_path / "audit" / "log"


@pytest.fixture
def log(path: Path) -> Iterator[LogFile]:
    file = LogFile(path, create=True)
    yield file
    file.close()


# --- who may have it --------------------------------------------------------------------


def test_the_files_are_for_their_owner_alone(log: LogFile, path: Path) -> None:
    replace_durable(path.with_name("checkpoint"), b"signed")
    for name in ("log", "checkpoint"):
        assert path.with_name(name).stat().st_mode & 0o777 == 0o600


def test_no_child_process_inherits_the_log(log: LogFile) -> None:
    log.append([b"one"])
    assert not os.get_inheritable(log._descriptor)
    list(log.reopen())
    assert not os.get_inheritable(log._descriptor)


def test_a_log_that_cannot_be_opened_says_so(log: LogFile, path: Path) -> None:
    require_error(ExitCode.INTEGRITY, lambda: LogFile(path.with_name("none")), "No such file")
    require_error(ExitCode.NO_HOME, lambda: LogFile(path.parent), "Is a directory")
    require_error(ExitCode.NO_HOME, lambda: LogFile(path, create=True), "File exists")


def test_a_log_is_one_process_s_until_it_is_closed(log: LogFile, path: Path) -> None:
    log.append([b"one"])
    before = open_files()
    for _ in range(2):
        require_error(ExitCode.BUSY, lambda: LogFile(path), "another process is writing")
        # Also after it was opened again below the same number.
        assert list(log.reopen()) == [b"one"]
    assert open_files() == before
    log.close()
    assert entries_in(path) == [b"one"]


def test_a_log_that_another_process_took_while_it_was_reopened_is_not_written(
    log: LogFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([b"one"])
    others: list[LogFile] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: others.append(LogFile(path)))
    require_error(ExitCode.BUSY, log.reopen)
    others[0].close()


def test_what_is_in_memory_is_forgotten_before_the_log_is_read_again(
    log: LogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may show what it failed to write as if it were on disk."""
    log.append([b"one"])
    advised = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *call: advised.append(call))
    frames = log.reopen()
    assert advised == [(log._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)]
    assert list(frames) == [b"one"]


def test_a_log_that_cannot_be_opened_again_says_so(
    log: LogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([b"one"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EIO))
        require_error(ExitCode.DISK, log.reopen, "cannot be written: Input/output error")
    assert list(log.read(0, 1)) == [b"one"]


# --- frames -----------------------------------------------------------------------------


def with_length(length: int, data: bytes) -> bytes:
    return FRAME_HEADER.pack(length, zlib.crc32(data)) + data


@pytest.mark.parametrize(
    "tail",
    [
        b"\0\0\0\5\0\0\0",
        frame(b"two")[:-1],
        frame(b"two")[:-1] + b"w",
        # The sum is right, as far as there are bytes.
        with_length(100, b"x" * 50),
        with_length(0, b""),
        frame(bytes(ENTRY_BYTES + 1)),
        with_length(0xFFFFFFFF, b"x" * 50),
    ],
    ids=["half a header", "cut", "changed", "longer than the file", "empty", "too long", "4 GB"],
)
def test_a_frame_that_is_not_whole_ends_the_log(path: Path, tail: bytes) -> None:
    path.write_bytes(frame(b"one") + tail)
    file = LogFile(path)
    assert list(file.scan()) == [b"one"]
    assert file.torn_tail() == tail.rstrip(b"\0")
    file.cut()
    assert path.read_bytes() == frame(b"one")
    assert file.torn_tail() == b""
    file.append([b"two"])
    file.close()
    assert entries_in(path) == [b"one", b"two"]


def test_an_entry_may_be_as_long_as_entries_may_be(log: LogFile, path: Path) -> None:
    most = b"x" * ENTRY_BYTES
    log.append([most, b"y", most])
    assert list(log.read(0, 3)) == [most, b"y", most]
    log.close()
    assert entries_in(path) == [most, b"y", most]


def test_a_log_that_cannot_be_read_says_so(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([b"one"])
    for call, work in (
        ("dup", lambda: list(log.scan())),
        ("fstat", lambda: list(log.scan())),
        ("pread", lambda: list(log.read(0, 1))),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(errno.EIO))
            require_error(ExitCode.DISK, work, "cannot be read: Input/output error")


@pytest.mark.parametrize("together", [1, 2, 3, 7])
def test_any_range_of_entries_is_read(
    log: LogFile, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    entries = [b"entry" * number for number in range(1, 8)]
    log.append(entries[:3])
    log.append(entries[3:])
    assert log.count == 7
    monkeypatch.setattr(files, "_READ_ENTRIES", together)
    for start in range(8):
        for stop in range(start, 8):
            assert list(log.read(start, stop)) == entries[start:stop]


@pytest.mark.parametrize(
    "found",
    [
        frame(b"one") + frame(b"two")[:-1] + b"x",
        frame(b"one") + FRAME_HEADER.pack(3, 0) + b"two",
        # The sum is right, and the length is not.
        frame(b"one") + with_length(9, b"two"),
        frame(b"one") + frame(b"two")[:-1],
        frame(b"one") + frame(b"two")[:5],
        frame(b"one"),
    ],
    ids=["bytes", "sum", "length", "cut", "half a header", "gone"],
)
def test_an_entry_that_is_not_what_was_written_is_told_when_it_is_read(
    log: LogFile, path: Path, found: bytes
) -> None:
    log.append([b"one", b"two"])
    path.write_bytes(found)
    read = log.read(0, 2)
    assert next(read) == b"one"
    require_error(ExitCode.INTEGRITY, lambda: next(read), "entry 1 of the audit log is damaged")


# --- the small files beside it ----------------------------------------------------------


def sweep(
    folder: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]
) -> Iterator[tuple[bool, Path]]:
    """Do the work with a power cut at each call: whether it was done, and what may be left."""
    at, reached = 0, True
    content = {one.name: one.read_bytes() for one in folder.iterdir()}
    while reached:
        for one in list(folder.iterdir()):
            one.unlink()
        for name, data in content.items():
            (folder / name).write_bytes(data)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(folder, patch)
            disk.fail(at)
            try:
                work()
                done = True
            except NodeError as error:
                if error.code is not ExitCode.DISK:
                    raise
                done = False
            reached = disk.calls > at
            assert done is not reached
            for _, left in disk.survivors(folder.parent / "left", seed=at):
                yield done, left
        at += 1
    assert at >= 2


def test_a_small_file_is_old_or_new_whenever_the_power_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = b"o" * 300, b"n" * 500
    path.write_bytes(old)
    # What a crash left of an earlier one, and longer.
    path.with_name("log.new").write_bytes(b"x" * 900)
    found = set()
    for done, left in sweep(path.parent, monkeypatch, lambda: replace_durable(path, new)):
        data = read_file(left / "log")
        assert data == new if done else data in (old, new)
        found.add(data)
    assert found == {old, new}


def test_a_small_file_is_written_in_short_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda at, data: write(at, data[:7]))
    before = open_files()
    replace_durable(path, b"a signed checkpoint")
    assert path.read_bytes() == b"a signed checkpoint"
    assert [one.name for one in path.parent.iterdir()] == ["log"]
    assert open_files() == before


def test_a_small_file_has_one_of_its_names_whenever_the_power_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"half an entry")
    target = path.with_name("torn-tail-2")
    for done, left in sweep(path.parent, monkeypatch, lambda: rename_durable(path, target)):
        names = {one.name for one in left.iterdir()}
        assert names == {"torn-tail-2"} if done else names & {"log", "torn-tail-2"}


def test_a_small_file_that_cannot_be_read_or_written_says_so(path: Path) -> None:
    assert read_file(path) == b""
    path.mkdir()
    require_error(ExitCode.DISK, lambda: read_file(path), "log cannot be read: Is a directory")
    require_error(ExitCode.DISK, lambda: replace_durable(path, b"x"), "log cannot be written: Is a")
    missing = path.with_name("none")
    require_error(ExitCode.DISK, lambda: rename_durable(missing, path), "No such file")
