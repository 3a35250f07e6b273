"""Why a peer may, or may not: what each rule said, and the least change that would allow it.

For people here. The answer is that of `keys.grants.may`, asked with the same arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from keys.conditions import Asked, Facts, Failure
from keys.grants import (
    ACTIONS,
    DENIED_WITH,
    Answer,
    No,
    Request,
    Usage,
    Why,
    Yes,
    failures,
    gives,
    has_ended,
    holds_perhaps,
    may,
    uses_of,
)
from keys.peer import Peer
from keys.rules import ALLOW, ASK, Rule

Value = TypeVar("Value")


@dataclass(frozen=True)
class Said:
    """What one rule said.

    Attributes:
        rule: the rule.
        counts: whether it counts: for a rule that allows, whether all its conditions hold; for
            others, whether they hold as far as is known.
        has_ended: whether its time is over.
        failures: the conditions that do not hold, or of which that is not known; certain ones
            first.
    """

    rule: Rule
    counts: bool
    has_ended: bool
    failures: tuple[Failure, ...]

    @property
    def hangs_on_missing(self) -> bool:
        """Whether it counts, or does not, only because something is not known."""
        return (
            not self.has_ended
            and bool(self.failures)
            and not any(one.is_certain for one in self.failures)
        )


@dataclass(frozen=True)
class Explanation:
    """An answer, and what led to it.

    Attributes:
        answer: the answer.
        said: each rule of the actions that it needs, in their order.
        changes: the fewest changes of rules that would allow it, each completes "it would be
            allowed if ..."; empty if it is allowed, or no change of rules would.
    """

    answer: Answer
    said: tuple[Said, ...]
    changes: tuple[str, ...]

    @property
    def decides(self) -> str:
        """The name of the rule that decided, or ""."""
        return self.answer.rule


def explain_in_full(
    action: str,
    peer: Peer | None,
    rules: Sequence[Rule],
    facts: Facts | None,
    request: Request,
    usage: Usage,
    now: int,
) -> Explanation:
    """Decide as `keys.grants.may`, and tell why; arguments as there."""
    answer = may(action, peer, rules, facts, request, usage, now)
    asked = request.asked(now, frozenset() if peer is None else uses_of(peer, rules, now))
    said = tuple(
        _said(rule, facts, asked, usage, now)
        for needed in (*ACTIONS.get(action, ()), *DENIED_WITH.get(action, ()))
        for rule in rules
        if rule.action == needed
        and (needed in ACTIONS.get(action, ()) or rule.effect not in (ALLOW, ASK))
    )
    changes: tuple[str, ...] = ()
    if isinstance(answer, No) and peer is not None and action in ACTIONS:
        changes = _changes(action, peer, rules, said, facts, request, usage, now)
    return Explanation(answer, said, changes)


def _said(rule: Rule, facts: Facts | None, asked: Asked, usage: Usage, now: int) -> Said:
    failed = sorted(failures(rule, facts, asked, usage), key=lambda one: not one.is_certain)
    ended = has_ended(rule, now)
    counts = not failed if rule.effect == ALLOW else holds_perhaps(rule, facts, asked, usage)
    return Said(rule, counts and not ended, ended, tuple(failed))


def _changes(
    action: str,
    peer: Peer,
    rules: Sequence[Rule],
    said: Sequence[Said],
    facts: Facts | None,
    request: Request,
    usage: Usage,
    now: int,
) -> tuple[str, ...]:
    """The fewest changes of rules after which the answer is no refusal; () if there are none."""
    changes, changed = [], list(rules)
    for one in said:
        if one.counts and one.rule.effect not in (ALLOW, ASK):
            changes.append(f"{one.rule.name} were removed")
            changed.remove(one.rule)
    for needed in ACTIONS[action]:
        own = [one for one in said if one.rule.action == needed]
        allowing = [one for one in own if one.rule.effect == ALLOW]
        waiting = [one for one in own if gives(one.rule, ()) and one.rule.effect == ASK]
        if any(one.counts and not one.failures for one in (*allowing, *waiting)):
            continue
        # The rule with the fewest obstacles, and of those the first.
        nearest = min(allowing, key=lambda one: len(one.failures) + one.has_ended, default=None)
        if nearest is None:
            changes.append(f"a rule allowed {needed}")
            changed.append(Rule("a new rule", needed))
            continue
        changes += _widenings(nearest)
        changed[changed.index(nearest.rule)] = _widened(nearest)
    answer = may(action, peer, changed, facts, request, usage, now)
    if isinstance(answer, No):
        return ()
    return tuple(changes)


def _widenings(said: Said) -> list[str]:
    name = said.rule.name
    found = [f"{name} had not ended"] if said.has_ended else []
    for one in said.failures:
        if one.kind in said.rule.limits:
            found.append(f"{name} allowed more than {one.wanted} {one.kind}")
        elif one.found:
            found.append(f"{name} did not want {one.condition}")
        else:
            found.append(f"{name} did not want {one.condition} (not known here)")
    return found


def _widened(said: Said) -> Rule:
    failed = {one.kind for one in said.failures}
    return replace(
        said.rule,
        until=None,
        conditions=_without(said.rule.conditions, failed),
        limits=_without(said.rule.limits, failed),
    )


def _without(fields: Mapping[str, Value], names: set[str]) -> dict[str, Value]:
    return {name: value for name, value in fields.items() if name not in names}


def beyond_rules(answer: Answer) -> str:
    """What would have to change other than rules, as a sentence; "" if rules decided."""
    if isinstance(answer, Yes) or not isinstance(answer, No):
        return ""
    if answer.why is Why.NOT_TRUSTED:
        return "trust in the facility would have to be given again (`radmesh trust add`)"
    if answer.why is Why.NOT_SHARED and "objects" in answer.sentence:
        return "the patient would have to end the objection (`radmesh objection end`)"
    if answer.why is Why.NOT_SHARED and "this peer" in answer.sentence:
        return "the study would have to be shared with this peer again (`radmesh share --to`)"
    if answer.why is Why.NOT_SHARED:
        return "the study would have to be shared (`radmesh share`)"
    if answer.why is Why.PURPOSE and not answer.rule:
        return "a purpose would have to be named (`--purpose`)"
    return ""
