"""The caller of an operation: the node's own account, or a person of the group.

The code that answers a call sets the caller with `asked_by`, and the log reads it with
`asking`, so each entry that a call causes names the person. Worker threads of
`node.blocking.in_thread` and tasks that the call starts have the same caller; actions of
the node by itself have no person.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from protocol import limits

SEPARATOR = "^^^"
"""Between the parts of a person in an opening; in none of them."""


@dataclass(frozen=True)
class Caller:
    """A caller of operations.

    Attributes:
        kind: `service` is any process of the node's own account: its owner's commands and
            programs, never a person. `person` is a user whom the system knows by name.
        name: name of a person: in the list of people, or else the user name; "" for the service.
        role: the role in which a person of the list acts; "" for others.
        display: name for people, such as "Dr. A. Beispiel"; "" for others.
        person: id in the list of people; "" for others.
        number: the number of a user, by the system's word; None if it is not known.
        proposer: the other person, where two of them act together.
        proposal: the proposal that they carry out, by its entry; None without one.
    """

    kind: Literal["service", "person"]
    name: str = ""
    role: str = ""
    display: str = ""
    person: str = ""
    number: int | None = None
    proposer: "Caller | None" = None
    proposal: int | None = None

    @property
    def opening(self) -> str:
        """The value behind the commitment to this person: name, role, and name for people."""
        if not self.role:
            return self.name
        return SEPARATOR.join((self.name, self.role, self.display))

    @property
    def openings(self) -> tuple[str, ...]:
        """The openings of all persons who act here; none for the service."""
        if self.kind != "person":
            return ()
        return (*(self.proposer.openings if self.proposer else ()), self.opening)


def parts_of(opening: str) -> tuple[str, str, str]:
    """Name, role (or roles), and name for people in the opening of a person; "" for what lacks."""
    name, role, display, *_ = (*opening.split(SEPARATOR), "", "")
    return name, role, display


def told_of(opening: str) -> tuple[str, str]:
    """Name and role of a person as another facility is told them, from an opening."""
    name, role, display = parts_of(opening)
    return (display or name)[: limits.NAME_CHARACTERS], role[: limits.ROLE_CHARACTERS]


SERVICE = Caller("service")


def caller_from(opening: str) -> Caller:
    """The caller whom an opening names; the service for an empty one."""
    if not opening:
        return SERVICE
    name, role, display = parts_of(opening)
    return Caller("person", name, role=role, display=display)


_asking: ContextVar[Caller] = ContextVar("radmesh_asking", default=SERVICE)


def asking() -> Caller:
    """The caller on whose behalf the current code runs."""
    return _asking.get()


@contextlib.contextmanager
def asked_by(caller: Caller) -> Iterator[None]:
    """Set the caller for the code inside this block."""
    token = _asking.set(caller)
    try:
        yield
    finally:
        _asking.reset(token)
