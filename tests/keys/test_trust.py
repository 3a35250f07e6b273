"""The trust store: default nothing, and no change that opens more than it says."""

import json

import pytest

from keys.card import issue_card, sign_card
from keys.card_fields import TimedKey
from keys.errors import BadCard, CardExpired, CardSuperseded, TrustError
from keys.grants import Facts, Yes, explain
from keys.identity import KeyPair
from keys.trust import GRANTS, Peer, TrustStore

OWN = KeyPair.from_seed(b"o" * 32)
NOW = 1_790_000_000
YEAR = 365 * 86400


def pair(letter):
    return KeyPair.from_seed(letter.encode() * 32)


def card_of(letter, *, name="", serial=1, node=None, issued=NOW, expires=NOW + YEAR):
    """The card of the facility `letter`; its keys are made of the letter too."""
    return issue_card(
        pair(letter),
        name=name or f"Hospital {letter}",
        node_key=node or pair(letter).sign_raw(b"node")[:32],
        log_key=pair(letter).sign_raw(b"log")[:32],
        witness_key=pair(letter).sign_raw(b"witness")[:32],
        addresses=("/dns4/a.example/tcp/4101",),
        serial=serial,
        issued=issued,
        expires=expires,
    )


def store_with(*letters, grants=()):
    store = TrustStore([], OWN.public)
    for letter in letters:
        store.add(card_of(letter), grants=grants, now=NOW)
    return store


def key(letter):
    return pair(letter).public


def why(store, peer, action, now=NOW):
    """Why a peer may never do something; None when it may for some study and purpose."""
    no = store.why_never(action, peer.facility_key, now)
    return None if no is None else no.sentence


def test_new_peer_has_nothing():
    store = TrustStore([], OWN.public)
    peer = store.add(card_of("A"), now=NOW)
    assert store.peers == (peer,)
    assert (peer.petname, peer.grants, peer.purposes, peer.filters) == (
        "Hospital A",
        frozenset(),
        frozenset(),
        {},
    )
    assert (peer.added, peer.expires, peer.revoked) == (NOW, None, None)
    assert peer.fingerprint == card_of("A").fingerprint
    for grant in GRANTS:
        assert why(store, peer, grant) == f"Hospital A has no grant and no rule to {grant}"


def test_own_card_is_never_a_peer():
    own = issue_card(
        OWN,
        name="Us",
        node_key=b"1" * 32,
        log_key=b"2" * 32,
        witness_key=b"3" * 32,
        addresses=(),
        serial=1,
        issued=NOW,
        expires=NOW + 1,
    )
    with pytest.raises(TrustError, match="own card"):
        TrustStore([], OWN.public).add(own, now=NOW)


def test_cards_that_do_not_count_are_not_added():
    store = TrustStore([], OWN.public)
    with pytest.raises(CardExpired):
        store.add(card_of("A"), now=NOW + YEAR)
    with pytest.raises(BadCard):
        store.add(card_of("A"), now=NOW - 2 * 86400)
    assert store.peers == ()


def test_adding_again_keeps_grants_and_takes_the_newer_card():
    store = store_with("A", grants=["see"])
    newer = card_of("A", serial=5, name="Hospital A, renamed")
    peer = store.add(newer, grants=["fetch"], now=NOW + 9)
    assert peer.card == newer
    assert peer.grants == {"see", "fetch"}
    assert (peer.petname, peer.added) == ("Hospital A", NOW)
    with pytest.raises(CardSuperseded):
        store.add(card_of("A", serial=4), now=NOW)
    assert store.add(newer, petname="Downtown", now=NOW).petname == "Downtown"
    assert len(store.peers) == 1


def test_adding_a_revoked_peer_pairs_afresh():
    store = store_with("A", grants=["see", "fetch"])
    store.revoke(key("A"), NOW + 1)
    with pytest.raises(CardSuperseded):
        store.add(card_of("A", serial=1, name="older"), now=NOW + 2)
    peer = store.add(card_of("A"), grants=["send"], now=NOW + 2)
    assert (peer.grants, peer.revoked, peer.added) == ({"send"}, None, NOW + 2)


