"""The audit log in crashes at every byte, on full and failing disks, under kill -9."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest
from logs_made import CARD, LOG, NODE, ORIGIN, START_MS, create, entries_of, event, reopen, verified
from places import ROOT, SUPPORT

from node.audit import appending as audit_appending
from node.audit.files import LogFile, frame
from node.audit.log import AuditLog
from node.errors import ExitCode, NodeError
from protocol.errors import LocalProtocolError
from protocol.log.entry import Event
from protocol.log.tree import Frontier, leaf_hash
from protocol.verify import Code


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "audit"


@pytest.fixture
def crashed(tmp_path):
    """A log of three entries whose checkpoint covers two, and one that covers all."""
    directory = tmp_path / "crashed"
    log = create(directory)
    log.append(event(1))
    log.latest_checkpoint()
    lagging = (directory / "checkpoint").read_bytes()
    log.append(event(2))
    log.close()
    return directory, lagging


@pytest.mark.slow
def test_a_tail_torn_at_any_byte_is_cut_and_noted(crashed, tmp_path):
    source, lagging = crashed
    data = (source / "log").read_bytes()
    log = reopen(source)
    last = len(frame(list(log.entries())[2]))
    log.close()
    for kept in range(1, last):
        # Zeros at the end are no different from those that are written ahead.
        left = data[len(data) - last :][:kept].rstrip(b"\0")
        directory = tmp_path / f"torn-{kept}"
        shutil.copytree(source, directory)
        (directory / "log").write_bytes(data[: len(data) - last + kept])
        (directory / "checkpoint").write_bytes(lagging)
        log = reopen(directory)
        entries = entries_of(log)
        if left:
            assert [entry.type for entry in entries] == ["init", "ingest", "torn-tail-cut"]
            assert entries[2].details["bytes"] == len(left)
            assert (directory / "torn-tail-2").read_bytes() == left
        else:
            assert [entry.type for entry in entries] == ["init", "ingest"]
        assert verified(log).sound is True
        log.close()
        shutil.rmtree(directory)


def test_zeros_written_ahead_are_cut_without_a_note(crashed):
    directory, _ = crashed
    size = (directory / "log").stat().st_size
    os.truncate(directory / "log", size + 5000)
    log = reopen(directory)
    assert log.size == 3
    log.close()
    assert (directory / "log").stat().st_size == size
    assert not list(directory.glob("torn-tail*"))


@pytest.mark.parametrize("garbage", [b"\0" * 100 + b"x", b"\xff" * 100, b"\0\0\0\5\0\0\0\0hello"])
def test_garbage_behind_the_end_is_cut_and_noted(crashed, garbage):
    directory, _ = crashed
    with (directory / "log").open("ab") as file:
        file.write(garbage)
    log = reopen(directory)
    assert [entry.type for entry in entries_of(log)][3:] == ["torn-tail-cut"]
    log.append(event(3))
    log.close()
    log = reopen(directory)
    assert log.size == 5
    assert verified(log).sound is True
    log.close()


def test_a_crash_between_cutting_and_noting_loses_no_note(crashed):
    directory, _ = crashed
    (directory / "torn-tail").write_bytes(b"half an entry")
    log = reopen(directory)
    assert entries_of(log)[3].details["bytes"] == 13
    log.close()
    log = reopen(directory)
    assert log.size == 4
    log.close()


def test_entries_behind_the_checkpoint_are_kept(crashed):
    directory, lagging = crashed
    (directory / "checkpoint").write_bytes(lagging)
    log = reopen(directory)
    assert log.size == 3
    assert "\n3\n" in log.latest_checkpoint()
    log.close()


def test_openings_of_entries_that_were_not_written_are_dropped(crashed):
    directory, lagging = crashed
    log = reopen(directory)
    lost = entries_of(log)[2].subjects[0][1]
    last = len(frame(list(log.entries())[2]))
    log.close()
    os.truncate(directory / "log", (directory / "log").stat().st_size - last)
    (directory / "checkpoint").write_bytes(lagging)
    log = reopen(directory)
    assert log.opening_of(lost) is None
    log.append(Event(type="start"))
    assert verified(log).sound is True
    log.close()


@pytest.mark.parametrize("cut", [1, 8, 200, 10_000])
def test_a_log_shorter_than_signed_does_not_open(crashed, cut):
    directory, _ = crashed
    path = directory / "log"
    os.truncate(path, max(path.stat().st_size - cut, 0))
    with pytest.raises(NodeError) as caught:
        reopen(directory)
    assert caught.value.code == ExitCode.INTEGRITY


def test_a_changed_entry_does_not_open(crashed):
    directory, _ = crashed
    log = reopen(directory)
    entries = list(log.entries())
    log.close()
    entries[1] = entries[1].replace(b'"n":1', b'"n":9')
    (directory / "log").write_bytes(b"".join(frame(entry) for entry in entries))
    with pytest.raises(NodeError, match="not those that were signed"):
        reopen(directory)


def test_an_unsigned_entry_that_is_none_does_not_open(crashed):
    directory, _ = crashed
    with (directory / "log").open("ab") as file:
        file.write(frame(b"not an entry"))
    with pytest.raises(NodeError) as caught:
        reopen(directory)
    assert caught.value.code == ExitCode.INTEGRITY


@pytest.mark.parametrize("damage", ["missing", "changed", "other key"])
def test_a_bad_checkpoint_does_not_open(crashed, damage):
    directory, _ = crashed
    path = directory / "checkpoint"
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_text(path.read_text().replace("\n3\n", "\n2\n"))
    key = NODE if damage == "other key" else LOG
    with pytest.raises(NodeError) as caught:
        AuditLog.open(directory, log_key=key, origin=ORIGIN, clock_ms=lambda: START_MS)
    assert caught.value.code == ExitCode.INTEGRITY


def test_a_missing_log_does_not_open(crashed):
    directory, _ = crashed
    (directory / "log").unlink()
    with pytest.raises(NodeError) as caught:
        reopen(directory)
    assert caught.value.code == ExitCode.INTEGRITY


def test_damage_on_disk_is_noticed_while_reading(directory):
    log = create(directory)
    log.append(event(1))
    path = directory / "log"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"n":1', b'"n":7'))
    with pytest.raises(NodeError) as caught:
        list(log.entries())
    log.close()
    assert caught.value.code == ExitCode.INTEGRITY


_FULL_DISK = """
import resource, sys
from pathlib import Path
from logs_made import create, event
from node.errors import NodeError
from protocol.errors import LocalProtocolError
from protocol.log.entry import Event
directory = Path(sys.argv[1])
log = create(directory)
log.append(event(0))
subjects = (("study", "1.2.3"),) if sys.argv[2] == "openings" else ()
limit = (directory / "log").stat().st_size + 20_000
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
written = []
try:
    while True:
        one = Event(type="start", subjects=subjects, details={"n": len(written)})
        written.append(log.append(one))
