"""One receiving session against a source in memory: what the source and the log are told."""

from collections.abc import Iterator
from pathlib import Path

import exchange_pair
import pytest
import trio
import trio.testing
from logs_made import FACILITY
from receiving_made import (
    RECIPIENT,
    SOURCE,
    Recipient,
    Session,
    event,
    opened_recipient,
    run_to_the_end,
    study_of,
)

from keys.identity import KeyPair
from node.errors import ExitCode, NodeError
from node.network.network import StreamLost
from node.transfer.portions import LEAST_BATCHES
from node.transfer.receiving import BATCHES_AT_WORK, NotAnnouncedError
from node.transfer.study_download import NotNeededError
from node.transfer.transfers import Contribution
from protocol import limits
from protocol.errors import WireCode
from protocol.log.entry import Event as LogEvent
from protocol.messages import Record
from protocol.receipt import Receipt
from protocol.transfer import Credited, Receipted, Refused, Wanted

pytestmark = pytest.mark.timeout(60)

OTHER = KeyPair.from_seed(bytes([33]) * 32)


@pytest.fixture
def recipient(tmp_path: Path) -> Iterator[Recipient]:
    with opened_recipient(tmp_path) as opened:
        opened.incoming.may_write.set()
        yield opened


async def refused(session: Session) -> WireCode:
    """With which code a source is sent away that has sent all it has."""
    while not isinstance(told := await event(session.source, session.muxed), Refused):
        assert isinstance(told, Credited)
    session.muxed.feed.close()
    return told.code


class Ending:
    """How a session ends."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.error: Exception | None = None

    async def run(self) -> None:
        try:
            await self._session.receive()
        except (NodeError, NotNeededError, NotAnnouncedError, StreamLost) as error:
            self.error = error


# --- why it ends --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "told"),
    [(ExitCode.DISK, WireCode.STORAGE_FULL), (ExitCode.INTEGRITY, WireCode.OTHER)],
)
async def test_a_source_is_told_that_our_disk_is_full_and_of_nothing_else_of_ours(
    recipient: Recipient, code: ExitCode, told: WireCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(digest: bytes, encoded: bytes) -> None:
        raise NodeError("the disk", code=code)

    monkeypatch.setattr(recipient.incoming, "write", fail)
    session = recipient.session()
    ending = Ending(session)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.run)
            await session.requested()
            await session.offer_and_send()
            assert await refused(session) is told
    assert isinstance(ending.error, NodeError)
    assert ending.error.code is code
    # It is at work no more.
    assert session.download.is_idle


async def test_a_disk_without_room_is_told_before_anything_is_taken(recipient: Recipient) -> None:
    recipient.free = 0
    session = recipient.session(several=True)
    ending = Ending(session)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.run)
            await session.requested()
            await session.offer()
            assert await refused(session) is WireCode.STORAGE_FULL
    assert isinstance(ending.error, NodeError)
    assert recipient.incoming.writing == []


async def test_a_source_whose_batches_are_of_no_use_is_told_so(recipient: Recipient) -> None:
    session = recipient.session(several=True)
    ending = Ending(session)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.run)
            await session.requested()
            lead = Contribution(b"B" * 32, bytes(16))
            await session.download.join(lead, study_of(3, rows=40).manifest)
            await session.offer()
            assert await refused(session) is WireCode.NOT_NEEDED
    assert isinstance(ending.error, NotNeededError)


def _record(session: Session, instances: int) -> Record:
    """What the source announced: so many instances of another content."""
    counts = session.study.manifest.counts
    return Record(
        sequence=1,
        kind="available",
        study=exchange_pair.STUDY,
        content_root=bytes(32),
        series=counts.series,
        instances=instances,
        bytes=counts.bytes,
        encoded_bytes=1,
        modalities=("CT",),
        study_date="",
    )


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_source_offers_no_more_than_it_announced(recipient: Recipient, more: int) -> None:
    session = recipient.session()
    recipient.announced = _record(session, len(session.study.manifest.instances) + more)
    ending = Ending(session)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.run)
            await session.requested()
            await session.offer_and_send()
            if more < 0:
                assert await refused(session) is WireCode.OTHER
            else:
                await run_to_the_end(session)
    assert isinstance(ending.error, NotAnnouncedError) is (more < 0)
    assert recipient.incoming.writing == [] or more >= 0


async def test_a_source_that_takes_no_more_of_our_words_is_lost_and_what_it_sent_is_kept(
    recipient: Recipient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own half goes on, so that reading tells nothing."""

    async def broken(data: memoryview) -> int:
        raise ConnectionResetError

    session = recipient.session()
    ending = Ending(session)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.run)
            await session.requested()
            monkeypatch.setattr(session.muxed, "write", broken)
            await session.offer_and_send()
    assert isinstance(ending.error, StreamLost)
    assert all(recipient.incoming.has(one.digest) for one in session.study.manifest.batches)


