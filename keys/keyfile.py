"""Key files, as bytes: one line, `radmesh-key-v1 ROLE PROTECTION DATA`.

PROTECTION is `plain`; DATA is then the base64 of the 32-byte seed. The word allows keys
sealed with a passphrase without another format. The node decides where the file is and
who may read it.
"""

import base64
import binascii

from keys.errors import BadKey
from keys.identity import KeyPair

ROLES = ("facility", "node", "log", "witness")

_MAGIC = "radmesh-key-v1"
_MAX_BYTES = 4096


def encode_key(role: str, keypair: KeyPair) -> bytes:
    """The contents of a key file.

    Raises:
        BadKey: there is no such role.
    """
    if role not in ROLES:
        raise BadKey(f"there is no key of the role {role}")
    return f"{_MAGIC} {role} plain {base64.b64encode(keypair.seed).decode()}\n".encode()


def decode_key(role: str, data: bytes) -> KeyPair:
    """Read the contents of a key file.

    Args:
        role: the role that the key must have.
        data: the contents of the file.

    Raises:
        BadKey: damaged, a key of another role, or protected in a way that this
            release does not know. The text never contains any part of the key.
    """
    try:
        words = data[:_MAX_BYTES].decode("ascii").split(" ")
    except UnicodeDecodeError:
        words = []
    if len(words) != 4 or words[0] != _MAGIC:
        raise BadKey("this is not a radmesh key file")
    _, found_role, protection, text = words
    if found_role != role:
        raise BadKey(f"this is a key file for another role than {role}")
    if protection != "plain":
        raise BadKey("the key is protected in a way that this release cannot open")
    try:
        keypair = KeyPair.from_seed(base64.b64decode(text.removesuffix("\n"), validate=True))
    except binascii.Error:
        raise BadKey("the key file is damaged") from None
    if encode_key(role, keypair) != data:
        raise BadKey("the key file is damaged")
    return keypair