@pytest.mark.parametrize(
    "taken",
    [
        "Hospital A",
        "hospital a",
        "HOSPITAL  A",
        "\N{FULLWIDTH LATIN CAPITAL LETTER H}ospital A",
        "H\N{CYRILLIC SMALL LETTER O}spital A",
        "Hosp\N{LATIN SMALL LETTER DOTLESS I}tal A",
    ],
)
def test_petnames_are_unique(taken):
    store = store_with("A", "B")
    before = store.peers
    with pytest.raises(TrustError, match="taken; choose another"):
        store.add(card_of("C"), petname=taken, now=NOW)
    with pytest.raises(TrustError, match="taken; choose another"):
        store.rename(key("B"), taken)
    assert store.peers == before


def test_petname_of_a_card_may_clash_too():
    store = store_with("A")
    with pytest.raises(TrustError, match="is taken"):
        store.add(card_of("B", name="Hospital A"), now=NOW)
    assert (
        store.add(card_of("B", name="Hospital A"), petname="The other", now=NOW).petname
        == "The other"
    )


@pytest.mark.parametrize("petname", ["two\nlines", "x" * 129, " ", "\x1b[2J", "\u3164", "a\u00a0b"])
def test_unfit_petnames(petname):
    store = store_with("A")
    with pytest.raises(TrustError, match="printable"):
        store.rename(key("A"), petname)


def test_rename_keeps_the_rest():
    store = store_with("A", grants=["see"])
    peer = store.rename(key("A"), "hospital a")
    assert (peer.petname, peer.grants) == ("hospital a", {"see"})
    assert store.peers == (peer,)


def test_grant_and_ungrant():
    store = store_with("A")
    assert store.grant(key("A"), ["see", "fetch"]).grants == {"see", "fetch"}
    assert store.grant(key("A"), ["see"]).grants == {"see", "fetch"}
    assert store.ungrant(key("A"), ["see", "witness"]).grants == {"fetch"}
    peer = store.peers[0]
    assert why(store, peer, "see") == "Hospital A has no grant and no rule to see"
    assert store.grant(key("A"), ["see"]).grants == {"see", "fetch"}
    assert why(store, peer, "see") is None
    assert why(store, peer, "fetch") is None


def test_unknown_grants_change_nothing():
    store = store_with("A", grants=["see"])
    for change in (
        lambda: store.grant(key("A"), ["fetch", "everything"]),
        lambda: store.ungrant(key("A"), ["see", "everything"]),
        lambda: store.add(card_of("B"), grants=["everything"], now=NOW),
    ):
        with pytest.raises(TrustError, match="no grant everything"):
            change()
    assert [peer.grants for peer in store.peers] == [{"see"}]


def test_revocation_takes_all_at_once():
    store = store_with("A", grants=GRANTS)
    before = store.peers[0]
    peer = store.revoke(key("A"), NOW + 5)
    assert (peer.revoked, peer.grants) == (NOW + 5, frozenset())
    # The snapshot from before the revocation opens nothing either.
    for grant in GRANTS:
        assert why(store, before, grant, NOW + 5) == "trust in Hospital A was revoked"
    assert store.by_node_key(peer.card.node_key, NOW + 5) is None
    for change in (
        lambda: store.grant(key("A"), ["see"]),
        lambda: store.ungrant(key("A"), ["see"]),
        lambda: store.revoke(key("A"), NOW + 6),
        lambda: store.rename(key("A"), "x"),
        lambda: store.update_card(card_of("A", serial=2), NOW),
    ):
        with pytest.raises(TrustError, match="pair again"):
            change()


def test_changes_need_a_known_facility():
    store = store_with("A")
    with pytest.raises(TrustError, match="not known"):
        store.grant(key("B"), ["see"])
    with pytest.raises(TrustError, match="not known"):
        store.update_card(card_of("B"), NOW)
    stranger = Peer(key("B"), "B", card_of("B"), grants=frozenset(GRANTS))
    assert why(store, stranger, "see") == "the facility is not trusted"


def test_update_card():
    store = store_with("A", grants=["see"])
    newer = card_of("A", serial=2, name="New name", node=b"k" * 32)
    peer = store.update_card(newer, NOW)
    assert (peer.card, peer.petname, peer.grants) == (newer, "Hospital A", {"see"})
    assert store.update_card(newer, NOW) == peer
    with pytest.raises(CardSuperseded):
        store.update_card(card_of("A"), NOW)
    with pytest.raises(CardExpired):
        store.update_card(card_of("A", serial=3), NOW + YEAR)
    assert store.by_node_key(b"k" * 32, NOW) == peer
    assert store.by_node_key(card_of("A").node_key, NOW) is None


