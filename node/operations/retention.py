"""Operation on what is kept about people: what it is, and what has been kept for long enough."""

from dataclasses import dataclass
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.operations.base import Call, Operation, Result
from node.people.acts import Act
from node.retention import RETENTION, Kept, cut_of
from protocol.log.entry import format_time


@dataclass(frozen=True)
class Retention:
    """Parameters of `retention`."""

    apply: bool = False


def retention_act(call: Call, asked: Retention) -> Act | None:
    """What a two-person rule for erasures holds of `retention`; None while it only shows."""
    if not asked.apply:
        return None
    kept = _retention(call.node, apply=False)["kept"]
    due = [f"{one['name']}: {one['due']} from before {one['before']}" for one in kept if one["due"]]
    if not due:
        return None
    return Act(
        what=f"delete what has been kept for long enough: {', '.join(due)}",
        parameters={"apply": True},
    )


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


OPERATIONS = (
    Operation(
        "retention",
        Retention,
        retention,
        writes=True,
        local_only=True,
        roles=("admin",),
        listed_only=True,
        held_by=("erasure",),
        act=retention_act,
    ),
)
