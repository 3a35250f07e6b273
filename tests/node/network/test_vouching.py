"""Which card makes an unknown node key known, and handshakes that carry one."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from network_nodes import ALICE, BOB, CAROL, HANDLERS, LOOPBACK, MALLORY, Site, until

from keys.card import Card, sign_card
from keys.card_fields import SizedKey, TimedKey
from keys.fingerprint import fingerprint
from keys.identity import KeyPair
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.home import Home
from node.network.introduction import PRESENTED_BYTES
from node.network.network import Network, Unreachable
from node.network.vouching import Introductions
from node.sharing.introductions import PRESENTED_SECONDS, introductions

FACILITY = KeyPair.from_seed(b"f" * 32)
NEW = KeyPair.from_seed(b"n" * 32)
NOW = SYSTEM_CLOCK.now()


def _card(
    *node_keys: TimedKey,
    serial: int = 2,
    facility: KeyPair = FACILITY,
    proving: Iterable[KeyPair] = (),
) -> Card:
    return sign_card(
        facility,
        name="South Clinic",
        node_keys=node_keys,
        log_keys=(SizedKey(CAROL.public, 0),),
        witness_keys=(TimedKey(MALLORY.public, NOW),),
        addresses=(),
        serial=serial,
        issued=NOW,
        expires=NOW + 100_000,
        proving=proving,
    )


OLD_CARD = _card(TimedKey(BOB.public, NOW), serial=1)
NEW_CARD = _card(TimedKey(BOB.public, NOW, NOW + 50_000), TimedKey(NEW.public, NOW))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "home", name="North")) as opened:
        opened.peers.add(OLD_CARD.encoded, fingerprint(FACILITY.public), ["see"], "", NOW)
        yield opened


def _introductions(node: Node, card: Callable[[], Card] | None = None) -> Introductions:
    own = card or (lambda: node.card)
    return introductions(node.peers, node.card.facility_key, own, clock=SYSTEM_CLOCK)


def test_a_newer_card_vouches_for_the_key_that_it_adds(node: Node) -> None:
    said = _introductions(node)
    assert said.vouches(NEW_CARD.encoded, NEW.public, None)
    assert said.vouches(NEW_CARD.encoded, NEW.public, BOB.public)
    assert node.peers.store.by_node_key(NEW.public, NOW) is None
    said.take(NEW_CARD.encoded, NEW.public)
    peer = node.peers.store.by_node_key(NEW.public, NOW)
    assert peer is not None
    assert peer.grants == {"see"}
    # Known now: nothing is left to vouch for.
    assert not said.vouches(NEW_CARD.encoded, NEW.public, None)


ENDED_CARD = _card(TimedKey(NEW.public, NOW - 9, NOW - 1), TimedKey(ALICE.public, NOW))
STRANGER = KeyPair.from_seed(b"s" * 32)


@pytest.mark.parametrize(
    ("card", "key", "expected"),
    [
        (b"", NEW, None),
        (b"nonsense", NEW, None),
        (NEW_CARD.encoded.replace(b"South", b"North"), NEW, None),
        (NEW_CARD.encoded, MALLORY, None),
        (NEW_CARD.encoded, NEW, ALICE),
        (_card(TimedKey(NEW.public, NOW), serial=1).encoded, NEW, None),
        (_card(TimedKey(NEW.public, NOW), facility=STRANGER).encoded, NEW, None),
        (
            _card(TimedKey(NEW.public, NOW - 9, NOW - 1), TimedKey(ALICE.public, NOW)).encoded,
            NEW,
            None,
        ),
    ],
    ids=[
        "no card",
        "nonsense",
        "forged",
        "a key that is not on it",
        "another facility is expected",
        "not newer",
        "of a facility that is not trusted",
        "a key that has ended",
    ],
)
def test_what_does_not_vouch(
    node: Node, card: bytes, key: KeyPair, expected: KeyPair | None
) -> None:
    said = _introductions(node)
    assert not said.vouches(card, key.public, expected.public if expected else None)


def test_a_card_of_a_facility_whose_trust_was_revoked_does_not_vouch(node: Node) -> None:
    node.peers.revoke("South Clinic", [], NOW)
    said = _introductions(node)
    assert not said.vouches(NEW_CARD.encoded, NEW.public, None)
    said.take(NEW_CARD.encoded, NEW.public)
    assert node.peers.store.by_node_key(NEW.public, NOW) is None


def test_a_card_of_another_facility_contests_a_key_that_is_known(node: Node) -> None:
    said = _introductions(node)
    theirs = _card(TimedKey(BOB.public, NOW), facility=STRANGER)
    assert said.contests(theirs.encoded, BOB.public)
    for card in (OLD_CARD.encoded, NEW_CARD.encoded, b"nonsense"):
        assert not said.contests(card, BOB.public)
    assert not said.contests(theirs.encoded, NEW.public)


async def test_a_peer_cannot_have_anothers_new_key_count_as_its_own(tmp_path: Path) -> None:
    """South lists the key that East has just got, before we hear of it from East.

    Neither card proves anything, as those of the first releases: East has the key, and
    says in the handshake whose it is.
    """
    east = KeyPair.from_seed(b"e" * 32)
    with Node.open(Home.create(tmp_path / "home", name="North")) as north:
        old = _card(TimedKey(ALICE.public, NOW), serial=1, facility=east)
        north.peers.add(OLD_CARD.encoded, fingerprint(FACILITY.public), ["fetch"], "south", NOW)
        north.peers.add(old.encoded, fingerprint(east.public), [], "east", NOW)
        north.peers.take_newer_card(NEW_CARD.encoded, FACILITY.public, NOW)
        its_card = _card(
            TimedKey(ALICE.public, NOW, NOW + 50_000), TimedKey(NEW.public, NOW), facility=east
        )
        listens = Network(
            BOB,
            listen=[LOOPBACK],
            is_trusted=lambda key: north.peers.store.by_node_key(key, NOW) is not None,
            handlers=HANDLERS,
            introductions=_introductions(north),
        )
        caller = _Met(NEW, BOB, listen="", card=its_card.encoded)
        held = north.peers.store.by_node_key(NEW.public, NOW)
        assert held is not None
        assert held.petname == "south"
        async with listens.running(), caller.network.running():
            await caller.network.connect(BOB.public, listens.addresses)
            await until(lambda: listens.connected() == {NEW.public})
        held = north.peers.store.by_node_key(NEW.public, NOW)
        assert held is not None
        assert held.petname == "east"
        # South cannot have it back by another card.
        more = _card(TimedKey(BOB.public, NOW, NOW + 50_000), TimedKey(NEW.public, NOW), serial=3)
        north.peers.take_newer_card(more.encoded, FACILITY.public, NOW)
        assert north.peers.store.by_node_key(NEW.public, NOW) == held
        assert [one.holder for one in north.peers.contested(NOW)].count(held.facility_key)


@pytest.mark.parametrize("known", [True, False], ids=["a peer", "a stranger"])
async def test_a_key_that_shows_anothers_card_is_refused_and_told(
    tmp_path: Path, known: bool
) -> None:
    """The holder of a peer's proven key presents the card of another facility."""
    east = KeyPair.from_seed(b"e" * 32)
    with Node.open(Home.create(tmp_path / "home", name="North")) as north:
        south = _card(TimedKey(NEW.public, NOW), proving=[NEW, CAROL, MALLORY])
        north.peers.add(south.encoded, fingerprint(FACILITY.public), ["fetch"], "south", NOW)
        old = _card(TimedKey(ALICE.public, NOW), serial=1, facility=east)
        if known:
            north.peers.add(old.encoded, fingerprint(east.public), [], "east", NOW)
        size, told = north.audit.size, len(north.peers.contested(NOW))
        its_card = _card(
            TimedKey(ALICE.public, NOW, NOW + 50_000), TimedKey(NEW.public, NOW), facility=east
        )
        listens = Network(
            BOB,
            listen=[LOOPBACK],
            is_trusted=lambda key: north.peers.store.by_node_key(key, NOW) is not None,
            handlers=HANDLERS,
            introductions=_introductions(north),
        )
        caller = _Met(NEW, BOB, listen="", card=its_card.encoded)
        async with listens.running(), caller.network.running():
            for _ in range(2):
                with pytest.raises(Unreachable):
                    await caller.network.connect(BOB.public, listens.addresses)
                assert listens.connected() == set()
        entries = [json.loads(entry) for entry in north.audit.entries(size)]
        found = north.peers.contested(NOW)
        if known:
            # They share log and witness keys here, which was told when east was added.
            assert entries == []
            assert {frozenset(one.facilities) for one in found} == {
                frozenset((east.public, FACILITY.public))
            }
            return
        assert told == 0
        assert [entry["type"] for entry in entries] == ["key-contested"]
        assert entries[0]["details"]["facility"] == east.public.hex()
        assert entries[0]["details"]["other"] == FACILITY.public.hex()
        assert [(one.facilities, one.holder) for one in found] == [
            ((east.public, FACILITY.public), FACILITY.public)
        ]
        # Settled when the peer has another key, or none.
        north.peers.revoke("south", [], NOW)
        assert north.peers.contested(NOW) == []


