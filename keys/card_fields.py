"""The fields of a facility card and their allowed values.

Every reader takes the decoded object and raises only `BadCard`.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from keys.canonical import MAX_INTEGER
from keys.errors import BadCard

NAME_CHARACTERS = 128
ADDRESSES = 16
"""Most addresses on a card: a dialler tries them all in turn."""

_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_HEX_PROOF = re.compile(r"[0-9a-f]{128}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_ADDRESS_KINDS = ("ip4", "ip6", "dns4", "dns6")


@dataclass(frozen=True)
class TimedKey:
    """A node or witness key and when it counts, in seconds since the epoch, UTC.

    `proof` is the proof of `keys.possession`, 64 bytes; None on cards of older releases.
    """

    key: bytes
    since: int
    until: int | None = None
    proof: bytes | None = None

    def to_fields(self) -> dict[str, Any]:
        """The form in the card."""
        until = {} if self.until is None else {"until": self.until}
        return {"key": self.key.hex(), "since": self.since, **until, **_proof_field(self.proof)}


@dataclass(frozen=True)
class SizedKey:
    """A log key, and the log sizes (entries) at which its checkpoints count; `proof` as above."""

    key: bytes
    since_size: int
    until_size: int | None = None
    proof: bytes | None = None

    def to_fields(self) -> dict[str, Any]:
        """The form in the card."""
        until = {} if self.until_size is None else {"until_size": self.until_size}
        proof = _proof_field(self.proof)
        return {"key": self.key.hex(), "since_size": self.since_size, **until, **proof}


def is_name(text: str) -> bool:
    """Whether the text can be a facility's name: 1 to 128 printable characters.

    Control characters, line breaks and marks that turn the direction of writing
    are not printable.
    """
    return 1 <= len(text) <= NAME_CHARACTERS and text.isprintable() and text == text.strip()


def is_address(text: str) -> bool:
    """Whether the text is a multiaddr of the form /ip4|ip6|dns4|dns6/HOST/tcp/PORT."""
    parts = text.split("/")
    if len(parts) != 5 or parts[0] != "" or parts[3] != "tcp":
        return False
    kind, host, port = parts[1], parts[2], parts[4]
    if not _PORT.fullmatch(port) or int(port) > 65535:
        return False
    if kind in ("dns4", "dns6"):
        return len(host) <= 253 and _HOST_NAME.fullmatch(host) is not None
    try:
        if kind == "ip4":
            ipaddress.IPv4Address(host)
            return True
        # A zone names a network interface of the machine that wrote the card.
        return kind == "ip6" and ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def read_integer(fields: dict[str, Any], name: str, *, least: int) -> int:
    """An integer from `least` to 2^53-1."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_INTEGER:
        raise BadCard(f"the field {name} of the card is not a valid number")
    return value


def read_key(fields: dict[str, Any], name: str) -> bytes:
    """A public key, 32 bytes, from lower-case hex."""
    value = fields.get(name)
    if not isinstance(value, str) or not _HEX_KEY.fullmatch(value):
        raise BadCard(f"the field {name} of the card is not a key in hex")
    return bytes.fromhex(value)


def read_name(fields: dict[str, Any]) -> str:
    """The facility's name."""
    value = fields.get("name")
    if not isinstance(value, str) or not is_name(value):
        raise BadCard(
            f"the name of a facility is 1 to {NAME_CHARACTERS} printable characters on one line"
        )
    return value


def read_addresses(fields: dict[str, Any]) -> tuple[str, ...]:
    """The addresses that this release can dial; none if the node only dials out.

    Addresses of kinds that this release does not know are left out; the signature covers
    them.
    """
    values = _read_list(fields, "addresses")
    if len(values) > ADDRESSES:
        raise BadCard(f"a card has at most {ADDRESSES} addresses")
    return require_addresses(
        tuple(value for value in values if not (isinstance(value, str) and _is_unknown(value)))
    )


def require_addresses(values: tuple[Any, ...]) -> tuple[str, ...]:
    """The same values, after checking that this release can dial each address."""
    if not all(isinstance(value, str) and is_address(value) for value in values):
        raise BadCard(
            "an address of the card is not of the form /ip4/HOST/tcp/PORT (ip4, ip6, dns4, dns6)"
        )
    return values


def _is_unknown(text: str) -> bool:
    """Whether the text is a multiaddr of a kind that a later release may have.

    An address of a known kind with an invalid host or port is not.
    """
    parts = text.split("/")
    ours = len(parts) == 5 and parts[1] in _ADDRESS_KINDS and parts[3] == "tcp"
    return len(parts) > 1 and parts[0] == "" and not ours


def read_timed_keys(fields: dict[str, Any], name: str) -> tuple[TimedKey, ...]:
    """Node or witness keys, oldest first; only the last key has no end."""
    return tuple(
        TimedKey(*_read_entry(entry, name, "since", "until", last=last))
        for entry, last in _read_entries(fields, name)
    )


def read_sized_keys(fields: dict[str, Any]) -> tuple[SizedKey, ...]:
    """Log keys, oldest first; only the last key has no end."""
    return tuple(
        SizedKey(*_read_entry(entry, "log_keys", "since_size", "until_size", last=last))
        for entry, last in _read_entries(fields, "log_keys")
    )


def _read_entries(fields: dict[str, Any], name: str) -> list[tuple[Any, bool]]:
    values = _read_list(fields, name)
    if not values:
        raise BadCard(f"the card has no {name}")
    return [(value, at == len(values) - 1) for at, value in enumerate(values)]


def _read_entry(
    entry: Any, name: str, since_name: str, until_name: str, *, last: bool
) -> tuple[bytes, int, int | None, bytes | None]:
    if not isinstance(entry, dict):
        raise BadCard(f"an entry of {name} in the card is not an object")
    if (until_name not in entry) != last:
        raise BadCard(f"of {name} in the card, not only the last counts without end")
    key = read_key(entry, "key")
    since = read_integer(entry, since_name, least=0)
    until = None if last else read_integer(entry, until_name, least=since)
    return key, since, until, _read_proof(entry)


def _read_proof(entry: dict[str, Any]) -> bytes | None:
    """The proof; only its form is checked, until the facility key is known."""
    if "proof" not in entry:
        return None
    value = entry["proof"]
    if not isinstance(value, str) or not _HEX_PROOF.fullmatch(value):
        raise BadCard("a proof of the card is not a signature in hex")
    return bytes.fromhex(value)


def _proof_field(proof: bytes | None) -> dict[str, Any]:
    return {} if proof is None else {"proof": proof.hex()}


def _read_list(fields: dict[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise BadCard(f"the field {name} of the card is not a list")
    return value
