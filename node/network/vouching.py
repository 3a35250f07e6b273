"""What a handshake asks about cards, answered by `node/sharing/introductions.py`."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Introductions:
    """What a handshake may say of cards.

    Attributes:
        own_card: gives the card to present, or nothing; told whether it goes to a
            peer that has proved who it is.
        vouches: whether a card makes a node key (32 bytes) one of a trusted facility:
            of the one that the expected node key stands for, if that is given.
        take: keeps such a card, with the node key that was proved; blocks.
        contests: whether a card gives a node key to another facility than the one that
            we know it of, and does not prove it.
        alarm: logs that a card does so; blocks.
    """

    own_card: Callable[[bool], bytes]
    vouches: Callable[[bytes, bytes, bytes | None], bool]
    take: Callable[[bytes, bytes], None]
    contests: Callable[[bytes, bytes], bool] = lambda *_: False
    alarm: Callable[[bytes, bytes], None] = lambda *_: None


NOBODY = Introductions(lambda _: b"", lambda *_: False, lambda *_: None)
