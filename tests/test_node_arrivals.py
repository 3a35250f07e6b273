"""Instances that come one by one: what is answered, when they are packed, and as what."""

import contextlib
import os
import threading

import pytest
import trio
import trio.testing
from arrivals_made import STUDY, ArrivalHome, bring, part10, pieces
from clocks_made import jumps_when_idle
from node_home import ImageHome

from node.catalog.discards import Discard, insert_discard
from node.errors import ExitCode, NodeError
from node.images import arrivals as arrivals_module
from node.images import ingest_batches, spool
from node.images.arrival_groups import Windows
from node.images.export import export_study
from protocol.recalls import QUALITY

OTHER = f"{STUDY}.9"


@pytest.fixture
def home(tmp_path):
    made = ArrivalHome(tmp_path / "home")
    yield made
    made.close()


def exported(home, study, directory):
    export_study(home.catalog, home.store, study, directory)
    return sorted(path.read_bytes() for path in directory.rglob("*") if path.is_file())


# --- what becomes of an instance -----------------------------------------------------


def test_what_arrives_is_one_study_with_one_entry_byte_for_byte(home, tmp_path):
    contents = [part10(number) for number in range(1, 13)]
    assert home.bring(contents) == ["taken"] * 12
    assert exported(home, STUDY, tmp_path / "out") == sorted(contents)
    [event] = home.events
    assert (event.type, event.actor) == ("ingest", "node")
    assert event.details["instances"] == 12
    assert event.details["source"] == "dimse:CT1"
    assert event.subjects == (("study", STUDY), ("patient", "MARKER-PATIENT-ID"))
    assert len(home.catalog.manifest(STUDY).batches) == 1
    assert home.catalog.study(STUDY).state == "shared"
    assert home.spooled == []


def test_it_is_packed_as_an_ingest_would_pack_it(home, tmp_path):
    contents = [part10(number) for number in range(1, 13)]
    home.bring(reversed(contents))
    other = ImageHome(tmp_path / "other")
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    other.ingest(*sorted(tmp_path.glob("*.dcm")))
    assert other.catalog.manifest(STUDY) == home.catalog.manifest(STUDY)
    other.close()


def test_a_command_is_the_operators_act(home):
    async def main():
        async with home.running() as arrivals:
            await bring(arrivals, [part10(1)], source="command:night shift")
            await home.all_packed(arrivals)

    trio.run(main)
    assert [(one.actor, one.details["source"]) for one in home.events] == [
        ("operator", "command:night shift")
    ]


def test_the_same_bytes_are_known_in_the_catalog_and_in_the_spool(home):
    home.bring([part10(1)])

    async def main():
        async with home.running(quiet=30) as arrivals:
            first = await bring(arrivals, [part10(1), part10(2)])
            second = await bring(arrivals, [part10(2)], source="dimse:CT2")
            assert arrivals.describe()["instances"] == 1
            return first + second

    assert trio.run(main) == ["known", "taken", "known"]


def test_one_that_comes_twice_at_a_time_is_one(home):
    assert set(home.bring([part10(1)] * 5)) <= {"taken", "known"}
    assert home.catalog.study(STUDY).instance_count == 1
    assert home.events[0].details["instances"] == 1
    assert home.catalog.conflicts() == []


def test_other_bytes_of_a_known_uid_are_set_aside_and_nothing_is_lost(home, tmp_path):
    home.bring([part10(1)])
    assert home.bring([part10(1, seed=7), part10(2)]) == ["set aside", "taken"]
    assert exported(home, STUDY, tmp_path / "out") == sorted([part10(1), part10(2)])
    [row] = home.catalog.conflicts()
    assert (home.quarantine / row.kept_at / "file").read_bytes() == part10(1, seed=7)
    assert "dimse:CT1" in (home.quarantine / row.kept_at / "reason.json").read_text()


def test_of_two_that_wait_the_first_counts(home, tmp_path):
    async def main():
        async with home.running(quiet=30) as arrivals:
            async with arrivals.association("dimse:CT1") as association:
                outcomes = [
                    (await association.take(pieces(part10(1, seed=seed)))).outcome.value
                    for seed in (0, 1)
                ]
        async with home.running() as arrivals:
            await home.all_packed(arrivals)
        return outcomes

    assert trio.run(main) == ["taken", "set aside"]
    assert exported(home, STUDY, tmp_path / "out") == [part10(1)]
    assert len(home.catalog.conflicts()) == 1


def test_what_was_discarded_is_set_aside(home):
    with home.database.transaction() as connection:
        insert_discard(connection, Discard(STUDY, "", "", QUALITY))
    assert home.bring([part10(1)]) == ["set aside"]
    assert home.catalog.study(STUDY) is None
    assert len(home.catalog.conflicts()) == 1


