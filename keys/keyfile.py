"""Key files, as bytes: one line, `radmesh-key-v1 ROLE PROTECTION DATA`, DATA in base64.

| PROTECTION | DATA |
|---|---|
| `plain` | the 32-byte seed |
| `argon2id-xchacha20` | 128 bytes, below |

The 128 bytes: passes and KiB of Argon2id (4 bytes each, big endian), salt (16), nonce (24),
public key (32), and the seed sealed with XChaCha20-Poly1305 (48). The role and all that
stands before the seed are bound to it as associated data; the public key can be read without
the passphrase. The node decides where the file is and who may read it.
"""

import base64
import binascii
import struct
from dataclasses import dataclass

import nacl.bindings
import nacl.exceptions

from keys.errors import BadKey, KeySealed, WrongPassphrase
from keys.identity import PUBLIC_BYTES, SEED_BYTES, KeyPair
from keys.passphrase import SALT_BYTES, Cost, Wrapping

ROLES = ("facility", "node", "log", "witness")

NONCE_BYTES = 24

KEY_FILE_BYTES = 4096
"""No key file is longer."""

_MAGIC = "radmesh-key-v1"
_PLAIN, _SEALED = "plain", "argon2id-xchacha20"
_HEAD = struct.Struct(f">II{SALT_BYTES}s{NONCE_BYTES}s{PUBLIC_BYTES}s")
_SEALED_BYTES = _HEAD.size + SEED_BYTES + 16


@dataclass(frozen=True)
class KeyFile:
    """The contents of a key file, with the private key still in it.

    Attributes:
        role: the role of the key.
        public: the public key, 32 bytes. That of a sealed file is proved by opening it.
        cost: what the key of its passphrase costs; None when the file is not sealed.
        body: the rest; secret when the file is not sealed.
    """

    role: str
    public: bytes
    cost: Cost | None
    body: bytes

    def __repr__(self) -> str:
        return f"KeyFile({self.role}, {self.public.hex()}, {self.cost})"

    def open(self, wrapping: Wrapping | None = None) -> KeyPair:
        """The key pair.

        Args:
            wrapping: the key of the passphrase; a file that is not sealed needs none.

        Raises:
            KeySealed: the file is sealed, and no key is given for its cost and salt.
            WrongPassphrase: the key does not open it, or the file was altered.
        """
        if self.cost is None:
            return KeyPair.from_seed(self.body)
        if wrapping is None or wrapping.cost != self.cost:
            raise KeySealed(f"the {self.role} key is under a passphrase that was not given")
        head, sealed = self.body[: _HEAD.size], self.body[_HEAD.size :]
        nonce = head[-PUBLIC_BYTES - NONCE_BYTES : -PUBLIC_BYTES]
        try:
            seed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, _bound(self.role, head), nonce, wrapping.key
            )
        except nacl.exceptions.CryptoError:
            raise WrongPassphrase(
                f"the passphrase does not open the {self.role} key, or its file is damaged"
            ) from None
        pair = KeyPair.from_seed(seed)
        if pair.public != self.public:
            raise WrongPassphrase(f"the {self.role} key is not the one that its file names")
        return pair


def encode_key(role: str, keypair: KeyPair) -> bytes:
    """The contents of a key file that is not sealed.

    Raises:
        BadKey: there is no such role.
        KeySealed: the private key is not at hand.
    """
    return _line(role, _PLAIN, keypair.seed)


def seal_key(role: str, keypair: KeyPair, wrapping: Wrapping, nonce: bytes) -> bytes:
    """The contents of a sealed key file.

    Args:
        role: the role of the key.
        keypair: the key.
        wrapping: the key of the passphrase.
        nonce: 24 random bytes, new for each call.

    Raises:
        BadKey: there is no such role.
        KeySealed: the private key is not at hand.
    """
    cost = wrapping.cost
    head = _HEAD.pack(cost.passes, cost.memory_bytes // 1024, cost.salt, nonce, keypair.public)
    sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        keypair.seed, _bound(role, head), nonce, wrapping.key
    )
    return _line(role, _SEALED, head + sealed)


def decode_key(role: str, data: bytes, wrapping: Wrapping | None = None) -> KeyPair:
    """Read the contents of a key file and open it.

    Raises:
        BadKey: as `read_key_file`.
        KeySealed, WrongPassphrase: as `KeyFile.open`.
    """
    return read_key_file(role, data).open(wrapping)


def read_key_file(role: str, data: bytes) -> KeyFile:
    """Read the contents of a key file; sealed ones stay sealed.

    Args:
        role: the role that the key must have.
        data: the contents of the file.

    Raises:
        BadKey: damaged, a key of another role, protected in a way that this release does
            not know, or asking for more work than a key file may. The text never contains
            any part of the key.
    """
    try:
        words = data[:KEY_FILE_BYTES].decode("ascii").split(" ")
    except UnicodeDecodeError:
        words = []
    if len(words) != 4 or words[0] != _MAGIC:
        raise BadKey("this is not a radmesh key file")
    _, found_role, protection, text = words
    if found_role != role:
        raise BadKey(f"this is a key file for another role than {role}")
    if protection not in (_PLAIN, _SEALED):
        raise BadKey("the key is protected in a way that this release cannot open")
    try:
        body = base64.b64decode(text.removesuffix("\n"), validate=True)
    except binascii.Error:
        raise BadKey("the key file is damaged") from None
    if protection == _SEALED and len(body) != _SEALED_BYTES:
        raise BadKey("the key file is damaged")
    if _line(role, protection, body) != data:
        raise BadKey("the key file is damaged")
    if protection == _PLAIN:
        return KeyFile(role, KeyPair.from_seed(body).public, None, body)
    passes, kib, salt, _, public = _HEAD.unpack_from(body)
    cost = Cost(salt, passes, kib * 1024)
    if not cost.is_bounded:
        raise BadKey("the key file asks for more work than a key file may")
    return KeyFile(role, public, cost, body)


def _line(role: str, protection: str, body: bytes) -> bytes:
    if role not in ROLES:
        raise BadKey(f"there is no key of the role {role}")
    return f"{_MAGIC} {role} {protection} {base64.b64encode(body).decode()}\n".encode()


def _bound(role: str, head: bytes) -> bytes:
    return b"%b\0%b\0%b" % (_MAGIC.encode(), role.encode(), head)
