"""One DICOM association of a caller: who it is, C-ECHO, and the images that it brings.

What else it asks goes to the service of its SOP class, as an operation with a data set.
"""

import contextlib
import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import trio

from edges.dimse import association as dimse
from edges.dimse.acceptor import Acceptor
from edges.dimse.commands import RESPONSE, Command, Element, Field, response
from edges.dimse.commitment import MODEL
from edges.dimse.limits import LEAST_PDU_BYTES, OPERATIONS
from edges.dimse.negotiation import EXPLICIT, IMPLICIT, Accepted, AssociateRequest, answer
from edges.dimse.states import State
from edges.file_head import file_head
from node.blocking import in_thread
from node.edges import statuses
from node.edges.dimse_classes import VERIFICATION, is_storage, supported
from node.edges.dimse_operation import Lost, Operation, Services
from node.edges.dimse_settings import OUR_DOOR, Caller, DimseSettings
from node.edges.dimse_wire import STALL_SECONDS, AcceptedWire
from node.edges.door_settings import Door
from node.edges.doors import Doors
from node.errors import NodeError
from node.images.arrivals import Arrivals, Association

log = logging.getLogger("radmesh.dimse")

READ_BYTES = 256 * 1024
HELD_BYTES = 256 * 1024
"""An image up to this size is handed over in one piece; of a larger one, no more is in memory."""

REQUEST_SECONDS = 30.0
"""Time until an association is asked for, and until the other side closes at the end (ARTIM)."""

LOGGED = 50
"""Refused associations of a kind that are logged one by one; `radmesh status` counts them all."""

# Results, sources and reasons of A-ASSOCIATE-RJ, PS3.8 section 9.3.4.
_BAD_CONTEXT = (1, 1, 2)
_BAD_CALLING = (1, 1, 3)
_BAD_CALLED = (1, 1, 7)
_TOO_MANY = (2, 3, 2)


@dataclass(eq=False)
class _Image:
    """An image that comes."""

    context: Accepted
    command: Command
    held: bytearray
    channel: trio.MemorySendChannel[bytes] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """The connection of a caller.

    Attributes:
        stream: its bytes.
        address: IP address of the caller.
        certificate: SHA-256 of the certificate that it showed; None without TLS.
    """

    stream: trio.abc.Stream
    address: str
    certificate: str | None = None


@dataclass
class Counts:
    """What associations have brought since the start, for `radmesh status`; no patient data."""

    associations: int = 0
    callers: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)


