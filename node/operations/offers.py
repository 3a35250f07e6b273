"""Operations on offers: make one, list them, accept, decline, end."""

from dataclasses import dataclass
from typing import Annotated, Any

from node.app import Node
from node.blocking import in_thread
from node.operations.base import Call, Operation, Result
from node.operations.parameters import From, Nothing
from node.reports.selection import parse_moment
from node.sharing.offered import IN, OFFERED, StudyOffered
from protocol.offers import DECLINED


@dataclass(frozen=True)
class Send:
    """Parameters of `send`; without `until` the offer ends after a week."""

    study: str
    peer: str
    purpose: str = "treatment"
    message: str = ""
    until: str | None = None


@dataclass(frozen=True)
class OfOffer:
    """Parameters of operations on one offer."""

    number: Annotated[int, From(1)]


def describe_offer(node: Node, one: StudyOffered) -> dict[str, Any]:
    """An offer as JSON."""
    is_over = one.is_open and one.until <= node.clock.now()
    return {
        "number": one.number,
        "direction": one.direction,
        "peer": node.petname(one.peer),
        "study": one.study,
        "purpose": one.purpose,
        "message": one.message,
        "made": one.made,
        "until": one.until,
        "state": "ended" if is_over else one.state,
        "told": bool(one.told),
        "waits": one.direction == IN and one.state == OFFERED and not is_over,
        "series": one.series,
        "instances": one.instances,
        "bytes": one.bytes,
        "modalities": list(filter(None, one.modalities.split("\n"))),
        "study_date": one.study_date,
        "person": one.person,
        "role": one.role,
    }


async def send(call: Call, asked: Send) -> Result:
    """Offer a study to a peer."""
    node = call.node
    until = None if asked.until is None else parse_moment(asked.until, end=True) // 1000
    offered = await in_thread(
        node.offers.make, asked.study, asked.peer, asked.purpose, asked.message, until
    )
    return describe_offer(node, offered)


async def offers(call: Call, _: Nothing) -> Result:
    """The offers of both directions."""
    found = await in_thread(call.node.offers.all)
    return {"offers": [describe_offer(call.node, one) for one in found]}


async def accept(call: Call, asked: OfOffer) -> Result:
    """Accept an offer of a peer; the fetch begins and goes on by itself."""
    return describe_offer(call.node, await call.require_serving().offering.accept(asked.number))


async def decline(call: Call, asked: OfOffer) -> Result:
    """Decline an offer of a peer."""
    node = call.node
    return describe_offer(node, await in_thread(node.offers.answer, asked.number, DECLINED))


async def end(call: Call, asked: OfOffer) -> Result:
    """Take an offer of ours back."""
    return describe_offer(call.node, await in_thread(call.node.offers.end, asked.number))


_DECIDE = ("send", "approve")

OPERATIONS = (
    Operation("send", Send, send, writes=True, roles=("send",)),
    Operation("offers", Nothing, offers, writes=False, roles=("look", *_DECIDE)),
    Operation("offer.accept", OfOffer, accept, writes=True, needs_network=True, roles=_DECIDE),
    Operation("offer.decline", OfOffer, decline, writes=True, roles=_DECIDE),
    Operation("offer.end", OfOffer, end, writes=True, roles=(*_DECIDE, "admin")),
)
