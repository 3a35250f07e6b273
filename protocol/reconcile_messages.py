"""The messages of `/radmesh/audit/1` for a comparison of two logs, and its result.

Each side lists the entries of its log about the other side, each with its proof to one
signed checkpoint. So "I logged it" is proven, and a list may omit entries but cannot invent
them. Both sides compute the same result from the same two lists and sign the same bytes
(docs/protocol-audit.md section 4). A is the side that asked for the comparison.
"""

import builtins
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from keys import identity
from keys.card_fields import SizedKey
from protocol import limits, wire
from protocol.errors import RemoteProtocolError
from protocol.fields import binary, flag, from_map_untrusted, hashes, maps, number, octets, to_map
from protocol.log.checkpoint import Checkpoint
from protocol.log.entry import ENTRY_BYTES, Entry, decode_entry_untrusted
from protocol.log.tree import check_inclusion, leaf_hash
from protocol.log.witness import open_in_force_untrusted
from protocol.messages import Message
from protocol.reconcile import TYPES, Comparison, Finding
from protocol.signatures import check_signature_untrusted

SIGNING_DOMAIN = b"radmesh-reconciled-v1"


@dataclass(frozen=True, kw_only=True)
class AskExchanges(Message):
    """Ask a peer for the entries of its log that are about us, from index `start` on.

    `session` names the comparison; everything listed in it is of one size of the peer's log.
    """

    TYPE: ClassVar[str] = "ask-exchanges"
    session: bytes = octets(16)
    start: int = number()


@dataclass(frozen=True, kw_only=True)
class ProvenEntry:
    """An entry as it is stored, and its inclusion proof."""

    entry: bytes = binary(ENTRY_BYTES)
    proof: tuple[bytes, ...] = hashes(limits.PROOF_HASHES)


@dataclass(frozen=True, kw_only=True)
class Exchanges(Message):
    """A part of the list, in the order of the log; `more` says that it goes on.

    `checkpoint` is the signed note of the listed size, the same in all parts; `time` is the
    time up to which the list is complete, milliseconds since the epoch, UTC.
    """

    TYPE: ClassVar[str] = "exchanges"
    checkpoint: bytes = binary(limits.CHECKPOINT_BYTES)
    time: int = number()
    more: bool = flag()
    entries: tuple[ProvenEntry, ...] = maps(ProvenEntry, limits.EXCHANGES_ENTRIES)


