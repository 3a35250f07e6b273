"""Associations that the node asks for: with an archive, or with whoever asked for a C-MOVE.

One message is under way at a time, and each wait for the other side has its end. What the other
side asks on the same association, such as a report of a storage commitment, goes to `on_request`.
"""

import contextlib
import itertools
import socket
import ssl
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass

import trio

from edges.dimse import association as dimse
from edges.dimse.commands import (
    NO_DATA_SET,
    RESPONSE,
    BadCommand,
    Command,
    Element,
    Field,
    response,
)
from edges.dimse.limits import DATA_SET_BYTES, LEAST_PDU_BYTES, PDU_BYTES
from edges.dimse.negotiation import IMPLICIT, Accepted, AssociateRequest, Proposed, Result
from edges.dimse.requestor import Requestor
from node.edges.dimse_classes import VERIFICATION
from node.errors import ExitCode, NodeError

CONNECT_SECONDS = 15.0
"""Time until the connection stands, TLS included."""

ANSWER_SECONDS = 60.0
"""Time without a byte of an answer, or without a byte of ours taken, after which we give up."""

RELEASE_SECONDS = 10.0

READ_BYTES = 256 * 1024

_PENDING = frozenset({0xFF00, 0xFF01})
_CANCELLABLE = frozenset({Field.C_FIND, Field.C_MOVE, Field.C_GET})
_NO_DATA = 0x0102
"""(0000,0800) of a message with a data set: anything but `NO_DATA_SET`."""

_REASONS = {
    # Source and reason of A-ASSOCIATE-RJ, PS3.8 section 9.3.4.
    (1, 2): "it does not know the application context",
    (1, 3): "it does not know our AE title",
    (1, 7): "it has no such AE title",
    (2, 2): "it does not speak this version of the protocol",
    (3, 1): "it is busy",
    (3, 2): "it has too many associations",
}


class NoAssociation(NodeError):
    """There is no association, or it has ended before all was answered.

    Attributes:
        is_lasting: whether it will be the same until a person changes something.
    """

    def __init__(self, message: str, *, hint: str = "", is_lasting: bool = False) -> None:
        super().__init__(message, hint=hint, code=ExitCode.UNREACHABLE)
        self.is_lasting = is_lasting


