"""Sharing by rule: what a study becomes when its images come in. One pure decision.

A person writes a rule in words: `share source=dimse:CT* modality=CT,MR max-age=5y`, `withhold
institution=North`, `check modality=SR`. Withhold beats check, and check beats share. If no rule
counts, images that a person here brings by hand are shared, and all others are not.

A rule that shares counts if its conditions hold for every way in which the images describe the
study; the others count if this is so for one way. What is not known counts against sharing.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keys.canonical import canonical_json
from keys.conditions import (
    KINDS,
    Asked,
    Facts,
    Failure,
    failure,
    is_read,
    read,
    shown,
)
from keys.rules import BadRule
from keys.written import BadCondition, Values

SHARE, CHECK, WITHHOLD = "share", "check", "withhold"
SHARING_EFFECTS = (SHARE, CHECK, WITHHOLD)
"""Effects, the mildest first: the study is shared; withheld until a person has looked at it;
withheld. Any other word counts as withhold."""

BY_HAND = "command"
"""The source of what a person at this node brings in."""

FROM_PEER = "peer"
"""The source of what was fetched: this, a colon, and the fingerprint of the facility."""

FROM_ARCHIVE = "archive"
"""The source of studies that an archive is asked for: this, a colon, and its name."""

SOURCE = "source"
"""The condition about who brought the images; `*` in its values stands for any characters."""

SHARING_RULES = 200
"""Most rules."""

DEFAULT = "default"
"""The name under which the log has the decision of no rule."""

_NOT_HERE = frozenset({"consent", "deidentified"})
"""Conditions that nothing tells of a study that has just come."""

SHARING_CONDITIONS = (
    SOURCE,
    *(name for name, kind in KINDS.items() if kind.of_study and name not in _NOT_HERE),
)
"""The conditions that such a rule can have."""

_SOURCE_CHARACTERS = 128
_FIELDS = frozenset({"number", "effect", "conditions"})


@dataclass(frozen=True)
class SharingRule:
    """One rule.

    Attributes:
        number: its number, never given twice.
        effect: one of `SHARING_EFFECTS`.
        conditions: kind to values; all must hold.
    """

    number: int
    effect: str
    conditions: Mapping[str, Values] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name, for people and in the log."""
        return f"sharing rule {self.number}"

    def to_fields(self) -> dict[str, Any]:
        """The rule as JSON values."""
        fields: dict[str, Any] = {"number": self.number, "effect": self.effect}
        if self.conditions:
            fields["conditions"] = {kind: list(one) for kind, one in self.conditions.items()}
        return fields

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "SharingRule":
        """The inverse of `to_fields`; what a later release wrote is a condition nobody can read.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: these are no fields of a rule.
        """
        conditions: dict[str, Values] = {}
        for kind, listed in fields.get("conditions", {}).items():
            values = tuple(str(value) for value in listed)
            is_later = kind in KINDS and not is_read(kind, values)
            conditions[f"value of {kind}" if is_later else str(kind)] = values
        for unread in sorted(fields.keys() - _FIELDS):
            conditions[f"field {unread}"] = ()
        return cls(int(fields["number"]), str(fields["effect"]), conditions)

    def __str__(self) -> str:
        """The rule in words, as a person wrote it."""
        words = [self.effect]
        for kind, values in self.conditions.items():
            text = f"{kind}={','.join(values) if kind == SOURCE else shown(kind, values)}"
            words.append(f"'{text}'" if " " in text else text)
        return " ".join(words)


@dataclass(frozen=True)
class Decided:
    """What a study becomes.

    Attributes:
        effect: one of `SHARING_EFFECTS`.
        rule: the name of the rule that decided, or `DEFAULT`.
        why: why it is not shared, as a sentence without a subject and without patient data; "" if
            it is shared.
        rules: `rules_digest` of all rules; "" if there are none.
    """

    effect: str
    rule: str = DEFAULT
    why: str = ""
    rules: str = ""


def read_sharing_rule(
    words: Sequence[str], number: int, *, blind: Callable[[str, str], str]
) -> SharingRule:
    """The rule that a person wrote.

    Args:
        words: the effect, and `name=value` for each condition.
        number: the number that it gets.
        blind: see `keys.conditions.Facts`.

    Raises:
        BadRule: it cannot be read.
    """
    effect, *rest = words or ("",)
    if effect not in SHARING_EFFECTS:
        raise BadRule(f"a sharing rule begins with {SHARE}, {CHECK} or {WITHHOLD}")
    conditions: dict[str, Values] = {}
    for word in rest:
        name, equals, text = word.partition("=")
        if not equals:
            raise BadRule(f"{word!a} is no condition: write NAME=VALUE, such as modality=CT,MR")
        if name in conditions:
            raise BadRule(f"{name} is there twice; put its values behind one =, with commas")
        if name not in SHARING_CONDITIONS:
            raise BadRule(
                f"{name!a} cannot be a condition of sharing; there are"
                f" {', '.join(SHARING_CONDITIONS)}"
            )
        try:
            conditions[name] = _sources(text) if name == SOURCE else read(name, text, blind)
        except BadCondition as error:
            raise BadRule(str(error)) from None
    return SharingRule(number, effect, conditions)


