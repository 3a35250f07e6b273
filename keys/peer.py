"""One peer, as the trust store keeps it."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from keys.canonical import canonical_json
from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError, TrustError
from keys.purposes import WORDS
from keys.rules import Rule

GRANTS = ("see", "find", "fetch", "send", "witness")
"""see: may learn of our studies. find: may ask for the studies of a patient that it names.
fetch: may take studies. send: may offer us studies. witness: cosigns our log."""

PURPOSES = WORDS
"""Purposes for which a study may be requested, in words; `keys.purposes` has the codes as well."""

ADDRESS_CHARACTERS = 300
"""Most characters of a postal address, which is one line."""


def is_postal_address(text: str) -> bool:
    """Whether the text can be a postal address: printable, on one line, or empty."""
    return len(text) <= ADDRESS_CHARACTERS and text.isprintable() and text == text.strip()


SHOWN = -1
"""The place of an unproven claim to a node key, if a node that proved the key in a handshake
showed the card in that handshake."""


@dataclass(frozen=True)
class Peer:
    """A facility that was paired, and what it may do.

    Attributes:
        facility_key: the pinned key, 32 bytes.
        petname: our own name for it, unique without regard to case.
        card: the newest card known.
        grants: some of `GRANTS`.
        filters: filters that narrow the grants; empty narrows nothing, and a filter that this
            release cannot read refuses everything (`keys.grants`).
        purposes: the only purposes for which its grants count; empty for all.
        rules: its rules beside the grants, in the order in which they were made.
        rules_made: how many rules it ever had: the number of the newest.
        expires: when trust ends, seconds since the epoch, UTC; None never.
        added: when it was paired, seconds since the epoch, UTC.
        revoked: when trust was withdrawn, seconds since the epoch, UTC; None not.
        claimed: unproven key on its card to the place of that claim among all unproven
            claims (`keys.claims`); a key without a place comes before all others, and
            `SHOWN` comes before these.
        postal_address: its address for letters, entered by a person, for reports to
            patients; "" if not known.
    """

    facility_key: bytes
    petname: str
    card: Card
    grants: frozenset[str] = frozenset()
    filters: dict[str, Any] = field(default_factory=dict)
    purposes: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()
    rules_made: int = 0
    expires: int | None = None
    added: int = 0
    revoked: int | None = None
    claimed: dict[bytes, int] = field(default_factory=dict)
    postal_address: str = ""

    @property
    def fingerprint(self) -> str:
        """The full fingerprint of the facility key."""
        return self.card.fingerprint

    @property
    def rights_digest(self) -> str:
        """SHA-256 of all that decides what the peer may do, 64 hex digits.

        A disclosure and a refusal name it in the log; the entries of the peer's trust tell what was
        in it (docs/protocol-log.md section 2).
        """
        rights = {
            "card_until": self.card.expires,
            **({} if self.expires is None else {"expires": self.expires}),
            "filters": json.dumps(self.filters, sort_keys=True),
            "grants": sorted(self.grants),
            "purposes": sorted(self.purposes),
            "rules": [rule.to_fields() for rule in self.rules],
        }
        return hashlib.sha256(b"radmesh-rights-v1\0" + canonical_json(rights)).hexdigest()

    def has_ended(self, now: int) -> bool:
        """Whether the end that was given to trust has come (seconds since the epoch, UTC)."""
        return self.expires is not None and self.expires <= now

    def is_trusted(self, now: int) -> bool:
        """Whether the peer is trusted now (seconds since the epoch, UTC), whatever its grants.

        An expired card does not end the trust, only what depends on the card.
        """
        return self.revoked is None and not self.has_ended(now)

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
                "rules": [rule.to_fields() for rule in self.rules],
                "rules_made": self.rules_made,
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
                # Records of the first releases have no rules.
                rules=tuple(Rule.from_fields(one) for one in fields.get("rules", ())),
                rules_made=int(fields.get("rules_made", 0)),
                # Records of the first releases have no `claimed`.
                claimed={
                    bytes.fromhex(key): int(place)
                    for key, place in fields.get("claimed", {}).items()
                },
                # Records of the first releases have no postal address.
                postal_address=str(fields.get("postal_address", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, KeysError) as error:
            raise TrustError("the record of a peer in the trust store is damaged") from error
