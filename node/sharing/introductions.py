"""Which facility card makes an unknown node key that of a trusted facility.

Decides for the handshake (`node/network/introduction.py`); knows nothing of connections.
"""

import logging
from collections.abc import Callable

from keys.card import Card, facility_of_untrusted, parse_card_untrusted
from keys.errors import KeysError
from keys.trust import TrustStore
from node.clock import Clock
from node.errors import NodeError
from node.network.vouching import Introductions
from node.sharing.peers import Peers

log = logging.getLogger("radmesh.vouching")

PRESENTED_SECONDS = 90 * 24 * 3600
"""How long after a change of the node key every caller gets our card. A peer that was away for
longer gets it when we call it, or by hand."""


def introductions(
    peers: Peers, own_facility: bytes, own_card: Callable[[], Card], *, clock: Clock
) -> Introductions:
    """The introductions of a node.

    Args:
        peers: the peers that the node trusts.
        own_facility: its facility key, 32 bytes.
        own_card: gives its newest card.
        clock: tells whether a card counts now.
    """

    def present(is_known: bool) -> bytes:
        card = own_card()
        if len(card.node_keys) == 1:
            return b""
        # A caller gets our part of the handshake before it says who it is: strangers see the card
        # too, so present it only as long as peers may need it.
        recent = clock.now() < card.node_keys[-1].since + PRESENTED_SECONDS
        return card.encoded if is_known or recent else b""

    def vouches(card_untrusted: bytes, node_key: bytes, expected: bytes | None) -> bool:
        now, store = clock.now(), peers.store
        # First find out which peer it concerns: checking a card is work, and anybody can send one.
        facility = facility_of_untrusted(card_untrusted)
        peer = next((one for one in store.peers if one.facility_key == facility), None)
        if peer is None or store.speaks_for(node_key, peer, now):
            return False
        try:
            card = parse_card_untrusted(card_untrusted)
            # Try it on a copy: would the store accept the card, and whose is the key then?
            copy = TrustStore(store.peers, own_facility)
            peer = copy.update_card(card, now, shown_by=node_key)
        except KeysError:
            return False
        if expected is not None and all(listed.key != expected for listed in card.node_keys):
            return False
        return copy.speaks_for(node_key, peer, now)

    def take(card_bytes: bytes, node_key: bytes) -> None:
        try:
            facility_key = parse_card_untrusted(card_bytes).facility_key
            peers.take_newer_card(card_bytes, facility_key, clock.now(), shown_by=node_key)
        except (NodeError, KeysError) as error:
            log.warning("a card that came with a handshake is not taken: %s", error)

    def contests(card_untrusted: bytes, node_key: bytes) -> bool:
        known = peers.store.by_node_key(node_key, clock.now())
        if known is None or facility_of_untrusted(card_untrusted) == known.facility_key:
            return False
        try:
            parse_card_untrusted(card_untrusted)
        except KeysError:
            return False
        return not vouches(card_untrusted, node_key, None)

    def alarm(card_untrusted: bytes, node_key: bytes) -> None:
        now = clock.now()
        known = peers.store.by_node_key(node_key, now)
        stranger = facility_of_untrusted(card_untrusted)
        if known is None or stranger is None:
            return
        log.warning(
            "a node with a key of %s presents the card of another facility; see `radmesh status`",
            known.petname,
        )
        peers.contest_shown(node_key, known.facility_key, stranger, now)

    return Introductions(
        own_card=present, vouches=vouches, take=take, contests=contests, alarm=alarm
    )
