"""Operations on two-person rules, and on the proposals that they hold."""

from dataclasses import dataclass
from typing import Annotated, Any

import trio

from node.app import Node
from node.blocking import in_thread
from node.callers import asked_by
from node.errors import ExitCode, NodeError
from node.operations.base import HELD, Call, Operation, Result, describe_proposal
from node.operations.parameters import From, Nothing
from node.people.acts import Act, Proposal
from node.people.persons import Person
from node.people.rules import APPROVERS, KINDS, Rule
from protocol.log.entry import decode_entry_untrusted


@dataclass(frozen=True)
class SetRule:
    """Parameters of `people.rule`."""

    kind: str
    persons: Annotated[int, From(1)]


@dataclass(frozen=True)
class Confirm:
    """Parameters of `confirm`."""

    number: Annotated[int, From(1)]


@dataclass(frozen=True)
class Decline:
    """Parameters of `decline`."""

    number: Annotated[int, From(1)]
    reason: str


def _describe_rule(rule: Rule) -> dict[str, Any]:
    return {
        "kind": rule.kind,
        "persons": rule.persons,
        "changed": rule.changed,
        "by_owner": rule.by_owner,
    }


async def set_rule(call: Call, asked: SetRule) -> Result:
    """Make a two-person rule, or end it."""
    return _describe_rule(await in_thread(call.node.rules.set, asked.kind, asked.persons))


def rule_act(call: Call, asked: SetRule) -> Act | None:
    """A person ends a rule together with another one; the owner ends it alone."""
    if call.caller.kind != "person" or asked.persons != 1 or asked.kind not in KINDS:
        return None
    return Act(
        what=f"end the two-person rule for {KINDS[asked.kind]}",
        parameters={"kind": asked.kind, "persons": 1},
        kinds=(asked.kind,),
    )


async def proposals(call: Call, _: Nothing) -> Result:
    """The proposals that wait, those that were over lately, and the rules."""
    node = call.node

    def read() -> Result:
        node.proposals.lapse()
        return {
            "proposals": [describe_proposal(node, one) for one in node.proposals.all()],
            "rules": [_describe_rule(rule) for rule in node.rules.all()],
        }

    return await in_thread(read)


def _is_still_allowed(person: Person, operation: str) -> bool:
    return any(role in person.roles for role in HELD[operation].roles)


def _require_trusted_since(node: Node, proposal: Proposal) -> None:
    """Refuse an act for a facility whose trust was revoked since it was proposed.

    Whoever revoked it knew more than who proposed it, also where it was trusted anew meanwhile.
    """
    entry = decode_entry_untrusted(next(iter(node.audit.entries(proposal.number))))
    peer = node.find_peer(entry.peer) if entry.peer else None
    if peer is None:
        return
    proposed = proposal.proposed // 1000
    is_new = proposal.operation != "trust.add" and peer.added > proposed
    if is_new or (peer.revoked is not None and peer.revoked >= proposed):
        raise NodeError(
            f"trust in {peer.petname} was revoked after this was proposed",
            hint=f"`radmesh decline {proposal.number}`; whoever still wants it proposes it again",
            code=ExitCode.REFUSED,
        )


async def confirm(call: Call, asked: Confirm) -> Result:
    """Confirm, as the second person, what another one has proposed, and carry it out."""
    kept = call.node.proposals
    proposal, both = await in_thread(kept.second, asked.number, call.caller, _is_still_allowed)
    operation = HELD[proposal.operation]
    together = Call(call.node, call.serving, both, call.report)
    # From here on a client that goes away does not leave it half done.
    with trio.CancelScope(shield=True), asked_by(both):
        entry = await in_thread(kept.confirm, proposal)
        try:
            await in_thread(_require_trusted_since, call.node, proposal)
            result = await operation.answer(together, dict(proposal.parameters))
        except Exception as error:
            why = error.code.name.lower() if isinstance(error, NodeError) else "error"
            await in_thread(kept.failed, proposal, entry, why)
            raise
        await in_thread(kept.done, proposal, entry, call.caller)
    described = await in_thread(describe_proposal, call.node, proposal)
    return {"proposal": {**described, "state": "done"}, "result": result}


async def decline(call: Call, asked: Decline) -> Result:
    """End a proposal."""
    node = call.node
    ended = await in_thread(node.proposals.decline, asked.number, call.caller, asked.reason)
    described = await in_thread(describe_proposal, node, ended)
    return {**described, "state": "declined"}


OPERATIONS = (
    Operation(
        "people.rule",
        SetRule,
        set_rule,
        writes=True,
        roles=("admin",),
        listed_only=True,
        held_by=tuple(KINDS),
        act=rule_act,
    ),
    Operation("proposals", Nothing, proposals, writes=True, roles=APPROVERS, listed_only=True),
    Operation("confirm", Confirm, confirm, writes=True, roles=APPROVERS, listed_only=True),
    Operation("decline", Decline, decline, writes=True, roles=APPROVERS, listed_only=True),
)
