"""Arrivals: when they are packed, what a restart takes up, and what cannot be packed."""

import os
import threading

import pytest
import trio
import trio.testing
from arrivals_made import STUDY, ArrivalHome, bring, part10, pieces
from clocks_made import jumps_when_idle

from node.errors import ExitCode, NodeError
from node.images import ingest_batches, spool
from node.images.arrival_groups import Windows
from node.images.export import export_study

OTHER = f"{STUDY}.9"


@pytest.fixture
def home(tmp_path):
    made = ArrivalHome(tmp_path / "home")
    yield made
    made.close()


def exported(home, study, directory):
    export_study(home.catalog, home.store, study, directory)
    return sorted(path.read_bytes() for path in directory.rglob("*") if path.is_file())


# --- when it is packed ---------------------------------------------------------------------


async def _packed(home, arrivals, count):
    with trio.fail_after(5000):
        while len(home.events) < count:
            await arrivals.next_packing()
    return trio.current_time()


def test_a_study_is_packed_when_it_has_been_quiet_and_again_when_it_grew(home):
    told = []
    home.catalog.on_change = told.append

    async def main():
        async with home.running(windows=Windows()) as arrivals:
            began = trio.current_time()
            async with arrivals.association("dimse:CT1") as association:
                await association.take(pieces(part10(1)))
                await trio.sleep(100)
                await association.take(pieces(part10(2)))
                await trio.sleep(5)
                assert home.events == []
            first = await _packed(home, arrivals, 1)
            assert 130 <= first - began < 132
            await bring(arrivals, [part10(3)])
            assert 30 <= await _packed(home, arrivals, 2) - first < 33

    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        trio.run(main, clock=clock)
    assert [one.details["instances"] for one in home.events] == [2, 1]
    assert told == [STUDY, STUDY]


def test_an_urgent_one_does_not_wait(home):
    async def main():
        async with home.running(windows=Windows()) as arrivals:
            began = trio.current_time()
            await bring(arrivals, [part10(1)], stat=True)
            return await _packed(home, arrivals, 1) - began

    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        assert trio.run(main, clock=clock) < 2


def test_an_urgent_one_does_not_wait_for_a_large_one_that_is_being_packed(home, monkeypatch):
    real = ingest_batches.BatchWriter.write
    at_work, go = threading.Event(), threading.Event()

    def slow(writer, study, *rest):
        if study == STUDY:
            at_work.set()
            assert go.wait(10)
        return real(writer, study, *rest)

    monkeypatch.setattr(ingest_batches.BatchWriter, "write", slow)

    async def main():
        async with home.running() as arrivals:
            await bring(arrivals, [part10(1)])
            await trio.to_thread.run_sync(at_work.wait, 10)
            await bring(arrivals, [part10(1, study=OTHER)], stat=True)
            with trio.fail_after(10):
                await arrivals.next_packing()
            urgent = [one.subjects[0][1] for one in home.events]
            go.set()
            await home.all_packed(arrivals)
            return urgent

    assert trio.run(main) == [OTHER]
    assert len(home.events) == 2


def test_studies_and_sources_are_packed_apart(home):
    async def main():
        async with home.running(windows=Windows()) as arrivals:
            await bring(arrivals, [part10(1), part10(1, study=OTHER)])
            await bring(arrivals, [part10(2)], source="watch:cd")
            await _packed(home, arrivals, 3)

    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        trio.run(main, clock=clock)
    assert sorted((one.subjects[0][1], one.details["source"]) for one in home.events) == [
        (STUDY, "dimse:CT1"),
        (STUDY, "watch:cd"),
        (OTHER, "dimse:CT1"),
    ]


def test_what_cannot_be_packed_waits_says_why_and_is_packed_later(home):
    problems = [NodeError("the disk is full", code=ExitCode.DISK), ZeroDivisionError()]

    def append(event):
        if problems:
            raise problems.pop()
        return home.audit(event)

    async def main():
        whys = []
        async with home.running(append=append) as arrivals:
            await bring(arrivals, [part10(1)])
            while not home.events:
                await arrivals.next_packing()
                whys.append(arrivals.describe()["trouble"])
            await home.all_packed(arrivals, seconds=100)
            assert arrivals.describe()["trouble"] == ""
        return whys

    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        whys = trio.run(main, clock=clock)
    assert {"the disk is full", "ZeroDivisionError"} <= set(whys)
    assert home.catalog.study(STUDY).instance_count == 1
    assert home.spooled == []


# --- a restart -----------------------------------------------------------------------------


def test_a_restart_takes_up_what_is_left(home, tmp_path):
    contents = [part10(number) for number in range(1, 6)]

    async def main():
        async with home.running(quiet=30) as arrivals:
            await bring(arrivals, contents[:3])
            await bring(arrivals, contents[3:], source="watch:cd")
        assert home.events == []
        async with home.running() as arrivals:
            await home.all_packed(arrivals)

    trio.run(main)
    assert exported(home, STUDY, tmp_path / "out") == contents
    assert [(one.details["source"], one.details["instances"]) for one in home.events] == [
        ("dimse:CT1", 3),
        ("watch:cd", 2),
    ]
    assert home.spooled == []


