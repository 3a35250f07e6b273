"""Statements that the study of a transfer is stored, as a verifier reads them.

The recipient of the transfer alone signs one (docs/protocol.md section 6.1). It adds to the receipt
of that transfer, and counts for nothing without it.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import nacl.bindings
import nacl.exceptions

from keys.card import Card
from protocol.verify.bundle import Bundle
from protocol.verify.evidence import Evidence, SignedFile
from protocol.verify.receipts import ReceiptProblem, is_binary, is_named, parse_map
from protocol.verify.verdict import Code
from protocol.verify.work import SIGNATURE

STORED_BYTES = 8_192

_LINE_BYTES = STORED_BYTES * 4 // 3 + 256
_DOMAIN = b"radmesh-stored-v1\0"
_KEYS = ("source_facility", "recipient_facility", "recipient_node", "content_root")
_NUMBERS = ("instances", "proven_at", "time")

# An entry about a statement repeats these fields of it; they must be equal.
_REPEATED = ("transfer", "content_root", "instances", "proven_by", "proven_at")

# The receipt and a statement that adds to it say the same of these.
_OF_RECEIPT = ("transfer", "source_facility", "recipient_facility", "content_root", "instances")

# Whose log it is, by the type of the entry.
_OWN_SIDE = {"stored-told": "recipient_facility", "stored-heard": "source_facility"}


def open_stored(blob: bytes, own: Card, peers: Iterable[Card]) -> tuple[dict[str, Any], bool]:
    """Check the signature of a statement and to whom its key belongs.

    Args:
        blob: the signed statement.
        own: the card of the facility whose log is verified.
        peers: cards of other facilities that the auditor trusts.

    Returns:
        The fields of its body, and whether the recipient's card lists its key; False if no card
        of that facility was given.

    Raises:
        ReceiptProblem: RECEIPT_SIG or RECEIPT_UNKNOWN_KEY.
    """
    try:
        outer = parse_map(blob)
        body, signature = outer["body"], outer["signature"]
        fields = parse_map(body)
        well_formed = (
            all(is_binary(fields[name], 32) for name in _KEYS)
            and all(isinstance(fields[name], int) for name in _NUMBERS)
            and isinstance(fields["proven_by"], str)
            and is_binary(fields["transfer"], 16)
            and is_binary(signature, 64)
            # As for a receipt: another encoding would have another digest.
            and blob == _encode(body, signature)
        )
    except (KeyError, IndexError, ValueError, TypeError):
        well_formed = False
    if not well_formed:
        raise ReceiptProblem(Code.RECEIPT_SIG, "is malformed")
    try:
        nacl.bindings.crypto_sign_open(signature + _DOMAIN + body, fields["recipient_node"])
    except (nacl.exceptions.CryptoError, ValueError):
        raise ReceiptProblem(Code.RECEIPT_SIG, "has a signature that does not hold") from None
    if own.facility_key not in (fields["source_facility"], fields["recipient_facility"]):
        raise ReceiptProblem(Code.RECEIPT_UNKNOWN_KEY, "is about two other facilities")
    cards = {card.facility_key: card for card in (*peers, own)}
    card = cards.get(fields["recipient_facility"])
    if card is not None and not is_named(card, fields["recipient_node"], fields["time"] // 1000):
        raise ReceiptProblem(
            Code.RECEIPT_UNKNOWN_KEY, "is signed by a key that is not on the recipient's card"
        )
    return fields, card is not None


def stored_differences(entry: dict[str, Any], fields: dict[str, Any], own: Card) -> list[str]:
    """Names of the fields in which an entry and its statement differ, sorted.

    Args:
        entry: the entry's fields.
        fields: the fields of the statement's body.
        own: the card of the facility whose log holds the entry.
    """
    wrong = {name for name in _REPEATED if entry["details"].get(name) != _word(fields[name])}
    facilities = {fields["source_facility"].hex(), fields["recipient_facility"].hex()}
    if {entry["peer"], own.facility_key.hex()} != facilities:
        wrong.add("peer")
    side = _OWN_SIDE.get(entry["type"])
    if side is not None and fields[side] != own.facility_key:
        wrong.add("direction")
    return sorted(wrong)


def receipt_of_stored_differences(stored: dict[str, Any], receipt: dict[str, Any]) -> list[str]:
    """Names of the fields in which a statement and the receipt beside it differ, sorted."""
    return sorted(name for name in _OF_RECEIPT if stored[name] != receipt[name])


def _word(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _encode(body: bytes, signature: bytes) -> bytes:
    """The only valid encoding of a signed statement."""
    size = len(body)
    head = bytes([0xC4, size]) if size < 256 else b"\xc5" + size.to_bytes(2, "big")
    return b"\x82\xa4body" + head + body + b"\xa9signature\xc4\x40" + signature


class Statements(SignedFile):
    """stored.jsonl: the statements that entries name."""

    def __init__(self, bundle: Bundle, own: Card, evidence: Evidence) -> None:
        super().__init__(bundle, "stored.jsonl", "stored", _LINE_BYTES)
        self.named = 0
        self.held = 0
        self.half_checked = 0
        self._bundle = bundle
        self._own = own
        self._peers = evidence.peer_cards
        self._advance()

    def match(
        self, index: int, entry: dict[str, Any], receipt: tuple[int, dict[str, Any]] | None
    ) -> None:
        """Check the statements that claim to belong to entry `index`.

        Args:
            index: the entry's place.
            entry: its fields.
            receipt: the newest entry whose receipt is in the bundle, and that receipt's fields.
        """
        logged = entry["details"].get("stored")
        self.named += isinstance(logged, str)
        seen = False
        while self._current is not None and self._current[0] <= index:
            at, blob = self._current
            if at != index or hashlib.sha256(blob).hexdigest() != logged:
                self.find(Code.RECEIPT_NOT_LOGGED, at, f"entry {at} does not name its statement")
            elif seen:
                self.find(Code.BUNDLE, at, f"the statement of entry {at} is there twice")
            else:
                seen = True
                beside = receipt[1] if receipt is not None and receipt[0] == index else None
                self._check(index, entry, blob, beside)
            self._advance()

    def _check(
        self, index: int, entry: dict[str, Any], blob: bytes, receipt: dict[str, Any] | None
    ) -> None:
        self._bundle.spend(SIGNATURE)
        try:
            fields, known = open_stored(blob, self._own, self._peers)
        except ReceiptProblem as problem:
            self.find(problem.code, index, f"the statement of entry {index} {problem.reason}")
            return
        self.held += 1
        self.half_checked += not known
        wrong = stored_differences(entry, fields, self._own)
        other = "its statement"
        if not wrong and receipt is None:
            self.find(Code.STORED_ALONE, index, f"the statement of entry {index} has no receipt")
        elif not wrong and receipt is not None:
            wrong = receipt_of_stored_differences(fields, receipt)
            other = "the receipt to which its statement adds"
        if wrong:
            words = f"entry {index} and {other} differ in {', '.join(wrong)}"
            self.find(Code.RECEIPT_MISMATCH, index, words)

    def finish(self) -> None:
        """Report a remaining statement: it belongs to no entry."""
        if self._current is not None:
            self.find(
                Code.RECEIPT_NOT_LOGGED,
                self._current[0],
                f"a statement is of entry {self._current[0]}, which was not read",
            )
