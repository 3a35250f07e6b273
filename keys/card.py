"""The facility card: the one signed document that says who a facility is.

A file of two lines: `radmesh-card-v1 SIGNATURE` (base64), and canonical JSON. The
facility key signs the bytes of the second line under the domain `radmesh-card-v1`.
The signature covers fields that this release does not know; they are ignored. Peers pin
the facility key; a card with a higher serial replaces the older one. Replaced keys stay
listed with the time or log size from which they no longer count. Each key has a proof
that the facility holds it (`keys.possession`), except on cards of the first releases.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from keys.canonical import canonical_json, parse_canonical_untrusted
from keys.card_fields import (
    SizedKey,
    TimedKey,
    read_addresses,
    read_integer,
    read_key,
    read_name,
    read_sized_keys,
    read_timed_keys,
    require_addresses,
)
from keys.errors import BadCard, BadSignature, CardExpired, CardSuperseded, NotCanonical
from keys.fingerprint import fingerprint
from keys.identity import KeyPair, verify
from keys.possession import is_proof, prove

CARD_BYTES = 64 * 1024
"""Most bytes of a card: hundreds of replaced keys, and still one small message."""

CLOCK_SKEW_SECONDS = 24 * 3600
"""Largest time that a card may seem to come from the future: hospital clocks drift."""

_DOMAIN = b"radmesh-card-v1"

_Listed = TypeVar("_Listed", TimedKey, SizedKey)


@dataclass(frozen=True)
class Card:
    """A card whose signature holds.

    Attributes:
        name: the facility's own name for itself.
        facility_key: 32 bytes.
        node_keys: oldest first; the last is the current one.
        log_keys: likewise.
        witness_keys: likewise.
        addresses: multiaddrs where the node listens.
        serial: higher is newer.
        issued: seconds since the epoch, UTC.
        expires: seconds since the epoch, UTC.
        encoded: the whole file as received.
    """

    name: str
    facility_key: bytes
    node_keys: tuple[TimedKey, ...]
    log_keys: tuple[SizedKey, ...]
    witness_keys: tuple[TimedKey, ...]
    addresses: tuple[str, ...]
    serial: int
    issued: int
    expires: int
    encoded: bytes

    @property
    def node_key(self) -> bytes:
        """The current node key, 32 bytes."""
        return self.node_keys[-1].key

    @property
    def log_key(self) -> bytes:
        """The current log key, 32 bytes."""
        return self.log_keys[-1].key

    @property
    def witness_key(self) -> bytes:
        """The current witness key, 32 bytes."""
        return self.witness_keys[-1].key

    @property
    def fingerprint(self) -> str:
        """The full fingerprint of the facility key."""
        return fingerprint(self.facility_key)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole file, hex."""
        return hashlib.sha256(self.encoded).hexdigest()

    @property
    def listed(self) -> Iterator[tuple[str, TimedKey | SizedKey]]:
        """Role and key entry, for each node, log and witness key."""
        for key in self.node_keys:
            yield "node", key
        for log_key in self.log_keys:
            yield "log", log_key
        for key in self.witness_keys:
            yield "witness", key

    def lacks_proof_by(self, keypairs: Iterable[KeyPair]) -> bool:
        """Whether one of these key pairs could prove a listed key that has no proof yet."""
        at_hand = {pair.public for pair in keypairs}
        return any(key.proof is None and key.key in at_hand for _, key in self.listed)

    def is_current_node_key(self, public: bytes, now: int) -> bool:
        """Whether a node with this key (32 bytes) speaks for the facility now.

        Args:
            public: the node key.
            now: seconds since the epoch, UTC. A key counts up to a day before `since`,
                because that clock may be ahead of ours; it never counts after its end.
        """
        return any(
            listed.key == public
            and listed.since <= now + CLOCK_SKEW_SECONDS
            and (listed.until is None or now < listed.until)
            for listed in self.node_keys
        )


def issue_card(
    facility: KeyPair,
    *,
    name: str,
    node_key: bytes,
    log_key: bytes,
    witness_key: bytes,
    addresses: tuple[str, ...],
    serial: int,
    issued: int,
    expires: int,
    proving: Iterable[KeyPair] = (),
) -> Card:
    """Sign the first card of a facility, with keys that were never replaced.

    Args:
        proving: see `sign_card`.

    Raises:
        BadCard: a value is not allowed on a card, such as a name with a line break.
    """
    return sign_card(
        facility,
        name=name,
        node_keys=(TimedKey(node_key, issued),),
        log_keys=(SizedKey(log_key, 0),),
        witness_keys=(TimedKey(witness_key, issued),),
        addresses=addresses,
        serial=serial,
        issued=issued,
        expires=expires,
        proving=proving,
    )


