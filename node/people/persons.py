"""The list of people: names, roles, and the users of the machine that they are.

A person has an id of its own, and is bound to users in rows, so that a person is the same one
over another way in. Each change is an entry of the log that names the person as an opening.

Order of writes: entry -> list, in one transaction with the entry's index. What is taken away
first counts in memory, even if the disk fails (`node/audit/cuts.py`).
"""

import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects
from node.audit.log import AuditLog
from node.callers import SEPARATOR, parts_of
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.log.entry import Entry, Event

PEOPLE_SCHEMA = """
CREATE TABLE IF NOT EXISTS people (
    person TEXT PRIMARY KEY,            -- 16 random hex digits
    name TEXT NOT NULL,                 -- by which commands and the log name the person
    display TEXT NOT NULL,              -- name for people, or ""
    roles TEXT NOT NULL,                -- in the order of PERSON_ROLES, a comma between
    added INTEGER NOT NULL              -- milliseconds since the epoch, UTC
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS people_by_name ON people (name);
CREATE TABLE IF NOT EXISTS people_bindings (
    kind TEXT NOT NULL,                 -- os-user, os-number
    value TEXT NOT NULL,                -- the user name; the number that the user had
    person TEXT NOT NULL REFERENCES people,
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS people_before (
    one INTEGER PRIMARY KEY CHECK (one = 1) -- a row in homes that are older than the list
) STRICT;
"""

PERSON_ROLES = ("look", "send", "approve", "emergency", "admin", "audit")
"""What people may: see the studies, move them, decide for others, in an emergency, change the
node's trust and people, read its log."""

OS_USER, OS_NUMBER = "os-user", "os-number"

MOST_PEOPLE = 1000
MOST_USERS = 8

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_DISPLAY_LENGTH = 64
_USER_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class Person:
    """A person of the list.

    Attributes:
        id: 16 hex digits, never reused.
        name: name in commands and in the log.
        display: name for people, or "".
        roles: what the person may, some of `PERSON_ROLES`, in that order.
        users: the users of the machine that the person is, sorted.
        added: milliseconds since the epoch, UTC.
    """

    id: str
    name: str
    display: str
    roles: tuple[str, ...]
    users: tuple[str, ...]
    added: int

    @property
    def opening(self) -> str:
        """The value behind the commitment in an entry about this person."""
        return SEPARATOR.join((self.name, ",".join(self.roles), self.display, ",".join(self.users)))