def test_what_is_damaged_goes_to_quarantine_and_what_is_no_image_is_refused(home):
    cut = part10(1)[:-40]
    assert home.bring([cut, b"GIF89a, and no DICOM at all", b""]) == [
        "quarantined",
        "refused",
        "quarantined",
    ]
    assert {path.read_bytes() for path in home.quarantine.glob("*/file")} == {cut, b""}
    assert home.spooled == []


def test_a_large_one_has_a_file_of_its_own(home, tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals_module, "SMALL_BYTES", 5000)
    contents = [part10(1, rows=100), part10(2), part10(3, rows=100)[:-10], part10(4, rows=100)]

    async def main():
        async with home.running(quiet=30) as arrivals:
            became = await bring(arrivals, contents)
            assert len(home.spooled) == 3
        async with home.running() as arrivals:
            await home.all_packed(arrivals)
        return became

    assert trio.run(main) == ["taken", "taken", "quarantined", "taken"]
    assert exported(home, STUDY, tmp_path / "out") == sorted(
        [contents[0], contents[1], contents[3]]
    )
    assert home.spooled == []


def test_a_stream_that_breaks_leaves_nothing(home, monkeypatch):
    monkeypatch.setattr(arrivals_module, "SMALL_BYTES", 5000)

    async def breaks(size):
        yield part10(1, rows=100)[:size]
        raise ConnectionResetError

    async def main():
        async with home.running(quiet=30) as arrivals:
            async with arrivals.association("dimse") as association:
                for size in (100, 15_000):
                    with pytest.raises(ConnectionResetError):
                        await association.take(breaks(size))
            return arrivals.describe()["instances"]

    assert trio.run(main) == 0
    assert home.spooled == []


# --- bounds ------------------------------------------------------------------------------


def test_too_much_is_refused_before_it_is_answered(home, monkeypatch):
    monkeypatch.setattr(spool, "SPOOL_INSTANCES", 2)

    async def main():
        async with home.running(quiet=30) as arrivals:
            async with arrivals.association("dimse") as association:
                for number in (1, 2):
                    await association.take(pieces(part10(number)))
                with pytest.raises(NodeError, match="wait to be packed") as caught:
                    await association.take(pieces(part10(3)))
                assert caught.value.code is ExitCode.BUSY
            return arrivals.describe()["instances"]

    assert trio.run(main) == 2


def test_a_disk_without_room_for_packing_takes_nothing(home):
    home.store._reserve_bytes = 1 << 60

    async def main():
        async with home.running() as arrivals:
            return await bring(arrivals, [part10(1)])

    [message] = trio.run(main)
    assert "has no room" in message
    assert home.spooled == []


def test_an_instance_that_does_not_end_is_cut_off(home, monkeypatch):
    monkeypatch.setattr(arrivals_module, "SMALL_BYTES", 1000)
    monkeypatch.setattr(arrivals_module, "INSTANCE_BYTES", 50_000)

    async def endless():
        while True:
            yield bytes(700)

    async def main():
        async with home.running() as arrivals, arrivals.association("dimse") as association:
            with pytest.raises(NodeError, match="more than 50000 bytes"):
                async with contextlib.aclosing(endless()) as chunks:
                    await association.take(chunks)

    trio.run(main)
    assert home.spooled == []


def test_only_so_many_come_at_a_time(home, monkeypatch):
    monkeypatch.setattr(arrivals_module, "TAKES", 2)

    async def never():
        await trio.sleep_forever()
        yield b""

    async def main():
        async with home.running() as arrivals, arrivals.association("dimse") as association:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(association.take, never())
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(NodeError, match="at one time"):
                    await association.take(pieces(part10(1)))
                nursery.cancel_scope.cancel()
            return (await association.take(pieces(part10(1)))).outcome.value

    assert trio.run(main) == "taken"


@pytest.mark.parametrize(
    "source", ["", "Dimse", "dimse:", "dimse:a\nb", 'dimse:"', "dimse:a\\b", "x" * 65, "dimse:ä"]
)
def test_a_source_has_its_form(home, source):
    async def main():
        async with home.running() as arrivals:
            with pytest.raises(NodeError, match="cannot be the name"):
                async with arrivals.association(source):
                    pass

    trio.run(main)


def test_nothing_is_taken_while_the_log_is_in_doubt(home):
    def in_doubt():
        raise NodeError("the audit log is in doubt", code=ExitCode.INTEGRITY)

    async def main():
        async with home.running(require_sound=in_doubt) as arrivals:
            with pytest.raises(NodeError, match="in doubt"):
                async with arrivals.association("dimse"):
                    pass

    trio.run(main)


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
