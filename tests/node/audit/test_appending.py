"""The one writer of the audit log: callers that share a flush, and what a failed flush costs."""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from log_files import entries_in, failing, require_error
from logs_made import START_MS, Clock, event

from node.audit.appending import MEND_PAUSE_SECONDS, Appender
from node.audit.evidence import EvidenceStore
from node.audit.files import LogFile
from node.audit.tree import NodeFile
from node.errors import ExitCode, NodeError
from protocol.errors import LocalProtocolError
from protocol.log.entry import ENTRY_BYTES, Event, decode_entry_untrusted
from protocol.log.tree import Frontier, leaf_hash

LARGE = Event(type="start", details={"text": "x" * ENTRY_BYTES})
BARE = Event(type="start")


@dataclass
class Place:
    """An appender with its files; `told` has the durable size at each flush."""

    path: Path
    clock: Clock = field(default_factory=Clock)
    told: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file = LogFile(self.path / "log", create=True)
        self.evidence = EvidenceStore(self.path / "evidence.db")
        self.nodes = NodeFile(self.path / "tree")
        self.appender = Appender(
            file=self.file,
            evidence=self.evidence,
            nodes=self.nodes,
            tree=Frontier(),
            last_ms=START_MS,
            clock_ms=self.clock,
            on_durable=lambda: self.told.append(self.appender.durable.size),
        )

    def close(self) -> None:
        for part in (self.evidence, self.nodes, self.file):
            part.close()

    def numbers(self) -> list[object]:
        """What the entries on the disk are of, and that the tree is over them."""
        entries = list(self.file.read(0, self.file.count))
        tree = Frontier()
        for entry in entries:
            tree.append(leaf_hash(entry))
        assert tree.root() == self.appender.durable.root()
        decoded = [decode_entry_untrusted(entry) for entry in entries]
        assert [one.index for one in decoded] == list(range(len(decoded)))
        return [one.details.get("n") for one in decoded]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    assert made.appender.append_many([event(0)]) == range(1)
    yield made
    made.close()


class Disk:
    """Flushes of a file that is appended to: counted, and failing when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushes = 0
        self.is_failing = False
        monkeypatch.setattr(os, "fdatasync", self._flush)

    def _flush(self, _: int) -> None:
        self.flushes += 1
        if self.is_failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def seconds(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the machine, which the test sets."""
    now = [1000.0]
    monkeypatch.setattr(place.appender, "_running", lambda: now[0])
    return now


def fail_once(place: Place, disk: Disk) -> None:
    """A flush that fails; then the disk works again."""
    disk.is_failing = True
    require_error(ExitCode.DISK, lambda: place.appender.append_many([event(99)]))
    disk.is_failing = False
    assert place.file.is_broken


def append_together(place: Place, *callers: list[Event]) -> list[range | Exception]:
    """Appends that wait for the same flush, in this order, each in a thread; what came of them."""
    appender = place.appender

    def append(events: list[Event]) -> range | Exception:
        try:
            return appender.append_many(events)
        except (NodeError, LocalProtocolError) as error:
            return error

    with ThreadPoolExecutor(len(callers)) as pool:
        with appender._commit_lock:
            futures = []
            for number, events in enumerate(callers, 1):
                futures.append(pool.submit(append, events))
                while len(appender._queue) < number:
                    threading.Event().wait(0.001)
        return [future.result() for future in futures]


# --- callers at the same time ---------------------------------------------------------


def test_callers_that_wait_share_one_flush(place: Place, disk: Disk) -> None:
    found = append_together(place, [event(1)], [event(2), event(3)], [event(4)])
    assert found == [range(1, 2), range(2, 4), range(4, 5)]
    assert place.numbers() == [0, 1, 2, 3, 4]
    assert disk.flushes == 1
    assert place.told == [1, 5]


def test_a_caller_with_an_entry_that_is_too_large_alone_is_told(place: Place, disk: Disk) -> None:
    first, large, last = append_together(place, [event(1)], [event(2), LARGE], [event(3)])
    assert (first, last) == (range(1, 2), range(2, 3))
    assert isinstance(large, LocalProtocolError)
    assert place.numbers() == [0, 1, 3]
    assert [index for index, _ in place.evidence.openings(9)] == [0, 1, 2]
    assert disk.flushes == 1


def test_each_caller_is_told_of_a_flush_that_failed(place: Place, disk: Disk) -> None:
    disk.is_failing = True
    errors = append_together(place, [event(1)], [LARGE], [event(2)])
    assert [type(error) for error in errors] == [NodeError, LocalProtocolError, NodeError]
    assert errors[0] is not errors[2]
    for error in (errors[0], errors[2]):
        assert isinstance(error, NodeError)
        assert error.code is ExitCode.DISK
        assert error.hint.startswith("free disk space or repair the disk")
    assert place.told == [1]
    assert place.numbers() == [0]


def test_a_fault_of_ours_leaves_the_log_as_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> None:
        raise KeyError("DOE^JANE")

    with monkeypatch.context() as patch:
        patch.setattr(place.evidence, "add_openings", stumble)
        with pytest.raises(KeyError):
            place.appender.append_many([event(1)])
    assert place.appender.append_many([event(2)]) == range(1, 2)
    assert place.numbers() == [0, 2]


