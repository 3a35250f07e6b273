"""A key that several cards name: it is the prover's or nobody's, and no card locks another out."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.card import Card, sign_card
from keys.card_fields import SizedKey, TimedKey
from keys.identity import KeyPair
from keys.peer import Peer
from keys.trust import TrustStore

OWN = KeyPair.from_seed(b"o" * 32)
NOW = 1_790_000_000
YEAR = 365 * 86400


def pair(name: str) -> KeyPair:
    return KeyPair.from_seed(name.encode().ljust(32, b"."))


def facility(name: str) -> bytes:
    return pair(f"{name} facility").public


def own_keys(name: str) -> list[KeyPair]:
    return [pair(f"{name} {role}") for role in ("node", "log", "witness")]


def card_of(
    name: str,
    *,
    node: tuple[TimedKey, ...] = (),
    log: tuple[SizedKey, ...] = (),
    witness: tuple[TimedKey, ...] = (),
    serial: int = 1,
    expires: int = NOW + YEAR,
    proving: list[KeyPair] | None = None,
) -> Card:
    """A card with these keys beside the own ones, which come last, and so without end."""
    mine = own_keys(name)
    return sign_card(
        pair(f"{name} facility"),
        name=name,
        node_keys=(*node, TimedKey(mine[0].public, NOW - 100)),
        log_keys=(*log, SizedKey(mine[1].public, 0)),
        witness_keys=(*witness, TimedKey(mine[2].public, NOW - 100)),
        addresses=(),
        serial=serial,
        issued=NOW - 100,
        expires=expires,
        proving=mine if proving is None else proving,
    )


def listing(key: KeyPair, until: int = NOW + 1000) -> TimedKey:
    return TimedKey(key.public, NOW - 50, until)


def store_of(*cards: Card) -> TrustStore:
    store = TrustStore([], OWN.public)
    for card in cards:
        store.add(card, grants=["see", "witness"], now=NOW)
    return store


def holder(store: TrustStore, key: KeyPair, now: int = NOW) -> str | None:
    found = store.by_node_key(key.public, now)
    return None if found is None else found.petname


ALPHA_NODE, ALPHA_LOG, ALPHA_WITNESS = own_keys("Alpha")
CLAIMING = card_of("Xavier", node=(listing(ALPHA_NODE),))
UNPROVEN_ALPHA = card_of("Alpha", proving=[])


def test_who_proves_a_key_has_it_whoever_came_first() -> None:
    for cards in ([card_of("Alpha"), CLAIMING], [CLAIMING, card_of("Alpha")]):
        store = store_of(*cards)
        assert holder(store, ALPHA_NODE) == "Alpha"
        assert holder(store, own_keys("Xavier")[0]) == "Xavier"


def test_a_new_key_that_another_lists_first_is_had_back_by_its_card() -> None:
    """Alpha rotates, and Xavier has read the card before we have."""
    new = pair("Alpha's new node key")
    store = store_of(card_of("Alpha"), card_of("Xavier"))
    store.update_card(card_of("Xavier", node=(listing(new),), serial=2), NOW)
    store.update_card(
        card_of("Alpha", node=(listing(new),), serial=2, proving=[*own_keys("Alpha"), new]), NOW
    )
    assert holder(store, new) == "Alpha"
    [contested] = store.contested(NOW)
    assert (contested.key, contested.role) == (new.public, "node")
    assert contested.facilities == (facility("Xavier"), facility("Alpha"))
    assert (contested.holder, contested.is_proven) == (facility("Alpha"), True)


@pytest.mark.parametrize("first", ["Alpha", "Xavier"])
def test_a_key_that_both_prove_is_nobodys(first: str) -> None:
    thief = card_of(
        "Xavier", node=(listing(ALPHA_NODE),), proving=[*own_keys("Xavier"), ALPHA_NODE]
    )
    cards = [card_of("Alpha"), thief]
    store = store_of(*(cards if first == "Alpha" else reversed(cards)))
    assert holder(store, ALPHA_NODE) is None
    [contested] = store.contested(NOW)
    assert set(contested.facilities) == {facility("Alpha"), facility("Xavier")}
    assert (contested.holder, contested.is_proven) == (None, True)
    # An admin settles it: who is left has the key.
    store.revoke(facility("Xavier"), NOW)
    assert holder(store, ALPHA_NODE) == "Alpha"
    assert store.contested(NOW) == ()


def test_of_two_without_proof_the_first_has_it_until_the_other_shows_the_key() -> None:
    store = store_of(CLAIMING, UNPROVEN_ALPHA)
    assert holder(store, ALPHA_NODE) == "Xavier"
    assert holder(store_of(UNPROVEN_ALPHA, CLAIMING), ALPHA_NODE) == "Alpha"
    [contested] = store.contested(NOW)
    assert (contested.holder, contested.is_proven) == (facility("Xavier"), False)
    store.update_card(UNPROVEN_ALPHA, NOW, shown_by=ALPHA_NODE.public)
    assert holder(store, ALPHA_NODE) == "Alpha"
    # Kept, and carried over to newer cards on both sides.
    store = TrustStore([Peer.from_json(peer.to_json()) for peer in store.peers], OWN.public)
    store.update_card(card_of("Xavier", node=(listing(ALPHA_NODE),), serial=2), NOW)
    store.update_card(card_of("Alpha", serial=2, proving=[]), NOW)
    assert holder(store, ALPHA_NODE) == "Alpha"
    store.update_card(card_of("Alpha", serial=3), NOW)
    assert holder(store, ALPHA_NODE) == "Alpha"


def test_a_handshake_shows_a_node_key_that_has_no_proof_and_nothing_else() -> None:
    """A log key is not shown by it, and of a proven key there is nothing to note."""
    store = store_of(CLAIMING, UNPROVEN_ALPHA)
    before = store.find("Alpha")
    assert store.update_card(UNPROVEN_ALPHA, NOW, shown_by=ALPHA_LOG.public) == before
    assert store.update_card(UNPROVEN_ALPHA, NOW, shown_by=pair("stranger").public) == before
    proven = store_of(card_of("Alpha"))
    shown = proven.update_card(card_of("Alpha"), NOW, shown_by=ALPHA_NODE.public)
    assert shown.claimed == {}


def test_the_order_of_pairing_is_not_that_of_claims() -> None:
    """Xavier was paired first and names Alpha's key later."""
    store = store_of(card_of("Xavier"), UNPROVEN_ALPHA)
    store.update_card(card_of("Xavier", node=(listing(ALPHA_NODE),), serial=2), NOW)
    assert holder(store, ALPHA_NODE) == "Alpha"
    # Paired anew, it comes last again; so does one that was revoked meanwhile.
    store.revoke(facility("Alpha"), NOW)
    assert holder(store, ALPHA_NODE) == "Xavier"
    store.add(UNPROVEN_ALPHA, now=NOW)
    assert holder(store, ALPHA_NODE) == "Xavier"


