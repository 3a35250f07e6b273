"""Operation on transfers whose receipt is missing."""

from dataclasses import dataclass
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.operations.base import Call, Operation, Result
from node.receipts.pending import PendingItem
from protocol.log.entry import format_time


@dataclass(frozen=True)
class Pending:
    """Parameters of `audit.pending`."""

    all: bool = False


def _describe(node: Node, item: PendingItem) -> dict[str, Any]:
    entry = None if item.entry < 0 else node.exchanges.entry(item.entry)
    state = "waiting"
    if node.transfers.is_under_way(item.peer, item.transfer, outgoing=item.outgoing):
        state = "under way"
    elif item.is_settled:
        state = "not received"
    elif item.answer:
        state = "refused"
    return {
        "direction": "out" if item.outgoing else "in",
        "peer": node.petname(item.peer),
        "facility_key": item.peer.hex(),
        "transfer": item.transfer.hex(),
        "study": "" if entry is None else node.pending.study_of(entry),
        "missing": "receipt" if item.outgoing else "countersignature",
        "state": state,
        "answer": item.answer,
        "answered": item.answered,
        "entry": None if entry is None else entry.index,
        "time": "" if entry is None else format_time(entry.time_ms),
    }


async def pending(call: Call, asked: Pending) -> Result:
    """Transfers that lack a receipt or its countersignature, oldest first.

    Without `all`, it leaves out transfers under way, and those that the recipient says did
    not arrive.
    """
    node = call.node

    def read() -> Result:
        items = [_describe(node, item) for item in node.pending.items()]
        if not asked.all:
            items = [item for item in items if item["state"] in ("waiting", "refused")]
        return {"pending": items}

    return await in_thread(read)


OPERATIONS = (Operation("audit.pending", Pending, pending, writes=False, roles=("audit",)),)
