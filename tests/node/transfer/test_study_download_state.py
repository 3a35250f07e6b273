"""What a `StudyDownload` says of itself: its state, its counts, its entries, and to whom."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from download_made import PEER, Place, arrived, opened_place, part10, take, wakes
from exchange_pair import STUDY, SmallStudy, make_study

from node.dicom.studies import read_header
from node.transfer.portions import LATE_SECONDS, LEAST_BATCHES
from node.transfer.study_download import Member, NotNeededError, StudyDownload
from node.transfer.transfers import TransferState
from protocol import limits
from protocol.log.entry import Event as LogEvent

pytestmark = pytest.mark.timeout(60)

OTHER = b"O" * 32
REQUESTING, RECEIVING, VERIFYING, WAITING = (
    TransferState.REQUESTING,
    TransferState.RECEIVING,
    TransferState.VERIFYING,
    TransferState.WAITING,
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with opened_place(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    """Six instances, a batch each."""
    contents = [part10(number) for number in range(1, 7)]
    made = make_study(contents, max(map(len, contents)))
    assert len(made.encoded) == 6
    return made


@pytest.fixture(scope="module")
def packed_otherwise(study: SmallStudy) -> SmallStudy:
    """The same instances, two in a batch."""
    contents = [part10(number) for number in range(1, 7)]
    return make_study(contents, 2 * max(map(len, contents)))


def publish_here(place: Place, study: SmallStudy) -> None:
    place.home.store.put_many(study.encoded)
    header = {0: read_header(part10(1))}
    place.home.catalog.publish(study.manifest, header, origin="local", shared=False)


async def take_all(download: StudyDownload, member: Member, study: SmallStudy) -> None:
    await trio.to_thread.run_sync(take, download, study, range(len(study.encoded)))
    arrived(download, member, study)


def states(place: Place) -> list[TransferState]:
    return [state for state, _ in place.transfers.kept]


# --- who may send the whole study unasked -------------------------------------------


def _of_several(place: Place, download: StudyDownload, study: SmallStudy) -> None:
    download.expect_several()


def _moved(place: Place, download: StudyDownload, study: SmallStudy) -> None:
    download.transfer.wire_bytes = 1


def _done(place: Place, download: StudyDownload, study: SmallStudy) -> None:
    download.transfer.bytes_done = 1


def _published(place: Place, download: StudyDownload, study: SmallStudy) -> None:
    publish_here(place, study)


def _left_over(place: Place, download: StudyDownload, study: SmallStudy) -> None:
    place.incoming.write(study.manifest.batches[0].digest, study.encoded[0])


@pytest.mark.parametrize("what", [_of_several, _moved, _done, _published, _left_over])
def test_a_study_may_come_whole_only_where_nothing_of_it_can_be(
    place: Place, study: SmallStudy, what: Callable[[Place, StudyDownload, SmallStudy], None]
) -> None:
    download = place.download()
    assert download.holds_nothing()
    what(place, download, study)
    assert not download.holds_nothing()


async def test_a_study_of_several_sources_or_that_was_offered_does_not_come_whole(
    place: Place, study: SmallStudy
) -> None:
    assert not place.download(several=True).holds_nothing()
    download = place.download()
    member = await place.join(download, study)
    assert not download.holds_nothing()
    download.leave(member)
    assert not download.holds_nothing()


@pytest.mark.parametrize("when", ["never", "at first", "before it joins", "after it has joined"])
async def test_a_lone_source_is_asked_for_everything_at_once(
    place: Place, study: SmallStudy, when: str
) -> None:
    download = place.download(several=when == "at first")
    if when == "before it joins":
        download.expect_several()
    member = await place.join(download, study)
    if when == "after it has joined":
        download.expect_several()
    portion, is_last = download.next_portion(member)
    is_alone = when == "never"
    assert portion == list(range(len(study.encoded) if is_alone else LEAST_BATCHES))
    assert is_last is is_alone


# --- states -------------------------------------------------------------------------


async def test_one_that_asks_does_not_hide_that_another_sends(
    place: Place, study: SmallStudy
) -> None:
    download = place.download(several=True)
    await download.enter(REQUESTING)
    member = await place.join(download, study)
    await download.enter(RECEIVING)
    await download.enter(REQUESTING)
    assert states(place) == [REQUESTING, RECEIVING]
    download.leave(member)
    await download.enter(REQUESTING)
    assert states(place) == [REQUESTING, RECEIVING, REQUESTING]


async def test_a_fetch_waits_only_when_no_session_is_open(place: Place) -> None:
    download = place.download()
    await download.enter(RECEIVING)
    download.open_sessions = 1
    await download.enter(WAITING, "it is away")
    assert states(place) == [RECEIVING]
    download.open_sessions = 0
    await download.enter(WAITING, "it is away")
    assert place.transfers.kept[1:] == [(WAITING, "it is away")]


async def test_what_is_published_is_not_received_again(place: Place, study: SmallStudy) -> None:
    download = place.download()
    member = await place.join(download, study)
    await download.enter(RECEIVING)
    await take_all(download, member, study)
    await download.publish()
    for state in (REQUESTING, RECEIVING, VERIFYING):
        await download.enter(state)
    assert states(place) == [RECEIVING, VERIFYING]
    # It may wait for the one that is to sign.
    download.leave(member)
    await download.enter(WAITING)
    assert states(place) == [RECEIVING, VERIFYING, WAITING]
    await place.transfers.enter(download.transfer, TransferState.COMPLETE)
    await download.enter(WAITING)
    assert download.transfer.state is TransferState.COMPLETE


async def test_a_study_is_published_once_whoever_asks_for_it(
    place: Place, study: SmallStudy
) -> None:
    logged: list[LogEvent] = []
    place.append = logged.extend
    download = place.download()
    await take_all(download, await place.join(download, study), study)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.publish)
        nursery.start_soon(download.publish)
    await download.publish()
    assert [event.type for event in logged] == ["received"]
    assert states(place) == [VERIFYING]


async def test_a_study_that_grew_while_its_receipt_was_awaited_is_published_again(
    place: Place, study: SmallStudy
) -> None:
    less = make_study([part10(1), part10(2)], study.manifest.batches[0].original_size)
    download = place.download()
    for offered in (less, study):
        member = await place.join(download, offered)
        missing = [index for index in range(len(offered.encoded)) if download.is_missing(index)]
        await trio.to_thread.run_sync(take, download, offered, missing)
        await download.publish()
        download.leave(member)
    assert len(place.home.catalog.held_instances(STUDY)) == 6


# --- those who come and go ----------------------------------------------------------


async def test_a_source_that_leaves_wakes_those_who_wait_and_what_it_owes_is_free(
    place: Place, study: SmallStudy
) -> None:
    download = place.download(several=True)
    one = await place.join(download, study)
    other = await place.join(download, study, OTHER)
    first, _ = download.next_portion(one)
    second, _ = download.next_portion(other)
    assert (first, second) == ([0, 1], [2, 3])
    assert download.owes(one)
    async with wakes(download):
        download.leave(one)
    assert not download.is_idle
    for index in second:
        download.stored(other, index, study.manifest.batches[index])
    assert not download.owes(other)
    assert download.next_portion(other)[0][: len(first)] == first
    download.leave(other)
    assert download.is_idle


async def test_sources_share_what_may_be_under_way(place: Place, study: SmallStudy) -> None:
    download = place.download(several=True)
    assert download.window_bytes == limits.CREDIT_BYTES
    for count in range(1, 40):
        await place.join(download, study, bytes([count]) * 32)
        share = limits.CREDIT_BYTES // count
        assert download.window_bytes == max(share, limits.SEALED_CHUNK_BYTES)
    assert download.window_bytes > share


async def test_batches_are_named_as_each_source_names_them(place: Place, study: SmallStudy) -> None:
    last = len(study.encoded) - 1
    turned = dataclasses.replace(
        study.manifest,
        batches=study.manifest.batches[::-1],
        instances=tuple(
            one._replace(first_batch=last - one.first_batch) for one in study.manifest.instances
        ),
    )
    download = place.download(several=True)
    lead = await place.join(download, study)
    download.stored(lead, 0, study.manifest.batches[0])
    other = await place.join(download, SmallStudy(turned, study.encoded[::-1]), OTHER)
    everything = range(len(study.encoded))
    assert lead.ours() == {index: index for index in everything}
    assert [lead.to_theirs(index) for index in everything] == list(everything)
    assert other.ours() == {last - index: index for index in everything[1:]}
    assert [other.to_theirs(index) for index in everything[1:]] == list(everything[-2::-1])


async def test_a_source_with_other_batches_joins_when_nobody_else_is_at_work(
    place: Place, study: SmallStudy, packed_otherwise: SmallStudy
) -> None:
    place.home.store.put_many((*study.encoded, *packed_otherwise.encoded))
    remove = place.home.store.remove_unused
    own = [one.digest for one in study.manifest.batches]
    others = [one.digest for one in packed_otherwise.manifest.batches]

    async def removed(digests: list[bytes]) -> list[bytes]:
        return await trio.to_thread.run_sync(remove, digests, lambda digest: True)

    download = place.download(several=True)
    place.home.store.remove(own[0])
    member = await place.join(download, study)
    with pytest.raises(NotNeededError):
        await place.join(download, packed_otherwise, OTHER)
    assert (await removed(own), await removed(others)) == ([], others)
    download.leave(member)
    # What only the first has is not counted on any more.
    await place.join(download, packed_otherwise, OTHER)
    assert (await removed(own), await removed(others)) == (own, [])
    download.end()
    assert await removed(others) == others


async def test_what_is_of_no_use_does_not_make_up_for_what_a_source_owes(
    place: Place, study: SmallStudy, mock_clock: trio.testing.MockClock
) -> None:
    download = place.download(several=True)
    owing = await place.join(download, study)
    quick = await place.join(download, study, OTHER)
    owed, _ = download.next_portion(owing)
    for index in range(len(owed), len(study.encoded)):
        assert download.next_portion(quick)
        mock_clock.jump(0.01)
        download.stored(quick, index, study.manifest.batches[index])
    assert download.next_portion(quick) == ([], False)
    mock_clock.jump(2 * LATE_SECONDS)
    download.stored(owing, None, study.manifest.batches[0])
    assert download.next_portion(quick) == (owed[:1], False)


# --- counts -------------------------------------------------------------------------


async def test_what_is_here_is_counted_as_held_and_what_comes_as_moved(
    place: Place, study: SmallStudy
) -> None:
    entries = study.manifest.batches
    place.incoming.write(entries[0].digest, study.encoded[0])
    download = place.download()
    transfer = download.transfer
    member = await place.join(download, study)
    total, held = study.manifest.total_original_bytes, entries[0].original_size
    to_move = sum(one.encoded_size for one in entries[1:])
    assert (transfer.instances, transfer.bytes) == (6, total)
    assert (transfer.bytes_done, transfer.held_bytes) == (held, held)
    assert (transfer.wire_bytes, transfer.wire_bytes_total) == (0, to_move)
    assert transfer.moved == 0
    download.stored(member, 1, entries[1])
    done = held + entries[1].original_size
    assert (transfer.bytes_done, transfer.wire_bytes) == (done, entries[1].encoded_size)
    assert transfer.moved > 0
    # What comes again, or was not missing, has moved and adds nothing.
    download.stored(member, 1, entries[1])
    download.stored(member, None, entries[0])
    moved = 2 * entries[1].encoded_size + entries[0].encoded_size
    assert (transfer.bytes_done, transfer.wire_bytes) == (done, moved)
    contribution = transfer.contributions[PEER]
    assert (contribution.batches, contribution.encoded_bytes) == (3, moved)
    assert not download.is_missing(1)
    assert download.is_missing(2)
    # Another source goes on: what was held before the fetch is still that alone.
    place.incoming.write(entries[1].digest, study.encoded[1])
    download.leave(member)
    await place.join(download, study, OTHER)
    assert (transfer.bytes_done, transfer.held_bytes) == (done, held)
    left = sum(one.encoded_size for one in entries[2:])
    assert (transfer.wire_bytes, transfer.wire_bytes_total) == (moved, moved + left)


async def test_each_source_that_sent_something_is_in_the_log_with_what_it_sent(
    place: Place, study: SmallStudy
) -> None:
    logged: list[LogEvent] = []
    place.append = logged.extend
    download = place.download(several=True)
    transfer, entries = download.transfer, study.manifest.batches
    members = [await place.join(download, study, peer) for peer in (PEER, OTHER, b"idle".ljust(32))]
    for member in members:
        member.contribution.manifest = b"of " + member.contribution.peer[:4]
    await trio.to_thread.run_sync(take, download, study, range(len(entries)))
    for index, entry in enumerate(entries):
        download.stored(members[1], index, entry)
    await download.publish()
    # The lead is named though nothing came from it; its manifest is the one that counts.
    assert [event.peer for event in logged] == [PEER, OTHER]
    for event, member in zip(logged, members, strict=False):
        sent = entries if member is members[1] else ()
        assert event.details == {
            "transfer": transfer.contributions[event.peer].transfer.hex(),
            "manifest": member.contribution.manifest.hex(),
            "content_root": study.manifest.content_root.hex(),
            "instances": 6,
            "bytes": study.manifest.total_original_bytes,
            "batches": len(sent),
            "encoded_bytes": sum(one.encoded_size for one in sent),
            "sharing": "default",
            "state": "withheld",
        }
        assert (event.type, event.purpose) == ("received", "treatment")
    assert download.patients == ("MARKER-PATIENT-ID",)
    assert all("MARKER-PATIENT-ID" in str(event.subjects) for event in logged)
