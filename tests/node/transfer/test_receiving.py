"""One receiving session against a source in memory: what is kept when it breaks off."""

import dataclasses
import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing
from exchange_pair import SmallStudy
from node_home import ImageHome
from receiving_made import (
    RECIPIENT,
    SOURCE,
    MemoryMuxed,
    Recipient,
    Session,
    SlowDisk,
    event,
    opened_recipient,
    run_to_the_end,
    study_of,
)

from keys.identity import KeyPair
from node.catalog.catalog import LOCAL
from node.dicom.studies import read_header
from node.network.network import PeerStream, StreamLost
from node.transfer.sessions import READ_BYTES, STEP_BYTES, StudyStream, steps_of
from node.transfer.transfers import Contribution
from protocol import encoding
from protocol.errors import RemoteProtocolError, WireCode
from protocol.manifest import Manifest
from protocol.recipient import RecipientTransfer
from protocol.transfer import Credited, Ended, Event, Receipted, Refused, Requested


@pytest.fixture
def recipient(tmp_path: Path) -> Iterator[Recipient]:
    with opened_recipient(tmp_path) as opened:
        yield opened


@pytest.fixture
def home(recipient: Recipient) -> ImageHome:
    return recipient.home


@pytest.fixture
def incoming(recipient: Recipient) -> SlowDisk:
    return recipient.incoming


@pytest.fixture
def session(recipient: Recipient) -> Session:
    return recipient.session()


async def test_batches_that_wait_for_the_disk_when_the_connection_ends_are_kept(
    incoming: SlowDisk, session: Session
) -> None:
    lost: list[StreamLost] = []

    async def receive() -> None:
        try:
            await session.receive()
        except StreamLost as error:
            lost.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        assert isinstance(await event(session.source, session.muxed), Requested)
        await session.offer_and_send()
        session.muxed.feed.close()
        await trio.testing.wait_all_tasks_blocked()
        incoming.may_write.set()
    assert lost
    assert all(incoming.has(batch.digest) for batch in session.study.manifest.batches)


async def test_a_study_that_was_stored_here_after_it_was_asked_for_whole(
    home: ImageHome, incoming: SlowDisk, session: Session
) -> None:
    study = session.study
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.receive)
        assert isinstance(await event(session.source, session.muxed), Requested)
        home.store.put_many(study.encoded)
        header = read_header(encoding.decode_untrusted(study.encoded[0]))
        home.catalog.publish(study.manifest, {0: header}, origin=LOCAL, shared=False)
        await session.offer_and_send()
        await session.muxed.feed.send(session.source.end())
        while not isinstance(receipted := await event(session.source, session.muxed), Receipted):
            assert isinstance(receipted, Credited)
        assert receipted.receipt.batches == len(study.encoded)
        await session.muxed.feed.send(session.source.countersign(receipted)[0])
    assert session.download.receipts == 1
    # What came was here: nothing was written.
    assert incoming.is_empty()
    assert not incoming.may_write.is_set()


async def test_what_does_not_hold_ends_a_session_that_has_hundreds_of_batches_behind_it(
    incoming: SlowDisk, session: Session
) -> None:
    incoming.may_write.set()
    study = study_of(400, rows=8)
    first, *rest = study.manifest.instances
    wrong = dataclasses.replace(study.manifest, instances=(first._replace(digest=bytes(32)), *rest))
    session.study = SmallStudy(wrong, study.encoded)
    failed: list[RemoteProtocolError] = []

    async def receive() -> None:
        try:
            await session.receive()
        except RemoteProtocolError as error:
            failed.append(error)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            assert isinstance(await event(session.source, session.muxed), Requested)
            await session.offer_and_send()
            while not isinstance(told := await event(session.source, session.muxed), Refused):
                assert isinstance(told, Credited)
            session.muxed.feed.close()
    assert told.code is WireCode.BAD_DIGEST
    assert [error.code for error in failed] == [WireCode.BAD_DIGEST]


