"""Entries that hand a role over from one key to the next (docs/protocol-log.md section 12).

An entry `rotation` is signed by the old key, the new key and the facility key. An entry
`key-revoked` revokes a log key from a size on, and is signed only by the new key and the
facility key. Both name the size and the root of the log before them.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keys.canonical import canonical_json
from keys.errors import BadSignature
from keys.identity import KeyPair, verify
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.entry import Entry, Event
from protocol.log.note import decode_base64_untrusted

ROTATION = "rotation"
KEY_REVOKED = "key-revoked"

ROLES = ("log", "node", "witness")
"""Roles whose keys can be replaced; the facility key vouches for them."""

_DOMAINS = {ROTATION: b"radmesh-rotation-v1", KEY_REVOKED: b"radmesh-key-revoked-v1"}
_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class KeyChange:
    """The content of an entry `rotation` or `key-revoked`.

    Attributes:
        origin: the log's origin.
        facility_key: 32 bytes.
        role: one of `ROLES`.
        old_key: 32 bytes.
        new_key: 32 bytes.
        size: size of the log before this entry, and so the index of this entry.
        root: root at `size`.
        trusted: for a revoked log key, the last size and root signed by it that still
            count; None for a rotation.
    """

    origin: str
    facility_key: bytes
    role: str
    old_key: bytes
    new_key: bytes
    size: int
    root: bytes
    trusted: tuple[int, bytes] | None = None

    @property
    def type(self) -> str:
        """The type of the entry."""
        return ROTATION if self.trusted is None else KEY_REVOKED

    @property
    def since_size(self) -> int:
        """The first size whose checkpoint the new log key signs."""
        return (self.size if self.trusted is None else self.trusted[0]) + 1

    def signed_bytes(self) -> bytes:
        """The bytes that the keys sign, under the domain of the type."""
        return canonical_json(
            {"origin": self.origin, "facility_key": self.facility_key.hex(), **self._fields()}
        )

    def _fields(self) -> dict[str, str | int]:
        fields: dict[str, str | int] = {
            "role": self.role,
            "old_key": self.old_key.hex(),
            "new_key": self.new_key.hex(),
            "size": self.size,
            "root": self.root.hex(),
        }
        if self.trusted is not None:
            fields |= {"trusted_size": self.trusted[0], "trusted_root": self.trusted[1].hex()}
        return fields

    def event(
        self, *, old: KeyPair | None, new: KeyPair, facility: KeyPair, card: str, serial: int
    ) -> Event:
        """The signed event.

        Args:
            old: the replaced key; None if it is revoked.
            new: the new key.
            facility: the facility key.
            card: SHA-256 of the card that names the new key, hex.
            serial: serial of that card.

        Raises:
            LocalProtocolError: a key pair is not the key that the change names.
        """
        signers = {"new": (new, self.new_key), "facility": (facility, self.facility_key)}
        if self.trusted is None and old is not None:
            signers["old"] = (old, self.old_key)
        elif self.trusted is None or old is not None:
            raise LocalProtocolError("the old key signs a rotation, and nothing else")
        if any(pair.public != public for pair, public in signers.values()):
            raise LocalProtocolError("a change of keys must be signed by the keys it names")
        signed = self.signed_bytes()
        signatures = {
            f"signature_{name}": base64.b64encode(pair.sign(_DOMAINS[self.type], signed)).decode()
            for name, (pair, _) in signers.items()
        }
        details = {**self._fields(), "card": card, "serial": serial, **signatures}
        return Event(type=self.type, actor="operator", details=details)


def parse_change_untrusted(entry: Entry, *, origin: str, facility_key: bytes) -> KeyChange:
    """Read an entry of the type `rotation` or `key-revoked` and check its signatures.

    Args:
        entry: an entry of one of these types.
        origin: origin of the log that holds the entry.
        facility_key: 32 bytes, not taken from the entry.

    Raises:
        RemoteProtocolError: a field is missing or malformed, the entry belongs at another
            index, or a signature does not hold.
    """
    details = entry.details
    trusted = None
    if entry.type == KEY_REVOKED:
        trusted = (_size(details, "trusted_size"), _octets(details, "trusted_root"))
    change = KeyChange(
        origin=origin,
        facility_key=facility_key,
        role=str(details.get("role")),
        old_key=_octets(details, "old_key"),
        new_key=_octets(details, "new_key"),
        size=_size(details, "size"),
        root=_octets(details, "root"),
        trusted=trusted,
    )
    if change.type != entry.type or change.role not in ROLES or change.size != entry.index:
        raise RemoteProtocolError("the entry does not change a key of this log at this place")
    if trusted is not None and (change.role != "log" or trusted[0] > change.size):
        raise RemoteProtocolError("the entry takes back what it cannot")
    keys = {"new": change.new_key, "facility": facility_key}
    if trusted is None:
        keys["old"] = change.old_key
    for name, public in keys.items():
        signature = decode_base64_untrusted(str(details.get(f"signature_{name}")))
        try:
            verify(public, _DOMAINS[entry.type], change.signed_bytes(), signature)
        except BadSignature:
            raise RemoteProtocolError(
                f"the signature of the {name} key under the change does not hold"
            ) from None
    return change


def _octets(details: Mapping[str, Any], name: str) -> bytes:
    value = details.get(name)
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != _KEY_BYTES or data.hex() != value:
        raise RemoteProtocolError(f"the detail {name} is not 32 bytes in hex")
    return data


def _size(details: Mapping[str, Any], name: str) -> int:
    value = details.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RemoteProtocolError(f"the detail {name} is not a size")
    return value
