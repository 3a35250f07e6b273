"""Operations on the audit log: show and export."""

import dataclasses
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.cosigned import members, newest_cosigned
from node.operations.paging import cursor, place_of
from node.operations.parameters import From
from node.operations.selecting import Selected, read_selection
from node.reports.facilities import Facilities
from node.reports.records import Record, records
from node.reports.selection import Selection
from node.reports.writing import export_event, write_logged
from protocol.log.checkpoint import Checkpoint
from protocol.log.entry import TYPES, Event, Opening

log = logging.getLogger("radmesh.operations")

ROUND_SECONDS = 3.0
"""Longest wait for witnesses to cosign the head before it is exported."""


@dataclass(frozen=True, kw_only=True)
class Show(Selected):
    """Parameters of `audit.show`; without `last`, all selected entries."""

    last: Annotated[int, From(0)] | None = None
    type: str | None = None
    person: str | None = None
    after: str | None = None


PAGE_ENTRIES = 500
PAGE_BYTES = 4 * 1024 * 1024
"""Most entries on one page."""


@dataclass(frozen=True)
class Export:
    """Parameters of `audit.export`; a peer or a study limits the openings in the bundle."""

    path: parameters.Path
    openings: bool = True
    peer: str | None = None
    study: str | None = None


async def show(call: Call, asked: Show) -> Result:
    """Entries of the log, oldest first, with the openings of their commitments."""
    node, kind = call.node, asked.type

    def read() -> Result:
        if kind and kind not in TYPES:
            raise NodeError(
                f"there is no entry type {kind}",
                hint=f"the types are {', '.join(TYPES)}",
                code=ExitCode.USAGE,
            )
        selection = dataclasses.replace(
            read_selection(node, asked),
            person=asked.person or "",
            types=frozenset((kind,) if kind else ()),
        )
        if asked.after is None:
            size = node.audit.size
            start = _first_of_last(node, selection, size, asked.last)
        else:
            # Entries that came meanwhile belong to the next request.
            start, size = place_of(asked.after, int, int)
            size = min(size, node.audit.size)
        return _page(node, selection, start, size)

    return await in_thread(read)


def _first_of_last(node: Node, selection: Selection, size: int, last: int | None) -> int:
    """Index of the first of the newest `last` selected entries."""
    if last is None:
        return 0
    if last == 0 or selection == Selection():
        return max(0, size - last)
    chosen = (record.index for record in records(node.audit, selection, size=size))
    return next(iter(deque(chosen, maxlen=last)), size)


def _page(node: Node, selection: Selection, start: int, size: int) -> Result:
    facilities = Facilities(node.card, node.peers.store.peers)
    entries: list[dict[str, Any]] = []
    length = 0
    following = None
    for record in records(node.audit, selection, size=size, start=start):
        if len(entries) >= PAGE_ENTRIES or length >= PAGE_BYTES:
            following = cursor(record.index, size)
            break
        entries.append(_described(record, facilities))
        length += len(str(entries[-1]))
    return {"size": size, "entries": entries, "next": following}


def _described(record: Record, facilities: Facilities) -> dict[str, Any]:
    opened = [
        {"kind": subject.kind, "value": subject.value}
        for subject in record.subjects
        if subject.value is not None
    ]
    peer = record.entry["peer"]
    name = facilities.of(peer).name if peer else None
    return {**record.entry, "peer_name": name, "opened": opened}


async def export(call: Call, asked: Export) -> Result:
    """Write a bundle for an auditor."""
    node, path, names = call.node, Path(asked.path), asked.openings
    asked_at = node.audit.size
    if call.serving is not None:
        try:
            await call.serving.witnessing.round(ROUND_SECONDS)
        except NodeError as error:
            log.warning("the log is exported as it is cosigned now: %s", error.message)

    def write() -> Result:
        selection = read_selection(node, Selected(peer=asked.peer, study=asked.study))
        cosigned = newest_cosigned(node)
        checkpoints: list[Checkpoint] = []

        def bundle(file: BinaryIO) -> None:
            checkpoints.append(
                node.audit.export(
                    file,
                    card=node.card.encoded,
                    include_openings=names and _named_by(node, selection),
                    # Prefer a cosigned checkpoint, if it covers every entry present when asked.
                    head=cosigned.merged if cosigned and cosigned.size >= asked_at else None,
                    further=members(node),
                )
            )

        def event() -> Event:
            size = checkpoints[-1].size
            some = "some" if selection != Selection() else "all"
            return export_event(
                "bundle",
                selection,
                {
                    "first": 0,
                    "end": size,
                    "count": size,
                    "openings": some if names else "none",
                },
            )

        written = write_logged(path, bundle, event, node.audit, salted=False)
        checkpoint = checkpoints[-1]
        return {
            "path": str(path),
            "size": checkpoint.size,
            "entries": checkpoint.size,
            "root": checkpoint.root.hex(),
            "bytes": written.bytes,
            "sha256": written.sha256,
            "entry": written.entry,
        }

    return await in_thread(write)


def _named_by(node: Node, selection: Selection) -> bool | Callable[[int, Opening], bool]:
    """A function that selects the openings to include, by the selection; True for all."""
    if selection == Selection():
        return True
    # One byte per entry: far smaller than a set, which might hold a million indexes.
    chosen = bytearray(node.audit.size)
    for record in records(node.audit, selection, size=len(chosen)):
        chosen[record.index] = 1

    def is_named(entry: int, opening: Opening) -> bool:
        if entry >= len(chosen) or not chosen[entry]:
            return False
        if opening.kind == "person":
            return False  # a partial export does not name the people who asked here
        # An entry may be about other studies, too.
        return not selection.study or opening.kind != "study" or opening.value == selection.study

    return is_named


OPERATIONS = (
    Operation("audit.show", Show, show, writes=False, roles=("audit",)),
    Operation("audit.export", Export, export, writes=True, local_only=True),
)
