"""One receiving session against a source in memory: what is kept when it breaks off."""

import contextlib
import dataclasses
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import exchange_pair
import pytest
import trio
import trio.testing
from exchange_pair import SmallStudy
from logs_made import CARD, FACILITY
from node_home import ImageHome
from studies_made import make_instance

from keys.identity import KeyPair
from keys.peer import Peer
from node.catalog.catalog import LOCAL
from node.clock import SYSTEM_CLOCK
from node.database import Database
from node.dicom.studies import read_header
from node.network.network import PeerStream, StreamLost
from node.transfer.gathering import Gathering, Shelves
from node.transfer.incoming import Incoming
from node.transfer.receiving import BATCHES_AT_WORK, Receiver
from node.transfer.sessions import READ_BYTES, STEP_BYTES, StudyStream, steps_of
from node.transfer.transfers import TRANSFERS_SCHEMA, Contribution, Transfers
from protocol import encoding
from protocol.errors import RemoteProtocolError, WireCode
from protocol.manifest import Manifest
from protocol.recipient import RecipientTransfer
from protocol.source import SourceTransfer
from protocol.transfer import Credited, Event, Receipted, Refused, Requested

SOURCE, RECIPIENT = (KeyPair.from_seed(bytes([n]) * 32) for n in (31, 32))


class MemoryMuxed:
    """A stream of a muxer whose other end is the test."""

    def __init__(self) -> None:
        self.feed, self._arriving = trio.open_memory_channel[bytes](1000)
        self._leaving, self.written = trio.open_memory_channel[bytes](1000)
        self.events: deque[Event] = deque()

    def take(self, n: int) -> bytes:
        return b""

    async def read(self, n: int) -> bytes:
        try:
            return await self._arriving.receive()
        except trio.EndOfChannel:
            raise EOFError from None

    async def write(self, data: memoryview) -> int:
        await self._leaving.send(bytes(data))
        return len(data)

    async def close(self) -> None:
        self._leaving.close()


class SlowDisk(Incoming):
    """An `Incoming` that writes nothing until `may_write` is set, and flushes as it may.

    Attributes:
        writing: batches whose write has begun.
        flushing: set when a flush has begun.
    """

    may_write: threading.Event
    may_flush: threading.Event
    flushing: threading.Event
    writing: list[bytes]

    def write(self, digest: bytes, encoded: bytes) -> None:
        self.writing.append(digest)
        self.may_write.wait()
        super().write(digest, encoded)

    def flush(self, digest: bytes) -> None:
        self.flushing.set()
        self.may_flush.wait()
        super().flush(digest)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ImageHome]:
    one = ImageHome(tmp_path / "home")
    yield one
    one.close()


@pytest.fixture
def incoming(tmp_path: Path, home: ImageHome) -> SlowDisk:
    (tmp_path / "incoming").mkdir()
    one = SlowDisk(tmp_path / "incoming", home.store)
    one.may_write, one.may_flush, one.flushing = (threading.Event() for _ in range(3))
    one.may_flush.set()
    one.writing = []
    return one


def study_of(count: int, rows: int = 32) -> SmallStudy:
    """A study of so many instances, each in a batch of its own."""
    contents = []
    for number in range(1, count + 1):
        buffer = BytesIO()
        instance = make_instance(exchange_pair.STUDY, number, rows=rows, seed=number)
        instance.save_as(buffer, enforce_file_format=True)
        contents.append(buffer.getvalue())
    return exchange_pair.make_study(contents, batch_bytes=max(map(len, contents)))


async def event(source: SourceTransfer, muxed: MemoryMuxed) -> Event:
    """The next event at the source."""
    while not muxed.events:
        muxed.events.extend(source.receive_untrusted(await muxed.written.receive()))
    return muxed.events.popleft()


@dataclass
class Session:
    """A receiver in a session with a source in memory that the test plays."""

    study: SmallStudy
    muxed: MemoryMuxed
    source: SourceTransfer
    gathering: Gathering
    receive: Callable[[], Awaitable[None]]

    async def offer_and_send(self) -> None:
        for frame in self.source.offer_manifest(self.study.manifest, time_ms=exchange_pair.NOW):
            await self.muxed.feed.send(frame)
        assert self.source.asked_all
        for index, encoded in enumerate(self.study.encoded):
            sealed = self.source.seal_batch(index, encoded)
            header = self.source.connection.data_header(index, len(sealed))
            await self.muxed.feed.send(header + sealed)


