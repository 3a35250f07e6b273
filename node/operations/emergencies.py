"""Operations for emergencies: break the glass, and review what was done."""

from dataclasses import dataclass
from typing import Annotated, Any

from keys.grants import EMERGENCY_REASON, is_reason
from keys.purposes import BREAK_GLASS
from node.app import Node
from node.blocking import in_thread
from node.callers import parts_of
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.parameters import From
from node.operations.transfer import follow_to_end
from node.sharing.emergencies import IN, REVIEW_SECONDS, Emergency


@dataclass(frozen=True)
class Broken:
    """Parameters of `emergency`: `reason` is a word of the setting, and a text after a colon."""

    study: str
    peer: str
    reason: str


@dataclass(frozen=True)
class Listed:
    """Parameters of `emergencies`: also those that were reviewed."""

    all: bool = False


@dataclass(frozen=True)
class Reviewed:
    """Parameters of `review`."""

    number: Annotated[int, From(1)]
    outcome: str
    note: str


def _describe(node: Node, one: Emergency) -> dict[str, Any]:
    name, role, reason = parts_of(one.asker)
    ours = next((each for each in node.persons.all() if one.person == each.id), None)
    if one.direction == IN:
        name = one.person if ours is None else ours.display or ours.name
    return {
        "number": one.number,
        "direction": one.direction,
        "peer": node.petname(one.peer),
        "study": one.study,
        "person": name,
        "role": role,
        "reason": reason,
        "begun": one.begun,
        "ended": one.ended,
        "until": one.begun + REVIEW_SECONDS,
        "overdue": node.emergencies.is_late(one),
        "outcome": one.outcome,
    }


async def emergency(call: Call, asked: Broken) -> Result:
    """Fetch a study in an emergency, and follow the transfer to its end."""
    node, serving = call.node, call.require_serving()
    reason = _reason(node, asked.reason)
    rests = await in_thread(node.emergencies.why_rests, IN)
    if rests:
        raise NodeError(
            f"emergency access rests: {rests}",
            hint="a person with the role admin or audit reviews it: `radmesh review`",
            code=ExitCode.REFUSED,
        )
    study, peer = await in_thread(serving.fetcher.choose, asked.study, asked.peer)
    transfer = await serving.fetcher.start(
        study, peer, BREAK_GLASS, only_peer=True, stat=True, follow=False, reason=reason
    )
    return await follow_to_end(call, transfer)


def _reason(node: Node, text: str) -> str:
    """A reason as the other side gets it.

    Raises:
        NodeError: it does not begin with a word of the list, or is too short or too long.
    """
    word, _, more = text.partition(":")
    words = node.settings.emergency.reasons
    if word.strip() not in words:
        raise NodeError(
            "the reason does not begin with a word of the facility's list",
            hint=f"the words are {', '.join(words)}; write more after a colon",
            code=ExitCode.USAGE,
        )
    reason = f"{word.strip()}: {more.strip()}" if more.strip() else word.strip()
    if not is_reason(reason) or not reason.isprintable():
        raise NodeError(
            f"a reason has {EMERGENCY_REASON[0]} to {EMERGENCY_REASON[-1]} printable characters on "
            "one line",
            hint="write more, or less, after a colon",
            code=ExitCode.USAGE,
        )
    return reason


async def emergencies(call: Call, asked: Listed) -> Result:
    """The emergencies that wait for a review, on either side."""
    return await in_thread(_list, call.node, asked)


def _list(node: Node, asked: Listed) -> Result:
    found = node.emergencies.all() if asked.all else node.emergencies.open()
    return {"emergencies": [_describe(node, one) for one in found]}


async def review(call: Call, asked: Reviewed) -> Result:
    """Close an emergency by a person's review."""
    return await in_thread(_review, call, asked)


def _review(call: Call, asked: Reviewed) -> Result:
    node = call.node
    return _describe(
        node, node.emergencies.review(asked.number, asked.outcome, asked.note, call.caller)
    )


OPERATIONS = (
    Operation(
        "emergency",
        Broken,
        emergency,
        writes=True,
        needs_network=True,
        roles=("emergency",),
        listed_only=True,
    ),
    Operation("emergencies", Listed, emergencies, writes=False, roles=("look", "audit", "admin")),
    Operation("review", Reviewed, review, writes=True, roles=("audit", "admin"), listed_only=True),
)
