"""Signed checkpoints as a verifier reads them (docs/protocol-log.md section 5)."""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import nacl.bindings
import nacl.exceptions

from keys.card import Card
from protocol.verify.verdict import Code

CHECKPOINT_BYTES = 1_000_000

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True)
class LogKey:
    """A key of the log and the sizes at which it is in force: `since` to `until - 1`."""

    public: bytes
    since: int
    until: int | None

    def in_force(self, size: int) -> bool:
        """Whether checkpoints of this size are signed by this key."""
        return self.since <= size and (self.until is None or size < self.until)


def log_keys(card: Card) -> tuple[LogKey, ...]:
    """The log keys that a card names."""
    return tuple(LogKey(key.key, key.since_size, key.until_size) for key in card.log_keys)


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint that holds; `others` counts the signatures that were not checked."""

    size: int
    root: bytes
    others: int


class CheckpointProblem(Exception):
    """A checkpoint does not hold."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def open_checkpoint(data: bytes, origin: str, keys: Sequence[LogKey]) -> SignedCheckpoint:
    """Check a checkpoint of the log `origin` by the key in force at its size.

    Raises:
        CheckpointProblem: CP_ORIGIN or CP_BAD.
    """
    text, signatures = _split(data)
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise _bad("has not the lines it must have")
    if lines[0] != origin:
        raise CheckpointProblem(Code.CP_ORIGIN, f"is of the log {lines[0]!a}, not of this one")
    if _SIZE.fullmatch(lines[1]) is None:
        raise _bad("has a malformed size")
    size, root = int(lines[1]), _decode(lines[2])
    if len(root) != 32:
        raise _bad("has a malformed root")
    valid = {key.public for key in keys if key.in_force(size)}
    held = 0
    for name, signature in signatures:
        for key in keys:
            if name != origin or signature[:4] != _key_hash(origin, key.public):
                continue
            if not _verifies(key.public, text.encode(), signature[4:]):
                raise _bad("has a signature that does not hold")
            if key.public not in valid:
                raise _bad(f"of size {size} is signed by a log key not in force at that size")
            held += 1
    if not held:
        raise _bad("is not signed by a key of this log")
    return SignedCheckpoint(size, root, len(signatures) - held)


def _split(data: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    try:
        note = data.decode()
    except UnicodeDecodeError:
        raise _bad("is not text") from None
    text, gap, block = note.rpartition("\n\n")
    if not gap or not block.endswith("\n") or any(c < " " and c != "\n" for c in note):
        raise _bad("is not a signed note")
    signatures = []
    for line in block[:-1].split("\n"):
        found = _SIGNATURE_LINE.fullmatch(line)
        if found is None:
            raise _bad("has a malformed signature line")
        signatures.append((found[1], _decode(found[2])))
    return text + "\n", signatures


def _bad(reason: str) -> CheckpointProblem:
    return CheckpointProblem(Code.CP_BAD, reason)


def _decode(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _bad("has malformed base64") from None
    if base64.b64encode(decoded).decode() != text:
        raise _bad("has base64 that is not canonical")
    return decoded


def _key_hash(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n\1" + public).digest()[:4]


def _verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        nacl.bindings.crypto_sign_open(signature + message, public)
    except (nacl.exceptions.CryptoError, ValueError):
        return False
    return len(signature) == 64
