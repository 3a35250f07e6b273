"""The state machine of one study transfer, the same table for both sides.

The theory: a transfer is a strict alternation in which every state allows few
(sender, message) pairs. Both sides run this table over both directions, so no
rule is laxer for ourselves than for the peer. The table only checks the order of
messages: `protocol.source` and `protocol.recipient` check digests, grants, the wanted
batches, and that nothing is wanted after the last portion.

    IDLE        recipient: request        -> REQUESTED
    REQUESTED   source: offer             -> OFFERED
    OFFERED     source: data (manifest)   -> OFFERED
                source: the last of it,
                  when offered whole      -> SENDING
                recipient: want           -> SENDING
    SENDING     source: data (batches)    -> SENDING
                recipient: want (more)    -> SENDING
                recipient: credit         -> SENDING
                source: end               -> SENT
    SENT        recipient: credit         -> SENT
                recipient: receipt        -> RECEIPTED
    RECEIPTED   source: countersignature  -> DONE
    any but the last ones: a refusal by either side -> REFUSED
    a broken rule -> FAILED, for good
"""

import enum
from dataclasses import dataclass

from keys.identity import KeyPair
from protocol import limits, messages
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.frames import FrameKind, FrameReader, frame_header
from protocol.messages import Message, Signed


class Role(enum.Enum):
    """Which end of a transfer: images go from SOURCE to RECIPIENT."""

    SOURCE = "source"
    RECIPIENT = "recipient"

    @property
    def other(self) -> "Role":
        """The peer's role."""
        return Role.RECIPIENT if self is Role.SOURCE else Role.SOURCE


class State(enum.Enum):
    """The state of a transfer."""

    IDLE = "idle"
    REQUESTED = "requested"
    OFFERED = "offered"
    SENDING = "sending"
    SENT = "sent"
    RECEIPTED = "receipted"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


FINAL = frozenset({State.DONE, State.REFUSED, State.FAILED})

DATA = "data"
"""A data frame in the table."""

LAST_PIECE = "last piece"
"""The data frame in the table that ends the manifest of a study offered whole."""

TRANSITIONS: dict[tuple[State, Role, str], State] = {
    (State.IDLE, Role.RECIPIENT, messages.Request.TYPE): State.REQUESTED,
    (State.REQUESTED, Role.SOURCE, messages.Offer.TYPE): State.OFFERED,
    (State.OFFERED, Role.SOURCE, DATA): State.OFFERED,
    (State.OFFERED, Role.SOURCE, LAST_PIECE): State.SENDING,
    (State.OFFERED, Role.RECIPIENT, messages.Want.TYPE): State.SENDING,
    (State.SENDING, Role.SOURCE, DATA): State.SENDING,
    (State.SENDING, Role.RECIPIENT, messages.Want.TYPE): State.SENDING,
    (State.SENDING, Role.RECIPIENT, messages.Credit.TYPE): State.SENDING,
    (State.SENDING, Role.SOURCE, messages.End.TYPE): State.SENT,
    (State.SENT, Role.RECIPIENT, messages.Credit.TYPE): State.SENT,
    (State.SENT, Role.RECIPIENT, messages.ReceiptMessage.TYPE): State.RECEIPTED,
    (State.RECEIPTED, Role.SOURCE, messages.Countersignature.TYPE): State.DONE,
}

_SIGNED_TYPES: dict[State, type[Message]] = {
    State.IDLE: messages.Request,
    State.REQUESTED: messages.Offer,
}


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message that the table allows; `signed` is its envelope, if it had one."""

    message: Message
    signed: Signed | None = None


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A sealed piece of the manifest, or a sealed batch."""

    index: int
    sealed: memoryview
    is_piece: bool


Event = MessageReceived | DataReceived