def test_find():
    store = store_with("A", "B")
    first, second = store.peers
    assert store.find("hospital b") == second
    assert store.find("\N{FULLWIDTH LATIN CAPITAL LETTER H}ospital B") == second
    assert store.find(" Hospital  A ") == first
    assert store.find(first.fingerprint.lower().replace("-", " ")) == first
    with pytest.raises(TrustError, match="known are Hospital A, Hospital B"):
        store.find("Hospital")
    with pytest.raises(TrustError):
        store.find(card_of("C").fingerprint)
    with pytest.raises(TrustError, match="no peer is known"):
        TrustStore([], OWN.public).find("x")


def test_find_prefers_the_trusted_one():
    store = store_with("A")
    store.revoke(key("A"), NOW)
    assert store.find("Hospital A").facility_key == key("A")
    store.add(card_of("B"), petname="Hospital A", now=NOW)
    assert store.find("Hospital A").facility_key == key("B")
    store.revoke(key("B"), NOW)
    with pytest.raises(TrustError, match="several revoked"):
        store.find("Hospital A")


def test_petname_that_looks_like_a_fingerprint_finds_nobody():
    store = TrustStore([], OWN.public)
    store.add(card_of("A", name=card_of("B").fingerprint), now=NOW)
    with pytest.raises(TrustError):
        store.find(card_of("B").fingerprint)


def test_by_node_key():
    store = store_with("A", "B")
    first, second = store.peers
    assert store.by_node_key(second.card.node_key, NOW) == second
    assert store.by_node_key(second.card.log_key, NOW) is None
    assert store.by_node_key(b"x" * 32, NOW) is None
    assert store.by_node_key(first.card.node_key, NOW + YEAR) is None


def test_replaced_node_key_stops_to_speak():
    old = card_of("A")
    card = sign_card(
        pair("A"),
        name=old.name,
        node_keys=(TimedKey(old.node_key, NOW, NOW + 10), TimedKey(b"k" * 32, NOW + 10)),
        log_keys=old.log_keys,
        witness_keys=old.witness_keys,
        addresses=(),
        serial=2,
        issued=NOW,
        expires=NOW + YEAR,
    )
    store = store_with("A")
    peer = store.update_card(card, NOW)
    assert store.by_node_key(old.node_key, NOW + 9) == peer
    assert store.by_node_key(old.node_key, NOW + 10) is None
    assert store.by_node_key(b"k" * 32, NOW + 10) == peer


def test_trust_and_cards_end():
    peer = Peer(key("A"), "A", card_of("A"), grants=frozenset(["see"]), expires=NOW + 10)
    store = TrustStore([peer], OWN.public)
    assert why(store, peer, "see", NOW + 9) is None
    assert why(store, peer, "see", NOW + 10) == "trust in A has ended"
    assert store.by_node_key(peer.card.node_key, NOW + 10) is None
    lasting = TrustStore([Peer(key("A"), "A", card_of("A"), grants=frozenset(["see"]))], OWN.public)
    assert why(lasting, peer, "see", NOW + YEAR) == "the card of A has expired"


def test_what_is_decided_is_decided_of_the_peer_as_it_is_stored_now():
    store = store_with("A", grants=["see", "witness"])
    study = Facts(study_uid="1.2", state="shared")
    assert store.may("see", key("A"), NOW, facts=study) == Yes("the grant see")
    assert store.may("witness", key("A"), NOW) == Yes("the grant witness")
    store.ungrant(key("A"), ["see"])
    assert explain(store.may("see", key("A"), NOW, facts=study)) == (
        "Hospital A has no grant and no rule to see"
    )
    assert TrustStore(store.peers, OWN.public).may("witness", key("A"), NOW) == (
        Yes("the grant witness")
    )
    assert not store.tells_apart("see", key("A"))
    assert not store.tells_apart("see", key("B"))


