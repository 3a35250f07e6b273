"""The facility card: the one signed document that says who a facility is.

A file of two lines: `radmesh-card-v1 SIGNATURE` (base64), and canonical JSON. The
facility key signs the second line, as it stands, under the domain
`radmesh-card-v1`. Fields that this release does not know are covered by the
signature and ignored. Peers pin the facility key; a card with a higher serial
replaces the older one. Keys that were replaced stay listed with the time or log
size from which they no longer count.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any

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
)
from keys.errors import BadCard, BadSignature, CardExpired, CardSuperseded, NotCanonical
from keys.fingerprint import fingerprint
from keys.identity import KeyPair, verify

CARD_BYTES = 64 * 1024
"""Most bytes of a card: hundreds of replaced keys, and still one small message."""

CLOCK_SKEW_SECONDS = 24 * 3600
"""Largest time that a card may seem to come from the future: hospital clocks drift."""

_DOMAIN = b"radmesh-card-v1"


@dataclass(frozen=True)
class Card:
    """A card whose signature holds.

    Attributes:
        name: of the facility, as it calls itself.
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
        """Of the facility key, in full."""
        return fingerprint(self.facility_key)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole file, hex."""
        return hashlib.sha256(self.encoded).hexdigest()

    def is_current_node_key(self, public: bytes, now: int) -> bool:
        """Whether a node with this key (32 bytes) speaks for the facility now.

        Args:
            public: the node key.
            now: seconds since the epoch, UTC. A key counts a day early, since the
                clock that wrote `since` may be ahead of ours; it never counts late.
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
) -> Card:
    """Sign the first card of a facility, with keys that were never replaced.

    Raises:
        BadCard: a value that no card may have, such as a name with a line break.
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
) -> Card:
    """Sign a card with full lists of keys, oldest first.

    Raises:
        BadCard: a value that no card may have.
    """
    try:
        body = canonical_json(
            {
                "addresses": list(addresses),
                "expires": expires,
                "facility_key": facility.public.hex(),
                "issued": issued,
                "log_keys": [key.to_fields() for key in log_keys],
                "name": name,
                "node_keys": [key.to_fields() for key in node_keys],
                "serial": serial,
                "version": 1,
                "witness_keys": [key.to_fields() for key in witness_keys],
            }
        )
    except NotCanonical as error:
        raise BadCard(f"the card cannot be written: {error}") from error
    signature = base64.b64encode(facility.sign(_DOMAIN, body))
    # Read back, so that no card is issued that peers would refuse.
    return parse_card_untrusted(b"%b %b\n%b\n" % (_DOMAIN, signature, body))


def parse_card_untrusted(data: bytes) -> Card:
    """Read a card and check its signature; see also `check_card` and `check_newer`.

    Raises:
        BadCard: not a card, forged, or with values that no card may have.
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
    if card.expires <= card.issued:
        raise BadCard("the card expires before it was issued")
    return card


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
    """Check that `new` may take the place of `old`; the same bytes may.

    Raises:
        BadCard: it is of another facility.
        CardSuperseded: it is older, or another card with the same serial.
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


def _require_one_role_per_key(card: Card) -> None:
    listed: list[Any] = [*card.node_keys, *card.log_keys, *card.witness_keys]
    keys = [card.facility_key, *(key.key for key in listed)]
    if len(set(keys)) != len(keys):
        raise BadCard("the card names one key twice")
