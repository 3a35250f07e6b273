"""The example blocks of docs/protocol-audit.md, made by the real code from fixed seeds.

`python tests/spec_audit_blocks.py` writes them into the document again after a change of
the wire; tests/test_spec_audit_examples.py compares them.
"""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.messages import Message

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "protocol-audit.md"

_BLOCK = re.compile(r"```hex ([a-z-]+)\n(.*?)```", re.DOTALL)


def blocks_of(document: str) -> dict[str, str]:
    """Name to text of all example blocks."""
    return dict(_BLOCK.findall(document))


def make_blocks() -> dict[str, str]:
    """Every example as it must stand in the document."""
    from spec_blocks import annotated_frame

    from protocol import messages
    from protocol.wire import FrameKind, frame_header

    def block(message: "Message") -> str:
        payload = messages.encode(message)
        return annotated_frame(frame_header(FrameKind.MESSAGE, len(payload)) + payload)

    return {message.TYPE: block(message) for message in make_messages()}


def make_messages() -> list["Message"]:
    """One message of each type."""
    from keys.fingerprint import fingerprint
    from keys.identity import KeyPair
    from protocol.audit_messages import AddCheckpoint, CheckpointHeld, Cosigned, GetCheckpoint
    from protocol.log.checkpoint import Checkpoint, sign_checkpoint
    from protocol.log.cosignature import cosign, witness_name
    from protocol.log.note import Signer
    from protocol.log.tree import consistency_proof, leaf_hash, range_root

    facility, log, witness, other = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 3, 4, 5))
    origin = f"radmesh.log/{fingerprint(facility.public)}"
    leaves = [leaf_hash(b"entry %d" % number) for number in range(3)]
    root_of = range_root(leaves)
    checkpoints = [Checkpoint(origin, size, root_of(0, size)) for size in (2, 3)]
    old, new = (sign_checkpoint(one, Signer(origin, log)).encode() for one in checkpoints)
    line = cosign(checkpoints[1].encode(), witness_name(other.public), witness, 1_790_000_000)
    return [
        GetCheckpoint(checkpoint=new),
        CheckpointHeld(size=2, checkpoint=old),
        AddCheckpoint(old=2, proof=tuple(consistency_proof(2, 3, root_of)), checkpoint=new),
        Cosigned(line=line.encode()),
    ]


def main() -> None:
    """Write the blocks into the document."""
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root), str(root / "tests")]
    made = make_blocks()
    document = DOCUMENT.read_text()
    DOCUMENT.write_text(
        _BLOCK.sub(lambda found: f"```hex {found[1]}\n{made[found[1]]}```", document)
    )


if __name__ == "__main__":
    main()
