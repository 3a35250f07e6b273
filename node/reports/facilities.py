"""Names and addresses of the facilities that the log names by their keys."""

import functools
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from keys.card import Card
from keys.fingerprint import fingerprint
from keys.identity import peer_id
from keys.trust import Peer

MACHINE_NAME, IP_ADDRESS = "1", "2"
"""Kinds of a network access point (PS3.15 section A.5.1.1, FHIR network-type)."""


@dataclass(frozen=True)
class Facility:
    """One facility.

    Attributes:
        name: its own name, or our petname for it; its fingerprint when it is unknown.
        fingerprint: fingerprint of its facility key.
        node: PeerID of its node, or "".
        addresses: multiaddrs on its card.
        postal_address: postal address as noted by a person here, or "".
    """

    name: str
    fingerprint: str
    node: str = ""
    addresses: tuple[str, ...] = ()
    postal_address: str = ""

    @functools.cached_property
    def access_point(self) -> tuple[str, str]:
        """Network address of its node, and the kind of that address.

        Without an address on its card, the PeerID serves as the machine's name.
        """
        for address in self.addresses:
            parts = address.split("/")
            if len(parts) > 2:
                return parts[2], IP_ADDRESS if _is_ip(parts[2]) else MACHINE_NAME
        return self.node or self.fingerprint, MACHINE_NAME


class Facilities:
    """Our own facility, and those that are or were trusted.

    Args:
        own: our card.
        peers: all peers in the trust store, including revoked ones.
    """

    def __init__(self, own: Card, peers: Iterable[Peer]) -> None:
        self.own = _of_card(own, own.name)
        self._known = {own.facility_key.hex(): self.own}
        self._known.update(
            (
                peer.facility_key.hex(),
                replace(_of_card(peer.card, peer.petname), postal_address=peer.postal_address),
            )
            for peer in peers
        )

    def of(self, facility_key: str) -> Facility:
        """The facility with this key (64 hex digits)."""
        known = self._known.get(facility_key)
        if known is None:
            shown = fingerprint(bytes.fromhex(facility_key))
            known = Facility(name=shown, fingerprint=shown)
        return known


def _of_card(card: Card, name: str) -> Facility:
    return Facility(name, card.fingerprint, peer_id(card.node_key), card.addresses)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
