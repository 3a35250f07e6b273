"""Signed checkpoints as a verifier reads them (docs/protocol-log.md section 5)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from keys.card import Card
from protocol.verify.note import (
    SIGNED,
    NoteProblem,
    Signature,
    decode_base64,
    key_hash,
    split_note,
    verifies,
)
from protocol.verify.verdict import Code

CHECKPOINT_BYTES = 1_000_000

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class LogKey:
    """A log key and the sizes at which it is in force: `since` to `until - 1`."""

    public: bytes
    since: int
    until: int | None

    def in_force(self, size: int) -> bool:
        """Whether this key signs checkpoints of this size."""
        return self.since <= size and (self.until is None or size < self.until)


def log_keys(card: Card) -> tuple[LogKey, ...]:
    """The log keys on a card."""
    return tuple(LogKey(key.key, key.since_size, key.until_size) for key in card.log_keys)


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint.

    Attributes:
        size: number of entries.
        root: root over these entries, 32 bytes.
        text: the signed text.
        others: the signatures by keys other than the log's.
    """

    size: int
    root: bytes
    text: str
    others: tuple[Signature, ...]


class CheckpointProblem(Exception):
    """A checkpoint does not hold; `size` is the size that it claims, -1 if it claims none."""

    def __init__(self, code: Code, reason: str, size: int = -1) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.size = size


def read_checkpoint(data: bytes, origin: str) -> SignedCheckpoint:
    """Read a checkpoint of the log `origin` without checking signatures.

    Raises:
        CheckpointProblem: CP_ORIGIN or CP_BAD.
    """
    try:
        text, signatures = split_note(data)
        lines = text[:-1].split("\n")
        if len(lines) < 3 or not all(lines):
            raise NoteProblem("has not the lines it must have")
        if lines[0] != origin:
            raise CheckpointProblem(
                Code.CP_ORIGIN, f"is of the log {lines[0][:200]!a}, not of this one"
            )
        if _SIZE.fullmatch(lines[1]) is None:
            raise NoteProblem("has a malformed size")
        root = decode_base64(lines[2])
        if len(root) != 32:
            raise NoteProblem("has a malformed root")
    except NoteProblem as problem:
        raise CheckpointProblem(Code.CP_BAD, str(problem)) from None
    return SignedCheckpoint(int(lines[1]), root, text, tuple(signatures))


def open_checkpoint(data: bytes, origin: str, keys: Sequence[LogKey]) -> SignedCheckpoint:
    """Check a checkpoint of the log `origin` with the key in force at its size.

    Raises:
        CheckpointProblem: CP_ORIGIN or CP_BAD.
    """
    checkpoint = read_checkpoint(data, origin)
    size, message = checkpoint.size, checkpoint.text.encode()
    signed, others = False, []
    for signature in checkpoint.others:
        key = _by_hash(signature, origin, keys)
        if key is None:
            others.append(signature)
        elif not verifies(key.public, message, signature.raw):
            raise _bad("has a signature that does not hold", size)
        elif not key.in_force(size):
            raise _bad(f"of size {size} is signed by a log key not in force at that size", size)
        else:
            signed = True
    if not signed:
        raise _bad("is not signed by a key of this log", size)
    return SignedCheckpoint(size, checkpoint.root, checkpoint.text, tuple(others))


def signer_of(data: bytes, origin: str, keys: Sequence[LogKey]) -> LogKey | None:
    """The key that signed a checkpoint of the log `origin`, even if not in force at its size."""
    try:
        checkpoint = read_checkpoint(data, origin)
    except CheckpointProblem:
        return None
    for signature in checkpoint.others:
        key = _by_hash(signature, origin, keys)
        if key is not None and verifies(key.public, checkpoint.text.encode(), signature.raw):
            return key
    return None


def _by_hash(signature: Signature, origin: str, keys: Sequence[LogKey]) -> LogKey | None:
    if signature.name != origin:
        return None
    for key in keys:
        if signature.key == key_hash(origin, key.public, SIGNED):
            return key
    return None


def _bad(reason: str, size: int) -> CheckpointProblem:
    return CheckpointProblem(Code.CP_BAD, reason, size)
