"""What a peer may do: one pure decision.

Feed, announcer, sender and witness call `may`; nothing else decides. The answer is yes, no,
or that a person must be asked. A rule holds, does not hold, or it is unknown whether it
holds. If unknown, a rule that allows does not apply, and a rule that denies or asks a person
does. So a condition that this release does not know never permits anything.

A rule that asks holds back what another rule allows. A request to fetch waits by it also where no
rule allows, if the rule is known to hold; once a person has approved it, it goes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from keys.answers import (
    NO_REQUEST,
    NO_USAGE,
    Answer,
    Approval,
    Ask,
    No,
    Request,
    Usage,
    Why,
    Yes,
    explain,
)
from keys.conditions import KINDS, NOT_TO_PEER, USES, Asked, Facts, Failure, failure, use_of
from keys.peer import Peer
from keys.purposes import BREAK_GLASS, is_purpose
from keys.rules import ALLOW, ASK, DENY, REQUESTED, SHOWS, Rule

__all__ = [
    "ACTIONS",
    "ALLOW",
    "ASK",
    "DENIED_WITH",
    "DENY",
    "NO_REQUEST",
    "NO_USAGE",
    "Answer",
    "Approval",
    "Ask",
    "Facts",
    "No",
    "Request",
    "Rule",
    "Usage",
    "Why",
    "Yes",
    "explain",
    "failures",
    "gives",
    "has_ended",
    "holds_perhaps",
    "is_reason",
    "may",
    "rules_of",
    "study_action",
    "takes",
    "tells_apart",
    "uses_of",
    "why_never",
    "why_not_trusted",
]

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "see": ("see",),
    "find": ("find",),
    # Without `see` here, a peer that lost `see` could still fetch studies announced before.
    "fetch": ("fetch", "see"),
    # A study that nobody announced may be what saves a life: it needs neither.
    "emergency": ("emergency",),
    "send": ("send",),
    "witness": ("witness",),
}
"""Action to the actions that must all be allowed for it."""

DENIED_WITH: Mapping[str, tuple[str, ...]] = {"find": ("see",)}
"""Action to further ones: who is denied a study by one of these rules is denied it for the action,
too. What a rule keeps from being seen must not be found either."""

_OF_OUR_STUDIES = frozenset({"see", "find", "fetch", "emergency"})
_WAITING = "fetch"
"""The action whose requests wait for a person, who may let the peer have what no rule allows."""

_ASKED_FOR = frozenset({"find", "fetch", "emergency"})
"""Those of them that are about our studies."""

EMERGENCY_REASON = range(10, 501)
"""How many characters the reason for an emergency has."""


def study_action(purpose: str) -> str:
    """The action that a request for a study with this purpose is."""
    return "emergency" if purpose == BREAK_GLASS else "fetch"


def is_reason(text: str) -> bool:
    """Whether the text is a reason for an emergency."""
    return len(text.strip()) in EMERGENCY_REASON


def rules_of(peer: Peer) -> tuple[Rule, ...]:
    """The rules of a peer: each of its grants allows one action; then those of its record."""
    # No release has written a filter; one that stands there was meant to narrow the grants.
    narrowed = {f"filter {name}": () for name in peer.filters}
    for_purposes = {"purpose": tuple(sorted(peer.purposes))} if peer.purposes else {}
    grants = (
        Rule(
            f"the grant {grant}",
            grant,
            conditions=narrowed | (for_purposes if grant in REQUESTED else {}),
        )
        for grant in sorted(peer.grants)
    )
    return (*grants, *peer.rules)


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
    for rule in _denying(action, rules, now):
        if not rule.conditions and not rule.limits:
            return _denied(rule)
    for needed in ACTIONS[action]:
        own = [rule for rule in rules if rule.action == needed and not has_ended(rule, now)]
        allowing = [rule for rule in own if rule.effect == ALLOW or _may_wait(rule)]
        if not allowing:
            return No(Why.NOT_GRANTED, f"{peer.petname} has no grant and no rule to {needed}")
        if not any(rule.conditions.keys() <= KINDS.keys() for rule in allowing):
            return _unreadable(allowing[0])
    return None


def _denying(action: str, rules: Iterable[Rule], now: int) -> Iterator[Rule]:
    """The rules that deny an action, and those that deny it with another."""
    needed = (*ACTIONS[action], *DENIED_WITH.get(action, ()))
    for rule in rules:
        if rule.action in needed and _denies(rule) and not has_ended(rule, now):
            yield rule


def has_ended(rule: Rule, now: int) -> bool:
    """Whether a rule does not count any more (seconds since the epoch, UTC)."""
    return rule.until is not None and rule.until <= now


def tells_apart(action: str, rules: Iterable[Rule]) -> bool:
    """Whether rules can allow an action for one shared study and not for another.

    If they cannot, the answer of `may` for one shared study holds for all.
    """
    needed, also = ACTIONS.get(action, ()), DENIED_WITH.get(action, ())
    return any(
        rule.effect == ASK
        or any(kind not in KINDS or KINDS[kind].of_study for kind in rule.conditions)
        for rule in rules
        if rule.action in needed or (rule.action in also and _denies(rule))
    )


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
    if action in REQUESTED:
        if not request.speaks:
            return No(Why.NOT_TRUSTED, "its node key does not count any more")
        if not is_purpose(request.purpose):
            return No(Why.PURPOSE, "there is no such purpose")
    if action == "fetch" and request.purpose == BREAK_GLASS:
        return No(Why.PURPOSE, "breaking the glass is the action emergency")
    if action == "emergency":
        if request.purpose != BREAK_GLASS:
            return No(Why.PURPOSE, f"an emergency has the purpose {BREAK_GLASS}")
        if not is_reason(request.reason):
            least, most = EMERGENCY_REASON[0], EMERGENCY_REASON[-1]
            sentence = f"an emergency needs a reason of {least} to {most} characters"
            return No(Why.NOT_GRANTED, sentence)
    answers, uses = [], uses_of(peer, rules, now)
    for rule in _denying(action, rules, now):
        if rule.action not in ACTIONS[action] and holds_perhaps(
            rule, facts, request.asked(now, uses), usage
        ):
            return _denied(rule)
    for needed in ACTIONS[action]:
        own = [rule for rule in rules if rule.action == needed]
        answer = _decide(peer, own, facts, request, uses, usage, now)
        if isinstance(answer, No):
            return answer
        answers.append(answer)
    # Checked after the rules: a peer without permission must learn nothing about the study.
    if action in _OF_OUR_STUDIES:
        withheld = answers[0].withheld and facts is not None and facts.state == "withheld"
        if facts is None or not (facts.state == "shared" or withheld):
            return No(Why.NOT_SHARED, _not_shared(facts))
        if objects(facts, uses, request):
            return No(Why.NOT_SHARED, "the patient objects")
    return next((answer for answer in answers if isinstance(answer, Ask)), answers[0])


def _not_shared(facts: Facts | None) -> str:
    if facts is not None and facts.state == NOT_TO_PEER:
        return "the study is withdrawn from this peer"
    return "the study is not shared"


def uses_of(peer: Peer, rules: Iterable[Rule], now: int) -> frozenset[str]:
    """The uses that a peer may make of what it is told: those for which it may ask.

    A facility is a research partner by its purposes, or by those of the rules that let it ask.
    """
    found: set[str] = set()
    for rule in rules:
        lets = rule.effect == ALLOW or _may_wait(rule)
        if not lets or rule.action not in _ASKED_FOR or has_ended(rule, now):
            continue
        purposes = rule.conditions.get("purpose") or sorted(peer.purposes)
        found.update(map(use_of, purposes) if purposes else USES)
    return frozenset(found or set(map(use_of, peer.purposes)) or USES)


def objects(facts: Facts, uses: frozenset[str], request: Request) -> bool:
    """Whether the patient objects to this use, see `Facts.objections`.

    The use of a peer (`uses_of`) that is told of a study is research if it may ask for nothing
    else, and else care. Who may not be told of the study may not ask for it either.
    """
    told = "research" if uses == {"research"} else "care"
    asked = use_of(request.purpose) if request.purpose else told
    return bool({told, asked} & facts.objections)


def takes(rule: Rule, others: Iterable[Rule]) -> bool:
    """Whether a rule takes something away from what a peer may do by other rules, or might."""
    if rule.effect != ASK:
        return rule.effect != ALLOW
    return any((one.effect, one.action) == (ALLOW, rule.action) for one in others)


def gives(rule: Rule, others: Iterable[Rule]) -> bool:
    """Whether a rule lets a peer do, or ask a person for, what other rules may not let it do."""
    if not _may_wait(rule):
        return rule.effect == ALLOW
    return not any(
        (one.effect, one.action) == (ALLOW, rule.action)
        and not (one.conditions or one.limits)
        and one.until is None
        for one in others
    )


def _may_wait(rule: Rule) -> bool:
    return (rule.effect, rule.action) == (ASK, _WAITING)


def _decide(
    peer: Peer,
    rules: Sequence[Rule],
    facts: Facts | None,
    request: Request,
    uses: frozenset[str],
    usage: Usage,
    now: int,
) -> Answer:
    """The answer of the rules for one action: deny before ask, ask before allow."""
    asked = request.asked(now, uses)
    found: Answer | None = None
    # Of rules that ask: the first that is not answered, the first by which a request may wait
    # though nothing allows it, and the first by which it may not.
    held: Ask | None = None
    waits: Answer | None = None
    refused: No | None = None
    answered = _answered(rules, facts, request, now)
    for place, rule in enumerate(rules):
        if has_ended(rule, now):
            continue
        failed = _first(failures(rule, facts, asked, usage))
        if _denies(rule):
            if failed is None or not failed.is_certain:
                return _denied(rule)
        elif rule.effect == ASK:
            if (failed is None or not failed.is_certain) and place >= answered:
                held = held or Ask(rule.name)
            if _may_wait(rule):
                if failed is None:
                    waits = waits or Yes(rule.name)
                else:
                    refused = refused or _refused(peer, rule, failed)
        elif failed is None:
            if not isinstance(found, Yes) or _shows_more(rule, found):
                found = Yes(rule.name, rule.shows, rule.withheld)
        elif found is None:
            found = _refused(peer, rule, failed)
    if not isinstance(found, Yes):
        found = waits or found or refused
    assert found is not None, "`why_never` has seen a rule that allows, or by which it may wait"
    if held is not None and isinstance(found, Yes):
        return Ask(held.rule, found.withheld)
    return found


def _answered(rules: Sequence[Rule], facts: Facts | None, request: Request, now: int) -> int:
    """How many of the rules, from the first on, a person has answered by approving the request.

    Several rules may ask, one after the other, and the newest approval is for the last of them. A
    rule that was made since stands behind it.
    """
    given = request.approval
    if given is None or facts is None or given.study_uid != facts.study_uid or now >= given.until:
        return 0
    return max((place for place, rule in enumerate(rules, 1) if rule.name == given.rule), default=0)


def _shows_more(rule: Rule, found: Yes) -> bool:
    return (SHOWS.index(rule.shows), rule.withheld) > (SHOWS.index(found.shows), found.withheld)


def failures(rule: Rule, facts: Facts | None, asked: Asked, usage: Usage) -> Iterator[Failure]:
    """The conditions and limits of a rule that do not hold, or of which this is not known."""
    for kind, values in rule.conditions.items():
        failed = failure(kind, values, facts, asked)
        if failed is not None:
            yield failed
    for name, most in rule.limits.items():
        used = usage.used.get(name)
        if used is None or used > most:
            yield Failure(name, str(most), "" if used is None else f"with this it would be {used}")


def holds_perhaps(rule: Rule, facts: Facts | None, asked: Asked, usage: Usage) -> bool:
    """Whether a rule holds, as far as is known."""
    return not any(failed.is_certain for failed in failures(rule, facts, asked, usage))


def _first(failed: Iterator[Failure]) -> Failure | None:
    """The first failure, a certain one before one that is not known."""
    first = None
    for one in failed:
        if one.is_certain:
            return one
        first = first or one
    return first


def _refused(peer: Peer, rule: Rule, failed: Failure) -> No:
    """The refusal of a rule that does not allow; the log gets it, so it names no value."""
    if failed.kind not in KINDS and failed.kind not in rule.limits:
        return _unreadable(rule)
    if failed.kind == "purpose":
        return No(Why.PURPOSE, f"{peer.petname} is not trusted for this purpose", rule.name)
    if failed.kind in rule.limits:
        more = f"it would be more than {rule.name} allows ({failed.condition})"
        unsure = f"it is not known how much of {failed.kind} of {rule.name} is used"
        return No(Why.LIMIT, more if failed.is_certain else unsure, rule.name)
    what = "does not hold" if failed.is_certain else "is not known to hold"
    return No(
        Why.NOT_GRANTED,
        f"{rule.name} does not allow it: its condition {failed.kind} {what}",
        rule.name,
    )


def _denies(rule: Rule) -> bool:
    return rule.effect not in (ALLOW, ASK)


def _denied(rule: Rule) -> No:
    return No(Why.NOT_GRANTED, f"denied by {rule.name}", rule.name)


def _unreadable(rule: Rule) -> No:
    return No(
        Why.NOT_GRANTED, f"{rule.name} has a condition that this release cannot read", rule.name
    )
