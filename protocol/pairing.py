"""One pairing by a code, seen from one side: bytes in, events and bytes out.

Both sides have a code that one person read out to the other. They agree a key by CPace
(`keys.pake`) and confirm it, the caller first: who drops out before has learned nothing, and who
guesses shows it. Only then do they exchange their cards and what they ask for, sealed, and sign
both. Whether the facilities are then trusted is for persons to decide (docs/protocol.md section
10).
"""

import enum
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import nacl.utils

from keys.card import Card, parse_card_untrusted
from keys.errors import BadKey, KeysError, SealBroken
from keys.identity import KeyPair
from keys.pairing_seal import DOMAIN, ROLE_BYTES, PairingSealer, other
from keys.pake import Agreement, Pake, Role
from protocol import limits, messages
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.frames import FrameKind, FrameReader, frame_header
from protocol.messages import Message
from protocol.pairing_messages import (
    INNER,
    OUTER,
    PairAnswer,
    PairHello,
    PairProof,
    PairSealed,
    PairShare,
    PairStatement,
    PairTag,
)
from protocol.signatures import check_signature_untrusted

PAIR_PROTOCOL = "/radmesh/pair/1"
"""Proposed in place of Noise on a new connection."""

VERSION = b"\x01"
NONCE_BYTES = 16

M = TypeVar("M", bound=Message)


class WrongCode(RemoteProtocolError):
    """The other side has another code, or somebody is between the two: one of the tries."""

    def __init__(self) -> None:
        super().__init__("the other side has not shown that it has the code")


class Step(enum.Enum):
    """What must come next from the other side."""

    HELLO = "hello"
    SHARE = "share"
    TAG = "tag"
    STATEMENT = "statement"
    PROOF = "proof"
    ANSWER = "answer"
    DONE = "done"


@dataclass(frozen=True)
class Heard:
    """A step came that its side had to take; nothing is known yet."""


@dataclass(frozen=True)
class Confirmed:
    """The other side has the code."""


@dataclass(frozen=True)
class Met:
    """Who the other side is.

    Attributes:
        card: its card; the signature holds, and its node key has signed this pairing. Whether it
            has expired is not checked.
        grants, purposes: what it asks for; there may be words that we do not know.
    """

    card: Card
    grants: tuple[str, ...]
    purposes: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """A person at the other side has decided."""

    accepted: bool


Event = Heard | Confirmed | Met | Answered