def test_an_entry_that_is_too_large_costs_no_flush(place: Place, disk: Disk) -> None:
    disk.is_failing = True
    with pytest.raises(LocalProtocolError):
        place.appender.append_many([LARGE])
    assert disk.flushes == 0
    assert not place.file.is_broken
    assert place.told == [1]


# --- one that must be the last --------------------------------------------------------


def test_an_event_that_names_the_log_before_it_is_told_its_index(place: Place, disk: Disk) -> None:
    roots = []

    def make(size: int, root: bytes) -> Event:
        roots.append((size, root))
        return event(7)

    before = place.appender.durable.root()
    assert place.appender.append_last(make) == 1
    assert roots == [(1, before)]
    disk.is_failing = True
    require_error(ExitCode.DISK, lambda: place.appender.append_last(make))
    assert place.numbers() == [0, 7]


def test_an_event_that_cannot_be_made_is_not_logged(place: Place) -> None:
    def make(_: int, __: bytes) -> Event:
        raise NodeError("no key", code=ExitCode.NO_HOME)

    require_error(ExitCode.NO_HOME, lambda: place.appender.append_last(make), "no key")
    assert place.appender.append_last(lambda *_: event(1)) == 1


def test_a_closed_log_takes_no_event_of_either_kind(place: Place) -> None:
    assert place.appender.close()
    assert not place.appender.close()
    require_error(ExitCode.FAILED, lambda: place.appender.append_many([BARE]), "log is closed")
    require_error(ExitCode.FAILED, lambda: place.appender.append_last(lambda *_: BARE), "is closed")
    assert place.numbers() == [0]


# --- after a flush that failed --------------------------------------------------------


def test_each_failed_flush_can_be_mended_at_once(
    place: Place, disk: Disk, seconds: list[float]
) -> None:
    """The pause is for a disk that goes on failing, not for one that fails now and then."""
    for number in range(1, 4):
        fail_once(place, disk)
        assert place.appender.append_many([event(number)]) == range(number, number + 1)
    assert place.numbers() == [0, 1, 2, 3]


def test_a_disk_that_goes_on_failing_is_read_again_after_each_pause(
    place: Place, disk: Disk, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(place, disk)
    data = (place.path / "log").read_bytes()
    (place.path / "log").write_bytes(b"")
    with monkeypatch.context() as patch:
        reads = []
        reopen = place.file.reopen

        def counted() -> Iterator[bytes]:
            reads.append(seconds[0])
            return reopen()

        patch.setattr(place.file, "reopen", counted)
        for _ in range(3):
            begun = seconds[0]
            for later, sentence in ((0.0, "has lost entries"), (4.75, "a flush failed a moment")):
                seconds[0] = begun + later
                code = ExitCode.DISK if later else ExitCode.INTEGRITY
                require_error(code, lambda: place.appender.append_many([BARE]), sentence)
            seconds[0] = begun + MEND_PAUSE_SECONDS
        assert reads == [1000.0, 1005.0, 1010.0]
        (place.path / "log").write_bytes(data)
        assert place.appender.append_many([event(1)]) == range(1, 2)
    assert place.numbers() == [0, 1]


def test_an_entry_that_was_not_acknowledged_and_is_there_all_the_same_goes(
    place: Place, disk: Disk, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.is_failing = True
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        require_error(ExitCode.DISK, lambda: place.appender.append_many([event(98), event(99)]))
    disk.is_failing = False
    assert len(list(place.file._whole_frames())) == 3
    assert place.appender.append_many([event(1)]) == range(1, 2)
    assert place.numbers() == [0, 1]
    place.file.close()
    assert len(entries_in(place.path / "log")) == 2


def test_mending_is_for_a_log_whose_flush_failed(
    place: Place, disk: Disk, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EIO))
        place.appender.mend()
        fail_once(place, disk)
        require_error(ExitCode.DISK, place.appender.mend, "cannot be written: Input/output error")
        require_error(ExitCode.DISK, place.appender.mend, "a flush failed a moment ago")
    seconds[0] += MEND_PAUSE_SECONDS
    place.appender.mend()
    assert not place.file.is_broken
    assert place.appender.append_many([event(1)]) == range(1, 2)


def test_openings_that_failed_go_with_the_next_entry_and_no_later_one_loses_its_own(
    place: Place, disk: Disk, seconds: list[float]
) -> None:
    fail_once(place, disk)
    assert [index for index, _ in place.evidence.openings(9)] == [0, 1]
    place.appender.append_many([BARE])
    assert [index for index, _ in place.evidence.openings(9)] == [0]
    place.appender.append_many([event(2)])
    place.appender.append_many([BARE])
    assert [index for index, _ in place.evidence.openings(9)] == [0, 2]


# --- time -----------------------------------------------------------------------------


def test_no_entry_is_older_than_the_one_before(place: Place) -> None:
    for later in (-1, 500, 499, 501):
        place.clock.now = START_MS + later
        place.appender.append_many([BARE, BARE])
    entries = [decode_entry_untrusted(entry) for entry in place.file.read(0, place.file.count)]
    times = [entry.time_ms - START_MS for entry in entries]
    assert times == [0, 0, 0, 500, 500, 500, 500, 501, 501]
