"""Doubly signed receipts as a verifier reads them (docs/protocol.md section 6).

The MessagePack reader here accepts only what receipts consist of: maps of strings to
strings, binary and unsigned integers.
"""

from collections.abc import Iterable
from typing import Any

import nacl.bindings
import nacl.exceptions

from keys.card import CLOCK_SKEW_SECONDS, Card
from protocol.verify.verdict import Code

RECEIPT_BYTES = 16_384

_DOMAIN = b"radmesh-receipt-v1\0"
_KEYS = ("source_facility", "recipient_facility", "source_node", "recipient_node")
_DIGESTS = ("manifest", "content_root")
_NUMBERS = ("instances", "bytes", "batches", "encoded_bytes", "time")


class ReceiptProblem(Exception):
    """A receipt does not hold."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def open_receipt(blob: bytes, own: Card, peers: Iterable[Card]) -> tuple[dict[str, Any], bool]:
    """Check both signatures of a receipt and to whom their keys belong.

    Args:
        blob: the signed receipt.
        own: the card of the facility whose log is verified.
        peers: cards of other facilities that the auditor trusts.

    Returns:
        The fields of its body, and whether the other side's card lists its key too;
        False if no card of that facility was given.

    Raises:
        ReceiptProblem: RECEIPT_SIG or RECEIPT_UNKNOWN_KEY.
    """
    try:
        outer = parse_map(blob)
        body: Any = outer["body"]
        fields = parse_map(body)
        signatures = {side: outer[f"{side}_signature"] for side in ("source", "recipient")}
        well_formed = (
            all(is_binary(fields[name], 32) for name in (*_KEYS, *_DIGESTS))
            and all(isinstance(fields[name], int) for name in _NUMBERS)
            and isinstance(fields["purpose"], str)
            and is_binary(fields["transfer"], 16)
            and all(is_binary(signature, 64) for signature in signatures.values())
            # The encoding is not signed: another encoding of the same receipt would have
            # another digest, and the receipt would seem not logged.
            and blob == _encode(body, signatures)
        )
    except (KeyError, IndexError, ValueError, TypeError):
        well_formed = False
    if not well_formed:
        raise ReceiptProblem(Code.RECEIPT_SIG, "is malformed")
    for side, signature in signatures.items():
        try:
            nacl.bindings.crypto_sign_open(signature + _DOMAIN + body, fields[f"{side}_node"])
        except (nacl.exceptions.CryptoError, ValueError):
            raise ReceiptProblem(
                Code.RECEIPT_SIG, f"has a signature of the {side} that does not hold"
            ) from None
    if own.facility_key not in (fields["source_facility"], fields["recipient_facility"]):
        raise ReceiptProblem(Code.RECEIPT_UNKNOWN_KEY, "is about two other facilities")
    cards = {card.facility_key: card for card in (*peers, own)}
    known = 0
    for side in ("source", "recipient"):
        card = cards.get(fields[f"{side}_facility"])
        if card is None:
            continue
        known += 1
        if not is_named(card, fields[f"{side}_node"], fields["time"] // 1000):
            raise ReceiptProblem(
                Code.RECEIPT_UNKNOWN_KEY,
                f"is signed for the {side} by a key that is not on its card",
            )
    return fields, known == 2


def facilities_of(blob: bytes) -> frozenset[bytes]:
    """The facility keys that a signed receipt names; empty if it is malformed."""
    try:
        fields = parse_map(parse_map(blob)["body"])
        named = (fields["source_facility"], fields["recipient_facility"])
        return frozenset(key for key in named if isinstance(key, bytes))
    except (KeyError, IndexError, ValueError, TypeError):
        return frozenset()


def is_named(card: Card, node_key: bytes, time: int) -> bool:
    """Whether the card lists a node key as counting at a time, in seconds.

    The time is by the recipient's clock and the card's times by another clock, so a day
    is allowed at both ends.
    """
    return any(
        key.key == node_key
        and key.since - CLOCK_SKEW_SECONDS <= time
        and (key.until is None or time < key.until + CLOCK_SKEW_SECONDS)
        for key in card.node_keys
    )


def _encode(body: bytes, signatures: dict[str, bytes]) -> bytes:
    """The only valid encoding of a signed receipt."""
    size = len(body)
    head = bytes([0xC4, size]) if size < 256 else b"\xc5" + size.to_bytes(2, "big")
    encoded = b"\x83\xa4body" + head + body
    for side in ("recipient", "source"):
        name = f"{side}_signature".encode()
        encoded += bytes([0xA0 + len(name)]) + name + b"\xc4\x40" + signatures[side]
    return encoded


def is_binary(value: object, length: int) -> bool:
    """Whether a value is binary of this many bytes."""
    return isinstance(value, bytes) and len(value) == length


def parse_map(data: bytes) -> dict[str, Any]:
    """Read a map of text, binary and unsigned integers.

    Raises:
        KeyError, IndexError, ValueError or TypeError: the data is not such a map.
    """
    head, position = data[0], 1
    if 0x80 <= head <= 0x8F:
        count = head & 0x0F
    elif head == 0xDE:
        count, position = int.from_bytes(data[1:3], "big"), 3
    else:
        raise ValueError
    fields: dict[str, Any] = {}
    for _ in range(count):
        name, position = _parse_value(data, position)
        if not isinstance(name, str) or name in fields:
            raise ValueError
        fields[name], position = _parse_value(data, position)
    if position != len(data):
        raise ValueError
    return fields


def _parse_value(data: bytes, position: int) -> tuple[str | bytes | int, int]:
    head, position = data[position], position + 1
    if head < 0x80:
        return head, position
    if 0xA0 <= head <= 0xBF:
        end = position + (head & 0x1F)
    elif head in _LENGTH_BYTES:
        width = _LENGTH_BYTES[head]
        number = int.from_bytes(data[position : position + width], "big")
        position += width
        if 0xCC <= head <= 0xCF:
            return number, position
        end = position + number
    else:
        raise ValueError
    if end > len(data):
        raise ValueError
    content = data[position:end]
    return (content if 0xC4 <= head <= 0xC5 else content.decode()), end


# How many bytes hold the length (binary 8 and 16, string 8 and 16) or value (unsigned 8 to 64).
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xD9: 1, 0xDA: 2, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
