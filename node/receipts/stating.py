"""Says to sources that what they sent is stored in our archive, and hears it of recipients.

Order of writes, at the recipient: entry `stored` -> its content on record; when the source is
connected: signed statement beside the log -> entry `stored-told` -> statement on record -> message
-> that it was noted. At the source: statement beside the log -> entry `stored-heard` -> statement
on record -> answer. An entry without its record gets it at the next start. What was not noted is
said again: at the next connection, or after a pause that grows.
"""

import logging
import threading
from collections.abc import Callable

import trio

from keys.identity import KeyPair
from keys.trust import Peer
from node.audit.log import AuditLog
from node.blocking import in_thread
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.network.network import StreamLost
from node.receipts.countersigning import require_on_card_untrusted
from node.receipts.pending import PendingReceipts
from node.receipts.stored import OF_ALL, SILENT, Owed, Statement, StoredStudies
from node.sharing.log_queries import Answer, LogQueries, QueryRefused
from node.sharing.refusals import Refusals
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Entry, Event
from protocol.messages import Message
from protocol.receipt_messages import PresentStored, StoredNoted
from protocol.stored import (
    SignedStored,
    Stored,
    check_stored_signature,
    decode_signed_stored_untrusted,
    decode_stored_untrusted,
    receipt_of_stored_untrusted,
    sign_stored,
    stored_details,
)

log = logging.getLogger("radmesh.stating")

LOOK_SECONDS = 60.0
"""Time between two looks for what a connected source is owed, when nothing happens."""