class Session:
    """One association.

    Args:
        line: the connection.
        settings: who may call, and the doors.
        arrivals: takes the images.
        doors: offers them.
        counts: counts what happens.
        storing: as many images of all associations are taken at one time.
        services: what is done beside storing, by SOP class.
        has_room: called when it is admitted; whether there may be one more.
    """

    def __init__(
        self,
        line: Line,
        settings: DimseSettings,
        arrivals: Arrivals,
        doors: Doors,
        counts: Counts,
        storing: trio.CapacityLimiter,
        services: Services,
        has_room: Callable[[], bool],
    ) -> None:
        self._line = line
        self._settings = settings
        self._arrivals = arrivals
        self._doors = doors
        self._counts = counts
        # The studies that are noted, and how many were settled then.
        self._noted: dict[str, int] = {}
        self._storing = storing
        self._has_room = has_room
        self._acceptor = Acceptor()
        self._wire = AcceptedWire(line.stream, self._acceptor)
        self._operations = trio.CapacityLimiter(OPERATIONS)
        self._image: _Image | None = None
        # The state with a time of its own that began last, and when that time is over (ARTIM).
        self._timed: tuple[State | None, float] = (None, 0.0)
        self._unsupported: tuple[Accepted, Command] | None = None
        self._services = services
        # The operation whose data set comes, and those under way.
        self._asked: Operation | None = None
        self._running: set[Operation] = set()
        self._caller = ""
        self._door = Door(name=OUR_DOOR)
        self._association: Association | None = None
        self._held = contextlib.AsyncExitStack()
        self._syntaxes: Counter[str] = Counter()

    async def run(self) -> None:
        """Talk until the association is over; never raises for what the other side does."""
        try:
            async with self._held, trio.open_nursery() as nursery:
                await self._talk(nursery)
                # What is not answered by now never will be: the caller does not count on it.
                nursery.cancel_scope.cancel()
        finally:
            if self._syntaxes:
                log.info("%s brought images: %s", self._caller, dict(self._syntaxes))

    async def _talk(self, nursery: trio.Nursery) -> None:
        acceptor = self._acceptor
        while not acceptor.is_closed:
            data: bytes | bytearray | None = None
            try:
                with trio.move_on_after(self._patience()):
                    data = await self._line.stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if data is None:
                if acceptor.state is State.AWAITING_REQUEST or acceptor.is_closing:
                    return
                log.info("%s says nothing any more", self._caller)
                acceptor.abort()
            elif data:
                for event in acceptor.receive(data):
                    await self._act(event, nursery)
                    # What was read may hold thousands: others have their turns.
                    await trio.lowlevel.checkpoint()
            else:
                for event in acceptor.closed():
                    await self._act(event, nursery)
            if not await self._wire.flush():
                return

    def _patience(self) -> float:
        """Seconds to wait for the next byte."""
        state = self._acceptor.state
        if state is State.AWAITING_REQUEST or self._acceptor.is_closing:
            # From its beginning: a byte now and then does not lengthen it.
            if self._timed[0] is not state:
                self._timed = (state, trio.current_time() + REQUEST_SECONDS)
            return max(0.0, self._timed[1] - trio.current_time())
        if self._acceptor.is_in_message:
            return STALL_SECONDS
        # It waits for our answers.
        return math.inf if self._operations.borrowed_tokens else self._settings.idle_seconds

    # --- what happens ------------------------------------------------------------------

    async def _act(self, event: dimse.Happened, nursery: trio.Nursery) -> None:
        match event:
            case dimse.Requested(request):
                self._decide(request)
            case dimse.CommandArrived(context, command):
                await self._begin(context, command)
            case dimse.DataArrived(piece, is_last):
                await self._take(piece, is_last, nursery)
            case dimse.ReleaseAsked():
                for operation in self._running:
                    operation.cancelled.set()
                self._wire.end_requests()
                # All that was sent is answered first.
                for _ in range(OPERATIONS):
                    await self._operations.acquire_on_behalf_of(object())
                if self._acceptor.state is State.RELEASING:
                    self._acceptor.release()
            case dimse.Ended(why):
                if self._caller:
                    log.info("an association of %s ended: it %s", self._caller, why)

    def _decide(self, request: AssociateRequest) -> None:
        reason, why = self._refusal(request)
        if why:
            self._counts.refused[why] += 1
            # A port scan does not fill the log.
            level = logging.WARNING if self._counts.refused[why] <= LOGGED else logging.DEBUG
            log.log(
                level,
                "an association from %s is refused: %s (it called %a as %a)",
                self._line.address, why, request.called, request.calling,
            )  # fmt: skip
            self._acceptor.reject(*reason)
            return
        self._caller = request.calling
        self._door = self._settings.doors[request.called]
        self._counts.associations += 1
        self._counts.callers[request.calling] += 1
        if not self._settings.callers[request.calling].query:
            self._services = {uid: one for uid, one in self._services.items() if one.to_all}
        self._wire.agreed = answer(request, self._supported, self._roles)
        self._acceptor.accept(self._wire.agreed)

    def _roles(self, sop_class: str) -> tuple[bool, bool]:
        if sop_class == MODEL:
            # It asks for commitment, or reports what we asked for.
            return True, sop_class in self._services
        gives = any(Field.C_GET in one.fields for one in self._services.values())
        return True, gives and is_storage(sop_class)

    def _supported(self, sop_class: str, transfer_syntax: str) -> bool:
        if sop_class in self._services:
            return transfer_syntax in (EXPLICIT, IMPLICIT)
        return supported(sop_class, transfer_syntax)

    def _refusal(self, request: AssociateRequest) -> tuple[tuple[int, int, int], str]:
        caller: Caller | None = self._settings.callers.get(request.calling)
        if not self._acceptor.is_of_dicom:
            return _BAD_CONTEXT, "it does not speak DICOM"
        if caller is None:
            return _BAD_CALLING, "the caller's AE title is not in the settings"
        if not caller.may_call(self._line.address, self._line.certificate):
            return _BAD_CALLING, "this caller calls from elsewhere than the settings say"
        if request.called not in self._settings.doors:
            return _BAD_CALLED, "there is no door of the called AE title"
        if 0 < request.most < LEAST_PDU_BYTES:
            return (1, 1, 1), "it takes only very short PDUs"
        if not self._has_room():
            return _TOO_MANY, "too many associations are open"
        return (0, 0, 0), ""

    async def _begin(self, context: Accepted, command: Command) -> None:
        if command.field == Field.C_STORE and is_storage(context.abstract_syntax):
            if not command.has_data_set:
                self._answer(context, command, statuses.CANNOT_UNDERSTAND, "no data set")
                return
            head = file_head(
                command.text(Element.AFFECTED_SOP_CLASS_UID),
                command.text(Element.AFFECTED_SOP_INSTANCE_UID),
                context.transfer_syntax,
            )
            self._image = _Image(context, command, bytearray(head))
        elif command.field == Field.C_ECHO and context.abstract_syntax == VERIFICATION:
            self._answer(context, command, statuses.SUCCESS)
        elif command.field == Field.C_CANCEL:
            for operation in self._running:
                if operation.command.message_id == command.message_id:
                    operation.cancelled.set()
        elif command.field & RESPONSE:
            self._unsupported = None
            if Element.STATUS in command.values:
                self._wire.answered(command.message_id, command.number(Element.STATUS))
        elif self._is_served(context, command):
            self._asked = Operation(
                context=context,
                command=command,
                caller=self._settings.callers[self._caller],
                door=self._door,
                wire=self._wire,
            )
        elif command.has_data_set:
            self._unsupported = (context, command)
        else:
            self._answer(context, command, statuses.UNRECOGNIZED_OPERATION)

    def _is_served(self, context: Accepted, command: Command) -> bool:
        service = self._services.get(context.abstract_syntax)
        return service is not None and command.field in service.fields and command.has_data_set

    def _answer(self, context: Accepted, command: Command, status: int, comment: str = "") -> None:
        self._wire.say(context.context_id, response(command, status, comment=comment))

    async def _take(self, piece: memoryview, is_last: bool, nursery: trio.Nursery) -> None:
        image, asked = self._image, self._asked
        if asked is not None:
            asked.take(piece)
            if is_last:
                self._asked = None
                # Before its task begins: what comes next may cancel it.
                self._running.add(asked)
                await self._operations.acquire_on_behalf_of(asked)
                nursery.start_soon(self._serve, asked)
            return
        if image is None:
            if is_last and self._unsupported is not None:
                self._answer(*self._unsupported, statuses.UNRECOGNIZED_OPERATION)
                self._unsupported = None
            return
        image.held += piece
        if is_last:
            self._image = None
        if image.channel is None and (is_last or len(image.held) > HELD_BYTES):
            await self._operations.acquire_on_behalf_of(image)
            if is_last:
                nursery.start_soon(self._store, image, _whole(bytes(image.held)))
                return
            image.channel, receive = trio.open_memory_channel[bytes](0)
            nursery.start_soon(self._store, image, _pieces(receive))
        if image.channel is not None:
            data = bytes(image.held)
            image.held.clear()
            await image.channel.send(data)
            if is_last:
                image.channel.close()

    # --- operations --------------------------------------------------------------------

    async def _serve(self, operation: Operation) -> None:
        try:
            await self._services[operation.context.abstract_syntax].serve(operation)
        except Lost:
            log.info("an operation of %s is over: nobody takes its answers", self._caller)
        finally:
            self._running.discard(operation)
            self._operations.release_on_behalf_of(operation)

    # --- images ------------------------------------------------------------------------

    async def _store(self, image: _Image, pieces: AsyncGenerator[bytes, None]) -> None:
        """Take an image in, and answer; the answer is a promise that it is durable."""
        try:
            async with contextlib.aclosing(pieces):
                try:
                    association = await self._entered()
                    async with self._storing:
                        became = await association.take(
                            pieces,
                            stat=self._door.stat,
                            named=image.command.text(Element.AFFECTED_SOP_INSTANCE_UID),
                        )
                    if self._door.to and became.study:
                        await self._note(became.study)
                    told = statuses.status_of(became)
                except NodeError as error:
                    log.error("an image of %s is not taken: %s", self._caller, error.message)
                    told = statuses.status_of(error)
                # What it still sends of an image that is not taken has to be read.
                async for _ in pieces:
                    pass
            self._counts.images[told.kind] += 1
            self._syntaxes[image.context.transfer_syntax] += 1
            self._answer(image.context, image.command, told.status, told.comment)
            await self._wire.flush()
        finally:
            self._operations.release_on_behalf_of(image)

    async def _note(self, study: str) -> None:
        """Have the study offered, before its sender is told that it is here."""
        settled = self._doors.settled
        if self._noted.get(study) != settled:
            await in_thread(self._doors.note, study, self._door.name, self._caller)
            self._noted[study] = settled

    async def _entered(self) -> Association:
        """The association of the arrivals, from the first image on."""
        if self._association is None:
            source = f"dimse:{self._caller}"
            if self._door.to:
                source += f"@{self._door.name}"
            self._association = await self._held.enter_async_context(
                self._arrivals.association(source)
            )
        return self._association


async def _pieces(receive: trio.MemoryReceiveChannel[bytes]) -> AsyncGenerator[bytes, None]:
    async with receive:
        async for piece in receive:
            yield piece


async def _whole(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
