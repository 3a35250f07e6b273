"""The card in a Noise handshake, as bytes of its payload.

A payload is libp2p's protobuf `NoiseHandshakePayload`; the card is a field of its `extensions`;
implementations that do not know the field skip it. libp2p reserves the field numbers up to 1024
(registry of Noise extensions); ours is above.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

CARD_FIELD = 4101
"""Above 1024, where the registry leaves numbers free for unregistered extensions."""

FORMER_CARD_FIELD = 3
"""The field of nodes before the first release; read, and never written."""

_EXTENSIONS_FIELD = 4


def _message_class() -> Any:
    """The payload with the fields that matter here."""
    file = FileDescriptorProto(name="radmesh_handshake.proto", package="radmesh", syntax="proto3")
    extensions = file.message_type.add(name="Extensions")
    for name, number in (("card", CARD_FIELD), ("former_card", FORMER_CARD_FIELD)):
        extensions.field.add(
            name=name,
            number=number,
            type=FieldDescriptorProto.TYPE_BYTES,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )
    file.message_type.add(name="Payload").field.add(
        name="extensions",
        number=_EXTENSIONS_FIELD,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=".radmesh.Extensions",
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("radmesh.Payload"))


_Payload = _message_class()


def with_card(payload: bytes, card: bytes) -> bytes:
    """Add a card to a payload that has no extensions."""
    # Concatenating two protobuf messages merges them.
    return payload + bytes(_Payload(extensions={"card": card}).SerializeToString())


def card_in(payload_untrusted: bytes) -> bytes:
    """The card in a payload, nothing when there is none.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no payload.
    """
    extensions = _Payload.FromString(payload_untrusted).extensions
    return bytes(extensions.card or extensions.former_card)
