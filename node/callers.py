"""Who asks a node for something: its own account, or a person of the group.

Whoever answers a call says so with `asked_by`, and the log asks `asking`: each entry that a
call causes names the person. The worker threads of `node.blocking.in_thread` and tasks that
the call starts see the same; what the node does by itself is nobody's.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        kind: `service` is whoever has the node's own account: its owner's commands and
            programs, never a person. `person` is somebody whom the system knows by name.
        name: of a person; "" of the service.
    """

    kind: Literal["service", "person"]
    name: str = ""


SERVICE = Caller("service")

_asking: ContextVar[Caller] = ContextVar("radmesh_asking", default=SERVICE)


def asking() -> Caller:
    """Who asked for what is being done here and now."""
    return _asking.get()


@contextlib.contextmanager
def asked_by(caller: Caller) -> Iterator[None]:
    """What is done inside of this block, this caller asked for."""
    token = _asking.set(caller)
    try:
        yield
    finally:
        _asking.reset(token)
