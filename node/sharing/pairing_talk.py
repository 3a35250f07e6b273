"""The exchange of one pairing over its line."""

import contextlib
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import trio

from node.network.pairing_line import LineLost, PairingLine
from node.sharing.pairing_stage import Meeting
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.pairing import Answered, Event, PairingExchange

E = TypeVar("E")


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
