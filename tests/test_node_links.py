"""Trusted peers are kept connected, and the operator learns why one is not."""

import itertools

import pytest
import trio
from network_nodes import ALICE, BOB, CAROL, ECHO, Site, until

from node.network import links
from node.network.links import Links, LinkTarget

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "FIRST_DELAY_SECONDS", 0.1)


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
        await trio.sleep(0.5)
        assert alice.came == {BOB.public: 1}
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_peer_that_restarts_is_connected_again_and_again() -> None:
    alice = Site(ALICE, BOB, listen="")
    first = Site(BOB, ALICE)
    async with alice.network.running(), trio.open_nursery() as nursery:
        async with first.network.running():
            known, port = targets(first), first.port
            keeper = Links(alice.network, lambda: known)
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
        nursery.start_soon(Links(alice.network, lambda: targets(bob)).run)
        nursery.start_soon(Links(bob.network, lambda: targets(alice)).run)
        await until(lambda: alice.network.connected() and bob.network.connected())
        await trio.sleep(0.5)
        assert alice.came == {BOB.public: 1}
        assert bob.came == {ALICE.public: 1}
        assert not alice.went
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_the_wait_grows_and_a_poke_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
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
        keeper = Links(alice.network, lambda: dead)
        nursery.start_soon(keeper.run)
        await until(lambda: len(attempts) == 6)
        gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
        for gap, expected in zip(gaps, [0.1, 0.2, 0.4, 0.8, 0.8], strict=True):
            assert gap >= expected
        assert gaps[-1] < 1.5
        poked = trio.current_time()
        keeper.poke()
        await until(lambda: len(attempts) == 7)
        assert attempts[6] - poked < 0.5
        nursery.cancel_scope.cancel()


async def test_a_new_address_is_tried_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "FIRST_DELAY_SECONDS", 60.0)
    alice, bob = Site(ALICE, BOB, listen=""), Site(BOB, ALICE)
    known = [LinkTarget(BOB.public, ("/ip4/127.0.0.1/tcp/1",), "bob")]
    async with alice.network.running(), bob.network.running(), trio.open_nursery() as nursery:
        keeper = Links(alice.network, lambda: known)
        nursery.start_soon(keeper.run)
        await until(lambda: keeper.status(BOB.public).last_error)
        known[:] = targets(bob)
        keeper.poke()
        await until(lambda: keeper.status(BOB.public).connected, seconds=2)
        nursery.cancel_scope.cancel()


async def test_a_peer_without_address_may_call() -> None:
    alice, bob = Site(ALICE, BOB), Site(BOB, ALICE, listen="")
    async with alice.network.running(), bob.network.running(), trio.open_nursery() as nursery:
        keeper = Links(alice.network, lambda: [LinkTarget(BOB.public, (), "bob")])
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
        keeper = Links(alice.network, lambda: targets(*sites))
        nursery.start_soon(keeper.run)
        await until(lambda: len(alice.network.connected()) == 2)
        alice.trusted.discard(BOB.public)
        sites.remove(bob)
        keeper.poke()
        await until(lambda: alice.network.connected() == {CAROL.public}, seconds=1)
        await until(lambda: not bob.network.connected(), seconds=1)
        await trio.sleep(0.5)
        assert bob.came == {ALICE.public: 1}
        assert not keeper.status(BOB.public).connected
        nursery.cancel_scope.cancel()
