"""Which facility card makes an unknown node key that of a trusted facility.

Decides for the handshake (`node/network/introduction.py`); knows nothing of connections.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError
from keys.trust import TrustStore
from node.errors import NodeError
from node.home import now_ms
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
    """

    own_card: Callable[[bool], bytes]
    vouches: Callable[[bytes, bytes, bytes | None], bool]
    take: Callable[[bytes], None]


NOBODY = Introductions(lambda _: b"", lambda *_: False, lambda _: None)


def introductions(peers: Peers, own_facility: bytes, own_card: Callable[[], Card]) -> Introductions:
    """The introductions of a node.

    Args:
        peers: whom it trusts.
        own_facility: its facility key, 32 bytes.
        own_card: gives its card.
    """

    def present(is_known: bool) -> bytes:
        card = own_card()
        if len(card.node_keys) == 1:
            return b""
        # A caller hears our part of the handshake before it says who it is: what stands
        # on the card is told to strangers no longer than peers may need it.
        recent = _now() < card.node_keys[-1].since + PRESENTED_SECONDS
        return card.encoded if is_known or recent else b""

    def vouches(card_untrusted: bytes, node_key: bytes, expected: bytes | None) -> bool:
        now, store = _now(), peers.store
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
            peers.take_newer_card(card_bytes, facility_key, _now())
        except (NodeError, KeysError) as error:
            log.warning("a card that came with a handshake is not taken: %s", error)

    return Introductions(own_card=present, vouches=vouches, take=take)


def _now() -> int:
    return now_ms() // 1000