async def test_a_source_that_cannot_be_asked_is_lost(
    recipient: Recipient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(data: memoryview) -> int:
        raise ConnectionResetError

    session = recipient.session(several=True)
    ending = Ending(session)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.run)
            await session.requested()
            monkeypatch.setattr(session.muxed, "write", broken)
            await session.offer()
    assert isinstance(ending.error, StreamLost)


# --- time ---------------------------------------------------------------------------


async def test_the_time_that_our_disk_takes_is_not_that_of_the_source(
    recipient: Recipient, mock_clock: trio.testing.MockClock
) -> None:
    """A source without credit rightly waits for us."""
    recipient.incoming.may_write.clear()
    session = recipient.session()
    ending = Ending(session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.run)
        await session.requested()
        await session.offer()
        await session.send(0)
        while not recipient.incoming.writing:
            await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(limits.STALL_SECONDS - 1)
        await trio.testing.wait_all_tasks_blocked()
        recipient.incoming.may_write.set()
        assert isinstance(await event(session.source, session.muxed), Credited)
        assert session.source.connection.uncredited_bytes == 0
        mock_clock.jump(limits.STALL_SECONDS - 1)
        await trio.testing.wait_all_tasks_blocked()
        for index in range(1, len(session.study.encoded)):
            await session.send(index)
        await run_to_the_end(session)
    assert ending.error is None
    assert session.download.receipts == 1


