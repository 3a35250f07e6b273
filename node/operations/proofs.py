"""Operations on single entries of the log: a proof of one entry that anybody can check."""

import base64
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keys.canonical import canonical_json
from node.app import Node
from node.audit.log import AuditLog
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.cosigned import newest_cosigned
from node.reports.selection import Selection
from node.reports.writing import export_event, write_logged, write_parts
from protocol.log.checkpoint import parse_checkpoint_untrusted
from protocol.log.entry import Entry, decode_entry_untrusted
from protocol.log.note import parse_note_untrusted
from protocol.log.proof import TlogProof

log = logging.getLogger("radmesh.operations")

ROUND_SECONDS = 3.0
"""Longest wait for witnesses: a proof is useful without cosignatures, too."""

_INDEX = re.compile(r"[0-9]{1,15}")
_TRANSFER = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class Prove:
    """Parameters of `audit.prove`."""

    what: str
    path: parameters.Path
    openings: bool = True


async def prove(call: Call, asked: Prove) -> Result:
    """Write the proof that an entry is in the log (C2SP tlog-proof)."""
    node, path, openings = call.node, Path(asked.path), asked.openings
    index = await in_thread(_find, node.audit, asked.what.lower())
    if call.serving is not None and not await in_thread(_is_cosigned, node, index):
        try:
            await call.serving.witnessing.round(ROUND_SECONDS)
        except NodeError as error:
            log.warning("the entry is proven as the log is cosigned now: %s", error.message)

    def write() -> Result:
        signed, witnesses = _checkpoint(node, index)
        proof, entry = make_proof(
            node.audit,
            index,
            signed=signed,
            card=node.card.encoded,
            witnesses=witnesses,
            include_openings=openings,
        )
        written = write_logged(
            path,
            write_parts([proof.encode()]),
            lambda: export_event(
                "proof",
                Selection(),
                {
                    "first": index,
                    "end": index + 1,
                    "count": 1,
                    "openings": "all" if openings else "none",
                },
            ),
            node.audit,
            # The digest needs no salt: each opening has its own, so no name can be guessed.
            salted=False,
        )
        return {
            "path": str(path),
            "index": index,
            "type": entry.type,
            "bytes": written.bytes,
            "sha256": written.sha256,
            "entry": written.entry,
        }

    return await in_thread(write)


def _is_cosigned(node: Node, index: int) -> bool:
    cosigned = newest_cosigned(node)
    return cosigned is not None and cosigned.size > index


def _checkpoint(node: Node, index: int) -> tuple[str, list[bytes]]:
    """A signed checkpoint that covers the entry, and the cards of the cosigning witnesses.

    Prefers a checkpoint that enough witnesses cosigned to a newer one.
    """
    cosigned = newest_cosigned(node)
    if cosigned is None or cosigned.size <= index:
        return node.audit.latest_checkpoint(), []
    peers = [peer for peer in node.peers.store.peers if peer.facility_key in cosigned.lines]
    return cosigned.merged, [peer.card.encoded for peer in peers]


def make_proof(
    audit: AuditLog,
    index: int,
    *,
    signed: str,
    card: bytes,
    witnesses: Sequence[bytes],
    include_openings: bool,
) -> tuple[str, Entry]:
    """The proof of an entry, with all that a checker needs except the facility's fingerprint.

    Args:
        audit: the log.
        index: index of the entry, which must exist.
        signed: a signed checkpoint of this log, of a size larger than `index`.
        card: the facility card.
        witnesses: the cards of the witnesses that cosigned the checkpoint.
        include_openings: whether the proof names patients, studies and people.

    Raises:
        NodeError: the log is damaged on disk.
    """
    checkpoint = parse_checkpoint_untrusted(parse_note_untrusted(signed.encode())[0])
    [encoded] = audit.entries(index, index + 1)
    entry = decode_entry_untrusted(encoded)
    extra: dict[str, Any] = {"card": card.decode(), "entry": encoded.decode()}
    if witnesses:
        extra["witnesses"] = [each.decode() for each in witnesses]
    for name in ("receipt", "stored"):
        digest = entry.details.get(name)
        kept = audit.receipt(digest) if isinstance(digest, str) and len(digest) == 64 else None
        if kept is not None:
            extra[name] = base64.b64encode(kept).decode()
    if include_openings:
        extra["openings"] = [
            {
                "commitment": commitment,
                "index": index,
                "kind": opening.kind,
                "salt": opening.salt.hex(),
                "value": opening.value,
            }
            for _, commitment in entry.subjects
            if (opening := audit.opening_of(commitment)) is not None
        ]
    hashes = audit.inclusion_proof(index, checkpoint.size)
    return TlogProof(index, hashes, signed, canonical_json(extra)).encode(), entry


def _find(audit: AuditLog, what: str) -> int:
    """The entry with this index, or the one that says most about a transfer."""
    if _INDEX.fullmatch(what) and int(what) < audit.size:
        return int(what)
    if _TRANSFER.fullmatch(what) is None:
        raise NodeError(
            f"the log has no entry {what}",
            hint="name an entry by its number, as `radmesh audit show` lists it, or a transfer",
            code=ExitCode.NOT_FOUND,
        )
    found: dict[str, tuple[bool, int]] = {}
    mark = f'"transfer":"{what}'.encode()
    for index, encoded in enumerate(audit.entries()):
        # Decoding a million entries would take half a minute.
        if mark not in encoded:
            continue
        entry = decode_entry_untrusted(encoded)
        transfer = entry.details.get("transfer")
        if isinstance(transfer, str) and transfer.startswith(what):
            # The entry that names the receipt of both sides, or else the last entry.
            rank = entry.type == "receipt", index
            found[transfer] = max(rank, found.get(transfer, rank))
    if len(found) != 1:
        raise NodeError(
            f"the log has no entry {what}, and none of a transfer whose name begins so"
            if not found
            else f"{len(found)} transfers begin with {what}",
            hint="see `radmesh transfers` and `radmesh audit show`",
            code=ExitCode.NOT_FOUND,
        )
    [(_, index)] = found.values()
    return index


OPERATIONS = (Operation("audit.prove", Prove, prove, writes=True, local_only=True),)
