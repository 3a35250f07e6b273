"""The receipt, which recipient and source both sign for one finished transfer.

It names the content by its root and holds no patient data, so both audit logs can refer
to it and it can be shown to anyone (docs/protocol.md section 6).
"""

import builtins
import hashlib
from dataclasses import dataclass

from keys import identity
from protocol import wire
from protocol.fields import binary, choice, from_map_untrusted, number, octets, text, to_map
from protocol.signatures import check_signature_untrusted

SIGNING_DOMAIN = b"radmesh-receipt-v1"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Body of a receipt.

    `manifest` and `content_root` are BLAKE3 digests. `instances` and `bytes` (original)
    count the whole study; `batches` and `encoded_bytes` count what this source sent in the
    session that the receipt ends. `time` is milliseconds since the epoch (UTC) by the
    recipient's clock.
    """

    transfer: bytes = octets(16)
    source_facility: bytes = octets(32)
    recipient_facility: bytes = octets(32)
    source_node: bytes = octets(32)
    recipient_node: bytes = octets(32)
    manifest: bytes = octets(32)
    content_root: bytes = octets(32)
    instances: int = number()
    bytes: int = number()
    batches: int = number()
    encoded_bytes: int = number()
    purpose: str = text(32)
    time: int = number()
    status: str = choice("received")

    def encode(self) -> builtins.bytes:
        """The bytes that both sides sign."""
        return wire.pack({**to_map(self), "version": 1})


def decode_receipt_untrusted(body: bytes) -> Receipt:
    """Read a receipt body.

    Raises:
        RemoteProtocolError: not a receipt.
    """
    receipt: Receipt = from_map_untrusted(Receipt, wire.map_untrusted(body))
    return receipt


def sign_receipt(body: bytes, key: identity.KeyPair) -> bytes:
    """One side's signature (64 bytes) over a receipt body."""
    return key.sign(SIGNING_DOMAIN, body)


def check_signature(body: bytes, signature: bytes, signer: bytes) -> None:
    """Check one side's signature by its node key.

    Raises:
        RemoteProtocolError: it does not hold.
    """
    check_signature_untrusted(signer, SIGNING_DOMAIN, body, signature, "receipt")


@dataclass(frozen=True, kw_only=True)
class SignedReceipt:
    """A receipt body with both signatures; both sides hold equal bytes."""

    body: bytes
    recipient_signature: bytes
    source_signature: bytes

    def encode(self) -> bytes:
        """The form that both sides store; both audit logs name it by its SHA-256."""
        return wire.pack(
            {
                "body": self.body,
                "recipient_signature": self.recipient_signature,
                "source_signature": self.source_signature,
            }
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of `encode()`, by which the audit logs refer to it."""
        return hashlib.sha256(self.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class _Parts:
    body: bytes = binary(4096)
    recipient_signature: bytes = octets(64)
    source_signature: bytes = octets(64)


def decode_signed_untrusted(data: bytes) -> SignedReceipt:
    """The inverse of `SignedReceipt.encode`; checks no signatures.

    Raises:
        RemoteProtocolError: not a receipt with two signatures.
    """
    parts: _Parts = from_map_untrusted(_Parts, wire.map_untrusted(data))
    return SignedReceipt(
        body=parts.body,
        recipient_signature=parts.recipient_signature,
        source_signature=parts.source_signature,
    )
