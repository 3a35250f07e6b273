"""A source when the power goes off, or the disk fails, at each call of a disclosure.

What must hold afterwards: whoever got a byte of it is in the log, and a receipt that was
countersigned is there, with its entry.
"""

import contextlib
import errno
import itertools
import json
import shutil
from io import BytesIO
from pathlib import Path

import exchange_pair
import pytest
import trio
from facility_in_memory import sender_of
from faulty_disk import FaultyDisk
from streams_made import stream_pair
from studies_made import make_instance

from keys.identity import KeyPair
from node.app import Node
from node.catalog.catalog import LOCAL
from node.clock import SYSTEM_CLOCK
from node.dicom.studies import read_header
from node.errors import NodeError
from node.home import Home
from node.network.streams import PeerStream, StreamLost
from protocol import encoding
from protocol.receipt import Receipt
from protocol.recipient import RecipientTransfer
from protocol.transfer import BatchArrived, Countersigned, Ended, Event, ManifestArrived, Offered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Recipient:
    """Asks for the study, takes it, signs the receipt; remembers what it was told."""

    def __init__(self, directory: Path) -> None:
        self.home = Home.create(directory / "south", name="South")
        self.key: KeyPair = self.home.read_keys().node
        self.told: list[Event] = []

    async def fetch(self, stream: PeerStream, source: bytes) -> None:
        end = RecipientTransfer(self.key, stream.peer, exchange_pair.TRANSFER)
        now = SYSTEM_CLOCK.now_ms()
        asked = end.ask(exchange_pair.STUDY, "treatment", time_ms=now, whole=True)
        with contextlib.suppress(StreamLost):
            await stream.write(asked, timeout_seconds=20)
            while not any(isinstance(event, Countersigned) for event in self.told):
                for event in end.receive_untrusted(await stream.read(timeout_seconds=20)):
                    self.told.append(event)
                    if isinstance(event, ManifestArrived):
                        end.open_manifest()
                    elif isinstance(event, BatchArrived):
                        end.open_batch(event)
                    elif isinstance(event, Ended):
                        receipt = end.sign_receipt(self._receipt(end, source, stream.peer))
                        await stream.write(receipt, timeout_seconds=20)

    def _receipt(self, end: RecipientTransfer, source: bytes, node: bytes) -> Receipt:
        assert end.offer is not None
        assert end.manifest is not None
        return Receipt(
            transfer=exchange_pair.TRANSFER,
            source_facility=source,
            recipient_facility=self.home.read_card().facility_key,
            source_node=node,
            recipient_node=self.key.public,
            manifest=end.offer.manifest,
            content_root=end.manifest.content_root,
            instances=len(end.manifest.instances),
            bytes=end.manifest.total_original_bytes,
            batches=len(end.asked),
            encoded_bytes=end.asked_encoded_bytes,
            purpose="treatment",
            time=SYSTEM_CLOCK.now_ms(),
            status="received",
        )


@pytest.fixture(scope="module")
def recipient(tmp_path_factory: pytest.TempPathFactory) -> Recipient:
    return Recipient(tmp_path_factory.mktemp("recipient"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, recipient: Recipient) -> Path:
    """A home with one shared study that the recipient may fetch."""
    contents = []
    for number in (1, 2):
        buffer = BytesIO()
        instance = make_instance(exchange_pair.STUDY, number, rows=8)
        instance.save_as(buffer, enforce_file_format=True)
        contents.append(buffer.getvalue())
    study = exchange_pair.make_study(contents, batch_bytes=len(contents[0]))
    home = Home.create(tmp_path_factory.mktemp("source") / "north", name="North")
    card = recipient.home.read_card()
    with Node.open(home) as node:
        node.store.put_many(study.encoded)
        header = read_header(encoding.decode_untrusted(study.encoded[0]))
        node.catalog.publish(study.manifest, {0: header}, origin=LOCAL, shared=True)
        node.peers.add(
            card.encoded,
            confirmed=card.fingerprint,
            grants=("see", "fetch"),
            petname="",
            now=SYSTEM_CLOCK.now(),
        )
    return home.path


def disclose(path: Path, recipient: Recipient) -> None:
    """One session, with a home as it is; how it ends is for others to look at."""

    async def run() -> None:
        ours, theirs = stream_pair(node.keys.node.public, recipient.key.public)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.serve, ours)
            with trio.fail_after(20):
                await recipient.fetch(theirs, node.card.facility_key)
            nursery.cancel_scope.cancel()

    with contextlib.closing(Node.open(Home(path))) as node:
        sender = sender_of(node)
        try:
            trio.run(run)
        except BaseExceptionGroup as group:
            _, others = group.split(NodeError)
            if others is not None:
                raise others from None


def require_told_is_kept(left: Path, told: list[Event], what: str) -> None:
    with contextlib.closing(Node.open(Home(left))) as node:
        entries = [json.loads(entry) for entry in node.audit.entries()]
        types = [entry["type"] for entry in entries]
        if any(isinstance(event, Offered) for event in told):
            assert {"requested", "disclosure-begun"} <= set(types), f"{what}: {types}"
        if any(isinstance(event, Countersigned) for event in told):
            assert {"disclosed", "receipt"} <= set(types), f"{what}: {types}"
        for entry in entries:
            if entry["type"] == "receipt":
                kept = node.audit.evidence.receipt(entry["details"]["receipt"])
                assert kept is not None, f"{what}: a receipt of the log is lost"


@pytest.mark.parametrize("error", [0, errno.EIO])
def test_what_a_recipient_was_told_is_in_the_log_whenever_the_power_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path, recipient: Recipient, error: int
) -> None:
    for at in itertools.count():
        home = tmp_path / f"run-{at}"
        shutil.copytree(source, home)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(home, patch)
            disk.fail(at, error)
            recipient.told = []
            with contextlib.suppress(NodeError):
                disclose(home, recipient)
            reached = disk.calls > at
            for kind, left in disk.survivors(tmp_path / "left", seed=at):
                require_told_is_kept(left, recipient.told, f"fault at call {at}, {kind}")
        shutil.rmtree(home)
        if not reached:
            assert isinstance(recipient.told[0], Offered)
            assert isinstance(recipient.told[-1], Countersigned)
            assert at > 10
            return
