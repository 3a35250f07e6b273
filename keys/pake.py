"""CPace: two sides that know one short code agree a key, and nobody can guess the code offline.

Suite CPACE-X25519-SHA512 of draft-irtf-cfrg-cpace-21, with clear roles ("initiator-responder") and
its explicit key confirmation. Who is between the two sides, or is one of them without the code, has
one guess in each run, and shows it by a wrong tag.

The map to the curve runs on Python's integers, so its time depends on the code. Somebody who can
time it would learn about a code that is good for ten minutes and one pairing; do not use this for
a password that lasts.
"""

import enum
import hashlib
import hmac
from collections.abc import Callable

import nacl.bindings
import nacl.exceptions
import nacl.utils

from keys.errors import BadKey

SHARE_BYTES = 32
TAG_BYTES = 64

_PRIME = 2**255 - 19
_A = 486662
"""Curve25519: y^2 = x^3 + A x^2 + x."""
_DOMAIN = b"CPace255"
_BLOCK_BYTES = 128
"""SHA-512's, which the code and its padding fill."""


class Role(enum.Enum):
    """Which side this is: the initiator speaks first."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


class Agreement:
    """A key that both sides have, if both have the code.

    Attributes:
        key: 64 bytes; derive other keys from it (the draft's ISK).
        tag: what proves to the other side that we have the key, 64 bytes.
    """

    def __init__(self, key: bytes, tag: bytes, expected: bytes) -> None:
        self.key = key
        self.tag = tag
        self._expected = expected

    def confirms(self, tag_untrusted: bytes) -> bool:
        """Whether the other side's tag proves that it has the key too; takes the same time always.

        A side that sends our own share and tag back never has: its tag is not ours.
        """
        same = hmac.compare_digest(tag_untrusted, self._expected)
        return same and not hmac.compare_digest(self.tag, self._expected)


class Pake:
    """One side of one run; a run has one `agree`.

    Args:
        role: which side this is.
        code: what both sides know.
        session: a name of this run that both sides had a part in, not used before.
        channel: what both sides know of each other and of the protocol (the draft's CI).
        said: public data of ours that the agreement covers (the draft's ADa or ADb).
        random: gives random bytes.

    Attributes:
        share: what the other side needs, 32 bytes.
    """

    def __init__(
        self,
        role: Role,
        code: bytes,
        *,
        session: bytes,
        channel: bytes,
        said: bytes,
        random: Callable[[int], bytes] = nacl.utils.random,
    ) -> None:
        self._role = role
        self._session = session
        self._said = said
        self._secret = random(SHARE_BYTES)
        self.share = _multiplied(self._secret, generator(code, channel, session))

    def agree(self, share_untrusted: bytes, said_untrusted: bytes) -> Agreement:
        """The agreement with the other side's share and data.

        Raises:
            BadKey: the share is not of 32 bytes, or one of the few with which the secret would be
                the same whatever the code is.
        """
        secret, self._secret = self._secret, b""
        shared = _multiplied(secret, share_untrusted)
        ours = _listed(self.share, self._said)
        theirs = _listed(share_untrusted, said_untrusted)
        first, second = (ours, theirs) if self._role is Role.INITIATOR else (theirs, ours)
        begun = _listed(_DOMAIN + b"_ISK", self._session, shared)
        key = hashlib.sha512(begun + first + second).digest()
        tags = hashlib.sha512(b"CPaceMac" + self._session + key).digest()
        return Agreement(
            key,
            hmac.digest(tags, ours, hashlib.sha512),
            hmac.digest(tags, theirs, hashlib.sha512),
        )


def generator(code: bytes, channel: bytes, session: bytes) -> bytes:
    """The point that a run calculates with, 32 bytes (the draft's `calculate_generator`)."""
    used = 1 + len(_listed(code)) + len(_listed(_DOMAIN))
    padding = bytes(max(0, _BLOCK_BYTES - used))
    digest = hashlib.sha512(_listed(_DOMAIN, code, padding, channel, session)).digest()
    return _mapped(int.from_bytes(digest[:32], "little") % 2**255)


def _mapped(number: int) -> bytes:
    """Elligator 2 for Curve25519 (RFC 9380 section 6.7.1), the u-coordinate alone."""
    v = -_A * pow(1 + 2 * number * number, _PRIME - 2, _PRIME) % _PRIME
    is_square = pow(v * v * v + _A * v * v + v, (_PRIME - 1) // 2, _PRIME) == 1
    return (v if is_square else (-v - _A) % _PRIME).to_bytes(32, "little")


def _multiplied(secret: bytes, point: bytes) -> bytes:
    """X25519; a result of zero is refused (the draft's `scalar_mult_vfy`)."""
    if len(secret) != SHARE_BYTES or len(point) != SHARE_BYTES:
        raise BadKey("a share of a pairing has another length, or was used already")
    try:
        return nacl.bindings.crypto_scalarmult(secret, point)
    except nacl.exceptions.RuntimeError:
        raise BadKey("the share of a pairing is a point of small order") from None


def _listed(*parts: bytes) -> bytes:
    """Parts one after another, each behind its length as LEB128 (the draft's `lv_cat`)."""
    listed = bytearray()
    for part in parts:
        length = len(part)
        while length >= 0x80:
            listed.append(length & 0x7F | 0x80)
            length >>= 7
        listed.append(length)
        listed += part
    return bytes(listed)