def test_records_of_the_first_release_have_claims_that_came_first() -> None:
    old = Peer(facility("Alpha"), "Alpha", UNPROVEN_ALPHA)
    text = old.to_json().replace('"claimed": {}, ', "")
    assert "claimed" not in text
    store = TrustStore([Peer.from_json(text)], OWN.public)
    store.add(CLAIMING, now=NOW)
    store.update_card(card_of("Alpha", serial=2, proving=[]), NOW)
    assert holder(store, ALPHA_NODE) == "Alpha"


@pytest.mark.parametrize("proving", [True, False])
def test_an_ended_claim_locks_nobody_out(proving: bool) -> None:
    """Even of one who held the key once and proves it."""
    keys = [*own_keys("Xavier"), ALPHA_NODE] if proving else own_keys("Xavier")
    ended = card_of("Xavier", node=(listing(ALPHA_NODE, NOW),), proving=keys)
    for cards in ([card_of("Alpha"), ended], [ended, card_of("Alpha")]):
        assert holder(store_of(*cards), ALPHA_NODE) == "Alpha"
        assert store_of(*cards).contested(NOW) == ()
    running_out = card_of("Xavier", node=(listing(ALPHA_NODE, NOW + 1),), proving=keys)
    store = store_of(running_out, card_of("Alpha"))
    assert holder(store, ALPHA_NODE) == (None if proving else "Alpha")
    assert holder(store, ALPHA_NODE, NOW + 1) == "Alpha"
    # Nor one on a card, or of a trust, that has ended.
    late = card_of("Xavier", node=(listing(ALPHA_NODE),), expires=NOW + 1, proving=keys)
    assert holder(store_of(late, UNPROVEN_ALPHA), ALPHA_NODE, NOW + 1) == (
        None if proving else "Alpha"
    )


