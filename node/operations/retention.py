"""Operation on what is kept about people: what it is, and what has been kept for long enough."""

from dataclasses import dataclass
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.operations.base import Call, Operation, Result
from node.retention import RETENTION, Kept, cut_of
from protocol.log.entry import format_time


@dataclass(frozen=True)
class Retention:
    """Parameters of `retention`."""

    apply: bool = False


async def retention(call: Call, asked: Retention) -> Result:
    """What is kept and what would go; with `apply`, delete that."""
    return await in_thread(_retention, call.node, asked.apply)


def _retention(node: Node, apply: bool) -> Result:
    return {"kept": [_describe(node, row, apply) for row in RETENTION], "applied": apply}


def _describe(node: Node, row: Kept, apply: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": row.name,
        "holds": row.holds,
        "place": row.place,
        "purpose": row.purpose,
        "readers": row.readers,
        "kept": row.kept,
        "setting": row.setting,
        "days": 0,
        "before": None,
        "due": 0,
        "entries": [],
    }
    days = 0 if row.ageing is None else row.ageing.days(node)
    if row.ageing is None or not days:
        return found
    before = cut_of(node, days)
    due = row.ageing.due(node, before)
    entries = row.ageing.apply(node, before) if apply and due else []
    return found | {"days": days, "before": format_time(before), "due": due, "entries": entries}


OPERATIONS = (Operation("retention", Retention, retention, writes=True, local_only=True),)
