"""Serving one study over one stream: decide, log, offer, send, take the receipt.

The log entries `requested`, `refused` and `disclosure-begun` are durable before their effect.
Nothing is compressed here: batches are stored as they are sent. Tasks of a session: a reader, a
thread that reads and seals ahead by two batches, and the main line, which takes requested portions
and writes within the recipient's credit, when `node.transfer.uplink` allows it.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from keys.identity import KeyPair
from keys.purposes import BREAK_GLASS
from keys.trust import Peer
from node.blocking import in_thread
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.images.store import BatchStore
from node.network.network import PeerStream, StreamLost
from node.sharing.budgets import Budgets
from node.sharing.emergencies import OUT, Emergencies
from node.sharing.facts import StudyFacts
from node.sharing.offers import Offers
from node.sharing.peers import Peers
from node.sharing.policy import Refusal
from node.sharing.refusals import Refusals
from node.sharing.requests import Requests, asker_subjects
from node.transfer.lately import DisclosedLately
from node.transfer.right import Right, RightEnded
from node.transfer.sessions import StudyStream, TransferRefused
from node.transfer.transfers import Transfer, Transfers, TransferState
from node.transfer.uplink import SendSlot, Uplink
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Event as LogEvent
from protocol.log.entry import subjects_of
from protocol.manifest import Manifest
from protocol.messages import Request
from protocol.source import SourceTransfer
from protocol.transfer import Credited, Event, Receipted, Requested, Wanted

log = logging.getLogger("radmesh.sending")

SEALED_AHEAD = 2

EXPECTED = (StreamLost, TransferRefused, RemoteProtocolError, NodeError, RightEnded)
"""Errors that a peer, a disk or a network can cause; any other error is a fault of ours."""


RETRIEVE_SECONDS = 10.0
"""How long a request is held while its study comes from an archive: less than
`limits.PEER_REPLY_SECONDS`."""

Bring = Callable[[str, bytes, bool, float], Awaitable[WireCode | None]]
"""Brings a study (UID) from an archive here for a peer (facility key), if an archive has more of it
than is here; whether it is urgent, and the longest wait in seconds. Gives the code of why it is not
here yet; None if it is, or if there is nothing to bring."""


async def _brings_nothing(study: str, peer: bytes, stat: bool, seconds: float) -> None:
    pass


NO_BRING: Bring = _brings_nothing
"""Of a node that has indexed no archive."""


@dataclass(eq=False, kw_only=True)
class SendingParts:
    """What all disclosures of a node share.

    Attributes:
        key: our node key.
        own_facility: our facility key (32 bytes).
        peers: the trusted peers and their grants.
        catalog: the studies of this node.
        facts: gives the facts about them.
        lately: what each peer began to receive in the last day.
        requests: what people here are asked, and have approved.
        emergencies: what waits for a review.
        offers: studies that peers were offered.
        store: its batches.
        append: writes audit entries durably with one flush (synchronous).
        add_receipt: keeps a signed receipt beside the log (synchronous).
        transfers: the register of transfers.
        line: when bulk data may be written, and how fast.
        in_doubt: whether our own log differs from what we signed.
        clock: tells which rights count now.
        budgets: limits how often a peer may ask.
        refusals: logs what was refused.
        bring: see `Bring`.
    """

    key: KeyPair
    own_facility: bytes
    peers: Peers
    catalog: Catalog
    facts: StudyFacts
    lately: DisclosedLately
    requests: Requests
    emergencies: Emergencies
    offers: Offers
    store: BatchStore
    append: Callable[[Sequence[LogEvent]], object]
    add_receipt: Callable[[bytes], str]
    transfers: Transfers
    line: Uplink
    in_doubt: Callable[[], bool]
    clock: Clock
    budgets: Budgets
    refusals: Refusals
    bring: Bring = NO_BRING


class Disclosure:
    """One study to one peer, over one stream.

    Args:
        owner: what it shares with others.
        stream: to the peer.
        peer: who asks.
        is_too_many: whether the peer has more transfers under way than it may.

    Attributes:
        scope: cancelled by `stop`.
        study: UID of the study asked for; "" before.
    """

    def __init__(
        self,
        owner: SendingParts,
        stream: PeerStream,
        peer: Peer,
        is_too_many: Callable[[], bool],
    ) -> None:
        self._owner = owner
        self._is_too_many = is_too_many
        self._stream = stream
        self._peer = peer
        self.scope = trio.CancelScope()
        self.study = ""
        self._stopped = ""
        self._is_logged = False
        self._end = SourceTransfer(owner.key, stream.peer)
        self._study = StudyStream(stream, self._end)
        self._transfer: Transfer | None = None
        self._patients: tuple[str, ...] = ()
        self._right = Right(
            owner.catalog,
            owner.facts,
            owner.peers,
            owner.lately,
            owner.requests,
            owner.emergencies,
            owner.clock,
            peer,
            stream.peer,
            owner.offers,
        )
        self._facts = ""
        self._disclosing = False
        self._asked, self._to_seal = trio.open_memory_channel[tuple[int, ...]](math.inf)
        self._asked_all = False
        self._unsent = 0
        self._sent = 0

    async def run(self, nursery: trio.Nursery) -> None:
        """Serve the stream; helping tasks run in the nursery.

        Raises:
            Exception: one of `EXPECTED`, or a fault of ours; give it to `failed`.
        """
        self._study.start(nursery)
        try:
            await self._serve(nursery)
        except RemoteProtocolError as error:
            await self._study.refuse(error.code)
            raise
        except RightEnded as error:
            await self._study.refuse(error.refusal.code)
            raise
        except NodeError as error:
            disk = error.code in (ExitCode.INTEGRITY, ExitCode.DISK)
            code = WireCode.SOURCE_DISK if disk else WireCode.OTHER
            await self._study.refuse(WireCode.LOG_IN_DOUBT if self._owner.in_doubt() else code)
            raise

    async def _serve(self, nursery: trio.Nursery) -> None:
        request = (await self._study.expect(Requested, limits.PEER_REPLY_SECONDS)).request
        self.study = request.study
        transfer = Transfer(
            request.transfer,
            "out",
            request.study,
            self._peer.facility_key,
            request.purpose,
            started=self._owner.clock.now_ms(),
            stat=request.stat,
        )
        self._transfer = transfer
        # Call this before logging the beginning of the disclosure: until the entry of its end, only
        # this session may have a receipt for this transfer countersigned.
        self._owner.transfers.serve(transfer.peer, transfer.transfer, begins=True)
        too_much = await self._too_much()
        if too_much is not None:
            # Log nothing here: the peer waits and asks again after BUSY, and a full disk takes no
            # entry.
            await self._study.refuse(too_much)
            return
        code = await self._bring(request)
        if code is not None:
            # Nothing is decided yet: the peer asks again.
            await self._study.refuse(code)
            return
        manifest = await in_thread(self._begin, request)
        if isinstance(manifest, Refusal):
            if self._is_logged:
                await self._owner.transfers.enter(transfer, TransferState.REFUSED, manifest.reason)
            await self._study.refuse(manifest.code)
            return
        transfer.instances = len(manifest.instances)
        transfer.bytes = manifest.total_original_bytes
        transfer.wire_bytes_total = manifest.total_encoded_bytes
        self._disclosing = True
        await self._owner.transfers.enter(transfer, TransferState.SENDING)
        with self._owner.line.sending(self._peer, stat=request.stat) as place:
            await self._send(nursery, manifest, place)
        await self._take_receipt(manifest)

    async def _bring(self, request: Request) -> WireCode | None:
        """Have the study here, if an archive has it and the peer may have it."""
        if self._owner.bring is NO_BRING or await in_thread(self._is_refused, request):
            return None
        urgent = request.stat or request.purpose == BREAK_GLASS
        key = self._peer.facility_key
        return await self._owner.bring(request.study, key, urgent, RETRIEVE_SECONDS)

    def _is_refused(self, request: Request) -> bool:
        self._right.begin(request.study)
        return self._right.refusal(request) is not None

    async def _too_much(self) -> WireCode | None:
        owner = self._owner
        if self._is_too_many():
            return WireCode.BUSY
        return None if await in_thread(owner.budgets.has_room) else WireCode.SOURCE_DISK

    def _begin(self, request: Request) -> Manifest | Refusal:
        """The manifest, or a refusal; on return the log says which of them the peer gets."""
        self._right.begin(request.study)
        refusal, manifest = self._right.refusal(request), None
        facility_key, requests = self._peer.facility_key, self._owner.requests
        waits = refusal if refusal is not None and refusal.code is WireCode.WAITING else None
        if waits is not None and requests.is_noted(facility_key, request, waits.rule):
            return waits
        kind = "urgent-request" if request.stat else "request"
        if refusal is not None and not self._owner.budgets.take(facility_key, kind):
            # The peer may ask again later; this is not logged.
            return Refusal(WireCode.BUSY, "more refused requests than its budget")
        if waits is not None:
            requests.note(facility_key, request, waits.rule)
            return waits
        requested = self._entry("requested")
        if refusal is None:
            try:
                manifest = self._owner.catalog.manifest(request.study)
            except NodeError:
                self._is_logged = True
                self._owner.append([requested])
                raise
            self._patients = self._owner.catalog.patients(request.study)
        self._facts = self._right.facts(request.study)
        if self._facts:
            # They may name a patient: an erasure finds them by the patients of their entry.
            self._patients = self._owner.catalog.patients(request.study)
        # Making a large manifest takes a while, so decide again here, together with the entry.
        with self._right.alone(), self._owner.peers.decisions.made():
            refusal = (
                refusal or self._right.refusal(request) or self._right.discarded(request.study)
            )
            if refusal is not None and refusal.code is WireCode.WAITING:
                # An approval ended just now; the peer asks again.
                return refusal
            if refusal is not None:
                refused = self._entry("refused", outcome="refused", why=refusal.reason)
                self._is_logged = self._owner.refusals.log(
                    self._peer.facility_key, "study", [requested, refused]
                )
                return refusal
            assert manifest is not None
            self._is_logged = True
            if self.is_emergency:
                asker = (request.person or "", request.role or "", request.reason or "")
                self._owner.emergencies.begin(OUT, self._peer, request, asker, self._patients)
            self._owner.append([requested, self._entry("disclosure-begun", manifest)])
        return manifest

    def why_ended(self) -> str:
        """Why the peer may not have what it is being sent any more; "" if it may. Blocks.

        Raises:
            NodeError: the database or the log is damaged.
        """
        request = self._end.request
        if request is None or not self._disclosing:
            return ""
        try:
            self._right.require(request)
        except RightEnded as error:
            return error.refusal.reason
        return ""

    @property
    def facility_key(self) -> bytes:
        """Of the peer, 32 bytes."""
        return self._peer.facility_key

    @property
    def is_emergency(self) -> bool:
        """Whether the peer breaks the glass."""
        request = self._end.request
        return request is not None and request.purpose == BREAK_GLASS

    def stop(self, why: str) -> None:
        """End the session at once, for this reason."""
        self._stopped = why
        self.scope.cancel()

    def leave(self) -> None:
        """The session is over, and its last entry is in the log."""
        if self._transfer is not None:
            one = self._transfer
            self._owner.transfers.serve(one.peer, one.transfer, begins=False)

    async def failed(self, error: BaseException | None) -> None:
        """Log the end of a session that failed; None means that it was stopped."""
        why = "an error of this node"
        if error is None:
            why = self._stopped
        elif isinstance(error, RightEnded):
            why = error.refusal.reason
        elif isinstance(error, StreamLost):
            why = "the connection was lost"
        elif isinstance(error, TransferRefused):
            why = f"the recipient gave up ({error.code.name.lower()})"
        elif isinstance(error, RemoteProtocolError):
            why = str(error)
        elif isinstance(error, NodeError):
            why = error.message
        if self._disclosing:
            try:
                entry = self._entry("disclosure-failed", outcome="failed", why=why)
                await in_thread(self._owner.append, [entry])
            except NodeError as failure:
                # The log then holds only the beginning of this disclosure, as after a crash.
                log.error("a failed disclosure could not be logged: %s", failure.message)
        if self._transfer is not None and self._is_logged and not self._transfer.is_ended:
            await self._owner.transfers.enter(self._transfer, TransferState.FAILED, why)
        await self._stream.reset()
        if error is not None and not isinstance(error, EXPECTED):
            raise error

    # --- sending -----------------------------------------------------------------

    async def _send(self, nursery: trio.Nursery, manifest: Manifest, place: SendSlot) -> None:
        transfer = self._transfer
        assert transfer is not None
        for frame in self._end.offer_manifest(manifest, time_ms=self._owner.clock.now_ms()):
            await place.write(self._stream, frame)
        transfer.wire_bytes_total = 0
        ahead, sealed_batches = trio.open_memory_channel[tuple[int, bytes] | Exception](
            SEALED_AHEAD
        )
        nursery.start_soon(self._seal_ahead, manifest, ahead)
        if self._end.asked_all:
            self._take(Wanted(tuple(sorted(self._end.asked)), True), manifest)
        while True:
            while (event := self._study.event_nowait()) is not None:
                self._take(event, manifest)
            if self._unsent:
                item = await sealed_batches.receive()
                if isinstance(item, Exception):
                    raise item
                await self._send_batch(*item, manifest, place)
            elif self._asked_all:
                break
            else:
                self._take(await self._study.event(limits.VERIFY_SECONDS), manifest)
        await self._study.send(self._end.end)

    def _take(self, event: Event, manifest: Manifest) -> None:
        """Hand a requested portion to the sealing task; credit was counted when it came."""
        match event:
            case Wanted():
                assert self._transfer is not None
                # The manifest bounds what can be asked for: each batch once.
                self._asked.send_nowait(event.batches)
                self._unsent += len(event.batches)
                self._asked_all = event.last
                self._transfer.wire_bytes_total += sum(
                    manifest.batches[index].encoded_size for index in event.batches
                )
            case Credited():
                pass
            case _:
                raise RemoteProtocolError(
                    "the recipient's messages are out of order", WireCode.UNEXPECTED
                )

    async def _send_batch(
        self, index: int, sealed: bytes, manifest: Manifest, place: SendSlot
    ) -> None:
        assert self._transfer is not None
        while not self._end.connection.may_send_batch(len(sealed)):
            self._take(await self._study.event(limits.STALL_SECONDS), manifest)
        await self._study.send_bulk(
            lambda: self._end.connection.data_header(index, len(sealed)) + sealed, place
        )
        self._unsent -= 1
        self._sent += 1
        self._transfer.bytes_done += manifest.batches[index].original_size
        self._owner.transfers.moved(self._transfer, manifest.batches[index].encoded_size)

    async def _seal_ahead(
        self,
        manifest: Manifest,
        ahead: trio.MemorySendChannel[tuple[int, bytes] | Exception],
    ) -> None:
        try:
            async for portion in self._to_seal:
                for index in portion:
                    sealed = await in_thread(self._read_and_seal, manifest, index)
                    await ahead.send((index, sealed))
        except (NodeError, RightEnded) as error:
            await ahead.send(error)

    def _read_and_seal(self, manifest: Manifest, index: int) -> bytes:
        request = self._end.request
        assert request is not None
        self._right.require(request)
        try:
            encoded = self._owner.store.read(manifest.batches[index].digest)
        except NodeError:
            # If it was discarded just now, report that and not a fault of the disk.
            self._right.require(request)
            raise
        return self._end.seal_batch(index, encoded)

    async def _take_receipt(self, manifest: Manifest) -> None:
        transfer = self._transfer
        assert transfer is not None
        await self._owner.transfers.enter(transfer, TransferState.VERIFYING)
        while not isinstance(event := await self._study.event(limits.VERIFY_SECONDS), Receipted):
            if not isinstance(event, Credited):
                raise RemoteProtocolError("the recipient's messages are out of order")
        receipted = event
        if receipted.receipt.source_facility != self._owner.own_facility or (
            receipted.receipt.recipient_facility != self._peer.facility_key
        ):
            raise RemoteProtocolError("the receipt names other facilities")
        frame, signed = self._end.countersign(receipted)
        await in_thread(self._keep_receipt, manifest, signed.encode())
        self._disclosing = False
        await self._stream.write(frame, timeout_seconds=limits.STALL_SECONDS)
        await self._owner.transfers.enter(transfer, TransferState.COMPLETE)
        await self._study.finish()

    def _keep_receipt(self, manifest: Manifest, signed: bytes) -> None:
        digest = self._owner.add_receipt(signed)
        request = self._end.request
        assert request is not None
        # Before the entry, so that a crash in between leaves no approval for a second use.
        self._owner.requests.used(self._peer.facility_key, request.transfer)
        disclosed = self._entry("disclosed", manifest)
        self._owner.append([disclosed, self._entry("receipt", manifest, receipt=digest)])

    def _entry(
        self,
        kind: str,
        manifest: Manifest | None = None,
        *,
        outcome: str = "success",
        why: str = "",
        receipt: str = "",
    ) -> LogEvent:
        request = self._end.request
        assert request is not None
        details: dict[str, str | int | bool] = {
            "transfer": request.transfer.hex(),
            "direction": "out",
        }
        if request.stat:
            details["stat"] = True
        if manifest is not None:
            details["content_root"] = manifest.content_root.hex()
            details["instances"] = len(manifest.instances)
            details["bytes"] = manifest.total_original_bytes
            details["manifest"] = manifest.digest.hex()
        elif self._end.offer is not None:
            details["manifest"] = self._end.offer.manifest.hex()
        if kind in ("disclosed", "disclosure-failed", "receipt"):
            details["batches"] = self._sent
            details["encoded_bytes"] = 0 if self._transfer is None else self._transfer.wire_bytes
        if kind in ("refused", "disclosure-begun"):
            details["rule"] = self._right.rule
            details["rights"] = self._rights()
        if why:
            details["why"] = why
        if receipt:
            details["receipt"] = receipt
        return LogEvent(
            type=kind,
            actor="node",
            peer=self._peer.facility_key,
            purpose=request.purpose,
            outcome=outcome,
            subjects=(
                *subjects_of(request.study, self._patients),
                *((("facts", self._facts),) if "rights" in details and self._facts else ()),
                *(asker_subjects(request) if kind == "requested" else ()),
            ),
            details=details,
        )

    def _rights(self) -> str:
        """The digest of what decided; the peer may have been revoked meanwhile."""
        return self._owner.peers.rights_digest(self._peer.facility_key)
