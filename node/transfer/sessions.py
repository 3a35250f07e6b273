"""One study stream to a peer as events; sending and receiving share this.

A reader task always drains the stream, so that a pause of ours never looks like a dead reader to
the peer; credit bounds how much the peer can send. The loss of the stream is the last event, after
everything that arrived before it.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import trio

from node.network.network import PeerStream, StreamLost
from node.network.watchdog import Watchdog
from node.transfer.uplink import SendSlot
from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.recipient import RecipientTransfer
from protocol.source import SourceTransfer
from protocol.states import FINAL
from protocol.transfer import Event, Refused

READ_BYTES = 1024 * 1024

STEP_BYTES = 64 * 1024
"""Most bytes of a read that are handled before other tasks have their turn, if there is a message
in them: a peer may fill a read with messages of 20 bytes, and each costs more than its bytes."""
_EVENTS_WAITING = 64

GOODBYE_SECONDS = 3.0
"""Longest wait for a peer to take our last words."""

E = TypeVar("E", bound=Event)


class TransferRefused(Exception):
    """The peer ended the transfer.

    Attributes:
        code: the peer's reason.
    """

    def __init__(self, code: WireCode) -> None:
        super().__init__(code.name)
        self.code = code


def steps_of(data: bytes | memoryview) -> Iterator[memoryview]:
    """The bytes of one read, in parts of at most `STEP_BYTES`."""
    view = memoryview(data)
    for start in range(0, len(view), STEP_BYTES):
        yield view[start : start + STEP_BYTES]


class StudyStream:
    """A stream, and the end of the transfer that interprets its bytes.

    Args:
        stream: to the peer.
        end: our end of the transfer.
    """

    def __init__(self, stream: PeerStream, end: SourceTransfer | RecipientTransfer) -> None:
        self.stream = stream
        self.watchdog = Watchdog(stream)
        self._end = end
        self._writing = trio.Lock()
        self._is_leaving = False
        self._into, self._events = trio.open_memory_channel[Event | Exception](_EVENTS_WAITING)

    def start(self, nursery: trio.Nursery) -> None:
        """Start the reader and the watchdog; they end with the nursery."""
        nursery.start_soon(self._read)
        nursery.start_soon(self.watchdog.run)

    async def _read(self) -> None:
        unpaused = 0
        try:
            while True:
                data = await self.stream.read(READ_BYTES, timeout_seconds=float("inf"))
                self.watchdog.progress()
                if self._is_leaving:
                    # Sent before the peer saw our end of the transfer: ignore it.
                    continue
                for step in steps_of(data):
                    # Each event gives others their turn. A part of a batch is only copied: a turn
                    # costs more than that, since threads at work then keep this one waiting.
                    for event in self._end.receive_untrusted(step):
                        await self._into.send(event)
                    unpaused += len(step)
                    if unpaused > READ_BYTES:
                        unpaused = 0
                        await trio.lowlevel.checkpoint()
        except (StreamLost, RemoteProtocolError) as error:
            await self._into.send(error)

    async def send(self, make_frame: Callable[[], bytes]) -> None:
        """Make a frame and write it; several tasks may do so.

        Nothing is written when the transfer is over: the main line finds the reason
        as its next event.

        Raises:
            StreamLost: the stream is gone, or the peer takes nothing.
        """
        async with self._writing:
            if self._end.state not in FINAL:
                await self.stream.write(make_frame(), timeout_seconds=limits.STALL_SECONDS)

    async def send_bulk(self, make_frame: Callable[[], bytes], place: SendSlot) -> None:
        """As `send`, but wait for a turn on the line."""
        async with self._writing:
            if self._end.state not in FINAL:
                await place.write(self.stream, make_frame())

    async def fail(self, error: Exception) -> None:
        """Pass an error of a helping task to the main line, as its next event."""
        await self._into.send(error)

    async def event(self, limit_seconds: float) -> Event:
        """The next event; something must come from the peer every `limit_seconds`.

        Raises:
            StreamLost: the connection broke, or nothing came in time.
            TransferRefused: the peer ended the transfer.
            RemoteProtocolError: the peer broke a rule.
            Exception: the error that a helping task gave to `fail`.
        """
        with self.watchdog.expect(limit_seconds):
            return _told(await self._events.receive())

    def event_nowait(self) -> Event | None:
        """The next event if it is here already; raises as `event` does."""
        try:
            return _told(self._events.receive_nowait())
        except trio.WouldBlock:
            return None

    async def expect(self, expected: type[E], limit_seconds: float) -> E:
        """The next event, which must be of one type.

        Raises:
            RemoteProtocolError: it is of another type.
        """
        event = await self.event(limit_seconds)
        if not isinstance(event, expected):
            raise RemoteProtocolError("the peer's messages are out of order", WireCode.UNEXPECTED)
        return event

    async def refuse(self, code: WireCode) -> None:
        """Tell the peer why the transfer ends, if it still listens."""
        if self._end.state in FINAL:
            return
        self._is_leaving = True
        with trio.move_on_after(GOODBYE_SECONDS):
            try:
                await self.send(lambda: self._end.refuse(code))
            except StreamLost:
                return
            await self.finish()

    async def finish(self) -> None:
        """End our half and wait until the peer has ended its own.

        Dropping a stream while the peer still reads can lose the last bytes written.
        """
        with trio.move_on_after(GOODBYE_SECONDS):
            try:
                await self.stream.close()
                while not isinstance(await self._events.receive(), StreamLost):
                    pass
            except StreamLost:
                return


def _told(event: Event | Exception) -> Event:
    if isinstance(event, Exception):
        raise event
    if isinstance(event, Refused):
        raise TransferRefused(event.code)
    return event
