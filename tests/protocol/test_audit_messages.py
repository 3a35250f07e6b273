"""The messages on witnesses: what they may hold, and where they may come."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, messages, wire
from protocol.audit_messages import AddCheckpoint, CheckpointHeld, Cosigned, GetCheckpoint
from protocol.errors import RemoteProtocolError, WireCode

KNOWN = {one.TYPE: one for one in (AddCheckpoint, CheckpointHeld, Cosigned, GetCheckpoint)}
NOTE = b"a note"


@given(
    st.builds(
        AddCheckpoint,
        old=st.integers(0, 2**53 - 1),
        proof=st.lists(st.binary(min_size=32, max_size=32), max_size=64).map(tuple),
        checkpoint=st.binary(max_size=200),
    )
)
def test_a_request_survives(message: AddCheckpoint) -> None:
    assert messages.decode_untrusted(messages.encode(message), KNOWN) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"old": -1},
        {"old": 2**53},
        {"proof": [bytes(31)]},
        {"proof": ["x" * 32]},
        {"proof": [bytes(32)] * (limits.PROOF_HASHES + 1)},
        {"proof": b""},
        {"checkpoint": bytes(limits.CHECKPOINT_BYTES + 1)},
        {"checkpoint": "text"},
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any]) -> None:
    good = {"type": "add-checkpoint", "old": 0, "proof": [], "checkpoint": NOTE}
    messages.decode_untrusted(wire.pack(good), KNOWN)
    with pytest.raises(RemoteProtocolError):
        messages.decode_untrusted(wire.pack({**good, **changes}), KNOWN)


@pytest.mark.parametrize(
    "message", [GetCheckpoint(checkpoint=NOTE), CheckpointHeld(size=1, checkpoint=NOTE)]
)
def test_other_protocols_do_not_take_them(message: messages.Message) -> None:
    data = messages.encode(message)
    assert messages.decode_untrusted(data, KNOWN) == message
    with pytest.raises(RemoteProtocolError) as caught:
        messages.decode_untrusted(data)
    assert caught.value.code is WireCode.UNEXPECTED


def test_a_line_is_bounded() -> None:
    data = messages.encode(Cosigned(line=bytes(limits.COSIGNATURE_BYTES + 1)))
    with pytest.raises(RemoteProtocolError):
        messages.decode_untrusted(data, KNOWN)
