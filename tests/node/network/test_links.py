"""Trusted peers are kept connected, and the operator learns why one is not."""

import itertools
import time

import pytest
import trio
import trio.testing
from clocks_made import jumps_when_idle
from network_nodes import ALICE, BOB, CAROL, ECHO, Site, until

from node.network import links
from node.network.links import Links, LinkTarget

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "FIRST_DELAY_SECONDS", 0.1)


async def _looks_again(keeper: Links) -> None:
    """The keeper looks ten times more, and may dial each time."""
    for _ in range(10):
        keeper.poke()
        await trio.testing.wait_all_tasks_blocked()


def targets(*sites: Site) -> list[LinkTarget]:
    """One target for each site, where it listens now."""
    return [LinkTarget(site.key.public, tuple(site.addresses), "a peer") for site in sites]


@pytest.mark.slow
async def test_a_peer_is_dialled_and_reported() -> None:
    alice, bob = Site(ALICE, BOB, listen=""), Site(BOB, ALICE)
    async with alice.network.running(), bob.network.running(), trio.open_nursery() as nursery:
        keeper = Links(alice.network, lambda: targets(bob), clock=lambda: 1000.0)
        assert keeper.status(BOB.public).last_seen is None
        nursery.start_soon(keeper.run)
        await until(lambda: keeper.status(BOB.public).connected)
        status = keeper.status(BOB.public)
        assert (status.last_seen, status.last_error, status.next_attempt) == (1000.0, "", None)
        await _looks_again(keeper)
        assert alice.came == {BOB.public: 1}
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_peer_that_restarts_is_connected_again_and_again() -> None:
    alice = Site(ALICE, BOB, listen="")
    first = Site(BOB, ALICE)
    async with alice.network.running(), trio.open_nursery() as nursery:
        async with first.network.running():
            known, port = targets(first), first.port
            keeper = Links(alice.network, lambda: known, clock=time.time)
            nursery.start_soon(keeper.run)
            await until(lambda: keeper.status(BOB.public).connected)
        for _ in range(2):
            await until(lambda: "refused" in keeper.status(BOB.public).last_error)
            assert not keeper.status(BOB.public).connected
            assert keeper.status(BOB.public).next_attempt is not None
            bob = Site(BOB, ALICE, listen=f"/ip4/127.0.0.1/tcp/{port}")
            async with bob.network.running():
                await until(lambda: keeper.status(BOB.public).connected)
                await alice.network.open_stream(BOB.public, ECHO)
        nursery.cancel_scope.cancel()
    assert alice.came == {BOB.public: 3}
    assert alice.went == {BOB.public: 3}


@pytest.mark.slow
async def test_both_keep_dialling_and_stay_connected() -> None:
    alice, bob = Site(ALICE, BOB), Site(BOB, ALICE)
    async with alice.network.running(), bob.network.running(), trio.open_nursery() as nursery:
        keepers = (
            Links(alice.network, lambda: targets(bob), clock=time.time),
            Links(bob.network, lambda: targets(alice), clock=time.time),
        )
        for keeper in keepers:
            nursery.start_soon(keeper.run)
        await until(lambda: alice.network.connected() and bob.network.connected())
        for keeper in keepers:
            await _looks_again(keeper)
        assert alice.came == {BOB.public: 1}
        assert bob.came == {ALICE.public: 1}
        assert not alice.went
        nursery.cancel_scope.cancel()


async def test_the_wait_grows_and_a_poke_ends_it(
    monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(links, "JITTER", 0.0)
    monkeypatch.setattr(links, "LONGEST_DELAY_SECONDS", 0.8)
    alice = Site(ALICE, BOB, listen="")
    attempts: list[float] = []
    connect = alice.network.connect

    async def note(node_public: bytes, addresses: list[str]) -> None:
        attempts.append(trio.current_time())
        await connect(node_public, addresses)

    monkeypatch.setattr(alice.network, "connect", note)
    dead = [LinkTarget(BOB.public, ("/ip4/127.0.0.1/tcp/1",), "bob")]
    async with alice.network.running(), trio.open_nursery() as nursery:
        keeper = Links(alice.network, lambda: dead, clock=time.time)
        with jumps_when_idle(mock_clock):
            nursery.start_soon(keeper.run)
            await until(lambda: len(attempts) == 6)
        # The clock stands still: only the poke can be why.
        keeper.poke()
        await trio.testing.wait_all_tasks_blocked()
        assert attempts[6:] == [trio.current_time()]
        nursery.cancel_scope.cancel()
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts[:6])]
    assert gaps == pytest.approx([0.1, 0.2, 0.4, 0.8, 0.8], abs=0.02)


async def test_a_new_address_is_tried_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "FIRST_DELAY_SECONDS", 60.0)
    alice, bob = Site(ALICE, BOB, listen=""), Site(BOB, ALICE)
    known = [LinkTarget(BOB.public, ("/ip4/127.0.0.1/tcp/1",), "bob")]
    async with alice.network.running(), bob.network.running(), trio.open_nursery() as nursery:
        keeper = Links(alice.network, lambda: known, clock=time.time)
        nursery.start_soon(keeper.run)
        await until(lambda: keeper.status(BOB.public).last_error)
        known[:] = targets(bob)
        keeper.poke()
        await until(lambda: keeper.status(BOB.public).connected)
        nursery.cancel_scope.cancel()


async def test_a_peer_without_address_may_call() -> None:
    alice, bob = Site(ALICE, BOB), Site(BOB, ALICE, listen="")
    async with alice.network.running(), bob.network.running(), trio.open_nursery() as nursery:
        keeper = Links(alice.network, lambda: [LinkTarget(BOB.public, (), "bob")], clock=time.time)
        nursery.start_soon(keeper.run)
        await until(lambda: "call this node" in keeper.status(BOB.public).last_error)
        await bob.network.connect(ALICE.public, alice.addresses)
        await until(lambda: keeper.status(BOB.public).connected)
        assert keeper.status(BOB.public).last_error == ""
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_revoked_peer_is_hung_up_on_and_not_dialled() -> None:
    alice, bob, carol = Site(ALICE, BOB, CAROL, listen=""), Site(BOB, ALICE), Site(CAROL, ALICE)
    sites = [bob, carol]
    async with (
        alice.network.running(),
        bob.network.running(),
        carol.network.running(),
        trio.open_nursery() as nursery,
    ):
        keeper = Links(alice.network, lambda: targets(*sites), clock=time.time)
        nursery.start_soon(keeper.run)
        await until(lambda: len(alice.network.connected()) == 2)
        alice.trusted.discard(BOB.public)
        sites.remove(bob)
        keeper.poke()
        await until(lambda: alice.network.connected() == {CAROL.public})
        await until(lambda: not bob.network.connected())
        await _looks_again(keeper)
        assert bob.came == {ALICE.public: 1}
        assert not keeper.status(BOB.public).connected
        nursery.cancel_scope.cancel()
