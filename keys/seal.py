"""Sealing of one transfer: only the node to which it is addressed can open its chunks.

Both sides make an X25519 key for this transfer alone. The shared secret goes
through HKDF-SHA256, bound to both node keys, both ephemeral keys and the
transfer id; chunks are sealed with XChaCha20-Poly1305. Sealing protects data outside the
channel (relayed, spooled, written to a disc); on the channel, Noise protects it once more.
Sealing does not prove the peers' identity: the signatures on the messages that carry the
ephemeral keys do.

The nonce is made of kind and index, never random: a key serves one session, in
which every kind and index is sealed at most once with one content. A transfer
that resumes after a break agrees a new key.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Any

import nacl.bindings
import nacl.exceptions
import nacl.utils
from nacl._sodium import ffi, lib

from keys.errors import BadKey, SealBroken

KEY_BYTES = 32
TRANSFER_ID_BYTES = 16
DIGEST_BYTES = 32
TAG_BYTES = 16

KIND_MANIFEST = 1
KIND_BATCH = 2

_SALT = b"radmesh-seal-v1"
_DOMAIN = b"radmesh-chunk-v1"


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
    return _hkdf_sha256(secret, salt=_SALT, info=b"".join(publics) + transfer_id)


class Sealer:
    """Seals and opens the chunks of one transfer session.

    Args:
        key: from `transfer_key`, 32 bytes.
        transfer_id: 16 bytes.
        manifest_digest: digest of the manifest to which the chunks belong, 32 bytes.
    """

    __slots__ = ("_context", "_key")

    def __init__(self, key: bytes, transfer_id: bytes, manifest_digest: bytes) -> None:
        lengths = (len(key), len(transfer_id), len(manifest_digest))
        if lengths != (KEY_BYTES, TRANSFER_ID_BYTES, DIGEST_BYTES):
            raise BadKey("the key, transfer id or manifest digest has a wrong length")
        self._key = bytes(key)
        self._context = _DOMAIN + bytes(transfer_id) + bytes(manifest_digest)

    def seal(self, kind: int, index: int, data: bytes | bytearray | memoryview) -> bytes:
        """Seal one chunk; never call it twice for one kind and index with different data.

        Args:
            kind: `KIND_MANIFEST` or `KIND_BATCH`.
            index: index of the chunk among its kind, from 0.
            data: the content of the chunk.

        Returns:
            The sealed chunk, 16 bytes longer than `data`.
        """
        ad, nonce = self._bound(kind, index)
        with memoryview(data) as view:
            sealed = bytes(view.nbytes + TAG_BYTES)
            result = lib.crypto_aead_xchacha20poly1305_ietf_encrypt(
                _into(sealed),
                ffi.NULL,
                ffi.from_buffer(view),
                view.nbytes,
                ad,
                len(ad),
                ffi.NULL,
                nonce,
                self._key,
            )
        _check(result)
        return sealed

    def open(self, kind: int, index: int, sealed: bytes | bytearray | memoryview) -> bytes:
        """Open one chunk.

        Raises:
            SealBroken: the chunk was not sealed for this transfer, kind and index.
        """
        ad, nonce = self._bound(kind, index)
        with memoryview(sealed) as view:
            size = view.nbytes - TAG_BYTES
            if size < 0:
                raise SealBroken("a sealed chunk is shorter than its tag")
            data = bytes(size)
            result = lib.crypto_aead_xchacha20poly1305_ietf_decrypt(
                _into(data),
                ffi.NULL,
                ffi.NULL,
                ffi.from_buffer(view),
                view.nbytes,
                ad,
                len(ad),
                nonce,
                self._key,
            )
        _check(result)
        return data

    def _bound(self, kind: int, index: int) -> tuple[bytes, bytes]:
        """The data to which a chunk is bound besides its key, and its nonce of 24 bytes."""
        place = struct.pack(">IQ", kind, index)
        return self._context + place, bytes(12) + place


def _check(result: int) -> None:
    if result != 0:
        raise SealBroken("a sealed chunk does not open")


def _into(fresh: bytes) -> Any:
    """A writable buffer over new bytes, safe only while nobody else has a reference to them.

    PyNaCl's own functions copy their input, clear a buffer, and copy it again, which takes
    longer than the cipher. Filling new bytes in place is safe: CPython itself makes bytes so.
    Only the empty bytes object is shared by all, but then libsodium writes nothing.
    """
    return ffi.from_buffer(fresh)


def _hkdf_sha256(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for an output of one hash, 32 bytes."""
    extracted = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)
