"""The examples of docs/protocol-audit.md are what the code makes, reads and makes again."""

import pytest
import spec_audit_blocks
import spec_blocks

from protocol import audit_messages, messages, receipt_messages, reconcile_messages
from protocol.frames import FrameReader
from protocol.messages import Message

BLOCKS = spec_audit_blocks.blocks_of(spec_audit_blocks.DOCUMENT.read_text())
TYPES = {
    message.TYPE: message
    for message in Message.__subclasses__()
    if message.__module__
    in {module.__name__ for module in (audit_messages, receipt_messages, reconcile_messages)}
}


def test_every_message_has_an_example_as_the_code_makes_it() -> None:
    assert set(TYPES) <= set(BLOCKS)
    assert spec_audit_blocks.make_blocks() == BLOCKS


@pytest.mark.parametrize("name", sorted(TYPES))
def test_examples_decode_and_encode_to_themselves(name: str) -> None:
    data = spec_blocks.bytes_of(BLOCKS[name], {})
    frame, used = FrameReader().receive_untrusted(data)
    assert frame is not None
    assert used == len(data)
    message = messages.decode_untrusted(frame.payload, TYPES)
    assert name == message.TYPE
    assert messages.encode(message) == frame.payload