@dataclass(frozen=True, kw_only=True)
class Callee:
    """A system that the node calls.

    Attributes:
        ae_title: its AE title.
        calling: ours, by which it knows us.
        host: name or IP address.
        port: its port.
        tls: with which certificates, or None without TLS.
    """

    ae_title: str
    calling: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the other side, whole."""

    context: Accepted
    command: Command
    data_set: bytes

    @property
    def is_request(self) -> bool:
        """Whether an answer is due to it."""
        return not self.command.field & RESPONSE

    @property
    def status(self) -> int:
        """The status of a response, PS3.7 annex C."""
        return self.command.number(Element.STATUS)


OnRequest = Callable[[Message], Awaitable[int]]
"""Acts on what the other side asks, and gives the status of the answer."""


async def _refuse(message: Message) -> int:
    return 0x0211  # Unrecognized operation


class Calling:
    """An association that we have asked for; made by `associated`.

    Attributes:
        contexts: the presentation contexts that were accepted.
        callee: who is at the other side.
    """

    def __init__(
        self, stream: trio.abc.Stream, side: Requestor, callee: Callee, on_request: OnRequest
    ) -> None:
        self._stream = stream
        self._side = side
        self._on_request = on_request
        self._numbers = itertools.cycle(range(1, 0x10000))
        self._arrived: deque[Message] = deque()
        self._command: dimse.CommandArrived | None = None
        self._data = bytearray()
        self._is_answered = self._is_released = False
        self.contexts: tuple[Accepted, ...] = ()
        self.callee = callee

    def context(self, sop_class: str, transfer_syntax: str = "") -> Accepted | None:
        """The accepted context for a SOP class, and for a transfer syntax if one is named."""
        for one in self.contexts:
            if one.abstract_syntax == sop_class and transfer_syntax in ("", one.transfer_syntax):
                return one
        return None

    def role(self, sop_class: str) -> tuple[bool, bool]:
        """Whether we may be SCU and SCP for a SOP class."""
        assert self._side.answer is not None
        return self._side.answer.roles.get(sop_class, (True, False))

    async def echo(self) -> int:
        """Ask for the status of a C-ECHO.

        Raises:
            NoAssociation: it ended, or the other side does not take a C-ECHO.
        """
        context = self.context(VERIFICATION)
        if context is None:
            raise self._failed("does not take a C-ECHO", is_lasting=True)
        values: dict[Element, int | str] = {
            Element.COMMAND_FIELD: Field.C_ECHO,
            Element.AFFECTED_SOP_CLASS_UID: VERIFICATION,
        }
        return await self.ask_once(context, values)

    async def ask_once(
        self,
        context: Accepted,
        values: Mapping[Element, int | str],
        data_set: bytes | AsyncIterable[bytes] | None = None,
    ) -> int:
        """As `ask`, for what has one answer; returns its status."""
        status = -1
        async with contextlib.aclosing(self.ask(context, values, data_set)) as answers:
            async for answer in answers:
                status = answer.status
        return status

    async def ask(
        self,
        context: Accepted,
        values: Mapping[Element, int | str],
        data_set: bytes | AsyncIterable[bytes] | None = None,
        *,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> AsyncGenerator[Message, None]:
        """Send a request and give its answers, the pending ones first.

        Whoever stops before the last answer sends a C-CANCEL, and the rest is read and dropped;
        where a request cannot be cancelled, the association is aborted.

        Args:
            context: an accepted one.
            values: the command set, without message ID and data set type.
            data_set: its bytes, or its pieces as they are read.
            answer_seconds: longest time without a byte.

        Raises:
            NoAssociation: it ended, or an answer did not come in time.
        """
        number = next(self._numbers)
        has_data = data_set is not None
        command = {
            **values,
            Element.MESSAGE_ID: number,
            Element.DATA_SET_TYPE: _NO_DATA if has_data else NO_DATA_SET,
        }
        self._require_open()
        self._side.send(context.context_id, command)
        if isinstance(data_set, bytes):
            self._side.send_data(context.context_id, data_set, is_last=True)
        elif data_set is not None:
            await self._send_pieces(context, data_set)
        await self._flush()
        is_over = False
        try:
            while not is_over:
                message = await self._next_answer(number, answer_seconds)
                is_over = message.status not in _PENDING
                yield message
        finally:
            if not is_over and values[Element.COMMAND_FIELD] not in _CANCELLABLE:
                self._side.abort()
            elif not is_over and self._side.can_send:
                with trio.move_on_after(RELEASE_SECONDS) as patience:
                    patience.shield = True
                    await self._cancel(context, number)

    async def wait_for_requests(self, seconds: float, until: Callable[[], bool]) -> None:
        """Hand on what the other side asks, for some time or until something holds.

        Raises:
            NoAssociation: it ended.
        """
        with trio.move_on_after(seconds):
            while not until():
                message = await self._next(seconds + RELEASE_SECONDS)
                if message.is_request:
                    await self._serve(message)

    # --- inside ------------------------------------------------------------------------

    async def _send_pieces(self, context: Accepted, pieces: AsyncIterable[bytes]) -> None:
        held = b""
        async for piece in pieces:
            if held:
                self._require_open()
                self._side.send_data(context.context_id, held, is_last=False)
                await self._flush()
            held = piece
        self._require_open()
        self._side.send_data(context.context_id, held, is_last=True)

    async def _cancel(self, context: Accepted, number: int) -> None:
        values: dict[Element, int | str] = {
            Element.COMMAND_FIELD: Field.C_CANCEL,
            Element.MESSAGE_ID_RESPONDED_TO: number,
            Element.DATA_SET_TYPE: NO_DATA_SET,
        }
        with contextlib.suppress(NoAssociation):
            self._side.send(context.context_id, values)
            await self._flush()
            while (await self._next_answer(number, RELEASE_SECONDS)).status in _PENDING:
                pass
            return
        self._side.abort()

    async def _next_answer(self, number: int, seconds: float) -> Message:
        while True:
            message = await self._next(seconds)
            if message.is_request:
                await self._serve(message)
            elif message.command.message_id == number:
                if Element.STATUS not in message.command.values:
                    raise self._broken("sent an answer without a status")
                return message
            else:
                raise self._broken("answered what was not asked")

    async def _serve(self, message: Message) -> None:
        status = await self._on_request(message)
        if self._side.can_send:
            self._side.send(message.context.context_id, response(message.command, status))
            await self._flush()

    async def _next(self, seconds: float) -> Message:
        while not self._arrived:
            await self._read(seconds)
        return self._arrived.popleft()

    async def _read(self, seconds: float) -> None:
        """Read once, and act on what has come."""
        self._require_open()
        data = b""
        try:
            with trio.move_on_after(seconds) as patience:
                data = bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if patience.cancelled_caught:
            self._side.abort()
            await self._flush()
            raise self._failed(f"has not answered for {seconds:.0f} s")
        events = self._side.receive(data) if data else self._side.closed()
        for event in events:
            self._act(event)
        await self._flush()

    def _act(self, event: dimse.Happened) -> None:
        match event:
            case dimse.Answered(answer):
                if 0 < answer.most < LEAST_PDU_BYTES:
                    raise self._broken("takes only very short PDUs")
                self.contexts = tuple(
                    one for one in answer.contexts if one.result is Result.ACCEPTED
                )
                self._is_answered = True
            case dimse.Rejected(result, source, reason):
                why = _REASONS.get((source, reason), "it gives no reason")
                raise self._failed(f"refuses the association: {why}", is_lasting=result == 1)
            case dimse.CommandArrived(context, command):
                if command.has_data_set:
                    self._command = event
                else:
                    self._arrived.append(Message(context, command, b""))
            case dimse.DataArrived(piece, is_last):
                self._take(piece, is_last)
            case dimse.ReleaseAsked():
                # It ends before we do.
                self._side.release()
            case dimse.Released():
                self._is_released = True
            case dimse.Ended(why):
                raise self._failed(f"ended the association: it {why}")

    def _take(self, piece: memoryview, is_last: bool) -> None:
        assert self._command is not None
        self._data += piece
        if len(self._data) > DATA_SET_BYTES:
            raise self._broken("sent an answer that is too long")
        if is_last:
            command, self._command = self._command, None
            self._arrived.append(Message(command.context, command.command, bytes(self._data)))
            self._data.clear()

    async def _flush(self) -> None:
        data = self._side.take_outgoing()
        if not data:
            return
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                await self._stream.send_all(data)
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await trio.aclose_forcefully(self._stream)
        raise self._failed("does not take what is sent")

    def _require_open(self) -> None:
        if self._side.is_closed or self._side.is_closing:
            raise self._failed("has ended the association")

    def _failed(self, what: str, *, is_lasting: bool = False) -> NoAssociation:
        return NoAssociation(
            f"{self.callee.ae_title!a} at {self.callee.host} port {self.callee.port} {what}",
            hint="see the archive's own log, and `radmesh doctor`",
            is_lasting=is_lasting,
        )

    def _broken(self, what: str) -> NoAssociation:
        self._side.abort()
        return self._failed(what)

    async def begin(self) -> None:
        """Ask for the association; for `associated`.

        Raises:
            NoAssociation: it is refused, or the other side does not answer.
        """
        await self._flush()
        while not self._is_answered:
            await self._read(ANSWER_SECONDS)

    async def end(self) -> None:
        """Release it, or abort what cannot be released; for `associated`."""
        with trio.move_on_after(RELEASE_SECONDS) as patience, contextlib.suppress(NoAssociation):
            patience.shield = True
            if not (self._side.is_closed or self._side.is_closing):
                self._side.ask_release()
                await self._flush()
                while not self._is_released:
                    await self._read(RELEASE_SECONDS)

    async def abort(self) -> None:
        """Abort it; for `associated`."""
        with trio.move_on_after(RELEASE_SECONDS) as patience, contextlib.suppress(NoAssociation):
            patience.shield = True
            self._side.abort()
            await self._flush()


@contextlib.asynccontextmanager
async def associated(
    callee: Callee,
    proposed: Sequence[tuple[str, Sequence[str]]],
    *,
    roles: Mapping[str, tuple[bool, bool]] = {},
    on_request: OnRequest = _refuse,
) -> AsyncIterator[Calling]:
    """An association with another system; released at the end of the block, aborted by an error.

    Args:
        callee: who is called.
        proposed: presentation contexts: a SOP class, and its transfer syntaxes; 128 at most.
        roles: by SOP class, whether we propose to be SCU and SCP.
        on_request: acts on what the other side asks.

    Raises:
        NoAssociation: it cannot be reached, or refuses, or went away within the block.
    """
    request = AssociateRequest(
        calling=callee.calling,
        called=callee.ae_title,
        contexts=tuple(
            Proposed(2 * index + 1, sop_class, tuple(syntaxes))
            for index, (sop_class, syntaxes) in enumerate(proposed)
        ),
        most=PDU_BYTES,
        roles=roles,
    )
    stream = await _connected(callee)
    try:
        calling = Calling(stream, Requestor(request), callee, on_request)
        try:
            await calling.begin()
            yield calling
        except BadCommand as error:
            raise calling._broken(f"sent an answer that is none: {error}") from error
        except BaseException:
            await calling.abort()
            raise
        await calling.end()
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def echo(callee: Callee) -> None:
    """Ask a system whether it is there (C-ECHO).

    Raises:
        NoAssociation: it is not, or refuses.
    """
    async with associated(callee, [(VERIFICATION, [IMPLICIT])]) as calling:
        status = await calling.echo()
        if status != 0:
            raise calling._failed(f"answers a C-ECHO with status {status:04X}H", is_lasting=True)


async def _connected(callee: Callee) -> trio.abc.Stream:
    where = f"{callee.ae_title!a} at {callee.host} port {callee.port}"
    why = f"did not answer within {CONNECT_SECONDS:.0f} s"
    try:
        with trio.move_on_after(CONNECT_SECONDS):
            raw = await trio.open_tcp_stream(callee.host, callee.port)
            try:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if callee.tls is None:
                    return raw
                secured = trio.SSLStream(
                    raw, callee.tls, server_hostname=callee.host, https_compatible=True
                )
                await secured.do_handshake()
                return secured
            except BaseException:
                await trio.aclose_forcefully(raw)
                raise
    except (OSError, trio.BrokenResourceError) as error:
        cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
        why = f"cannot be reached: {_reason(cause or error)}"
    except UnicodeError:
        why = "cannot be reached: its host is no name of a host"
    raise NoAssociation(f"{where} {why}", hint="is it running, and are host and port right?")


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed ({error.reason})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the connection was refused or lost"
