"""Operations that hand over evidence about other facilities' logs (protocol-log.md section 13).

The evidence is receipts of exchanges with a facility, and the checkpoints that we cosigned
of its log. `radmesh-verify` compares both with that facility's own log; they name no patient.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.selecting import Narrowed, read_selection
from node.reports.records import Record, records
from node.reports.selection import Selection
from node.reports.writing import export_event, write_logged, write_parts
from protocol.log.cosignature import cosign, witness_name
from protocol.log.note import parse_note_untrusted

RECEIPTS_HEADER = b"radmesh-receipts/1\n"
CHECKPOINTS_HEADER = b"radmesh-checkpoints/1\n"


@dataclass(frozen=True, kw_only=True)
class Receipts(Narrowed):
    """Parameters of `audit.receipts`."""

    path: parameters.Path | None = None


@dataclass(frozen=True)
class Cosigned:
    """Parameters of `audit.cosigned`."""

    path: parameters.Path
    peer: str | None = None


async def receipts(call: Call, asked: Receipts) -> Result:
    """The receipts that our log names, oldest first; with `path`, write them to that file."""
    node = call.node

    def run() -> Result:
        selection = read_selection(node, asked)
        found = [
            record
            for record in records(node.audit, _of_receipts(selection))
            if isinstance(record.details.get("receipt"), str)
        ]
        if not asked.path:
            return {"receipts": [_described(node, record) for record in found]}
        kept = [node.audit.receipt(str(record.details["receipt"])) for record in found]
        blobs = [blob for blob in kept if blob is not None]
        span: dict[str, str | int | bool] = {}
        if found:
            span = {"first": found[0].index, "end": found[-1].index + 1}
        written = _write(node, asked.path, "receipts", RECEIPTS_HEADER, blobs, selection, span)
        return {**written, "missing": len(kept) - len(blobs)}

    return await in_thread(run)


def _of_receipts(selection: Selection) -> Selection:
    return Selection(
        since=selection.since,
        until=selection.until,
        peer=selection.peer,
        study=selection.study,
        types=frozenset(("receipt",)),
    )


def _described(node: Node, record: Record) -> dict[str, Any]:
    outgoing = record.details.get("direction") == "out"
    return {
        "entry": record.index,
        "time": record.time,
        "peer": node.petname(bytes.fromhex(record.entry["peer"])),
        "direction": "out" if outgoing else "in",
        "transfer": record.details.get("transfer", ""),
        "receipt": record.details["receipt"],
    }


async def cosigned(call: Call, asked: Cosigned) -> Result:
    """Write the checkpoints that we cosigned of peers' logs, and contradicting ones, to a file."""
    node = call.node

    def run() -> Result:
        selection = Selection(peer=_facility(node, asked.peer))
        notes = [
            note
            for facility, note in _cosigned_notes(node)
            if selection.peer in ("", facility.hex())
        ]
        return _write(node, asked.path, "checkpoints", CHECKPOINTS_HEADER, notes, selection, {})

    return await in_thread(run)


def _facility(node: Node, peer: str | None) -> str:
    return node.peers.find(peer).facility_key.hex() if peer else ""


def _cosigned_notes(node: Node) -> Iterable[tuple[bytes, bytes]]:
    """Facility keys, and the signed checkpoints that we know of their logs."""
    own = node.card.facility_key
    name, key = witness_name(own), node.keys.witness
    in_force_since = node.card.witness_keys[-1].since
    for facility, _, time in node.witness_store.all_held():
        note = node.witness_store.held(facility)[1]
        if time >= in_force_since:
            # Cosign again, with the original time. A cosignature by an older key of ours
            # cannot be made again; the checkpoint is then handed over without it.
            line = cosign(parse_note_untrusted(note)[0], name, key, time)
            note += line.encode()
        yield facility, note
    for alert in node.witness_store.alerts():
        if alert.facility != own:
            yield alert.facility, alert.held
            yield alert.facility, alert.shown


def _write(
    node: Node,
    path: str,
    form: str,
    header: bytes,
    items: list[bytes],
    selection: Selection,
    span: dict[str, str | int | bool],
) -> Result:
    unique = list(dict.fromkeys(items))
    if not unique:
        raise NodeError(
            f"there are no {form} to hand over",
            hint="see `radmesh audit receipts` and `radmesh status`",
            code=ExitCode.NOT_FOUND,
        )
    written = write_logged(
        Path(path),
        write_parts([header, *(base64.b64encode(item) + b"\n" for item in unique)]),
        lambda: export_event(form, selection, {**span, "count": len(unique)}),
        node.audit,
        # The digest needs no salt: the file holds signatures and keys, no name to guess.
        salted=False,
    )
    return {
        "path": path,
        "count": len(unique),
        "bytes": written.bytes,
        "sha256": written.sha256,
        "entry": written.entry,
    }


OPERATIONS = (
    Operation("audit.receipts", Receipts, receipts, writes=True, local_only=True),
    Operation("audit.cosigned", Cosigned, cosigned, writes=True, local_only=True),
)
