"""The audit log when a system call fails, or the power goes off at it: each one in turn.

What must hold afterwards: the log opens, what was acknowledged is in it with its
openings, what was shown as signed is in it, and it goes on.
"""

import errno
import os

import pytest
from faulty_disk import FaultyDisk
from logs_made import LOG, ORIGIN, create, entries_of, event, reopen, verified

from node.audit import appending as audit_appending
from node.errors import ExitCode, NodeError
from protocol.log.checkpoint import open_checkpoint_untrusted
from protocol.log.entry import Event

pytestmark = pytest.mark.slow


@pytest.fixture
def made(tmp_path):
    directory = tmp_path / "made"
    log = create(directory)
    log.append(event(0))
    log.close()
    return directory


class _Witness:
    """What the outside world was told of a log."""

    def __init__(self):
        self.acknowledged = {}
        self.shown = []

    def work(self, log):
        """Append, show, append; stops at the first error."""
        for number in range(1, 4):
            self.append(log, [event(number)])
        self.show(log)
        self.append(log, [event(4), Event(type="start"), event(5)])
        self.show(log)

    def append(self, log, events):
        for index, one in zip(log.append_many(events), events, strict=True):
            self.acknowledged[index] = one

    def show(self, log):
        self.shown.append(log.latest_checkpoint())

    def require_kept(self, directory):
        log = reopen(directory)
        entries = entries_of(log)
        for index, one in self.acknowledged.items():
            assert dict(entries[index].details) == dict(one.details)
        for entry in entries:
            for kind, commitment in entry.subjects:
                assert log.opening_of(commitment).kind == kind
        for text in self.shown:
            checkpoint = open_checkpoint_untrusted(text.encode(), ORIGIN, LOG.public)
            assert log.root_at(checkpoint.size) == checkpoint.root
        verdict = verified(log)
        assert verdict.sound is True, verdict
        log.append(event(99))
        log.close()
        log = reopen(directory)
        assert log.size == len(entries) + 1
        log.close()


def _sweep(made, tmp_path, monkeypatch, error, half=False):
    """Run the work once for each of its calls, which fails; yields disk, log and witness."""
    at = 0
    while True:
        with monkeypatch.context() as patch:
            directory = tmp_path / f"run-{at}"
            _copy(made, directory)
            disk = FaultyDisk(directory, patch)
            log = reopen(directory)
            disk.fail(at, error, half=half)
            witness = _Witness()
            failed = _fails_with(lambda: witness.work(log), ExitCode.DISK)  # noqa: B023
            reached = disk.calls > at
            if error:
                disk.fail(None)
            yield at, disk, log, witness
            log.close()
        if not reached:
            assert not failed
            assert at > 15
            return
        at += 1


def _fails_with(work, *codes):
    """Do it; whether it failed, which must be with one of these codes."""
    try:
        work()
    except NodeError as error:
        if error.code not in codes:
            raise
        return True
    return False