class StudyConnection:
    """One end of one study stream: bytes in give events, messages give bytes out.

    Args:
        role: our end.
        key: our node key, which signs what must be signed.
        peer: the peer's node key (32 bytes), proven by the channel.
    """

    def __init__(self, role: Role, key: KeyPair, peer: bytes) -> None:
        self.role = role
        self.state = State.IDLE
        self._key = key
        self._peer = peer
        self._reader = FrameReader()
        self._sent_bytes = 0
        self._credited_bytes = 0
        self._pieces_left: int | None = None

    @property
    def uncredited_bytes(self) -> int:
        """Sealed batch bytes that were sent but not yet credited by the recipient."""
        return self._sent_bytes - self._credited_bytes

    def may_send_batch(self, sealed_bytes: int) -> bool:
        """Whether the recipient's credit allows a batch of `sealed_bytes` now."""
        return self.uncredited_bytes + sealed_bytes <= limits.CREDIT_BYTES

    # --- out ---------------------------------------------------------------

    def send(self, message: Message) -> bytes:
        """Advance by one of our messages and return its frame.

        Raises:
            LocalProtocolError: the table does not allow it now.
        """
        self._advance_local(message.TYPE)
        self._offered(message)
        if isinstance(message, messages.Credit):
            self._credited_bytes = message.bytes
        if type(message) in messages.MUST_BE_SIGNED:
            message = messages.sign(message, self._key)
        payload = messages.encode(message)
        return frame_header(FrameKind.MESSAGE, len(payload)) + payload

    def data_header(self, index: int, sealed_bytes: int) -> bytes:
        """Advance by one of our data frames and return the nine bytes before its content.

        Raises:
            LocalProtocolError: not allowed now, or beyond the recipient's credit.
        """
        if self.state is State.SENDING:
            if not self.may_send_batch(sealed_bytes):
                raise LocalProtocolError("a batch would exceed the recipient's credit")
            self._sent_bytes += sealed_bytes
        self._advance_local(self._data_kind())
        return frame_header(FrameKind.DATA, 4 + sealed_bytes) + index.to_bytes(4, "big")

    def _advance_local(self, kind: str) -> None:
        following = self._following(self.role, kind)
        if following is None:
            raise LocalProtocolError(f"the {self.role.value} cannot send {kind} while {self.state}")
        self._enter(following)

    # --- in ----------------------------------------------------------------

    def receive_untrusted(self, data: bytes | memoryview) -> list[Event]:
        """Take bytes from the peer.

        Returns:
            The complete messages and data, in order. Bytes after a final state are refused.

        Raises:
            RemoteProtocolError: the peer broke a rule; the state is FAILED.
        """
        events: list[Event] = []
        rest = memoryview(data)
        try:
            while rest:
                if self.state in FINAL:
                    raise RemoteProtocolError(
                        f"bytes after the transfer is {self.state.value}", WireCode.UNEXPECTED
                    )
                self._reader.max_data_bytes = (
                    limits.SEALED_CHUNK_BYTES + 4
                    if (self.state, self.role.other, DATA) in TRANSITIONS
                    else 0
                )
                frame, used = self._reader.receive_untrusted(rest)
                rest = rest[used:]
                if frame is None:
                    break
                if frame.kind is FrameKind.DATA:
                    events.append(self._data_untrusted(frame.payload))
                else:
                    events.append(self._message_untrusted(frame.payload))
        except RemoteProtocolError:
            self.state = State.FAILED
            raise
        return events

    def _data_untrusted(self, payload: bytearray) -> DataReceived:
        if len(payload) < 4:
            raise RemoteProtocolError("data frame without an index")
        is_piece = self.state is State.OFFERED
        self._advance_remote(self._data_kind())
        if not is_piece:
            self._sent_bytes += len(payload) - 4
            if self.uncredited_bytes > limits.CREDIT_BYTES:
                raise RemoteProtocolError("the source exceeded our credit", WireCode.TOO_LARGE)
        index = int.from_bytes(payload[:4], "big")
        return DataReceived(index, memoryview(payload)[4:], is_piece)

    def _message_untrusted(self, payload: bytearray) -> MessageReceived:
        message = messages.decode_untrusted(payload)
        signed = None
        if isinstance(message, Signed):
            expected = _SIGNED_TYPES.get(self.state)
            if expected is None:
                raise RemoteProtocolError("a signed message now", WireCode.UNEXPECTED)
            signed = message
            message = messages.open_signed_untrusted(signed, expected, self._peer)
        elif type(message) in messages.MUST_BE_SIGNED:
            raise RemoteProtocolError(f"an unsigned {message.TYPE}", WireCode.BAD_SIGNATURE)
        self._advance_remote(message.TYPE)
        self._offered(message)
        if isinstance(message, messages.Credit):
            if not self._credited_bytes <= message.bytes <= self._sent_bytes:
                raise RemoteProtocolError("credit for bytes that were never sent")
            self._credited_bytes = message.bytes
        return MessageReceived(message, signed)

    def _advance_remote(self, kind: str) -> None:
        following = self._following(self.role.other, kind)
        if following is None:
            raise RemoteProtocolError(
                f"the {self.role.other.value} sent {kind} while {self.state.value}",
                WireCode.UNEXPECTED,
            )
        self._enter(following)

    # --- both --------------------------------------------------------------

    def _offered(self, message: Message) -> None:
        if isinstance(message, messages.Offer) and message.whole:
            self._pieces_left = -(-message.manifest_bytes // limits.BATCH_BYTES)

    def _data_kind(self) -> str:
        """What the current data frame counts as; call this once for each data frame."""
        if self.state is not State.OFFERED or self._pieces_left is None:
            return DATA
        self._pieces_left -= 1
        return DATA if self._pieces_left else LAST_PIECE

    def _following(self, sender: Role, kind: str) -> State | None:
        if kind == messages.Refusal.TYPE:
            return None if self.state in FINAL else State.REFUSED
        return TRANSITIONS.get((self.state, sender, kind))

    def _enter(self, state: State) -> None:
        self.state = state
