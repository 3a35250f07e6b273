"""Key files under a passphrase, as bytes: the form in which a backup may hold them.

One JSON object: the parameters of Argon2id, its salt, a nonce, and the files, sealed with
XChaCha20-Poly1305 and bound to the rest. The caller supplies the random bytes.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import nacl.bindings
import nacl.exceptions

from keys.canonical import canonical_json
from keys.errors import BadKey
from keys.passphrase import MEMORY_BYTES, PASSES, SALT_BYTES, Cost, derive

NONCE_BYTES = 24

SEALED_BYTES = 64 * 1024
"""Most bytes of the sealed form: four files of one line each take two thousand."""

_NAMES = {"kdf", "memory", "nonce", "passes", "salt", "sealed", "v"}


def derive_key(passphrase: str, salt: bytes) -> bytes:
    """Derive the key (32 bytes) of a passphrase; takes a second and 256 MiB."""
    return derive(passphrase, Cost(salt, PASSES, MEMORY_BYTES)).key


def seal_files(key: bytes, salt: bytes, nonce: bytes, files: Mapping[str, str]) -> bytes:
    """Seal files.

    Args:
        key: the key from `derive_key`.
        salt: the salt with which the key was derived, 16 bytes.
        nonce: 24 random bytes, new for each call.
        files: name to text.
    """
    header = _header(salt, nonce)
    sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        canonical_json(dict(files)), canonical_json(header), nonce, key
    )
    return canonical_json({**header, "sealed": base64.b64encode(sealed).decode()}) + b"\n"


def open_files_untrusted(data: bytes, passphrase: str) -> dict[str, str]:
    """Open what `seal_files` made.

    Raises:
        BadKey: the passphrase is wrong, or the data is damaged or of another release.
    """
    value = _parse(data)
    try:
        salt, nonce = bytes.fromhex(value["salt"]), bytes.fromhex(value["nonce"])
        sealed = base64.b64decode(value["sealed"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise BadKey("the sealed keys are damaged") from None
    header = _header(salt, nonce)
    is_known = {name: value[name] for name in header} == header
    if not is_known or len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise BadKey("the sealed keys are of a form that this release does not know")
    try:
        opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            sealed, canonical_json(header), nonce, derive_key(passphrase, salt)
        )
    except nacl.exceptions.CryptoError:
        raise BadKey("the passphrase is not the one of these keys, or they are damaged") from None
    files: dict[str, str] = json.loads(opened)
    return files


def _header(salt: bytes, nonce: bytes) -> dict[str, Any]:
    return {
        "kdf": "argon2id",
        "memory": MEMORY_BYTES,
        "nonce": nonce.hex(),
        "passes": PASSES,
        "salt": salt.hex(),
        "v": 1,
    }


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data[:SEALED_BYTES])
    except (ValueError, RecursionError):
        raise BadKey("the sealed keys are damaged") from None
    if not isinstance(value, dict) or value.keys() != _NAMES:
        raise BadKey("the sealed keys are damaged")
    return value
