"""The messages of announcements and transfers, one dataclass each (docs/protocol.md section 4).

A message travels as a strict MessagePack map with a "type". Messages that bind their
sender (requests, offers, announcements) travel inside `Signed`: the signature covers the
bytes as received, under a domain per type, so unknown fields of a later version stay
covered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from keys import identity
from protocol import limits, wire
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.fields import (
    binary,
    choice,
    flag,
    from_map_untrusted,
    maps,
    number,
    numbers,
    octets,
    runs,
    text,
    texts,
    to_map,
    uid,
)
from protocol.signatures import check_signature_untrusted

HELLO_PROTOCOL = "/radmesh/hello/1"
CATALOG_PROTOCOL = "/radmesh/catalog/1"
STUDY_PROTOCOL = "/radmesh/study/1"
AUDIT_PROTOCOL = "/radmesh/audit/1"
FIND_PROTOCOL = "/radmesh/find/1"
GRANTS_PROTOCOL = "/radmesh/grants/1"
OFFERS_PROTOCOL = "/radmesh/offers/1"

PROTOCOL_VERSION = 1


class Message:
    """Base of all messages; `TYPE` is the word on the wire."""

    TYPE: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """First message in both directions: our protocol versions and our newest facility card.

    `time` is the sender's clock, milliseconds since the epoch, UTC, for people: it decides nothing.
    """

    TYPE: ClassVar[str] = "hello"
    versions: tuple[int, ...] = numbers(16)
    software: str = text(64)
    card: bytes = binary(64 * 1024)
    time: int | None = number(optional=True)


@dataclass(frozen=True, kw_only=True)
class Subscribe(Message):
    """Ask for announcements after `cursor` of feed `epoch` (16 zero bytes if none is known)."""

    TYPE: ClassVar[str] = "subscribe"
    epoch: bytes = octets(16)
    cursor: int = number()


@dataclass(frozen=True, kw_only=True)
class Record:
    """One statement about one study.

    `series`, `instances`, `bytes` (original), `encoded_bytes` and `content_root`
    describe what can be fetched; they are 0 or zero bytes for a withdrawn study. Of one that is
    `indexed`, which the announcer has in an archive and brings when it is asked, only `series` and
    `instances` are known, as the archive says. `recall`
    is the code of the last discard from the study (`protocol.recalls`), `recalls` the number
    of its discards because of an error; both are absent if there was none. Who the patient is
    stands in it only if the peer's rules show that.
    """

    sequence: int = number(least=1)
    kind: str = choice("available", "changed", "withdrawn")
    study: str = uid()
    content_root: bytes = octets(32)
    series: int = number()
    instances: int = number()
    bytes: int = number()
    encoded_bytes: int = number()
    modalities: tuple[str, ...] = texts(limits.MODALITIES, limits.MODALITY_CHARACTERS)
    study_date: str = text(16)
    recall: str | None = text(16, optional=True)
    recalls: int | None = number(2**31, optional=True)
    description: str | None = text(optional=True)
    patient_id: str | None = text(optional=True)
    patient_name: str | None = text(optional=True)
    issuer: str | None = text(optional=True)
    birth_date: str | None = text(16, optional=True)
    sex: str | None = text(16, optional=True)
    accession: str | None = text(optional=True)
    indexed: bool | None = flag(optional=True)


@dataclass(frozen=True, kw_only=True)
class Announcement(Message):
    """Records in order of sequence; always `Signed`.

    `cursor` is the feed's cursor after these records. With `reset` the recipient forgets
    everything that it knew of this feed before it reads the records.
    """

    TYPE: ClassVar[str] = "announcement"
    recipient: bytes = octets(32)
    epoch: bytes = octets(16)
    reset: bool = flag()
    cursor: int = number()
    time: int = number()
    records: tuple[Record, ...] = maps(Record, limits.ANNOUNCE_RECORDS)


@dataclass(frozen=True, kw_only=True)
class Heartbeat(Message):
    """There is no news, but the subscription is alive."""

    TYPE: ClassVar[str] = "heartbeat"


@dataclass(frozen=True, kw_only=True)
class Request(Message):
    """Ask for a study; always `Signed` by the recipient's node key.

    `time` is milliseconds since the epoch, UTC. `stat`: the request is urgent and goes
    before the source's routine transfers. `whole`: the recipient holds nothing of the
    study, so all batches may follow the manifest without `want`. `person`, `role` and `reason`:
    who asks, in which role, and why in that person's words, by the word of this node.
    """

    TYPE: ClassVar[str] = "request"
    transfer: bytes = octets(16)
    source: bytes = octets(32)
    study: str = uid()
    purpose: str = text(32)
    ephemeral: bytes = octets(32)
    time: int = number()
    stat: bool = flag(default=False)
    whole: bool = flag(default=False)
    person: str | None = text(limits.NAME_CHARACTERS, optional=True)
    role: str | None = text(limits.ROLE_CHARACTERS, optional=True)
    reason: str | None = text(500, optional=True)


@dataclass(frozen=True, kw_only=True)
class Refusal(Message):
    """The sender ends the transfer; `code` is a `WireCode`."""

    TYPE: ClassVar[str] = "refusal"
    code: int = number(255)


@dataclass(frozen=True, kw_only=True)
class Offer(Message):
    """Describes the study to be sent; always `Signed` by the source's node key.

    `request` is the BLAKE3 digest of the signed request's body, so the offer is
    for one recipient, transfer and purpose. `manifest` is the BLAKE3 digest of
    the encoded manifest, `manifest_bytes` its size, `series`, `instances` and `batches`
    the numbers of its rows, `bytes` the size of all original files. The manifest follows in
    sealed pieces; with `whole`, all batches follow it as if they had been wanted.
    """

    TYPE: ClassVar[str] = "offer"
    transfer: bytes = octets(16)
    recipient: bytes = octets(32)
    request: bytes = octets(32)
    ephemeral: bytes = octets(32)
    manifest: bytes = octets(32)
    manifest_bytes: int = number(limits.MANIFEST_BYTES, least=1)
    content_root: bytes = octets(32)
    time: int = number()
    whole: bool = flag(default=False)
    series: int = number(limits.MANIFEST_INSTANCES, least=1)
    instances: int = number(limits.MANIFEST_INSTANCES, least=1)
    batches: int = number(limits.MANIFEST_BATCHES, least=1)
    bytes: int = number(least=1)


@dataclass(frozen=True, kw_only=True)
class Want(Message):
    """A portion of the batches that the recipient lacks, as runs of indices into the manifest.

    With `last` no portion follows; only the last portion may be empty.
    """

    TYPE: ClassVar[str] = "want"
    runs: tuple[tuple[int, int], ...] = runs(limits.WANT_RUNS)
    last: bool = flag()


@dataclass(frozen=True, kw_only=True)
class Credit(Message):
    """The number of sealed bytes that the recipient has stored or discarded so far."""

    TYPE: ClassVar[str] = "credit"
    bytes: int = number()


@dataclass(frozen=True, kw_only=True)
class End(Message):
    """All portions have been sent. The end of the stream alone proves nothing."""

    TYPE: ClassVar[str] = "end"


@dataclass(frozen=True, kw_only=True)
class ReceiptMessage(Message):
    """The recipient's signed receipt; `body` is as in docs/protocol.md section 6."""

    TYPE: ClassVar[str] = "receipt"
    body: bytes = binary(4096)
    signature: bytes = octets(64)


