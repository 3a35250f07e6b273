"""Operations on requests of peers that wait for a person here."""

from dataclasses import dataclass
from typing import Annotated, Any

from node.app import Node
from node.blocking import in_thread
from node.operations.base import Call, Operation, Result
from node.operations.parameters import From
from node.reports.selection import parse_moment
from node.sharing.requests import Asked


@dataclass(frozen=True)
class Listed:
    """Parameters of `requests`: also those that are over."""

    all: bool = False


@dataclass(frozen=True)
class Approved:
    """Parameters of `approve`; `until` is a moment, or null for a day from now."""

    number: Annotated[int, From(1)]
    until: str | None = None


@dataclass(frozen=True)
class Denied:
    """Parameters of `deny`."""

    number: Annotated[int, From(1)]
    reason: str


def _describe(node: Node, asked: Asked) -> dict[str, Any]:
    return {
        "number": asked.number,
        "peer": node.petname(asked.peer),
        "study": asked.study,
        "purpose": asked.purpose,
        "stat": bool(asked.stat),
        "person": asked.person,
        "role": asked.role,
        "reason": asked.reason,
        "rule": asked.rule,
        "asked": asked.asked,
        "state": asked.state,
        "until": asked.until or None,
        "note": asked.note,
    }


async def requests(call: Call, asked: Listed) -> Result:
    """Requests of peers that a rule has a person asked about."""
    requests = call.node.requests
    found = await in_thread(requests.all if asked.all else requests.waiting)
    return {"requests": [_describe(call.node, one) for one in found]}


async def approve(call: Call, asked: Approved) -> Result:
    """Let a request go on, for one use."""
    until = None if asked.until is None else parse_moment(asked.until, end=True) // 1000
    done = await in_thread(call.node.requests.approve, asked.number, until)
    return _describe(call.node, done)


async def deny(call: Call, asked: Denied) -> Result:
    """Refuse a request that waits, or take an approval back."""
    return _describe(
        call.node, await in_thread(call.node.requests.deny, asked.number, asked.reason)
    )


OPERATIONS = (
    Operation("requests", Listed, requests, writes=False, roles=("look", "approve", "admin")),
    Operation("approve", Approved, approve, writes=True, roles=("approve",), listed_only=True),
    Operation("deny", Denied, deny, writes=True, roles=("approve", "admin")),
)