@dataclass
class PairingExchange:
    """One run of a pairing.

    Args:
        role: `INITIATOR` for the side that calls and types the code, `RESPONDER` for the one that
            shows it.
        code: the digits, with the check digit.
        statement: what we say of ourselves.
        key: the node key on our card.
        random: gives random bytes.

    Attributes:
        step: what must come next.
        session: the name of this run, 32 bytes; empty until both have said hello.
        has_guessed: whether our tag is out, or about to be: by it the other side may know whether
            a code that it tried is ours.
    """

    role: Role
    code: str = field(repr=False)
    statement: PairStatement = field(repr=False)
    key: KeyPair
    random: Callable[[int], bytes] = nacl.utils.random
    step: Step = field(init=False, default=Step.HELLO)
    session: bytes = field(init=False, default=b"")
    has_guessed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._hello = messages.encode(PairHello(nonce=self.random(NONCE_BYTES)))
        self._outgoing = bytearray()
        self._reader = FrameReader()
        self._reader.max_message_bytes = limits.PAIRING_FRAME_BYTES
        self._pake: Pake | None = None
        self._agreement: Agreement | None = None
        self._sealer: PairingSealer | None = None
        self._their_hello = b""
        self._met: Met | None = None
        self._signed = b""
        self._statement = messages.encode(self.statement)
        if self.role is Role.INITIATOR:
            self._send(self._hello)

    def take_outgoing(self) -> bytes:
        """What is to be sent now; taken once."""
        taken = bytes(self._outgoing)
        self._outgoing.clear()
        return taken

    def receive_untrusted(self, data: bytes) -> list[Event]:
        """Take bytes of the other side; afterwards there may be something to send.

        Raises:
            WrongCode: the other side does not have the code.
            RemoteProtocolError: it broke another rule. Nothing more may be given to this object.
        """
        events: list[Event] = []
        view = memoryview(data)
        while view:
            frame, used = self._reader.receive_untrusted(view)
            view = view[used:]
            if frame is not None:
                events.append(self._taken(bytes(frame.payload)))
                self._reader.max_message_bytes = (
                    limits.PAIRING_CARD_FRAME_BYTES
                    if self.step is Step.STATEMENT
                    else limits.PAIRING_FRAME_BYTES
                )
        return events

    def answer(self, accepted: bool) -> None:
        """Say whether a person here has accepted the other facility; only after `Met`.

        Raises:
            LocalProtocolError: the other facility is not known yet.
        """
        if self._met is None:
            raise LocalProtocolError("nobody can be accepted before it is known who it is")
        self._send_sealed(messages.encode(PairAnswer(accepted=accepted)))

    # --- the steps ---------------------------------------------------------------------

    def _taken(self, payload: bytes) -> Event:
        """Take one message, and put our answer out; in each step the caller speaks first."""
        step = self.step
        if step is Step.HELLO:
            return self._take_hello(payload)
        if step is Step.SHARE:
            return self._take_share(payload)
        if step is Step.TAG:
            return self._take_tag(payload)
        inner = self._opened(_expected(messages.decode_untrusted(payload, OUTER), PairSealed))
        if step is Step.STATEMENT:
            return self._take_statement(inner)
        if step is Step.PROOF:
            return self._take_proof(inner)
        if step is Step.ANSWER:
            answer = _expected(messages.decode_untrusted(inner, INNER), PairAnswer)
            self.step = Step.DONE
            return Answered(answer.accepted)
        raise RemoteProtocolError("more follows the last message", WireCode.UNEXPECTED)

    def _take_hello(self, payload: bytes) -> Event:
        theirs = _expected(messages.decode_untrusted(payload, OUTER), PairHello)
        ours = _expected(messages.decode_untrusted(self._hello, OUTER), PairHello)
        first, second = (theirs, ours) if self.role is Role.RESPONDER else (ours, theirs)
        self.session = hashlib.sha256(DOMAIN + b"\0" + first.nonce + second.nonce).digest()
        self._their_hello = payload
        self._pake = Pake(
            self.role,
            self.code.encode(),
            session=self.session,
            channel=DOMAIN + VERSION,
            said=ROLE_BYTES[self.role] + self._hello,
            random=self.random,
        )
        self._send(
            self._hello
            if self.role is Role.RESPONDER
            else messages.encode(PairShare(share=self._pake.share))
        )
        self.step = Step.SHARE
        return Heard()

    def _take_share(self, payload: bytes) -> Event:
        share = _expected(messages.decode_untrusted(payload, OUTER), PairShare).share
        assert self._pake is not None
        try:
            agreement = self._pake.agree(share, ROLE_BYTES[other(self.role)] + self._their_hello)
        except BadKey as error:
            raise RemoteProtocolError(str(error)) from None
        self._agreement = agreement
        if self.role is Role.RESPONDER:
            self._send(messages.encode(PairShare(share=self._pake.share)))
        else:
            self._send_tag(agreement)
        self.step = Step.TAG
        return Heard()

    def _take_tag(self, payload: bytes) -> Event:
        tag = _expected(messages.decode_untrusted(payload, OUTER), PairTag).tag
        agreement = self._agreement
        assert agreement is not None
        if not agreement.confirms(tag):
            raise WrongCode
        self._sealer = PairingSealer(agreement.key, self.session, self.role)
        if self.role is Role.RESPONDER:
            self._send_tag(agreement)
        else:
            self._send_sealed(self._statement)
        self.step = Step.STATEMENT
        return Confirmed()

    def _take_statement(self, inner: bytes) -> Event:
        said = _expected(messages.decode_untrusted(inner, INNER), PairStatement)
        try:
            card = parse_card_untrusted(said.card)
        except KeysError as error:
            raise RemoteProtocolError(f"the card of the other side is refused: {error}") from None
        self._met = Met(card, said.grants, said.purposes)
        theirs, ours = (hashlib.sha256(one).digest() for one in (inner, self._statement))
        both = theirs + ours if self.role is Role.RESPONDER else ours + theirs
        self._signed = self.session + both
        if self.role is Role.RESPONDER:
            self._send_sealed(self._statement)
        else:
            self._send_proof()
        self.step = Step.PROOF
        return Heard()

    def _take_proof(self, inner: bytes) -> Event:
        proof = _expected(messages.decode_untrusted(inner, INNER), PairProof)
        assert self._met is not None
        check_signature_untrusted(
            self._met.card.node_key,
            DOMAIN,
            ROLE_BYTES[other(self.role)] + self._signed,
            proof.signature,
            PairProof.TYPE,
        )
        if self.role is Role.RESPONDER:
            self._send_proof()
        self.step = Step.ANSWER
        return self._met

    # --- what we send -------------------------------------------------------------------

    def _send(self, payload: bytes) -> None:
        self._outgoing += frame_header(FrameKind.MESSAGE, len(payload)) + payload

    def _send_tag(self, agreement: Agreement) -> None:
        self.has_guessed = True
        self._send(messages.encode(PairTag(tag=agreement.tag)))

    def _send_proof(self) -> None:
        signature = self.key.sign(DOMAIN, ROLE_BYTES[self.role] + self._signed)
        self._send_sealed(messages.encode(PairProof(signature=signature)))

    def _send_sealed(self, inner: bytes) -> None:
        assert self._sealer is not None
        self._send(messages.encode(PairSealed(sealed=self._sealer.seal(inner))))

    def _opened(self, message: PairSealed) -> bytes:
        assert self._sealer is not None
        try:
            return self._sealer.open(message.sealed)
        except SealBroken as error:
            raise RemoteProtocolError(str(error), WireCode.BAD_DIGEST) from None


def _expected(message: Message, kind: type[M]) -> M:
    if not isinstance(message, kind):
        raise RemoteProtocolError("another message must come first", WireCode.UNEXPECTED)
    return message
