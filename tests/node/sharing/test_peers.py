"""Trust by key: what is refused, what is logged, and what a change does at once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from keys.card import issue_card, parse_card_untrusted
from keys.fingerprint import fingerprint
from keys.identity import KeyPair
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError
from node.home import Home
from node.sharing.peers import CARDS_PER_HOUR, Terms
from node.transfer.right import Right
from protocol.errors import WireCode
from protocol.messages import Request

FACILITY = KeyPair.from_seed(b"f" * 32)
KEYS = {role: KeyPair.from_seed(role.encode().ljust(32, b"-")) for role in ("n", "l", "w")}
NOW = SYSTEM_CLOCK.now()


def _card(serial: int = 1, expires: int = NOW + 10**7, facility: KeyPair = FACILITY) -> bytes:
    return issue_card(
        facility,
        name="South Clinic",
        node_key=KEYS["n"].public,
        log_key=KEYS["l"].public,
        witness_key=KEYS["w"].public,
        addresses=("/ip4/192.0.2.7/tcp/4101",),
        serial=serial,
        issued=NOW - 1000,
        expires=expires,
    ).encoded


def _spoken(facility: KeyPair = FACILITY) -> str:
    return fingerprint(facility.public)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "home", name="North")) as opened:
        yield opened


def _logged(node: Node, start: int) -> list[str]:
    return [json.loads(entry)["type"] for entry in node.audit.entries(start)]


def test_trust_is_kept_and_logged(node: Node) -> None:
    size = node.audit.size
    node.peers.add(_card(), _spoken(), ["see"], "", NOW)
    node.peers.grant("South Clinic", ["fetch"])
    node.peers.revoke("south clinic", ["see"], NOW)
    node.peers.rename("South Clinic", "South")
    node.peers.revoke("South", [], NOW)
    assert _logged(node, size) == [
        "trust-added",
        "trust-granted",
        "trust-ungranted",
        "trust-revoked",
    ]
    [peer] = node.peers.store.peers
    assert (peer.petname, peer.grants, peer.revoked) == ("South", frozenset(), NOW)
    assert node.peers.store.by_node_key(KEYS["n"].public, NOW) is None


def test_trust_outlives_the_process(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", name="North")
    with Node.open(home) as node:
        node.peers.add(_card(), _spoken(), ["see", "fetch"], "South", NOW)
    with Node.open(home) as again:
        assert again.peers.find("South").grants == {"see", "fetch"}


@pytest.mark.parametrize(
    ("card", "spoken", "said"),
    [
        (_card(), _spoken(KeyPair.from_seed(b"x" * 32)), "not the confirmed one"),
        (_card(), "AAAA", "fingerprint given cannot be right"),
        (_card(expires=NOW - 1), _spoken(), "expired"),
        (_card().replace(b"South", b"North"), _spoken(), "refused"),
        (b"nonsense", _spoken(), "refused"),
    ],
    ids=["other fingerprint", "no fingerprint", "expired", "forged", "nonsense"],
)
def test_what_is_not_trusted(node: Node, card: bytes, spoken: str, said: str) -> None:
    size = node.audit.size
    with pytest.raises(NodeError, match=said) as caught:
        node.peers.add(card, spoken, ["see"], "", NOW)
    assert caught.value.code is ExitCode.INTEGRITY
    assert caught.value.hint
    assert node.peers.store.peers == ()
    assert node.audit.size == size


def test_an_older_card_is_refused(node: Node) -> None:
    node.peers.add(_card(serial=5), _spoken(), [], "", NOW)
    with pytest.raises(NodeError, match="refused") as caught:
        node.peers.add(_card(serial=4), _spoken(), [], "", NOW)
    assert caught.value.code is ExitCode.INTEGRITY
    assert node.peers.find("South Clinic").card.serial == 5


def test_an_unknown_grant_is_refused(node: Node) -> None:
    with pytest.raises(NodeError, match="no grant everything") as caught:
        node.peers.add(_card(), _spoken(), ["everything"], "", NOW)
    assert caught.value.code is ExitCode.USAGE


def test_a_newer_card_from_the_peer_replaces_the_older(node: Node) -> None:
    node.peers.add(_card(serial=1), _spoken(), ["see"], "", NOW)
    assert node.peers.take_newer_card(_card(serial=2), FACILITY.public, NOW) is not None
    assert node.peers.take_newer_card(_card(serial=1), FACILITY.public, NOW) is None
    assert node.peers.find("South Clinic").card.serial == 2
    assert node.peers.find("South Clinic").grants == {"see"}


def test_a_card_of_another_facility_is_not_taken_from_a_peer(node: Node) -> None:
    node.peers.add(_card(), _spoken(), ["see"], "", NOW)
    forged = _card(serial=9, facility=KeyPair.from_seed(b"x" * 32))
    with pytest.raises(NodeError):
        node.peers.take_newer_card(forged, FACILITY.public, NOW)
    assert node.peers.find("South Clinic").card.serial == 1


def _request(time_ms: int) -> Request:
    return Request(
        transfer=bytes(16),
        source=bytes(32),
        study="1.2.3",
        purpose="treatment",
        ephemeral=bytes(32),
        time=time_ms,
    )


@pytest.mark.parametrize(
    ("grants", "skew_ms", "code"),
    [
        ([], 0, WireCode.NOT_GRANTED),
        (["see"], 0, WireCode.NOT_GRANTED),
        (["fetch"], 0, WireCode.NOT_GRANTED),
        (["see", "fetch"], 0, WireCode.NOT_AVAILABLE),
        (["fetch"], 25 * 3600 * 1000, WireCode.CLOCK_SKEW),
        (["fetch"], -25 * 3600 * 1000, WireCode.CLOCK_SKEW),
    ],
)
def test_a_request_is_decided(node: Node, grants: list[str], skew_ms: int, code: WireCode) -> None:
    peer = node.peers.add(_card(), _spoken(), grants, "", NOW)
    key = KEYS["n"].public
    right = Right(
        node.catalog,
        node.facts,
        node.peers,
        node.lately,
        node.requests,
        node.emergencies,
        node.clock,
        peer,
        key,
        node.offers,
    )
    refusal = right.refusal(_request(node.clock.now_ms() + skew_ms))
    assert refusal is not None
    assert refusal.code is code


def test_a_peer_cannot_fill_the_log_with_new_cards(node: Node) -> None:
    node.peers.add(_card(), _spoken(), [], "", NOW)
    for serial in range(2, 2 + CARDS_PER_HOUR):
        assert node.peers.take_newer_card(_card(serial), FACILITY.public, NOW) is not None
    size, one_more = node.audit.size, _card(2 + CARDS_PER_HOUR)
    with pytest.raises(NodeError, match="more than 30 new cards an hour"):
        node.peers.take_newer_card(one_more, FACILITY.public, NOW + 3599)
    assert node.audit.size == size
    assert node.peers.take_newer_card(one_more, FACILITY.public, NOW + 3600) is not None


@pytest.mark.parametrize("what", ["add", "grant", "rename"])
def test_what_could_not_be_written_does_not_count(node: Node, what: str) -> None:
    """It had reached the transaction, and was in memory already."""
    if what != "add":
        node.peers.add(_card(), _spoken(), ["see"], "", NOW)
    before, told = node.peers.store.peers, []
    node.peers.on_change = told.append

    def fail(peer: object) -> None:
        raise NodeError("the disk is full", code=ExitCode.DISK)

    node.peers.in_change = fail
    changes = {
        "add": lambda: node.peers.add(_card(), _spoken(), ["see", "fetch"], "", NOW),
        "grant": lambda: node.peers.grant("South Clinic", ["fetch"]),
        "rename": lambda: node.peers.rename("South Clinic", "South"),
    }
    with pytest.raises(NodeError, match="the disk is full"):
        changes[what]()
    assert node.peers.store.peers == before
    assert told == []
    if what == "add":
        assert node.peers.store.by_node_key(KEYS["n"].public, NOW) is None
    else:
        assert node.peers.find("South Clinic").grants == {"see"}


def test_cards_of_strangers_and_cards_that_are_known_change_nothing(node: Node) -> None:
    assert node.peers.take_newer_card(_card(), FACILITY.public, NOW) is None
    node.peers.add(_card(serial=3), _spoken(), ["see"], "", NOW)
    size = node.audit.size
    for serial in (1, 2, 3):
        assert node.peers.take_newer_card(_card(serial), FACILITY.public, NOW) is None
    assert node.audit.size == size


def test_names_and_addresses_are_kept_and_not_logged(tmp_path: Path) -> None:
    home, told = Home.create(tmp_path / "home", name="North"), []
    with Node.open(home) as node:
        node.peers.add(_card(), _spoken(), ["see"], "", NOW)
        size = node.audit.size
        node.peers.on_change = lambda peer: told.append(peer.petname)
        assert node.peers.rename("South Clinic", "South").petname == "South"
        address = "1 Main Street, 12345 Town"
        assert node.peers.set_postal_address("South", address).postal_address == address
        assert node.audit.size == size
        assert told == ["South", "South"]
        with pytest.raises(NodeError) as caught:
            node.peers.rename("South", "  ")
        assert caught.value.code is ExitCode.REFUSED
    with Node.open(home) as again:
        [peer] = again.peers.store.peers
        assert (peer.petname, peer.postal_address) == ("South", address)


def test_when_a_peer_was_last_here_is_remembered(node: Node) -> None:
    node.peers.add(_card(), _spoken(), ["see"], "", NOW)
    assert node.peers.last_seen() == {}
    node.peers.saw(bytes(32), NOW)
    node.peers.saw(FACILITY.public, NOW + 5)
    assert node.peers.last_seen() == {FACILITY.public: NOW + 5}


def test_a_change_of_trust_says_what_was_changed(node: Node) -> None:
    card, size = _card(), node.audit.size
    node.peers.add(card, _spoken(), ["see", "fetch"], "", NOW)
    node.peers.revoke("South Clinic", ["see", "fetch"], NOW)
    node.peers.grant("South Clinic", ["witness", "see"])
    node.peers.take_newer_card(_card(2), FACILITY.public, NOW)
    node.peers.revoke("South Clinic", [], NOW)
    told = [json.loads(entry) for entry in node.audit.entries(size)]
    first, newer = (
        {"card": one.digest, "card_until": one.expires, "serial": one.serial}
        for one in map(parse_card_untrusted, (card, _card(2)))
    )
    assert [(entry["type"], entry["actor"], entry["details"]) for entry in told] == [
        ("trust-added", "operator", {"grants": "fetch,see", **first}),
        ("trust-ungranted", "operator", {"grants": "fetch,see"}),
        ("trust-granted", "operator", {"grants": "see,witness"}),
        ("card-updated", "node", newer),
        ("trust-revoked", "operator", {}),
    ]
    assert {entry["peer"] for entry in told} == {FACILITY.public.hex()}


def test_purposes_and_an_end_are_kept_and_logged(node: Node) -> None:
    terms = Terms(frozenset({"treatment", "research"}), NOW + 500, {"method": "code", "tries": 2})
    size = node.audit.size
    peer = node.peers.add(_card(), _spoken(), ["see"], "", NOW, terms)
    assert (peer.purposes, peer.expires) == ({"treatment", "research"}, NOW + 500)
    assert node.peers.find("South Clinic") == peer
    [entry] = [json.loads(each) for each in node.audit.entries(size)]
    assert entry["details"] == {
        "card": peer.card.digest,
        "card_until": peer.card.expires,
        "serial": 1,
        "grants": "see",
        "purposes": "research,treatment",
        "expires": NOW + 500,
        "method": "code",
        "tries": 2,
    }
    # Without terms, what was given before stays.
    again = node.peers.add(_card(), _spoken(), ["fetch"], "", NOW)
    assert (again.purposes, again.expires) == (peer.purposes, NOW + 500)
    for wrong in (Terms(frozenset({"curiosity"})), Terms(expires=NOW)):
        with pytest.raises(NodeError) as caught:
            node.peers.add(_card(), _spoken(), [], "", NOW, wrong)
        assert caught.value.code is ExitCode.REFUSED
    assert node.peers.find("South Clinic") == again
