"""The messages of `/radmesh/offers/1`: one facility offers a study to another.

A stream carries one signed message and its answer, `OfferNoted` or a `Refusal` (docs/protocol.md
section 12). What an offer is called is 16 random bytes, given by the facility that offers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode
from protocol.fields import choice, number, octets, text, texts, uid
from protocol.messages import Message, Refusal, Signed, decode_untrusted, domain
from protocol.signatures import check_signature_untrusted

ACCEPTED, DECLINED = "accepted", "declined"


@dataclass(frozen=True, kw_only=True)
class StudyOffer(Message):
    """Offer a study; always `Signed` by the node key of the facility that has it.

    `recipient` is the node key of the other side. `time` and `until` are milliseconds since the
    epoch, UTC. The rest describes the study as an announcement does, and never who the patient is;
    `message` is what a person wrote. `person` and `role`: who offers it, in which role, by the word
    of this node.
    """

    TYPE: ClassVar[str] = "study-offer"
    recipient: bytes = octets(32)
    offer: bytes = octets(16)
    time: int = number()
    until: int = number()
    study: str = uid()
    purpose: str = text(32)
    message: str = text(limits.OFFER_CHARACTERS)
    series: int = number(limits.MANIFEST_INSTANCES)
    instances: int = number(limits.MANIFEST_INSTANCES)
    bytes: int = number()
    modalities: tuple[str, ...] = texts(limits.MODALITIES, limits.MODALITY_CHARACTERS)
    study_date: str = text(8)
    person: str | None = text(limits.NAME_CHARACTERS, optional=True)
    role: str | None = text(limits.ROLE_CHARACTERS, optional=True)


@dataclass(frozen=True, kw_only=True)
class OfferAnswer(Message):
    """What became of an offer at the other side; always `Signed`."""

    TYPE: ClassVar[str] = "offer-answer"
    recipient: bytes = octets(32)
    offer: bytes = octets(16)
    time: int = number()
    answer: str = choice(ACCEPTED, DECLINED)


@dataclass(frozen=True, kw_only=True)
class OfferEnd(Message):
    """The facility that offered takes its offer back; always `Signed`."""

    TYPE: ClassVar[str] = "offer-end"
    recipient: bytes = octets(32)
    offer: bytes = octets(16)
    time: int = number()


@dataclass(frozen=True, kw_only=True)
class OfferNoted(Message):
    """The message before it is kept, or was known."""

    TYPE: ClassVar[str] = "offer-noted"


Word = StudyOffer | OfferAnswer | OfferEnd

WORDS: Mapping[str, type[Message]] = {one.TYPE: one for one in (StudyOffer, OfferAnswer, OfferEnd)}
"""The messages that come inside `Signed`."""

KNOWN: Mapping[str, type[Message]] = {Signed.TYPE: Signed}
"""What a stream may begin with."""

ANSWERS: Mapping[str, type[Message]] = {one.TYPE: one for one in (OfferNoted, Refusal)}
"""What may come back."""


def open_word_untrusted(signed: Signed, signer: bytes, recipient: bytes) -> Word:
    """Check who signed a message and for whom, and read it.

    Args:
        signed: the message as received.
        signer: the node key (32 bytes) that must have signed.
        recipient: our node key (32 bytes).

    Raises:
        RemoteProtocolError: malformed, signed by somebody else, or for somebody else.
    """
    word = decode_untrusted(signed.body, WORDS)
    check_signature_untrusted(signer, domain(word.TYPE), signed.body, signed.signature, word.TYPE)
    assert isinstance(word, StudyOffer | OfferAnswer | OfferEnd)
    if word.recipient != recipient:
        raise RemoteProtocolError(
            "the message about an offer is for another node", WireCode.UNEXPECTED
        )
    return word
