"""The auditor's evidence, and openings and receipts, which are read in step with entries."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keys.card import Card
from keys.fingerprint import format_hash
from protocol.verify.bundle import Bundle
from protocol.verify.claims import held_witness_keys, is_unproven_twin
from protocol.verify.entries import Entry, EntryProblem, parse_object
from protocol.verify.moments import entry_seconds
from protocol.verify.note import NamedKey, NoteProblem, decode_base64
from protocol.verify.openings import OPENING_BYTES, parse_opening
from protocol.verify.policy import Policy, PolicyProblem, any_of
from protocol.verify.receipts import RECEIPT_BYTES, ReceiptProblem, open_receipt
from protocol.verify.verdict import Code, Finding
from protocol.verify.witnesses import NAME_PREFIX, witness_name
from protocol.verify.work import SIGNATURE

_RECEIPT_LINE_BYTES = RECEIPT_BYTES * 4 // 3 + 256
FINDINGS = 20
"""Findings after which a side file is read no further: it may hold a million bad receipts."""

_OPENED = 100
"""How many good receipts are remembered, because several nearby entries name the same one.
More do not fit into the 32 kB window in which a compressed file repeats data cheaply."""

# An entry of type `receipt` repeats these fields of its receipt; they must be equal.
_REPEATED = (
    "transfer",
    "manifest",
    "content_root",
    "instances",
    "bytes",
    "batches",
    "encoded_bytes",
)


@dataclass(frozen=True)
class Evidence:
    """Evidence that the auditor holds and that did not come with the bundle.

    Attributes:
        pins: (size, root) pairs noted earlier, root 32 bytes.
        checkpoints: signed checkpoints of this log from elsewhere.
        receipts: signed receipts that another facility holds.
        peer_cards: cards of other facilities whose fingerprints the auditor compared.
        witness_cards: likewise, of the facilities whose cosignatures `quorum` counts.
        quorum: how many of `witness_cards` must have cosigned; None for no such rule.
        policy: a policy that says who must have cosigned; None for no such rule.
        own_card: the auditor's own copy of the facility's card; the newer of this and the
            card in the bundle counts.
        since: the first entry to judge: its index, or its earliest time in the form of an
            entry's time; None to judge all entries. A loss that the log reports before
            that entry is shown, but is not the cause.
        not_older_than: the witnesses must have seen the log within this many seconds
            before `now`; None for no such rule.
        now: seconds since the epoch, UTC, from which ages are counted; None to count no
            ages.
    """

    pins: Sequence[tuple[int, bytes]] = ()
    checkpoints: Sequence[bytes] = ()
    receipts: Sequence[bytes] = ()
    peer_cards: Sequence[Card] = ()
    witness_cards: Sequence[Card] = ()
    quorum: int | None = None
    policy: Policy | None = None
    own_card: Card | None = None
    since: int | str | None = None
    not_older_than: int | None = None
    now: int | None = None

    def __post_init__(self) -> None:
        if self.not_older_than is not None and self.now is None:
            raise ValueError("an age is counted from now, which is not given")

    def policies(self, facility_fingerprint: bytes) -> list[Policy]:
        """All rules about who must have cosigned the log of a facility.

        A key on two cards counts for a facility only if it alone proves the key.

        Raises:
            PolicyProblem: the quorum is larger than the number of witnesses, two witnesses
                list the same key and neither proves it, or the facility itself is one.
        """
        asked = [] if self.policy is None else [self.policy]
        if self.quorum is not None:
            known = [*self.witness_cards, *self.peer_cards]
            keys = {
                f"{card.name} {number}": [
                    NamedKey(witness_name(card), key.key) for key in held_witness_keys(card, known)
                ]
                for number, card in enumerate(self.witness_cards, 1)
            }
            if any(is_unproven_twin(card, known) for card in self.witness_cards):
                raise PolicyProblem(
                    "two of the witnesses have the same key, and no card proves whose it is; "
                    "ask for newer cards"
                )
            asked.append(any_of(self.quorum, {name: each for name, each in keys.items() if each}))
        own = NAME_PREFIX + format_hash(facility_fingerprint)
        if any(key.name == own for policy in asked for key in policy.witnesses.values()):
            raise PolicyProblem("a facility cannot be a witness of its own log")
        return asked


def receipt_differences(entry: dict[str, Any], fields: dict[str, Any]) -> list[str]:
    """Names of the fields in which an entry and its receipt differ, sorted.

    Args:
        entry: the entry's fields.
        fields: the fields of the receipt's body.
    """
    facilities = {fields["source_facility"].hex(), fields["recipient_facility"].hex()}
    wrong = {"peer"} if entry["peer"] and entry["peer"] not in facilities else set()
    if entry["type"] == "receipt":
        if not entry["peer"]:
            wrong.add("peer")
        if entry["purpose"] != fields["purpose"]:
            wrong.add("purpose")
        for name in _REPEATED:
            said = entry["details"].get(name)
            value = fields.get(name)
            signed = value.hex() if isinstance(value, bytes) else value
            if said is not None and said != signed:
                wrong.add(name)
    return sorted(wrong)


def _tells_all(entry: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Whether an entry repeats all fields of a receipt, even if it names another digest."""
    return (
        entry["type"] == "receipt"
        and entry["details"].keys() >= set(_REPEATED)
        and not receipt_differences(entry, fields)
    )


