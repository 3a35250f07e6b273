"""The questions of a handshake about cards; `node/sharing/introductions.py` answers them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Introductions:
    """Decides about the cards in handshakes.

    Attributes:
        own_card: gives the card to present, or nothing; its argument says whether the card goes to
            a peer that has proved who it is.
        vouches: whether a card makes a node key (32 bytes) one of a trusted facility; if an
            expected node key is given, of the facility with that key.
        take: keeps such a card, with the node key that was proved; blocks.
        contests: whether a card gives a node key to another facility than the one to which we know
            it to belong, without proof.
        alarm: logs that a card contests a node key; blocks.
    """

    own_card: Callable[[bool], bytes]
    vouches: Callable[[bytes, bytes, bytes | None], bool]
    take: Callable[[bytes, bytes], None]
    contests: Callable[[bytes, bytes], bool] = lambda *_: False
    alarm: Callable[[bytes, bytes], None] = lambda *_: None


NOBODY = Introductions(lambda _: b"", lambda *_: False, lambda *_: None)