def test_what_was_proven_once_is_not_given_to_who_does_not_prove_it() -> None:
    """Not even when the prover's claim, its card or its trust has ended."""
    new = pair("Alpha's new node key")
    ended = sign_card(
        pair("Alpha facility"), name="Alpha",
        node_keys=(
            TimedKey(ALPHA_NODE.public, NOW - 100, NOW - 10), TimedKey(new.public, NOW - 10)
        ),
        log_keys=card_of("Alpha").log_keys, witness_keys=card_of("Alpha").witness_keys,
        addresses=(), serial=2, issued=NOW - 10, expires=NOW + YEAR,
        proving=[ALPHA_NODE, new],
    )  # fmt: skip
    store = store_of(CLAIMING, ended)
    assert holder(store, ALPHA_NODE) is None
    store.revoke(facility("Alpha"), NOW)
    assert holder(store, ALPHA_NODE) is None
    [contested] = store.contested(NOW)
    assert (contested.key, contested.holder) == (ALPHA_NODE.public, facility("Alpha"))


def test_witness_and_log_keys_are_the_provers_too() -> None:
    claiming = card_of(
        "Xavier", log=(SizedKey(ALPHA_LOG.public, 0, 5),), witness=(listing(ALPHA_WITNESS),)
    )
    store = store_of(claiming, card_of("Alpha"))
    xavier, alpha = store.peers
    assert [key.key for key in store.held(xavier, xavier.card.witness_keys, NOW)] == [
        own_keys("Xavier")[2].public
    ]
    assert store.held(alpha, alpha.card.witness_keys, NOW) == alpha.card.witness_keys
    assert [key.key for key in store.held(xavier, xavier.card.log_keys, NOW)] == [
        own_keys("Xavier")[1].public
    ]
    assert store.held(alpha, alpha.card.log_keys, NOW) == alpha.card.log_keys
    assert [one.role for one in store.contested(NOW)] == ["witness"]


def test_a_key_is_one_key_in_every_role() -> None:
    as_witness = card_of("Xavier", witness=(listing(ALPHA_NODE),))
    store = store_of(as_witness, card_of("Alpha"))
    assert holder(store, ALPHA_NODE) == "Alpha"
    assert store.held(store.peers[0], as_witness.witness_keys[:1], NOW) == ()


def test_a_facility_key_is_proven_by_its_card() -> None:
    claiming = card_of("Xavier", node=(listing(pair("Alpha facility")),))
    store = store_of(claiming, UNPROVEN_ALPHA)
    assert store.by_node_key(facility("Alpha"), NOW) is None
    assert [one.facilities for one in store.contested(NOW)] == [
        (facility("Xavier"), facility("Alpha"))
    ]


def test_a_key_that_nobody_else_names_is_held() -> None:
    store = store_of(UNPROVEN_ALPHA)
    [alpha] = store.peers
    assert holder(store, ALPHA_NODE) == "Alpha"
    assert store.speaks_for(ALPHA_NODE.public, alpha, NOW)
    assert not store.speaks_for(ALPHA_LOG.public, alpha, NOW)
    assert store.contested(NOW) == ()


