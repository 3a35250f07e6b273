"""Who asks a node for something: the node itself and its owner, or a person of the group."""

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