MakeSession = Callable[..., Session]


@pytest.fixture
def make_session(tmp_path: Path, home: ImageHome, incoming: SlowDisk) -> Iterator[MakeSession]:
    """Sessions of one receiver, each with its own source and fetch of the one study.

    Takes the source's key and the facility that it belongs to.
    """
    database = Database(tmp_path / "transfers.db", (TRANSFERS_SCHEMA,))
    transfers = Transfers(database, clock=SYSTEM_CLOCK)
    receiver = Receiver(
        key=RECIPIENT,
        facility_key=b"R" * 32,
        append=home.audit_many,
        add_receipt=lambda receipt: "",
        exchanging=lambda receipt: contextlib.nullcontext(),
        announced=lambda peer, study: None,
        clock=SYSTEM_CLOCK,
    )
    shelves = Shelves(home.catalog, incoming, home.audit_many, transfers, lambda: 1 << 40)

    def make(key: KeyPair = SOURCE, facility: bytes = FACILITY.public) -> Session:
        muxed = MemoryMuxed()
        stream = PeerStream(
            muxed,
            peer=key.public,
            protocol_id="",
            abandon=lambda: None,
            linger=lambda: None,
        )
        peer = Peer(facility, "North General", CARD)
        transfer = transfers.begin_incoming(
            exchange_pair.STUDY, facility, "treatment", only_peer=True, stat=False
        )
        gathering = Gathering(shelves, transfer, several=False)
        contribution = transfers.contribution(transfer, facility)

        async def receive() -> None:
            await receiver.receive(stream, gathering, contribution, peer)

        study = study_of(BATCHES_AT_WORK + 3)
        return Session(study, muxed, SourceTransfer(key, RECIPIENT.public), gathering, receive)

    yield make
    database.close()


@pytest.fixture
def session(make_session: MakeSession) -> Session:
    return make_session()


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
    assert session.gathering.receipts == 1
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
            session.gathering.expect_several()
            await session.gathering.join(Contribution(b"B" * 32, bytes(16)), turned)
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
    member = await session.gathering.join(
        Contribution(b"B" * 32, bytes(16)), session.study.manifest
    )
    folder = tmp_path / "incoming"
    assert not session.gathering.is_missing(0)
    assert {(folder / digest.hex()).stat().st_ino, folder.stat().st_ino} <= flushed
    session.gathering.leave(member)


async def run_to_the_end(session: Session) -> None:
    """Play the source of a session whose batches are under way, to the countersignature."""
    await session.muxed.feed.send(session.source.end())
    while not isinstance(told := await event(session.source, session.muxed), Receipted):
        assert isinstance(told, Credited)
    await session.muxed.feed.send(session.source.countersign(told)[0])


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
                assert not session.gathering.transfer.bytes_done
            finally:
                incoming.may_flush.set()
            assert isinstance(await event(session.source, session.muxed), Credited)
            await run_to_the_end(session)
    assert session.gathering.receipts == 1


async def test_one_manifest_is_opened_at_a_time(
    incoming: SlowDisk, make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
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
    sessions = [make_session(), make_session(other, b"O" * 32)]
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
    incoming: SlowDisk, make_session: MakeSession
) -> None:
    many, few = make_session(), make_session(KeyPair.from_seed(bytes([33]) * 32), b"O" * 32)
    many.study = study_of(40, rows=8)
    assert len(many.study.encoded) > 5 * len(few.study.encoded)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for session in (many, few):
                nursery.start_soon(session.receive)
                assert isinstance(await event(session.source, session.muxed), Requested)
                await session.offer_and_send()
                await trio.testing.wait_all_tasks_blocked(0.05)
            # All of the first one's batches came before the second's.
            incoming.may_write.set()
            of_few = {batch.digest for batch in few.study.manifest.batches}
            while not of_few.issubset(incoming.writing):
                await few.gathering.wait_change()
            nursery.cancel_scope.cancel()
    places = [place for place, digest in enumerate(incoming.writing) if digest in of_few]
    assert len(places) == len(few.study.encoded)
    # The two at work go on, then they take turns.
    assert places[-1] <= 2 + 2 * len(few.study.encoded)


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
            return []

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