@dataclass(frozen=True, kw_only=True)
class PresentResult(Message):
    """The side that asked sends its signed result (`body`) and asks for the countersignature.

    The other side first makes its own comparison. The answer is `countersignature`.
    """

    TYPE: ClassVar[str] = "present-result"
    body: bytes = binary(4096)
    signature: bytes = octets(64)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Body of a result.

    For each side: its keys, the size and root of its log, the time up to which its list is
    complete, the number of entries listed, and the SHA-256 of their leaf hashes in order.
    Then the number of disclosures in each class, and the digest of all of them
    (`findings_digest`). A disclosure that only A's log has is `only_a`.
    """

    session: bytes = octets(16)
    facility_a: bytes = octets(32)
    facility_b: bytes = octets(32)
    node_a: bytes = octets(32)
    node_b: bytes = octets(32)
    size_a: int = number()
    size_b: int = number()
    root_a: bytes = octets(32)
    root_b: bytes = octets(32)
    time_a: int = number()
    time_b: int = number()
    entries_a: int = number()
    entries_b: int = number()
    listed_a: bytes = octets(32)
    listed_b: bytes = octets(32)
    grace_seconds: int = number()
    matched: int = number()
    only_a: int = number()
    only_b: int = number()
    mismatch: int = number()
    broken_off: int = number()
    not_yet: int = number()
    findings: bytes = octets(32)

    def encode(self) -> builtins.bytes:
        """The bytes that both sides sign."""
        return wire.pack({**to_map(self), "version": 1})


def decode_result_untrusted(body: bytes) -> Result:
    """Read the body of a result.

    Raises:
        RemoteProtocolError: not a result.
    """
    result: Result = from_map_untrusted(Result, wire.map_untrusted(body))
    return result


def sign_result(body: bytes, key: identity.KeyPair) -> bytes:
    """One side's signature (64 bytes) over a result's body."""
    return key.sign(SIGNING_DOMAIN, body)


def check_result_signature(body: bytes, signature: bytes, signer: bytes) -> None:
    """Check one side's signature by its node key.

    Raises:
        RemoteProtocolError: it does not hold.
    """
    check_signature_untrusted(signer, SIGNING_DOMAIN, body, signature, "result")


@dataclass(frozen=True, kw_only=True)
class SignedResult:
    """A result with both signatures; both sides hold equal bytes."""

    body: bytes
    signature_a: bytes
    signature_b: bytes

    def encode(self) -> bytes:
        """The form that both sides keep; both logs hold its SHA-256."""
        return wire.pack(
            {"body": self.body, "signature_a": self.signature_a, "signature_b": self.signature_b}
        )


@dataclass(frozen=True)
class Listed:
    """The list of one side.

    Attributes:
        size, root: size and root of its log.
        time: the time up to which the list is complete, milliseconds since the epoch, UTC.
        entries: number of entries.
        digest: SHA-256 of their leaf hashes, concatenated.
    """

    size: int
    root: bytes
    time: int
    entries: int
    digest: bytes


def counts_of(comparison: Comparison) -> dict[str, int]:
    """Name of a field of the result to its count."""
    return {str(kind).lower(): count for kind, count in comparison.counts.items()}


def findings_digest(findings: Iterable[Finding]) -> bytes:
    """SHA-256 over one line for each disclosure, in the order of `Comparison.findings`.

    A line has class, source, transfer, the differing fields separated by commas, and the
    receipt. A space ends each but the last, which a line feed ends.
    """
    digest = hashlib.sha256()
    for one in findings:
        fields = ",".join(one.fields)
        line = f"{one.kind} {one.source} {one.transfer} {fields} {one.receipt}\n"
        digest.update(line.encode())
    return digest.digest()


def make_result(
    *,
    session: bytes,
    facilities: tuple[bytes, bytes],
    nodes: tuple[bytes, bytes],
    listed: tuple[Listed, Listed],
    comparison: Comparison,
    grace_seconds: int,
) -> Result:
    """The result of a comparison; each pair holds A's value, then B's."""
    a, b = listed
    return Result(
        session=session,
        facility_a=facilities[0],
        facility_b=facilities[1],
        node_a=nodes[0],
        node_b=nodes[1],
        size_a=a.size,
        size_b=b.size,
        root_a=a.root,
        root_b=b.root,
        time_a=a.time,
        time_b=b.time,
        entries_a=a.entries,
        entries_b=b.entries,
        listed_a=a.digest,
        listed_b=b.digest,
        grace_seconds=grace_seconds,
        findings=findings_digest(comparison.findings),
        **counts_of(comparison),
    )


class ListReader:
    """Checks the parts of a peer's list.

    Args:
        origin: origin of the peer's log.
        log_keys: log keys on the peer's card.
        own_facility: our facility key; every entry must be about us.
        now_ms: milliseconds since the epoch, UTC.
    """

    def __init__(
        self, origin: str, log_keys: Sequence[SizedKey], own_facility: bytes, now_ms: int
    ) -> None:
        self._origin = origin
        self._log_keys = log_keys
        self._own_facility = own_facility
        self._now_ms = now_ms
        self._first: Exchanges | None = None
        self._checkpoint: Checkpoint | None = None
        self._entries = 0
        self._digest = hashlib.sha256()
        self.next_index = 0

    def take_untrusted(self, part: Exchanges) -> list[Entry]:
        """Check the next part.

        Returns:
            The part's entries, each proven.

        Raises:
            RemoteProtocolError: a proof, the checkpoint's signature or the order does not
                hold, an entry is not about us, or the list is too long.
        """
        checkpoint = self._checkpoint_untrusted(part)
        if self._entries + len(part.entries) > limits.RECONCILE_ENTRIES:
            raise RemoteProtocolError("the list of exchanges is too long")
        if part.more and not part.entries:
            raise RemoteProtocolError("a part of the list of exchanges that leads nowhere")
        found = []
        for one in part.entries:
            entry = decode_entry_untrusted(one.entry)
            if entry.peer != self._own_facility or entry.type not in TYPES:
                raise RemoteProtocolError("the list of exchanges holds another entry")
            if not self.next_index <= entry.index < checkpoint.size:
                raise RemoteProtocolError("the list of exchanges is out of order")
            hashed = leaf_hash(one.entry)
            check_inclusion(hashed, entry.index, checkpoint.size, one.proof, checkpoint.root)
            self._digest.update(hashed)
            self.next_index = entry.index + 1
            found.append(entry)
        self._entries += len(found)
        return found

    def listed(self) -> Listed:
        """The list's summary; call this after all parts were taken."""
        assert self._checkpoint is not None
        assert self._first is not None
        return Listed(
            self._checkpoint.size,
            self._checkpoint.root,
            self._first.time,
            self._entries,
            self._digest.digest(),
        )

    def _checkpoint_untrusted(self, part: Exchanges) -> Checkpoint:
        if self._first is None or self._checkpoint is None:
            checkpoint = open_in_force_untrusted(part.checkpoint, self._origin, self._log_keys)
            if abs(part.time - self._now_ms) > 1000 * limits.CLOCK_SKEW_SECONDS:
                raise RemoteProtocolError("the peer's clock is far from ours")
            self._first, self._checkpoint = part, checkpoint
        elif (part.checkpoint, part.time) != (self._first.checkpoint, self._first.time):
            raise RemoteProtocolError("the list of exchanges is of two sizes of a log")
        return self._checkpoint
