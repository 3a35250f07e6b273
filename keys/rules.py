"""One rule of a peer: its form for people, its form in records and in the log.

A person writes a rule in words: `allow fetch modality=CT,MR max-age=5y purpose=TREAT
studies-a-day=20 until=2027-03-31`. The record of a peer and the log hold the same as JSON values,
with blinded lists (`keys.conditions`).
"""

import datetime
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keys.canonical import MAX_INTEGER
from keys.conditions import KINDS, is_read, read, shown
from keys.written import BadCondition, Values

ALLOW, ASK, DENY = "allow", "ask", "deny"
EFFECTS = (ALLOW, ASK, DENY)
"""Effects of a rule; ask has a person asked each time, who may let the peer fetch what no rule
allows (`keys.grants`). Any other word counts as deny."""

LIMITS = ("studies-a-day", "bytes-a-day")
"""What a rule may limit: the studies and the bytes of them that a peer begins to receive in a
sliding day."""

EMERGENCIES_A_DAY = 3
"""Studies a day of a rule `allow emergency` that says nothing else."""

EXAM, PATIENT, ON_REQUEST = "exam", "patient", "on-request"
SHOWS = (ON_REQUEST, EXAM, PATIENT)
"""What a rule to see shows, least first: nothing until the peer asks for a patient; the exam
without the patient; the patient as well."""

RULES = 200
"""Most rules of a peer."""

_LAST_SECOND = int(datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC).timestamp())
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
REQUESTED = frozenset({"find", "fetch", "send", "emergency"})
"""Actions that a node of the peer requests, with a purpose."""
_ASKED = frozenset({"fetch", "send"})
_LIMITED = frozenset({"fetch", "emergency"})


class BadRule(ValueError):
    """A rule that cannot be read; the text says why."""


@dataclass(frozen=True)
class Rule:
    """One rule of a peer.

    Attributes:
        name: the rule's name, for people and for the approval that answers it.
        action: the action that it is about.
        effect: one of `EFFECTS`; deny goes before ask, ask before allow.
        conditions: kind to values, see `keys.conditions`; all must hold.
        limits: some of `LIMITS` to the most that the rule allows.
        until: the rule counts before this time, seconds since the epoch, UTC; None always.
        shows: one of `SHOWS`, for the action `see`.
        withheld: whether withheld studies are allowed, too, for the action `emergency`.
        number: its number among the rules of its peer, never given twice; 0 for a grant.
    """

    name: str
    action: str
    effect: str = ALLOW
    conditions: Mapping[str, Values] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    until: int | None = None
    shows: str = EXAM
    number: int = 0
    withheld: bool = False

    def to_fields(self) -> dict[str, Any]:
        """The rule as JSON values; what has its default is left out."""
        fields: dict[str, Any] = {
            "number": self.number,
            "effect": self.effect,
            "action": self.action,
        }
        if self.conditions:
            fields["conditions"] = {kind: list(one) for kind, one in self.conditions.items()}
        if self.limits:
            fields["limits"] = dict(self.limits)
        if self.until is not None:
            fields["until"] = self.until
        if self.shows != EXAM:
            fields["shows"] = self.shows
        if self.withheld:
            fields["withheld"] = True
        return fields

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Rule":
        """The inverse of `to_fields`.

        A field of a later release, and a condition with values that only a later release can read,
        becomes a condition that nobody can read, so that the rule allows nothing.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: these are no fields of a rule.
        """
        number = int(fields["number"])
        conditions: dict[str, Values] = {}
        for kind, listed in fields.get("conditions", {}).items():
            values = tuple(str(value) for value in listed)
            is_later = kind in KINDS and not is_read(kind, values)
            conditions[f"value of {kind}" if is_later else str(kind)] = values
        limits = {str(name): int(most) for name, most in fields.get("limits", {}).items()}
        until = fields.get("until")
        shows = str(fields.get("shows", EXAM))
        for unread in sorted(fields.keys() - _FIELDS):
            conditions[f"field {unread}"] = ()
        for name in sorted(limits.keys() - set(LIMITS)):
            conditions[f"limit {name}"] = ()
        if shows not in SHOWS:
            conditions[f"shows {shows}"] = ()
        withheld = fields.get("withheld", False)
        if not isinstance(withheld, bool):
            conditions[f"withheld {withheld}"] = ()
        return cls(
            f"rule {number}",
            str(fields["action"]),
            str(fields["effect"]),
            conditions,
            limits,
            None if until is None else int(until),
            shows,
            number,
            withheld is True,
        )

    def __str__(self) -> str:
        """The rule in words, as a person wrote it."""
        words = [self.effect, self.action]
        words += [_word(kind, shown(kind, values)) for kind, values in self.conditions.items()]
        words += [f"{name}={most}" for name, most in self.limits.items()]
        if self.action == "see" and self.effect == ALLOW:
            words.append(f"shows={self.shows}")
        if self.withheld:
            words.append("withheld=yes")
        if self.until is not None:
            words.append(f"until={_shown_time(self.until)}")
        return " ".join(words)


