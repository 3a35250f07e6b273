"""What a `StudyDownload` does in which order, and what stays when a step of it fails."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from download_made import Place, arrived, opened_place, part10, take, wakes
from exchange_pair import STUDY, SmallStudy, make_study

from node.catalog.discards import Discard, insert_discard
from node.dicom.studies import read_header
from node.errors import ExitCode, NodeError
from node.images.repack import without
from node.transfer.study_download import RESERVE_BYTES
from node.transfer.transfers import TransferState
from protocol.errors import DigestMismatch
from protocol.log.entry import Event as LogEvent
from protocol.recalls import QUALITY, RETENTION

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with opened_place(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    return make_study([part10(number) for number in (1, 2, 3, 4)], 3000)


@pytest.fixture(scope="module")
def large() -> SmallStudy:
    """One instance in seven batches."""
    made = make_study([part10(1, rows=100)], 3000)
    assert len(made.encoded) == 7
    return made


def lying(study: SmallStudy) -> SmallStudy:
    """A study whose first instance has another digest than its manifest says."""
    first, *rest = study.manifest.instances
    instances = (first._replace(digest=bytes(32)), *rest)
    return SmallStudy(dataclasses.replace(study.manifest, instances=instances), study.encoded)


@pytest.mark.parametrize("is_true", [True, False])
async def test_a_large_instance_that_came_out_of_order_is_compared_before_it_is_published(
    place: Place, large: SmallStudy, is_true: bool
) -> None:
    offered = large if is_true else lying(large)
    download = place.download()
    member = await place.join(download, offered)
    backwards = range(len(large.encoded) - 1, -1, -1)
    await trio.to_thread.run_sync(take, download, offered, backwards)
    arrived(download, member, offered)
    if is_true:
        await download.publish()
        assert place.home.catalog.study(STUDY) is not None
        return
    with pytest.raises(DigestMismatch):
        await download.publish()
    assert place.is_untouched()


async def test_a_study_is_in_the_log_before_anybody_can_see_it(
    place: Place, study: SmallStudy
) -> None:
    download = place.download()
    member = await place.join(download, study)
    await trio.to_thread.run_sync(take, download, study, range(len(study.encoded)))
    arrived(download, member, study)
    logged: list[LogEvent] = []

    def full(events: Sequence[LogEvent]) -> None:
        assert place.home.catalog.study(STUDY) is None
        raise NodeError("the disk is full", code=ExitCode.DISK)

    def append(events: Sequence[LogEvent]) -> None:
        assert place.home.catalog.study(STUDY) is None
        logged.extend(events)

    place.append = full
    with pytest.raises(NodeError):
        await download.publish()
    assert place.home.catalog.study(STUDY) is None
    # With room again the same fetch comes to its end.
    place.append = append
    await download.publish()
    assert [event.type for event in logged] == ["received"]
    assert place.home.catalog.study(STUDY) is not None


@pytest.mark.parametrize("lacking", [0, 1])
async def test_the_disk_keeps_its_reserve(place: Place, study: SmallStudy, lacking: int) -> None:
    download = place.download()
    place.free = study.manifest.total_encoded_bytes + RESERVE_BYTES - lacking
    if not lacking:
        await place.join(download, study)
        return
    with pytest.raises(NodeError, match="not enough disk space") as caught:
        await place.join(download, study)
    assert caught.value.code is ExitCode.DISK
    assert download.is_idle


async def test_what_is_here_needs_no_room_and_is_flushed(place: Place, study: SmallStudy) -> None:
    for entry, encoded in zip(study.manifest.batches, study.encoded, strict=True):
        place.incoming.write(entry.digest, encoded)
    place.free = RESERVE_BYTES
    download = place.download()
    await place.join(download, study)
    assert not any(download.is_missing(index) for index in range(len(study.encoded)))
    assert place.incoming.flushed == [entry.digest for entry in study.manifest.batches]


async def test_what_lies_here_and_does_not_hold_is_removed_and_asked_for(
    place: Place, study: SmallStudy
) -> None:
    offered = lying(study)
    for entry, encoded in zip(offered.manifest.batches, offered.encoded, strict=True):
        place.incoming.write(entry.digest, encoded)
    download = place.download()
    await place.join(download, offered)
    held = [place.incoming.has(entry.digest) for entry in offered.manifest.batches]
    assert held == [False, *[True] * (len(held) - 1)]
    assert [download.is_missing(index) for index in range(len(held))] == [not one for one in held]


async def test_a_batch_is_durable_once_it_is_flushed(place: Place, study: SmallStudy) -> None:
    download = place.download()
    await place.join(download, study)
    await trio.to_thread.run_sync(download.store, 0, study.encoded[0])
    assert place.incoming.flushed == []
    await trio.to_thread.run_sync(download.flush, 0)
    assert place.incoming.flushed == [study.manifest.batches[0].digest]


async def test_a_batch_that_came_wakes_those_who_wait(place: Place, study: SmallStudy) -> None:
    download = place.download()
    member = await place.join(download, study)
    async with wakes(download):
        download.stored(member, 0, study.manifest.batches[0])


async def test_a_state_is_kept_once_and_again_when_its_reason_changes(place: Place) -> None:
    download = place.download()
    for why in ("", "", "held up", "held up", ""):
        await download.enter(TransferState.RECEIVING, why)
    await download.enter(TransferState.RECEIVING)
    received = [(TransferState.RECEIVING, why) for why in ("", "held up", "")]
    assert place.transfers.kept == received


def discard(place: Place, what: str, code: str) -> None:
    """Take a study, or one instance of it (UID), out of the catalog, and delete what is left."""
    catalog, store = place.home.catalog, place.home.store
    row = catalog.study(STUDY)
    rest = None
    if what != STUDY:
        rest = without(catalog.manifest(STUDY), {what}, store, store.pins(), lambda digest: None)
    chosen = Discard(STUDY, "" if what == STUDY else f"{STUDY}.1", "", code)
    if what != STUDY:
        chosen = chosen._replace(sop=what)
    revision = 0 if row is None else row.revision
    assert catalog.discard(chosen, rest, entry=lambda: 1, revision=revision)
    left = [one["digest"] for one in place.home.database.query("SELECT * FROM leftover_batches")]
    store.remove_unused(left, catalog.has_batch)


async def test_what_was_discarded_as_wrong_is_set_aside_when_it_is_fetched_again(
    place: Place, study: SmallStudy
) -> None:
    for step in range(2):
        download = place.download()
        member = await place.join(download, study)
        assert any(map(download.is_missing, range(len(study.encoded)))) is (step == 0)
        if step == 0:
            await trio.to_thread.run_sync(take, download, study, range(len(study.encoded)))
            arrived(download, member, study)
            await trio.to_thread.run_sync(_bar, place, f"{STUDY}.1.2")
        await download.publish()
        download.end()
        assert f"{STUDY}.1.2" not in place.home.catalog.held_instances(STUDY)
        assert len(place.home.catalog.held_instances(STUDY)) == 3
        [aside] = place.home.catalog.conflicts()
        assert (aside.sop_uid, aside.kept_digest) == (f"{STUDY}.1.2", b"")
        for digest in aside.batches:
            place.home.store.read(digest)


def _bar(place: Place, sop: str) -> None:
    place.home.database.transact(
        lambda connection: insert_discard(connection, Discard(STUDY, f"{STUDY}.1", sop, QUALITY))
    )


@pytest.mark.parametrize("code", [QUALITY, RETENTION])
@pytest.mark.parametrize("what", [STUDY, f"{STUDY}.1.1"])
async def test_a_discard_while_the_rest_of_the_study_comes(
    place: Place, study: SmallStudy, what: str, code: str
) -> None:
    """What is published is whole in the store, whatever went meanwhile."""
    first = make_study([part10(number) for number in (1, 2)], 3000)
    place.home.store.put_many(first.encoded)
    header = read_header(part10(1))
    place.home.catalog.publish(first.manifest, {0: header}, origin="local", shared=False)
    download = place.download()
    member = await place.join(download, study)
    missing = [index for index in range(len(study.encoded)) if download.is_missing(index)]
    assert missing
    await trio.to_thread.run_sync(take, download, study, missing)
    arrived(download, member, study)
    await trio.to_thread.run_sync(discard, place, what, code)
    with pytest.raises(NodeError, match="was discarded here while the rest came"):
        await download.publish()
    download.end()
    held = place.home.catalog.held_instances(STUDY)
    assert len(held) == (0 if what == STUDY else 1)
    # Asked for again it comes whole, but for what is barred.
    again = place.download()
    member = await place.join(again, study)
    missing = [index for index in range(len(study.encoded)) if again.is_missing(index)]
    await trio.to_thread.run_sync(take, again, study, missing)
    arrived(again, member, study)
    await again.publish()
    barred = 0 if code == RETENTION else 4 if what == STUDY else 1
    assert len(place.home.catalog.held_instances(STUDY)) == 4 - barred
    assert len(place.home.catalog.conflicts()) == barred
    for row in place.home.database.query("SELECT digest FROM batches"):
        place.home.store.read(row["digest"])


async def test_a_batch_that_a_fetch_counts_on_is_not_deleted(
    place: Place, study: SmallStudy
) -> None:
    """It lies in the store since another study has it, which is discarded meanwhile."""
    place.home.store.put_many(study.encoded)
    download = place.download()
    await place.join(download, study)
    digests = [one.digest for one in study.manifest.batches]
    remove = place.home.store.remove_unused
    assert await trio.to_thread.run_sync(remove, digests, lambda digest: False) == []
    await download.publish()
    download.end()
    assert await trio.to_thread.run_sync(remove, digests, place.home.catalog.has_batch) == digests
    for digest in digests:
        place.home.store.read(digest)
