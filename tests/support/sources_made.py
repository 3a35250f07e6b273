"""Scripted sources over streams in memory, and a node that fetches one study from them."""

import contextlib
import json
from collections import deque
from pathlib import Path
from typing import Any

import exchange_pair
import trio
from exchange_pair import SmallStudy
from streams_made import stream_pair

from keys.peer import Peer
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.home import Home
from node.network.streams import PeerStream, StreamLost
from node.transfer.receiving import Receiver
from node.transfer.source_worker import Reach, SourceWorker
from node.transfer.study_download import Destination, StudyDownload
from node.transfer.transfers import Transfer
from protocol.errors import WireCode
from protocol.messages import Record
from protocol.source import SourceTransfer
from protocol.transfer import Event, Receipted, Refused, Requested, Wanted


class Source:
    """A facility that serves one study as scripted.

    Attributes:
        lies: batches that it sends with one bit changed.
        silent_after: it sends this many batches and then nothing, until it is `gone`.
        gone: set when it is away for good.
        began: set when it sends its first batch.
        refused: the codes with which its sessions were ended.
        receipts: receipts that it got.
    """

    def __init__(self, directory: Path, name: str, study: SmallStudy) -> None:
        home = Home.create(directory / name.lower(), name=name)
        self.key = home.read_keys().node
        self.study = study
        self.peer = Peer(home.read_card().facility_key, name, home.read_card())
        self.lies: set[int] = set()
        self.silent_after: int | None = None
        self.gone = trio.Event()
        self.began = trio.Event()
        self.sent = 0
        self.refused: list[WireCode] = []
        self.receipts: list[Receipted] = []

    async def serve(self, stream: PeerStream) -> None:
        with contextlib.suppress(StreamLost):
            await self._serve(stream)
            await stream.close()

    async def _serve(self, stream: PeerStream) -> None:
        end = SourceTransfer(self.key, stream.peer)
        events: deque[Event] = deque()
        while True:
            while not events:
                events.extend(end.receive_untrusted(await stream.read(timeout_seconds=60)))
            match events.popleft():
                case Requested():
                    for frame in end.offer_manifest(
                        self.study.manifest, time_ms=SYSTEM_CLOCK.now_ms()
                    ):
                        await stream.write(frame, timeout_seconds=60)
                    if end.asked_all:
                        events.append(Wanted(tuple(sorted(end.asked)), True))
                case Wanted() as wanted:
                    for index in wanted.batches:
                        await self.send(end, stream, index)
                    if wanted.last:
                        await stream.write(end.end(), timeout_seconds=60)
                case Receipted() as receipted:
                    self.receipts.append(receipted)
                    await stream.write(end.countersign(receipted)[0], timeout_seconds=60)
                    return
                case Refused() as refused:
                    self.refused.append(refused.code)
                    return

    async def send(self, end: SourceTransfer, stream: PeerStream, index: int) -> None:
        """Send one batch, or stay silent."""
        if self.sent == self.silent_after:
            await self.gone.wait()
            await stream.reset()
        self.sent += 1
        self.began.set()
        encoded = bytearray(self.study.encoded[index])
        encoded[-1] ^= index in self.lies
        sealed = end.seal_batch(index, bytes(encoded))
        header = end.connection.data_header(index, len(sealed))
        await stream.write(header + sealed, timeout_seconds=60)


class World:
    """A recipient's node, and the sources from which it fetches one study."""

    def __init__(self, node: Node, nursery: trio.Nursery, *sources: Source) -> None:
        self.node = node
        self.sources = {source.key.public: source for source in sources}
        self.nursery = nursery
        self.announced: Record | None = None
        self.transfer = Transfer(
            b"t" * 16, "in", exchange_pair.STUDY, sources[0].peer.facility_key, "treatment"
        )
        self.download = StudyDownload(
            Destination(
                catalog=node.catalog,
                incoming=node.incoming,
                append=node.audit.append_many,
                transfers=node.transfers,
                free_bytes=node.free_bytes,
                require_room=lambda: None,
            ),
            self.transfer,
            several=len(sources) > 1,
        )
        self.receiver = Receiver(
            key=node.keys.node,
            facility_key=node.card.facility_key,
            append=node.audit.append_many,
            add_receipt=node.audit.add_receipt,
            exchanging=lambda receipt: contextlib.nullcontext(),
            announced=lambda peer, study: self.announced,
            clock=SYSTEM_CLOCK,
            emergencies=node.emergencies,
        )
        self.attempts = [self._attempts(source) for source in sources]

    def _attempts(self, source: Source) -> SourceWorker:
        async def open_stream(node_key: bytes) -> PeerStream:
            if source.gone.is_set():
                raise StreamLost("it is gone")
            ours, theirs = stream_pair(self.node.keys.node.public, node_key)
            self.nursery.start_soon(source.serve, theirs)
            return ours

        async def wait_connected(_: bytes) -> None:
            return

        contribution = self.node.transfers.contribution(self.transfer, source.peer.facility_key)
        return SourceWorker(
            receiver=self.receiver,
            reach=Reach(
                find=lambda _: source.peer,
                open_stream=open_stream,
                wait_connected=wait_connected,
                is_connected=lambda _: True,
            ),
            append=self.node.audit.append_many,
            download=self.download,
            contribution=contribution,
        )

    async def run(self, number: int, *, behind: Source | None = None) -> None:
        """Fetch from one source; with `behind`, only after that other source has begun."""
        one = self.attempts[number]
        others = [other for other in self.attempts if other is not one]
        if behind is not None:
            await behind.began.wait()
        await one.run(lambda: any(not other.is_over for other in others), 0)

    def entries(self, kind: str) -> list[dict[str, Any]]:
        entries = [json.loads(entry) for entry in self.node.audit.entries()]
        return [entry for entry in entries if entry["type"] == kind]
