"""An association at the side that asks for it."""

from edges.dimse import pdus
from edges.dimse.association import Answered, Association, Happened, Rejected
from edges.dimse.codec import decode_answer, encode_request
from edges.dimse.negotiation import AssociateAnswer, AssociateRequest
from edges.dimse.states import Event, State


class Requestor(Association):
    """The side that asks; the request is the first that is to be sent.

    Args:
        request: what is asked for.

    Attributes:
        answer: what was accepted of it; None before that.
    """

    def __init__(self, request: AssociateRequest) -> None:
        super().__init__(State.AWAITING_ANSWER, request)
        self._asked = request
        self.answer: AssociateAnswer | None = None
        self._outgoing.append(encode_request(request))

    def ask_release(self) -> None:
        """Ask for the end; the other side may still send messages until `Released`."""
        self._say(Event.WE_ASK_RELEASE)
        self._outgoing.append(pdus.RELEASE_RQ)

    def _read(self, kind: pdus.Type, pdu: bytes) -> None:
        if kind is pdus.Type.ASSOCIATE_AC and self.state is State.AWAITING_ANSWER:
            self.answer = decode_answer(pdu, self._asked)

    def _begun(self, body: bytes) -> Happened:
        if self.answer is None:
            return Rejected(body[1], body[2], body[3])
        self._agreed(self.answer.contexts, self.answer.most)
        return Answered(self.answer)