def _sources(text: str) -> Values:
    values = tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
    if not values:
        raise BadCondition("the condition source has no value")
    for one in values:
        if len(one) > _SOURCE_CHARACTERS or re.fullmatch(r"[ -~]+", one) is None:
            raise BadCondition(f"{one!a} is no source such as dimse:CT1, dimse:* or command")
    return values


def rules_digest(rules: Sequence[SharingRule]) -> str:
    """SHA-256 of all rules, 64 hex digits; "" if there are none."""
    if not rules:
        return ""
    fields = canonical_json([rule.to_fields() for rule in rules])
    return hashlib.sha256(b"radmesh-sharing-rules-v1\0" + fields).hexdigest()


def is_by_hand(source: str) -> bool:
    """Whether a person at this node brought it."""
    return source.partition(":")[0] == BY_HAND


def decide(
    rules: Sequence[SharingRule], sources: Sequence[str], described: Sequence[Facts], now: int
) -> Decided:
    """What a study becomes by what its images say.

    Args:
        rules: all rules.
        sources: who brought the images, at least one.
        described: the study as its images describe it, at least once: where they differ, in
            several ways. Each value of an attribute stands in one of them.
        now: seconds since the epoch, UTC.
    """
    digest = rules_digest(rules)
    for effect in (WITHHOLD, CHECK, SHARE):
        for rule in rules:
            if _effect(rule) == effect and counts(rule, sources, described, now):
                return Decided(effect, rule.name, _why(rule), digest)
    foreign = [source for source in sources if not is_by_hand(source)]
    if not foreign:
        return Decided(SHARE, rules=digest)
    edge = foreign[0].partition(":")[0] if foreign[0].startswith(f"{FROM_PEER}:") else foreign[0]
    why = f"images came from {edge}, and no rule shares what comes from there"
    return Decided(WITHHOLD, DEFAULT, why, digest)


def _effect(rule: SharingRule) -> str:
    return rule.effect if rule.effect in SHARING_EFFECTS else WITHHOLD


def _why(rule: SharingRule) -> str:
    return {
        SHARE: "",
        CHECK: f"{rule.name} has a person look at it",
        WITHHOLD: f"{rule.name} withholds it",
    }[_effect(rule)]


def counts(rule: SharingRule, sources: Sequence[str], described: Sequence[Facts], now: int) -> bool:
    """Whether a rule counts for a study; arguments as in `decide`."""
    for found in _failures(rule, sources, described, now):
        if _effect(rule) == SHARE:
            if any(one is not None for one in found):
                return False
        elif all(one is not None and one.is_certain for one in found):
            return False
    return True


def hangs_on_missing(
    rule: SharingRule, sources: Sequence[str], described: Sequence[Facts], now: int
) -> bool:
    """Whether a rule counts, or does not, only because something is not known."""
    found = list(_failures(rule, sources, described, now))
    is_excluded = any(
        (any if _effect(rule) == SHARE else all)(one is not None and one.is_certain for one in each)
        for each in found
    )
    unknown = any(one is not None and not one.is_certain for each in found for one in each)
    if is_excluded or not unknown:
        return False
    # A rule that withholds counts anyhow if each condition holds for some of the images.
    return _effect(rule) == SHARE or not all(any(one is None for one in each) for each in found)


def _failures(
    rule: SharingRule, sources: Sequence[str], described: Sequence[Facts], now: int
) -> Iterator[list[Failure | None]]:
    """For each condition, how it fails for each source, or for each description."""
    for kind, values in rule.conditions.items():
        if kind == SOURCE:
            yield [_source_failure(values, source) for source in sources]
        else:
            yield [failure(kind, values, facts, Asked(now)) for facts in described]


def _source_failure(values: Values, source: str) -> Failure | None:
    if any(_fits(pattern, source) for pattern in values):
        return None
    return Failure(SOURCE, ",".join(values), f"it came from {source}" if source else "")


def _fits(pattern: str, source: str) -> bool:
    # No regular expression: with several stars it could take very long.
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == source
    *middle, last = rest
    if not source.startswith(first):
        return False
    place = len(first)
    for part in middle:
        place = source.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return len(source) - len(last) >= place and source.endswith(last)
