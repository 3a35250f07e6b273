"""Sealing of one transfer: only the node to which it is addressed can open its chunks.

Both sides make an X25519 key for this transfer alone. The shared secret goes
through HKDF-SHA256, bound to both node keys, both ephemeral keys and the
transfer id; chunks are sealed with XChaCha20-Poly1305. Sealing protects data outside the
channel (relayed, spooled, written to a disc); on the channel, Noise protects it once more.
Sealing does not prove the peers' identity: the signatures on the messages that carry the
ephemeral keys do.

XChaCha20-Poly1305 is ChaCha20-Poly1305 under a key that HChaCha20 makes of our key and the
first 16 bytes of the nonce (draft-irtf-cfrg-xchacha section 2.3). Those hold the kind alone, so
there is one such key for each kind, and OpenSSL does the rest, three times as fast as libsodium.

The nonce is made of kind and index, never random: a key serves one session, in
which every kind and index is sealed at most once with one content. A transfer
that resumes after a break agrees a new key.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable

import nacl.bindings
import nacl.exceptions
import nacl.utils
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from keys.errors import BadKey, SealBroken

KEY_BYTES = 32
TRANSFER_ID_BYTES = 16
DIGEST_BYTES = 32
TAG_BYTES = 16

KIND_MANIFEST = 1
KIND_BATCH = 2

_SALT = b"radmesh-seal-v1"
_DOMAIN = b"radmesh-chunk-v1"
_CONSTANTS = b"expand 32-byte k"
"""The first words of ChaCha20's input (RFC 8439 section 2.3)."""


class EphemeralKey:
    """An X25519 key (RFC 7748) that lives as long as one transfer session.

    Attributes:
        public: 32 bytes, sent to the other side under a signature.
    """

    __slots__ = ("_secret", "public")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise BadKey(f"an ephemeral key has {KEY_BYTES} bytes, this one {len(secret)}")
        self._secret = bytes(secret)
        self.public = nacl.bindings.crypto_scalarmult_base(self._secret)

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = nacl.utils.random) -> "EphemeralKey":
        """Make a new key from `random(32)`."""
        return cls(random(KEY_BYTES))

    def agree(self, theirs_public: bytes) -> bytes:
        """The X25519 shared secret, 32 bytes.

        Raises:
            BadKey: the other key is not 32 bytes, or is one of the few that make the
                secret zero for any key of ours (RFC 7748 section 6.1).
        """
        if len(theirs_public) != KEY_BYTES:
            raise BadKey(f"an ephemeral key has {KEY_BYTES} bytes, not {len(theirs_public)}")
        try:
            return nacl.bindings.crypto_scalarmult(self._secret, bytes(theirs_public))
        except nacl.exceptions.RuntimeError:
            # libsodium raises this for an all-zero result.
            raise BadKey("the other side's ephemeral key has no shared secret") from None


def transfer_key(
    ours: EphemeralKey,
    theirs_public: bytes,
    *,
    source_node: bytes,
    recipient_node: bytes,
    source_ephemeral: bytes,
    recipient_ephemeral: bytes,
    transfer_id: bytes,
) -> bytes:
    """Agree the key of one transfer session; both sides get the same key.

    Args:
        ours: our ephemeral key.
        theirs_public: the other side's, 32 bytes.
        source_node: the source's node key, 32 bytes.
        recipient_node: the recipient's node key, 32 bytes.
        source_ephemeral: the source's ephemeral public key, 32 bytes.
        recipient_ephemeral: the recipient's ephemeral public key, 32 bytes.
        transfer_id: 16 bytes.

    Returns:
        32 bytes.

    Raises:
        BadKey: a key has a wrong length or no shared secret.
    """
    publics = (source_node, recipient_node, source_ephemeral, recipient_ephemeral)
    if any(len(public) != KEY_BYTES for public in publics):
        raise BadKey(f"a public key has {KEY_BYTES} bytes")
    if len(transfer_id) != TRANSFER_ID_BYTES:
        raise BadKey(f"a transfer id has {TRANSFER_ID_BYTES} bytes")
    secret = ours.agree(theirs_public)
    return hkdf_sha256(secret, salt=_SALT, info=b"".join(publics) + transfer_id)


class Sealer:
    """Seals and opens the chunks of one transfer session.

    Args:
        key: from `transfer_key`, 32 bytes.
        transfer_id: 16 bytes.
        manifest_digest: digest of the manifest to which the chunks belong, 32 bytes.
    """

    __slots__ = ("_ciphers", "_context", "_key")

    def __init__(self, key: bytes, transfer_id: bytes, manifest_digest: bytes) -> None:
        lengths = (len(key), len(transfer_id), len(manifest_digest))
        if lengths != (KEY_BYTES, TRANSFER_ID_BYTES, DIGEST_BYTES):
            raise BadKey("the key, transfer id or manifest digest has a wrong length")
        self._key = bytes(key)
        self._context = _DOMAIN + bytes(transfer_id) + bytes(manifest_digest)
        self._ciphers: dict[int, ChaCha20Poly1305] = {}

    def seal(self, kind: int, index: int, data: bytes | bytearray | memoryview) -> bytes:
        """Seal one chunk; never call it twice for one kind and index with different data.

        Args:
            kind: `KIND_MANIFEST` or `KIND_BATCH`.
            index: index of the chunk among its kind, from 0.
            data: the content of the chunk.

        Returns:
            The sealed chunk, 16 bytes longer than `data`.
        """
        nonce, bound = self._bound(kind, index)
        return self._cipher(kind).encrypt(nonce, data, bound)

    def open(self, kind: int, index: int, sealed: bytes | bytearray | memoryview) -> bytes:
        """Open one chunk.

        Raises:
            SealBroken: the chunk was not sealed for this transfer, kind and index.
        """
        nonce, bound = self._bound(kind, index)
        try:
            return self._cipher(kind).decrypt(nonce, sealed, bound)
        except InvalidTag:
            raise SealBroken("a sealed chunk does not open") from None

    def _cipher(self, kind: int) -> ChaCha20Poly1305:
        cipher = self._ciphers.get(kind)
        if cipher is None:
            # Two threads may both make it: the ciphers are the same.
            subkey = hchacha20(self._key, bytes(12) + struct.pack(">I", kind))
            cipher = self._ciphers[kind] = ChaCha20Poly1305(subkey)
        return cipher

    def _bound(self, kind: int, index: int) -> tuple[bytes, bytes]:
        """The nonce behind the kind, 12 bytes, and the data to which the chunk is bound."""
        place = struct.pack(">IQ", kind, index)
        return bytes(4) + place[4:], self._context + place


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 (draft-irtf-cfrg-xchacha section 2.2): a key of 32 bytes for one nonce of 16.

    ChaCha20's block is the same permutation with its input added (RFC 8439 section 2.3), so the
    block less the input is what is wanted.
    """
    block = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", block)
    constants, inputs = struct.unpack("<4I", _CONSTANTS), struct.unpack("<4I", nonce)
    added = [*zip(words[:4], constants, strict=True), *zip(words[12:], inputs, strict=True)]
    return struct.pack("<8I", *((word - input_) & 0xFFFFFFFF for word, input_ in added))


def hkdf_sha256(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for an output of one hash, 32 bytes."""
    extracted = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)