class Persons:
    """The list of people. Thread-safe.

    Args:
        database: holds the list.
        audit: the log, whose openings say whom an entry is about.
        effects: logs each change before it is made.
        clock: dates a new person.

    Attributes:
        lock: held while the list changes.
        before_taking: called with the list as it will be before somebody is removed or loses a
            role; raises NodeError where that may not be.
        before_giving: called before somebody gets a role, likewise.
    """

    def __init__(self, database: Database, audit: AuditLog, effects: Effects, clock: Clock) -> None:
        self._database = database
        self._audit = audit
        self._effects = effects
        self._clock = clock
        self.lock = threading.RLock()
        self._cuts = Cuts(effects.append, lambda: None)
        self._left: dict[str, tuple[str, ...] | None] = {}
        """The roles that a person has left while that is not written; None: not in the list."""
        self.before_taking: Callable[[Sequence[Person]], None] = lambda people: None
        self.before_giving: Callable[[], None] = lambda: None

    def all(self) -> list[Person]:
        """The people of the list, by name."""
        users: dict[str, list[str]] = {}
        for row in self._database.query(
            "SELECT person, value FROM people_bindings WHERE kind = ? ORDER BY value", (OS_USER,)
        ):
            users.setdefault(row["person"], []).append(row["value"])
        found = [
            _from_row(row, users.get(row["person"], ()))
            for row in self._database.query("SELECT * FROM people ORDER BY name")
        ]
        left = dict(self._left)
        found = [replace(one, roles=left.get(one.id, one.roles) or ()) for one in found]
        return [one for one in found if left.get(one.id, ()) is not None]

    def find(self, name: str) -> Person:
        """The person with this name.

        Raises:
            NodeError: there is none.
        """
        for person in self.all():
            if person.name == name:
                return person
        raise NodeError(
            f"there is no person {name!r} in the list",
            hint="see `radmesh people list`",
            code=ExitCode.NOT_FOUND,
        )

    def with_id(self, person: str) -> Person | None:
        """The person with this id; None when it was removed."""
        return next((one for one in self.all() if one.id == person), None)

    def of_user(self, user: str, number: int | None = None) -> Person | None:
        """The person that a user of the machine is; None for a user who is not in the list.

        Args:
            user: the user name.
            number: the number of the user now; None if it is not known.

        Raises:
            NodeError: the user has another number than when the person was added: the name may be
                somebody else's since.
        """
        row = self._database.query_one(
            "SELECT person FROM people_bindings WHERE kind = ? AND value = ?", (OS_USER, user)
        )
        if row is None:
            return None
        known = self._database.query(
            "SELECT value FROM people_bindings WHERE kind = ? AND person = ?",
            (OS_NUMBER, row["person"]),
        )
        # A person who was added by an older release has none.
        if number is not None and known and str(number) not in {one["value"] for one in known}:
            raise NodeError(
                f"the user {user} is another one than when this person was put into the list",
                hint="the owner of the node looks who it is: `radmesh people remove`, then `people "
                "add`",
                code=ExitCode.REFUSED,
            )
        return self.with_id(row["person"])

    def is_open_as_before(self) -> bool:
        """Whether the home is older than the list of people, and nobody is in the list yet."""
        return (
            self._database.query_one("SELECT one FROM people_before") is not None
            and self._database.query_one("SELECT person FROM people") is None
        )

    # --- changes ----------------------------------------------------------------------

    def add(
        self,
        name: str,
        users: Iterable[str],
        roles: Iterable[str],
        display: str,
        numbers: Iterable[int] = (),
    ) -> Person:
        """Put a person into the list.

        Args:
            name: name in commands and in the log: lower-case letters, digits, `.`, `_`, `-`.
            users: the users of the machine that the person is.
            roles: what the person may, some of `PERSON_ROLES`.
            display: name for people, or "".
            numbers: the numbers that these users have now.

        Raises:
            NodeError: a value is malformed or taken, or the change cannot be written.
        """
        kept = sorted(set(numbers))
        person = Person(
            id=secrets.token_hex(8),
            name=_checked_name(name),
            display=_checked_display(display),
            roles=checked_roles(roles),
            users=_checked_users(users),
            added=self._clock.now_ms(),
        )
        if not person.roles:
            raise _usage("a person without a role may do nothing", "name one: --role look")
        with self.lock:
            self.before_giving()
            self._cuts.write()
            known = self.all()
            if len(known) >= MOST_PEOPLE:
                raise NodeError(
                    f"the list has {MOST_PEOPLE} people already",
                    hint="remove those who have left: `radmesh people remove`",
                    code=ExitCode.REFUSED,
                )
            for other in known:
                if other.name == person.name:
                    raise _taken(f"there is a person {person.name} already")
                for user in set(other.users) & set(person.users):
                    raise _taken(f"the user {user} is {other.name} already")
            for number in kept:
                if self._database.query_one(
                    "SELECT person FROM people_bindings WHERE kind = ? AND value = ?",
                    (OS_NUMBER, str(number)),
                ):
                    raise _taken("one of these users is, by another name, somebody else already")
            self._effects.after_entry(
                _event("person-added", person),
                lambda connection: _insert(connection, person, kept),
            )
        return person

    def change(
        self, name: str, give: Iterable[str], take: Iterable[str], known_as: str = ""
    ) -> Person:
        """Give a person roles, or take some away.

        Args:
            name: names the person.
            give: the roles to give.
            take: the roles to take.
            known_as: the id that the person must have; "" for any.

        Raises:
            NodeError: there is no such person or role, or the change cannot be written.
        """
        given, taken = checked_roles(give), checked_roles(take)
        with self.lock:
            person = self.find(name)
            if known_as not in ("", person.id):
                raise NodeError(
                    f"{name} is another person now",
                    hint="see `radmesh people list`",
                    code=ExitCode.NOT_FOUND,
                )
            roles = (set(person.roles) | set(given)) - set(taken)
            changed = replace(person, roles=checked_roles(roles))
            if changed == person:
                raise NodeError(
                    f"{name} has these roles already: {', '.join(person.roles) or 'none'}",
                    code=ExitCode.USAGE,
                )
            if taken:
                self.before_taking([changed if p.id == person.id else p for p in self.all()])
                self._cut(changed, changed.roles, _event("person-changed", changed))
                return changed
            self.before_giving()
            self._cuts.write()
            self._effects.after_entry(
                _event("person-changed", changed), lambda connection: _update(connection, changed)
            )
        return changed

    def remove(self, name: str) -> Person:
        """Take a person out of the list, with all bindings; what is deleted is overwritten.

        Raises:
            NodeError: there is no such person, or the change cannot be written.
        """
        with self.lock:
            person = self.find(name)
            self.before_taking([one for one in self.all() if one.id != person.id])
            self._cut(person, None, _event("person-removed", person))
        return person

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Names of people from whom something was taken that could not be written yet."""
        return self._cuts.names

    def write_unwritten(self) -> None:
        """Try again to write that.

        Raises:
            NodeError: it still cannot be written.
        """
        with self.lock:
            self._cuts.write()

    def _cut(self, person: Person, left: tuple[str, ...] | None, event: Event) -> None:
        self._left[person.id] = left

        def take(connection: sqlite3.Connection) -> None:
            if left is None:
                _delete(connection, person.id)
            else:
                _update(connection, replace(person, roles=left))

        def effect(entry: Callable[[], int]) -> None:
            self._effects.of(entry(), take)
            if self._left.get(person.id) == left:
                self._left.pop(person.id, None)

        try:
            self._cuts.make(Cut(person.name, event, effect))
        except NodeError as error:
            raise NodeError(
                f"this is taken from {person.name} by this process, but could not be written: "
                f"{error.message}",
                hint="make room on the disk: a running node then writes it by itself; after a "
                "restart look with `radmesh people list` how it stands",
                code=error.code,
            ) from error

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Take from a person what an entry of the log takes away; see `Effects.compare`."""
        opening = self._audit.opening_of(entry.subjects[0][1]) if entry.subjects else None
        if opening is None:
            return False
        name, roles, _ = parts_of(opening.value)
        row = connection.execute("SELECT * FROM people WHERE name = ?", (name,)).fetchone()
        if row is None:
            return entry.type == "person-removed"
        if entry.type == "person-removed":
            _delete(connection, row["person"])
            return True
        person = _from_row(row, ())
        left = tuple(role for role in person.roles if role in roles.split(","))
        _update(connection, replace(person, roles=left))
        # A role that the entry gives has no effect, which another entry says.
        return ",".join(left) == roles


