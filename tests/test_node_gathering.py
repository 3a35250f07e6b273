"""A study from scripted sources over streams in memory, into a real node's home."""

import contextlib
import dataclasses
import json
import logging
from collections import deque
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import exchange_pair
import pytest
import trio
import trio.testing
from exchange_pair import SmallStudy
from studies_made import make_instance

from keys.peer import Peer
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.dicom.part10 import HeaderMatcher
from node.errors import ExitCode
from node.home import Home
from node.network.streams import PeerStream, StreamLost
from node.transfer import attempts
from node.transfer.attempts import Attempts, Reach
from node.transfer.gathering import Gathering, Shelves, _same_batches
from node.transfer.receiving import Receiver
from node.transfer.transfers import Transfer, TransferState
from protocol import encoding
from protocol.errors import WireCode
from protocol.manifest import Manifest
from protocol.messages import STUDY_PROTOCOL, Record
from protocol.source import SourceTransfer
from protocol.transfer import Event, Receipted, Refused, Requested, Wanted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


class Muxed:
    """One end of a stream in memory, as `PeerStream` uses libp2p's."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream

    def take(self, n: int) -> bytes:
        return b""

    async def read(self, n: int) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(n))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            data = b""
        if not data:
            raise EOFError
        return data

    async def write(self, data: memoryview) -> int:
        await self._stream.send_all(bytes(data))
        return len(data)

    async def close(self) -> None:
        await self._stream.send_eof()

    def abandon(self) -> None:
        trio.lowlevel.spawn_system_task(trio.aclose_forcefully, self._stream)


def stream_pair(first: bytes, second: bytes) -> tuple[PeerStream, PeerStream]:
    """Two ends of a stream between two node keys; each knows the other's."""
    ends = []
    for stream, peer in zip(trio.testing.memory_stream_pair(), (second, first), strict=True):
        muxed = Muxed(stream)
        ends.append(
            PeerStream(
                muxed,
                peer=peer,
                protocol_id=STUDY_PROTOCOL,
                abandon=muxed.abandon,
                linger=lambda: None,
            )
        )
    return ends[0], ends[1]


class Source:
    """A facility that serves one study as told.

    Attributes:
        lies: batches that it sends with one bit changed.
        silent_after: it sends so many batches and then nothing, until it is `gone`.
        gone: set when it is away for good.
        began: set when it sends its first batch.
        refused: the codes with which its sessions were ended.
        receipts: what was signed to it.
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
                        await self._send(end, stream, index)
                    if wanted.last:
                        await stream.write(end.end(), timeout_seconds=60)
                case Receipted() as receipted:
                    self.receipts.append(receipted)
                    await stream.write(end.countersign(receipted)[0], timeout_seconds=60)
                    return
                case Refused() as refused:
                    self.refused.append(refused.code)
                    return

    async def _send(self, end: SourceTransfer, stream: PeerStream, index: int) -> None:
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
    """A recipient's node, and sources that it fetches one study from."""

    def __init__(self, node: Node, nursery: trio.Nursery, *sources: Source) -> None:
        self.node = node
        self.sources = {source.key.public: source for source in sources}
        self.nursery = nursery
        self.announced: Record | None = None
        self.transfer = Transfer(
            b"t" * 16, "in", exchange_pair.STUDY, sources[0].peer.facility_key, "treatment"
        )
        self.gathering = Gathering(
            Shelves(
                catalog=node.catalog,
                incoming=node.incoming,
                append=node.audit.append_many,
                transfers=node.transfers,
                free_bytes=node.free_bytes,
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
        )
        self.attempts = [self._attempts(source) for source in sources]

    def _attempts(self, source: Source) -> Attempts:
        async def open_stream(node_key: bytes) -> PeerStream:
            if source.gone.is_set():
                raise StreamLost("it is gone")
            ours, theirs = stream_pair(self.node.keys.node.public, node_key)
            self.nursery.start_soon(source.serve, theirs)
            return ours

        async def wait_connected(_: bytes) -> None:
            return

        contribution = self.node.transfers.contribution(self.transfer, source.peer.facility_key)
        return Attempts(
            receiver=self.receiver,
            reach=Reach(
                find=lambda _: source.peer,
                open_stream=open_stream,
                wait_connected=wait_connected,
                is_connected=lambda _: True,
            ),
            append=self.node.audit.append_many,
            gathering=self.gathering,
            contribution=contribution,
        )

    async def run(self, number: int, *, behind: Source | None = None) -> None:
        """Fetch from one source, once the other that it comes behind is at work."""
        one = self.attempts[number]
        others = [other for other in self.attempts if other is not one]
        if behind is not None:
            await behind.began.wait()
        await one.run(lambda: any(not other.is_over for other in others), 0)

    def entries(self, kind: str) -> list[dict[str, Any]]:
        entries = [json.loads(entry) for entry in self.node.audit.entries()]
        return [entry for entry in entries if entry["type"] == kind]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "south", name="South")) as opened:
        yield opened