@pytest.mark.parametrize("several", [False, True])
async def test_a_source_that_owes_us_something_and_is_silent_is_left(
    recipient: Recipient, mock_clock: trio.testing.MockClock, several: bool
) -> None:
    session = recipient.session(several=several)
    ending = Ending(session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.run)
        await session.requested()
        await session.offer()
        if several:
            assert isinstance(await event(session.source, session.muxed), Wanted)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not session.download.is_idle
        mock_clock.jump(limits.STALL_SECONDS - 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert ending.error is None
        mock_clock.jump(2)
    assert isinstance(ending.error, StreamLost)


# --- what is asked for, and what may come ------------------------------------------


async def test_a_source_among_several_is_asked_for_portions_and_told_which_is_the_last(
    recipient: Recipient,
) -> None:
    session = recipient.session(several=True)
    wanted: list[tuple[int, ...]] = []
    is_last = False
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            assert not (await session.requested()).request.whole
            await session.offer()
            while not is_last:
                told = await event(session.source, session.muxed)
                if isinstance(told, Wanted):
                    wanted.append(told.batches)
                    is_last = told.last
                    for index in told.batches:
                        await session.send(index)
            await run_to_the_end(session)
    assert len(wanted[0]) == LEAST_BATCHES
    count = len(session.study.encoded)
    assert sorted(index for portion in wanted for index in portion) == list(range(count))


async def test_nothing_is_asked_for_where_all_is_here(recipient: Recipient) -> None:
    session = recipient.session()
    for batch, encoded in zip(session.study.manifest.batches, session.study.encoded, strict=True):
        recipient.incoming.write(batch.digest, encoded)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            assert not (await session.requested()).request.whole
            await session.offer()
            told = await event(session.source, session.muxed)
            assert isinstance(told, Wanted)
            assert (told.batches, told.last) == ((), True)
            await run_to_the_end(session)
    assert session.download.receipts == 1


async def test_urgent_batches_do_not_wait_for_routine_ones(recipient: Recipient) -> None:
    recipient.incoming.may_write.clear()
    routine, urgent = recipient.session(), recipient.session(OTHER, b"O" * 32, stat=True)
    urgent.study = study_of(2, rows=40)
    of_urgent = {one.digest for one in urgent.study.manifest.batches}
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            try:
                for session in (routine, urgent):
                    nursery.start_soon(session.receive)
                    assert (await session.requested()).request.stat is (session is urgent)
                    await session.offer_and_send()
                while not of_urgent.issubset(recipient.incoming.writing):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(recipient.incoming.writing) <= 2 * BATCHES_AT_WORK
            finally:
                recipient.incoming.may_write.set()
            for session in (routine, urgent):
                await run_to_the_end(session)


async def test_credit_is_withheld_while_another_source_needs_the_room(
    recipient: Recipient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CREDIT_BYTES", 10_000)
    monkeypatch.setattr(limits, "SEALED_CHUNK_BYTES", 4000)
    session = recipient.session()
    download, connection = session.download, session.source.connection
    *most, last = range(len(session.study.encoded))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            await session.requested()
            download.expect_several()
            other = await download.join(Contribution(b"B" * 32, bytes(16)), session.study.manifest)
            await session.offer()
            sent = 0
            for index in most:
                sent += await session.send(index)
                while download.is_missing(index):
                    await download.wait_change()
                if sent > 5000:
                    assert isinstance(await event(session.source, session.muxed), Credited)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert session.muxed.written.statistics().current_buffer_used == 0
                assert connection.uncredited_bytes == min(sent, 5000)
            assert sent > 5000
            download.leave(other)
            await session.send(last)
            # What was withheld is credited with the next batch.
            assert isinstance(await event(session.source, session.muxed), Credited)
            assert connection.uncredited_bytes == 0
            await run_to_the_end(session)


# --- the receipt, and the log --------------------------------------------------------


def _details(events: list[LogEvent], kind: str) -> dict[str, str | int | bool]:
    [one] = [event for event in events if event.type == kind]
    assert (one.peer, one.purpose) == (FACILITY.public, "treatment")
    assert exchange_pair.STUDY in str(one.subjects)
    return dict(one.details)


@pytest.mark.parametrize("stat", [False, True])
async def test_the_log_says_what_was_asked_for_what_came_and_what_was_signed(
    recipient: Recipient, stat: bool
) -> None:
    session = recipient.session(stat=stat)
    events = recipient.home.events
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            request = (await session.requested()).request
            # It is in the log before the source knows.
            assert [one.type for one in events] == ["requested"]
            await session.offer_and_send()
            await session.muxed.feed.send(session.source.end())
            while not isinstance(told := await event(session.source, session.muxed), Receipted):
                assert isinstance(told, Credited)
            assert [one.type for one in events] == ["requested", "received"]
            assert recipient.exchanging == [told.receipt]
            [contribution] = session.download.transfer.contributions.values()
            assert contribution.is_signed
            assert session.download.receipts == 0
            frame, signed = session.source.countersign(told)
            await session.muxed.feed.send(frame)
    assert session.download.receipts == 1
    assert recipient.exchanging == []
    assert recipient.kept == [signed.encode()]
    offer, manifest = session.source.offer, session.study.manifest
    assert offer is not None
    named = {"transfer": request.transfer.hex(), **({"stat": True} if stat else {})}
    sent = {
        "manifest": offer.manifest.hex(),
        "content_root": manifest.content_root.hex(),
        "instances": len(manifest.instances),
        "bytes": manifest.total_original_bytes,
        "batches": len(manifest.batches),
        "encoded_bytes": manifest.total_encoded_bytes,
    }
    assert _details(events, "requested") == {"direction": "in", **named}
    decided = {"sharing": "default", "state": "withheld"}
    assert _details(events, "received") == {**sent, **named, **decided}
    assert _details(events, "receipt") == {**sent, "receipt": "receipt 1", **named}
    assert told.receipt == Receipt(
        transfer=request.transfer,
        source_facility=FACILITY.public,
        recipient_facility=b"R" * 32,
        source_node=SOURCE.public,
        recipient_node=RECIPIENT.public,
        manifest=offer.manifest,
        content_root=manifest.content_root,
        instances=len(manifest.instances),
        bytes=manifest.total_original_bytes,
        batches=len(manifest.batches),
        encoded_bytes=manifest.total_encoded_bytes,
        purpose="treatment",
        time=told.receipt.time,
        status="received",
    )
    assert session.download.is_idle


async def test_another_node_key_of_ours_asks_and_signs(recipient: Recipient) -> None:
    recipient.receiver.use_key(OTHER)
    session = recipient.session(own=OTHER)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            await session.requested()
            await session.offer_and_send()
            await run_to_the_end(session)
    assert session.download.receipts == 1
