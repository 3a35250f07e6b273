"""The example blocks of docs/protocol-audit.md, made by the real code from fixed seeds.

`python tests/support/spec_audit_blocks.py` writes them into the document again after a change of
the wire; tests/project/test_spec_audit_examples.py compares them.
"""

import hashlib
import json
import re
import sys
from typing import TYPE_CHECKING

from places import ROOT, SUPPORT

if TYPE_CHECKING:
    from protocol.messages import Message

DOCUMENT = ROOT / "docs" / "protocol-audit.md"

_BLOCK = re.compile(r"```hex ([a-z-]+)\n(.*?)```", re.DOTALL)


def blocks_of(document: str) -> dict[str, str]:
    """Name to text of all example blocks."""
    return dict(_BLOCK.findall(document))


def make_blocks() -> dict[str, str]:
    """Every example as it must be in the document."""
    from spec_blocks import annotated_frame

    from protocol import messages
    from protocol.frames import FrameKind, frame_header

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
        *make_exchange_messages(),
    ]


def make_exchange_messages() -> list["Message"]:
    """The messages about receipts and comparisons, for one transfer from North to South."""
    from keys.fingerprint import fingerprint
    from keys.identity import KeyPair
    from protocol.log.checkpoint import Checkpoint, sign_checkpoint
    from protocol.log.entry import Event, Opening, encode_entry
    from protocol.log.note import Signer
    from protocol.log.tree import inclusion_proof, leaf_hash, range_root
    from protocol.receipt import Receipt, sign_receipt
    from protocol.receipt_messages import AskReceipt, PresentReceipt, PresentStored, StoredNoted
    from protocol.reconcile import GRACE_SECONDS, Ledger, compare
    from protocol.reconcile_messages import (
        AskExchanges,
        Exchanges,
        Listed,
        PresentResult,
        ProvenEntry,
        make_result,
        sign_result,
    )
    from protocol.stored import COMMITMENT, Stored, sign_stored

    north, north_node, log, south, south_node = (
        KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3, 5, 6)
    )
    now, transfer, session = 1_790_000_000_000, bytes(range(16)), bytes(range(16, 32))
    content = {"manifest": b"m" * 32, "content_root": b"r" * 32, "instances": 2, "bytes": 64}
    receipt = Receipt(
        transfer=transfer,
        source_facility=north.public,
        recipient_facility=south.public,
        source_node=north_node.public,
        recipient_node=south_node.public,
        **content,  # type: ignore[arg-type]
        batches=1,
        encoded_bytes=72,
        purpose="treatment",
        time=now,
        status="received",
    ).encode()

    # North's log: the first entry is about no peer, the second about South.
    said = {
        name: value.hex() if isinstance(value, bytes) else value for name, value in content.items()
    }
    opening = Opening("study", "1.2.840.113619.2.55", bytes(range(16)))
    begun = Event(
        type="disclosure-begun",
        peer=south.public,
        purpose="treatment",
        subjects=((opening.kind, opening.value),),
        details={"transfer": transfer.hex(), "direction": "out", **said},  # type: ignore[dict-item]
    )
    entries = [
        encode_entry(Event(type="start"), index=0, time_ms=now, openings=()),
        encode_entry(begun, index=1, time_ms=now, openings=[opening]),
    ]
    leaves = [leaf_hash(entry) for entry in entries]
    root = range_root(leaves)(0, 2)
    origin = f"radmesh.log/{fingerprint(north.public)}"
    note = sign_checkpoint(Checkpoint(origin, 2, root), Signer(origin, log))
    part = Exchanges(
        checkpoint=note.encode(),
        time=now,
        more=False,
        entries=(
            ProvenEntry(entry=entries[1], proof=tuple(inclusion_proof(1, 2, range_root(leaves)))),
        ),
    )
    # South's log has no entries about North. South asks, so it is A.
    a, b = Ledger(north.public), Ledger(south.public)
    b.add(json.loads(entries[1]))
    for ledger in (a, b):
        ledger.reaches(now)
    empty = hashlib.sha256().digest()
    result = make_result(
        session=session,
        facilities=(south.public, north.public),
        nodes=(south_node.public, north_node.public),
        listed=(
            Listed(1, leaf_hash(b"the only entry"), now, 0, empty),
            Listed(2, root, now, 1, hashlib.sha256(leaves[1]).digest()),
        ),
        comparison=compare(a, b),
        grace_seconds=GRACE_SECONDS,
    ).encode()
    stored = sign_stored(
        Stored(
            transfer=transfer,
            source_facility=north.public,
            recipient_facility=south.public,
            recipient_node=south_node.public,
            content_root=b"r" * 32,
            instances=2,
            proven_by=COMMITMENT,
            proven_at=now // 1000 - 60,
            time=now,
        ),
        south_node,
    )
    return [
        PresentReceipt(body=receipt, signature=sign_receipt(receipt, south_node)),
        AskReceipt(transfer=transfer),
        AskExchanges(session=session, start=0),
        part,
        PresentResult(body=result, signature=sign_result(result, south_node)),
        PresentStored(body=stored.body, signature=stored.signature),
        StoredNoted(),
    ]


def main() -> None:
    """Write the blocks into the document."""
    root = ROOT
    sys.path[:0] = [str(root), str(SUPPORT)]
    made = make_blocks()
    document = DOCUMENT.read_text()
    DOCUMENT.write_text(
        _BLOCK.sub(lambda found: f"```hex {found[1]}\n{made[found[1]]}```", document)
    )


if __name__ == "__main__":
    main()
