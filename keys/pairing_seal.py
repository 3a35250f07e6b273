"""Sealing of what two facilities tell each other once a code was confirmed.

Each side has a key of its own for one pairing, made of the key that CPace agreed (`keys.pake`).
Messages are sealed in order, so that none can be left out, repeated or swapped.
"""

import nacl.bindings
import nacl.exceptions

from keys.errors import BadKey, SealBroken
from keys.pake import Role
from keys.seal import hkdf_sha256

DOMAIN = b"radmesh-pair-v1"
SESSION_BYTES = 32
AGREED_BYTES = 64

ROLE_BYTES = {Role.INITIATOR: b"\x01", Role.RESPONDER: b"\x02"}
"""How a side is named in what is signed and hashed; the initiator types the code."""


class PairingSealer:
    """Seals what one side says and opens what the other says.

    Args:
        agreed: the key of CPace, 64 bytes.
        session: the name of the run, 32 bytes.
        role: our side.
    """

    def __init__(self, agreed: bytes, session: bytes, role: Role) -> None:
        if len(agreed) != AGREED_BYTES or len(session) != SESSION_BYTES:
            raise BadKey("the key or the name of a pairing has a wrong length")
        self._ours = _Direction(agreed, session, role)
        self._theirs = _Direction(agreed, session, other(role))

    def seal(self, data: bytes) -> bytes:
        """Seal our next message; 16 bytes longer than `data`."""
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(*self._ours.next(data))

    def open(self, sealed_untrusted: bytes) -> bytes:
        """Open the other side's next message.

        Raises:
            SealBroken: it was altered, or is not the next one of that side.
        """
        try:
            return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                *self._theirs.next(sealed_untrusted)
            )
        except (nacl.exceptions.CryptoError, ValueError):
            raise SealBroken("a sealed message of a pairing does not open") from None


def other(role: Role) -> Role:
    """The other side's role."""
    return Role.RESPONDER if role is Role.INITIATOR else Role.INITIATOR


class _Direction:
    """The key and the place in the order of what one side says."""

    def __init__(self, agreed: bytes, session: bytes, role: Role) -> None:
        self._key = hkdf_sha256(agreed, salt=DOMAIN, info=session + ROLE_BYTES[role])
        self._bound = DOMAIN + session
        self._said = 0

    def next(self, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
        nonce = bytes(16) + self._said.to_bytes(8)
        self._said += 1
        return data, self._bound, nonce, self._key