except NodeError as error:
    print(error.code.name, len(written), log.size, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(log.append(event(1)), flush=True)
log.close()
"""


def _run(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["entries", "openings"])
def test_on_a_full_disk_nothing_is_logged_and_later_all_is_well(directory, what):
    """No file grows further than the log by 20 kB: the log is full first, or the openings are."""
    with _run(_FULL_DISK, directory, what) as process:
        output = process.stdout.read().split()
    assert process.returncode == 0
    code, appended, size, later = output
    assert code == "DISK"
    assert int(appended) > 0
    assert int(size) == int(appended) + 2
    assert int(later) == int(size)
    log = reopen(directory)
    assert log.size == int(size) + 1
    for entry in entries_of(log):
        for _, commitment in entry.subjects:
            assert log.opening_of(commitment) is not None
    assert verified(log).sound is True
    log.close()


class _Disk:
    """Flushes as told: a real flush, or an error with the given number."""

    def __init__(self):
        self.error = 0
        self._flush = os.fdatasync

    def __call__(self, descriptor):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self._flush(descriptor)


@pytest.fixture
def failing(directory, monkeypatch):
    """A log of two entries and the disk below it."""
    log = create(directory)
    disk = _Disk()
    monkeypatch.setattr(os, "fdatasync", disk)
    log.append(event(1))
    yield log, disk
    log.close()


def test_after_a_failed_flush_the_log_is_read_again_and_goes_on(failing, directory):
    log, disk = failing
    disk.error = errno.EIO
    with pytest.raises(NodeError) as caught:
        log.append(event(2))
    assert caught.value.code == ExitCode.DISK
    assert log._file.is_broken
    disk.error = 0
    assert log.append(event(3)) == 2
    assert [entry.details.get("n") for entry in entries_of(log)] == [None, 1, 3]
    assert verified(log).sound is True
    log.close()
    log = reopen(directory)
    assert [entry.details.get("n") for entry in entries_of(log)] == [None, 1, 3]
    log.close()


def test_a_disk_that_lost_what_it_had_taken_ends_the_log(failing, directory):
    log, disk = failing
    disk.error = errno.EIO
    with pytest.raises(NodeError):
        log.append(event(2))
    disk.error = 0
    data = (directory / "log").read_bytes()
    (directory / "log").write_bytes(data.replace(b'"n":1', b'"n":7'))
    with pytest.raises(NodeError, match="has lost entries") as caught:
        log.append(event(3))
    assert caught.value.code == ExitCode.INTEGRITY
    # The next attempt waits: each reads the whole log.
    with pytest.raises(NodeError, match="a moment ago"):
        log.append(event(3))
    assert log.size == 2


def test_a_disk_that_goes_on_failing_takes_nothing(failing, directory, monkeypatch):
    log, disk = failing
    monkeypatch.setattr(audit_appending, "MEND_PAUSE_SECONDS", 0.0)
    disk.error = errno.EIO
    for _ in range(3):
        with pytest.raises(NodeError) as caught:
            log.append(event(2))
        assert caught.value.code == ExitCode.DISK
    assert log.size == 2
    disk.error = 0
    assert log.append(event(3)) == 2


def test_a_disk_too_full_for_zeros_takes_entries(directory, monkeypatch):
    write = os.pwrite

    def without_zeros(descriptor, data, offset):
        if not any(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", without_zeros)
    log = create(directory)
    assert log.append_many([event(1), event(2)]) == range(1, 3)
    monkeypatch.setattr(os, "pwrite", write)
    assert log.append(event(3)) == 3
    assert [entry.details.get("n") for entry in entries_of(log)] == [None, 1, 2, 3]
    log.close()
    log = reopen(directory)
    assert verified(log).sound is True
    log.close()


def test_a_checkpoint_that_cannot_be_written_stops_no_entry(directory):
    log = create(directory)
    # A folder under the checkpoint's name: writing it fails.
    (directory / "checkpoint").rename(directory / "aside")
    (directory / "checkpoint").mkdir()
    assert log.append(event(1)) == 1
    with pytest.raises(NodeError) as caught:
        log.latest_checkpoint()
    assert caught.value.code == ExitCode.DISK
    with pytest.raises(NodeError):
        log.export(directory / "bundle.zip", card=CARD.encoded)
    log.close()
    (directory / "checkpoint").rmdir()
    (directory / "aside").rename(directory / "checkpoint")
    log = reopen(directory)
    assert log.size == 2
    assert verified(log).sound is True
    log.close()


_APPEND_FOR_EVER = """
import sys
from pathlib import Path
from logs_made import event, reopen
log = reopen(Path(sys.argv[1]))
number = 0
while True:
    print(log.append(event(number)), flush=True)
    number += 1
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9(directory):
    create(directory).close()
    acknowledged = 0
    for round_number in range(3):
        with _run(_APPEND_FOR_EVER, directory) as process:
            for _ in range(20 + 37 * round_number):
                acknowledged = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split("\n")
            acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        log = reopen(directory)
        assert log.size > acknowledged
        for entry in entries_of(log):
            for _, commitment in entry.subjects:
                assert log.opening_of(commitment) is not None
        tree = Frontier()
        for data in log.entries():
            tree.append(leaf_hash(data))
        assert tree.root() == log.root()
        verdict = verified(log)
        assert (verdict.sound, verdict.code) == (True, Code.OK)
        log.close()


def test_a_disk_that_gives_back_another_entry_with_a_right_checksum_ends_the_log(
    failing, directory
):
    log, disk = failing
    entries = list(log.entries())
    disk.error = errno.EIO
    with pytest.raises(NodeError):
        log.append(event(2))
    disk.error = 0
    entries[1] = entries[1].replace(b'"n":1', b'"n":7')
    (directory / "log").write_bytes(b"".join(frame(entry) for entry in entries))
    with pytest.raises(NodeError, match="has lost entries") as caught:
        log.append(event(3))
    assert caught.value.code == ExitCode.INTEGRITY
    assert log.size == 2


def test_openings_of_an_entry_that_failed_are_not_those_of_a_later_one(failing):
    log, disk = failing
    disk.error = errno.EIO
    with pytest.raises(NodeError):
        log.append(event(2))
    disk.error = 0
    assert [entry for entry, _ in log.evidence.openings(99)] == [1, 2]
    assert log.append(Event(type="start")) == 2
    assert [entry for entry, _ in log.evidence.openings(99)] == [1]
    assert verified(log).sound is True


def test_a_log_is_mended_by_a_flush_that_had_something_to_write(tmp_path, monkeypatch):
    """A system that failed to write may say of the next flush that there is nothing to do."""
    file = LogFile(tmp_path / "log", create=True)
    file.append([b"one", b"two"])
    dirty, works = [False], [False]
    real = {name: getattr(os, name) for name in ("pwrite", "ftruncate", "fdatasync", "fsync")}

    def pwrite(descriptor, data, offset):
        dirty[0] = True
        return real["pwrite"](descriptor, data, offset)

    def ftruncate(descriptor, size):
        dirty[0] |= os.fstat(descriptor).st_size != size
        real["ftruncate"](descriptor, size)

    def flush(descriptor):
        was_dirty, dirty[0] = dirty[0], False
        if was_dirty and not works[0]:
            raise OSError(errno.EIO, "Input/output error")

    for name, stand_in in (
        ("pwrite", pwrite), ("ftruncate", ftruncate), ("fdatasync", flush), ("fsync", flush),
    ):  # fmt: skip
        monkeypatch.setattr(os, name, stand_in)
    with pytest.raises(NodeError):
        file.append([b"three"])
    for _ in range(2):
        assert list(file.reopen())[:2] == [b"one", b"two"]
        with pytest.raises(NodeError):
            file.mend()
        assert file.is_broken
    works[0] = True
    assert list(file.reopen())[:2] == [b"one", b"two"]
    file.mend()
    assert not file.is_broken
    file.append([b"three"])
    assert list(file.read(0, 3)) == [b"one", b"two", b"three"]
    file.close()


def test_each_caller_of_a_batch_that_failed_gets_its_own_error(failing):
    """One's entry is too large, the other's is fine, and then the disk fails for both."""
    log, disk = failing
    large, fine = (
        audit_appending._Pending([Event(type="start", details={"text": "x" * length})])
        for length in (70_000, 1)
    )
    disk.error = errno.EIO
    log._appender._commit([large, fine])
    assert isinstance(large.error, LocalProtocolError)
    assert isinstance(fine.error, NodeError)
    assert fine.error.code is ExitCode.DISK


def test_a_fault_of_ours_is_every_callers_error(failing, monkeypatch):
    log, _ = failing

    def stumble(*_):
        raise KeyError("DOE^JANE")

    monkeypatch.setattr(log.evidence, "add_openings", stumble)
    pending = [audit_appending._Pending([event(number)]) for number in (2, 3)]
    with pytest.raises(KeyError):
        log._appender._commit(pending)
    assert [one.error.message for one in pending] == ["the audit log failed: KeyError"] * 2
    assert log.size == 2


def test_an_entry_that_names_the_log_before_it(failing):
    log, _ = failing
    root = log.root_at(2)
    seen = []

    def make(size, root_before):
        seen.append((size, root_before))
        return Event(type="start")

    assert log._appender.append_last(make) == 2
    assert seen == [(2, root)]
    with pytest.raises(LocalProtocolError):
        log._appender.append_last(lambda *_: Event(type="start", details={"text": "x" * 70_000}))
    assert log.size == 3
