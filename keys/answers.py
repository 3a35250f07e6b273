"""What is asked of a decision, and what it answers."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from keys.conditions import Asked
from keys.rules import EXAM


class Why(enum.Enum):
    """Reasons for a refusal, in as much detail as the refused peer may learn."""

    NOT_TRUSTED = "not trusted"
    NOT_GRANTED = "not granted"
    PURPOSE = "purpose"
    LIMIT = "limit"
    NOT_SHARED = "not shared"


@dataclass(frozen=True)
class Approval:
    """A person's approval of a request that a rule held.

    Attributes:
        rule: the rule's name; rules that ask and stand before it were answered before it.
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
        purpose: the purpose, see `keys.purposes`; "" if none is named.
        person: the requesting person, by the peer's word; "" if not known.
        role: that person's role, by the peer's word; "" if not known.
        reason: the reason in that person's words; "" if none.
        is_stat: whether it is urgent.
        minute: minute of the day by our facility's clock; None if nobody asks now.
        weekday: 0 for Monday; None if nobody asks now.
        approval: the approval by a person here; None if there is none yet.
    """

    speaks: bool = False
    purpose: str = ""
    person: str = ""
    role: str = ""
    reason: str = ""
    is_stat: bool | None = None
    minute: int | None = None
    weekday: int | None = None
    approval: Approval | None = None

    def asked(self, now: int, uses: frozenset[str]) -> Asked:
        """What conditions read of it (seconds since the epoch, UTC); `uses` of who asks."""
        return Asked(now, self.purpose, self.role, self.is_stat, self.minute, self.weekday, uses)


@dataclass(frozen=True)
class Usage:
    """Name of a limit to what the peer would have used of it with this request.

    Not known if absent.
    """

    used: Mapping[str, int] = field(default_factory=dict)


NO_REQUEST, NO_USAGE = Request(), Usage()


@dataclass(frozen=True)
class Yes:
    """The peer may, by this rule; `shows` is what it sees, one of `SHOWS`.

    With `withheld`, the rule lets it have withheld studies as well.
    """

    rule: str
    shows: str = EXAM
    withheld: bool = False


@dataclass(frozen=True)
class No:
    """The peer may not; `sentence` says why, for our own log and people only.

    `rule` is the name of the rule that denies, or that comes nearest to allowing; "" if none does.
    """

    why: Why
    sentence: str
    rule: str = ""


@dataclass(frozen=True)
class Ask:
    """A person must be asked: the rule with this name requires it; `withheld` as in `Yes`."""

    rule: str
    withheld: bool = False


Answer = Yes | No | Ask


def explain(answer: Answer) -> str:
    """The answer as a sentence, lower case."""
    if isinstance(answer, No):
        return answer.sentence
    if isinstance(answer, Yes):
        return f"allowed by {answer.rule}"
    return f"a person has to approve this first, by {answer.rule}"