def _part10(number: int) -> bytes:
    buffer = BytesIO()
    make_instance(exchange_pair.STUDY, number, rows=16).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    return exchange_pair.make_study([_part10(number + 1) for number in range(40)], 3000)


@pytest.fixture(scope="module")
def packed_otherwise() -> SmallStudy:
    return exchange_pair.make_study([_part10(number + 1) for number in range(40)], 5000)


def _shuffled(study: SmallStudy) -> SmallStudy:
    """The same batches in another order: what a holder may have that got them in several goes."""
    last = len(study.encoded) - 1
    manifest = dataclasses.replace(
        study.manifest,
        batches=study.manifest.batches[::-1],
        instances=tuple(
            one._replace(first_batch=last - one.first_batch) for one in study.manifest.instances
        ),
    )
    return SmallStudy(manifest, study.encoded[::-1])


def _originals(node: Node, study: SmallStudy) -> bool:
    """Whether a node has the study, and its batches are undamaged."""
    manifest: Manifest = node.catalog.manifest(exchange_pair.STUDY)
    return manifest.content_root == study.manifest.content_root and all(
        encoding.decode_untrusted(node.store.read(batch.digest)) for batch in manifest.batches
    )


async def test_a_lying_source_is_named_and_dropped(
    node: Node, tmp_path: Path, study: SmallStudy, caplog: pytest.LogCaptureFixture
) -> None:
    liar, honest = Source(tmp_path, "Liar", study), Source(tmp_path, "Honest", study)
    liar.lies = {1}
    with caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            world = World(node, nursery, liar, honest)
            nursery.start_soon(world.run, 0)
            nursery.start_soon(partial(world.run, 1, behind=liar))
    outcome = world.attempts[0].outcome
    assert outcome is not None
    assert (outcome.state, outcome.code) == (TransferState.FAILED, ExitCode.INTEGRITY)
    assert liar.refused == [WireCode.BAD_DIGEST]
    [entry] = world.entries("receive-failed")
    assert entry["peer"] == liar.peer.facility_key.hex()
    assert "from Liar: batch 1 does not have its promised digest" in caplog.text
    assert world.attempts[1].outcome is None
    assert len(honest.receipts) == world.gathering.receipts == 1
    assert _originals(node, study)


async def test_the_only_source_is_given_up_after_three_lies(
    node: Node, tmp_path: Path, study: SmallStudy
) -> None:
    liar = Source(tmp_path, "Liar", study)
    liar.lies = {len(study.encoded) - 1}
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, liar)
        nursery.start_soon(world.run, 0)
    assert liar.refused == [WireCode.BAD_DIGEST] * 3
    # What was good is not sent again.
    assert liar.sent == len(study.encoded) + 2
    assert node.catalog.study(exchange_pair.STUDY) is None


async def test_a_fault_of_ours_ends_the_source_and_not_the_node(
    node: Node,
    tmp_path: Path,
    study: SmallStudy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise KeyError("DOE^JANE")

    monkeypatch.setattr(HeaderMatcher, "matches", stumble)
    source = Source(tmp_path, "North", study)
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, source)
        nursery.start_soon(world.run, 0)
    outcome = world.attempts[0].outcome
    assert outcome is not None
    assert (outcome.state, outcome.code) == (TransferState.FAILED, ExitCode.FAILED)
    [entry] = world.entries("receive-failed")
    assert entry["details"]["why"] == "an error of this node"
    assert "KeyError in test_node_gathering.py" in caplog.text
    assert "DOE" not in caplog.text + outcome.why
    assert node.catalog.study(exchange_pair.STUDY) is None


async def test_a_silent_source_is_not_waited_for_and_its_part_comes_from_the_other(
    node: Node, tmp_path: Path, study: SmallStudy
) -> None:
    silent = Source(tmp_path, "Silent", study)
    silent.silent_after = 1
    other = Source(tmp_path, "Other", _shuffled(study))
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, silent, other)
        with trio.fail_after(10):
            async with trio.open_nursery() as fetch:
                fetch.start_soon(world.run, 0)
                fetch.start_soon(partial(world.run, 1, behind=silent))
                while not world.gathering.receipts:
                    await world.gathering.wait_change()
                fetch.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    # Its two batches: one came, the other was late and asked of the other.
    assert (silent.sent, other.sent) == (1, len(study.encoded) - 1)
    [receipted] = other.receipts
    assert receipted.receipt.batches == other.sent
    received = {entry["peer"]: entry["details"]["batches"] for entry in world.entries("received")}
    assert received == {
        silent.peer.facility_key.hex(): 1,
        other.peer.facility_key.hex(): other.sent,
    }
    assert _originals(node, study)


