"""Proofs that a facility holds the keys that its card lists.

A card's signature proves possession of the facility key alone: the card may list any
other key in the world. So each node, log and witness key signs for its role on the card:
Ed25519 by that key, domain `radmesh-card-key-v1`, over `ROLE || 0x00 || facility key`
(docs/protocol.md section 8.1). The proof has no date, so it is copied from card to card,
and a replaced key need not be kept to prove it again.
"""

from keys.errors import BadSignature
from keys.identity import KeyPair, verify

ROLES = ("node", "log", "witness")
"""Roles whose keys have a proof; the facility key proves itself by signing the card."""

_DOMAIN = b"radmesh-card-key-v1"


def prove(keypair: KeyPair, role: str, facility_key: bytes) -> bytes:
    """The proof, 64 bytes, that a facility (key of 32 bytes) holds a key in a role."""
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
