"""One trusted facility, as the trust store keeps it."""

import json
from dataclasses import dataclass, field
from typing import Any

from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError, TrustError

GRANTS = ("see", "fetch", "send", "witness")
"""see: may learn of our studies. fetch: may take them. send: may offer us studies.
witness: cosigns our log."""

PURPOSES = ("treatment", "second-opinion", "research", "operations")
"""What a study may be asked for."""

ADDRESS_CHARACTERS = 300
"""Most characters of a postal address, which stands on one line."""


def is_postal_address(text: str) -> bool:
    """Whether it can be a postal address: printable, on one line, or nothing."""
    return len(text) <= ADDRESS_CHARACTERS and text.isprintable() and text == text.strip()


SHOWN = -1
"""The place of a claim to a node key without proof, when a node that proved the key in a
handshake showed the card there."""


@dataclass(frozen=True)
class Peer:
    """A facility that was paired, and what it may do.

    Attributes:
        facility_key: the pinned key, 32 bytes.
        petname: our own name for it, unique without regard to case.
        card: the newest card known.
        grants: some of `GRANTS`.
        filters: what narrows the grants; empty narrows nothing, and what this release cannot
            read refuses all (`keys.grants`).
        purposes: the only purposes that it may name; empty allows all.
        expires: when trust ends, seconds since the epoch, UTC; None never.
        added: when it was paired, seconds since the epoch, UTC.
        revoked: when trust was withdrawn, seconds since the epoch, UTC; None not.
        claimed: keys on its card that it does not prove, to the place of the claim among
            all that came without proof (`keys.claims`); absent ones came first, and
            `SHOWN` comes before these.
        postal_address: where letters reach it, as a person gave it, for reports to
            patients; "" not known.
    """

    facility_key: bytes
    petname: str
    card: Card
    grants: frozenset[str] = frozenset()
    filters: dict[str, Any] = field(default_factory=dict)
    purposes: frozenset[str] = frozenset()
    expires: int | None = None
    added: int = 0
    revoked: int | None = None
    claimed: dict[bytes, int] = field(default_factory=dict)
    postal_address: str = ""

    @property
    def fingerprint(self) -> str:
        """Of the facility key, in full."""
        return self.card.fingerprint

    def is_trusted(self, now: int) -> bool:
        """Whether trust in it counts now (seconds since the epoch, UTC), whatever it may do.

        A card past its date does not end the trust, only what is built on the card.
        """
        return self.revoked is None and (self.expires is None or now < self.expires)

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(
            {
                "added": self.added,
                "card": self.card.encoded.decode(),
                "claimed": {key.hex(): place for key, place in self.claimed.items()},
                "expires": self.expires,
                "filters": self.filters,
                "grants": sorted(self.grants),
                "petname": self.petname,
                "postal_address": self.postal_address,
                "purposes": sorted(self.purposes),
                "revoked": self.revoked,
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> "Peer":
        """Read a peer that `to_json` wrote.

        Raises:
            TrustError: the text is damaged.
        """
        try:
            fields = json.loads(text)
            card = parse_card_untrusted(fields["card"].encode())
            return cls(
                facility_key=card.facility_key,
                petname=fields["petname"],
                card=card,
                grants=frozenset(fields["grants"]),
                filters=fields["filters"],
                purposes=frozenset(fields["purposes"]),
                expires=fields["expires"],
                added=fields["added"],
                revoked=fields["revoked"],
                # Records of the first releases have none.
                claimed={
                    bytes.fromhex(key): int(place)
                    for key, place in fields.get("claimed", {}).items()
                },
                # Not in what the first releases wrote.
                postal_address=str(fields.get("postal_address", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, KeysError) as error:
            raise TrustError("the record of a peer in the trust store is damaged") from error