def _copy(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def test_power_cut_at_each_call(made, tmp_path, monkeypatch):
    for at, disk, _, witness in _sweep(made, tmp_path, monkeypatch, 0):
        for kind, left in disk.survivors(tmp_path / "left", seed=at):
            try:
                witness.require_kept(left)
            except (NodeError, AssertionError, IndexError) as error:
                pytest.fail(f"power cut at call {at}, {kind}: {error}")


@pytest.mark.parametrize(("error", "half"), [(errno.EIO, False), (errno.ENOSPC, True)])
def test_an_error_at_each_call(made, tmp_path, monkeypatch, error, half):
    monkeypatch.setattr(audit_appending, "MEND_PAUSE_SECONDS", 0.0)
    for at, disk, log, witness in _sweep(made, tmp_path, monkeypatch, error, half):
        # The disk works again, and so does the log, without a restart.
        witness.append(log, [event(50)])
        witness.show(log)
        assert witness.acknowledged[log.size - 1] == event(50)
        for kind, left in disk.survivors(tmp_path / "left", seed=at):
            try:
                witness.require_kept(left)
            except (NodeError, AssertionError, IndexError) as failure:
                pytest.fail(f"error {error} at call {at}, {kind}: {failure}")


def test_power_cut_while_a_torn_log_is_opened(made, tmp_path, monkeypatch):
    with (made / "log").open("ab") as file:
        file.write(b"\0\0\1\0half an entry")
    at = 0
    reached = True
    while reached:
        directory = tmp_path / f"run-{at}"
        _copy(made, directory)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(directory, patch)
            disk.fail(at)
            _fails_with(lambda: reopen(directory).close(), ExitCode.DISK)  # noqa: B023
            reached = disk.calls > at
            for kind, left in disk.survivors(tmp_path / "left", seed=at):
                log = reopen(left)
                noted = [entry.type for entry in entries_of(log)].count("torn-tail-cut")
                assert noted == 1, f"power cut at call {at}, {kind}"
                assert verified(log).sound is True
                log.close()
        at += 1
    assert at > 8


def test_power_cut_while_a_log_is_made(tmp_path, monkeypatch):
    """A log that is not whole does not open, with a sentence; one that is, does."""
    at, opened = 0, 0
    reached = True
    while reached:
        directory = tmp_path / f"run-{at}" / "audit"
        directory.mkdir(parents=True)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(directory, patch)
            disk.fail(at)
            _fails_with(
                lambda: create(directory).close(),  # noqa: B023
                ExitCode.DISK,
                ExitCode.NO_HOME,
            )
            reached = disk.calls > at
            for _, left in disk.survivors(tmp_path / "left", seed=at):
                opened += not _fails_with(lambda: reopen(left).close(), ExitCode.INTEGRITY)  # noqa: B023
        at += 1
    assert opened > 0


def test_a_signed_size_on_disk_is_never_larger_than_the_log(made, tmp_path, monkeypatch):
    for _, disk, _, _ in _sweep(made, tmp_path, monkeypatch, 0):
        for kind, left in disk.survivors(tmp_path / "left", seed=1):
            text = (left / "checkpoint").read_bytes()
            size = open_checkpoint_untrusted(text, ORIGIN, LOG.public).size
            log = reopen(left)
            assert log.size >= size, kind
            log.close()


def test_the_harness_sees_a_missing_flush(made, tmp_path, monkeypatch):
    """Without the flush of an append, the sweep must find a loss."""
    directory = tmp_path / "run"
    _copy(made, directory)
    with monkeypatch.context() as patch:
        disk = FaultyDisk(directory, patch)
        log = reopen(directory)
        patch.setattr(os, "fdatasync", lambda _: None)
        witness = _Witness()
        witness.append(log, [event(1)])
        lost = 0
        for _, left in disk.survivors(tmp_path / "left", seed=1):
            try:
                witness.require_kept(left)
            except (NodeError, IndexError, AssertionError):
                lost += 1
        log.close()
    assert lost >= 2


def test_a_log_that_is_refused_is_left_as_it_was(made, tmp_path):
    """Each bit of it is evidence, also what lies behind the place that is damaged."""
    log = reopen(made)
    log.append_many([event(number) for number in range(1, 6)])
    log.close()
    whole = (made / "log").read_bytes()
    for at in range(0, len(whole), 7):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        directory = tmp_path / f"flip-{at}"
        _copy(made, directory)
        (directory / "log").write_bytes(damaged)
        with pytest.raises(NodeError):
            reopen(directory)
        assert (directory / "log").read_bytes() == damaged, f"a flipped bit in byte {at}"


def test_an_error_at_each_call_of_an_opening_leaves_the_log_as_it_was(made, tmp_path, monkeypatch):
    whole = (made / "log").read_bytes()
    at, reached = 0, True
    while reached:
        directory = tmp_path / f"run-{at}"
        _copy(made, directory)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(directory, patch)
            disk.fail(at, errno.EIO)
            # No descriptors left, or a bad sector of another file.
            _fails_with(lambda: reopen(directory).close(), *ExitCode)  # noqa: B023
            reached = disk.calls > at
        assert (directory / "log").read_bytes() == whole, f"an error at call {at}"
        at += 1
    assert at > 2
