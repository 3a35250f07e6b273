"""Instances that come one by one: what is answered, when they are packed, and as what."""

import contextlib

import pytest
import trio
import trio.testing
from arrivals_made import STUDY, ArrivalHome, bring, part10, pieces
from clocks_made import jumps_when_idle
from node_home import ImageHome
from spools_made import staged

from node.catalog.discards import Discard, insert_discard
from node.errors import ExitCode, NodeError
from node.images import arrivals as arrivals_module
from node.images import quarantine, spool
from node.images.export import export_study
from node.images.spool_records import Record
from protocol import limits
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
    assert home.catalog.study(STUDY).state == "withheld", "no sharing rule says otherwise"
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
    home.database.transact(
        lambda connection: insert_discard(connection, Discard(STUDY, "", "", QUALITY))
    )
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


def left_in_the_spool(home, *contents):
    """A process wrote these and ended before it had read them."""
    made = spool.Spool(home.spool_path, lambda size: None)
    assert all(isinstance(one, Record) for one in made.write([staged(one) for one in contents]))


def test_what_was_written_and_never_answered_is_sorted_out_by_the_next_start(home, tmp_path):
    home.bring([part10(1)])
    cut, no_image = part10(2)[:-40], b"GIF89a, and no DICOM at all"
    left_in_the_spool(home, cut, part10(1), no_image, part10(3), b"")
    assert home.bring([part10(4)]) == ["taken"]
    assert {path.read_bytes() for path in home.quarantine.glob("*/file")} == {cut, no_image, b""}
    assert exported(home, STUDY, tmp_path / "out") == sorted(map(part10, (1, 3, 4)))
    assert home.spooled == []


def test_what_the_quarantine_has_no_room_for_stays_in_the_spool(home, monkeypatch, caplog):
    cut = part10(1)[:-40]
    left_in_the_spool(home, cut, part10(2))
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "MAX_FILE_BYTES", 10)
        home.bring([])
    assert "stays in arrivals/" in caplog.text
    assert not list(home.quarantine.glob("*/file"))
    home.bring([])
    assert [path.read_bytes() for path in home.quarantine.glob("*/file")] == [cut]
    assert home.catalog.study(STUDY).instance_count == 1
    assert home.spooled == []


def test_what_is_known_is_said_to_be_known_on_a_full_disk_too(home, monkeypatch):
    home.bring([part10(1)])

    def full(wanted):
        raise NodeError("the disk is full")

    monkeypatch.setattr(home.store, "require_free", full)
    assert home.bring([part10(1), part10(2)]) == ["known", "the disk is full"]


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


def test_what_cannot_be_packed_though_it_was_taken_is_kept_in_the_quarantine(home, monkeypatch):
    monkeypatch.setattr(limits, "MANIFEST_INSTANCES", 2)
    monkeypatch.setattr(quarantine, "MAX_FILE_BYTES", 100)
    contents = [part10(number) for number in range(1, 4)]
    assert [home.bring([content]) for content in contents] == [["taken"]] * 3
    assert home.catalog.study(STUDY).instance_count == 2
    assert home.bring([part10(1, seed=7)]) == ["set aside"]
    kept = {path.read_bytes() for path in home.quarantine.glob("*/file")}
    assert kept == {contents[2], part10(1, seed=7)}
    assert home.spooled == []


def test_the_only_copy_stays_in_the_spool_when_it_cannot_be_put_aside(home):
    home.bring([part10(1)])

    async def main():
        async with home.running(quiet=2) as arrivals:
            await bring(arrivals, [part10(1, seed=7)])
            free, home.store._reserve_bytes = home.store._reserve_bytes, 1 << 60
            await arrivals.next_packing()
            assert "has no room" in arrivals.describe()["trouble"]
            assert arrivals.trouble() == (1, arrivals.describe()["trouble"])
            home.store._reserve_bytes = free
            await home.all_packed(arrivals, seconds=100)

    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        trio.run(main, clock=clock)
    assert len(home.catalog.conflicts()) == 1


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
