"""Verification of a proof that one entry is in a log.

A C2SP tlog-proof (<https://c2sp.org/tlog-proof>) whose `extra` line holds the entry, its
receipt and openings, and the cards of the facility and its witnesses
(docs/protocol-log.md section 5.3). Size and root are taken from the one signed checkpoint
in the proof, because the hashes alone fit many sizes.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any

from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError
from keys.fingerprint import format_hash
from protocol.verify import coverage, seen
from protocol.verify.checkpoints import CheckpointProblem, log_keys, open_checkpoint
from protocol.verify.entries import Entry, EntryProblem, parse_entry, parse_object
from protocol.verify.evidence import Evidence, receipt_differences
from protocol.verify.note import NamedKey, NoteProblem, decode_base64
from protocol.verify.openings import read_opening
from protocol.verify.receipts import ReceiptProblem, open_receipt
from protocol.verify.stored import (
    open_stored,
    receipt_of_stored_differences,
    stored_differences,
)
from protocol.verify.tree import leaf, root_by_proof
from protocol.verify.verdict import Code, Finding, Verdict
from protocol.verify.witnesses import Cosigned, Witnesses, card_keys, missing_quorum

HEADER = b"c2sp.org/tlog-proof@v1"

PROOF_BYTES = 4_000_000
"""Most bytes of a proof: a checkpoint of the largest size, an entry, and some cards."""

_HASHES = 63
_CARDS = 100
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


class ProofUnreadable(Exception):
    """The proof cannot be read, so its validity is unknown; the text says why."""


class _Wrong(Exception):
    """The proof does not hold."""

    def __init__(self, code: Code, index: int | None, reason: str) -> None:
        super().__init__(reason)
        self.finding = Finding(code, index, reason)


@dataclass(frozen=True)
class Proof:
    """The contents of a proof file; nothing is checked yet.

    Attributes:
        index: the entry's index.
        hashes: the hashes of the inclusion proof, 32 bytes each.
        checkpoint: the signed note.
        extra: the `extra` line, decoded (docs/protocol-log.md section 5.3).
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: dict[str, Any]


def verify_proof(
    data: bytes, *, facility_fingerprint: bytes, evidence: Evidence | None = None
) -> Verdict:
    """Verify the proof of one entry.

    Args:
        data: the proof.
        facility_fingerprint: as for `verify_bundle`.
        evidence: the auditor's own evidence; its receipts must belong to the entry.

    Returns:
        The verdict, with `entry`; nothing in the proof makes this function raise.

    Raises:
        ValueError: the fingerprint is not 32 bytes.
        PolicyProblem: the evidence has an impossible rule for witnesses; see
            `Evidence.policies`.
    """
    if len(facility_fingerprint) != 32:
        raise ValueError("a facility's fingerprint is 32 bytes")
    check = _Check(facility_fingerprint, evidence or Evidence())
    try:
        check.run(data)
    except ProofUnreadable as problem:
        return check.verdict(None, Finding(Code.BUNDLE, None, str(problem)))
    except _Wrong as problem:
        return check.verdict(False, problem.finding)
    words = f"entry {check.index} is in the log, as it was signed"
    return check.verdict(True, Finding(Code.OK, None, words))


