"""What a peer may do: the one decision, pure.

Feed, announcer, sender and witness ask `may`; nothing else decides. The answer is yes, no,
or that a person is to be asked. Whether a rule holds has three values: yes, no, unknown.
Unknown counts as no where a rule allows, and as yes where it denies or has a person asked,
so what a release does not know never lets anything through.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keys.peer import PURPOSES, Peer

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "see": ("see",),
    # Or taking `see` would leave a peer with what it was told before.
    "fetch": ("fetch", "see"),
    "send": ("send",),
    "witness": ("witness",),
}
"""What can be asked about, and all that has to be allowed for it."""

_OF_OUR_STUDIES = frozenset({"see", "fetch"})
_REQUESTED = frozenset({"fetch", "send"})
"""What a node of the peer asks for, and for a purpose."""

ALLOW, HOLD, DENY = "allow", "hold", "deny"
"""What a rule does: hold has a person asked each time. Another word counts as deny."""


class Why(enum.Enum):
    """Reasons for a no, as far as who is refused may be told one."""

    NOT_TRUSTED = "not trusted"
    NOT_GRANTED = "not granted"
    PURPOSE = "purpose"
    LIMIT = "limit"
    NOT_SHARED = "not shared"


@dataclass(frozen=True)
class Rule:
    """One rule of a peer.

    Attributes:
        name: for people, and for the approval that answers it.
        action: what it is about.
        effect: `ALLOW`, `HOLD` or `DENY`; deny goes before hold, hold before allow.
        purposes: the only purposes that it is for; empty is for all, and for none named.
        filters: what narrows it to some studies, by name. This release reads none, so of a
            rule with one it is unknown whether it holds.
        limits: by name, how much has to be used already for it not to hold any more.
    """

    name: str
    action: str
    effect: str = ALLOW
    purposes: frozenset[str] = frozenset()
    filters: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one study; None or "" is not known.

    Attributes:
        study_uid: Study Instance UID.
        state: "shared", or why not.
        modalities: in the study.
        body_parts: as the images say.
        study_date: YYYYMMDD.
        is_deidentified: whether a report of that is bound to its content.
    """

    study_uid: str
    state: str = ""
    modalities: tuple[str, ...] | None = None
    body_parts: tuple[str, ...] | None = None
    study_date: str = ""
    is_deidentified: bool | None = None


