"""Operations on what patients want: objections, and consents on file."""

from dataclasses import dataclass
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.parameters import Nothing
from node.sharing.wishes import CONSENT, OBJECTION, Wish

ALL = "all"


@dataclass(frozen=True)
class Wished:
    """Parameters of `objection.add` and `consent.add`; `peer` is a name, a fingerprint or all."""

    patient: str
    issuer: str = ""
    peer: str = ALL
    uses: str = ALL


@dataclass(frozen=True)
class OfWish:
    """Parameters of `objection.end` and `consent.end`; null is any."""

    patient: str
    issuer: str | None = None
    peer: str | None = None
    uses: str | None = None


def _describe(node: Node, wish: Wish) -> dict[str, Any]:
    return {
        "number": wish.number,
        "patient": wish.patient_id,
        "issuer": wish.issuer,
        "peer": node.petname(wish.peer) if wish.peer else ALL,
        "uses": wish.uses,
        "made": wish.made,
        "ended": wish.ended or None,
    }


async def _add(call: Call, kind: str, asked: Wished) -> Result:
    node = call.node
    peer = b"" if asked.peer == ALL else node.peers.find(asked.peer).facility_key
    wish = await in_thread(node.wishes.add, kind, asked.patient, asked.issuer, peer, asked.uses)
    return _describe(node, wish)


async def _end(call: Call, kind: str, asked: OfWish) -> Result:
    number = _number(call.node, kind, asked)
    return _describe(call.node, await in_thread(call.node.wishes.end, kind, number))


def _number(node: Node, kind: str, asked: OfWish) -> int:
    """The one that holds and is meant.

    Raises:
        NodeError: there is none, or several.
    """
    peer = None
    if asked.peer is not None:
        peer = b"" if asked.peer == ALL else node.peers.find(asked.peer).facility_key
    found = [
        wish
        for wish in node.wishes.all(kind)
        if not wish.ended
        and wish.patient_id == asked.patient.strip()
        and asked.issuer in (None, wish.issuer)
        and peer in (None, wish.peer)
        and asked.uses in (None, wish.uses)
    ]
    if len(found) == 1:
        return found[0].number
    if not found:
        raise NodeError(
            f"there is no such {kind} of this patient that holds",
            hint=f"see `radmesh {kind} list`",
            code=ExitCode.NOT_FOUND,
        )
    raise NodeError(
        f"there are {len(found)} {kind}s of this patient that hold",
        hint="say which: name the facility, what it is for, or the issuer of the Patient ID",
        code=ExitCode.USAGE,
    )


def _list(call: Call, kind: str) -> Result:
    return {f"{kind}s": [_describe(call.node, wish) for wish in call.node.wishes.all(kind)]}


async def objection_add(call: Call, asked: Wished) -> Result:
    """Note a patient's objection."""
    return await _add(call, OBJECTION, asked)


async def objection_end(call: Call, asked: OfWish) -> Result:
    """End an objection."""
    return await _end(call, OBJECTION, asked)


async def objection_list(call: Call, _: Nothing) -> Result:
    """All objections."""
    return _list(call, OBJECTION)


async def consent_add(call: Call, asked: Wished) -> Result:
    """Put a patient's consent on file."""
    return await _add(call, CONSENT, asked)


async def consent_end(call: Call, asked: OfWish) -> Result:
    """End a consent."""
    return await _end(call, CONSENT, asked)


async def consent_list(call: Call, _: Nothing) -> Result:
    """All consents."""
    return _list(call, CONSENT)


_ADMIN = ("admin",)

OPERATIONS = (
    Operation("objection.add", Wished, objection_add, writes=True, roles=_ADMIN),
    Operation("objection.end", OfWish, objection_end, writes=True, roles=_ADMIN),
    Operation("objection.list", Nothing, objection_list, writes=False, roles=_ADMIN),
    Operation("consent.add", Wished, consent_add, writes=True, roles=_ADMIN),
    Operation("consent.end", OfWish, consent_end, writes=True, roles=_ADMIN),
    Operation("consent.list", Nothing, consent_list, writes=False, roles=_ADMIN),
)
