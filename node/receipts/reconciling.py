"""Comparing our log with that of a peer, live.

The side that asks (A) fixes one size of its log, asks the peer (B) for the list of its
entries about us, compares, and shows B its signed result. B asks A for its list in
turn, makes its own comparison, and countersigns only if its result is the same. Both log
the result and keep it with both signatures beside the log. Each lists only entries about
the other (`protocol/reconcile_messages.py`).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import nacl.utils

from keys.card_fields import SizedKey
from keys.identity import KeyPair
from keys.trust import Peer
from node.audit.exchanges import ExchangeIndex
from node.audit.log import AuditLog
from node.blocking import in_thread
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.network.network import StreamLost
from node.sharing.log_queries import Answer, LogQueries, QueryRefused
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.checkpoint import Checkpoint, log_origin, parse_checkpoint_untrusted
from protocol.log.entry import Entry, Event, decode_entry_untrusted
from protocol.log.note import parse_note_untrusted
from protocol.log.tree import leaf_hash
from protocol.messages import Countersignature, Message
from protocol.reconcile import GRACE_SECONDS, Comparison, Ledger, compare
from protocol.reconcile_messages import (
    AskExchanges,
    Exchanges,
    Listed,
    ListReader,
    PresentResult,
    ProvenEntry,
    Result,
    SignedResult,
    check_result_signature,
    counts_of,
    decode_result_untrusted,
    make_result,
    sign_result,
)

A = TypeVar("A", bound=Message)

SESSIONS_PER_PEER = 4
"""Most comparisons per peer that are remembered; the oldest is forgotten first."""

_PART_BYTES = 512 * 1024
"""A part ends after so many bytes of entries and proofs; a message may have 1 MiB."""


@dataclass(frozen=True)
class _Pin:
    """The size of our log whose entries we list in one comparison."""

    note: bytes
    checkpoint: Checkpoint
    time: int


@dataclass(frozen=True)
class _Side:
    """One side's list, and the exchanges in it."""

    listed: Listed
    ledger: Ledger


@dataclass(frozen=True)
class Reconciled:
    """A comparison that both sides have signed.

    Attributes:
        comparison: the findings; A is the side that asked.
        signed: the result with both signatures, encoded.
        entry: index of its entry in our log.
        listed_a, listed_b: the lists of both sides.
    """

    comparison: Comparison
    signed: bytes
    entry: int
    listed_a: Listed
    listed_b: Listed

    @property
    def digest(self) -> str:
        """SHA-256 of the signed result in hex; both logs name it by this."""
        return hashlib.sha256(self.signed).hexdigest()


