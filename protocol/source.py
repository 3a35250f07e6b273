"""The source's end of a study transfer: request in, offer and sealed batches out, receipt in.

`seal_batch` is pure computation and may run in threads while the connection continues.
"""

from collections.abc import Iterator

import blake3
import nacl.utils

from keys import seal
from keys.identity import KeyPair
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.manifest import Manifest
from protocol.messages import (
    Countersignature,
    Credit,
    End,
    Offer,
    ReceiptMessage,
    Refusal,
    Request,
    Want,
)
from protocol.receipt import (
    SignedReceipt,
    check_signature,
    decode_receipt_untrusted,
    sign_receipt,
)
from protocol.states import DataReceived, Role
from protocol.transfer import (
    Credited,
    Event,
    Random,
    Receipted,
    Refused,
    Requested,
    TransferEnd,
    Wanted,
)


class SourceTransfer(TransferEnd):
    """The end that has the study.

    Args:
        key: our node key.
        recipient: the recipient's node key (32 bytes), proven by the channel.
    """

    def __init__(
        self, key: KeyPair, recipient: bytes, *, random: Random = nacl.utils.random
    ) -> None:
        super().__init__(Role.SOURCE, key, recipient, random)
        self._request_digest = b""
        self._manifest_sent = False

    def receive_untrusted(self, data: bytes | memoryview) -> list[Event]:
        """Take bytes from the recipient.

        Raises:
            RemoteProtocolError: a rule was broken.
        """
        events: list[Event] = []
        for event in self.connection.receive_untrusted(data):
            if isinstance(event, DataReceived):
                raise LocalProtocolError("the table lets no recipient send data")
            match event.message:
                case Request() as request:
                    if request.source != self._key.public:
                        raise RemoteProtocolError("the request is for another node")
                    assert event.signed is not None
                    self.request = request
                    self._request_digest = blake3.blake3(event.signed.body).digest()
                    events.append(Requested(request))
                case Want() as want:
                    events.append(Wanted(self._wanted_untrusted(want), want.last))
                case Credit():
                    events.append(Credited())
                case ReceiptMessage() as receipt:
                    events.append(self._receipt_untrusted(receipt))
                case Refusal() as refusal:
                    events.append(Refused(WireCode.from_wire(refusal.code)))
        return events

    def offer_manifest(self, manifest: Manifest, *, time_ms: int) -> Iterator[bytes]:
        """The offer, then the sealed manifest, frame by frame.

        If the recipient asked for the whole study, it is offered whole: after this, all
        batches count as wanted.

        Args:
            manifest: manifest of the requested study.
            time_ms: now, milliseconds since the epoch, UTC.
        """
        request = self.request
        if request is None:
            raise LocalProtocolError("nothing has been requested")
        wire_form = manifest.wire_form
        self.manifest = manifest
        self.offer = Offer(
            transfer=request.transfer,
            recipient=self._peer,
            request=self._request_digest,
            ephemeral=self._ephemeral.public,
            manifest=wire_form.digest,
            manifest_bytes=wire_form.size,
            content_root=manifest.content_root,
            time=time_ms,
            whole=request.whole,
            **manifest.counts._asdict(),
        )
        if request.whole:
            self.asked = set(range(len(manifest.batches)))
            self.asked_all = True
        self._agree(request, self.offer, request.ephemeral)
        sealer = self._require_sealer()
        yield self.connection.send(self.offer)
        for index, piece in enumerate(wire_form.pieces):
            sealed = sealer.seal(seal.KIND_MANIFEST, index, piece)
            # Set this before the last piece is sent: the answer may arrive before we resume.
            self._manifest_sent = index == len(wire_form.pieces) - 1
            yield self.connection.data_header(index, len(sealed)) + sealed

    def seal_batch(self, index: int, encoded: bytes) -> bytes:
        """Seal one encoded batch for this recipient and transfer."""
        return self._require_sealer().seal(seal.KIND_BATCH, index, encoded)

    def end(self) -> bytes:
        """Say that all wanted batches have been sent, including the last portion."""
        if not self.asked_all:
            raise LocalProtocolError("the recipient may still ask for more")
        return self.connection.send(End())

    def countersign(self, receipted: Receipted) -> tuple[bytes, SignedReceipt]:
        """Sign the receipt; returns the frame to send and the receipt to keep."""
        signature = sign_receipt(receipted.body, self._key)
        frame = self.connection.send(Countersignature(signature=signature))
        return frame, SignedReceipt(
            body=receipted.body,
            recipient_signature=receipted.signature,
            source_signature=signature,
        )

    def _wanted_untrusted(self, want: Want) -> tuple[int, ...]:
        if not self._manifest_sent:
            raise RemoteProtocolError(
                "batches are wanted before the manifest is there", WireCode.UNEXPECTED
            )
        if self.asked_all:
            raise RemoteProtocolError(
                "batches are wanted after the last portion", WireCode.UNEXPECTED
            )
        if not want.runs and not want.last:
            raise RemoteProtocolError("a portion that is empty and not the last")
        count = len(self._require_manifest().batches)
        if want.runs and want.runs[-1][0] + want.runs[-1][1] > count:
            raise RemoteProtocolError("a batch is wanted that the manifest does not have")
        batches = tuple(index for first, run in want.runs for index in range(first, first + run))
        if not self.asked.isdisjoint(batches):
            raise RemoteProtocolError("a batch is wanted twice")
        self.asked.update(batches)
        self.asked_all = want.last
        return batches

    def _receipt_untrusted(self, message: ReceiptMessage) -> Receipted:
        check_signature(message.body, message.signature, self._peer)
        receipt = decode_receipt_untrusted(message.body)
        request, offer, manifest = self.request, self.offer, self._require_manifest()
        if request is None or offer is None:
            raise LocalProtocolError("a receipt without an offer")
        if (
            receipt.transfer != request.transfer
            or receipt.source_node != self._key.public
            or receipt.recipient_node != self._peer
            or receipt.manifest != offer.manifest
            or receipt.content_root != offer.content_root
            or receipt.instances != len(manifest.instances)
            or receipt.bytes != manifest.total_original_bytes
            or receipt.batches != len(self.asked)
            or receipt.encoded_bytes != self.asked_encoded_bytes
            or receipt.purpose != request.purpose
        ):
            raise RemoteProtocolError("the receipt is for something else than was sent")
        return Receipted(receipt, message.body, message.signature)
