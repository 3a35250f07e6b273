"""What a peer is told that it may do, and what we keep of what peers tell us."""

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from budgets_made import Time, budgets_of
from clocks_made import MadeClock
from facility_in_memory import Other
from network_nodes import until
from streams_made import stream_pair

from keys.trust import Peer
from node.app import Node
from node.errors import NodeError
from node.home import Home
from node.network.messaging import MessageStream
from node.sharing.granted import Granted
from node.sharing.granting import Granting
from protocol.errors import RemoteProtocolError
from protocol.granted import Grants, content_of, open_untrusted, sign
from protocol.log.entry import Entry, decode_entry_untrusted


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def node(tmp_path: Path, clock: MadeClock) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=clock)) as opened:
        yield opened


@pytest.fixture
def south(node: Node) -> Other:
    return Other("South", node.clock.now())


@pytest.fixture
def peer(node: Node, south: Other) -> Peer:
    return south.pair(node, "see")


def _types(node: Node) -> list[str]:
    return [entry.type for entry in _entries(node)]


def _entries(node: Node) -> list[Entry]:
    return [decode_entry_untrusted(data) for data in node.audit.entries()]


def _told(node: Node) -> list[str]:
    statement = open_untrusted(node.granted.to_tell(node.peers.find("South")))
    return [str(rule) for rule in statement.rules]


def _said(south: Other, node: Node, serial: int, rules: list[dict[str, object]]) -> Grants:
    """What South says that North may do there."""
    content = content_of(
        facility=south.key,
        node=south.node.public,
        recipient=node.card.facility_key,
        rules=rules,
        since=1,
        until=None,
    )
    return sign(content, serial=serial, time=node.clock.now(), key=south.node)


def _take(node: Node, peer: Peer, message: Grants) -> bool:
    return node.granted.take_untrusted(
        peer, message, lambda key: node.peers.store.by_node_key(key, node.clock.now()) is not None
    )


# --- telling ---------------------------------------------------------------------------


def test_it_is_made_and_logged_once_for_each_content(
    node: Node, peer: Peer, clock: MadeClock
) -> None:
    first = node.granted.to_tell(peer)
    clock.move(10)
    assert node.granted.to_tell(peer) == first
    assert _types(node).count("grants-told") == 1
    changed = node.peers.grant("South", ["fetch"])
    second = node.granted.to_tell(changed)
    assert open_untrusted(second).serial > open_untrusted(first).serial
    assert _told(node) == ["allow fetch", "allow see shows=exam"]
    assert _types(node).count("grants-told") == 2


def test_a_rule_that_the_peer_may_not_know_changes_no_byte(node: Node, peer: Peer) -> None:
    before = node.granted.to_tell(peer)
    for words in (
        ("deny", "see", "patient=4711"),
        ("deny", "see", "institution=Mental Health Ward"),
        ("ask", "fetch", "from=2026-01-01", "to=2026-01-02"),
    ):
        changed, _ = node.peers.add_rule("South", words, node.facts.blind)
    assert node.granted.to_tell(changed) == before
    assert "4711" not in before.body.decode()


def test_an_end_that_has_passed_is_told(node: Node, peer: Peer, clock: MadeClock) -> None:
    end = clock.now() + 60
    words = ("allow", "fetch", f"until={_moment(end)}")
    node.peers.add_rule("South", words, node.facts.blind)
    assert _told(node) == ["allow fetch", "allow see shows=exam"]
    clock.move(61)
    assert _told(node) == ["allow see shows=exam"]


