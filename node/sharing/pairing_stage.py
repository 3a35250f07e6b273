"""How far a pairing is, for whoever shows it to people; knows nothing of the network."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from keys.trust import Peer
from node.sharing.pairing_window import Window
from protocol.pairing import Met


@dataclass(frozen=True)
class Asked:
    """What a facility asks the other one for; only shown there."""

    grants: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()


@dataclass
class Meeting:
    """The facility at the other end, once the code is confirmed and its card is here.

    Attributes:
        met: its card, and what it asks for.
        session: the name of the run, 32 bytes.
        tries: how many wrong confirmations there were before.
        ours: whether a person here has accepted; None while nobody has decided.
        theirs: the same of the other side; None also when it can no longer be heard.
        is_lost: whether it can no longer be heard.
        peer: the facility as it is trusted now, if it is.
    """

    met: Met
    session: bytes
    tries: int
    ours: bool | None = None
    theirs: bool | None = None
    is_lost: bool = False
    is_deciding: bool = False
    peer: Peer | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def is_open(self) -> bool:
        """Whether nobody here has decided yet."""
        return self.ours is None and not self.is_deciding

    def wake(self) -> None:
        """Something has changed."""
        before, self.changed = self.changed, trio.Event()
        before.set()


@dataclass(frozen=True)
class Stage:
    """How far a pairing is; reported at each change.

    Attributes:
        window: the window that we show; None at the side that calls.
        meeting: whom we met; None before.
    """

    window: Window | None = None
    meeting: Meeting | None = None


Report = Callable[[Stage], None]
"""Takes each stage; does not block."""
