"""Which facility card makes an unknown node key that of a trusted facility.

Decides for the handshake (`node/network/introduction.py`); knows nothing of connections.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError
from keys.trust import TrustStore
from node.clock import Clock
from node.errors import NodeError
from node.sharing.peers import Peers

log = logging.getLogger("radmesh.vouching")

PRESENTED_SECONDS = 90 * 24 * 3600
"""How long after a change of the node key our card goes to whoever calls. A peer that
was away for longer gets it when we call it, or by hand."""


@dataclass(frozen=True)
class Introductions:
    """What a handshake may say of cards.

    Attributes:
        own_card: gives the card to present, or nothing; told whether it goes to a
            peer that has proved who it is.
        vouches: whether a card makes a node key (32 bytes) one of a trusted facility:
            of the one that the expected node key stands for, if that is given.
        take: keeps such a card; blocks.
        contests: whether a card gives a node key to another facility than the one that
            we know it of.
    """

    own_card: Callable[[bool], bytes]
    vouches: Callable[[bytes, bytes, bytes | None], bool]
    take: Callable[[bytes], None]
    contests: Callable[[bytes, bytes], bool] = lambda *_: False


NOBODY = Introductions(lambda _: b"", lambda *_: False, lambda _: None)


def introductions(
    peers: Peers, own_facility: bytes, own_card: Callable[[], Card], *, clock: Clock
) -> Introductions:
    """The introductions of a node.

    Args:
        peers: whom it trusts.
        own_facility: its facility key, 32 bytes.
        own_card: gives its card.
        clock: what decides whether a card counts.
    """

    def present(is_known: bool) -> bytes:
        card = own_card()
        if len(card.node_keys) == 1:
            return b""
        # A caller hears our part of the handshake before it says who it is: what stands
        # on the card is told to strangers no longer than peers may need it.
        recent = clock.now() < card.node_keys[-1].since + PRESENTED_SECONDS
        return card.encoded if is_known or recent else b""

    def vouches(card_untrusted: bytes, node_key: bytes, expected: bytes | None) -> bool:
        now, store = clock.now(), peers.store
        if not card_untrusted or store.by_node_key(node_key, now) is not None:
            return False
        try:
            card = parse_card_untrusted(card_untrusted)
            # On a copy: whether the store would take it.
            peer = TrustStore(store.peers, own_facility).update_card(card, now)
        except KeysError:
            return False
        if expected is not None and all(listed.key != expected for listed in card.node_keys):
            return False
        return peer.is_trusted(now) and card.is_current_node_key(node_key, now)

    def take(card_bytes: bytes) -> None:
        try:
            facility_key = parse_card_untrusted(card_bytes).facility_key
            peers.take_newer_card(card_bytes, facility_key, clock.now())
        except (NodeError, KeysError) as error:
            log.warning("a card that came with a handshake is not taken: %s", error)

    def contests(card_untrusted: bytes, node_key: bytes) -> bool:
        known = peers.store.by_node_key(node_key, clock.now())
        if known is None or card_untrusted == known.card.encoded:
            return False
        try:
            card = parse_card_untrusted(card_untrusted)
        except KeysError:
            return False
        if card.facility_key == known.facility_key:
            return False
        log.warning(
            "a node of %s calls with a key that stands on the card of %s: one of the two is "
            "not what it says",
            card.name,
            known.petname,
        )
        return True

    return Introductions(own_card=present, vouches=vouches, take=take, contests=contests)