class _Check:
    def __init__(self, fingerprint: bytes, evidence: Evidence) -> None:
        self._fingerprint = fingerprint
        self._evidence = evidence
        self._policies = evidence.policies(fingerprint)
        self._origin = f"radmesh.log/{format_hash(fingerprint)}"
        self._witnesses = Witnesses()
        self._witnesses.add_trusted([*evidence.witness_cards, *evidence.peer_cards], self._policies)
        self._card: Card | None = None
        self._entry: Entry | None = None
        self._size = 0
        self._root = b""
        self._opened: list[str] = []
        self._half_checked = False
        self._same_size: list[bytes] = []
        self._counted: list[Cosigned] = []
        self.index = 0

    def run(self, data: bytes) -> None:
        proof = parse_proof(data)
        self.index = proof.index
        self._card = card = self._find_card(proof.extra)
        for text in _texts(proof.extra.get("witnesses", []), "witnesses"):
            self._witnesses.add(card_keys(_card(text, "of a witness"), trusted=False))
        cosigned = self._check_checkpoint(proof.checkpoint, card)
        self._check_entry(proof)
        self._check_outside(card, cosigned)
        self._check_stored(proof.extra, card, self._check_receipts(proof.extra, card))
        self._check_openings(proof.extra)

    def _find_card(self, extra: dict[str, Any]) -> Card:
        own = self._evidence.own_card
        cards = [_card(extra["card"], "of the facility")] if "card" in extra else []
        cards += [own] if own is not None else []
        ours = [
            card
            for card in cards
            if hashlib.sha256(card.facility_key).digest() == self._fingerprint
        ]
        if not cards:
            raise ProofUnreadable("the proof holds no facility card; give the card as --facility")
        if not ours:
            raise _Wrong(Code.KEY_CHAIN, None, "the proof is of another facility's log")
        return max(ours, key=lambda card: card.serial)

    def _check_checkpoint(self, data: bytes, card: Card) -> list[Cosigned]:
        try:
            checkpoint = open_checkpoint(data, self._origin, log_keys(card))
            cosigned = self._witnesses.check(checkpoint)
        except CheckpointProblem as problem:
            raise _Wrong(problem.code, None, f"the checkpoint {problem.reason}") from None
        self._size, self._root = checkpoint.size, checkpoint.root
        return cosigned

    def _check_entry(self, proof: Proof) -> None:
        text = proof.extra.get("entry")
        if not isinstance(text, str):
            raise ProofUnreadable("the proof does not hold the entry that it is about")
        data = text.encode()
        try:
            self._entry = entry = parse_entry(data)
        except EntryProblem as problem:
            raise _Wrong(problem.code, proof.index, f"the entry {problem.reason}") from None
        if entry.place != proof.index:
            raise _Wrong(
                Code.ENTRY_INDEX, proof.index, f"the entry calls itself entry {entry.place}"
            )
        if proof.index >= self._size:
            raise _Wrong(Code.PROOF_BAD, proof.index, "the signed log is not so long")
        root = root_by_proof(leaf(data), proof.index, self._size, proof.hashes)
        if root is None:
            raise _Wrong(
                Code.PROOF_BAD, proof.index, f"no log of {self._size:,} entries has such a proof"
            )
        if root != self._root:
            raise _Wrong(
                Code.PROOF_BAD, proof.index, "this entry is not in the log that was signed"
            )

    def _check_outside(self, card: Card, cosigned: list[Cosigned]) -> None:
        for size, root in self._evidence.pins:
            if size == self._size and root != self._root:
                raise _Wrong(Code.FORK_VS_PIN, None, "the log is another one than by your pin")
        for data in self._evidence.checkpoints:
            try:
                other = open_checkpoint(data, self._origin, log_keys(card))
            except CheckpointProblem as problem:
                raise _Wrong(problem.code, None, f"your checkpoint {problem.reason}") from None
            if other.size != self._size:
                continue
            if other.root != self._root:
                words = f"the log key signed two different logs of {self._size:,} entries"
                raise _Wrong(Code.FORK, None, words)
            self._same_size.append(data)
        signers = {NamedKey(self._origin, key.public) for key in log_keys(card)}
        for policy in self._policies:
            reason = missing_quorum(policy, signers, cosigned)
            if reason is not None:
                words = f"too few others saw the log of {self._size:,} entries: {reason}"
                raise _Wrong(Code.QUORUM, None, words)
        self._counted = [each for each in cosigned if each.witness.trusted]
        old = seen.too_old(
            self._evidence, self._policies, self._counted, seen.newest(self._counted)
        )
        if old is not None:
            raise _Wrong(old.code, old.index, old.reason)

    def _check_receipts(self, extra: dict[str, Any], card: Card) -> dict[str, Any] | None:
        """Check the auditor's own receipts, and the receipt in the proof; returns its fields."""
        blobs = [(blob, "your receipt") for blob in self._evidence.receipts]
        if "receipt" in extra:
            try:
                blobs.append((decode_base64(extra["receipt"]), "the receipt"))
            except (NoteProblem, TypeError):
                raise _Wrong(Code.RECEIPT_SIG, self.index, "the receipt is malformed") from None
        fields = [self._check_receipt(blob, source, card) for blob, source in blobs]
        return fields[-1] if "receipt" in extra else None

    def _check_receipt(self, blob: bytes, source: str, card: Card) -> dict[str, Any]:
        try:
            fields, both = open_receipt(blob, card, self._evidence.peer_cards)
        except ReceiptProblem as problem:
            raise _Wrong(problem.code, self.index, f"{source} {problem.reason}") from None
        self._half_checked |= not both
        assert self._entry is not None
        entry = self._entry.fields
        if hashlib.sha256(blob).hexdigest() != entry["details"].get("receipt"):
            words = f"{source} is good, and the entry does not name it"
            raise _Wrong(Code.RECEIPT_NOT_LOGGED, self.index, words)
        wrong = receipt_differences(entry, fields)
        if wrong:
            words = f"the entry and {source} differ in {', '.join(wrong)}"
            raise _Wrong(Code.RECEIPT_MISMATCH, self.index, words)
        return fields

    def _check_stored(
        self, extra: dict[str, Any], card: Card, receipt: dict[str, Any] | None
    ) -> None:
        """Check the statement in the proof that the study is stored."""
        if "stored" not in extra:
            return
        try:
            blob = decode_base64(extra["stored"])
            fields, known = open_stored(blob, card, self._evidence.peer_cards)
        except (NoteProblem, TypeError):
            raise _Wrong(Code.RECEIPT_SIG, self.index, "the statement is malformed") from None
        except ReceiptProblem as problem:
            raise _Wrong(problem.code, self.index, f"the statement {problem.reason}") from None
        self._half_checked |= not known
        assert self._entry is not None
        entry = self._entry.fields
        if hashlib.sha256(blob).hexdigest() != entry["details"].get("stored"):
            words = "the statement is good, and the entry does not name it"
            raise _Wrong(Code.RECEIPT_NOT_LOGGED, self.index, words)
        if receipt is None:
            raise _Wrong(Code.STORED_ALONE, self.index, "the statement has no receipt")
        wrong = stored_differences(entry, fields, card)
        wrong += receipt_of_stored_differences(fields, receipt)
        if wrong:
            words = f"the statement differs from entry or receipt in {', '.join(wrong)}"
            raise _Wrong(Code.RECEIPT_MISMATCH, self.index, words)

    def _check_openings(self, extra: dict[str, Any]) -> None:
        listed = extra.get("openings", [])
        assert self._entry is not None
        if not isinstance(listed, list):
            raise _Wrong(Code.OPENING_BAD, self.index, "the openings are malformed")
        for each in listed:
            try:
                opening = read_opening(each)
            except EntryProblem as problem:
                raise _Wrong(problem.code, self.index, f"an opening {problem.reason}") from None
            if (
                opening.place != self.index
                or not opening.holds
                or not self._entry.has_subject(opening.subject)
            ):
                raise _Wrong(Code.OPENING_BAD, self.index, "an opening is not of this entry")
            self._opened.append(f"{each['kind']} {each['value']}")

    def verdict(self, sound: bool | None, cause: Finding) -> Verdict:
        entry = self._entry
        return Verdict(
            sound=sound,
            code=cause.code,
            index=cause.index,
            reason=cause.reason,
            findings=() if sound else (cause,),
            notes=tuple(self._notes()) if entry is not None else (),
            name="" if self._card is None else self._card.name,
            origin="" if self._card is None else self._origin,
            size=self._size,
            root=self._root.hex(),
            witnesses=coverage.witness_words(self._witnesses.cosigned),
            last_seen=seen.seen_words(seen.newest(self._counted), self._evidence.now),
            is_proof=True,
            entry="" if entry is None else entry.data.decode(),
            opened=tuple(self._opened),
        )

    def _notes(self) -> list[str]:
        held = self._evidence
        pins = [pin for pin in held.pins if pin[0] == self._size]
        compared = replace(held, pins=pins, checkpoints=self._same_size)
        notes = [
            "it is about this entry alone: what else is in the log, or is missing there, it "
            "does not tell, nor whether that log lost entries",
            *coverage.outside_notes(compared, self._policies),
            *coverage.witness_notes(self._policies, self._witnesses, ""),
        ]
        if self._entry is not None:
            notes += coverage.alert_notes(self._entry, self._origin)
            # A witness that cosigned the checkpoint saw this entry.
            times = {each.size - 1: self._entry.time for each in self._counted}
            notes += seen.time_notes(self._counted, times, entry=self.index)
        others = len(held.pins) + len(held.checkpoints) - len(pins) - len(self._same_size)
        if others:
            notes.append(
                "your pins and checkpoints of other sizes, which only the whole log can be "
                f"compared with: {others:,}"
            )
        if self._half_checked:
            notes.append(
                "the receipt is signed at the other side by a key that was not compared with "
                "that facility's card (--peer-card)"
            )
        return notes