async def test_a_study_that_comes_whole_after_another_source_has_joined_with_its_own_order(
    incoming: SlowDisk, session: Session
) -> None:
    """What both call batch 0 is not the same batch."""
    incoming.may_write.set()
    study, last = session.study, len(session.study.encoded) - 1
    turned = dataclasses.replace(
        study.manifest,
        batches=study.manifest.batches[::-1],
        instances=tuple(
            one._replace(first_batch=last - one.first_batch) for one in study.manifest.instances
        ),
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            assert isinstance(await event(session.source, session.muxed), Requested)
            session.download.expect_several()
            await session.download.join(Contribution(b"B" * 32, bytes(16)), turned)
            await session.offer_and_send()
            await session.muxed.feed.send(session.source.end())
            while not isinstance(told := await event(session.source, session.muxed), Receipted):
                assert isinstance(told, Credited)
            await session.muxed.feed.send(session.source.countersign(told)[0])
    assert told.receipt.batches == len(study.encoded)
    for batch, encoded in zip(study.manifest.batches, study.encoded, strict=True):
        assert incoming.read(batch.digest) == encoded


async def test_what_a_crash_left_without_a_flush_is_flushed_before_it_counts_as_held(
    tmp_path: Path, incoming: SlowDisk, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming.may_write.set()
    digest = session.study.manifest.batches[0].digest
    incoming.write(digest, session.study.encoded[0])
    flushed: set[int] = set()
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        flushed.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noting)
    member = await session.download.join(Contribution(b"B" * 32, bytes(16)), session.study.manifest)
    folder = tmp_path / "incoming"
    assert not session.download.is_missing(0)
    assert {(folder / digest.hex()).stat().st_ino, folder.stat().st_ino} <= flushed
    session.download.leave(member)


async def test_the_source_hears_that_nothing_more_comes(
    incoming: SlowDisk, session: Session
) -> None:
    """It would wait three seconds for that, and count the session among those of its peer."""
    incoming.may_write.set()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            assert isinstance(await event(session.source, session.muxed), Requested)
            await session.offer_and_send()
            await run_to_the_end(session)
            with pytest.raises(trio.EndOfChannel):
                await session.muxed.written.receive()


async def test_credit_comes_only_for_what_is_flushed(incoming: SlowDisk, session: Session) -> None:
    incoming.may_write.set()
    incoming.may_flush.clear()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            assert isinstance(await event(session.source, session.muxed), Requested)
            await session.offer_and_send()
            try:
                assert await trio.to_thread.run_sync(incoming.flushing.wait, 10)
                await trio.testing.wait_all_tasks_blocked(0.05)
                # All are written, none is durable: nothing was said to the source.
                assert session.muxed.written.statistics().current_buffer_used == 0
                assert not session.download.transfer.bytes_done
            finally:
                incoming.may_flush.set()
            assert isinstance(await event(session.source, session.muxed), Credited)
            await run_to_the_end(session)
    assert session.download.receipts == 1


async def test_one_manifest_is_opened_at_a_time(
    incoming: SlowDisk, recipient: Recipient, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming.may_write.set()
    begun, may_open, done = (threading.Event() for _ in range(3))
    running: list[RecipientTransfer] = []
    together: list[int] = []
    open_manifest = RecipientTransfer.open_manifest

    def noting(end: RecipientTransfer) -> Manifest:
        running.append(end)
        together.append(len(running))
        begun.set()
        may_open.wait()
        running.remove(end)
        if len(together) == len(sessions):
            done.set()
        return open_manifest(end)

    monkeypatch.setattr(RecipientTransfer, "open_manifest", noting)
    other = KeyPair.from_seed(bytes([33]) * 32)
    sessions = [recipient.session(), recipient.session(other, b"O" * 32)]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(session.receive)
                assert isinstance(await event(session.source, session.muxed), Requested)
                await session.offer_and_send()
            try:
                assert await trio.to_thread.run_sync(begun.wait, 10)
                await trio.testing.wait_all_tasks_blocked(0.05)
            finally:
                may_open.set()
            assert await trio.to_thread.run_sync(done.wait, 10)
            nursery.cancel_scope.cancel()
    assert together == [1, 1]


async def test_a_source_with_much_work_does_not_hold_up_another(
    incoming: SlowDisk, recipient: Recipient
) -> None:
    many, few = (
        recipient.session(),
        recipient.session(KeyPair.from_seed(bytes([33]) * 32), b"O" * 32),
    )
    many.study = study_of(40, rows=33)
    assert len(many.study.encoded) > 5 * len(few.study.encoded)

    async def at_work_or_waiting(session: Session) -> None:
        """Until all of its batches have come as far as the threads that decode."""
        facility = session.download.transfer.peer
        while True:
            share = recipient.receiver._at_work._sources.get(facility)
            if share and share.running + len(share.waiting) == len(session.study.encoded):
                return
            await trio.sleep(0.01)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for session in (many, few):
                nursery.start_soon(session.receive)
                assert isinstance(await event(session.source, session.muxed), Requested)
                await session.offer_and_send()
                await at_work_or_waiting(session)
            # All of the first one's batches came before the second's.
            incoming.may_write.set()
            of_few = {batch.digest for batch in few.study.manifest.batches}
            while not of_few.issubset(incoming.writing):
                await few.download.wait_change()
            nursery.cancel_scope.cancel()
    places = [place for place, digest in enumerate(incoming.writing) if digest in of_few]
    assert len(places) == len(few.study.encoded)
    # The two at work go on, then each source has one place: about every other batch is of the
    # second, and all of the first would come before it if they went as they came.
    assert places[-1] < len(many.study.encoded)


def test_what_is_read_at_once_is_taken_in_steps() -> None:
    data = bytes(range(256)) * 1024
    steps = list(steps_of(data))
    assert b"".join(steps) == data
    assert max(map(len, steps)) <= STEP_BYTES < READ_BYTES
    assert list(steps_of(b"")) == []


async def test_a_stream_full_of_small_messages_leaves_others_their_turn() -> None:
    """A megabyte of the smallest messages: what is taken without a pause is counted."""
    muxed = MemoryMuxed()
    stream = PeerStream(
        muxed, peer=SOURCE.public, protocol_id="", abandon=lambda: None, linger=lambda: None
    )
    taken: list[int] = []

    class Counting(RecipientTransfer):
        def receive_untrusted(self, data: bytes | memoryview) -> list[Event]:
            taken.append(len(data))
            return [Ended()]

    study_stream = StudyStream(stream, Counting(RECIPIENT, SOURCE.public, b"t" * 16))
    turns: list[int] = []

    async def other() -> None:
        while sum(taken) < READ_BYTES:
            turns.append(sum(taken))
            await trio.lowlevel.checkpoint()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            study_stream.start(nursery)
            await muxed.feed.send(bytes(READ_BYTES))
            await other()
            nursery.cancel_scope.cancel()
    assert max(taken) <= STEP_BYTES
    # Each runs once a round, in any order: two steps may follow one another, never three.
    assert max(later - before for before, later in pairwise(turns)) <= 2 * STEP_BYTES
