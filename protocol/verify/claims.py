"""Which witness keys count if several facility cards list the same (docs/protocol.md section 8.1).

An auditor has cards and no clock. A key that several facilities list, in whatever role,
counts for a facility only if its card alone proves possession of the key; otherwise it
counts for nobody.
"""

from collections.abc import Iterable, Sequence

from keys.card import Card
from keys.card_fields import TimedKey


def held_witness_keys(card: Card, cards: Iterable[Card]) -> tuple[TimedKey, ...]:
    """The witness keys of a card that count for its facility.

    Args:
        card: the facility's card.
        cards: all cards that the auditor knows and trusts; may include this card.
    """
    others = [each for each in cards if each.facility_key != card.facility_key]
    return tuple(key for key in card.witness_keys if _is_held(key, others))


def _is_held(key: TimedKey, others: Sequence[Card]) -> bool:
    for other in others:
        if key.key == other.facility_key:
            return False
        for _, listed in other.listed:
            # Both proven: two facilities hold the key. Neither proven: its owner is unknown.
            if listed.key == key.key and (key.proof is None or listed.proof is not None):
                return False
    return True


def is_unproven_twin(card: Card, cards: Iterable[Card]) -> bool:
    """Whether a card has a witness key that another facility lists too and neither proves."""
    unproven = {key.key for key in card.witness_keys if key.proof is None}
    return any(
        listed.key in unproven and listed.proof is None
        for other in cards
        if other.facility_key != card.facility_key
        for _, listed in other.listed
    )
