"""Signed notes and Ed25519 signatures as a verifier reads them.

Formats: <https://c2sp.org/signed-note>, <https://c2sp.org/tlog-cosignature>.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

import nacl.bindings
import nacl.exceptions

SIGNED = 1
"""Type of a signature over the text itself."""

COSIGNED = 4
"""Type of a cosignature: over a time and the text."""

_LINES = 100
"""Most signature lines of a note, the bound of golang.org/x/mod/sumdb/note."""

_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_CONTROL = re.compile(r"[\0-\x09\x0b-\x1f]")
_KEY_HASH = re.compile(r"[0-9a-f]{8}")


class NoteProblem(Exception):
    """Data is not a signed note, base64 or key; the text ends the sentence "it ..."."""


@dataclass(frozen=True)
class Signature:
    """A signature line: the claimed name, the key hash (4 bytes), and the rest."""

    name: str
    key: bytes
    raw: bytes


@dataclass(frozen=True)
class NamedKey:
    """A public key (32 bytes) and the name under which it signs."""

    name: str
    public: bytes


def split_note(data: bytes) -> tuple[str, list[Signature]]:
    """The text of a note, with its last line end, and its signature lines.

    Raises:
        NoteProblem: not a note.
    """
    try:
        note = data.decode()
    except UnicodeDecodeError:
        raise NoteProblem("is not text") from None
    text, gap, block = note.rpartition("\n\n")
    if not gap or not block.endswith("\n") or _CONTROL.search(note) is not None:
        raise NoteProblem("is not a signed note")
    lines = block[:-1].split("\n")
    if len(lines) > _LINES:
        raise NoteProblem(f"has more than {_LINES} signatures")
    signatures = []
    for line in lines:
        found = _SIGNATURE_LINE.fullmatch(line)
        raw = decode_base64(found[2]) if found is not None else b""
        if found is None or len(raw) < 5:
            raise NoteProblem("has a malformed signature line")
        signatures.append(Signature(found[1], raw[:4], raw[4:]))
    return text + "\n", signatures


def decode_base64(text: str) -> bytes:
    """Decode padded base64 in its canonical form.

    Raises:
        NoteProblem: not base64 in that form.
    """
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteProblem("has malformed base64") from None
    if base64.b64encode(decoded).decode() != text:
        raise NoteProblem("has base64 that is not canonical")
    return decoded


def key_hash(name: str, public: bytes, kind: int) -> bytes:
    """The 4 bytes by which signature lines of this kind refer to a key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def parse_vkey(text: str, kinds: tuple[int, ...]) -> NamedKey:
    """Read a key `name+hash+base64` of one of the signature types `kinds`.

    Raises:
        NoteProblem: malformed, of another type, or its hash is wrong.
    """
    name, _, rest = text.partition("+")
    hashed, _, encoded = rest.partition("+")
    if not name or any(c.isspace() for c in name) or _KEY_HASH.fullmatch(hashed) is None:
        raise NoteProblem("is not a key of the form name+hash+base64")
    key = decode_base64(encoded)
    if len(key) != 33 or key[0] not in kinds:
        raise NoteProblem("is not an Ed25519 key of the right type")
    if key_hash(name, key[1:], key[0]).hex() != hashed:
        raise NoteProblem("has a hash that is not that of its key")
    return NamedKey(name, key[1:])


def verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature (64 bytes) by a key (32 bytes) holds.

    Follows the rule of docs/protocol-log.md section 1.1, which is libsodium's.
    """
    try:
        nacl.bindings.crypto_sign_open(signature + message, public)
    except (nacl.exceptions.CryptoError, ValueError):
        return False
    return len(signature) == 64
