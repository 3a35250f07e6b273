"""Tells of what stands by mail and webhook while the node runs; delays nothing else.

Every few seconds it looks at what stands, and makes notices of what is new (`told`). Each channel
sends its notices one by one, in a task of its own: a relay that is away holds up no webhook.
"""

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from node.blocking import in_thread
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from node.failures import describe_unexpected, single_node_error
from node.notices.message import Message, message_of
from node.notices.subjects import Alert
from node.notices.told import Told

log = logging.getLogger("radmesh.notices")

LOOK_SECONDS = 5.0
"""Time between two looks at what stands."""

SEND_SECONDS = 45.0
"""Longest time for one notice, from the name of the host to the last answer."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 10.0, 600.0


class Channel(Protocol):
    """A way to tell others."""

    @property
    def kind(self) -> str:
        """`mail` or `webhook`."""

    @property
    def name(self) -> str:
        """Tells it from others in what was told."""

    @property
    def place(self) -> str:
        """Where it goes, for people."""

    async def send(self, told: Message) -> None:
        """Send one message.

        Raises:
            NodeError: it was not taken.
        """


class _State:
    """How a channel does."""

    def __init__(self) -> None:
        self.sent = 0
        self.error = ""
        self.failing_since: float | None = None
        self.poked = trio.Event()


class Notices:
    """The notices of a node.

    Args:
        database: keeps what was told; opened with `NOTICES_SCHEMA`.
        channels: the ways to tell, at least one.
        facility: fingerprint of our facility.
        clock: dates notices.
        retry_seconds: first and longest pause after a failure.
        send_seconds: see `SEND_SECONDS`.
    """

    def __init__(
        self,
        database: Database,
        channels: Sequence[Channel],
        facility: str,
        clock: Clock,
        *,
        retry_seconds: tuple[float, float] = (FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS),
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        self._database = database
        self._channels = tuple(channels)
        self._facility = facility
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._send_seconds = send_seconds
        self._states = {one.name: _State() for one in channels}
        self._told: Told | None = None

    def describe(self) -> list[dict[str, Any]]:
        """How each channel does, as JSON; for any thread."""
        return [
            {
                "kind": one.kind,
                "place": one.place,
                "sent": state.sent,
                "unsent": 0 if self._told is None else len(self._told.unsent(one.name)),
                "last_error": state.error or None,
                "failing_seconds": None
                if state.failing_since is None
                else round(self._clock.running() - state.failing_since),
            }
            for one, state in ((one, self._states[one.name]) for one in self._channels)
        ]

    async def run(self, standing: Callable[[], Sequence[Alert]]) -> None:
        """Tell until cancelled.

        Args:
            standing: gives all that stands now; called in a thread.
        """
        told = await self._open()
        async with trio.open_nursery() as nursery:
            for channel in self._channels:
                nursery.start_soon(self._serve, told, channel)
            trouble = ""
            while True:
                try:
                    await in_thread(lambda: told.look(standing()))
                    for gone in await in_thread(told.give_up_old):
                        log.warning("a notice about %s is given up after a day", gone.subject)
                    trouble = ""
                except Exception as error:
                    # What cannot be read now is looked at again; the node goes on.
                    if _words(error) != trouble:
                        trouble = _words(error)
                        log.warning("what stands cannot be read: %s", trouble)
                for state in self._states.values():
                    state.poked.set()
                await trio.sleep(LOOK_SECONDS)

    async def _open(self) -> Told:
        """What was told before; tried until it can be read."""
        names = [one.name for one in self._channels]
        while True:
            try:
                self._told = await in_thread(Told, self._database, self._clock, names)
                return self._told
            except NodeError as error:
                log.warning("nothing is told, as what was told cannot be read: %s", error.message)
                await trio.sleep(LAST_RETRY_SECONDS)

    async def test(self) -> list[dict[str, Any]]:
        """Send a test by each channel, at once and past the queue.

        Returns:
            Kind, place and the error (None if it was taken) of each channel.
        """
        errors: dict[str, str | None] = {}
        message = Message(
            id=secrets.token_hex(16),
            made=self._clock.now(),
            facility=self._facility,
            subject="test",
            severity="note",
            count=1,
            text="this is a test of the notices of the node",
            next="nothing",
        )

        async def send(channel: Channel) -> None:
            try:
                await self._send(channel, message)
                errors[channel.name] = None
            except Exception as error:
                errors[channel.name] = _words(error)

        async with trio.open_nursery() as nursery:
            for channel in self._channels:
                nursery.start_soon(send, channel)
        return [
            {"kind": one.kind, "place": one.place, "error": errors[one.name]}
            for one in self._channels
        ]

    async def _serve(self, told: Told, channel: Channel) -> None:
        state, pause = self._states[channel.name], self._retry_seconds[0]
        while True:
            state.poked = trio.Event()
            waiting = told.unsent(channel.name)
            if not waiting:
                await state.poked.wait()
                continue
            notice = waiting[0]
            try:
                await self._send(channel, message_of(notice, self._facility))
            except Exception as error:
                # Whatever the error, even a fault of ours: the node goes on.
                what = _words(error)
                if what != state.error:
                    log.warning("a notice about %s is not told: %s", notice.subject, what)
                state.error = what
                if state.failing_since is None:
                    state.failing_since = self._clock.running()
                await trio.sleep(pause)
                pause = min(2 * pause, self._retry_seconds[1])
            else:
                if state.error:
                    log.info("notices go to %s again", channel.place)
                state.sent += 1
                state.error, state.failing_since, pause = "", None, self._retry_seconds[0]
                await in_thread(told.sent, notice)

    async def _send(self, channel: Channel, message: Message) -> None:
        with trio.move_on_after(self._send_seconds) as patience:
            await channel.send(message)
        if patience.cancelled_caught:
            raise NodeError(
                f"{channel.place} did not answer within {self._send_seconds:.0f} s",
                hint="look at the network between, and at that machine",
                code=ExitCode.UNREACHABLE,
            )


def _words(error: Exception) -> str:
    known = single_node_error(error)
    return describe_unexpected(error) if known is None else known.message
