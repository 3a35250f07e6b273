"""Two-person rules: kinds of acts that one person proposes and another one confirms.

A rule holds what gives: trust, roles, an erasure. It never holds what takes away: revoking,
withdrawing, denying. The owner's account is no person and cannot be one of the two; it can end
a rule, which is an entry and an alert.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from node.audit.effects import Effects
from node.callers import asking
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from node.people.persons import Person, Persons
from protocol.log.entry import Event

RULES_SCHEMA = """
CREATE TABLE IF NOT EXISTS two_person_rules (
    kind TEXT PRIMARY KEY,
    persons INTEGER NOT NULL,           -- 2, or 1 where the rule has ended
    changed INTEGER NOT NULL,           -- milliseconds since the epoch, UTC
    by_owner INTEGER NOT NULL           -- whether the owner's account ended it then
) STRICT, WITHOUT ROWID;
"""

KINDS = {
    "trust": "trust that is given",
    "erasure": "erasing what names somebody beside the log",
}
"""The kinds of acts, in words. A kind exists only where an operation is of it."""

APPROVERS = ("approve", "admin")
"""The roles of which the second person needs one."""

ALERT_MS = 7 * 24 * 3600 * 1000
"""How long an alert says that the owner has ended a rule."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule as it is, or was until it ended.

    Attributes:
        kind: one of `KINDS`.
        persons: 2, or 1 where it has ended.
        changed: milliseconds since the epoch, UTC.
        by_owner: whether the owner's account ended it then. It may hold again: as long as an alert
            says so, making it anew changes nothing of that.
    """

    kind: str
    persons: int
    changed: int
    by_owner: bool


class Rules:
    """The two-person rules. Thread-safe.

    Args:
        database: holds the rules.
        effects: logs each change before it is made.
        persons: the people, whose list may not become too short for a rule.
        clock: dates changes.
    """

    def __init__(
        self, database: Database, effects: Effects, persons: Persons, clock: Clock
    ) -> None:
        self._database = database
        self._effects = effects
        self._persons = persons
        self._clock = clock
        persons.before_taking = self._require_enough
        persons.before_giving = self.require_two(*KINDS)

    def all(self) -> list[Rule]:
        """The rules that hold or held, by kind."""
        return [
            Rule(
                kind=row["kind"],
                persons=row["persons"],
                changed=row["changed"],
                by_owner=bool(row["by_owner"]),
            )
            for row in self._database.query("SELECT * FROM two_person_rules ORDER BY kind")
        ]

    def holding(self, kinds: Iterable[str]) -> tuple[str, ...]:
        """The kinds among these for which a rule holds now."""
        wanted = set(kinds)
        return tuple(rule.kind for rule in self.all() if rule.persons > 1 and rule.kind in wanted)

    def require_two(self, *kinds: str) -> Callable[[], None]:
        """A check right before an act: where a rule holds it, two persons must be behind it."""

        def check() -> None:
            if asking().proposal is None and (held := self.holding(kinds)):
                raise needs_two(held)

        return check

    def set(self, kind: str, persons: int) -> Rule:
        """Make a rule (2 persons), or end it (1).

        Raises:
            NodeError: there is no such kind, or no two people who could keep the rule.
        """
        if kind not in KINDS:
            raise NodeError(
                f"there is no two-person rule {kind!r}",
                hint=f"the rules are {', '.join(KINDS)}",
                code=ExitCode.USAGE,
            )
        if persons not in (1, 2):
            raise NodeError(
                "a rule asks for 2 persons, or for 1: then it ends", code=ExitCode.USAGE
            )
        caller = asking()
        with self._persons.lock:
            told = [rule for rule in self.ended_by_owner() if rule.kind == kind]
            if persons == 2 and told:
                # Whoever ended it for an hour must not end the alert with it.
                rule = replace(told[0], persons=2)
            else:
                by_owner = persons == 1 and caller.kind != "person"
                now = self._clock.now_ms()
                rule = Rule(kind=kind, persons=persons, changed=now, by_owner=by_owner)
            if persons == 2 and not _are_enough(self._persons.all()):
                raise NodeError(
                    "fewer than two people could keep this rule",
                    hint="it needs a person with the role admin, who proposes, and a second one "
                    "with the role approve or admin, who confirms: see `radmesh people list`",
                    code=ExitCode.REFUSED,
                )
            if persons == 1 and caller.kind == "person":
                # Asked once more under the lock: the rule may be younger than the call.
                self.require_two(kind)()
            if (persons == 2) == bool(self.holding((kind,))):
                how = "holds already" if persons == 2 else "does not hold"
                raise NodeError(
                    f"the two-person rule {kind} {how}",
                    hint="`radmesh people list` shows the rules that hold",
                    code=ExitCode.USAGE,
                )
            self._effects.after_entry(
                Event(
                    type="two-person-rule",
                    actor="operator",
                    details={"kind": kind, "persons": persons},
                ),
                lambda connection: _keep(connection, rule),
            )
        return rule

    def ended_by_owner(self) -> list[Rule]:
        """The rules that the owner has ended lately, for an alert."""
        since = self._clock.now_ms() - ALERT_MS
        return [rule for rule in self.all() if rule.by_owner and rule.changed >= since]

    def _require_enough(self, people: Sequence[Person]) -> None:
        held = self.holding(KINDS)
        if held and not _are_enough(people):
            raise NodeError(
                "then fewer than two people could keep the two-person rule for "
                f"{' and '.join(KINDS[kind] for kind in held)}",
                hint="put another person into the list first; or the owner of the node ends the "
                f"rule: `radmesh people rule {held[0]} 1`",
                code=ExitCode.REFUSED,
            )


def needs_two(kinds: Sequence[str]) -> NodeError:
    """The error for whoever cannot be one of the two persons."""
    return NodeError(
        f"two people of the list have to do this together ({KINDS[kinds[0]]}), and this account is "
        "not one of them",
        hint="a person with the role admin proposes it over the people's socket, and another one "
        f"confirms it; or the owner ends the rule: `radmesh people rule {kinds[0]} 1`",
        code=ExitCode.REFUSED,
    )


def may_confirm(person: Person) -> bool:
    """Whether a person may be the second one."""
    return any(role in APPROVERS for role in person.roles)


def _are_enough(people: Sequence[Person]) -> bool:
    approvers = [person for person in people if may_confirm(person)]
    return len(approvers) >= 2 and any("admin" in person.roles for person in approvers)


def _keep(connection: sqlite3.Connection, rule: Rule) -> None:
    connection.execute(
        "INSERT INTO two_person_rules (kind, persons, changed, by_owner) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (kind) DO UPDATE SET persons = excluded.persons,"
        " changed = excluded.changed, by_owner = excluded.by_owner",
        (rule.kind, rule.persons, rule.changed, rule.by_owner),
    )
