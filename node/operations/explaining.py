"""Operations that say why a peer may have a study, or may not, now or at a past moment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keys import grants
from keys.conditions import Facts
from keys.explaining import Explanation, Said, beyond_rules, explain_in_full
from keys.grants import (
    ACTIONS,
    NO_REQUEST,
    NO_USAGE,
    Approval,
    Ask,
    No,
    Request,
    Usage,
    Why,
    Yes,
    explain,
    rules_of,
    study_action,
)
from keys.purposes import BREAK_GLASS, is_purpose
from keys.rules import REQUESTED, Rule
from keys.trust import Peer, TrustStore
from node.app import Node
from node.blocking import in_thread
from node.catalog.catalog import StudyRow
from node.clock import local_time
from node.dicom.headers import patient_identity
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.reports.selection import parse_moment
from node.sharing.emergencies import OUT
from node.sharing.policy import Refusal, decide_fetch
from node.sharing.rights_then import Approved, rights_then
from node.transfer.lately import DisclosedLately
from protocol.errors import WireCode

LAST_MS = 999
"""The last millisecond of a second."""


@dataclass(frozen=True)
class Explained:
    """Parameters of `trust.explain`."""

    peer: str
    study: str
    action: str = "fetch"
    purpose: str = "treatment"
    role: str = ""
    stat: bool = False
    at: str | None = None


@dataclass(frozen=True)
class Who:
    """Parameters of `trust.who`."""

    study: str
    purpose: str = "treatment"
    role: str = ""


def request_of(
    action: str, purpose: str, role: str, *, stat: bool, now: int, speaks: bool = True
) -> Request:
    """What a peer would ask for, with these words of a person.

    Raises:
        NodeError: there is no such action or purpose.
    """
    if action not in ACTIONS:
        raise NodeError(
            f"there is no action {action!a}",
            hint=f"there are {', '.join(ACTIONS)}",
            code=ExitCode.USAGE,
        )
    if action not in REQUESTED:
        return NO_REQUEST
    if not is_purpose(purpose):
        raise NodeError(
            f"there is no purpose {purpose!a}",
            hint="purposes are treatment, second-opinion, research, operations, and HL7 codes",
            code=ExitCode.USAGE,
        )
    minute, weekday = local_time(now)
    return Request(
        speaks=speaks,
        purpose=purpose,
        role=role,
        # Whoever asks in an emergency has to give one.
        reason="a reason is assumed" if action == "emergency" else "",
        is_stat=stat,
        minute=minute,
        weekday=weekday,
    )


def _usage(
    lately: DisclosedLately, peer: Peer, study: StudyRow, action: str
) -> tuple[Usage, Usage]:
    """What a peer would have used of its limits with a study, and with one of no bytes."""
    sizes = (study.original_bytes, 0)
    key = peer.facility_key
    with_it, without = (Usage(lately.with_this(key, study.study_uid, one, action)) for one in sizes)
    return with_it, without


async def trust_explain(call: Call, asked: Explained) -> Result:
    """Why a peer may have a study, or may not."""
    return await in_thread(_explain, call.node, asked)


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """What decides about a peer and a study at one moment; see `rights_then.Then`."""

    now: int
    peer: Peer
    speaks: bool
    facts: Facts | None
    lately: DisclosedLately
    offered: Sequence[Rule]
    approved: Sequence[Approved]
    over_objections: bool
    unknown: Sequence[str] = ()


def _this_moment(node: Node, peer: Peer, study: StudyRow) -> _Moment:
    key, now = peer.facility_key, node.clock.now()
    approved = [
        Approved(one.number, one.purpose, Approval(one.rule, one.study, one.until))
        for one in reversed(node.requests.all())
        if (one.peer, one.study, one.state) == (key, study.study_uid, "approved")
        and now < one.until
    ]
    return _Moment(
        now=now,
        peer=peer,
        speaks=node.peers.store.speaks_for(peer.card.node_key, peer, now),
        facts=node.facts.of(study, key),
        lately=node.lately,
        offered=node.offers.rules(key),
        approved=approved,
        over_objections=node.settings.emergency.over_objections,
    )


def _past_moment(node: Node, peer: Peer, study: StudyRow, at: str) -> _Moment:
    key, time_ms = peer.facility_key, parse_moment(at, end=False)
    now = time_ms // 1000
    # A moment of whole seconds is meant as the whole second.
    time_ms += 0 if time_ms % 1000 else LAST_MS
    then = rights_then(node.audit, peer, study, time_ms, node.facts.blind)
    facts, wishes = node.facts.of(study, key), node.wishes.at(now)
    if facts is not None:
        patients = facts.patients
        if then.patients is not None:
            today = {patient_identity(*each): each for each in patients}
            patients = tuple(today.get(one) or _patient(one) for one in then.patients)
        facts = replace(
            facts,
            state=then.state,
            patients=patients,
            objections=wishes.objections(key, patients),
            consents=wishes.consents(key, patients) if patients else None,
        )
    over = then.over_objections
    return _Moment(
        now=now,
        peer=then.peer,
        speaks=True,
        facts=facts if then.state else None,
        lately=DisclosedLately(node.audit, lambda: now, in_past=True),
        offered=then.offered,
        approved=then.approved,
        over_objections=node.settings.emergency.over_objections if over is None else over,
        unknown=then.unknown,
    )


def _patient(identity: str) -> tuple[str, str]:
    patient_id, _, issuer = identity.partition("^^^")
    return patient_id, issuer


def _explain(node: Node, asked: Explained) -> Result:
    known, study = node.peers.find(asked.peer), node.catalog.find_study(asked.study)
    at = asked.at
    this = _this_moment(node, known, study) if at is None else _past_moment(node, known, study, at)
    now, peer, facts = this.now, this.peer, this.facts
    action = study_action(asked.purpose) if asked.action == "fetch" else asked.action
    purpose = BREAK_GLASS if action == "emergency" else asked.purpose
    request = request_of(action, purpose, asked.role, stat=asked.stat, now=now, speaks=this.speaks)
    wanted = facts
    if action == "emergency" and facts is not None and this.over_objections:
        wanted = replace(facts, objections=frozenset())
    usage, unseen = _usage(this.lately, peer, study, action)
    offered = this.offered if action == "fetch" else ()
    rules = (*rules_of(peer), *offered)
    found = explain_in_full(action, peer, rules, wanted, request, usage, now)
    approved = [
        one
        for one in this.approved
        if isinstance(found.answer, Ask)
        and (one.approval.rule, one.purpose) == (found.answer.rule, request.purpose)
    ]
    if approved:
        request = replace(request, approval=approved[0].approval)
        found = explain_in_full(action, peer, rules, wanted, request, usage, now)
    store = TrustStore([peer], node.card.facility_key)
    decided = decide_fetch(
        store,
        peer,
        request,
        facts,
        now=now,
        usage=usage,
        unseen=unseen,
        over_objections=this.over_objections,
        extra=offered,
    )
    if action == "emergency" and at is None and isinstance(found.answer, Yes):
        rests = node.emergencies.why_rests(OUT, peer.facility_key)
        if rests:
            found = replace(found, answer=No(Why.NOT_GRANTED, rests, found.decides))
            decided = Refusal(WireCode.NOT_GRANTED, rests, found.decides)
    unknown = [*this.unknown]
    if at is not None:
        unknown += _not_logged(node, action, rules)
    return {
        "peer": peer.petname,
        "study": study.study_uid,
        "action": action,
        "purpose": request.purpose,
        "verdict": kind_of(found.answer),
        "allowed": isinstance(found.answer, Yes),
        "answer": explain(found.answer),
        "decides": found.decides,
        "shows": found.answer.shows if isinstance(found.answer, Yes) else "",
        "rules": [_describe_said(one, found) for one in found.said],
        "left": _left(found, usage),
        "approved": [{"request": one.number, "until": one.approval.until} for one in approved[:1]],
        "changes": list(found.changes),
        "beyond_rules": beyond_rules(found.answer),
        "told": _told(decided) if action in ("fetch", "emergency") else "",
        "rights": peer.rights_digest,
        "unknown": unknown,
    }


def _not_logged(node: Node, action: str, rules: Sequence[Rule]) -> list[str]:
    """What decided at a past moment and is in no log, as sentences."""
    found = []
    if any({"hours", "days"} & rule.conditions.keys() for rule in rules):
        found.append("times of day are by the time zone that this node has today")
    if action == "emergency" and node.settings.emergency.rest_until_reviewed:
        found.append("whether emergencies rested then, as a review was overdue, is not looked up")
    return found


def _describe_said(said: Said, found: Explanation) -> dict[str, Any]:
    first = "" if not said.failures else str(said.failures[0])
    return {
        "name": said.rule.name,
        "rule": str(said.rule),
        "decides": said.rule.name == found.decides,
        "counts": said.counts,
        "why_not": "it has ended" if said.has_ended else first,
    }


def _left(found: Explanation, usage: Usage) -> list[dict[str, Any]]:
    """What is left of each limit of the rules, after this study."""
    return [
        {"rule": said.rule.name, "limit": name, "most": most, "used": usage.used.get(name)}
        for said in found.said
        for name, most in said.rule.limits.items()
    ]


def _told(decided: Refusal | Yes) -> str:
    """The code that the peer is told when it asks, in lower case; "" if it gets the study."""
    return decided.code.name.lower() if isinstance(decided, Refusal) else ""


async def trust_who(call: Call, asked: Who) -> Result:
    """Which peers may be told of a study now, and which may have it."""
    return await in_thread(_who, call.node, asked)


def _who(node: Node, asked: Who) -> Result:
    study, now = node.catalog.find_study(asked.study), node.clock.now()
    action = study_action(asked.purpose)
    request = request_of(action, asked.purpose, asked.role, stat=False, now=now)
    told = []
    for peer in sorted(node.peers.store.peers, key=lambda one: one.petname.casefold()):
        if peer.revoked is not None:
            continue
        facts, rules = node.facts.of(study, peer.facility_key), rules_of(peer)
        usage, _ = _usage(node.lately, peer, study, action)
        sees = grants.may("see", peer, rules, facts, NO_REQUEST, NO_USAGE, now)
        if action == "emergency" and facts and node.settings.emergency.over_objections:
            facts = replace(facts, objections=frozenset())
        offered = node.offers.rules(peer.facility_key)
        has = grants.may(action, peer, (*rules, *offered), facts, request, usage, now)
        told.append(
            {
                "peer": peer.petname,
                "see": sees.shows if isinstance(sees, Yes) else "",
                "see_why": explain(sees),
                "fetch": "no" if isinstance(has, No) else "yes" if isinstance(has, Yes) else "ask",
                "fetch_why": explain(has),
            }
        )
    return {"study": study.study_uid, "state": study.state, "peers": told}


def kind_of(answer: grants.Answer) -> str:
    """`yes`, `ask` or `no`."""
    return "no" if isinstance(answer, No) else "yes" if isinstance(answer, Yes) else "ask"


OPERATIONS = (
    Operation("trust.explain", Explained, trust_explain, writes=False, roles=("admin",)),
    Operation("trust.who", Who, trust_who, writes=False, roles=("look", "admin")),
)
