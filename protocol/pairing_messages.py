"""The messages of a pairing by a code (docs/protocol.md section 10)."""

from dataclasses import dataclass
from typing import ClassVar

from keys.card import CARD_BYTES
from protocol import limits
from protocol.fields import binary, flag, octets, texts
from protocol.messages import Message

WORDS = 16
"""Most grants, and most purposes, for which a facility asks."""

WORD_CHARACTERS = 32


@dataclass(frozen=True, kw_only=True)
class PairHello(Message):
    """The first message of each side; later versions may add fields, which the tags cover."""

    TYPE: ClassVar[str] = "pair-hello"
    nonce: bytes = octets(16)


@dataclass(frozen=True, kw_only=True)
class PairShare(Message):
    """A side's share of CPace."""

    TYPE: ClassVar[str] = "pair-share"
    share: bytes = octets(32)


@dataclass(frozen=True, kw_only=True)
class PairTag(Message):
    """Proves that a side has the code."""

    TYPE: ClassVar[str] = "pair-tag"
    tag: bytes = octets(64)


@dataclass(frozen=True, kw_only=True)
class PairSealed(Message):
    """One of the messages below, sealed; see `keys.pairing_seal`."""

    TYPE: ClassVar[str] = "pair-sealed"
    sealed: bytes = binary(limits.PAIRING_CARD_FRAME_BYTES)


@dataclass(frozen=True, kw_only=True)
class PairStatement(Message):
    """Who a side is, and the grants and purposes for which it asks."""

    TYPE: ClassVar[str] = "pair-statement"
    card: bytes = binary(CARD_BYTES)
    grants: tuple[str, ...] = texts(WORDS, WORD_CHARACTERS)
    purposes: tuple[str, ...] = texts(WORDS, WORD_CHARACTERS)


@dataclass(frozen=True, kw_only=True)
class PairProof(Message):
    """The signature of a side's node key over the run and both statements."""

    TYPE: ClassVar[str] = "pair-proof"
    signature: bytes = octets(64)


@dataclass(frozen=True, kw_only=True)
class PairAnswer(Message):
    """Whether a person at a side has accepted the other facility."""

    TYPE: ClassVar[str] = "pair-answer"
    accepted: bool = flag()


OUTER: dict[str, type[Message]] = {
    one.TYPE: one for one in (PairHello, PairShare, PairTag, PairSealed)
}
"""What stands in frames."""

INNER: dict[str, type[Message]] = {one.TYPE: one for one in (PairStatement, PairProof, PairAnswer)}
"""What is sealed."""
