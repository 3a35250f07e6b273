"""One receiving session against a source in memory: what is kept when it breaks off."""

import contextlib
import threading
from collections.abc import Iterator
from io import BytesIO
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
from node.database import Database
from node.gathering import Gathering, Shelves
from node.incoming import Incoming
from node.network import PeerStream, StreamLost
from node.receiving import BATCHES_AT_WORK, Receiver
from node.transfers import TRANSFERS_SCHEMA, Transfers
from protocol.source import SourceTransfer
from protocol.transfer import Event, Requested

SOURCE, RECIPIENT = (KeyPair.from_seed(bytes([n]) * 32) for n in (31, 32))


class MemoryMuxed:
    """A stream of a muxer whose other end is the test."""

    def __init__(self) -> None:
        self.feed, self._arriving = trio.open_memory_channel[bytes](1000)
        self._leaving, self.written = trio.open_memory_channel[bytes](1000)

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
    """An `Incoming` that writes nothing until `may_write` is set."""

    may_write: threading.Event

    def write(self, digest: bytes, encoded: bytes) -> None:
        self.may_write.wait()
        super().write(digest, encoded)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ImageHome]:
    one = ImageHome(tmp_path / "home")
    yield one
    one.close()


@pytest.fixture
def incoming(tmp_path: Path, home: ImageHome) -> SlowDisk:
    (tmp_path / "incoming").mkdir()
    one = SlowDisk(tmp_path / "incoming", home.store)
    one.may_write = threading.Event()
    return one


def study_of(count: int) -> SmallStudy:
    """A study of so many instances, each in a batch of its own."""
    contents = []
    for number in range(1, count + 1):
        buffer = BytesIO()
        instance = make_instance(exchange_pair.STUDY, number, rows=32, seed=number)
        instance.save_as(buffer, enforce_file_format=True)
        contents.append(buffer.getvalue())
    return exchange_pair.make_study(contents, batch_bytes=len(contents[0]))


async def event(source: SourceTransfer, muxed: MemoryMuxed) -> Event:
    """The next event at the source."""
    while True:
        events = source.receive_untrusted(await muxed.written.receive())
        if events:
            return events[0]


async def test_batches_that_wait_for_the_disk_when_the_connection_ends_are_kept(
    tmp_path: Path, home: ImageHome, incoming: SlowDisk
) -> None:
    database = Database(tmp_path / "transfers.db", (TRANSFERS_SCHEMA,))
    transfers = Transfers(database)
    study = study_of(BATCHES_AT_WORK + 3)
    muxed = MemoryMuxed()
    stream = PeerStream(
        muxed,
        peer=SOURCE.public,
        protocol_id="",
        abandon=lambda: None,
        linger=lambda: None,
    )
    receiver = Receiver(
        key=RECIPIENT,
        facility_key=b"R" * 32,
        append=home.audit_many,
        add_receipt=lambda receipt: "",
        exchanging=lambda receipt: contextlib.nullcontext(),
    )
    shelves = Shelves(home.catalog, incoming, home.audit_many, transfers, lambda: 1 << 40)
    peer = Peer(FACILITY.public, "North General", CARD)
    transfer = transfers.begin_incoming(
        exchange_pair.STUDY, peer.facility_key, "treatment", only_peer=True, stat=False
    )
    gathering = Gathering(shelves, transfer, several=False)
    contribution = transfers.contribution(transfer, peer.facility_key)
    lost: list[StreamLost] = []

    async def receive() -> None:
        try:
            await receiver.receive(stream, gathering, contribution, peer)
        except StreamLost as error:
            lost.append(error)

    source = SourceTransfer(SOURCE, RECIPIENT.public)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        assert isinstance(await event(source, muxed), Requested)
        for frame in source.offer_manifest(study.manifest, time_ms=exchange_pair.NOW):
            await muxed.feed.send(frame)
        assert source.asked_all
        for index, encoded in enumerate(study.encoded):
            sealed = source.seal_batch(index, encoded)
            await muxed.feed.send(source.connection.data_header(index, len(sealed)) + sealed)
        muxed.feed.close()
        await trio.testing.wait_all_tasks_blocked()
        incoming.may_write.set()
    database.close()
    assert lost
    assert all(incoming.has(batch.digest) for batch in study.manifest.batches)