@dataclass(frozen=True, kw_only=True)
class Countersignature(Message):
    """The source's signature over the same receipt body."""

    TYPE: ClassVar[str] = "countersignature"
    signature: bytes = octets(64)


@dataclass(frozen=True, kw_only=True)
class Signed(Message):
    """A message and its signature by the sender's node key."""

    TYPE: ClassVar[str] = "signed"
    body: bytes = binary(limits.MESSAGE_BYTES)
    signature: bytes = octets(64)


_TYPES: dict[str, type[Message]] = {
    message.TYPE: message
    for message in (
        Hello,
        Subscribe,
        Announcement,
        Heartbeat,
        Request,
        Refusal,
        Offer,
        Want,
        Credit,
        End,
        ReceiptMessage,
        Countersignature,
        Signed,
    )
}

MUST_BE_SIGNED: frozenset[type[Message]] = frozenset({Announcement, Request, Offer})
"""Types of messages that are refused outside `Signed`."""

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The strict MessagePack map of a message."""
    fields: dict[str, Any] = to_map(message)
    fields["type"] = message.TYPE
    return wire.pack(fields)


def decode_untrusted(
    data: bytes | bytearray, known: Mapping[str, type[Message]] = _TYPES
) -> Message:
    """Read one message.

    Args:
        data: strict MessagePack.
        known: word on the wire to message type, for the allowed types; by default those above.

    Raises:
        RemoteProtocolError: not a known message, or a message that breaks its rules.
    """
    value = wire.map_untrusted(data)
    kind = value.get("type")
    found = known.get(kind) if isinstance(kind, str) else None
    if found is None:
        raise RemoteProtocolError("the message type is unknown", WireCode.UNEXPECTED)
    message: Message = from_map_untrusted(found, value)
    return message


def sign(message: Message, key: identity.KeyPair) -> Signed:
    """Wrap a message in its signature."""
    body = encode(message)
    return Signed(body=body, signature=key.sign(domain(message.TYPE), body))


def open_signed_untrusted(signed: Signed, expected: type[M], signer: bytes) -> M:
    """Check a signature and read the message inside.

    Args:
        signed: the message as received.
        expected: the only allowed type.
        signer: the node key (32 bytes) that must have signed.

    Raises:
        RemoteProtocolError: wrong type or signature.
    """
    message = decode_untrusted(signed.body, {**_TYPES, expected.TYPE: expected})
    if not isinstance(message, expected):
        raise RemoteProtocolError("the signed message is of another type", WireCode.UNEXPECTED)
    check_signature_untrusted(
        signer, domain(message.TYPE), signed.body, signed.signature, message.TYPE
    )
    return message


def domain(kind: str) -> bytes:
    """The domain of the signature of a message type.

    Raises:
        LocalProtocolError: a message of this type is not signed.
    """
    if kind == Signed.TYPE:
        raise LocalProtocolError("a signed message is not signed again")
    return b"radmesh-" + kind.encode() + b"-v1"
