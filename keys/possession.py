"""Proofs that a facility holds the keys that its card lists.

A card alone proves that its facility key was there: it may list any key in the world.
So each node, log and witness key signs for its place on the card: Ed25519 by that key,
domain `radmesh-card-key-v1`, over `ROLE || 0x00 || facility key` (docs/protocol.md
section 8.1). There is no date in it: a proof is copied from card to card, and a key
that was replaced need not be kept for it.
"""

from keys.errors import BadSignature
from keys.identity import KeyPair, verify

ROLES = ("node", "log", "witness")
"""Whose keys prove themselves; the facility key does so by signing the card."""

_DOMAIN = b"radmesh-card-key-v1"


def prove(keypair: KeyPair, role: str, facility_key: bytes) -> bytes:
    """The proof, 64 bytes, that a key of a role is held by a facility (key of 32 bytes)."""
    return keypair.sign(_DOMAIN, _message(role, facility_key))


def is_proof(proof: bytes, key: bytes, role: str, facility_key: bytes) -> bool:
    """Whether a proof holds for a key (32 bytes), its role and its facility (32 bytes)."""
    try:
        verify(key, _DOMAIN, _message(role, facility_key), proof)
    except BadSignature:
        return False
    return True


def _message(role: str, facility_key: bytes) -> bytes:
    return b"%b\0%b" % (role.encode("ascii"), facility_key)