class SideFile:
    """Lines of a side file, each of which belongs to one entry, in the order of entries."""

    NOWHERE = 1 << 63
    """An index beyond every entry."""

    def __init__(self, bundle: Bundle, name: str, most: int) -> None:
        self._lines: Iterator[bytes] = iter(())
        if bundle.has(name):
            self._lines = bundle.lines(name, most)
        self.findings: list[Finding] = []
        self.at = self.NOWHERE
        """The entry to which the next line belongs."""

    def find(self, code: Code, index: int | None, reason: str) -> None:
        if len(self.findings) < FINDINGS:
            self.findings.append(Finding(code, index, reason))

    def _next_line(self) -> bytes | None:
        return next(self._lines, None) if len(self.findings) < FINDINGS else None


class Openings(SideFile):
    """openings.jsonl: what the commitments in the entries stand for."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "openings.jsonl", OPENING_BYTES)
        self.opened = 0
        self.commitments = 0
        self._advance()

    def _advance(self) -> None:
        line = self._next_line()
        try:
            self._current = parse_opening(line) if line is not None else None
        except EntryProblem as problem:
            self.find(Code.OPENING_BAD, None, f"a line of openings.jsonl {problem.reason}")
            self._current = None
        self.at = self.NOWHERE if self._current is None else self._current.place

    def match(self, index: int, entry: Entry) -> None:
        """Check the openings of entry `index`."""
        seen: set[bytes] = set()
        while self._current is not None and self._current.place <= index:
            opening = self._current
            # Count each subject once, or a second opening would hide that another is missing.
            is_new = opening.subject not in seen
            holds = is_new and opening.holds and entry.has_subject(opening.subject)
            if opening.place == index and holds:
                seen.add(opening.subject)
                self.opened += 1
            else:
                self.find(
                    Code.OPENING_BAD,
                    opening.place,
                    f"an opening claims to be of entry {opening.place} and is not",
                )
            self._advance()

    def finish(self) -> None:
        """Report the remaining openings: they belong to no entry."""
        if self._current is not None:
            self.find(
                Code.OPENING_BAD,
                self._current.place,
                f"an opening is of entry {self._current.place}, which was not read",
            )


class SignedFile(SideFile):
    """Lines that each hold the index of an entry, and the bytes of what was signed about it.

    Args:
        bundle: it.
        name: of the side file.
        field: of the bytes in a line, Base64.
        most: bytes of a line.
    """

    def __init__(self, bundle: Bundle, name: str, field: str, most: int) -> None:
        super().__init__(bundle, name, most)
        self._name = name
        self._field = field
        self._current: tuple[int, bytes] | None = None

    def _advance(self) -> None:
        line = self._next_line()
        self._current, self.at = None, self.NOWHERE
        if line is None:
            return
        try:
            value = parse_object(line.removesuffix(b"\n"))
            index, blob = value["index"], decode_base64(value[self._field])
            if isinstance(index, bool) or not isinstance(index, int) or not line.endswith(b"\n"):
                raise ValueError
            self._current, self.at = (index, blob), index
        except (EntryProblem, KeyError, TypeError, ValueError, NoteProblem):
            self.find(Code.RECEIPT_SIG, None, f"a line of {self._name} is malformed")


class Receipts(SignedFile):
    """receipts.jsonl, and the auditor's own receipts."""

    def __init__(self, bundle: Bundle, own: Card, evidence: Evidence) -> None:
        super().__init__(bundle, "receipts.jsonl", "receipt", _RECEIPT_LINE_BYTES)
        self.named = 0
        self.held = 0
        self.half_checked = 0
        self.last: tuple[int, dict[str, Any]] | None = None
        """The newest entry with its receipt in the bundle, and the fields of that receipt."""
        self._bundle = bundle
        self._own = own
        self._peers = evidence.peer_cards
        # Digest to the receipt's fields and whether both keys are known.
        self._opened: dict[str, tuple[dict[str, Any], bool]] = {}
        # The auditor's receipts by digest and by transfer; digests of those that the log names.
        self._outside: dict[str, dict[str, Any]] = {}
        self._known: set[str] = set()
        self._transfers: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for blob in evidence.receipts:
            digest = hashlib.sha256(blob).hexdigest()
            opened = self._open(blob, digest, None, "your receipt")
            if opened is not None:
                self._outside[digest] = opened
                self._transfers.setdefault(opened["transfer"].hex(), []).append((digest, opened))
        self._advance()

    def _open(
        self, blob: bytes, digest: str, index: int | None, source: str
    ) -> dict[str, Any] | None:
        if digest not in self._opened:
            if index is not None:
                self._bundle.spend(2 * SIGNATURE)
            try:
                opened = open_receipt(blob, self._own, self._peers)
            except ReceiptProblem as problem:
                self.find(problem.code, index, f"{source} {digest[:16]} {problem.reason}")
                return None
            self._opened[digest] = opened
            if len(self._opened) > _OPENED:
                del self._opened[next(iter(self._opened))]
        fields, both_known = self._opened[digest]
        self.half_checked += not both_known
        return fields

    def match(self, index: int, entry: dict[str, Any]) -> None:
        """Check the receipts that claim to belong to entry `index`."""
        logged = entry["details"].get("receipt")
        if isinstance(logged, str):
            self.named += 1
            if logged in self._outside and entry["type"] == "receipt":
                self._known.add(logged)
                self._compare(index, entry, self._outside[logged])
            for digest, opened in self._transfers.get(entry["details"].get("transfer"), ()):
                # Each side can sign the same body in many ways, each with another digest.
                if _tells_all(entry, opened):
                    self._known.add(digest)
        seen = False
        while self._current is not None and self._current[0] <= index:
            at, blob = self._current
            digest = hashlib.sha256(blob).hexdigest()
            fields = self._open(blob, digest, at, f"the receipt of entry {at},")
            if fields is not None:
                if at != index or digest != logged:
                    self.find(Code.RECEIPT_NOT_LOGGED, at, f"entry {at} does not name its receipt")
                elif seen:
                    # Do not count it twice: that would hide a missing receipt.
                    self.find(Code.BUNDLE, at, f"the receipt of entry {at} is there twice")
                else:
                    seen = True
                    self.held += 1
                    self.last = (index, fields)
                    if logged not in self._known:
                        self._compare(index, entry, fields)
            self._advance()

    def _compare(self, index: int, entry: dict[str, Any], fields: dict[str, Any]) -> None:
        wrong = receipt_differences(entry, fields)
        if wrong:
            self.find(
                Code.RECEIPT_MISMATCH,
                index,
                f"entry {index} and its receipt differ in {', '.join(wrong)}",
            )

    def finish(self, last_time: str) -> None:
        """Report receipts that the log never names; `last_time` is its last entry's time."""
        if self._current is not None:
            self.find(
                Code.RECEIPT_NOT_LOGGED,
                self._current[0],
                f"a receipt is of entry {self._current[0]}, which was not read",
            )
        for digest, opened in self._outside.items():
            if digest not in self._known:
                newer = not last_time or opened["time"] > 1000 * entry_seconds(last_time)
                self.find(
                    Code.RECEIPT_NOT_LOGGED,
                    None,
                    f"your receipt {digest[:16]} is good, and the log does not name it: "
                    "an exchange took place that is missing here"
                    + ("; it is newer than this log: ask for a newer bundle" if newer else ""),
                )
