"""What a peer may do: one pure decision.

Feed, announcer, sender and witness call `may`; nothing else decides. The answer is yes, no,
or that a person must be asked. A rule holds, does not hold, or it is unknown whether it
holds. If unknown, a rule that allows does not apply, and a rule that denies or asks a person
does. So a condition that this release does not know never permits anything.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keys.peer import PURPOSES, Peer

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "see": ("see",),
    "find": ("find",),
    # Without `see` here, a peer that lost `see` could still fetch studies announced before.
    "fetch": ("fetch", "see"),
    "send": ("send",),
    "witness": ("witness",),
}
"""Action to the actions that must all be allowed for it."""

_OF_OUR_STUDIES = frozenset({"see", "find", "fetch"})
_REQUESTED = frozenset({"find", "fetch", "send"})
"""Actions that a node of the peer requests, with a purpose."""

ALLOW, HOLD, DENY = "allow", "hold", "deny"
"""Effects of a rule; hold asks a person each time. Any other word counts as deny."""


class Why(enum.Enum):
    """Reasons for a refusal, in as much detail as the refused peer may learn."""

    NOT_TRUSTED = "not trusted"
    NOT_GRANTED = "not granted"
    PURPOSE = "purpose"
    LIMIT = "limit"
    NOT_SHARED = "not shared"


@dataclass(frozen=True)
class Rule:
    """One rule of a peer.

    Attributes:
        name: the rule's name, for people and for the approval that answers it.
        action: the action that it is about.
        effect: `ALLOW`, `HOLD` or `DENY`; deny goes before hold, hold before allow.
        purposes: the purposes for which it holds; empty for any purpose, or none named.
        filters: name to a filter that narrows the rule to some studies. This release reads
            no filters, so for a rule with a filter it is unknown whether it holds.
        limits: name to the use at which the rule no longer holds.
    """

    name: str
    action: str
    effect: str = ALLOW
    purposes: frozenset[str] = frozenset()
    filters: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Known facts about one study; None or "" if not known.

    Attributes:
        study_uid: Study Instance UID.
        state: "shared", or why not.
        modalities: modalities in the study.
        body_parts: body parts named in the images.
        study_date: YYYYMMDD.
        is_deidentified: whether a de-identification report is bound to its content.
    """

    study_uid: str
    state: str = ""
    modalities: tuple[str, ...] | None = None
    body_parts: tuple[str, ...] | None = None
    study_date: str = ""
    is_deidentified: bool | None = None


@dataclass(frozen=True)
class Approval:
    """A person's approval of a request that a rule held.

    Attributes:
        rule: the rule's name.
        study_uid: the only study that the approval is for.
        until: the approval counts before this time, seconds since the epoch, UTC.
    """

    rule: str
    study_uid: str
    until: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """A peer's request; empty if nobody requests anything.

    Attributes:
        speaks: whether the requesting node speaks for the peer now.
        purpose: one of `PURPOSES`; "" if none is named.
        person: the requesting person, by the peer's word; "" if not known.
        reason: the reason in that person's words; "" if none.
        approval: the approval by a person here; None if there is none yet.
    """

    speaks: bool = False
    purpose: str = ""
    person: str = ""
    reason: str = ""
    approval: Approval | None = None


@dataclass(frozen=True)
class Usage:
    """Name of a limit to how much of it a peer has used; not known if absent."""

    used: Mapping[str, int] = field(default_factory=dict)


NO_REQUEST, NO_USAGE = Request(), Usage()


@dataclass(frozen=True)
class Yes:
    """The peer may, by this rule."""

    rule: str


@dataclass(frozen=True)
class No:
    """The peer may not; `sentence` says why, for our own log and people only."""

    why: Why
    sentence: str


@dataclass(frozen=True)
class Ask:
    """A person must be asked: the rule with this name requires it."""

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
    """The rules in a peer's record: each of its grants allows one action."""
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
    """Why a peer is not trusted at all now (seconds since the epoch, UTC); None if it is."""
    if peer.revoked is not None:
        return f"trust in {peer.petname} was revoked"
    if peer.expires is not None and peer.expires <= now:
        return f"trust in {peer.petname} has ended"
    if peer.card.expires <= now:
        return f"the card of {peer.petname} has expired"
    return None


def why_never(action: str, peer: Peer | None, rules: Sequence[Rule], now: int) -> No | None:
    """The refusal of an action for any study, request and use; None if there is none.

    Needs no study, so a session that is no longer allowed can be ended at once. The
    arguments are as in `may`, which returns the same refusal if there is one.
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

    If they cannot, the answer of `may` for one shared study holds for all.
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
    """Decide whether a peer may do something now.

    Args:
        action: one of `ACTIONS`.
        peer: the peer as stored now; None for a facility that was never paired.
        rules: its rules, see `rules_of`.
        facts: facts about the study; None if there is no such study, or none is concerned.
        request: the peer's request.
        usage: the peer's use of its limits.
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
    # Checked after the rules: a peer without permission must learn nothing about the study.
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
    """The answer of the rules for one action: deny before hold, hold before allow."""
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
    """Why a rule does not hold or, if `is_certain` is False, why it is unknown whether it holds."""

    no: No
    is_certain: bool


def _failure(rule: Rule, peer: Peer, request: Request, usage: Usage) -> _Failure | None:
    """Why a rule does not hold, if it does not; certain reasons come before uncertain ones."""
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
