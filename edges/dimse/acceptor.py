"""An association at the side that accepts it."""

from edges.dimse import pdus
from edges.dimse.association import Association, Happened, Requested
from edges.dimse.codec import decode_request, encode_answer
from edges.dimse.negotiation import APPLICATION_CONTEXT, AssociateAnswer
from edges.dimse.states import Event, State


class Acceptor(Association):
    """The side that accepts.

    Whoever has one starts the ARTIM timer when it opens one, and whenever `is_closing`.
    """

    def __init__(self) -> None:
        super().__init__(State.AWAITING_REQUEST)

    @property
    def is_of_dicom(self) -> bool:
        """Whether the request is for the application context of DICOM."""
        return self.request is not None and self.request.application_context == APPLICATION_CONTEXT

    def accept(self, answer: AssociateAnswer) -> None:
        """Accept the association."""
        assert self.request is not None
        self._say(Event.WE_ACCEPT)
        self._agreed(answer.contexts, self.request.most)
        self._outgoing.append(encode_answer(self.request, answer))

    def reject(self, result: int, source: int, reason: int) -> None:
        """Refuse it, with the numbers of PS3.8 section 9.3.4."""
        self._say(Event.WE_REJECT)
        self._outgoing.append(pdus.reject(result, source, reason))

    def _read(self, kind: pdus.Type, pdu: bytes) -> None:
        if kind is pdus.Type.ASSOCIATE_RQ and self.state is State.AWAITING_REQUEST:
            self.request = decode_request(pdu)

    def _begun(self, body: bytes) -> Happened:
        assert self.request is not None
        return Requested(self.request)
