"""What a `Gathering` says of itself: its state, its counts, its entries, and to whom."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from exchange_pair import STUDY, SmallStudy, make_study
from gathering_made import PEER, Place, arrived, opened_place, part10, take, wakes

from node.dicom.studies import read_header
from node.transfer.gathering import Gathering, Member, NotNeededError
from node.transfer.portions import LATE_SECONDS, LEAST_BATCHES
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


async def take_all(gathering: Gathering, member: Member, study: SmallStudy) -> None:
    await trio.to_thread.run_sync(take, gathering, study, range(len(study.encoded)))
    arrived(gathering, member, study)


def states(place: Place) -> list[TransferState]:
    return [state for state, _ in place.transfers.kept]


# --- who may send the whole study unasked -------------------------------------------


def _of_several(place: Place, gathering: Gathering, study: SmallStudy) -> None:
    gathering.expect_several()


def _moved(place: Place, gathering: Gathering, study: SmallStudy) -> None:
    gathering.transfer.wire_bytes = 1


def _done(place: Place, gathering: Gathering, study: SmallStudy) -> None:
    gathering.transfer.bytes_done = 1


def _published(place: Place, gathering: Gathering, study: SmallStudy) -> None:
    publish_here(place, study)


def _left_over(place: Place, gathering: Gathering, study: SmallStudy) -> None:
    place.incoming.write(study.manifest.batches[0].digest, study.encoded[0])


@pytest.mark.parametrize("what", [_of_several, _moved, _done, _published, _left_over])
def test_a_study_may_come_whole_only_where_nothing_of_it_can_be(
    place: Place, study: SmallStudy, what: Callable[[Place, Gathering, SmallStudy], None]
) -> None:
    gathering = place.gathering()
    assert gathering.holds_nothing()
    what(place, gathering, study)
    assert not gathering.holds_nothing()


async def test_a_study_of_several_sources_or_that_was_offered_does_not_come_whole(
    place: Place, study: SmallStudy
) -> None:
    assert not place.gathering(several=True).holds_nothing()
    gathering = place.gathering()
    member = await place.join(gathering, study)
    assert not gathering.holds_nothing()
    gathering.leave(member)
    assert not gathering.holds_nothing()


@pytest.mark.parametrize("when", ["never", "at first", "before it joins", "after it has joined"])
async def test_a_lone_source_is_asked_for_everything_at_once(
    place: Place, study: SmallStudy, when: str
) -> None:
    gathering = place.gathering(several=when == "at first")
    if when == "before it joins":
        gathering.expect_several()
    member = await place.join(gathering, study)
    if when == "after it has joined":
        gathering.expect_several()
    portion, is_last = gathering.next_portion(member)
    is_alone = when == "never"
    assert portion == list(range(len(study.encoded) if is_alone else LEAST_BATCHES))
    assert is_last is is_alone


# --- states -------------------------------------------------------------------------


async def test_one_that_asks_does_not_hide_that_another_sends(
    place: Place, study: SmallStudy
) -> None:
    gathering = place.gathering(several=True)
    await gathering.enter(REQUESTING)
    member = await place.join(gathering, study)
    await gathering.enter(RECEIVING)
    await gathering.enter(REQUESTING)
    assert states(place) == [REQUESTING, RECEIVING]
    gathering.leave(member)
    await gathering.enter(REQUESTING)
    assert states(place) == [REQUESTING, RECEIVING, REQUESTING]


async def test_a_fetch_waits_only_when_no_session_is_open(place: Place) -> None:
    gathering = place.gathering()
    await gathering.enter(RECEIVING)
    gathering.open_sessions = 1
    await gathering.enter(WAITING, "it is away")
    assert states(place) == [RECEIVING]
    gathering.open_sessions = 0
    await gathering.enter(WAITING, "it is away")
    assert place.transfers.kept[1:] == [(WAITING, "it is away")]


async def test_what_is_published_is_not_received_again(place: Place, study: SmallStudy) -> None:
    gathering = place.gathering()
    member = await place.join(gathering, study)
    await gathering.enter(RECEIVING)
    await take_all(gathering, member, study)
    await gathering.publish()
    for state in (REQUESTING, RECEIVING, VERIFYING):
        await gathering.enter(state)
    assert states(place) == [RECEIVING, VERIFYING]
    # It may wait for the one that is to sign.
    gathering.leave(member)
    await gathering.enter(WAITING)
    assert states(place) == [RECEIVING, VERIFYING, WAITING]
    await place.transfers.enter(gathering.transfer, TransferState.COMPLETE)
    await gathering.enter(WAITING)
    assert gathering.transfer.state is TransferState.COMPLETE


async def test_a_study_is_published_once_whoever_asks_for_it(
    place: Place, study: SmallStudy
) -> None:
    logged: list[LogEvent] = []
    place.append = logged.extend
    gathering = place.gathering()
    await take_all(gathering, await place.join(gathering, study), study)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gathering.publish)
        nursery.start_soon(gathering.publish)
    await gathering.publish()
    assert [event.type for event in logged] == ["received"]
    assert states(place) == [VERIFYING]


async def test_a_study_that_grew_while_its_receipt_was_awaited_is_published_again(
    place: Place, study: SmallStudy
) -> None:
    less = make_study([part10(1), part10(2)], study.manifest.batches[0].original_size)
    gathering = place.gathering()
    for offered in (less, study):
        member = await place.join(gathering, offered)
        missing = [index for index in range(len(offered.encoded)) if gathering.is_missing(index)]
        await trio.to_thread.run_sync(take, gathering, offered, missing)
        await gathering.publish()
        gathering.leave(member)
    assert len(place.home.catalog.held_instances(STUDY)) == 6


# --- those who come and go ----------------------------------------------------------


async def test_a_source_that_leaves_wakes_those_who_wait_and_what_it_owes_is_free(
    place: Place, study: SmallStudy
) -> None:
    gathering = place.gathering(several=True)
    one = await place.join(gathering, study)
    other = await place.join(gathering, study, OTHER)
    first, _ = gathering.next_portion(one)
    second, _ = gathering.next_portion(other)
    assert (first, second) == ([0, 1], [2, 3])
    assert gathering.owes(one)
    async with wakes(gathering):
        gathering.leave(one)
    assert not gathering.is_idle
    for index in second:
        gathering.stored(other, index, study.manifest.batches[index])
    assert not gathering.owes(other)
    assert gathering.next_portion(other)[0][: len(first)] == first
    gathering.leave(other)
    assert gathering.is_idle


async def test_sources_share_what_may_be_under_way(place: Place, study: SmallStudy) -> None:
    gathering = place.gathering(several=True)
    assert gathering.window_bytes == limits.CREDIT_BYTES
    for count in range(1, 40):
        await place.join(gathering, study, bytes([count]) * 32)
        share = limits.CREDIT_BYTES // count
        assert gathering.window_bytes == max(share, limits.SEALED_CHUNK_BYTES)
    assert gathering.window_bytes > share


async def test_batches_are_named_as_each_source_names_them(place: Place, study: SmallStudy) -> None:
    last = len(study.encoded) - 1
    turned = dataclasses.replace(
        study.manifest,
        batches=study.manifest.batches[::-1],
        instances=tuple(
            one._replace(first_batch=last - one.first_batch) for one in study.manifest.instances
        ),
    )
    gathering = place.gathering(several=True)
    lead = await place.join(gathering, study)
    gathering.stored(lead, 0, study.manifest.batches[0])
    other = await place.join(gathering, SmallStudy(turned, study.encoded[::-1]), OTHER)
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

    gathering = place.gathering(several=True)
    place.home.store.remove(own[0])
    member = await place.join(gathering, study)
    with pytest.raises(NotNeededError):
        await place.join(gathering, packed_otherwise, OTHER)
    assert (await removed(own), await removed(others)) == ([], others)
    gathering.leave(member)
    # What only the first has is not counted on any more.
    await place.join(gathering, packed_otherwise, OTHER)
    assert (await removed(own), await removed(others)) == (own, [])
    gathering.end()
    assert await removed(others) == others


async def test_what_is_of_no_use_does_not_make_up_for_what_a_source_owes(
    place: Place, study: SmallStudy, mock_clock: trio.testing.MockClock
) -> None:
    gathering = place.gathering(several=True)
    owing = await place.join(gathering, study)
    quick = await place.join(gathering, study, OTHER)
    owed, _ = gathering.next_portion(owing)
    for index in range(len(owed), len(study.encoded)):
        assert gathering.next_portion(quick)
        mock_clock.jump(0.01)
        gathering.stored(quick, index, study.manifest.batches[index])
    assert gathering.next_portion(quick) == ([], False)
    mock_clock.jump(2 * LATE_SECONDS)
    gathering.stored(owing, None, study.manifest.batches[0])
    assert gathering.next_portion(quick) == (owed[:1], False)


# --- counts -------------------------------------------------------------------------


async def test_what_is_here_is_counted_as_held_and_what_comes_as_moved(
    place: Place, study: SmallStudy
) -> None:
    entries = study.manifest.batches
    place.incoming.write(entries[0].digest, study.encoded[0])
    gathering = place.gathering()
    transfer = gathering.transfer
    member = await place.join(gathering, study)
    total, held = study.manifest.total_original_bytes, entries[0].original_size
    to_move = sum(one.encoded_size for one in entries[1:])
    assert (transfer.instances, transfer.bytes) == (6, total)
    assert (transfer.bytes_done, transfer.held_bytes) == (held, held)
    assert (transfer.wire_bytes, transfer.wire_bytes_total) == (0, to_move)
    assert transfer.moved == 0
    gathering.stored(member, 1, entries[1])
    done = held + entries[1].original_size
    assert (transfer.bytes_done, transfer.wire_bytes) == (done, entries[1].encoded_size)
    assert transfer.moved > 0
    # What comes again, or was not missing, has moved and adds nothing.
    gathering.stored(member, 1, entries[1])
    gathering.stored(member, None, entries[0])
    moved = 2 * entries[1].encoded_size + entries[0].encoded_size
    assert (transfer.bytes_done, transfer.wire_bytes) == (done, moved)
    contribution = transfer.contributions[PEER]
    assert (contribution.batches, contribution.encoded_bytes) == (3, moved)
    assert not gathering.is_missing(1)
    assert gathering.is_missing(2)
    # Another source goes on: what was held before the fetch is still that alone.
    place.incoming.write(entries[1].digest, study.encoded[1])
    gathering.leave(member)
    await place.join(gathering, study, OTHER)
    assert (transfer.bytes_done, transfer.held_bytes) == (done, held)
    left = sum(one.encoded_size for one in entries[2:])
    assert (transfer.wire_bytes, transfer.wire_bytes_total) == (moved, moved + left)


async def test_each_source_that_sent_something_is_in_the_log_with_what_it_sent(
    place: Place, study: SmallStudy
) -> None:
    logged: list[LogEvent] = []
    place.append = logged.extend
    gathering = place.gathering(several=True)
    transfer, entries = gathering.transfer, study.manifest.batches
    members = [
        await place.join(gathering, study, peer) for peer in (PEER, OTHER, b"idle".ljust(32))
    ]
    for member in members:
        member.contribution.manifest = b"of " + member.contribution.peer[:4]
    await trio.to_thread.run_sync(take, gathering, study, range(len(entries)))
    for index, entry in enumerate(entries):
        gathering.stored(members[1], index, entry)
    await gathering.publish()
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
        }
        assert (event.type, event.purpose) == ("received", "treatment")
    assert gathering.patients == ("MARKER-PATIENT-ID",)
    assert all("MARKER-PATIENT-ID" in str(event.subjects) for event in logged)
