"""Arrivals when the power goes off, or the process ends, at each call on the way into the catalog.

What was answered is there afterwards: in the catalog, or in the quarantine where that was the
answer. The harness is `disk_sweep`.
"""

import itertools
from contextlib import closing
from pathlib import Path

import blake3
import pytest
import trio
import trio.testing
from arrivals_made import STUDY, ArrivalHome, bring, part10
from clocks_made import jumps_when_idle
from disk_sweep import KILLED, Run, require_studies_kept, sweep
from faulty_disk import FaultyDisk
from spools_made import opened, read, staged

from node.errors import NodeError
from node.images import arrivals as arrivals_module
from node.images.spool_records import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OTHER = f"{STUDY}.9"
FIRST = [part10(1), part10(2), part10(1, study=OTHER)]
SECOND = [part10(3, rows=100), part10(1, seed=7), part10(4)[:-20], part10(5), part10(2)]
ANSWERED = ("taken", "known", "set aside", "quarantined")


def run_on_a_made_clock(work, *arguments) -> None:
    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        trio.run(work, *arguments, clock=clock)


async def take_and_pack(home: ArrivalHome, kept: dict[bytes, bytes]) -> None:
    # A disk that fails for good is tried again for ever.
    with trio.move_on_after(60):
        async with home.running() as arrivals:
            for contents in (FIRST, SECOND):
                became = await bring(arrivals, contents)
                for content, outcome in zip(contents, became, strict=True):
                    if outcome in ANSWERED:
                        kept[blake3.blake3(content).digest()] = content
                if arrivals.describe()["instances"]:
                    await arrivals.next_packing()
            await home.all_packed(arrivals, seconds=100)


async def pack_what_is_left(home: ArrivalHome) -> None:
    async with home.running() as arrivals:
        await home.all_packed(arrivals)


def require_answered_is_there(run: Run, tmp_path: Path) -> None:
    for what, left in run.survivors(tmp_path):
        with closing(ArrivalHome(left)) as home:
            trio.run(pack_what_is_left, home)
            require_studies_kept(home.catalog, home.store, what)
            there = {
                digest
                for study in (STUDY, OTHER)
                for digest in home.catalog.held_instances(study).values()
            }
            there |= {
                blake3.blake3(path.read_bytes()).digest()
                for path in home.quarantine.glob("[0-9]*/file")
            }
            assert run.kept.keys() <= there, what
            assert home.spooled == [], what


@pytest.mark.parametrize("error", [0, KILLED])
def test_what_was_answered_is_packed_whenever_the_power_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(arrivals_module, "SMALL_BYTES", 5000)

    def work(run: Run) -> None:
        with closing(ArrivalHome(run.path)) as home:
            run_on_a_made_clock(take_and_pack, home, run.kept)

    for run in sweep(tmp_path, monkeypatch, work, error, least=25, parts=("quarantine",)):
        require_answered_is_there(run, tmp_path)
        if error:
            work(run)
            assert len(run.kept) == len({*FIRST, *SECOND})
            require_answered_is_there(run, tmp_path)


def test_the_harness_sees_each_flush_of_a_round_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any one flush less, and what was answered can be lost."""
    missed = 0
    for at in itertools.count():
        root = tmp_path / f"run-{at}"
        root.mkdir()
        with monkeypatch.context() as patch:
            disk = FaultyDisk(root, patch)
            disk.forget_flush(at)
            records = opened(root).write([staged(content) for content in FIRST])
            lost = False
            for _, left in disk.survivors(tmp_path / "left", seed=at):
                found = opened(left)
                contents = [read(found, record) for record in found.recover()]
                lost |= contents != FIRST
            assert all(isinstance(record, Record) for record in records)
            if not disk.forgotten:
                assert not lost
                break
            assert lost
            missed += 1
    # The content of all three, the name of their file, that of the folder.
    assert missed == 3


def test_what_a_killed_process_had_not_flushed_is_durable_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in itertools.count():
        root = tmp_path / f"run-{at}"
        (root / "arrivals").mkdir(parents=True)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(root, patch)
            # The kill comes right before a flush; what was written is in memory.
            disk.forget_flush(at)
            opened(root).write([staged(content) for content in FIRST])
            if not disk.forgotten:
                assert at == 2
                return
            assert len(opened(root).recover()) == len(FIRST)
            for what, left in disk.survivors(tmp_path / "left", seed=at):
                assert len(opened(left).recover()) == len(FIRST), (at, what)


def test_a_round_costs_one_flush_and_the_first_of_a_file_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    disk = FaultyDisk(tmp_path, monkeypatch)
    flushes = []
    for _ in range(3):
        before = disk.flushes
        spool.write([staged(content) for content in FIRST])
        flushes.append(disk.flushes - before)
    assert flushes == [2, 1, 1]


@pytest.mark.parametrize("error", [5, 28])
def test_a_disk_that_fails_at_a_call_loses_nothing_that_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """The process goes on: later rounds work, and no record hides behind one that is torn."""
    for at in itertools.count():
        root = tmp_path / f"run-{at}"
        root.mkdir()
        spool = opened(root)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(root, patch)
            taken = {}
            for number, contents in enumerate((FIRST, SECOND, FIRST)):
                if number == 1:
                    disk.half = True
                    disk.fail(at, error)
                outcomes = spool.write([staged(content) for content in contents])
                for outcome, content in zip(outcomes, contents, strict=True):
                    if not isinstance(outcome, NodeError):
                        taken[outcome] = content
            reached = disk.calls > at
            disk.fail(None)
            assert len(taken) >= len(FIRST) + (0 if reached else len(SECOND))
            for what, left in disk.survivors(tmp_path / "left", seed=at):
                found = opened(left)
                digests = {record.about.digest for record in found.recover()}
                assert {record.about.digest for record in taken} <= digests, (at, what)
        spool.close()
        if not reached:
            assert at > 5
            return