def test_our_card_is_presented_only_after_a_change_and_to_strangers_for_a_while(node: Node) -> None:
    old = NOW - PRESENTED_SECONDS - 60
    long_ago = _card(TimedKey(BOB.public, old - 9, old), TimedKey(NEW.public, old))
    for card, known, unknown in (
        (OLD_CARD, False, False),
        (NEW_CARD, True, True),
        (long_ago, True, False),
    ):
        said = _introductions(node, lambda card=card: card)  # type: ignore[misc]
        assert said.own_card(True) == (card.encoded if known else b"")
        assert said.own_card(False) == (card.encoded if unknown else b"")


class _Met(Site):
    """A site that takes cards, or presents one."""

    def __init__(
        self, key: KeyPair, *trusted: KeyPair, listen: str = LOOPBACK, card: bytes = b""
    ) -> None:
        super().__init__(key, *trusted, listen=listen)
        self.vouched: dict[bytes, bytes] = {}
        self.network = Network(
            key,
            listen=[listen] if listen else [],
            is_trusted=lambda public: public in self.trusted,
            handlers=HANDLERS,
            on_connected=lambda public: self.came.update([public]),
            introductions=Introductions(
                own_card=lambda _: card,
                vouches=lambda card, public, _: self.vouched.get(public) == card != b"",
                take=lambda card, _: self.trusted.update(
                    public for public, its in self.vouched.items() if its == card
                ),
            ),
        )


