"""Receipts exchanged after their transfer: made from one log, checked against the other.

The recipient's log records what arrived, the source's log what was sent; a receipt that
agrees with both may be signed at any later time (docs/protocol-audit.md section 3).
"""

from collections.abc import Sequence
from typing import Any

from protocol.errors import DigestMismatch, LocalProtocolError, RemoteProtocolError, WireCode
from protocol.log.entry import Entry
from protocol.receipt import Receipt

DETAILS = ("manifest", "content_root", "instances", "bytes", "batches", "encoded_bytes")
"""Fields of a receipt that its log entry of the type `receipt` repeats."""

_CONTENT = ("manifest", "content_root", "instances", "bytes")


def details_of(receipt: Receipt) -> dict[str, str | int | bool]:
    """The details of a log entry about a receipt, including its transfer."""
    found: dict[str, str | int | bool] = {"transfer": receipt.transfer.hex()}
    for name in DETAILS:
        value: Any = getattr(receipt, name)
        found[name] = value.hex() if isinstance(value, bytes) else value
    return found


def receipt_of_received(
    received: Entry,
    *,
    recipient_facility: bytes,
    source_node: bytes,
    recipient_node: bytes,
    time_ms: int,
) -> Receipt:
    """The receipt for what arrived, by an entry `received` in our log.

    Args:
        received: the entry; its peer is the source.
        recipient_facility: our facility key (32 bytes).
        source_node, recipient_node: node keys in force now (32 bytes).
        time_ms: now, milliseconds since the epoch, UTC.

    Raises:
        LocalProtocolError: the entry lacks fields that a receipt needs.
    """
    said = received.details
    try:
        octets: dict[str, Any] = {
            name: bytes.fromhex(str(said[name]))
            for name in ("transfer", "manifest", "content_root")
        }
        numbers: dict[str, Any] = {name: int(said[name]) for name in DETAILS[2:]}
    except (KeyError, ValueError):
        raise LocalProtocolError("the entry does not say what has arrived") from None
    return Receipt(
        **octets,
        **numbers,
        source_facility=received.peer,
        recipient_facility=recipient_facility,
        source_node=source_node,
        recipient_node=recipient_node,
        purpose=received.purpose,
        time=time_ms,
        status="received",
    )


def check_late_untrusted(receipt: Receipt, said: Sequence[Entry]) -> Entry:
    """Check a recipient's receipt against the source's log.

    Args:
        receipt: the receipt; its signature and its two facilities have been checked.
        said: the entries of the source's log about that transfer to that recipient.

    Returns:
        The entry `disclosure-begun` that the receipt confirms.

    Raises:
        RemoteProtocolError: no such transfer was begun, it had other content, or the
            receipt is for more than was sent.
    """
    begun = [entry for entry in said if entry.type == "disclosure-begun"]
    if not begun:
        raise RemoteProtocolError("a receipt for a transfer that never was", WireCode.NOT_AVAILABLE)
    claimed = details_of(receipt)
    same = [
        entry
        for entry in begun
        if entry.purpose == receipt.purpose
        and all(entry.details.get(name) == claimed[name] for name in _CONTENT)
    ]
    if not same:
        raise DigestMismatch("a receipt for something else than was sent in that transfer")
    ended = [
        entry
        for entry in said
        if entry.type in ("disclosed", "disclosure-failed") and not entry.details.get("late")
    ]
    # If a crash ended a session, nobody knows how much was sent in it.
    if len(ended) >= len(begun):
        for name in ("batches", "encoded_bytes"):
            sent = sum(int(entry.details.get(name, 0)) for entry in ended)
            if getattr(receipt, name) > sent:
                raise RemoteProtocolError("a receipt for more than was sent")
    return same[-1]


def is_confirmed(said: Sequence[Entry], receipt: Receipt) -> bool:
    """Whether the source's log already records that the recipient has this content."""
    return any(
        entry.type == "disclosed" and entry.details.get("manifest") == receipt.manifest.hex()
        for entry in said
    )
