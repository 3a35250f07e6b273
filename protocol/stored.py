"""The statement that the study of a transfer is now stored in the recipient's archive.

The recipient alone signs it. It adds to the receipt of the same transfer, whose content it
repeats, and says nothing of the archive or of the patient (docs/protocol.md section 6.1).
"""

import builtins
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from keys import identity
from protocol import wire
from protocol.errors import DigestMismatch, RemoteProtocolError, WireCode
from protocol.fields import binary, choice, from_map_untrusted, number, octets, to_map
from protocol.log.entry import Entry
from protocol.signatures import check_signature_untrusted

SIGNING_DOMAIN = b"radmesh-stored-v1"

COMMITMENT, QUERY, RETURNED = "commitment", "query", "returned"

WAYS = (COMMITMENT, QUERY, RETURNED)
"""How it was proven: the archive committed itself to keep it (PS3.4 annex J), lists it when it is
asked, or sent it back."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Body of a statement.

    `transfer`, `content_root` and `instances` are those of the receipt. `proven_at`: when all of
    the instances had been proven, seconds since the epoch, UTC; `time`: when this was signed,
    milliseconds, likewise by the recipient's clock.
    """

    transfer: bytes = octets(16)
    source_facility: bytes = octets(32)
    recipient_facility: bytes = octets(32)
    recipient_node: bytes = octets(32)
    content_root: bytes = octets(32)
    instances: int = number()
    proven_by: str = choice(*WAYS)
    proven_at: int = number()
    time: int = number()

    def encode(self) -> builtins.bytes:
        """The bytes that the recipient signs."""
        return wire.pack({**to_map(self), "version": 1})


def decode_stored_untrusted(body: bytes) -> Stored:
    """Read the body of a statement.

    Raises:
        RemoteProtocolError: not a statement, or signed before what it says was proven.
    """
    stored: Stored = from_map_untrusted(Stored, wire.map_untrusted(body))
    if stored.proven_at * 1000 > stored.time:
        raise RemoteProtocolError("a statement is signed before what it says was proven")
    return stored


def check_stored_signature(body: bytes, signature: bytes, signer: bytes) -> None:
    """Check the recipient's signature by its node key.

    Raises:
        RemoteProtocolError: it does not hold.
    """
    check_signature_untrusted(signer, SIGNING_DOMAIN, body, signature, "statement of storage")


@dataclass(frozen=True, kw_only=True)
class SignedStored:
    """A body with its signature; both sides keep equal bytes."""

    body: bytes = binary(4096)
    signature: bytes = octets(64)

    def encode(self) -> bytes:
        """The form that both sides store; both audit logs name it by its SHA-256."""
        return wire.pack(to_map(self))

    @property
    def digest(self) -> bytes:
        """SHA-256 of `encode()`."""
        return hashlib.sha256(self.encode()).digest()


def sign_stored(stored: Stored, key: identity.KeyPair) -> SignedStored:
    """Sign a statement with the recipient's node key."""
    body = stored.encode()
    return SignedStored(body=body, signature=key.sign(SIGNING_DOMAIN, body))


def decode_signed_stored_untrusted(data: bytes) -> SignedStored:
    """The inverse of `SignedStored.encode`; checks no signature.

    Raises:
        RemoteProtocolError: not a statement with a signature.
    """
    signed: SignedStored = from_map_untrusted(SignedStored, wire.map_untrusted(data))
    return signed


def stored_details(stored: Stored, signed: SignedStored) -> dict[str, str | int | bool]:
    """The details of a log entry about a statement; the digest of its receipt goes beside them."""
    return {
        "transfer": stored.transfer.hex(),
        "content_root": stored.content_root.hex(),
        "instances": stored.instances,
        "proven_by": stored.proven_by,
        "proven_at": stored.proven_at,
        "stored": signed.digest.hex(),
    }


def receipt_of_stored_untrusted(stored: Stored, said: Sequence[Entry]) -> Entry:
    """The entry of the source's log that names the receipt to which a statement adds.

    Args:
        stored: the statement; its signature and its two facilities have been checked.
        said: the entries of the source's log about that transfer to that recipient.

    Raises:
        RemoteProtocolError: there is no receipt of such a transfer, or it is for other content.
    """
    receipts = [
        entry
        for entry in said
        if entry.type == "receipt" and isinstance(entry.details.get("receipt"), str)
    ]
    if not receipts:
        raise RemoteProtocolError(
            "a statement about a transfer without a receipt", WireCode.NOT_AVAILABLE
        )
    content = {"content_root": stored.content_root.hex(), "instances": stored.instances}
    for entry in receipts:
        if all(entry.details.get(name) == value for name, value in content.items()):
            return entry
    raise DigestMismatch("a statement about something else than was sent in that transfer")
