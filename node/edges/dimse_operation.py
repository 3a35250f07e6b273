"""An operation that a caller asks for with a data set, such as C-FIND, C-MOVE and C-GET.

The session hands it to the service of its SOP class, which answers through it. A service waits for
nothing without a bound, and looks at `is_cancelled` wherever it can stop.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import trio

from edges.dimse.commands import Command, Element, response
from edges.dimse.limits import DATA_SET_BYTES
from edges.dimse.negotiation import Accepted
from node.edges.dimse_settings import Caller
from node.edges.door_settings import Door

Values = Mapping[Element, int | str]


class Lost(Exception):
    """The association is over: nobody is there to be answered."""


class Wire(Protocol):
    """What a session does for an operation."""

    async def send(self, context_id: int, values: Values, data_set: bytes | None) -> None:
        """Send a message that is whole.

        Raises:
            Lost: the association is over.
        """

    async def request(self, context: Accepted, values: Values, pieces: AsyncIterable[bytes]) -> int:
        """Send a request with a data set to the caller, and give the status of its answer.

        Raises:
            Lost: the association is over, or the caller does not answer.
        """

    def may_store(self, sop_class: str, transfer_syntax: str) -> Accepted | None:
        """The context in which the caller takes such an image on this association."""


@dataclass(eq=False, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        context: its presentation context.
        command: the request.
        caller: who asks, by the settings.
        door: by which AE title of ours.
        wire: the session.
        data: its data set, when it is whole.
        cancelled: set when the caller cancels it, or wants to end the association.
    """

    context: Accepted
    command: Command
    caller: Caller
    door: Door
    wire: Wire
    data: bytearray = field(default_factory=bytearray)
    is_too_long: bool = False
    cancelled: trio.Event = field(default_factory=trio.Event)

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller wants no more of it."""
        return self.cancelled.is_set()

    def take(self, piece: memoryview) -> None:
        """A piece of its data set; of one that is too long nothing is kept."""
        if self.is_too_long or len(self.data) + len(piece) > DATA_SET_BYTES:
            self.is_too_long = True
            self.data.clear()
        else:
            self.data += piece

    def take_data(self) -> bytes:
        """Its data set, which is not kept here any longer."""
        data = bytes(self.data)
        self.data.clear()
        return data

    async def answer(
        self,
        status: int,
        data_set: bytes | None = None,
        *,
        comment: str = "",
        more: Values | None = None,
    ) -> None:
        """Send a response; pending ones come before the last.

        Raises:
            Lost: the association is over.
        """
        values = response(self.command, status, comment=comment, more=more or {})
        if data_set is not None:
            values[Element.DATA_SET_TYPE] = 0x0102
        await self.wire.send(self.context.context_id, values, data_set)


Service = Callable[[Operation], Awaitable[None]]
"""Carries out an operation, and sends its last response."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What is done for a SOP class beside storing.

    Attributes:
        fields: the command fields of its requests.
        serve: carries them out.
        to_all: whether for all callers; else for those that may query.
    """

    fields: tuple[int, ...]
    serve: Service
    to_all: bool = False


Services = Mapping[str, Offered]
"""By SOP class (abstract syntax)."""
