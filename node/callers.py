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


@dataclass(frozen=True)
class Caller:
    """A caller of operations.

    Attributes:
        kind: `service` is any process of the node's own account: its owner's commands and
            programs, never a person. `person` is a user whom the system knows by name.
        name: name of a person; "" for the service.
    """

    kind: Literal["service", "person"]
    name: str = ""


SERVICE = Caller("service")

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
