"""A side of an association with somebody who acts on its events, for tests of edges/dimse."""

from collections.abc import Iterable

from pdus_made import ABORT, RELEASE_RQ, usual_request

from edges.dimse.acceptor import Acceptor
from edges.dimse.association import (
    Answered,
    Association,
    CommandArrived,
    DataArrived,
    Ended,
    Happened,
    Rejected,
    ReleaseAsked,
    Released,
    Requested,
)
from edges.dimse.codec import decode_request, encode_answer
from edges.dimse.commands import response
from edges.dimse.negotiation import answer
from edges.dimse.requestor import Requestor
from edges.dimse.states import State

Told = tuple[object, ...]


class Talk:
    """Takes each association, answers each message with success, agrees to each release.

    Attributes:
        told: what happened, as plain values.
        sent: bytes that were sent.
    """

    def __init__(
        self, *, decide: str = "accept", answers: bool = True, side: Association | None = None
    ) -> None:
        self.side = Acceptor() if side is None else side
        self.decide = decide
        self.answers = answers
        self.told: list[Told] = []
        self.sent = b""
        self._command: CommandArrived | None = None

    def take(self, data: bytes) -> "Talk":
        """Receive bytes."""
        return self._act(self.side.receive(data))

    def close(self) -> "Talk":
        """The other side closes the connection."""
        return self._act(self.side.closed())

    def time_over(self) -> "Talk":
        return self._act(self.side.time_over())

    def flush(self) -> "Talk":
        self.sent += self.side.take_outgoing()
        return self

    def _act(self, events: Iterable[Happened]) -> "Talk":
        for event in events:
            self._one(event)
        return self.flush()

    def _one(self, event: Happened) -> None:
        match event:
            case Requested(request):
                self.told.append(("requested", request.calling))
                assert isinstance(self.side, Acceptor)
                if self.decide == "accept":
                    self.side.accept(answer(request, lambda *_: True))
                elif self.decide == "reject":
                    self.side.reject(1, 1, 1)
                elif self.decide == "abort":
                    self.side.abort()
            case Answered():
                self.told.append(("accepted",))
            case Rejected(result, source, reason):
                self.told.append(("rejected", result, source, reason))
            case Released():
                self.told.append(("released",))
            case CommandArrived(context, command):
                self.told.append(("command", context.context_id, tuple(command.values.items())))
                if command.has_data_set:
                    self._command = event
                else:
                    self._answer(event)
            case DataArrived(piece, is_last):
                self.told.append(("data", bytes(piece), is_last))
                if is_last and self._command is not None:
                    self._answer(self._command)
            case ReleaseAsked():
                self.told.append(("release",))
                if self.answers:
                    self.side.release()
            case Ended(why):
                self.told.append(("ended", why))

    def _answer(self, event: CommandArrived) -> None:
        if self.answers and self.side.can_send and not event.command.field & 0x8000:
            self.side.send(event.context.context_id, response(event.command, 0))


def reached(state: State) -> Talk:
    """A talk whose side stands in a state: a requestor where only that can stand there."""
    if state is State.AWAITING_REQUEST:
        return Talk()
    if state in (State.AWAITING_ANSWER, State.AWAITING_RELEASE, State.COLLIDED):
        return _asked(state)
    decide = "" if state is State.DECIDING else "accept"
    talk = Talk(decide=decide, answers=state is not State.RELEASING).take(usual_request())
    if state in (State.RELEASING, State.AWAITING_CLOSE):
        talk.take(RELEASE_RQ)
    elif state is State.CLOSED:
        talk.take(ABORT)
    return _stands(talk, state)


def _asked(state: State) -> Talk:
    request = decode_request(usual_request())
    side = Requestor(request)
    talk = Talk(side=side).flush()
    if state is not State.AWAITING_ANSWER:
        talk.take(encode_answer(request, answer(request, lambda *_: True)))
        side.ask_release()
        talk.flush()
    if state is State.COLLIDED:
        talk.take(RELEASE_RQ)
    return _stands(talk, state)


def _stands(talk: Talk, state: State) -> Talk:
    assert talk.side.state is state
    talk.told.clear()
    talk.sent = b""
    return talk
