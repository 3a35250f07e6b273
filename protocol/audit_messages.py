"""The messages of `/radmesh/audit/1` about witnesses (docs/protocol-audit.md section 2).

A stream carries one request and one answer, or a `Refusal`; the type of the first message
determines the request. These messages are not signed; the checkpoints and cosignatures
in them are.
"""

from dataclasses import dataclass
from typing import ClassVar

from protocol import limits
from protocol.fields import binary, hashes, number
from protocol.messages import Message


@dataclass(frozen=True, kw_only=True)
class GetCheckpoint(Message):
    """Ask a peer for the newest checkpoint of our own log that it cosigned.

    `checkpoint` is the newest that we have signed, so that the peer too learns of a log that
    went back.
    """

    TYPE: ClassVar[str] = "get-checkpoint"
    checkpoint: bytes = binary(limits.CHECKPOINT_BYTES)


@dataclass(frozen=True, kw_only=True)
class AddCheckpoint(Message):
    """Ask a peer to cosign a checkpoint of our own log (C2SP tlog-witness, add-checkpoint).

    `old` is the size that the peer cosigned last, 0 for none; `proof` leads from `old` to
    the size of `checkpoint`, a signed note.
    """

    TYPE: ClassVar[str] = "add-checkpoint"
    old: int = number()
    proof: tuple[bytes, ...] = hashes(limits.PROOF_HASHES)
    checkpoint: bytes = binary(limits.CHECKPOINT_BYTES)


@dataclass(frozen=True, kw_only=True)
class CheckpointHeld(Message):
    """What the witness cosigned last: the size, and the checkpoint as its log signed it.

    The answer to `GetCheckpoint`, and to an `AddCheckpoint` that starts from another
    size or has another root. Size 0 and no bytes if nothing was cosigned so far.
    """

    TYPE: ClassVar[str] = "checkpoint-held"
    size: int = number()
    checkpoint: bytes = binary(limits.CHECKPOINT_BYTES)


@dataclass(frozen=True, kw_only=True)
class Cosigned(Message):
    """The witness has cosigned: `line` is the signature line (C2SP tlog-cosignature)."""

    TYPE: ClassVar[str] = "cosigned"
    line: bytes = binary(limits.COSIGNATURE_BYTES)
