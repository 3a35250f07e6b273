"""Operation on what is kept about people: what it is, and what has been kept for long enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.people.acts import Act
from node.retention import RETENTION, Kept, cut_of
from protocol.errors import RemoteProtocolError
from protocol.log.entry import format_time, parse_time_untrusted


@dataclass(frozen=True)
class Retention:
    """Parameters of `retention`; `before` has NAME=TIME of the only kinds that go, up to then."""

    apply: bool = False
    before: tuple[str, ...] = ()


def retention_act(call: Call, asked: Retention) -> Act | None:
    """What a two-person rule for erasures holds of `retention`; None while it only shows."""
    if not asked.apply:
        return None
    due = [one for one in _retention(call.node, False, asked.before)["kept"] if one["due"]]
    if not due:
        return None
    said = [f"{one['name']}: {one['due']} from before {one['before']}" for one in due]
    return Act(
        what=f"delete what has been kept for long enough: {', '.join(said)}",
        # By the time of the confirmation more is due, and a setting may be another one.
        parameters={"apply": True, "before": [f"{one['name']}={one['before']}" for one in due]},
    )


async def retention(call: Call, asked: Retention) -> Result:
    """What is kept and what would go; with `apply`, delete that."""
    return await in_thread(_retention, call.node, asked.apply, asked.before)


def _retention(node: Node, apply: bool, before: Sequence[str]) -> Result:
    latest = _latest(before) if before else None
    return {"kept": [_describe(node, row, apply, latest) for row in RETENTION], "applied": apply}


def _latest(before: Sequence[str]) -> dict[str, int]:
    """Name of a kind to the time before which it may go, milliseconds since the epoch, UTC."""
    latest = {}
    for text in before:
        name, _, time = text.partition("=")
        try:
            latest[name] = parse_time_untrusted(time)
        except RemoteProtocolError:
            raise NodeError(
                "the parameter before must be a list of NAME=TIME", code=ExitCode.USAGE
            ) from None
    return latest


def _describe(
    node: Node, row: Kept, apply: bool, latest: Mapping[str, int] | None
) -> dict[str, Any]:
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
    if row.ageing is None or not days or (latest is not None and row.name not in latest):
        return found
    before = cut_of(node, days)
    if latest is not None:
        before = min(before, latest[row.name])
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