async def test_a_caller_with_a_new_key_is_let_in_by_its_card() -> None:
    bob = _Met(BOB)
    bob.vouched[NEW.public] = b"card"
    new = _Met(NEW, BOB, listen="", card=b"card")
    async with bob.network.running(), new.network.running():
        await new.network.connect(BOB.public, bob.addresses)
        await until(lambda: bob.came == {NEW.public: 1})


@pytest.mark.parametrize("card", [b"", b"another card", bytes(PRESENTED_BYTES + 1)])
async def test_a_caller_without_a_card_that_counts_is_refused(card: bytes) -> None:
    bob = _Met(BOB)
    bob.vouched[NEW.public] = b"card"
    new = _Met(NEW, BOB, listen="", card=card)
    async with bob.network.running(), new.network.running():
        with pytest.raises(Unreachable):
            await new.network.connect(BOB.public, bob.addresses)
        assert bob.came == {}


async def test_a_called_node_with_a_new_key_is_known_by_its_card() -> None:
    new = _Met(NEW, ALICE, card=b"card")
    alice = _Met(ALICE, BOB, listen="")
    alice.vouched[NEW.public] = b"card"
    async with new.network.running(), alice.network.running():
        # This dial is for the old key and fails; the next one is for the new key.
        with pytest.raises(Unreachable):
            await alice.network.connect(BOB.public, new.addresses)
        assert NEW.public in alice.trusted
        await alice.network.connect(NEW.public, new.addresses)
        await until(lambda: new.came == {ALICE.public: 1})


async def test_an_impostor_with_another_card_does_not_even_learn_who_calls() -> None:
    heard: list[bytes] = []
    mallory = _Met(MALLORY, card=b"card of somebody")
    mallory.network._introductions = Introductions(
        own_card=lambda _: b"card of somebody",
        vouches=lambda _, public, __: bool(heard.append(public)),  # type: ignore[func-returns-value]
        take=lambda *_: None,
    )
    mallory.network._shared = mallory.network._as(MALLORY)
    alice = _Met(ALICE, BOB, listen="", card=b"card of Alice")
    async with mallory.network.running(), alice.network.running():
        with pytest.raises(Unreachable, match="another key"):
            await alice.network.connect(BOB.public, mallory.addresses)
    assert heard == []


async def test_with_another_key_all_connections_are_made_anew() -> None:
    bob = _Met(BOB, ALICE, NEW)
    alice = _Met(ALICE, BOB)
    async with bob.network.running(), alice.network.running():
        await alice.network.connect(BOB.public, bob.addresses)
        await until(lambda: bob.came == {ALICE.public: 1})
        await alice.network.use_key(NEW)
        assert alice.network.connected() == set()
        await until(lambda: bob.network.connected() == set())
        await alice.network.connect(BOB.public, bob.addresses)
        await until(lambda: bob.network.connected() == {NEW.public})
        bob.trusted.discard(ALICE.public)
        await bob.network.close_peer(NEW.public)
        alice.trusted.add(BOB.public)
        await until(lambda: alice.network.connected() == set())
        await bob.network.connect(NEW.public, alice.addresses)
        assert bob.network.connected() == {NEW.public}
