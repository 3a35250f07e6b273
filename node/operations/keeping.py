"""Operations on how long studies stay: legal holds, and what retention removes and leaves."""

import dataclasses
from dataclasses import dataclass

from node.app import Node
from node.blocking import in_thread
from node.images.holds import Hold
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing

SHOWN = 100
"""Studies that `keeping` names with what keeps them."""


@dataclass(frozen=True)
class Held:
    """Parameters of `hold.place`."""

    study: str
    reference: str


@dataclass(frozen=True)
class OfStudy:
    """Parameters of `hold.lift`."""

    study: str


def _describe(hold: Hold) -> Result:
    return dataclasses.asdict(hold)


async def place(call: Call, asked: Held) -> Result:
    """Hold a study: nothing deletes it until the hold is lifted."""
    return _describe(await in_thread(call.node.holds.place, asked.study, asked.reference))


async def lift(call: Call, asked: OfStudy) -> Result:
    """End a hold."""
    return _describe(await in_thread(call.node.holds.lift, asked.study))


async def holds(call: Call, asked: Nothing) -> Result:
    """All holds."""
    return {"holds": [_describe(one) for one in await in_thread(call.node.holds.all)]}


async def keeping(call: Call, asked: Nothing) -> Result:
    """How full the store is, what goes next, and what keeps the studies that are in an archive."""
    return await in_thread(_keeping, call.node)


def _keeping(node: Node) -> Result:
    due = node.keeping.due()
    stays = []
    for one in node.proven_stored():
        why = node.keeping.why_stays(one.study)
        if why:
            stays.append({"study": one.study, "since": one.since, "why": why})
        if len(stays) == SHOWN:
            break
    settings = node.settings.keeping
    return {
        **dataclasses.asdict(node.keeping.describe()),
        "days": settings.days,
        "youngest_days": settings.youngest_days,
        "due": [row.study_uid for row in due],
        "stays": stays,
    }


OPERATIONS = (
    Operation("hold.place", Held, place, writes=True, roles=("admin",)),
    Operation("hold.lift", OfStudy, lift, writes=True, roles=("admin",)),
    Operation("hold.list", Nothing, holds, writes=False, roles=("look", "admin")),
    Operation("keeping", Nothing, keeping, writes=False, roles=("look", "admin")),
)
