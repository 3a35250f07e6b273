"""The key that a passphrase gives, by Argon2id (RFC 9106), and what that costs.

A file under a passphrase says what the derivation costs. The bounds here hold for such
files: one that somebody planted must not take the memory of the machine.
"""

import unicodedata
from dataclasses import dataclass, field

import nacl.exceptions
import nacl.pwhash

from keys.errors import BadKey

SALT_BYTES = 16
KEY_BYTES = 32

PASSES = 3
"""Passes of Argon2id; with `MEMORY_BYTES` libsodium's MODERATE: about a second a guess."""

MEMORY_BYTES = 256 * 1024 * 1024

MOST_PASSES = 10
MOST_MEMORY_BYTES = 2 * 1024 * 1024 * 1024
LEAST_MEMORY_BYTES = 8 * 1024
"""The least that libsodium takes."""

PASSPHRASE_CHARACTERS = 12
"""Fewest characters of a passphrase: whoever has the files can try passphrases for years."""


@dataclass(frozen=True)
class Cost:
    """What deriving a key costs, and its salt.

    Attributes:
        salt: 16 random bytes.
        passes: passes over the memory.
        memory_bytes: a multiple of 1024.
    """

    salt: bytes
    passes: int
    memory_bytes: int

    @property
    def is_bounded(self) -> bool:
        """Whether a file may ask for this."""
        return (
            len(self.salt) == SALT_BYTES
            and 1 <= self.passes <= MOST_PASSES
            and LEAST_MEMORY_BYTES <= self.memory_bytes <= MOST_MEMORY_BYTES
            and self.memory_bytes % 1024 == 0
        )


def usual_cost(salt: bytes) -> Cost:
    """The cost of a new passphrase: libsodium's MODERATE."""
    return Cost(salt, PASSES, MEMORY_BYTES)


@dataclass(frozen=True)
class Wrapping:
    """A key that seals key files, 32 bytes, and how a passphrase gives it."""

    cost: Cost
    key: bytes = field(repr=False)


def derive(passphrase: str, cost: Cost) -> Wrapping:
    """Derive the key of a passphrase; at the usual cost it takes a second and 256 MiB.

    The passphrase is normalized to Unicode's form NFC, since keyboards differ.

    Raises:
        BadKey: the cost is out of bounds, or the machine lacks the memory.
    """
    if not cost.is_bounded:
        raise BadKey("the key file asks for more work than a key file may")
    text = unicodedata.normalize("NFC", passphrase).encode()
    try:
        key = nacl.pwhash.argon2id.kdf(
            KEY_BYTES, text, cost.salt, opslimit=cost.passes, memlimit=cost.memory_bytes
        )
    except nacl.exceptions.RuntimeError:
        needed = cost.memory_bytes // (1024 * 1024)
        raise BadKey(f"the machine lacks the {needed} MiB of memory that this takes") from None
    return Wrapping(cost, key)
