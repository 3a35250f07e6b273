"""One association: bytes in, events and bytes out; PS3.8, PS3.7.

What both sides have in common; `Acceptor` and `Requestor` are the two. Whoever has one reads from
the connection and gives what came to `receive`, acts on the events, and sends what `take_outgoing`
gives. Data sets are handed on in pieces as they come; nothing holds a whole one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edges.dimse import pdus
from edges.dimse.codec import BadAssociate
from edges.dimse.commands import BadCommand, Command, Element, decode_command, encode_command
from edges.dimse.limits import COMMAND_BYTES
from edges.dimse.negotiation import Accepted, AssociateAnswer, AssociateRequest, Result
from edges.dimse.states import TABLE, Action, Event, State


@dataclass(frozen=True, slots=True)
class Requested:
    """An association is asked for; answer with `accept` or `reject`."""

    request: AssociateRequest


@dataclass(frozen=True, slots=True)
class Answered:
    """The association that we asked for is there."""

    answer: AssociateAnswer


@dataclass(frozen=True, slots=True)
class Rejected:
    """It is refused, with the numbers of PS3.8 section 9.3.4."""

    result: int
    source: int
    reason: int


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
class Released:
    """The release that we asked for is there."""


@dataclass(frozen=True, slots=True)
class Ended:
    """It ended without a release: the other side aborted or went away, or broke the protocol.

    Attributes:
        why: completes a sentence that begins with the other side.
    """

    why: str


Happened = (
    Requested | Answered | Rejected | CommandArrived | DataArrived | ReleaseAsked | Released | Ended
)

_OF_TYPE = {
    pdus.Type.ASSOCIATE_RQ: Event.REQUEST,
    pdus.Type.ASSOCIATE_AC: Event.ACCEPTED,
    pdus.Type.ASSOCIATE_RJ: Event.REJECTED,
    pdus.Type.P_DATA_TF: Event.DATA,
    pdus.Type.RELEASE_RQ: Event.RELEASE_RQ,
    pdus.Type.RELEASE_RP: Event.RELEASE_RP,
    pdus.Type.ABORT: Event.ABORT,
}


class Association:
    """The protocol of one association, at either side.

    Attributes:
        state: where it stands.
        request: what was asked for; None before that.
    """

    def __init__(self, state: State, request: AssociateRequest | None = None) -> None:
        self.state = state
        self.request = request
        # Bytes of a P-DATA-TF that the other side takes.
        self._most = 0
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
        try:
            self._read(kind, head + body)
        except BadAssociate as error:
            yield from self._happen(Event.INVALID, why=str(error), reason=pdus.INVALID_VALUE)
            return
        why = f"sent a PDU of type {kind} that cannot come now"
        if kind is pdus.Type.ABORT:
            why = f"aborted it (source {body[2]}, reason {body[3]})"
        yield from self._happen(_OF_TYPE[kind], body, why=why, reason=pdus.UNEXPECTED)

    def _read(self, kind: pdus.Type, pdu: bytes) -> None:
        """Read what begins an association, if it comes when it may.

        Raises:
            BadAssociate: it is broken.
        """
        raise NotImplementedError

    def _begun(self, body: bytes) -> Happened:
        """What the PDU that began or refused the association says."""
        raise NotImplementedError

    def _happen(
        self, event: Event, body: bytes = b"", *, why: str = "", reason: int = 0
    ) -> Iterator[Happened]:
        before = self.state
        action, self.state = TABLE[before, event]
        match action:
            case Action.DECIDE | Action.TELL_ACCEPTED | Action.TELL_REJECTED:
                yield self._begun(body)
            case Action.TAKE_DATA:
                yield from self._take_data(body)
            case Action.TELL_RELEASE:
                if self._context is not None:
                    yield from self._broken("asked for a release within a message")
                else:
                    yield ReleaseAsked()
            case Action.TELL_RELEASED:
                yield Released()
            case Action.SEND_RELEASE_RP:
                self._outgoing.append(pdus.RELEASE_RP)
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
                if self.state not in (State.ESTABLISHED, State.AWAITING_RELEASE):
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

    def send(
        self, context_id: int, values: Mapping[Element, int | str], data_set: bytes | None = None
    ) -> None:
        """Send a message: a command set, and a data set if there is one."""
        self._say(Event.WE_SEND)
        self._outgoing.append(
            pdus.p_data(context_id, encode_command(values), is_command=True, most=self._most)
        )
        if data_set is not None:
            self.send_data(context_id, data_set, is_last=True)

    def send_data(self, context_id: int, piece: bytes, *, is_last: bool) -> None:
        """Send a piece of the data set of the message whose command was sent last."""
        self._say(Event.WE_SEND)
        self._outgoing.append(
            pdus.p_data(context_id, piece, is_command=False, most=self._most, is_last=is_last)
        )

    def _agreed(self, contexts: tuple[Accepted, ...], most: int) -> None:
        self._contexts = {one.context_id: one for one in contexts if one.result is Result.ACCEPTED}
        self._most = most

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