class Stating:
    """Both sides of statements of storage.

    Args:
        stored: the records.
        pending: the index of exchanges, and the subjects of entries.
        audit: our log.
        find: returns the trusted peer of a node key (32 bytes), or None.
        key: returns our node key, which may be replaced while the node runs.
        own_facility: our facility key (32 bytes).
        log_queries: returns the object that sends queries to peers.
        clock: dates statements, and tells what is due.
        refusals: logs refusals.

    Attributes:
        answers: the function that answers each type of query.
    """

    def __init__(
        self,
        stored: StoredStudies,
        pending: PendingReceipts,
        audit: AuditLog,
        *,
        find: Callable[[bytes], Peer | None],
        key: Callable[[], KeyPair],
        own_facility: bytes,
        log_queries: Callable[[], LogQueries],
        clock: Clock,
        refusals: Refusals,
    ) -> None:
        self._stored = stored
        self._pending = pending
        self._audit = audit
        self._find = find
        self._key = key
        self._own_facility = own_facility
        self._log_queries = log_queries
        self._clock = clock
        self._refusals = refusals
        self.answers: dict[type[Message], Answer] = {PresentStored: self._answer}
        self._changed = trio.Event()
        # One thread at a time looks whether a statement was said or heard, and logs it.
        self._writing = threading.Lock()

    # --- as the recipient ------------------------------------------------------------------

    def poke(self) -> None:
        """Something was stored, or a receipt is complete: look who is owed a statement."""
        event, self._changed = self._changed, trio.Event()
        event.set()

    async def keep_told(self, node_key: bytes) -> None:
        """Tell a connected source what it is owed, until cancelled."""
        is_new = True
        while True:
            changed, pause = self._changed, LOOK_SECONDS
            peer = self._find(node_key)
            if peer is not None:
                try:
                    if is_new:
                        await in_thread(self._stored.connected, peer.facility_key)
                        is_new = False
                    await self._tell_all(peer)
                    pause = await in_thread(self._wait_seconds, peer.facility_key)
                except NodeError as error:
                    log.error("%s cannot be told what is stored: %s", peer.petname, error.message)
            with trio.move_on_after(pause):
                await changed.wait()

    async def _tell_all(self, peer: Peer) -> None:
        while (statement := await in_thread(self.next_for, peer.facility_key)) is not None:
            signed = await in_thread(self._signed, statement)
            request = PresentStored(body=signed.body, signature=signed.signature)
            answer = ""
            try:
                await self._log_queries().ask(peer, request, StoredNoted)
            except QueryRefused as refused:
                answer = refused.code.name.lower()
            except StreamLost:
                # Where the connection ended, this task is cancelled, and nothing is counted.
                await trio.lowlevel.checkpoint()
                answer = SILENT
            except RemoteProtocolError:
                answer = WireCode.OTHER.name.lower()
            if answer:
                log.info("%s does not note that a study is stored: %s", peer.petname, answer)
            await in_thread(self._stored.answered, statement, answer)

    def next_for(self, peer: bytes) -> Statement | None:
        """The statement that a source is to be told next; made and logged if it is only owed.

        None if it is told all, or may be told more only later.
        """
        now = self._clock.now_ms()
        waiting = self._stored.waiting(peer)
        if any(one.answer in OF_ALL and one.due > now for one in waiting):
            return None
        if waiting and waiting[0].due <= now:
            return waiting[0]
        with self._writing:
            while (owed := self._stored.owed(peer)) is not None:
                made = self._make(peer, owed)
                self._stored.settle(peer, owed)
                if made is not None:
                    return made
        return None

    def _wait_seconds(self, peer: bytes) -> float:
        """Seconds until a source may be told something again, or to the next look."""
        due = min((one.due for one in self._stored.waiting(peer)), default=None)
        if due is None:
            return LOOK_SECONDS
        return min(max((due - self._clock.now_ms()) / 1000, 0.1), LOOK_SECONDS)

    def _make(self, peer: bytes, owed: Owed) -> Statement | None:
        """Sign a statement, keep it, log it; None where the receipt has other content."""
        receipt, content = self._pending.exchanges.entry(owed.entry), owed.content
        if receipt.details.get("instances") != content.instances:
            return None
        now, key = self._clock.now_ms(), self._key()
        stored = Stored(
            transfer=owed.transfer,
            source_facility=peer,
            recipient_facility=self._own_facility,
            recipient_node=key.public,
            content_root=content.content_root,
            instances=content.instances,
            proven_by=content.proven_by,
            # The clock may have been set back.
            proven_at=min(content.proven_at, now // 1000),
            time=now,
        )
        self._keep("stored-told", receipt, stored, sign_stored(stored, key))
        return self._stored.statement(peer, owed.transfer, outgoing=False)

    def _signed(self, statement: Statement) -> SignedStored:
        kept = self._audit.receipt(statement.digest.hex())
        if kept is None:
            raise NodeError(
                "a signed statement that a study is stored is missing beside the log",
                hint="see `radmesh check`",
                code=ExitCode.INTEGRITY,
            )
        return decode_signed_stored_untrusted(kept)

    # --- as the source ---------------------------------------------------------------------

    async def _answer(self, peer: Peer, request: Message) -> Message:
        """Note the statement that a recipient presents."""
        assert isinstance(request, PresentStored)
        await in_thread(self.take_untrusted, peer, request.body, request.signature)
        return StoredNoted()

    def take_untrusted(self, peer: Peer, body: bytes, signature: bytes) -> None:
        """Check a statement of a recipient, and log and keep it, unless one of its transfer is.

        Raises:
            RemoteProtocolError: it is wrong, which is logged.
        """
        stored: Stored | None = None
        try:
            stored = decode_stored_untrusted(body)
            self._check_untrusted(peer, stored, body, signature)
            with self._writing:
                facility, transfer = peer.facility_key, stored.transfer
                if self._stored.statement(facility, transfer, outgoing=True) is not None:
                    return
                said = self._pending.exchanges.entries(facility, transfer, outgoing=True)
                receipt = receipt_of_stored_untrusted(stored, said)
                signed = SignedStored(body=body, signature=signature)
                self._keep("stored-heard", receipt, stored, signed)
        except RemoteProtocolError as error:
            self._log_refused(peer, stored, str(error))
            raise

    def _check_untrusted(self, peer: Peer, stored: Stored, body: bytes, signature: bytes) -> None:
        facilities = (stored.source_facility, stored.recipient_facility)
        if facilities != (self._own_facility, peer.facility_key):
            raise RemoteProtocolError("a statement of storage names other facilities")
        require_on_card_untrusted(peer, stored.recipient_node, stored.time)
        check_stored_signature(body, signature, stored.recipient_node)
        if stored.time > self._clock.now_ms() + 1000 * limits.CLOCK_SKEW_SECONDS:
            raise RemoteProtocolError("the clocks differ by a day", WireCode.CLOCK_SKEW)

    def _log_refused(self, peer: Peer, stored: Stored | None, why: str) -> None:
        details: dict[str, str | int | bool] = {"what": "stored", "why": why}
        if stored is not None:
            details["transfer"] = stored.transfer.hex()
        event = Event(type="refused", peer=peer.facility_key, outcome="refused", details=details)
        self._refusals.log(peer.facility_key, "stored", [event])

    def _keep(self, kind: str, receipt: Entry, stored: Stored, signed: SignedStored) -> None:
        self._audit.add_receipt(signed.encode())
        event = Event(
            type=kind,
            peer=receipt.peer,
            purpose=receipt.purpose,
            subjects=self._pending.subjects_of(receipt),
            details={**stored_details(stored, signed), "receipt": receipt.details["receipt"]},
        )
        self._stored.keep(event)
