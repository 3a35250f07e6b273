"""What a witness decides about a checkpoint of somebody else's log.

Follows <https://c2sp.org/tlog-witness>, add-checkpoint, over our own stream
(docs/protocol-audit.md section 2). State is (size, root) per log and only ever
advances along a consistency proof. Where sources differ: a proof from size 0 must
be empty, and another root at the size that was cosigned is a fork, whatever old
size is claimed, since both checkpoints are signed by the log.
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
    """What a checkpoint is to a witness."""

    ADVANCE = "advance"
    """It extends what was cosigned: keep it, then cosign."""
    SAME = "same"
    """It is what was cosigned: cosign again."""
    STALE = "stale"
    """The proof starts from another size than the one cosigned."""
    BEHIND = "behind"
    """It is smaller than what was cosigned: the log went back."""
    FORK = "fork"
    """Another root at the size that was cosigned."""
    UNPROVEN = "unproven"
    """The proof does not lead from what was cosigned to it."""


@dataclass(frozen=True)
class Held:
    """What a witness cosigned last of a log; size 0 is nothing."""

    size: int = 0
    root: bytes = EMPTY_ROOT


def decide(held: Held, old_size: int, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Verdict:
    """Judge a checkpoint whose signature holds.

    Args:
        held: what was cosigned last.
        old_size: where the proof starts, as claimed.
        checkpoint: what is presented.
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
    """What two statements about one log say without a proof.

    Returns:
        SAME, FORK, BEHIND (the checkpoint is smaller), or ADVANCE (it is larger).
    """
    if checkpoint.size < held.size:
        return Verdict.BEHIND
    if checkpoint.size > held.size:
        return Verdict.ADVANCE
    return Verdict.SAME if checkpoint.root == held.root else Verdict.FORK


def log_key_at(keys: Sequence[SizedKey], size: int) -> bytes:
    """The log key (32 bytes) in force at a size, of those that a card lists.

    Raises:
        RemoteProtocolError: the card lists none for this size.
    """
    for listed in keys:
        if listed.since_size <= size and (listed.until_size is None or size < listed.until_size):
            return listed.key
    raise RemoteProtocolError("no log key is in force at this size", WireCode.BAD_SIGNATURE)


def open_in_force_untrusted(data: bytes, origin: str, keys: Sequence[SizedKey]) -> Checkpoint:
    """Check a signed checkpoint by the log key in force at its size.

    Args:
        data: the signed note.
        origin: of the log.
        keys: the log keys of the facility's newest card.

    Raises:
        RemoteProtocolError: not a checkpoint of that log, or not signed by that key.
    """
    claimed = parse_checkpoint_untrusted(parse_note_untrusted(data)[0])
    try:
        return open_checkpoint_untrusted(data, origin, log_key_at(keys, claimed.size))
    except RemoteProtocolError as error:
        raise RemoteProtocolError(str(error), WireCode.BAD_SIGNATURE) from None