def test_peer_as_json():
    peer = Peer(
        key("A"),
        "Hôpital A",
        card_of("A", name="Hôpital A"),
        grants=frozenset(["see", "fetch"]),
        filters={"modality": ["CT"]},
        purposes=frozenset(["treatment"]),
        expires=NOW + 5,
        added=NOW,
        revoked=NOW + 1,
    )
    assert Peer.from_json(peer.to_json()) == peer
    store = store_with("A", "B", grants=["see"])
    again = TrustStore([Peer.from_json(peer.to_json()) for peer in store.peers], OWN.public)
    assert again.peers == store.peers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"card":5}',
        '{"card":"radmesh-card-v1"}',
        store_with("A").peers[0].to_json().replace("4101", "4102"),
        store_with("A").peers[0].to_json().replace('"grants": []', '"grants": 5'),
        store_with("A").peers[0].to_json().replace('"petname"', '"name"'),
    ],
)
def test_damaged_peer_records(text):
    with pytest.raises(TrustError, match="damaged"):
        Peer.from_json(text)


# --- postal addresses --------------------------------------------------------------------


def test_a_postal_address_is_kept_and_outlives_trust():
    store = store_with("A")
    assert store.peers[0].postal_address == ""
    peer = store.set_postal_address(key("A"), "12 High Street, Ütown")
    assert Peer.from_json(peer.to_json()) == peer
    store.revoke(key("A"), NOW)
    assert store.set_postal_address(key("A"), "13 High Street").revoked == NOW
    assert store.add(card_of("A"), now=NOW).postal_address == "13 High Street"
    assert store.set_postal_address(key("A"), "").postal_address == ""


def test_a_record_without_a_postal_address_is_read():
    peer = store_with("A").peers[0]
    fields = json.loads(peer.to_json())
    del fields["postal_address"]
    assert Peer.from_json(json.dumps(fields)) == peer


@pytest.mark.parametrize("text", ["two\nlines", "\u202eturned", " blank", "x" * 301])
def test_what_is_no_line_of_a_letter_is_refused(text):
    with pytest.raises(TrustError):
        store_with("A").set_postal_address(key("A"), text)


def test_a_stranger_has_no_address():
    with pytest.raises(TrustError):
        store_with("A").set_postal_address(key("B"), "12 High Street")


def test_purposes_and_an_end_of_a_peer():
    store = store_with()
    peer = store.add(card_of("a"), purposes=["research"], expires=NOW + 10, now=NOW)
    assert (peer.purposes, peer.expires) == ({"research"}, NOW + 10)
    # Paired again without them, they stay; with others, those count.
    assert store.add(card_of("a"), grants=["see"], now=NOW).purposes == {"research"}
    peer = store.add(card_of("a"), purposes=["treatment"], expires=NOW + 20, now=NOW)
    assert (peer.purposes, peer.expires, peer.grants) == ({"treatment"}, NOW + 20, {"see"})
    # Once revoked, it begins anew.
    store.revoke(peer.facility_key, NOW)
    peer = store.add(card_of("a"), now=NOW)
    assert (peer.purposes, peer.expires, peer.grants) == (set(), None, set())


def test_trust_that_has_ended_is_not_given_again_without_a_new_end():
    """It would stay ended, and be said to be given."""
    store = store_with()
    peer = store.add(card_of("a"), grants=["see"], expires=NOW + 10, now=NOW)
    for at in (NOW + 10, NOW + 100):
        with pytest.raises(TrustError, match="has ended; give it a new end"):
            store.add(card_of("a"), grants=["fetch"], now=at)
    assert store.peers == (peer,)
    assert store.add(card_of("a"), expires=NOW + 200, now=NOW + 100).is_trusted(NOW + 100)
    store.revoke(peer.facility_key, NOW + 300)
    assert store.add(card_of("a"), now=NOW + 300).is_trusted(NOW + 300)


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"purposes": ["curiosity"]}, "there is no purpose curiosity"),
        ({"expires": NOW}, "the end of trust is in the past"),
    ],
)
def test_terms_that_cannot_be(terms, why):
    store = store_with()
    with pytest.raises(TrustError, match=why):
        store.add(card_of("a"), now=NOW, **terms)
    assert store.peers == ()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Hospital a", True),
        ("HOSPITAL  A", True),
        ("H\N{CYRILLIC SMALL LETTER O}spital a", True),
        ("Ours", True),
        ("Hospital x", False),
    ],
)
def test_who_has_the_name_of_a_trusted_peer_and_another_key(name, found):
    store = store_with()
    peer = store.add(card_of("a"), petname="Ours", now=NOW)
    stranger = card_of("x", name=name)
    assert store.namesake(stranger) == (peer if found else None)
    assert store.namesake(card_of("a", name=name, serial=2)) is None
    store.revoke(peer.facility_key, NOW)
    assert store.namesake(stranger) is None