def sign_card(
    facility: KeyPair,
    *,
    name: str,
    node_keys: tuple[TimedKey, ...],
    log_keys: tuple[SizedKey, ...],
    witness_keys: tuple[TimedKey, ...],
    addresses: tuple[str, ...],
    serial: int,
    issued: int,
    expires: int,
    proving: Iterable[KeyPair] = (),
) -> Card:
    """Sign a card with full lists of keys, oldest first.

    Args:
        proving: available key pairs; the listed ones among them get a proof on the card.
            Existing proofs are kept: a proof holds on every card.

    Raises:
        BadCard: a value is not allowed on a card.
    """
    at_hand = {pair.public: pair for pair in proving}

    def fields(role: str, listed: tuple[_Listed, ...]) -> list[dict[str, Any]]:
        return [_proven(key, role, at_hand, facility.public).to_fields() for key in listed]

    try:
        body = canonical_json(
            {
                # Our own addresses are of kinds that every release knows.
                "addresses": list(require_addresses(addresses)),
                "expires": expires,
                "facility_key": facility.public.hex(),
                "issued": issued,
                "log_keys": fields("log", log_keys),
                "name": name,
                "node_keys": fields("node", node_keys),
                "serial": serial,
                "version": 1,
                "witness_keys": fields("witness", witness_keys),
            }
        )
    except NotCanonical as error:
        raise BadCard(f"the card cannot be written: {error}") from error
    signature = base64.b64encode(facility.sign(_DOMAIN, body))
    # Read it back, so that no card is issued that peers would refuse.
    return parse_card_untrusted(b"%b %b\n%b\n" % (_DOMAIN, signature, body))


def parse_card_untrusted(data: bytes) -> Card:
    """Read a card and check its signature; see also `check_card` and `check_newer`.

    Raises:
        BadCard: not a card, forged, or with values that are not allowed on a card.
    """
    if len(data) > CARD_BYTES:
        raise BadCard(f"a card has at most {CARD_BYTES} bytes")
    signature, body = _split(bytes(data))
    try:
        fields = parse_canonical_untrusted(body)
    except NotCanonical as error:
        raise BadCard(f"the second line of the card is {error}") from error
    if not isinstance(fields, dict):
        raise BadCard("the second line of the card is not an object")
    facility_key = read_key(fields, "facility_key")
    try:
        verify(facility_key, _DOMAIN, body, signature)
    except BadSignature:
        raise BadCard("the signature of the card does not hold: it was altered") from None
    version = read_integer(fields, "version", least=1)
    if version != 1:
        raise BadCard(f"the card has version {version}, which this release does not know")
    card = Card(
        name=read_name(fields),
        facility_key=facility_key,
        node_keys=read_timed_keys(fields, "node_keys"),
        log_keys=read_sized_keys(fields),
        witness_keys=read_timed_keys(fields, "witness_keys"),
        addresses=read_addresses(fields),
        serial=read_integer(fields, "serial", least=1),
        issued=read_integer(fields, "issued", least=0),
        expires=read_integer(fields, "expires", least=0),
        encoded=bytes(data),
    )
    _require_one_role_per_key(card)
    _require_proofs(card)
    if card.expires <= card.issued:
        raise BadCard("the card expires before it was issued")
    return card


def facility_of_untrusted(data: bytes) -> bytes | None:
    """The facility key that a card names, 32 bytes; nothing on the card is checked.

    For callers that need the facility before they spend the work of checking the card.
    None if the data is not a card.
    """
    try:
        _, body = _split(bytes(data[: CARD_BYTES + 1]))
        fields = parse_canonical_untrusted(body)
        return read_key(fields, "facility_key") if isinstance(fields, dict) else None
    except (BadCard, NotCanonical):
        return None


def check_card(card: Card, now: int) -> None:
    """Check that a card counts now (seconds since the epoch, UTC).

    Raises:
        CardExpired: it is past its date.
        BadCard: it was issued more than a day from now.
    """
    if card.expires <= now:
        raise CardExpired(f"the card of {card.name} (serial {card.serial}) has expired")
    if card.issued > now + CLOCK_SKEW_SECONDS:
        raise BadCard(
            f"the card of {card.name} was issued in the future: a clock, there or here, is wrong"
        )


def check_newer(old: Card, new: Card) -> None:
    """Check that `new` may replace `old`; an identical card may.

    Raises:
        BadCard: `new` is of another facility.
        CardSuperseded: `new` is older, or differs but has the same serial.
    """
    if old.facility_key != new.facility_key:
        raise BadCard("the card is of another facility")
    if old.encoded == new.encoded:
        return
    if new.serial < old.serial:
        raise CardSuperseded(
            f"the card has serial {new.serial}, and serial {old.serial} of the same "
            "facility is known"
        )
    if new.serial == old.serial:
        raise CardSuperseded(f"another card with serial {old.serial} of this facility is known")


def _split(data: bytes) -> tuple[bytes, bytes]:
    lines = data.split(b"\n")
    if len(lines) != 3 or lines[2] != b"" or not lines[0].startswith(_DOMAIN + b" "):
        raise BadCard("this is not a facility card of two lines")
    text = lines[0].removeprefix(_DOMAIN + b" ")
    try:
        signature = base64.b64decode(text, validate=True)
    except binascii.Error:
        signature = b""
    if base64.b64encode(signature) != text:
        raise BadCard("the first line of the card is damaged")
    return signature, lines[1]


def _proven(key: _Listed, role: str, at_hand: dict[bytes, KeyPair], facility_key: bytes) -> _Listed:
    if key.proof is not None or key.key not in at_hand:
        return key
    return replace(key, proof=prove(at_hand[key.key], role, facility_key))


def _require_one_role_per_key(card: Card) -> None:
    keys = [card.facility_key, *(key.key for _, key in card.listed)]
    if len(set(keys)) != len(keys):
        raise BadCard("the card names one key twice")


def _require_proofs(card: Card) -> None:
    for role, key in card.listed:
        if key.proof is not None and not is_proof(key.proof, key.key, role, card.facility_key):
            raise BadCard(f"the card does not prove that its facility holds the {role} key on it")
