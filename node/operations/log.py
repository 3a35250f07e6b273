"""Operations on the audit log: show and export."""

import json
import logging
from pathlib import Path
from typing import Any

import trio

from node.app import Node
from node.errors import ExitCode, NodeError
from node.operations.base import Operation, Report, Result, text
from node.witness_bundle import members, newest_cosigned

log = logging.getLogger("radmesh.operations")

ROUND_SECONDS = 3.0
"""Longest wait for witnesses to cosign the head that is going to be exported."""


async def show(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Entries of the log, oldest first, with what their commitments stand for."""
    last, kind = parameters.get("last"), parameters.get("type")

    def read() -> Result:
        start = 0
        if isinstance(last, int) and kind is None:
            start = max(0, node.audit.size - last)
        entries = []
        for encoded in node.audit.entries(start):
            entry = json.loads(encoded)
            if kind is None or entry["type"] == kind:
                entries.append(entry)
        if isinstance(last, int):
            entries = entries[-last:] if last > 0 else []
        for entry in entries:
            entry["opened"] = [
                {"kind": opening.kind, "value": opening.value}
                for subject in entry.get("subjects", [])
                if (opening := node.audit.opening_of(subject["commitment"])) is not None
            ]
        return {"size": node.audit.size, "entries": entries}

    return await trio.to_thread.run_sync(read)


async def export(node: Node, parameters: dict[str, Any], _: Report) -> Result:
    """Write a bundle for an auditor."""
    path = Path(text(parameters, "path"))
    asked_at = node.audit.size
    if node.serving_parts is not None:
        try:
            await node.serving_parts.witnessing.round(ROUND_SECONDS)
        except NodeError as error:
            log.warning("the log is exported as it is cosigned now: %s", error.message)

    def write() -> Result:
        if path.exists():
            raise NodeError(
                f"{path} exists already",
                hint="choose another name; an exported log is never overwritten",
                code=ExitCode.USAGE,
            )
        try:
            cosigned = newest_cosigned(node)
            checkpoint = node.audit.export(
                path,
                card=node.card.encoded,
                include_openings=bool(parameters.get("openings", True)),
                # One that witnesses vouch for, if it holds all that was there when asked.
                head=cosigned.merged if cosigned and cosigned.size >= asked_at else None,
                further=members(node),
            )
            return {
                "path": str(path),
                "size": checkpoint.size,
                "entries": checkpoint.size,
                "root": checkpoint.root.hex(),
                "bytes": path.stat().st_size,
            }
        except OSError as error:
            raise NodeError(
                f"{path} cannot be written: {error.strerror}", code=ExitCode.DISK
            ) from error

    return await trio.to_thread.run_sync(write)


OPERATIONS = {"audit.show": Operation(show), "audit.export": Operation(export)}
