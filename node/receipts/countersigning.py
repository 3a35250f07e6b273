"""The source's part after a transfer: checks a receipt and countersigns it.

A receipt is checked against our own log (`protocol/late_receipts.py`). The entries
`receipt` and, if the log lacks it, `disclosed` are durable before the countersignature
is given. A receipt that the log names already is signed again without a second entry.
A session that is about to log a receipt itself claims it first (`take_receipt`).
"""

import hashlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from keys.identity import KeyPair
from keys.trust import Peer
from node.audit.log import AuditLog
from node.blocking import in_thread
from node.errors import NodeError
from node.receipts.pending import PendingReceipts
from node.sharing.refusals import Refusals
from protocol.errors import RemoteProtocolError, WireCode
from protocol.late_receipts import check_late_untrusted, details_of, is_confirmed
from protocol.log.entry import Entry, Event
from protocol.receipt import (
    Receipt,
    SignedReceipt,
    check_signature,
    decode_receipt_untrusted,
    decode_signed_untrusted,
    sign_receipt,
)

_CLAIMS = 4096
"""Most claims that are remembered; a session needs its claim for some milliseconds."""


def require_on_card_untrusted(peer: Peer, node_key: bytes, time_ms: int) -> None:
    """Check that a peer's card lists the node key that signed at a time (milliseconds, UTC).

    Raises:
        RemoteProtocolError: it does not.
    """
    in_force = {
        key.key for key in peer.card.node_keys if key.until is None or time_ms // 1000 <= key.until
    }
    if node_key not in in_force:
        raise RemoteProtocolError(
            "it is signed by a node that is not on the facility's card", WireCode.BAD_SIGNATURE
        )


