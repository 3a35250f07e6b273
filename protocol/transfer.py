"""The parts that both ends of a study transfer share: events and key agreement.

Each end (`protocol.source`, `protocol.recipient`) owns a `StudyConnection` and interprets
its bytes. `node` decides what to try next, when to give up and where to store data.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keys.errors
from keys import seal
from keys.identity import KeyPair
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.manifest import Manifest
from protocol.messages import Offer, Refusal, Request
from protocol.receipt import Receipt, SignedReceipt
from protocol.states import Role, State, StudyConnection

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Requested:
    """A recipient requests a study; answer with `offer_manifest` or `refuse`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Wanted:
    """A portion: the batches that the recipient lacks, in ascending order.

    With `last`, no portion follows.
    """

    batches: tuple[int, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class Credited:
    """The recipient gave credit; more may be sent."""


@dataclass(frozen=True, slots=True)
class Receipted:
    """The recipient's receipt; its signature holds and its content matches our manifest."""

    receipt: Receipt
    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Offered:
    """The source made an offer; its manifest follows."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class ManifestArrived:
    """All pieces of the manifest have arrived: call `open_manifest`."""


@dataclass(frozen=True, slots=True)
class BatchArrived:
    """A wanted batch, still sealed: call `open_batch`."""

    index: int
    sealed: memoryview


@dataclass(frozen=True, slots=True)
class Ended:
    """The source has sent all wanted batches."""


@dataclass(frozen=True, slots=True)
class Countersigned:
    """The source signed the same receipt."""

    receipt: SignedReceipt


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer ended the transfer, for this reason."""

    code: WireCode


Event = (
    Requested
    | Wanted
    | Credited
    | Receipted
    | Offered
    | ManifestArrived
    | BatchArrived
    | Ended
    | Countersigned
    | Refused
)


class TransferEnd:
    """The parts that both ends share: connection, key agreement, wanted batches, refusals.

    Attributes:
        request, offer, manifest: the messages so far; None until sent or received.
        asked: batches (indices into the manifest) wanted in this session.
        asked_all: whether the last portion has been asked for.
    """

    def __init__(self, role: Role, key: KeyPair, peer: bytes, random: Random) -> None:
        self.connection = StudyConnection(role, key, peer)
        self._key = key
        self._peer = peer
        self._random = random
        self._ephemeral = seal.EphemeralKey.generate(random)
        self._sealer: seal.Sealer | None = None
        self.request: Request | None = None
        self.offer: Offer | None = None
        self.manifest: Manifest | None = None
        self.asked: set[int] = set()
        self.asked_all = False

    @property
    def state(self) -> State:
        """The state of the transfer."""
        return self.connection.state

    @property
    def asked_encoded_bytes(self) -> int:
        """Encoded bytes of all wanted batches; after the end, these are the bytes sent."""
        batches = self._require_manifest().batches
        return sum(batches[index].encoded_size for index in self.asked)

    def refuse(self, code: WireCode) -> bytes:
        """End the transfer with a reason."""
        return self.connection.send(Refusal(code=code))

    def _agree(self, request: Request, offer: Offer, theirs: bytes) -> None:
        role = self.connection.role
        source, recipient = (
            (self._key.public, self._peer)
            if role is Role.SOURCE
            else (self._peer, self._key.public)
        )
        try:
            key = seal.transfer_key(
                self._ephemeral,
                theirs,
                source_node=source,
                recipient_node=recipient,
                source_ephemeral=offer.ephemeral,
                recipient_ephemeral=request.ephemeral,
                transfer_id=request.transfer,
            )
        except keys.errors.KeysError:
            raise RemoteProtocolError("the peer's ephemeral key is unusable") from None
        self._sealer = seal.Sealer(key, request.transfer, offer.manifest)

    def _require_sealer(self) -> seal.Sealer:
        if self._sealer is None:
            raise LocalProtocolError("no key has been agreed yet")
        return self._sealer

    def _require_manifest(self) -> Manifest:
        if self.manifest is None:
            raise LocalProtocolError("there is no manifest yet")
        return self.manifest
