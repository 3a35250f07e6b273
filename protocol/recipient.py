"""The recipient's end of a study transfer: request out, offer and sealed batches in, receipt out.

Invariants: only data that the signed offer announced is accepted; every batch has the
digest and size in the manifest, whose digest the source signed; a batch that was not
wanted, is out of order or comes twice ends the transfer. `open_manifest` and `open_batch`
are pure computation and may run in threads while the connection continues.
"""

from collections import deque
from collections.abc import Iterable

import blake3
import nacl.utils

import keys.errors
from keys import seal
from keys.identity import KeyPair
from protocol import encoding, limits, messages
from protocol.errors import DigestMismatch, LocalProtocolError, RemoteProtocolError, WireCode
from protocol.manifest import Counts, Manifest
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
from protocol.receipt import Receipt, SignedReceipt, check_signature, sign_receipt
from protocol.states import DataReceived, Role
from protocol.transfer import (
    BatchArrived,
    Countersigned,
    Ended,
    Event,
    ManifestArrived,
    Offered,
    Random,
    Refused,
    TransferEnd,
)


def batch_runs(indices: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Group indices, given in any order, into ascending runs (first, count)."""
    runs: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if runs and runs[-1][0] + runs[-1][1] == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return tuple(runs)


class RecipientTransfer(TransferEnd):
    """The end that requests the study.

    Args:
        key: our node key.
        source: the source's node key (32 bytes), proven by the channel.
        transfer: the transfer's id, 16 random bytes; a resumed transfer keeps it.
    """

    def __init__(
        self,
        key: KeyPair,
        source: bytes,
        transfer: bytes,
        *,
        random: Random = nacl.utils.random,
    ) -> None:
        super().__init__(Role.RECIPIENT, key, source, random)
        self._transfer = transfer
        self._request_digest = b""
        self._pieces: list[memoryview] = []
        self._pieces_bytes = 0
        self._still_wanted: deque[int] = deque()
        self._arrived = 0
        self._has_ended = False
        self._stored_bytes = 0
        self._receipt_body = b""
        self._receipt_signature = b""

    def ask(
        self,
        study: str,
        purpose: str,
        *,
        time_ms: int,
        stat: bool = False,
        whole: bool = False,
        person: str = "",
        role: str = "",
        reason: str = "",
    ) -> bytes:
        """The signed request for one study.

        Args:
            study: Study Instance UID.
            purpose: the purpose of the request.
            time_ms: now, milliseconds since the epoch, UTC.
            stat: whether the request is urgent.
            whole: whether all batches may come without `want`, because we hold none. The
                offer says whether they will.
            person: the name of the person who asks; "" for nobody.
            role: that person's role.
            reason: why, in that person's words.
        """
        self.request = Request(
            transfer=self._transfer,
            source=self._peer,
            study=study,
            purpose=purpose,
            ephemeral=self._ephemeral.public,
            time=time_ms,
            stat=stat,
            whole=whole,
            person=person or None,
            role=role or None,
            reason=reason or None,
        )
        self._request_digest = blake3.blake3(messages.encode(self.request)).digest()
        return self.connection.send(self.request)

    def receive_untrusted(self, data: bytes | memoryview) -> list[Event]:
        """Take bytes from the source.

        Raises:
            RemoteProtocolError: a rule was broken.
        """
        events: list[Event] = []
        for event in self.connection.receive_untrusted(data):
            if isinstance(event, DataReceived):
                if event.is_piece:
                    events += self._piece_untrusted(event)
                else:
                    events.append(self._batch_untrusted(event))
                continue
            match event.message:
                case Offer() as offer:
                    self._offer_untrusted(offer)
                    events.append(Offered(offer))
                case End():
                    if self._still_wanted or not self.asked_all:
                        raise RemoteProtocolError("the source ended before all wanted batches")
                    self._has_ended = True
                    self._check_whole_untrusted()
                    events.append(Ended())
                case Countersignature() as message:
                    check_signature(self._receipt_body, message.signature, self._peer)
                    events.append(
                        Countersigned(
                            SignedReceipt(
                                body=self._receipt_body,
                                recipient_signature=self._receipt_signature,
                                source_signature=message.signature,
                            )
                        )
                    )
                case Refusal() as refusal:
                    events.append(Refused(WireCode.from_wire(refusal.code)))
        return events

    def open_manifest(self) -> Manifest:
        """Open, decode and check the manifest against the signed offer.

        Raises:
            RemoteProtocolError: the manifest is not the offered one.
        """
        offer, request, sealer = self.offer, self.request, self._require_sealer()
        assert offer is not None
        assert request is not None
        pieces = []
        for index, piece in enumerate(self._pieces):
            opened = _open(sealer, seal.KIND_MANIFEST, index, piece)
            pieces.append(encoding.decode_untrusted(opened))
        self._pieces.clear()
        whole = b"".join(pieces)
        del pieces
        if len(whole) != offer.manifest_bytes:
            raise RemoteProtocolError("the manifest is not of the offered size")
        if blake3.blake3(whole).digest() != offer.manifest:
            raise DigestMismatch("the manifest is not the offered one")
        manifest = Manifest.decode_untrusted(whole, _counts(offer))
        if manifest.study_instance_uid != request.study:
            raise RemoteProtocolError("the manifest is of another study")
        if manifest.content_root != offer.content_root:
            raise DigestMismatch("the manifest does not have the offered content root")
        if offer.whole:
            self.asked = set(range(len(manifest.batches)))
        self.manifest = manifest
        self._check_whole_untrusted()
        return manifest

    def want(self, batches: Iterable[int], *, last: bool) -> bytes:
        """Ask for a portion of the batches that we lack.

        Args:
            batches: at most `limits.WANT_RUNS` indices into the manifest, none of them asked
                for before.
            last: whether this is the last portion.

        Raises:
            LocalProtocolError: there are too many, a batch was asked for before, or the
                last portion has been sent.
        """
        portion = sorted(batches)
        if self.asked_all or len(portion) > limits.WANT_RUNS:
            raise LocalProtocolError("a portion after the last one, or too large")
        if not self.asked.isdisjoint(portion) or len(set(portion)) != len(portion):
            raise LocalProtocolError("a batch is asked for once in a session")
        self._still_wanted.extend(portion)
        self.asked.update(portion)
        self.asked_all = last
        return self.connection.send(Want(runs=batch_runs(portion), last=last))

    def open_batch(self, batch: BatchArrived) -> bytes:
        """Open one batch and check its size and digest; returns the encoded bytes.

        Raises:
            RemoteProtocolError: it is not the batch in the manifest.
        """
        entry = self._require_manifest().batches[batch.index]
        encoded = _open(self._require_sealer(), seal.KIND_BATCH, batch.index, batch.sealed)
        if len(encoded) != entry.encoded_size:
            raise RemoteProtocolError(f"batch {batch.index} is not of its promised size")
        if blake3.blake3(encoded).digest() != entry.digest:
            raise DigestMismatch(f"batch {batch.index} does not have its promised digest")
        return encoded

    def credit(self, sealed_bytes: int) -> bytes:
        """Tell the source that `sealed_bytes` more have been stored."""
        self._stored_bytes += sealed_bytes
        return self.connection.send(Credit(bytes=self._stored_bytes))

    def sign_receipt(self, receipt: Receipt) -> bytes:
        """Sign our receipt; call this only when everything is verified and durable."""
        self._receipt_body = receipt.encode()
        self._receipt_signature = sign_receipt(self._receipt_body, self._key)
        return self.connection.send(
            ReceiptMessage(body=self._receipt_body, signature=self._receipt_signature)
        )

    def _offer_untrusted(self, offer: Offer) -> None:
        request = self.request
        if request is None:
            raise LocalProtocolError("an offer before a request")
        if (
            offer.transfer != request.transfer
            or offer.recipient != self._key.public
            or offer.request != self._request_digest
        ):
            raise RemoteProtocolError("the offer answers another request")
        if offer.whole:
            if not request.whole:
                raise RemoteProtocolError("the whole study is offered and was not asked for")
            self.asked_all = True
        counts = _counts(offer)
        counts.check_untrusted()
        if offer.manifest_bytes > counts.manifest_bytes:
            raise RemoteProtocolError(
                "the manifest is larger than its rows can be", WireCode.TOO_LARGE
            )
        self.offer = offer
        self._agree(request, offer, offer.ephemeral)

    def _piece_untrusted(self, event: DataReceived) -> list[Event]:
        offer = self.offer
        assert offer is not None
        expected = -(-offer.manifest_bytes // limits.BATCH_BYTES)
        if event.index != len(self._pieces) or event.index >= expected:
            raise RemoteProtocolError("a manifest piece out of order", WireCode.UNEXPECTED)
        self._pieces.append(event.sealed)
        self._pieces_bytes += len(event.sealed)
        return [ManifestArrived()] if len(self._pieces) == expected else []

    def _batch_untrusted(self, event: DataReceived) -> BatchArrived:
        assert self.offer is not None
        if self.offer.whole:
            if event.index != self._arrived:
                raise RemoteProtocolError("a batch out of order", WireCode.UNEXPECTED)
            self._arrived += 1
            self._check_whole_untrusted()
            return BatchArrived(event.index, event.sealed)
        if not self._still_wanted or self._still_wanted.popleft() != event.index:
            raise RemoteProtocolError(
                "a batch that was not wanted, or out of order", WireCode.UNEXPECTED
            )
        return BatchArrived(event.index, event.sealed)

    def _check_whole_untrusted(self) -> None:
        """For a study offered whole, compare the number of arrived batches with the manifest.

        One thread reads the batches, another the manifest. Each notes its own part before
        it looks at the other's, so that at least one of them sees both.
        """
        offer, manifest = self.offer, self.manifest
        if offer is None or not offer.whole or manifest is None:
            return
        count = len(manifest.batches)
        if self._arrived > count or (self._has_ended and self._arrived < count):
            raise RemoteProtocolError("not as many batches came as the manifest has")


def _counts(offer: Offer) -> Counts:
    return Counts(offer.series, offer.instances, offer.batches, offer.bytes)


def _open(sealer: seal.Sealer, kind: int, index: int, sealed: memoryview) -> bytes:
    try:
        return sealer.open(kind, index, sealed)
    except keys.errors.KeysError:
        raise RemoteProtocolError(
            "sealed data cannot be opened: altered, or for another transfer", WireCode.BAD_DIGEST
        ) from None