def _moment(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def test_behind_a_backup_the_serial_goes_on(
    node: Node, peer: Peer, clock: MadeClock, tmp_path: Path
) -> None:
    """A node that has forgotten what it told makes a serial that is newer all the same."""
    first = open_untrusted(node.granted.to_tell(peer))
    node.database.transact(lambda connection: connection.execute("DELETE FROM grants_told"))
    clock.move(1)
    assert open_untrusted(node.granted.to_tell(peer)).serial > first.serial


def test_nothing_is_told_before_it_is_logged(node: Node, peer: Peer) -> None:
    def full(event: object) -> int:
        raise NodeError("the disk is full")

    granted = Granted(
        node.database, node.card.facility_key, lambda: node.keys.node, full, node.clock
    )
    with pytest.raises(NodeError, match="disk is full"):
        granted.to_tell(peer)
    node.granted.to_tell(peer)
    assert _types(node).count("grants-told") == 1


# --- hearing ---------------------------------------------------------------------------

SEE = {"action": "see", "effect": "allow"}


def test_the_newest_is_kept_and_logged_once(node: Node, peer: Peer, south: Other) -> None:
    assert node.granted.heard(peer) is None
    new, old = _said(south, node, 5, [SEE]), _said(south, node, 4, [])
    assert _take(node, peer, new)
    assert not _take(node, peer, new)
    assert not _take(node, peer, old)
    assert not _take(node, peer, _said(south, node, 5, []))
    heard = node.granted.heard(peer)
    assert heard is not None
    assert (heard.statement.serial, len(heard.statement.rules)) == (5, 1)
    [entry] = [one for one in _entries(node) if one.type == "grants-heard"]
    assert entry.details == {"digest": heard.digest, "serial": 5}
    assert entry.peer == peer.facility_key
    assert entry.actor == peer.fingerprint


def test_what_is_not_of_this_peer_for_us_is_refused(node: Node, peer: Peer, south: Other) -> None:
    east = Other("East", node.clock.now())
    east.pair(node)
    good = _said(south, node, 5, [SEE])
    for message in (
        _said(east, node, 5, [SEE]),
        sign(
            content_of(
                facility=south.key,
                node=south.node.public,
                recipient=east.key,
                rules=[SEE],
                since=1,
                until=None,
            ),
            serial=5,
            time=1,
            key=south.node,
        ),
        # Signed by a key that no card of South names.
        sign(
            content_of(
                facility=south.key,
                node=south.log.public,
                recipient=node.card.facility_key,
                rules=[SEE],
                since=1,
                until=None,
            ),
            serial=5,
            time=1,
            key=south.log,
        ),
        replace(good, signature=bytes(64)),
        replace(good, body=good.body.replace(b'"see"', b'"fee"')),
    ):
        with pytest.raises(RemoteProtocolError):
            _take(node, peer, message)
    assert node.granted.heard(peer) is None
    assert "grants-heard" not in _types(node)


def test_it_is_forgotten_when_trust_ends(
    node: Node, peer: Peer, south: Other, clock: MadeClock
) -> None:
    assert _take(node, peer, _said(south, node, 5, [SEE]))
    node.peers.revoke("South", [], clock.now())
    assert node.database.query("SELECT * FROM grants_heard") == []
    south.pair(node)
    assert node.granted.heard(node.peers.find("South")) is None


def test_it_is_forgotten_when_trust_has_ended_by_its_date(
    node: Node, peer: Peer, south: Other, clock: MadeClock
) -> None:
    assert _take(node, peer, _said(south, node, 5, [SEE]))
    ended = replace(peer, expires=clock.now())
    assert node.granted.heard(ended) is None
    node.granted.sweep([peer])
    assert node.granted.heard(peer) is not None
    node.granted.sweep([ended])
    assert node.granted.heard(peer) is None


# --- over streams ----------------------------------------------------------------------


async def test_a_peer_that_says_something_new_without_end_fills_no_log(
    node: Node, peer: Peer, south: Other, clock: MadeClock
) -> None:
    """The twenty of its budget are logged; then the newest waits, and takes the place of others."""
    granting = Granting(
        node.granted,
        node.peers,
        lambda key: pytest.fail("nothing is told here"),
        clock=node.clock,
        budgets=budgets_of(Time(), clock),
    )
    async with trio.open_nursery() as nursery:
        for serial in range(1, 41):
            ours, theirs = stream_pair(node.keys.node.public, south.node.public)
            await MessageStream(theirs).send(_said(south, node, serial, [SEE]))
            if serial <= 20:
                await granting.serve(ours)
            else:
                before = dict(granting._taking)
                nursery.start_soon(granting.serve, ours)
                await until(lambda before=before: granting._taking not in ({}, before), seconds=3)
                assert len(granting._taking) == 1
        nursery.cancel_scope.cancel()
    heard = node.granted.heard(peer)
    assert heard is not None
    assert heard.statement.serial == 20
    assert _types(node).count("grants-heard") == 20