def checked_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Roles in the order of `PERSON_ROLES`.

    Raises:
        NodeError: there is no such role.
    """
    chosen = set(roles)
    for role in sorted(chosen - set(PERSON_ROLES)):
        raise _usage(f"there is no role {role!r}", f"the roles are {', '.join(PERSON_ROLES)}")
    return tuple(role for role in PERSON_ROLES if role in chosen)


def _event(kind: str, person: Person) -> Event:
    return Event(type=kind, actor="operator", subjects=(("person", person.opening),))


def _from_row(row: sqlite3.Row, users: Iterable[str]) -> Person:
    return Person(
        id=row["person"],
        name=row["name"],
        display=row["display"],
        roles=tuple(role for role in row["roles"].split(",") if role),
        users=tuple(users),
        added=row["added"],
    )


def _insert(connection: sqlite3.Connection, person: Person, numbers: Iterable[int]) -> None:
    connection.execute(
        "INSERT INTO people (person, name, display, roles, added) VALUES (?, ?, ?, ?, ?)",
        (person.id, person.name, person.display, ",".join(person.roles), person.added),
    )
    connection.executemany(
        "INSERT INTO people_bindings (kind, value, person) VALUES (?, ?, ?)",
        [
            *((OS_USER, user, person.id) for user in person.users),
            *((OS_NUMBER, str(number), person.id) for number in numbers),
        ],
    )


def _update(connection: sqlite3.Connection, person: Person) -> None:
    connection.execute(
        "UPDATE people SET roles = ? WHERE person = ?", (",".join(person.roles), person.id)
    )


def _delete(connection: sqlite3.Connection, person: str) -> None:
    connection.execute("DELETE FROM people_bindings WHERE person = ?", (person,))
    connection.execute("DELETE FROM people WHERE person = ?", (person,))


def _checked_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise _usage(
            "this name does not fit",
            "a name has 1 to 32 lower-case letters, digits, '.', '_' or '-', such as a.beispiel; "
            "--display takes the name for people",
        )
    return name


def _checked_display(display: str) -> str:
    text = display.strip()
    if len(text) > _DISPLAY_LENGTH or "^" in text or not text.isprintable():
        raise _usage(
            "this display name does not fit",
            f"it has at most {_DISPLAY_LENGTH} printable characters and no ^",
        )
    return text


def _checked_users(users: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(sorted(set(users)))
    if not 0 < len(chosen) <= MOST_USERS:
        raise _usage(
            "a person needs a user of this machine", f"name 1 to {MOST_USERS}: --user OSUSER"
        )
    for user in chosen:
        if (
            not 0 < len(user) <= _USER_LENGTH
            or not user.isprintable()
            or any(mark in user for mark in ",^ ")
        ):
            raise _usage("this user name does not fit", "give it as `id --user --name` shows it")
    return chosen


def _taken(message: str) -> NodeError:
    return NodeError(message, hint="see `radmesh people list`", code=ExitCode.REFUSED)


def _usage(message: str, hint: str) -> NodeError:
    return NodeError(message, hint=hint, code=ExitCode.USAGE)
