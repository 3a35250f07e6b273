"""A receiver in sessions with sources in memory, whose part the test plays."""

import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import cast

import exchange_pair
import trio
from exchange_pair import SmallStudy
from logs_made import CARD, FACILITY
from node_home import ImageHome
from studies_made import make_instance

from keys.identity import KeyPair
from keys.peer import Peer
from node.clock import SYSTEM_CLOCK
from node.database import Database
from node.images.store import BatchStore
from node.network.network import PeerStream
from node.sharing.emergencies import Emergencies
from node.transfer.incoming import Incoming
from node.transfer.receiving import BATCHES_AT_WORK, Receiver
from node.transfer.study_download import Destination, StudyDownload
from node.transfer.transfers import TRANSFERS_SCHEMA, Transfers
from protocol.messages import Record
from protocol.receipt import Receipt
from protocol.source import SourceTransfer
from protocol.transfer import Credited, Event, Receipted, Requested

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
    """An `Incoming` that writes nothing until `may_write` is set; flushes can be held back too.

    Attributes:
        writing: batches whose write has begun.
        flushing: set when a flush has begun.
    """

    def __init__(self, root: Path, store: BatchStore) -> None:
        super().__init__(root, store)
        self.may_write, self.may_flush, self.flushing = (threading.Event() for _ in range(3))
        self.may_flush.set()
        self.writing: list[bytes] = []

    def write(self, digest: bytes, encoded: bytes) -> None:
        self.writing.append(digest)
        self.may_write.wait()
        super().write(digest, encoded)

    def flush(self, digest: bytes) -> None:
        self.flushing.set()
        self.may_flush.wait()
        super().flush(digest)


def study_of(count: int, rows: int = 32) -> SmallStudy:
    """A study of this many instances, each in its own batch."""
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
    download: StudyDownload
    receive: Callable[[], Awaitable[None]]

    async def requested(self) -> Requested:
        """The receiver's first request."""
        told = await event(self.source, self.muxed)
        assert isinstance(told, Requested)
        return told

    async def offer(self) -> None:
        for frame in self.source.offer_manifest(self.study.manifest, time_ms=exchange_pair.NOW):
            await self.muxed.feed.send(frame)

    async def send(self, index: int) -> int:
        """Send a batch; its bytes on the wire."""
        sealed = self.source.seal_batch(index, self.study.encoded[index])
        header = self.source.connection.data_header(index, len(sealed))
        await self.muxed.feed.send(header + sealed)
        return len(sealed)

    async def offer_and_send(self) -> None:
        await self.offer()
        assert self.source.asked_all
        for index in range(len(self.study.encoded)):
            await self.send(index)


class Recipient:
    """A receiver and the places where it stores received data.

    Attributes:
        announced: what every source announced about the study.
        free: free bytes of the disk, as reported to the receiver.
        kept: signed receipts.
        exchanging: receipts whose exchange is in progress.
    """

    def __init__(self, directory: Path) -> None:
        self.home = ImageHome(directory / "home")
        self.incoming = SlowDisk(directory / "incoming", self.home.store)
        self.announced: Record | None = None
        self.free = 1 << 40
        self.kept: list[bytes] = []
        self.exchanging: list[Receipt] = []
        self._database = Database(directory / "transfers.db", (TRANSFERS_SCHEMA,))
        self.transfers = Transfers(self._database, clock=SYSTEM_CLOCK)
        self.receiver = Receiver(
            key=RECIPIENT,
            facility_key=b"R" * 32,
            append=self.home.audit_many,
            add_receipt=self._add_receipt,
            exchanging=self._exchange,
            announced=lambda peer, study: self.announced,
            clock=SYSTEM_CLOCK,
            # Nothing here asks in an emergency.
            emergencies=cast(Emergencies, None),
        )

    def session(
        self,
        key: KeyPair = SOURCE,
        facility: bytes = FACILITY.public,
        *,
        own: KeyPair = RECIPIENT,
        several: bool = False,
        stat: bool = False,
    ) -> Session:
        """A session, in its own fetch, with the source that has this key.

        `own` is our key, as the source expects it.
        """
        destination = Destination(
            self.home.catalog,
            self.incoming,
            self.home.audit_many,
            self.transfers,
            lambda: self.free,
            lambda: None,
        )
        muxed = MemoryMuxed()
        stream = PeerStream(
            muxed, peer=key.public, protocol_id="", abandon=lambda: None, linger=lambda: None
        )
        peer = Peer(facility, "North General", CARD)
        transfer = self.transfers.begin_incoming(
            exchange_pair.STUDY, facility, "treatment", only_peer=True, stat=stat
        )
        download = StudyDownload(destination, transfer, several=several)
        contribution = self.transfers.contribution(transfer, facility)

        async def receive() -> None:
            await self.receiver.receive(stream, download, contribution, peer)

        study = study_of(BATCHES_AT_WORK + 3)
        return Session(study, muxed, SourceTransfer(key, own.public), download, receive)

    def close(self) -> None:
        self._database.close()
        self.home.close()

    def _add_receipt(self, receipt: bytes) -> str:
        self.kept.append(receipt)
        return f"receipt {len(self.kept)}"

    @asynccontextmanager
    async def _exchange(self, receipt: Receipt) -> AsyncIterator[None]:
        self.exchanging.append(receipt)
        try:
            yield
        finally:
            self.exchanging.remove(receipt)


@contextmanager
def opened_recipient(directory: Path) -> Iterator[Recipient]:
    """A recipient in an empty directory."""
    recipient = Recipient(directory)
    try:
        yield recipient
    finally:
        recipient.close()


async def run_to_the_end(session: Session) -> None:
    """Play the source of a session whose batches were sent, up to the countersignature."""
    await session.muxed.feed.send(session.source.end())
    while not isinstance(told := await event(session.source, session.muxed), Receipted):
        assert isinstance(told, Credited)
    await session.muxed.feed.send(session.source.countersign(told)[0])
