"""What is said on an association that others asked for: answers, and requests of ours on it.

A request with an image is sent in pieces, and what else is said meanwhile waits for its end, since
the messages of one association cannot be mixed.
"""

import itertools
from collections.abc import AsyncIterable

import trio

from edges.dimse.acceptor import Acceptor
from edges.dimse.commands import Element
from edges.dimse.negotiation import Accepted, AssociateAnswer, Result
from node.edges.dimse_operation import Lost, Values

STALL_SECONDS = 60.0
"""Time without a byte within a message, or without a byte of ours taken, after which we give up."""

_DATA = 0x0102
"""(0000,0800) of a message with a data set."""


class AcceptedWire:
    """The saying side of one association; a `Wire` for operations.

    Args:
        stream: its connection.
        acceptor: its protocol.

    Attributes:
        agreed: what was accepted; None before that.
    """

    def __init__(self, stream: trio.abc.Stream, acceptor: Acceptor) -> None:
        self._stream = stream
        self._acceptor = acceptor
        self._sending = trio.Lock()
        self._asking = trio.Lock()
        self._numbers = itertools.cycle(range(1, 0x10000))
        self._requests: dict[int, trio.MemorySendChannel[int]] = {}
        self._is_in_pieces = False
        self._later: list[tuple[int, Values, bytes | None]] = []
        self.agreed: AssociateAnswer | None = None

    async def flush(self) -> bool:
        """Send what is to be sent; returns whether the other side took it. If not, it is over."""
        async with self._sending:
            data = self._acceptor.take_outgoing()
            if not data:
                return True
            try:
                with trio.move_on_after(STALL_SECONDS):
                    await self._stream.send_all(data)
                    return True
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            # A part of it may have been sent: nothing that is said now can be understood.
            await trio.aclose_forcefully(self._stream)
            return False

    def say(self, context_id: int, values: Values, data_set: bytes | None = None) -> None:
        """Say a whole message, at the next flush or when the message under way has ended."""
        if self._is_in_pieces:
            self._later.append((context_id, values, data_set))
        elif self._acceptor.can_send:
            self._acceptor.send(context_id, values, data_set)

    async def send(self, context_id: int, values: Values, data_set: bytes | None) -> None:
        """See `Wire`."""
        self._require_open()
        self.say(context_id, values, data_set)
        if not await self.flush():
            raise Lost

    async def request(self, context: Accepted, values: Values, pieces: AsyncIterable[bytes]) -> int:
        """See `Wire`; the next one waits for the answer of this one."""
        async with self._asking:
            return await self._request(context, values, pieces)

    async def _request(
        self, context: Accepted, values: Values, pieces: AsyncIterable[bytes]
    ) -> int:
        number = next(self._numbers)
        sending, waiting = trio.open_memory_channel[int](1)
        self._requests[number] = sending
        try:
            await self._in_pieces(context, {**values, Element.MESSAGE_ID: number}, pieces)
            with trio.move_on_after(STALL_SECONDS):
                return await waiting.receive()
        except trio.EndOfChannel:
            raise Lost from None
        finally:
            del self._requests[number]
        # What it answers later could not be told from the answer to the next one.
        self._acceptor.abort()
        await self.flush()
        raise Lost

    def answered(self, number: int, status: int) -> None:
        """The caller has answered a request of ours, or what it takes for one."""
        waiting = self._requests.get(number)
        if waiting is not None:
            try:
                waiting.send_nowait(status)
            except (trio.WouldBlock, trio.ClosedResourceError):
                # It answers twice, or after it wanted to end.
                pass

    def end_requests(self) -> None:
        """The caller answers no request any more."""
        for waiting in self._requests.values():
            waiting.close()

    def may_store(self, sop_class: str, transfer_syntax: str) -> Accepted | None:
        """See `Wire`."""
        assert self.agreed is not None
        if not self.agreed.roles.get(sop_class, (True, False))[1]:
            return None
        for one in self.agreed.contexts:
            what = (one.result, one.abstract_syntax, one.transfer_syntax)
            if what == (Result.ACCEPTED, sop_class, transfer_syntax):
                return one
        return None

    async def _in_pieces(
        self, context: Accepted, values: Values, pieces: AsyncIterable[bytes]
    ) -> None:
        assert not self._is_in_pieces
        self._require_open()
        self._acceptor.send(context.context_id, {**values, Element.DATA_SET_TYPE: _DATA})
        self._is_in_pieces, is_whole, held = True, False, b""
        try:
            async for piece in pieces:
                if held:
                    await self._send_piece(context, held)
                held = piece
            self._require_open()
            self._acceptor.send_data(context.context_id, held, is_last=True)
            is_whole = True
        finally:
            self._is_in_pieces = False
            if not is_whole:
                self._acceptor.abort()
            later, self._later = self._later, []
            for one in later:
                self.say(*one)
        if not await self.flush():
            raise Lost

    async def _send_piece(self, context: Accepted, piece: bytes) -> None:
        self._require_open()
        self._acceptor.send_data(context.context_id, piece, is_last=False)
        if not await self.flush():
            raise Lost

    def _require_open(self) -> None:
        if not self._acceptor.can_send:
            raise Lost
