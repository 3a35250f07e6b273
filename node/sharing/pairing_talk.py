"""One pairing while it goes on: the exchange over its line, and what both sides have decided."""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from keys.trust import Peer
from node.network.pairing_line import LineLost, PairingLine
from node.sharing.pairing_window import Window
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.pairing import Answered, Event, Met, PairingExchange

E = TypeVar("E")


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


class Talk:
    """An exchange over a line.

    Attributes:
        may_go_on: whether what came may still be read.
    """

    def __init__(
        self, line: PairingLine, exchange: PairingExchange, may_go_on: Callable[[], bool]
    ) -> None:
        self.line = line
        self.exchange = exchange
        self.may_go_on = may_go_on
        self._heard: deque[Event] = deque()

    async def until(self, kind: type[E]) -> E:
        """Go on to an event, with a bounded time for each message.

        Raises:
            LineLost: the other side has hung up, or the window has ended.
            RemoteProtocolError: it broke a rule, or has another code.
            trio.TooSlowError: it said nothing.
        """
        while True:
            with trio.fail_after(limits.PAIRING_STEP_SECONDS):
                await self.flush()
                event = await self.hear()
            if isinstance(event, kind):
                return event

    async def hear(self) -> Event:
        """The next event; sends nothing."""
        while not self._heard:
            data = await self.line.receive()
            if not self.may_go_on():
                raise LineLost
            self._heard += self.exchange.receive_untrusted(data)
        return self._heard.popleft()

    async def answer(self, accepted: bool) -> None:
        """Tell what a person here has decided, if it can be told."""
        self.exchange.answer(accepted)
        with contextlib.suppress(LineLost):
            await self.flush()

    async def flush(self) -> None:
        """Send what is to be sent.

        Raises:
            LineLost: the other side has hung up.
        """
        outgoing = self.exchange.take_outgoing()
        if outgoing:
            await self.line.send(outgoing)


async def hear_answer(meeting: Meeting, talk: Talk) -> None:
    """Wait for the other side's answer, and note it."""
    try:
        event = await talk.hear()
        if isinstance(event, Answered):
            meeting.theirs = event.accepted
    except (LineLost, RemoteProtocolError):
        meeting.is_lost = True
    meeting.wake()