@pytest.mark.parametrize("end", ["revoked", "away"])
async def test_a_source_with_other_batches_stands_in_when_the_first_is_gone(
    node: Node,
    tmp_path: Path,
    study: SmallStudy,
    packed_otherwise: SmallStudy,
    end: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "STAND_IN_SECONDS", 1.0 if end == "away" else 60.0)
    silent = Source(tmp_path, "Silent", study)
    silent.silent_after = 1
    other = Source(tmp_path, "Other", packed_otherwise)
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, silent, other)
        with trio.fail_after(20):
            async with trio.open_nursery() as fetch:
                fetch.start_soon(world.run, 0)
                fetch.start_soon(partial(world.run, 1, behind=silent))
                while not other.refused:
                    await world.gathering.wait_change(0.1)
                assert other.sent == 0
                if end == "away":
                    silent.gone.set()
                else:
                    world.attempts[0].cancel("its trust was revoked")
                while not world.gathering.receipts:
                    await world.gathering.wait_change()
                fetch.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    assert other.refused == [WireCode.NOT_NEEDED]
    assert other.sent == len(packed_otherwise.encoded)
    assert other.receipts[0].receipt.batches == other.sent
    assert _originals(node, packed_otherwise)


def test_batches_are_the_same_only_with_the_same_instances_at_the_same_places(
    study: SmallStudy, packed_otherwise: SmallStudy
) -> None:
    ours, count = study.manifest, len(study.encoded)
    everything = frozenset(range(count))
    assert _same_batches(ours, ours, everything) == {index: index for index in range(count)}
    reversed_order = {index: count - 1 - index for index in range(count)}
    assert _same_batches(ours, _shuffled(study).manifest, everything) == reversed_order
    assert _same_batches(ours, packed_otherwise.manifest, everything) is None
    # Two instances of one size have changed places: the batch cannot hold both ways.
    first, second, *rest = ours.instances
    assert (first.first_batch, first.size) == (second.first_batch, second.size)
    swapped = (
        first._replace(offset=second.offset),
        second._replace(offset=first.offset),
        *rest,
    )
    liar = dataclasses.replace(ours, instances=swapped)
    assert liar.content_root == ours.content_root
    assert _same_batches(ours, liar, everything) is None
    assert _same_batches(ours, liar, everything - {0}) is not None
    smaller = dataclasses.replace(ours, instances=ours.instances[:-1])
    assert _same_batches(ours, smaller, frozenset()) is None


def _announced(study: SmallStudy, **changes: Any) -> Record:
    counts = study.manifest.counts
    fields = {
        "sequence": 1, "kind": "available", "study": exchange_pair.STUDY,
        "content_root": study.manifest.content_root, "series": counts.series,
        "instances": counts.instances, "bytes": counts.bytes, "encoded_bytes": 1,
        "modalities": ("CT",), "study_date": "", **changes,
    }  # fmt: skip
    return Record(**fields)


async def test_a_source_that_offers_more_than_it_announced_is_given_up(
    node: Node, tmp_path: Path, study: SmallStudy
) -> None:
    source = Source(tmp_path, "North", study)
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, source)
        world.announced = _announced(study, instances=39)
        nursery.start_soon(world.run, 0)
    outcome = world.attempts[0].outcome
    assert outcome is not None
    assert (outcome.state, outcome.code) == (TransferState.FAILED, ExitCode.INTEGRITY)
    assert source.refused == [WireCode.MALFORMED] * 3
    # All batches were on their way; none was taken.
    assert node.incoming.is_empty()


async def test_a_study_that_has_grown_is_fetched_once_its_news_is_here(
    node: Node, tmp_path: Path, study: SmallStudy
) -> None:
    source = Source(tmp_path, "North", study)
    async with trio.open_nursery() as nursery:
        world = World(node, nursery, source)
        world.announced = _announced(study, content_root=bytes(32), instances=39)
        with trio.fail_after(20):
            async with trio.open_nursery() as fetch:
                fetch.start_soon(world.run, 0)
                while not source.refused:
                    await world.gathering.wait_change(0.1)
                assert node.incoming.is_empty()
                world.announced = _announced(study)
                while not world.gathering.receipts:
                    await world.gathering.wait_change()
        nursery.cancel_scope.cancel()
    # It is not blamed, and nothing was given up.
    assert source.refused[0] is WireCode.OTHER
    assert world.entries("receive-failed") == []
    assert _originals(node, study)