def parse_proof(data: bytes) -> Proof:
    """Read the file of a proof.

    Raises:
        ProofUnreadable: the file is not a proof, or is damaged.
    """
    if len(data) > PROOF_BYTES:
        raise ProofUnreadable("the proof is too large")
    head, gap, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
        if not gap or lines.pop(0).encode() != HEADER:
            raise ProofUnreadable("the file is no proof of an entry, or is damaged")
        extra: dict[str, Any] = {}
        if lines and lines[0].startswith("extra "):
            extra = parse_object(decode_base64(lines.pop(0).removeprefix("extra ")))
        found = _INDEX.fullmatch(lines.pop(0)) if lines else None
        hashes = tuple(decode_base64(line) for line in lines)
    except (UnicodeDecodeError, NoteProblem, EntryProblem):
        raise ProofUnreadable("a line of the proof is damaged") from None
    if found is None or len(hashes) > _HASHES or any(len(each) != 32 for each in hashes):
        raise ProofUnreadable("a line of the proof is damaged")
    return Proof(int(found[1]), hashes, checkpoint, extra)


def _texts(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or len(value) > _CARDS:
        raise ProofUnreadable(f"what the proof holds as {name} is damaged")
    return value


def _card(text: object, whose: str) -> Card:
    try:
        if not isinstance(text, str):
            raise ProofUnreadable(f"the card {whose} in the proof is damaged")
        return parse_card_untrusted(text.encode())
    except KeysError as error:
        raise _Wrong(
            Code.KEY_CHAIN, None, f"the card {whose} in the proof is bad: {error}"
        ) from None
