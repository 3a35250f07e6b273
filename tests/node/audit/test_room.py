"""The file of the audit log on a disk that fails: room ahead, what is undone, cut and mended."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk
from log_files import entries_in, failing, require_error

from node.audit import files
from node.audit.files import FRAME_HEADER, LogFile, frame, read_file
from node.errors import ExitCode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "audit").mkdir()
    return tmp_path / "audit" / "log"


@pytest.fixture
def log(path: Path) -> Iterator[LogFile]:
    file = LogFile(path, create=True)
    yield file
    file.close()


# --- room ahead -------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(files, "_RESERVE_BYTES", 100)
    return 100


def test_an_append_has_one_flush_and_two_where_the_file_grows(
    path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultyDisk(path.parent, monkeypatch)
    file = LogFile(path, create=True)
    sizes, flushes = [], []
    # The third fills what was written ahead to the last byte.
    for length in (10, 20, room - 28 - FRAME_HEADER.size, 1):
        before = disk.flushes
        file.append([b"x" * length])
        sizes.append(path.stat().st_size)
        flushes.append(disk.flushes - before)
    assert sizes == [18 + room, 18 + room, 18 + room, 18 + room + 9 + room]
    assert flushes == [2, 1, 1, 2]
    file.close()
    assert path.stat().st_size == 18 + room + 9


def test_writes_may_be_short(log: LogFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def short(descriptor: int, data: bytes, offset: int) -> int:
        return write(descriptor, data[:5], offset)

    monkeypatch.setattr(os, "pwrite", short)
    log.append([b"one", b"two"])
    # Five zeros were written ahead, and no more: the entries stand behind them.
    log.append([b"three"])
    everything = frame(b"one") + frame(b"two") + frame(b"three")
    assert path.read_bytes().rstrip(b"\0") == everything
    monkeypatch.undo()
    log.append([b"four"])
    log.close()
    assert path.read_bytes() == everything + frame(b"four")


def test_what_was_cut_off_is_written_ahead_again(path: Path, room: int) -> None:
    path.write_bytes(frame(b"one") + b"\xff" * 50)
    file = LogFile(path)
    assert list(file.scan()) == [b"one"]
    file.cut()
    assert path.stat().st_size == 11
    for entry in (b"two", b"three"):
        file.append([entry])
        assert path.stat().st_size == 22 + room
    file.cut()
    assert path.stat().st_size == 35
    file.append([b"four"])
    assert path.stat().st_size == 47 + room
    file.close()
    assert path.stat().st_size == 47


def test_a_log_that_nobody_read_is_closed_as_it_was(path: Path) -> None:
    path.write_bytes(frame(b"one") + bytes(50))
    LogFile(path).close()
    file = LogFile(path)
    next(file.scan())
    file.close()
    file.close()
    assert path.read_bytes() == frame(b"one") + bytes(50)


def test_a_log_whose_end_cannot_be_cut_is_closed_all_the_same(
    log: LogFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([b"one"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        log.close()
    assert path.stat().st_size > 11
    assert entries_in(path) == [b"one"]


def test_a_log_that_has_the_descriptor_0_is_closed_as_well(path: Path) -> None:
    """As in a program that was started without a standard input."""
    kept = os.dup(0)
    os.close(0)
    try:
        file = LogFile(path, create=True)
        assert file._descriptor == 0
        file.append([b"one"])
        file.close()
        assert entries_in(path) == [b"one"]
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert path.read_bytes() == frame(b"one")


# --- a disk that fails ------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_entries_of_a_write_that_failed_are_not_on_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """One of them was written whole, and would be taken for an entry after a crash."""
    LogFile(path, create=True).close()
    disk = FaultyDisk(path.parent, monkeypatch)
    file = LogFile(path)
    file.append([b"one"])
    disk.fail(0, error, half=True)
    require_error(ExitCode.DISK, lambda: file.append([b"two", b"-" * 20]))
    assert not file.is_broken
    disk.fail(None)
    assert path.read_bytes() == frame(b"one")
    for _, left in disk.survivors(path.parent.parent / "left", seed=1):
        assert read_file(left / "log").rstrip(b"\0") == frame(b"one")
    file.append([b"three"])
    file.close()
    assert entries_in(path) == [b"one", b"three"]


def test_a_write_that_is_interrupted_leaves_nothing(
    log: LogFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([b"one"])
    write = os.pwrite

    def interrupted(descriptor: int, data: bytes, offset: int) -> int:
        write(descriptor, data, offset)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append([b"two"])
    assert path.read_bytes() == frame(b"one")
    assert not log.is_broken
    log.append([b"three"])
    assert list(log.read(0, 2)) == [b"one", b"three"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_what_cannot_be_undone_breaks_the_log(
    log: LogFile, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    log.append([b"one"])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.EIO))
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        require_error(ExitCode.DISK, lambda: log.append([b"two"]))
    assert log.is_broken
    left = path.read_bytes()
    require_error(ExitCode.DISK, lambda: log.append([b"two"]), "an earlier write failed")
    # Nobody knows what is on the disk: it is left for the next start.
    log.close()
    assert path.read_bytes() == left


def test_a_disk_that_fails_at_zeros_breaks_the_log_and_one_that_is_full_does_not(
    log: LogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, broken in ((errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EIO, True)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", failing(error))
            require_error(ExitCode.DISK, lambda: log.append([b"one"]))
        assert log.is_broken is broken


def test_a_cut_that_fails_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(frame(b"one") + b"half an entry")
    file = LogFile(path)
    list(file.scan())
    for call in ("ftruncate", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(errno.EIO))
            require_error(ExitCode.DISK, file.cut, "cannot be written: Input/output error")
    file.close()


def test_what_a_killed_process_left_in_memory_is_durable_once_it_was_cut(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LogFile(path, create=True).close()
    disk = FaultyDisk(path.parent, monkeypatch)
    killed = LogFile(path)
    with monkeypatch.context() as patch:
        for flush in ("fsync", "fdatasync"):
            patch.setattr(os, flush, lambda _: None)
        killed.append([b"one", b"two"])
    killed.close()
    log = LogFile(path)
    assert list(log.scan()) == [b"one", b"two"]

    def found() -> list[bytes]:
        left = disk.survivors(path.parent.parent / "left", seed=1)
        return [read_file(folder / "log") for _, folder in left]

    assert set(found()) > {frame(b"one") + frame(b"two")}
    log.cut()
    assert set(found()) == {frame(b"one") + frame(b"two")}
    log.close()


@pytest.mark.parametrize("entries", [[b"one"], [b"one", b"two"], [b"one", b"two", b"three"]])
def test_a_mended_log_has_its_last_entry_written_again(
    log: LogFile, path: Path, monkeypatch: pytest.MonkeyPatch, entries: list[bytes]
) -> None:
    """Or the flush would have nothing to write. What was not acknowledged is cut, not written."""
    log.append(entries)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        require_error(ExitCode.DISK, lambda: log.append([b"lost"]))
    assert list(log.reopen()) == [*entries, b"lost"]
    written = []
    write = os.pwrite

    def remembered(descriptor: int, data: bytes, offset: int) -> int:
        written.append((offset, data))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", remembered)
    log.mend()
    before = sum(len(frame(entry)) for entry in entries[:-1])
    assert written == [(before, frame(entries[-1]))]
    assert not log.is_broken
    log.append([b"next"])
    log.close()
    assert entries_in(path) == [*entries, b"next"]


@pytest.mark.parametrize("call", ["pread", "pwrite", "ftruncate", "fsync"])
def test_a_log_that_could_not_be_mended_stays_broken(
    log: LogFile, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    log.append([b"one"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        require_error(ExitCode.DISK, lambda: log.append([b"two"]))
        patch.setattr(os, call, failing(errno.EIO))
        require_error(ExitCode.DISK, log.mend, "cannot be written: Input/output error")
        assert log.is_broken
    log.mend()
    log.append([b"two"])
    assert list(log.read(0, 2)) == [b"one", b"two"]
