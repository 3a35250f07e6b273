"""Asks peers for missing receipts, and gives the receipts that we owe.

One task looks for pending receipts of connected peers: when a peer has connected, when a
session broke off, and every minute. The recipient of a study presents its receipt until
it has the countersignature; the source of a transfer that broke off asks whether the
study arrived. A transfer under way settles its receipt itself
(`node/transfer/receiving.py`, `node/transfer/disclosure.py`) and is left alone.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import trio

from keys.identity import KeyPair
from keys.trust import Peer
from node.audit.log import AuditLog
from node.blocking import in_thread
from node.clock import Clock
from node.errors import NodeError
from node.network.network import StreamLost
from node.receipts.countersigning import Countersigner
from node.receipts.pending import KeptReceipt, PendingItem, PendingReceipts
from node.sharing.log_queries import Answer, LogQueries, QueryRefused
from node.sharing.refusals import Refusals
from node.transfer.transfers import Transfers
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.late_receipts import receipt_of_received
from protocol.messages import Countersignature, Message, ReceiptMessage
from protocol.receipt import (
    Receipt,
    SignedReceipt,
    check_signature,
    decode_receipt_untrusted,
    sign_receipt,
)
from protocol.receipt_messages import AskReceipt, PresentReceipt

log = logging.getLogger("radmesh.settling")

ROUND_SECONDS = 60.0
"""Time between two looks for pending receipts, when nothing happens."""

GATHER_SECONDS = 0.3
"""Delay before a look: many transfers end at once, and each look reads the disk."""

BUSY_SECONDS = 3.0
"""Time until a peer is asked again about a transfer that is under way there."""


class Settling:
    """Both sides of settling pending receipts.

    Args:
        key: returns our node key, which may be replaced while the node runs.
        own_facility: our facility key (32 bytes).
        pending: the missing receipts.
        audit: our log.
        transfers: knows which transfers are under way.
        connected: returns the trusted peer with a facility key if it is connected, or None.
        clock: decides which peers are due to be asked, and dates receipts.
        refusals: logs refusals.
        went_out: see `Countersigner`.

    Attributes:
        countersigner: does our part as the source.
        answers: the function that answers each type of query.
    """

    def __init__(
        self,
        *,
        key: Callable[[], KeyPair],
        own_facility: bytes,
        pending: PendingReceipts,
        audit: AuditLog,
        transfers: Transfers,
        connected: Callable[[bytes], Peer | None],
        clock: Clock,
        refusals: Refusals,
        went_out: Callable[[bytes, bytes], None],
    ) -> None:
        self._clock = clock
        self.countersigner = Countersigner(
            key=key,
            own_facility=own_facility,
            pending=pending,
            audit=audit,
            refusals=refusals,
            is_sending=lambda peer, transfer: transfers.is_under_way(peer, transfer, outgoing=True),
            went_out=went_out,
        )
        self.answers: dict[type[Message], Answer] = {
            PresentReceipt: self._answer_presented,
            AskReceipt: self._answer_asked,
        }
        self._key = key
        self._own_facility = own_facility
        self._pending = pending
        self._transfers = transfers
        self._connected = connected
        self._poked = trio.Event()
        self._at_work: set[bytes] = set()
        self._missed: set[bytes] = set()
        self._exchanging: set[bytes] = set()
        self._complete: list[bytes] = []

    # --- the task --------------------------------------------------------------------

    def poke(self) -> None:
        """Look for pending receipts now: something has changed."""
        self._poked.set()

    async def run(self, log_queries: LogQueries) -> None:
        """Settle until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._poked = trio.Event()
                for facility in await self._waiting():
                    peer = self._connected(facility)
                    if facility in self._at_work:
                        self._missed.add(facility)
                    elif peer is not None:
                        self._at_work.add(facility)
                        nursery.start_soon(self._settle, log_queries, peer)
                with trio.move_on_after(ROUND_SECONDS):
                    await self._poked.wait()
                await trio.sleep(GATHER_SECONDS)

    async def _waiting(self) -> set[bytes]:
        """Peers that are due to be asked; drops complete receipts first."""
        try:
            while self._complete:
                # If dropping fails, the receipt is presented again later and dropped then.
                await in_thread(self._pending.forget, self._complete.pop())
            items = await in_thread(self._pending.items)
        except NodeError as error:
            log.error("what is pending cannot be read: %s", error.message)
            return set()
        return {item.peer for item in items if item.is_due(self._clock.now_ms())}

    async def _settle(self, log_queries: LogQueries, peer: Peer) -> None:
        """Settle everything that is due with one peer."""
        is_busy = False
        try:
            is_busy = await self._settle_all(log_queries, peer)
        except StreamLost as error:
            log.debug("receipts pending with %s wait: %s", peer.petname, error)
        except NodeError as error:
            log.error("receipts pending with %s: %s", peer.petname, error.message)
        if is_busy:
            await trio.sleep(BUSY_SECONDS)
        self._at_work.discard(peer.facility_key)
        if is_busy or peer.facility_key in self._missed:
            self._missed.discard(peer.facility_key)
            self.poke()

    async def _settle_all(self, log_queries: LogQueries, peer: Peer) -> bool:
        """Settle item by item; returns whether the peer must be asked again soon."""
        is_busy = False
        for item in await in_thread(self._pending.items, peer.facility_key):
            under_way = self._transfers.is_under_way(
                item.peer, item.transfer, outgoing=item.outgoing
            )
            if under_way or not item.is_due(self._clock.now_ms()):
                continue
            answer = ""
            try:
                await (self._ask if item.outgoing else self._present)(log_queries, peer, item)
            except QueryRefused as refused:
                if refused.code is WireCode.UNEXPECTED:
                    return False  # a version that does not know the question
                if refused.code is WireCode.BUSY:
                    is_busy = True
                    continue
                answer = refused.code.name.lower()
            except (RemoteProtocolError, LocalProtocolError) as error:
                log.warning("a receipt pending with %s: %s", peer.petname, error)
                answer = WireCode.OTHER.name.lower()
            if answer:
                await in_thread(self._pending.answered, item, answer)
        return is_busy

    # --- as the recipient -----------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def exchanging(self, receipt: Receipt) -> AsyncIterator[None]:
        """A session sends this receipt, and logs it with its countersignature, in this block.

        The receipt is kept durably first; if the session does not complete the exchange,
        it is presented later.
        """
        body, key = receipt.encode(), self._key()
        if key.public == receipt.recipient_node:
            # Otherwise our key was replaced meanwhile; a new receipt is made from the log.
            await in_thread(self._pending.keep, receipt, sign_receipt(body, key))
        self._exchanging.add(body)
        try:
            yield
            # The study waits for this block to end, so the task drops the receipt later.
            self._complete.append(body)
        finally:
            self._exchanging.discard(body)
            self.poke()

    async def _present(self, log_queries: LogQueries, peer: Peer, item: PendingItem) -> None:
        for one in await in_thread(self._kept_or_made, peer, item.transfer):
            if one.body in self._exchanging:
                continue
            try:
                await self._present_one(log_queries, peer, one)
            except QueryRefused as refused:
                if refused.code is not WireCode.BAD_SIGNATURE or not self._is_outdated(peer, one):
                    raise
                # A node key was replaced since: the receipt for the old key is void.
                await in_thread(self._pending.forget, one.body)
                self.poke()

    async def _present_one(self, log_queries: LogQueries, peer: Peer, kept: KeptReceipt) -> None:
        request = PresentReceipt(body=kept.body, signature=kept.signature)
        answer = await log_queries.ask(peer, request, Countersignature)
        check_signature(kept.body, answer.signature, kept.receipt.source_node)
        signed = SignedReceipt(
            body=kept.body,
            recipient_signature=kept.signature,
            source_signature=answer.signature,
        )
        await in_thread(self.countersigner.record_received, kept.receipt, signed)
        await in_thread(self._pending.forget, kept.body)
        log.info("%s has countersigned a receipt that was pending", peer.petname)

    def _is_outdated(self, peer: Peer, kept: KeptReceipt) -> bool:
        now = (peer.card.node_key, self._key().public)
        return (kept.receipt.source_node, kept.receipt.recipient_node) != now

    def _kept_or_made(self, peer: Peer, transfer: bytes) -> list[KeptReceipt]:
        """Our receipts of a transfer that lack a countersignature; a new one if there is none."""
        kept = self._pending.kept(peer.facility_key, transfer)
        if kept:
            return kept
        said = self._pending.exchanges.entries(peer.facility_key, transfer, outgoing=False)
        received = [entry for entry in said if entry.type == "received"]
        if not received or any(entry.type == "receipt" for entry in said):
            return []
        receipt = receipt_of_received(
            received[-1],
            recipient_facility=self._own_facility,
            source_node=peer.card.node_key,
            recipient_node=self._key().public,
            time_ms=self._clock.now_ms(),
        )
        self._pending.keep(receipt, sign_receipt(receipt.encode(), self._key()))
        return self._pending.kept(peer.facility_key, transfer)

    async def _answer_asked(self, peer: Peer, request: Message) -> Message:
        """Answer a source that asks whether its transfer has arrived."""
        assert isinstance(request, AskReceipt)
        if self._transfers.is_under_way(peer.facility_key, request.transfer, outgoing=False):
            raise RemoteProtocolError("the transfer is under way", WireCode.BUSY)
        try:
            found = await in_thread(self._receipt_for, peer, request.transfer)
        except LocalProtocolError:
            found = None
        if found is None:
            raise RemoteProtocolError("that transfer did not arrive", WireCode.NOT_AVAILABLE)
        self.poke()
        return ReceiptMessage(body=found[0], signature=found[1])

    def _receipt_for(self, peer: Peer, transfer: bytes) -> tuple[bytes, bytes] | None:
        for kept in self._kept_or_made(peer, transfer):
            return kept.body, kept.signature
        said = self._pending.exchanges.entries(peer.facility_key, transfer, outgoing=False)
        for signed in self.countersigner.signed_of(said):
            return signed.body, signed.recipient_signature
        return None

    # --- as the source ----------------------------------------------------------------------

    async def _ask(self, log_queries: LogQueries, peer: Peer, item: PendingItem) -> None:
        answer = await log_queries.ask(peer, AskReceipt(transfer=item.transfer), ReceiptMessage)
        receipt = decode_receipt_untrusted(answer.body)
        if receipt.transfer != item.transfer:
            raise RemoteProtocolError("a receipt for another transfer than was asked about")
        await self.countersigner.countersign(peer, answer.body, answer.signature)

    async def _answer_presented(self, peer: Peer, request: Message) -> Message:
        """Countersign a receipt that a recipient presents."""
        assert isinstance(request, PresentReceipt)
        signature = await self.countersigner.countersign(peer, request.body, request.signature)
        return Countersignature(signature=signature)
