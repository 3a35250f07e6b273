"""The parameter with which callers say what seals a key; the node learns no passphrase."""

from dataclasses import dataclass

from keys.passphrase import KEY_BYTES, SALT_BYTES, Wrapping, usual_cost
from node.errors import ExitCode, NodeError


@dataclass(frozen=True, repr=False)
class Sealing:
    """A key of 32 bytes and a salt of 16 (hex) that seal private keys. Has no repr."""

    key: str
    salt: str


def wrapping_of(given: Sealing) -> Wrapping:
    """What seals the keys, at the usual cost.

    Raises:
        NodeError: key or salt is malformed.
    """
    try:
        key, salt = bytes.fromhex(given.key), bytes.fromhex(given.salt)
    except ValueError:
        key = salt = b""
    if (len(key), len(salt)) != (KEY_BYTES, SALT_BYTES):
        # The error must not contain the value, which opens the keys.
        raise NodeError("the parameter seal is malformed", code=ExitCode.USAGE)
    return Wrapping(usual_cost(salt), key)