# --- the property ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """How a card lists the key that is argued about."""

    who: str
    role: str
    is_proven: bool
    until: int | None
    expires: int


KEY = pair("the key")
ROLES = ("node", "log", "witness")


def saying(said: Said, serial: int) -> Card:
    name = said.who
    extra: dict[str, Any] = {}
    if said.role == "log":
        extra["log"] = (SizedKey(KEY.public, 0, 7),)
    elif said.role != "":
        extra[said.role] = (TimedKey(KEY.public, NOW - 50, said.until),)
    keys = [*own_keys(name), KEY] if said.is_proven else own_keys(name)
    return card_of(name, serial=serial, expires=said.expires, proving=keys, **extra)


def sayings(honest: bool) -> st.SearchStrategy[Said]:
    """Cards of two facilities. Alpha made the key; with `honest`, Xavier has never held it."""
    untils = st.sampled_from([NOW - 1, NOW, NOW + 1, NOW + 1000])
    alpha = st.builds(
        Said,
        who=st.just("Alpha"),
        role=st.just("node"),
        is_proven=st.just(True) if honest else st.booleans(),
        until=st.just(NOW + 2000) if honest else untils,
        expires=st.just(NOW + YEAR),
    )
    xavier = st.builds(
        Said,
        who=st.just("Xavier"),
        role=st.sampled_from(["", *ROLES]),
        is_proven=st.just(False) if honest else st.booleans(),
        until=untils,
        expires=st.sampled_from([NOW + 1, NOW + YEAR]),
    )
    return st.one_of(alpha, xavier)


def after(said: list[Said], shown: set[int]) -> TrustStore:
    store = TrustStore([], OWN.public)
    for serial, one in enumerate(said, 1):
        card = saying(one, serial)
        known = {peer.facility_key for peer in store.peers}
        if card.facility_key in known and serial % 2:
            by = KEY.public if serial in shown and one.who == "Alpha" else None
            store.update_card(card, NOW, shown_by=by)
        else:
            store.add(card, now=NOW)
    return TrustStore([Peer.from_json(peer.to_json()) for peer in store.peers], OWN.public)


@given(st.lists(sayings(honest=False), min_size=1, max_size=6), st.sets(st.integers(1, 6)))
def test_a_proven_key_is_the_provers_or_nobodys(said: list[Said], shown: set[int]) -> None:
    store = after(said, shown)
    newest = {one.who: one for one in said}
    provers = {one.who for one in newest.values() if one.is_proven and one.role}
    for now in (NOW, NOW + 1, NOW + 1000):
        found = holder(store, KEY, now)
        assert found is None or not provers or found in provers
        for peer in store.peers:
            for _, listed in peer.card.listed:
                if listed.key == KEY.public and store.held(peer, [listed], now):
                    assert not provers or peer.petname in provers
        contested = store.contested(now)
        assert all(
            one.holder is None
            or store.held(store.find(_name(one.holder)), [_listed(store, one)], now)
            for one in contested
        )


def _name(facility_key: bytes) -> str:
    return {facility("Alpha"): "Alpha", facility("Xavier"): "Xavier"}[facility_key]


def _listed(store: TrustStore, contested: Any) -> Any:
    card = store.find(_name(contested.holder)).card
    return next(key for _, key in card.listed if key.key == contested.key)


@given(
    st.lists(sayings(honest=True), min_size=1, max_size=6).filter(
        lambda said: any(one.who == "Alpha" for one in said)
    )
)
def test_a_facility_whose_keys_are_in_no_other_hand_is_never_locked_out(said: list[Said]) -> None:
    store = after(said, set())
    for now in (NOW, NOW + 1, NOW + 1000):
        assert holder(store, KEY, now) == "Alpha"
        assert holder(store, ALPHA_NODE, now) == "Alpha"
