"""Operations on the rules of a peer: what they are, and what one would decide."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Annotated, Any

from keys import grants
from keys.conditions import HIDDEN
from keys.explaining import explain_in_full
from keys.grants import (
    Usage,
    Yes,
    gives,
    rules_of,
    takes,
)
from keys.purposes import BREAK_GLASS
from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.explaining import kind_of, request_of
from node.operations.facility import OfPeer, describe_peer
from node.operations.parameters import From
from node.people.acts import Act

TRIED_DAYS = 90


@dataclass(frozen=True)
class Words:
    """Parameters of `rules.add`: the rule in words, such as `allow`, `fetch`, `modality=CT`."""

    peer: str
    rule: tuple[str, ...]


@dataclass(frozen=True)
class OfRule:
    """Parameters of `rules.remove`."""

    peer: str
    number: Annotated[int, From(1)]


@dataclass(frozen=True)
class Tried:
    """Parameters of `rules.try`."""

    peer: str
    rule: tuple[str, ...]
    purpose: str = "treatment"
    role: str = ""
    days: Annotated[int, From(1)] = TRIED_DAYS


def describe_rules(peer: Peer, now: int) -> list[dict[str, Any]]:
    """The rules of a peer as JSON, those of its grants first."""
    return [
        {
            "number": rule.number,
            "name": rule.name,
            "rule": str(rule),
            "effect": rule.effect,
            "action": rule.action,
            "until": rule.until,
            "has_ended": grants.has_ended(rule, now),
        }
        for rule in rules_of(peer)
    ]


async def rules_add(call: Call, asked: Words) -> Result:
    """Give a peer a rule."""
    node = call.node
    await in_thread(_require_an_end_to_come, node, asked)
    peer, rule = await in_thread(node.peers.add_rule, asked.peer, asked.rule, node.facts.blind)
    return {**await describe_peer(call, peer), "rule": str(rule), "number": rule.number}


def _require_an_end_to_come(node: Node, asked: Words) -> Peer:
    """The peer with the rule; refuses one that would be shown as a rule, and never count."""
    changed = node.peers.tried(asked.peer, asked.rule, node.facts.blind)
    if grants.has_ended(changed.rules[-1], node.clock.now()):
        raise NodeError(
            "this rule has ended already, so it would change nothing",
            hint="until= takes the last day on which it counts, such as until=2027-03-31",
            code=ExitCode.USAGE,
        )
    return changed


async def rules_remove(call: Call, asked: OfRule) -> Result:
    """Take a rule from a peer."""
    peer, rule = await in_thread(call.node.peers.remove_rule, asked.peer, asked.number)
    return {**await describe_peer(call, peer), "rule": str(rule), "number": rule.number}


async def rules_list(call: Call, asked: OfPeer) -> Result:
    """The rules of a peer."""
    peer = call.node.peers.find(asked.peer)
    return {"petname": peer.petname, "rules": describe_rules(peer, call.node.clock.now())}


# --- trying ----------------------------------------------------------------------------


async def rules_try(call: Call, asked: Tried) -> Result:
    """What a rule would decide for the studies of the last days, without saving it."""
    return await in_thread(_try, call.node, asked)


def _try(node: Node, asked: Tried) -> Result:
    peer, now = node.peers.find(asked.peer), node.clock.now()
    changed = node.peers.tried(asked.peer, asked.rule, node.facts.blind)
    rule = changed.rules[-1]
    action = rule.action
    purpose = BREAK_GLASS if action == "emergency" else asked.purpose
    request = request_of(action, purpose, asked.role, stat=False, now=now)
    since = now - asked.days * 86_400
    rows = [row for row in node.catalog.studies("shared") if row.received >= since]
    counts: Counter[str] = Counter()
    patients: dict[str, set[tuple[str, str]]] = {"before": set(), "after": set()}
    every = node.facts.of_each(rows, peer.facility_key)
    for row, facts in zip(rows, every, strict=True):
        # As if it were the only one of the day: other limits are not to hide what the rule does.
        usage = Usage({"studies-a-day": 1, "bytes-a-day": row.original_bytes})
        before = grants.may(action, peer, rules_of(peer), facts, request, usage, now)
        after = explain_in_full(action, changed, rules_of(changed), facts, request, usage, now)
        for when, answer in (("before", before), ("after", after.answer)):
            counts[f"{kind_of(answer)} {when}"] += 1
            if isinstance(answer, Yes):
                patients[when].update(facts.patients)
        said = next(one for one in after.said if one.rule.number == rule.number)
        counts["missing"] += said.hangs_on_missing
        counts["concerned"] += said.counts
    return {
        "peer": peer.petname,
        "rule": str(rule),
        "days": asked.days,
        "studies": len(rows),
        "concerned": counts["concerned"],
        "before": {kind: counts[f"{kind} before"] for kind in ("yes", "ask", "no")},
        "after": {kind: counts[f"{kind} after"] for kind in ("yes", "ask", "no")},
        "patients_before": len(patients["before"]),
        "patients_after": len(patients["after"]),
        "only_missing": counts["missing"],
    }


def add_act(call: Call, asked: Words) -> Act | None:
    """What a two-person rule holds of `rules.add`: what a peer may do, or ask a person for."""
    peer = _require_an_end_to_come(call.node, asked)
    rule = peer.rules[-1]
    if not gives(rule, rules_of(replace(peer, rules=peer.rules[:-1]))):
        return None
    # What the rule itself keeps blinded, the second person has to read.
    listed = [word for word in asked.rule if word.partition("=")[0] in HIDDEN]
    named = f" ({'; '.join(listed)})" if listed else ""
    return Act(
        what=f"let {peer.petname} ({peer.fingerprint}) have the rule: {rule}{named}",
        parameters={"peer": peer.fingerprint, "rule": list(asked.rule)},
        peer=peer.facility_key,
    )


def remove_act(call: Call, asked: OfRule) -> Act | None:
    """What a two-person rule holds of `rules.remove`: a rule that keeps something back."""
    peer = call.node.peers.find(asked.peer)
    rule = next((one for one in peer.rules if one.number == asked.number), None)
    if rule is None or not takes(rule, rules_of(peer)):
        return None
    return Act(
        what=f"take from {peer.petname} ({peer.fingerprint}) the rule: {rule}",
        parameters={"peer": peer.fingerprint, "number": asked.number},
        peer=peer.facility_key,
    )


_ADMIN = ("admin",)
_LOOKING = ("look", "admin")

OPERATIONS = (
    Operation(
        "rules.add", Words, rules_add, writes=True, roles=_ADMIN, held_by=("trust",), act=add_act
    ),
    Operation(
        "rules.remove",
        OfRule,
        rules_remove,
        writes=True,
        roles=_ADMIN,
        held_by=("trust",),
        act=remove_act,
    ),
    Operation("rules.list", OfPeer, rules_list, writes=False, roles=_LOOKING),
    Operation("rules.try", Tried, rules_try, writes=False, roles=_ADMIN),
)