def test_what_was_packed_and_still_lies_in_the_spool_is_not_packed_twice(home):
    async def main():
        async with home.running(quiet=30) as arrivals:
            await bring(arrivals, [part10(1), part10(2)])
        copies = {path: path.read_bytes() for path in home.spooled}
        async with home.running() as arrivals:
            await home.all_packed(arrivals)
        for path, content in copies.items():
            path.write_bytes(content)
        async with home.running() as arrivals:
            await home.all_packed(arrivals)

    trio.run(main)
    assert len(home.events) == 1
    assert home.catalog.study(STUDY).instance_count == 2
    assert home.spooled == []


def test_what_is_settled_is_not_found_again_though_others_share_its_file(home):
    """Or what was discarded since could come back with a restart."""

    async def main():
        async with home.running(quiet=30) as arrivals:
            await bring(arrivals, [part10(1, study=OTHER)])
            await bring(arrivals, [part10(1)], stat=True)
            await arrivals.next_packing()
            assert arrivals.describe()["instances"] == 1
            assert len(home.spooled) == 1
        async with home.running(quiet=30) as arrivals:
            await arrivals.wait_recovered()
            return arrivals.describe()["studies"]

    assert trio.run(main) == 1
    assert len(home.events) == 1


def test_an_ending_node_stops_between_two_batches_and_the_next_one_goes_on(home, monkeypatch):
    real = ingest_batches.BatchWriter._submit
    began, ending = threading.Event(), []

    def slow(writer, *rest):
        began.set()
        assert ending[0].wait(10)
        return real(writer, *rest)

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(ingest_batches.BatchWriter, "_submit", slow)
            async with home.running() as arrivals:
                ending.append(arrivals._stopped)
                await bring(arrivals, [part10(1)])
                await trio.to_thread.run_sync(began.wait, 10)
        assert home.events == []
        assert home.spooled != []
        async with home.running() as arrivals:
            await home.all_packed(arrivals)

    trio.run(main)
    assert len(home.events) == 1


def test_a_spool_that_cannot_be_read_is_read_later(home, monkeypatch):
    real, failures = spool.records_of, [OSError(5, os.strerror(5))]

    def failing(path):
        if failures:
            raise failures.pop()
        return real(path)

    async def main():
        async with home.running(quiet=30) as arrivals:
            await bring(arrivals, [part10(1)])
        monkeypatch.setattr(spool, "records_of", failing)
        async with home.running() as arrivals:
            await trio.sleep(1)
            trouble = arrivals.describe()["trouble"]
            await bring(arrivals, [part10(2)])
            await home.all_packed(arrivals, seconds=100)
            return trouble

    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        assert "cannot be read" in trio.run(main, clock=clock)
    assert home.catalog.study(STUDY).instance_count == 2


# --- what goes wrong -----------------------------------------------------------------------


def test_what_the_disk_has_damaged_meanwhile_is_told_and_the_rest_is_packed(home):
    home.bring([part10(5)])

    async def main():
        async with home.running(quiet=2) as arrivals:
            await bring(arrivals, [part10(1), part10(2), part10(5, seed=7)])
            [path] = home.spooled
            content = path.read_bytes()
            for damaged in (part10(2), part10(5, seed=7)):
                at = content.index(damaged) + len(damaged) - 10
                content = content[:at] + b"damaged!" + content[at + 8 :]
            path.write_bytes(content)
            await arrivals.next_packing()
            assert arrivals.describe()["instances"] == 2
            assert "2 of them cannot be read" in arrivals.describe()["trouble"]
        assert home.spooled == [path]

    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        trio.run(main, clock=clock)
    assert home.catalog.study(STUDY).instance_count == 2
    assert home.catalog.conflicts() == []


def test_one_whose_sender_is_gone_before_it_was_answered_does_not_wait_for_that_sender(
    home, monkeypatch
):
    real, rounds = spool.Spool.write, []
    begun, go = ([threading.Event(), threading.Event()] for _ in range(2))

    def slow(self, staged, **more):
        number = len(rounds)
        rounds.append(len(staged))
        begun[number].set()
        assert go[number].wait(10)
        return real(self, staged, **more)

    monkeypatch.setattr(spool.Spool, "write", slow)

    async def gone(arrivals, scope):
        with scope:
            async with arrivals.association("dimse:gone") as association:
                await association.take(pieces(part10(1)))

    async def main():
        scope = trio.CancelScope()
        with trio.fail_after(20):
            async with home.running() as arrivals, trio.open_nursery() as nursery:
                nursery.start_soon(bring, arrivals, [part10(2)])
                await trio.to_thread.run_sync(begun[0].wait, 10)
                nursery.start_soon(bring, arrivals, [part10(3)])
                await _waiting(arrivals, 1)
                nursery.start_soon(gone, arrivals, scope)
                await _waiting(arrivals, 2)
                go[0].set()
                await trio.to_thread.run_sync(begun[1].wait, 10)
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                go[1].set()
                while (row := home.catalog.study(STUDY)) is None or row.instance_count < 3:
                    await arrivals.next_packing()

    trio.run(main)
    assert rounds == [1, 2]


async def _waiting(arrivals, count):
    """Wait until so many wait for the next flush."""
    while len(arrivals._rounds._next.waiting) < count:
        await trio.testing.wait_all_tasks_blocked()
