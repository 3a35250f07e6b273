"""One association at the side that accepts it: bytes in, events and bytes out; PS3.8, PS3.7.

The caller reads from the connection and gives what came to `receive`, acts on the events, and sends
what `take_outgoing` gives. It starts the ARTIM timer when it opens one, and whenever `is_closing`.
Data sets are handed on in pieces as they come; nothing holds a whole one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from edges.dimse import pdus
from edges.dimse.codec import BadRequest, decode_request, encode_answer
from edges.dimse.commands import BadCommand, Command, Element, decode_command, encode_command
from edges.dimse.limits import COMMAND_BYTES
from edges.dimse.negotiation import (
    APPLICATION_CONTEXT,
    Accepted,
    AssociateAnswer,
    AssociateRequest,
    Result,
)
from edges.dimse.states import TABLE, Action, Event, State


@dataclass(frozen=True, slots=True)
class Requested:
    """An association is asked for; answer with `accept` or `reject`."""

    request: AssociateRequest


@dataclass(frozen=True, slots=True)
class CommandArrived:
    """The command set of a message; its data set follows in pieces, if it has one."""

    context: Accepted
    command: Command


@dataclass(frozen=True, slots=True)
class DataArrived:
    """A piece of the data set of the last command; `is_last` ends it."""

    piece: memoryview
    is_last: bool


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """The other side wants to end; answer with `release` when all is answered."""


@dataclass(frozen=True, slots=True)
class Ended:
    """It ended without a release: the other side aborted or went away, or broke the protocol.

    Attributes:
        why: completes a sentence that begins with the other side.
    """

    why: str


Happened = Requested | CommandArrived | DataArrived | ReleaseAsked | Ended

_OF_TYPE = {
    pdus.Type.ASSOCIATE_RQ: Event.REQUEST,
    pdus.Type.ASSOCIATE_AC: Event.ANSWER,
    pdus.Type.ASSOCIATE_RJ: Event.ANSWER,
    pdus.Type.P_DATA_TF: Event.DATA,
    pdus.Type.RELEASE_RQ: Event.RELEASE_RQ,
    pdus.Type.RELEASE_RP: Event.RELEASE_RP,
    pdus.Type.ABORT: Event.ABORT,
}


class Acceptor:
    """The protocol of one association.

    Attributes:
        state: where it stands.
        request: what was asked for; None before that.
    """

    def __init__(self) -> None:
        self.state = State.AWAITING_REQUEST
        self.request: AssociateRequest | None = None
        self._contexts: dict[int, Accepted] = {}
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self._is_lost = False
        # The message that is under way: its context, command so far, and whether data is due.
        self._context: Accepted | None = None
        self._command = bytearray()
        self._is_data_due = False

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is said, and the other side is to close the connection soon."""
        return self.state is State.AWAITING_CLOSE

    @property
    def is_closed(self) -> bool:
        """Whether the connection is to be closed now."""
        return self.state is State.CLOSED

    @property
    def is_in_message(self) -> bool:
        """Whether the other side owes the rest of what it began."""
        return bool(self._buffer) or self._context is not None

    def take_outgoing(self) -> bytes:
        """What is to be sent now; it is given once."""
        found, self._outgoing = self._outgoing, []
        return b"".join(found)

    # --- what comes --------------------------------------------------------------------

    def receive(self, data: bytes) -> Iterator[Happened]:
        """Take bytes of the connection, of any number, and give what has happened.

        Act on each event before the next one is asked for.
        """
        if self._is_lost:
            return
        self._buffer += data
        place = 0
        try:
            while not self.is_closed and len(self._buffer) - place >= pdus.HEAD_BYTES:
                head = bytes(self._buffer[place : place + pdus.HEAD_BYTES])
                try:
                    kind, length = pdus.read_head(head)
                except pdus.BadPdu as error:
                    # Where the next one begins is unknown.
                    self._is_lost = True
                    place = len(self._buffer)
                    yield from self._happen(Event.INVALID, why=str(error), reason=error.reason)
                    break
                end = place + pdus.HEAD_BYTES + length
                if len(self._buffer) < end:
                    break
                body = bytes(memoryview(self._buffer)[place + pdus.HEAD_BYTES : end])
                place = end
                yield from self._take(kind, head, body)
        finally:
            del self._buffer[:place]

    def closed(self) -> Iterator[Happened]:
        """The connection was closed by the other side, or is broken."""
        yield from self._happen(Event.CLOSED, why="went away")

    def time_over(self) -> Iterator[Happened]:
        """The ARTIM timer is over."""
        yield from self._happen(Event.TIME_OVER, why="said nothing")

    def _take(self, kind: pdus.Type, head: bytes, body: bytes) -> Iterator[Happened]:
        if kind is pdus.Type.ASSOCIATE_RQ and self.state is State.AWAITING_REQUEST:
            try:
                self.request = decode_request(head + body)
            except BadRequest as error:
                yield from self._happen(Event.INVALID, why=str(error), reason=pdus.INVALID_VALUE)
                return
        why = f"sent a PDU of type {kind} that cannot come now"
        if kind is pdus.Type.ABORT:
            why = f"aborted it (source {body[2]}, reason {body[3]})"
        yield from self._happen(_OF_TYPE[kind], body, why=why, reason=pdus.UNEXPECTED)

    def _happen(
        self, event: Event, body: bytes = b"", *, why: str = "", reason: int = 0
    ) -> Iterator[Happened]:
        before = self.state
        action, self.state = TABLE[before, event]
        match action:
            case Action.DECIDE:
                assert self.request is not None
                yield Requested(self.request)
            case Action.TAKE_DATA:
                yield from self._take_data(body)
            case Action.TELL_RELEASE:
                if self._context is not None:
                    yield from self._broken("asked for a release within a message")
                else:
                    yield ReleaseAsked()
            case Action.SEND_ABORT:
                self._outgoing.append(pdus.abort(0, 0))
                if before is not State.AWAITING_CLOSE:
                    yield Ended(why)
            case Action.SEND_PROVIDER_ABORT:
                self._outgoing.append(pdus.abort(2, reason))
                yield Ended(why)
            case Action.TELL_ABORT | Action.TELL_CLOSED:
                yield Ended(why)
            case Action.CLOSE | Action.NOTHING:
                pass
            case _:
                raise AssertionError(f"{action} is nothing that comes from outside")

    def _broken(self, why: str) -> Iterator[Happened]:
        """The other side broke the rules of messages."""
        yield from self._happen(Event.INVALID, why=why, reason=pdus.INVALID_VALUE)

    def _take_data(self, body: bytes) -> Iterator[Happened]:
        try:
            for item in pdus.items(body):
                yield from self._take_item(item)
                if self.state is not State.ESTABLISHED:
                    # Broken by this item, or ended by whoever acted on it.
                    return
        except (pdus.BadPdu, BadCommand) as error:
            yield from self._broken(str(error))

    def _take_item(self, item: pdus.Item) -> Iterator[Happened]:
        if self._context is None:
            context = self._contexts.get(item.context_id)
            if context is None:
                raise BadCommand("a message is for a presentation context that was not accepted")
            self._context = context
        elif item.context_id != self._context.context_id:
            raise BadCommand("two messages are mixed")
        if item.is_command == self._is_data_due:
            raise BadCommand("a command and its data set are not one after the other")
        if not item.is_command:
            if item.is_last:
                self._context, self._is_data_due = None, False
            yield DataArrived(item.fragment, item.is_last)
            return
        self._command += item.fragment
        if len(self._command) > COMMAND_BYTES:
            raise BadCommand("the command set is too long")
        if item.is_last:
            command = decode_command(bytes(self._command))
            self._command.clear()
            arrived = CommandArrived(self._context, command)
            self._is_data_due = command.has_data_set
            if not self._is_data_due:
                self._context = None
            yield arrived

    # --- what we say -------------------------------------------------------------------

    def accept(self, answer: AssociateAnswer) -> None:
        """Accept the association."""
        assert self.request is not None
        self._say(Event.WE_ACCEPT)
        self._contexts = {
            one.context_id: one for one in answer.contexts if one.result is Result.ACCEPTED
        }
        self._outgoing.append(encode_answer(self.request, answer))

    def reject(self, result: int, source: int, reason: int) -> None:
        """Refuse it, with the numbers of PS3.8 section 9.3.4."""
        self._say(Event.WE_REJECT)
        self._outgoing.append(pdus.reject(result, source, reason))

    def send(
        self, context_id: int, values: dict[Element, int | str], data_set: bytes | None = None
    ) -> None:
        """Send a message: a command set, and a data set if there is one."""
        self._say(Event.WE_SEND)
        most = 0 if self.request is None else self.request.most
        self._outgoing.append(
            pdus.p_data(context_id, encode_command(values), is_command=True, most=most)
        )
        if data_set is not None:
            self._outgoing.append(pdus.p_data(context_id, data_set, is_command=False, most=most))

    def release(self) -> None:
        """Agree to the end that the other side asked for."""
        self._say(Event.WE_RELEASE)
        self._outgoing.append(pdus.RELEASE_RP)

    def abort(self) -> None:
        """End it at once; nothing more is taken."""
        if self.state not in (State.AWAITING_CLOSE, State.CLOSED):
            self._say(Event.WE_ABORT)
            self._outgoing.append(pdus.abort(0, 0))

    def _say(self, event: Event) -> None:
        _, self.state = TABLE[self.state, event]

    @property
    def can_send(self) -> bool:
        """Whether a message may be sent now."""
        return (self.state, Event.WE_SEND) in TABLE

    @property
    def is_of_dicom(self) -> bool:
        """Whether the request is for the application context of DICOM."""
        return self.request is not None and self.request.application_context == APPLICATION_CONTEXT
