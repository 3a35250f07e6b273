"""A facility and a study that decisions are about."""

from keys.card import Card, issue_card
from keys.grants import Facts
from keys.identity import KeyPair
from keys.peer import Peer

NOW = 1_790_000_000
LATER = NOW + 10_000
STUDY = "1.2.3"
UNREAD = {"colour": ("red",)}
"""A condition of a later release."""


def card_of(name: str, node_key: bytes = b"") -> Card:
    """The card of a facility; its node key may be that of another one."""
    keys = KeyPair.from_seed(name.encode().ljust(32))
    return issue_card(
        keys,
        name=name,
        node_key=node_key or keys.sign_raw(b"node")[:32],
        log_key=keys.sign_raw(b"log")[:32],
        witness_key=keys.sign_raw(b"witness")[:32],
        addresses=(),
        serial=1,
        issued=NOW - 60,
        expires=LATER,
    )


CARD = card_of("South")
SOUTH = Peer(CARD.facility_key, "South", CARD)
SHARED = Facts(study_uid=STUDY, state="shared", modalities=("CT",), study_date="20260101")