class Countersigner:
    """Countersigns receipts that arrive outside of a transfer, and records complete ones.

    Args:
        key: returns our node key, which may be replaced while the node runs.
        own_facility: our facility key (32 bytes).
        pending: the receipts that are missing, with the index of exchanges.
        audit: our log.
        is_sending: whether a transfer from us to a peer (facility key, id) is under way.
        refusals: logs refusals.
        went_out: called with a peer (facility key) and a transfer before the log says that it is
            complete; synchronous.
    """

    def __init__(
        self,
        *,
        key: Callable[[], KeyPair],
        own_facility: bytes,
        pending: PendingReceipts,
        audit: AuditLog,
        is_sending: Callable[[bytes, bytes], bool],
        refusals: Refusals,
        went_out: Callable[[bytes, bytes], None],
    ) -> None:
        self._went_out = went_out
        self._refusals = refusals
        self._key = key
        self._own_facility = own_facility
        self._exchanges = pending.exchanges
        self._pending = pending
        self._audit = audit
        self._is_sending = is_sending
        # One thread at a time checks whether the log names a receipt, and logs it.
        self._recording = threading.Lock()
        self._claiming = threading.Lock()
        self._claimed: dict[bytes, None] = {}

    def take_receipt(self, signed: bytes) -> str:
        """Keep a receipt beside the log for a session that is about to log it (synchronous).

        Returns:
            Its SHA-256 in hex.

        Raises:
            NodeError: the receipt was presented meanwhile, and is in the log.
        """
        if not self._claim(signed):
            raise NodeError("the receipt of this transfer was given again on another stream")
        return self._audit.add_receipt(signed)

    async def countersign(self, peer: Peer, body: bytes, signature: bytes) -> bytes:
        """Check a recipient's receipt, log it once, and sign it.

        Args:
            peer: the recipient, which presents the receipt or was asked for it.
            body: the body of the receipt.
            signature: the recipient's signature.

        Returns:
            Our signature; the entry is durable.

        Raises:
            RemoteProtocolError: the receipt is wrong, which is logged, or must wait (BUSY).
            NodeError: the receipt could not be logged.
        """
        receipt: Receipt | None = None
        try:
            receipt = self._read_untrusted(peer, body, signature)
            return await in_thread(self._countersign, receipt, body, signature)
        except RemoteProtocolError as error:
            if error.code is not WireCode.BUSY:
                await in_thread(self._log_refused, peer, receipt, str(error))
            raise

    def _read_untrusted(self, peer: Peer, body: bytes, signature: bytes) -> Receipt:
        receipt = decode_receipt_untrusted(body)
        facilities = (receipt.source_facility, receipt.recipient_facility)
        if facilities != (self._own_facility, peer.facility_key):
            raise RemoteProtocolError("the receipt names other facilities")
        require_on_card_untrusted(peer, receipt.recipient_node, receipt.time)
        check_signature(body, signature, receipt.recipient_node)
        return receipt

    def _countersign(self, receipt: Receipt, body: bytes, signature: bytes) -> bytes:
        with self._recording:
            # Ask before reading the log: if the session ends in between, its entries are there.
            recipient, transfer = receipt.recipient_facility, receipt.transfer
            is_sending = self._is_sending(recipient, transfer)
            said = self._exchanges.entries(recipient, transfer, outgoing=True)
            for known in self.signed_of(said):
                if known.body == body:
                    return known.source_signature
            if is_sending:
                raise RemoteProtocolError("the transfer is under way", WireCode.BUSY)
            check_late_untrusted(receipt, said)
            if receipt.source_node != self._key().public:
                raise RemoteProtocolError(
                    "the receipt is for a node key of ours that was replaced",
                    WireCode.BAD_SIGNATURE,
                )
            signed = SignedReceipt(
                body=body,
                recipient_signature=signature,
                source_signature=sign_receipt(body, self._key()),
            )
            if not self._claim(signed.encode()) and self._is_sending(recipient, transfer):
                raise RemoteProtocolError("the receipt is being logged", WireCode.BUSY)
            self._record(receipt, signed, outgoing=True)
            return signed.source_signature

    def record_received(self, receipt: Receipt, signed: SignedReceipt) -> None:
        """Keep and log a receipt of a study that we received, unless it is logged already."""
        with self._recording:
            self._record(receipt, signed, outgoing=False)

    def _record(self, receipt: Receipt, signed: SignedReceipt, *, outgoing: bool) -> None:
        peer = receipt.recipient_facility if outgoing else receipt.source_facility
        said = self._exchanges.entries(peer, receipt.transfer, outgoing=outgoing)
        digest = self._audit.add_receipt(signed.encode())
        if any(entry.details.get("receipt") == digest for entry in said):
            return
        details = {**details_of(receipt), "late": True}
        if outgoing:
            details["direction"] = "out"
        event = Event(
            type="receipt",
            peer=peer,
            purpose=receipt.purpose,
            subjects=max(map(self._pending.subjects_of, said), key=len, default=()),
            details={**details, "receipt": digest},
        )
        events = [event]
        if outgoing:
            self._went_out(peer, receipt.transfer)
        if outgoing and not is_confirmed(said, receipt):
            events = [replace(event, type="disclosed", details=details), event]
        self._audit.append_many(events)

    def signed_of(self, said: Iterable[Entry]) -> list[SignedReceipt]:
        """The receipts that these entries of our log name, as far as they are kept here."""
        found = []
        for entry in said:
            digest = entry.details.get("receipt")
            kept = self._audit.receipt(digest) if isinstance(digest, str) else None
            if kept is not None:
                found.append(decode_signed_untrusted(kept))
        return found

    def _claim(self, signed: bytes) -> bool:
        """Claim a receipt; False when somebody has claimed it lately."""
        digest = hashlib.sha256(signed).digest()
        with self._claiming:
            if digest in self._claimed:
                return False
            self._claimed[digest] = None
            while len(self._claimed) > _CLAIMS:
                del self._claimed[next(iter(self._claimed))]
            return True

    def _log_refused(self, peer: Peer, receipt: Receipt | None, why: str) -> None:
        details: dict[str, str | int | bool] = {"what": "receipt", "why": why}
        if receipt is not None:
            details["transfer"] = receipt.transfer.hex()
        event = Event(type="refused", peer=peer.facility_key, outcome="refused", details=details)
        self._refusals.log(peer.facility_key, "receipt", [event])