_FIELDS = frozenset(
    {"number", "effect", "action", "conditions", "limits", "until", "shows", "withheld"}
)


def read_rule(
    words: Sequence[str],
    number: int,
    *,
    actions: Sequence[str],
    blind: Callable[[str, str], str],
) -> Rule:
    """The rule that a person wrote.

    Args:
        words: effect, action, and `name=value` for each condition, limit, end.
        number: the number that it gets.
        actions: the actions that there are.
        blind: makes the form in which values of lists are kept, see `keys.conditions.Facts`.

    Raises:
        BadRule: it cannot be read.
    """
    effect, action, *rest = [*words, "", ""][: max(2, len(words))]
    if effect not in EFFECTS:
        raise BadRule(f"a rule begins with {', '.join(EFFECTS[:-1])} or {EFFECTS[-1]}")
    if action not in actions:
        raise BadRule(f"there is no action {action!a}; there are {', '.join(actions)}")
    conditions: dict[str, Values] = {}
    limits: dict[str, int] = {}
    until, shows, withheld = None, EXAM, False
    seen = set()
    for word in rest:
        name, equals, text = word.partition("=")
        if not equals:
            raise BadRule(f"{word!a} is no condition: write NAME=VALUE, such as modality=CT,MR")
        if name in seen:
            raise BadRule(f"{name} is there twice; put its values behind one =, with commas")
        seen.add(name)
        if name == "until":
            until = _time(text)
        elif name == "shows":
            shows = text
        elif name == "withheld":
            withheld = _says_yes(text)
        elif name in LIMITS:
            limits[name] = _amount(text)
        else:
            try:
                conditions[name] = read(name, text, blind)
            except BadCondition as error:
                raise BadRule(str(error)) from None
    if (action, effect) == ("emergency", ALLOW):
        # Written into the rule, so that everybody sees it.
        limits.setdefault("studies-a-day", EMERGENCIES_A_DAY)
    name = f"rule {number}"
    rule = Rule(name, action, effect, conditions, limits, until, shows, number, withheld)
    _check(rule, "shows" in seen)
    return rule


def _check(rule: Rule, says_shows: bool) -> None:
    if says_shows and (rule.action != "see" or rule.effect != ALLOW):
        raise BadRule("shows= belongs to a rule `allow see`")
    if rule.shows not in SHOWS:
        raise BadRule(f"shows= takes one of {', '.join(SHOWS)}")
    if rule.withheld and (rule.action != "emergency" or rule.effect != ALLOW):
        raise BadRule("withheld= belongs to a rule `allow emergency`")
    if rule.limits and (rule.effect != ALLOW or rule.action not in _LIMITED):
        raise BadRule("a limit a day belongs to a rule `allow fetch` or `allow emergency`")
    if rule.effect == ASK and rule.action == "emergency":
        raise BadRule("an emergency does not wait for an answer: it can be allowed or denied")
    if rule.effect == ASK and rule.action not in _ASKED:
        raise BadRule(f"nobody waits for an answer to {rule.action}: it can be allowed or denied")
    for kind in rule.conditions:
        if rule.action == "witness":
            raise BadRule("a witness sees no study: the rule can have no conditions")
        if not KINDS[kind].of_study and rule.action not in REQUESTED:
            raise BadRule(
                f"{kind} cannot be a condition of {rule.action}: nobody asks when a study is"
                " announced"
            )
        if KINDS[kind].of_study and rule.action == "send":
            raise BadRule(f"{kind} cannot be a condition of send: the study is not here yet")


def _word(kind: str, values: str) -> str:
    # As a shell takes it: a name may have blanks and apostrophes.
    return shlex.quote(f"{kind}={values}")


def _says_yes(text: str) -> bool:
    if text.strip().casefold() != "yes":
        raise BadRule("withheld takes only yes: leave it out instead")
    return True


def _amount(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})\s*([kmgt]b)?", text.strip().casefold())
    if found is None:
        raise BadRule(f"{text!a} is no amount such as 20 or 50GB")
    amount = int(found[1]) * _UNITS[found[2] or ""]
    if amount > MAX_INTEGER:
        raise BadRule(f"{text!a} is more than anybody can fetch")
    return amount


def _time(text: str) -> int:
    """The end of a day, or a moment, UTC, in seconds since the epoch."""
    seconds = _seconds(text)
    if not 0 < seconds <= _LAST_SECOND:
        raise BadRule(f"{text!a} is no end of a rule: it is before 1970 or after 9999")
    return seconds


def _seconds(text: str) -> int:
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            day = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
            return int((day + datetime.timedelta(days=1)).timestamp())
        moment = datetime.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise BadRule(f"{text!a} is no date such as 2027-03-31 or 2027-03-31T12:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


def _shown_time(seconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    if not seconds % 86_400:
        return (moment - datetime.timedelta(days=1)).strftime("%Y-%m-%d")
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
