"""Both ends of a study transfer in memory, and small studies to move with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import blake3

from keys.identity import KeyPair
from protocol import batches, encoding
from protocol.manifest import BatchEntry, InstanceEntry, Manifest, SeriesEntry
from protocol.receipt import Receipt
from protocol.recipient import RecipientTransfer
from protocol.source import SourceTransfer
from protocol.transfer import (
    BatchArrived,
    Countersigned,
    Ended,
    Event,
    ManifestArrived,
    Receipted,
    Requested,
    Wanted,
)

STUDY = "1.2.826.0.1.3680043.8.498.1"
TRANSFER = bytes(range(16))
NOW = 1_790_000_000_000


@dataclass(frozen=True)
class SmallStudy:
    """A manifest and its encoded batches."""

    manifest: Manifest
    encoded: tuple[bytes, ...]


def make_study(contents: Sequence[bytes], batch_bytes: int = 1000) -> SmallStudy:
    """A study of one series whose instances hold these bytes."""
    encoded, entries = [], []
    places: dict[int, tuple[int, int]] = {}
    for number, segments in enumerate(batches.plan([len(one) for one in contents], batch_bytes)):
        original = b""
        for segment in segments:
            if segment.start == 0:
                places[segment.instance] = (number, len(original))
            content = contents[segment.instance]
            original += content[segment.start : segment.start + segment.length]
        one = encoding.encode(original)
        encoded.append(one)
        entries.append(
            BatchEntry(
                blake3.blake3(one).digest(), len(one), len(original), encoding.encoding_of(one)
            )
        )
    instances = tuple(
        InstanceEntry(
            series_index=0,
            sop_instance_uid=f"{STUDY}.1.{number + 1}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            size=len(content),
            digest=blake3.blake3(content).digest(),
            first_batch=places[number][0],
            offset=places[number][1],
            number=number + 1,
            rows=0,
            columns=0,
            frames=0,
        )
        for number, content in enumerate(contents)
    )
    manifest = Manifest(STUDY, (SeriesEntry(f"{STUDY}.1", "CT"),), instances, tuple(entries))
    return SmallStudy(manifest, tuple(encoded))


class Pair:
    """A source and a recipient; every byte goes through `to_source` and `to_recipient`."""

    def __init__(self) -> None:
        self.source_key = KeyPair.from_seed(b"s" * 32)
        self.recipient_key = KeyPair.from_seed(b"r" * 32)
        self.source = SourceTransfer(
            self.source_key, self.recipient_key.public, random=lambda n: b"\x51" * n
        )
        self.recipient = RecipientTransfer(
            self.recipient_key, self.source_key.public, TRANSFER, random=lambda n: b"\x52" * n
        )
        self.log: list[tuple[str, bytes]] = []

    def to_source(self, data: bytes, step: int = 0) -> list[Event]:
        """Deliver bytes of the recipient, `step` bytes at a time."""
        self.log.append(("recipient", data))
        events: list[Event] = []
        for start in range(0, len(data), step or len(data)):
            events += self.source.receive_untrusted(data[start : start + (step or len(data))])
        return events

    def to_recipient(self, data: bytes, step: int = 0) -> list[Event]:
        """Deliver bytes of the source, `step` bytes at a time."""
        self.log.append(("source", data))
        events: list[Event] = []
        for start in range(0, len(data), step or len(data)):
            events += self.recipient.receive_untrusted(data[start : start + (step or len(data))])
        return events

    def request(self, step: int = 0, *, whole: bool = False) -> None:
        """Bring both ends to REQUESTED."""
        asked = self.recipient.ask(STUDY, "treatment", time_ms=NOW, whole=whole)
        [event] = self.to_source(asked, step)
        assert isinstance(event, Requested)

    def offer(self, study: SmallStudy, step: int = 0) -> None:
        """Bring both ends to OFFERED, the manifest opened."""
        events: list[Event] = []
        for frame in self.source.offer_manifest(study.manifest, time_ms=NOW):
            events += self.to_recipient(frame, step)
        assert isinstance(events[-1], ManifestArrived)
        self.recipient.open_manifest()

    def want(
        self, batches_wanted: Sequence[int], step: int = 0, *, last: bool = True
    ) -> tuple[int, ...]:
        """Bring both ends to SENDING; what the source understood."""
        [event] = self.to_source(self.recipient.want(batches_wanted, last=last), step)
        assert isinstance(event, Wanted)
        assert event.last is last
        return event.batches

    def send(self, study: SmallStudy, wanted: Sequence[int], step: int = 0) -> list[bytes]:
        """Send the wanted batches and the end; what the recipient opened."""
        opened = self.send_batches(study, wanted, step)
        [event] = self.to_recipient(self.source.end(), step)
        assert isinstance(event, Ended)
        return opened

    def send_batches(self, study: SmallStudy, wanted: Sequence[int], step: int = 0) -> list[bytes]:
        """Send wanted batches; what the recipient opened."""
        opened = []
        for index in wanted:
            [event] = self.to_recipient(self.batch_frame(index, study.encoded[index]), step)
            assert isinstance(event, BatchArrived)
            opened.append(self.recipient.open_batch(event))
            self.to_source(self.recipient.credit(len(event.sealed)), step)
        return opened

    def batch_frame(self, index: int, encoded: bytes) -> bytes:
        """A whole data frame of the source."""
        sealed = self.source.seal_batch(index, encoded)
        return self.source.connection.data_header(index, len(sealed)) + sealed

    def receipt(self, study: SmallStudy, **changes: object) -> Receipt:
        """The right receipt, with changes."""
        offer = self.recipient.offer
        assert offer is not None
        fields: dict[str, object] = {
            "transfer": TRANSFER,
            "source_facility": b"S" * 32,
            "recipient_facility": b"R" * 32,
            "source_node": self.source_key.public,
            "recipient_node": self.recipient_key.public,
            "manifest": offer.manifest,
            "content_root": study.manifest.content_root,
            "instances": len(study.manifest.instances),
            "bytes": study.manifest.total_original_bytes,
            "batches": len(self.recipient.asked),
            "encoded_bytes": self.recipient.asked_encoded_bytes,
            "purpose": "treatment",
            "time": NOW,
            "status": "received",
        }
        return Receipt(**{**fields, **changes})  # type: ignore[arg-type]

    def finish(self, study: SmallStudy, step: int = 0) -> tuple[Receipted, Countersigned]:
        """Exchange receipts."""
        [receipted] = self.to_source(self.recipient.sign_receipt(self.receipt(study)), step)
        assert isinstance(receipted, Receipted)
        frame, _ = self.source.countersign(receipted)
        [countersigned] = self.to_recipient(frame, step)
        assert isinstance(countersigned, Countersigned)
        return receipted, countersigned