class Reconciling:
    """Both sides of a comparison.

    Args:
        key: returns our node key.
        own_facility: our facility key (32 bytes).
        audit: our log.
        index: the index of our log by peer and exchange.
        log_queries: returns the object that sends queries to peers.
        clock: dates comparisons.
        log_keys: returns the log keys on a peer's card that are its own (`keys.claims`).

    Attributes:
        answers: the function that answers each type of query.
    """

    def __init__(
        self,
        *,
        key: Callable[[], KeyPair],
        own_facility: bytes,
        audit: AuditLog,
        index: ExchangeIndex,
        log_queries: Callable[[], LogQueries],
        clock: Clock,
        log_keys: Callable[[Peer], Sequence[SizedKey]] = lambda peer: peer.card.log_keys,
    ) -> None:
        self._clock = clock
        self._log_keys = log_keys
        self._key = key
        self._own_facility = own_facility
        self._audit = audit
        self._index = index
        self._pins: dict[bytes, dict[bytes, _Pin]] = {}
        self._comparing: set[bytes] = set()
        self._log_queries = log_queries
        self.answers: dict[type[Message], Answer] = {
            AskExchanges: self._answer_exchanges,
            PresentResult: self._answer_result,
        }

    # --- the side that asks ------------------------------------------------------------

    async def run(self, peer: Peer, *, grace_seconds: int = GRACE_SECONDS) -> Reconciled:
        """Compare with a connected peer; on return both have signed and logged the result.

        Raises:
            NodeError: the peer is not connected, does not answer, has another result, or
                sent an invalid list; the latter two are logged.
        """
        session = nacl.utils.random(16)
        try:
            pin = await self._make_pin(peer.facility_key, session)
            theirs = await self._list_of(peer, session)
            ours = await in_thread(self._own_side, peer.facility_key, pin)
            return await self._finish(peer, session, ours, theirs, grace_seconds)
        except StreamLost as error:
            raise NodeError(
                f"{peer.petname} did not answer: {error}",
                hint="compare again when it is connected (`radmesh status`)",
                code=ExitCode.UNREACHABLE,
            ) from error
        except QueryRefused as refused:
            raise await self._refused(peer, refused.code) from refused
        except RemoteProtocolError as error:
            await self._log_failure(peer, str(error))
            raise NodeError(
                f"what {peer.petname} says of its log does not hold: {error}",
                hint="call the facility; its log, or its node, was changed",
                code=ExitCode.INTEGRITY,
            ) from error
        finally:
            self._pins.get(peer.facility_key, {}).pop(session, None)

    async def _finish(
        self, peer: Peer, session: bytes, ours: _Side, theirs: _Side, grace_seconds: int
    ) -> Reconciled:
        comparison = await in_thread(
            lambda: compare(ours.ledger, theirs.ledger, grace_seconds=grace_seconds)
        )
        own_node = self._key()
        body = make_result(
            session=session,
            facilities=(self._own_facility, peer.facility_key),
            nodes=(own_node.public, peer.card.node_key),
            listed=(ours.listed, theirs.listed),
            comparison=comparison,
            grace_seconds=grace_seconds,
        ).encode()
        signature = sign_result(body, own_node)
        answer = await self._ask(
            peer,
            PresentResult(body=body, signature=signature),
            Countersignature,
            limits.VERIFY_SECONDS,
        )
        check_result_signature(body, answer.signature, peer.card.node_key)
        signed = SignedResult(body=body, signature_a=signature, signature_b=answer.signature)
        entry = await in_thread(self._record, peer, signed, comparison, "a")
        return Reconciled(comparison, signed.encode(), entry, ours.listed, theirs.listed)

    async def _refused(self, peer: Peer, code: WireCode) -> NodeError:
        if code is WireCode.UNEXPECTED:
            return NodeError(
                f"{peer.petname} has a version that cannot compare logs",
                hint="exchange bundles: `radmesh audit export`, then `radmesh audit reconcile`",
                code=ExitCode.REFUSED,
            )
        if code is WireCode.BUSY:
            return NodeError(
                f"{peer.petname} is busy with another comparison",
                hint="compare again in a minute",
                code=ExitCode.REFUSED,
            )
        await self._log_failure(peer, f"the peer refused ({code.name.lower()})")
        if code is WireCode.BAD_DIGEST:
            return NodeError(
                f"{peer.petname} compared the same logs and found something else",
                hint="compare exported logs: `radmesh audit export` at both, then "
                "`radmesh audit reconcile`",
                code=ExitCode.INTEGRITY,
            )
        return NodeError(
            f"{peer.petname} refused to compare logs ({code.name.lower()})", code=ExitCode.REFUSED
        )

    # --- the side that is asked --------------------------------------------------------

    async def _answer_exchanges(self, peer: Peer, request: Message) -> Message:
        assert isinstance(request, AskExchanges)
        pin = self._pins.get(peer.facility_key, {}).get(request.session)
        if pin is None:
            if request.start:
                raise RemoteProtocolError("a comparison that is over", WireCode.NOT_AVAILABLE)
            pin = await self._make_pin(peer.facility_key, request.session)
        return await in_thread(self._part, peer.facility_key, pin, request.start)

    async def _answer_result(self, peer: Peer, request: Message) -> Message:
        assert isinstance(request, PresentResult)
        if peer.facility_key in self._comparing:
            raise RemoteProtocolError("a comparison with this peer is under way", WireCode.BUSY)
        self._comparing.add(peer.facility_key)
        try:
            return await self._countersign(peer, request)
        except StreamLost as error:
            raise RemoteProtocolError(str(error), WireCode.OTHER) from error
        except QueryRefused as refused:
            raise RemoteProtocolError(str(refused), WireCode.OTHER) from refused
        except RemoteProtocolError as error:
            await self._log_failure(peer, str(error))
            raise
        finally:
            self._comparing.discard(peer.facility_key)

    async def _countersign(self, peer: Peer, request: PresentResult) -> Countersignature:
        check_result_signature(request.body, request.signature, peer.card.node_key)
        result = decode_result_untrusted(request.body)
        pin = self._pins.get(peer.facility_key, {}).pop(result.session, None)
        if pin is None:
            raise RemoteProtocolError("a result of no comparison", WireCode.NOT_AVAILABLE)
        theirs = await self._list_of(peer, result.session)
        comparison, body = await in_thread(self._result_of, peer, pin, theirs, result)
        own_node = self._key()
        if body != request.body:
            raise RemoteProtocolError("the peer's result is not what we found", WireCode.BAD_DIGEST)
        signed = SignedResult(
            body=body, signature_a=request.signature, signature_b=sign_result(body, own_node)
        )
        await in_thread(self._record, peer, signed, comparison, "b")
        return Countersignature(signature=signed.signature_b)

    def _result_of(
        self, peer: Peer, pin: _Pin, theirs: _Side, claimed: Result
    ) -> tuple[Comparison, bytes]:
        ours = self._own_side(peer.facility_key, pin)
        grace_seconds = claimed.grace_seconds
        comparison = compare(theirs.ledger, ours.ledger, grace_seconds=grace_seconds)
        result = make_result(
            session=claimed.session,
            facilities=(peer.facility_key, self._own_facility),
            nodes=(peer.card.node_key, self._key().public),
            listed=(theirs.listed, ours.listed),
            comparison=comparison,
            grace_seconds=grace_seconds,
        )
        return comparison, result.encode()

    # --- lists ------------------------------------------------------------------------------

    async def _make_pin(self, peer: bytes, session: bytes) -> _Pin:
        time = self._clock.now_ms()
        signed = await in_thread(self._audit.latest_checkpoint)
        note = signed.encode()
        pin = _Pin(note, parse_checkpoint_untrusted(parse_note_untrusted(note)[0]), time)
        pins = self._pins.setdefault(peer, {})
        pins[session] = pin
        while len(pins) > SESSIONS_PER_PEER:
            del pins[next(iter(pins))]
        return pin

    def _part(self, peer: bytes, pin: _Pin, start: int) -> Exchanges:
        size = pin.checkpoint.size
        found = self._index.about(peer, start, size, limits.EXCHANGES_ENTRIES + 1)
        entries: list[ProvenEntry] = []
        part_bytes = 0
        for index in found[: limits.EXCHANGES_ENTRIES]:
            if part_bytes > _PART_BYTES:
                break
            proof = self._audit.inclusion_proof(index, size)
            entries.append(ProvenEntry(entry=self._index.encoded(index), proof=proof))
            part_bytes += len(entries[-1].entry) + 34 * len(proof)
        return Exchanges(
            checkpoint=pin.note,
            time=pin.time,
            more=len(entries) < len(found),
            entries=tuple(entries),
        )

    def _own_side(self, peer: bytes, pin: _Pin) -> _Side:
        ledger, digest, count = Ledger(peer), hashlib.sha256(), 0
        for encoded in self._own_entries(peer, pin.checkpoint.size):
            ledger.add_entry(decode_entry_untrusted(encoded))
            digest.update(leaf_hash(encoded))
            count += 1
        ledger.reaches(pin.time)
        checkpoint = pin.checkpoint
        listed = Listed(checkpoint.size, checkpoint.root, pin.time, count, digest.digest())
        return _Side(listed, ledger)

    def _own_entries(self, peer: bytes, size: int) -> Iterator[bytes]:
        start = 0
        while found := self._index.about(peer, start, size, limits.EXCHANGES_ENTRIES):
            for index in found:
                yield self._index.encoded(index)
            start = found[-1] + 1

    async def _list_of(self, peer: Peer, session: bytes) -> _Side:
        """The peer's list, part by part, checked."""
        now, origin = self._clock.now_ms(), log_origin(peer.facility_key)
        reader = ListReader(origin, self._log_keys(peer), self._own_facility, now)
        ledger = Ledger(peer=self._own_facility)
        more = True
        while more:
            request = AskExchanges(session=session, start=reader.next_index)
            part = await self._ask(peer, request, Exchanges, limits.PEER_REPLY_SECONDS)
            await in_thread(_take, reader, part, ledger)
            more = part.more
        listed = reader.listed()
        ledger.reaches(listed.time)
        return _Side(listed, ledger)

    async def _ask(self, peer: Peer, request: Message, expected: type[A], seconds: float) -> A:
        return await self._log_queries().ask(peer, request, expected, timeout_seconds=seconds)

    # --- the log ------------------------------------------------------------------------------

    def _record(self, peer: Peer, signed: SignedResult, comparison: Comparison, side: str) -> int:
        """Keep the signed result, then log it."""
        digest = self._audit.add_receipt(signed.encode())
        return self._audit.append(
            Event(
                type="reconciled",
                peer=peer.facility_key,
                details={
                    "result": digest,
                    "side": side,
                    "disclosures": len(comparison.findings),
                    # The asking side chooses it; exchanges within it are not compared.
                    "grace_seconds": decode_result_untrusted(signed.body).grace_seconds,
                    **counts_of(comparison),
                },
            )
        )

    async def _log_failure(self, peer: Peer, why: str) -> None:
        event = Event(
            type="reconciled", peer=peer.facility_key, outcome="failed", details={"why": why}
        )
        await in_thread(self._audit.append, event)


def _take(reader: ListReader, part: Exchanges, ledger: Ledger) -> list[Entry]:
    found = reader.take_untrusted(part)
    for entry in found:
        ledger.add_entry(entry)
    return found
