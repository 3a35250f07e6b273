"""Operations on pairing by a code: show one, type one, accept whom it let in, or not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from keys.card import Card
from keys.errors import BadCode, BadFingerprint
from keys.fingerprint import format_hash, parse_fingerprint
from keys.spoken_code import parse_code_untrusted, shown
from keys.trust import GRANTS, PURPOSES
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.network.addresses import for_people, typed
from node.operations.base import Call, Operation, Result
from node.operations.facility import describe_peer
from node.operations.parameters import Nothing
from node.reports.selection import parse_moment
from node.setting_rows import DEFAULTS
from node.sharing.pairing_stage import Asked, Meeting, Stage
from node.sharing.peers import Terms

PORT = int(DEFAULTS["listen"][0].split("/")[-1])
"""Where a node listens, unless its address says otherwise."""

SCHEME = "RADMESH:"
"""Before fingerprint and address in a QR code; all of it in upper case, which makes it small."""


@dataclass(frozen=True)
class Show:
    """Parameters of `pair.show`: what we ask the other facility for."""

    ask_grants: tuple[str, ...] = ()
    ask_purposes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallThere:
    """Parameters of `pair.call`."""

    address: str
    code: str = field(repr=False)
    ask_grants: tuple[str, ...] = ()
    ask_purposes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accept:
    """Parameters of `pair.accept`; the fingerprint of the facility that the person saw."""

    fingerprint: str
    grants: tuple[str, ...] = ()
    petname: str = ""
    purposes: tuple[str, ...] = ()
    until: str | None = None


def qr_text(card: Card) -> str:
    """The content of a QR code: fingerprint and, if the card has one, the address; no secret."""
    parts = [card.fingerprint, *(for_people(one, PORT).upper() for one in card.addresses[:1])]
    return SCHEME + "/".join(parts)


def read_place(text: str) -> tuple[str, str]:
    """The multiaddr in what a person typed or scanned, and the fingerprint in it, or "".

    Raises:
        NodeError: it is neither an address nor the content of a QR code.
    """
    place, fingerprint = text.strip(), ""
    if is_number(place):
        raise NodeError(
            "this is no address; it may be a code, which is asked for and never a word of the "
            "command",
            hint="the other admin says the address too; have a new code shown if this was the code",
            code=ExitCode.USAGE,
        )
    try:
        if place.upper().startswith(SCHEME):
            first, _, place = place[len(SCHEME) :].partition("/")
            fingerprint, place = format_hash(parse_fingerprint(first)), place.lower()
        return typed(place, PORT), fingerprint
    except (ValueError, BadFingerprint) as error:
        raise NodeError(
            f"{text!r} is no address of a node: {error}",
            hint="write its name or number, as the other admin reads it: radmesh.north.example, "
            "or with its port 192.0.2.1:4102",
            code=ExitCode.USAGE,
        ) from error


def is_number(text: str) -> bool:
    """Whether a text has only digits and blanks, as a code has and no address."""
    return not text.strip("0123456789 ") and bool(text)


def _asked(grants: tuple[str, ...], purposes: tuple[str, ...]) -> Asked:
    _require(grants, GRANTS, "grant")
    _require(purposes, PURPOSES, "purpose")
    return Asked(tuple(dict.fromkeys(grants)), tuple(dict.fromkeys(purposes)))


def _require(words: tuple[str, ...], known: tuple[str, ...], kind: str) -> None:
    unknown = [word for word in words if word not in known]
    if unknown:
        raise NodeError(
            f"there is no {kind} {unknown[0]}",
            hint=f"the {kind}s are {', '.join(known)}",
            code=ExitCode.USAGE,
        )


def _describe(node: Node, stage: Stage) -> dict[str, Any]:
    """A stage as JSON; the code is for the screen of whoever asked for it."""
    window, meeting, card = stage.window, stage.meeting, node.card
    state = "met" if meeting is not None else "calling" if window is None else "shown"
    found: dict[str, Any] = {
        "state": state,
        "other": None if meeting is None else _describe_other(node, meeting),
        "ours": None if meeting is None else meeting.ours,
        "theirs": None if meeting is None else meeting.theirs,
    }
    if window is not None:
        addresses = [for_people(one, PORT) for one in card.addresses]
        found |= {
            "code": shown(window.code),
            "until": window.until,
            "tries": window.tries,
            "last_wrong": window.last_wrong,
            "name": card.name,
            "fingerprint": card.fingerprint,
            "addresses": addresses,
            "qr": qr_text(card),
        }
    return found


def _describe_other(node: Node, meeting: Meeting) -> dict[str, Any]:
    met = meeting.met
    known = node.find_peer(met.card.facility_key)
    return {
        "name": met.card.name,
        "fingerprint": met.card.fingerprint,
        "addresses": list(met.card.addresses),
        "asks_grants": list(met.grants),
        "asks_purposes": list(met.purposes),
        "is_trusted": known is not None and known.is_trusted(node.clock.now()),
    }


async def _ended(call: Call, meeting: Meeting) -> Result:
    return {
        **_describe(call.node, Stage(meeting=meeting)),
        "state": "ended",
        "peer": None if meeting.peer is None else await describe_peer(call, meeting.peer),
    }


def _reporting(call: Call) -> Callable[[Stage], None]:
    """Passes stages on as progress."""
    return lambda stage: call.report(_describe(call.node, stage))


async def _require_one_is_enough(call: Call) -> None:
    """Refuse a pairing that nobody could accept, before two people are on the phone."""
    if await in_thread(call.node.rules.holding, ("trust",)):
        raise NodeError(
            "two people have to trust a facility together here, and a pairing by a code is "
            "accepted by one",
            hint="exchange card files: one person proposes `radmesh trust add`, another one "
            "confirms it; or the owner ends the rule: `radmesh people rule trust 1`",
            code=ExitCode.REFUSED,
        )


async def pair_show(call: Call, asked: Show) -> Result:
    """Show a code, and wait until somebody has used it and both sides have decided."""
    node, serving = call.node, call.require_serving()
    await _require_one_is_enough(call)
    if not node.settings.listen:
        raise NodeError(
            "this node listens nowhere, so nobody can call it",
            hint="let the other side show the code: `radmesh pair ADDRESS`",
            code=ExitCode.REFUSED,
        )
    wanted = _asked(asked.ask_grants, asked.ask_purposes)
    return await _ended(call, await serving.pairings.show(wanted, _reporting(call)))


async def pair_call(call: Call, asked: CallThere) -> Result:
    """Call the node that shows a code, and wait until both sides have decided."""
    serving = call.require_serving()
    await _require_one_is_enough(call)
    address, fingerprint = read_place(asked.address)
    try:
        code = parse_code_untrusted(asked.code)
    except BadCode as error:
        raise NodeError(str(error), hint="have it read out again", code=ExitCode.USAGE) from None
    wanted = _asked(asked.ask_grants, asked.ask_purposes)
    meeting = await serving.pairings.call(address, code, wanted, fingerprint, _reporting(call))
    return await _ended(call, meeting)


async def pair_accept(call: Call, asked: Accept) -> Result:
    """Trust the facility that has the code; `pair.show` or `pair.call` goes on meanwhile."""
    serving = call.require_serving()
    wanted = _asked(asked.grants, asked.purposes)
    expires = None if asked.until is None else parse_moment(asked.until, end=True) // 1000
    terms = Terms(frozenset(wanted.purposes), expires)
    peer = await serving.pairings.accept(asked.fingerprint, wanted.grants, asked.petname, terms)
    return await describe_peer(call, peer)


async def pair_decline(call: Call, _: Nothing) -> Result:
    """Do not trust the facility that has the code."""
    await call.require_serving().pairings.decline()
    return {}


_ADMIN = ("admin",)

OPERATIONS = (
    Operation("pair.show", Show, pair_show, writes=True, needs_network=True, roles=_ADMIN),
    Operation("pair.call", CallThere, pair_call, writes=True, needs_network=True, roles=_ADMIN),
    Operation("pair.accept", Accept, pair_accept, writes=True, needs_network=True, roles=_ADMIN),
    Operation("pair.decline", Nothing, pair_decline, writes=True, needs_network=True, roles=_ADMIN),
)
