"""The state table of a transfer: every message in every state is legal or refused."""

import pytest
from exchange_pair import NOW, STUDY, TRANSFER

from keys.identity import KeyPair
from protocol import messages
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import FrameKind, frame_header
from protocol.states import FINAL, TRANSITIONS, DataReceived, Role, State, StudyConnection


def _frame(message: messages.Message) -> bytes:
    payload = messages.encode(message)
    return frame_header(FrameKind.MESSAGE, len(payload)) + payload


MESSAGES = {
    messages.Request.TYPE: messages.Request(
        transfer=TRANSFER,
        source=b"x" * 32,
        study=STUDY,
        purpose="treatment",
        ephemeral=b"e" * 32,
        time=NOW,
    ),
    messages.Offer.TYPE: messages.Offer(
        transfer=TRANSFER,
        recipient=b"r" * 32,
        request=bytes(32),
        ephemeral=b"e" * 32,
        manifest=bytes(32),
        manifest_bytes=1,
        series=1,
        instances=1,
        batches=1,
        bytes=1,
        content_root=bytes(32),
        time=NOW,
    ),
    messages.Want.TYPE: messages.Want(runs=(), last=True),
    messages.Credit.TYPE: messages.Credit(bytes=0),
    messages.End.TYPE: messages.End(),
    messages.ReceiptMessage.TYPE: messages.ReceiptMessage(body=b"b", signature=bytes(64)),
    messages.Countersignature.TYPE: messages.Countersignature(signature=bytes(64)),
    messages.Heartbeat.TYPE: messages.Heartbeat(),
    messages.Subscribe.TYPE: messages.Subscribe(epoch=bytes(16), cursor=0),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("sender", Role)
@pytest.mark.parametrize("kind", MESSAGES)
def test_every_message_in_every_state_is_legal_or_refused(
    state: State, sender: Role, kind: str
) -> None:
    key = KeyPair.from_seed(b"k" * 32)
    ours = StudyConnection(sender, key, key.public)
    theirs = StudyConnection(sender.other, key, key.public)
    ours.state = theirs.state = state
    message = MESSAGES[kind]
    following = TRANSITIONS.get((state, sender, kind))
    if following is None:
        with pytest.raises(LocalProtocolError):
            ours.send(message)
        assert ours.state is state
        wire = _frame(
            messages.sign(message, key) if type(message) in messages.MUST_BE_SIGNED else message
        )
        with pytest.raises(RemoteProtocolError):
            theirs.receive_untrusted(wire)
        assert theirs.state is State.FAILED
    else:
        assert theirs.receive_untrusted(ours.send(message))
        assert ours.state is theirs.state is following


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("role", Role)
def test_either_side_may_refuse_until_the_end(state: State, role: Role) -> None:
    key = KeyPair.from_seed(b"k" * 32)
    connection = StudyConnection(role, key, key.public)
    connection.state = state
    if state in FINAL:
        with pytest.raises(LocalProtocolError):
            connection.send(messages.Refusal(code=1))
    else:
        connection.send(messages.Refusal(code=1))
        assert connection.state is State.REFUSED


@pytest.mark.parametrize("size", range(6))
def test_a_data_frame_begins_with_the_index_of_its_content(size: int) -> None:
    key = KeyPair.from_seed(b"k" * 32)
    recipient = StudyConnection(Role.RECIPIENT, key, key.public)
    recipient.state = State.SENDING
    frame = frame_header(FrameKind.DATA, size) + bytes([0, 0, 1, 2, 8, 9])[:size]
    if size < 4:
        with pytest.raises(RemoteProtocolError, match="data frame without an index"):
            recipient.receive_untrusted(frame)
        assert recipient.state is State.FAILED
    else:
        [event] = recipient.receive_untrusted(frame)
        assert isinstance(event, DataReceived)
        assert (event.index, len(event.sealed)) == (0x0102, size - 4)