@dataclass(frozen=True)
class Approval:
    """A person's yes to what a rule held.

    Attributes:
        rule: its name.
        study_uid: the one study that it is for.
        until: seconds since the epoch, UTC; it counts before that.
    """

    rule: str
    study_uid: str
    until: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a peer asks for; empty where nobody asks.

    Attributes:
        speaks: whether the node that asks speaks for the peer now.
        purpose: one of `PURPOSES`; "" none named.
        person: who asks there, as the peer says; "" not known.
        reason: why, in the person's words; "" none.
        approval: what a person here said to it; None nothing yet.
    """

    speaks: bool = False
    purpose: str = ""
    person: str = ""
    reason: str = ""
    approval: Approval | None = None


@dataclass(frozen=True)
class Usage:
    """What a peer has used of the limits of its rules, by name; absent is not known."""

    used: Mapping[str, int] = field(default_factory=dict)


NO_REQUEST, NO_USAGE = Request(), Usage()


@dataclass(frozen=True)
class Yes:
    """It may, by this rule."""

    rule: str


@dataclass(frozen=True)
class No:
    """It may not; `sentence` says why, to our own log and people."""

    why: Why
    sentence: str


@dataclass(frozen=True)
class Ask:
    """A person has to be asked: the rule with this name wants that."""

    rule: str


Answer = Yes | No | Ask


def explain(answer: Answer) -> str:
    """The answer as a sentence, lower case."""
    if isinstance(answer, No):
        return answer.sentence
    if isinstance(answer, Yes):
        return f"allowed by {answer.rule}"
    return f"a person has to approve this first, by {answer.rule}"


def rules_of(peer: Peer) -> tuple[Rule, ...]:
    """The rules that the record of a peer holds: each of its grants allows one action."""
    return tuple(
        Rule(
            f"the grant {grant}",
            grant,
            purposes=peer.purposes if grant in _REQUESTED else frozenset(),
            filters=peer.filters,
        )
        for grant in sorted(peer.grants)
    )


def why_not_trusted(peer: Peer, now: int) -> str | None:
    """Why nothing at all counts of a peer now (seconds since the epoch, UTC); None if it does."""
    if peer.revoked is not None:
        return f"trust in {peer.petname} was revoked"
    if peer.expires is not None and peer.expires <= now:
        return f"trust in {peer.petname} has ended"
    if peer.card.expires <= now:
        return f"the card of {peer.petname} has expired"
    return None


def why_never(action: str, peer: Peer | None, rules: Sequence[Rule], now: int) -> No | None:
    """What refuses an action whatever the study, the request and the use; None for nothing.

    Needs no look at a study, so what has ended can be cut at once. Takes what `may` takes;
    where this is a no, `may` gives the same one.
    """
    if action not in ACTIONS:
        return No(Why.NOT_GRANTED, f"there is nothing like {action} that can be allowed")
    if peer is None:
        return No(Why.NOT_TRUSTED, "the facility is not trusted")
    reason = why_not_trusted(peer, now)
    if reason is not None:
        return No(Why.NOT_TRUSTED, reason)
    for needed in ACTIONS[action]:
        own = [rule for rule in rules if rule.action == needed]
        for rule in own:
            if _denies(rule) and not rule.purposes and not rule.limits:
                return _denied(rule)
        allowing = [rule for rule in own if rule.effect == ALLOW]
        if not allowing:
            return No(Why.NOT_GRANTED, f"{peer.petname} does not have the grant {needed}")
        if all(rule.filters for rule in allowing):
            return _unreadable(allowing[0])
    return None


def tells_apart(action: str, rules: Iterable[Rule]) -> bool:
    """Whether rules can allow an action for one shared study and not for another.

    Where they cannot, one answer of `may` about a shared study is the answer about all.
    """
    needed = ACTIONS.get(action, ())
    return any(rule.filters or rule.effect == HOLD for rule in rules if rule.action in needed)


def may(
    action: str,
    peer: Peer | None,
    rules: Sequence[Rule],
    facts: Facts | None,
    request: Request,
    usage: Usage,
    now: int,
) -> Answer:
    """Decide.

    Args:
        action: one of `ACTIONS`.
        peer: who, as it is stored now; None for a facility that was never paired.
        rules: its rules, see `rules_of`.
        facts: of the study that it is about; None when there is none, or none is meant.
        request: what the peer asks for.
        usage: what it has used of its limits.
        now: seconds since the epoch, UTC.
    """
    never = why_never(action, peer, rules, now)
    if never is not None:
        return never
    assert peer is not None
    if action in _REQUESTED:
        if not request.speaks:
            return No(Why.NOT_TRUSTED, "its node key does not count any more")
        if request.purpose not in PURPOSES:
            return No(Why.PURPOSE, "there is no such purpose")
    answers = []
    for needed in ACTIONS[action]:
        own = [rule for rule in rules if rule.action == needed]
        answer = _decide(peer, own, facts, request, usage, now)
        if isinstance(answer, No):
            return answer
        answers.append(answer)
    # Behind the rules: who may not have it learns nothing of it.
    if action in _OF_OUR_STUDIES and (facts is None or facts.state != "shared"):
        return No(Why.NOT_SHARED, "the study is not shared")
    return next((answer for answer in answers if isinstance(answer, Ask)), answers[0])


def _decide(
    peer: Peer,
    rules: Iterable[Rule],
    facts: Facts | None,
    request: Request,
    usage: Usage,
    now: int,
) -> Answer:
    """What the rules of one action say: deny before hold, hold before allow."""
    found: Answer | None = None
    held: Ask | None = None
    for rule in rules:
        failure = _failure(rule, peer, request, usage)
        holds_perhaps = failure is None or not failure.is_certain
        if _denies(rule):
            if holds_perhaps:
                return _denied(rule)
        elif rule.effect == HOLD:
            if holds_perhaps and not _is_approved(rule, facts, request, now):
                held = held or Ask(rule.name)
        elif failure is None:
            found = found if isinstance(found, Yes) else Yes(rule.name)
        elif found is None:
            found = failure.no
    assert found is not None, "`why_never` has seen a rule that allows"
    return held if held is not None and isinstance(found, Yes) else found


@dataclass(frozen=True)
class _Failure:
    """Why a rule does not hold, or, where that is not certain, is not known to."""

    no: No
    is_certain: bool


def _failure(rule: Rule, peer: Peer, request: Request, usage: Usage) -> _Failure | None:
    """What keeps a rule from holding; what is known to do so goes before what may."""
    unknown = _Failure(_unreadable(rule), is_certain=False) if rule.filters else None
    if rule.purposes and request.purpose not in rule.purposes:
        no = No(
            Why.PURPOSE, f"{peer.petname} is not trusted for the purpose {request.purpose or '-'}"
        )
        if request.purpose:
            return _Failure(no, is_certain=True)
        unknown = unknown or _Failure(no, is_certain=False)
    for name, most in rule.limits.items():
        used = usage.used.get(name)
        if used is None:
            no = No(Why.LIMIT, f"how much {peer.petname} has used of {name} is not known")
            unknown = unknown or _Failure(no, is_certain=False)
        elif used >= most:
            no = No(Why.LIMIT, f"{peer.petname} has used up its {name} ({most})")
            return _Failure(no, is_certain=True)
    return unknown


def _is_approved(rule: Rule, facts: Facts | None, request: Request, now: int) -> bool:
    given = request.approval
    return (
        given is not None
        and facts is not None
        and (given.rule, given.study_uid) == (rule.name, facts.study_uid)
        and now < given.until
    )


def _denies(rule: Rule) -> bool:
    return rule.effect not in (ALLOW, HOLD)


def _denied(rule: Rule) -> No:
    return No(Why.NOT_GRANTED, f"denied by {rule.name}")


def _unreadable(rule: Rule) -> No:
    return No(Why.NOT_GRANTED, f"{rule.name} has a filter that this release cannot read")
