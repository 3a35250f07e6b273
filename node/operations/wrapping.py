"""The parameter with which callers say what seals a key; the node learns no passphrase."""

from dataclasses import dataclass

from keys.passphrase import KEY_BYTES, Cost, Wrapping
from node.errors import ExitCode, NodeError


@dataclass(frozen=True, repr=False)
class Sealing:
    """What seals private keys. Has no repr.

    Attributes:
        key: the key that a passphrase gave, 32 bytes in hex.
        salt: the salt of its derivation, 16 bytes in hex.
        passes, memory: what the derivation cost: passes over so many bytes.
    """

    key: str
    salt: str
    passes: int
    memory: int


def wrapping_of(given: Sealing) -> Wrapping:
    """What seals the keys.

    Raises:
        NodeError: a value is malformed or out of bounds.
    """
    try:
        key, salt = bytes.fromhex(given.key), bytes.fromhex(given.salt)
    except ValueError:
        key = salt = b""
    cost = Cost(salt, given.passes, given.memory)
    if len(key) != KEY_BYTES or not cost.is_bounded:
        # The error must not contain the value, which opens the keys.
        raise NodeError("the parameter seal is malformed", code=ExitCode.USAGE)
    return Wrapping(cost, key)
