"""What a witness decides about a checkpoint of somebody else's log.

Follows <https://c2sp.org/tlog-witness>, add-checkpoint, over our own stream
(docs/protocol-audit.md section 2). State is (size, root) per log and only ever
advances along a consistency proof. Two choices where sources differ: a proof from size 0
must be empty; and another root at the cosigned size is a fork even if the request claims
another old size, because the log signed both checkpoints.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from keys.card_fields import SizedKey
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.checkpoint import (
    Checkpoint,
    open_checkpoint_untrusted,
    parse_checkpoint_untrusted,
)
from protocol.log.note import parse_note_untrusted
from protocol.log.tree import EMPTY_ROOT, check_consistency


class Verdict(enum.Enum):
    """A witness's judgement of a checkpoint."""

    ADVANCE = "advance"
    """It extends the cosigned checkpoint: keep it, then cosign."""
    SAME = "same"
    """It has the cosigned size and root: cosign again."""
    STALE = "stale"
    """The proof does not start from the cosigned size."""
    BEHIND = "behind"
    """It is smaller than the cosigned size: the log went back."""
    FORK = "fork"
    """It has another root at the cosigned size."""
    UNPROVEN = "unproven"
    """The proof does not lead from the cosigned root to its root."""


@dataclass(frozen=True)
class Held:
    """The size and root of a log that a witness cosigned last; size 0 if none."""

    size: int = 0
    root: bytes = EMPTY_ROOT


def decide(held: Held, old_size: int, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Verdict:
    """Judge a checkpoint whose signature holds.

    Args:
        held: what the witness cosigned last.
        old_size: the size from which the proof claims to start.
        checkpoint: the presented checkpoint.
        proof: consistency proof from `old_size` to the checkpoint's size.

    Raises:
        RemoteProtocolError: the request contradicts itself.
    """
    if old_size > checkpoint.size:
        raise RemoteProtocolError("the old size is larger than the checkpoint's")
    seen = compare(held, checkpoint)
    if seen in (Verdict.FORK, Verdict.BEHIND):
        return seen
    if old_size != held.size:
        return Verdict.STALE
    if seen is Verdict.SAME or old_size == 0:
        return Verdict.UNPROVEN if proof else seen
    try:
        check_consistency(held.size, checkpoint.size, held.root, checkpoint.root, proof)
    except RemoteProtocolError:
        return Verdict.UNPROVEN
    return Verdict.ADVANCE


def compare(held: Held, checkpoint: Checkpoint) -> Verdict:
    """Compare two statements about one log without a proof.

    Returns:
        SAME, FORK, BEHIND (the checkpoint is smaller), or ADVANCE (it is larger).
    """
    if checkpoint.size < held.size:
        return Verdict.BEHIND
    if checkpoint.size > held.size:
        return Verdict.ADVANCE
    return Verdict.SAME if checkpoint.root == held.root else Verdict.FORK


def log_key_at(keys: Sequence[SizedKey], size: int) -> bytes:
    """The log key (32 bytes) on a card that is in force at a size.

    Raises:
        RemoteProtocolError: the card lists no key for this size.
    """
    for listed in keys:
        if listed.since_size <= size and (listed.until_size is None or size < listed.until_size):
            return listed.key
    raise RemoteProtocolError("no log key is in force at this size", WireCode.BAD_SIGNATURE)


def open_in_force_untrusted(data: bytes, origin: str, keys: Sequence[SizedKey]) -> Checkpoint:
    """Check a signed checkpoint with the log key in force at its size.

    Args:
        data: the signed note.
        origin: the log's origin.
        keys: the log keys of the facility's newest card.

    Raises:
        RemoteProtocolError: not a checkpoint of that log, or not signed by that key.
    """
    claimed = parse_checkpoint_untrusted(parse_note_untrusted(data)[0])
    try:
        return open_checkpoint_untrusted(data, origin, log_key_at(keys, claimed.size))
    except RemoteProtocolError as error:
        raise RemoteProtocolError(str(error), WireCode.BAD_SIGNATURE) from None
