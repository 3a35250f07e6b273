"""Connections: dialling, dying, coming back, and stopping."""

import contextlib

import pytest
import trio
import trio.testing
from network_nodes import (
    ALICE,
    BOB,
    CAROL,
    ECHO,
    FAST,
    FLOOD,
    SILENT,
    SINK,
    WAIT_SECONDS,
    Site,
    peer_process,
    read_on,
    two_sites,
    until,
    write_on,
)
from relay import CONTROL_BYTES, Fault, Point, Relay, Way

from node.errors import ExitCode, NodeError
from node.network.network import NetworkLimits, PeerTimeout, StreamLost, Unreachable

pytestmark = pytest.mark.integration


@pytest.mark.slow
async def test_more_connections_than_a_bare_host_takes_in_its_life() -> None:
    alice, bob = Site(ALICE, BOB, listen=""), Site(BOB, ALICE)
    async with bob.network.running(), alice.network.running():
        for _ in range(260):
            await alice.network.connect(BOB.public, bob.addresses)
            await alice.network.close_peer(BOB.public)
            await until(lambda: not bob.network.connected())
    assert bob.came == bob.went == {ALICE.public: 260}


async def test_both_dial_at_once_and_count_as_one() -> None:
    alice, bob = Site(ALICE, BOB), Site(BOB, ALICE)
    async with bob.network.running(), alice.network.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.network.connect, BOB.public, bob.addresses)
            nursery.start_soon(bob.network.connect, ALICE.public, alice.addresses)
        for _ in range(10):
            async with await alice.network.open_stream(BOB.public, ECHO) as stream:
                await stream.write(b"x", timeout_seconds=5)
                await stream.read(timeout_seconds=5)
        assert alice.came == {BOB.public: 1}
        assert bob.came == {ALICE.public: 1}
        await bob.network.close_peer(ALICE.public)
        await until(lambda: alice.went == {BOB.public: 1})
    assert bob.went == {ALICE.public: 1}


async def test_a_peer_is_dialled_again_at_once_after_failures() -> None:
    alice, bob = Site(ALICE, BOB, listen=""), Site(BOB, ALICE)
    async with alice.network.running():
        async with bob.network.running():
            addresses, port = bob.addresses, bob.port
            await alice.network.connect(BOB.public, addresses)
        for _ in range(3):
            await until(lambda: not alice.network.connected())
            with pytest.raises(Unreachable, match="refused"):
                await alice.network.connect(BOB.public, addresses)
        again = Site(BOB, ALICE, listen=f"/ip4/127.0.0.1/tcp/{port}")
        async with again.network.running():
            # A bare host would refuse to for a minute.
            with trio.fail_after(WAIT_SECONDS):
                await alice.network.connect(BOB.public, addresses)
                await alice.network.open_stream(BOB.public, ECHO)


async def test_a_dead_connection_is_not_handed_out() -> None:
    async with two_sites() as (alice, bob):
        await bob.network.close_peer(ALICE.public)
        await until(lambda: not alice.network.connected())
        await alice.network.connect(BOB.public, bob.addresses)
        await alice.network.open_stream(BOB.public, ECHO)


async def test_every_address_is_tried() -> None:
    alice, bob = Site(ALICE, BOB, listen=""), Site(BOB, ALICE)
    async with bob.network.running(), alice.network.running():
        dead = "/ip4/127.0.0.1/tcp/1"
        with pytest.raises(Unreachable) as caught:
            await alice.network.connect(BOB.public, [dead, "/dns4/nowhere.invalid/tcp/1", "x"])
        assert "refused" in caught.value.message
        assert "does not resolve" in caught.value.message
        assert caught.value.code is ExitCode.UNREACHABLE
        named = f"/dns4/localhost/tcp/{bob.port}/p2p/anything"
        await alice.network.connect(BOB.public, [dead, named])
        assert alice.network.connected() == {BOB.public}


async def test_revoked_trust_cuts_the_connection_and_its_streams() -> None:
    async with two_sites() as (alice, bob):
        stream = await alice.network.open_stream(BOB.public, FLOOD)
        await stream.read(timeout_seconds=5)
        bob.trusted.clear()
        opened = await alice.network.open_stream(BOB.public, ECHO)
        with pytest.raises(StreamLost, match="does not take"):
            await opened.read(timeout_seconds=5)
        await bob.network.close_untrusted()
        assert not bob.network.connected()
        assert bob.went == {ALICE.public: 1}
        with pytest.raises(StreamLost):
            await read_on(stream)
        await until(lambda: not alice.network.connected())
        with pytest.raises(Unreachable, match="may not trust"):
            await alice.network.connect(BOB.public, bob.addresses)


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/tcp/{}", "/ip4/0.0.0.0/tcp/{}"])
async def test_a_taken_port_is_an_error(listen: str) -> None:
    bob = Site(BOB)
    async with bob.network.running():
        second = Site(CAROL, listen=listen.format(bob.port))
        with pytest.raises(NodeError) as caught:
            async with second.network.running():
                pytest.fail("it runs on a port that is taken")
        assert caught.value.code is ExitCode.BUSY


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/udp/1", "127.0.0.1:80", "/ip4/999.0.0.1/tcp/1"])
async def test_a_malformed_listen_address_is_an_error(listen: str) -> None:
    with pytest.raises(NodeError, match="cannot listen"):
        async with Site(BOB, listen=listen).network.running():
            pytest.fail("it listens on nonsense")


async def test_ip6_works() -> None:
    alice, bob = Site(ALICE, BOB), Site(BOB, ALICE, listen="/ip6/::1/tcp/0")
    async with alice.network.running(), bob.network.running():
        assert bob.addresses[0].startswith("/ip6/::1/tcp/")
        await alice.network.connect(BOB.public, bob.addresses)
        await until(lambda: bob.network.connected() == {ALICE.public})


async def test_an_error_of_the_body_keeps_its_type() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Site(BOB).network.running():
            raise ZeroDivisionError


# --- peers that stop, die and stay away --------------------------------------------


def test_a_frozen_peer_is_noticed_within_thirty_seconds_by_default() -> None:
    limits = NetworkLimits()
    assert limits.pulse_seconds + limits.answer_seconds <= 30
    assert limits.stall_seconds <= 30
    assert limits.message_seconds + limits.pulse_seconds <= 30


@pytest.mark.slow
async def test_a_frozen_peer_is_noticed_by_a_reader_and_by_a_writer() -> None:
    alice = Site(ALICE, BOB, limits=FAST)
    async with alice.network.running():
        for protocol in (SILENT, SINK):
            with peer_process() as bob:
                await alice.network.connect(BOB.public, [bob.address])
                stream = await alice.network.open_stream(BOB.public, protocol)
                bob.freeze()
                # By the connection: who reads and writes here would wait for 60 s.
                with trio.fail_after(30), pytest.raises(StreamLost) as caught:
                    await (read_on(stream) if protocol == SILENT else write_on(stream))
                assert not isinstance(caught.value, PeerTimeout)
                await until(lambda: not alice.network.connected())


@pytest.mark.slow
async def test_a_message_that_never_ends_is_noticed_while_pings_still_arrive() -> None:
    bob, alice = Site(BOB, ALICE, limits=FAST), Site(ALICE, BOB, limits=FAST)
    async with bob.network.running(), alice.network.running():
        with contextlib.closing(Relay(bob.port)) as relay:
            await alice.network.connect(BOB.public, [relay.address])
            stream = await alice.network.open_stream(BOB.public, ECHO)
            # The length of this message becomes another one: Bob waits for 4 KiB more, of
            # which each ping of Alice brings some bytes, while his own pings reach Alice.
            size = CONTROL_BYTES + 500
            relay.arm(Fault.CORRUPT, Point(Way.UP, size))
            await stream.write(bytes(500), timeout_seconds=60)
            await until(relay.struck.is_set)
            with pytest.raises(StreamLost) as caught:
                await stream.read(timeout_seconds=60)
            assert not isinstance(caught.value, PeerTimeout)
            await until(lambda: not bob.network.connected())


@pytest.mark.slow
async def test_a_killed_peer_is_noticed_at_once_and_may_come_back() -> None:
    alice = Site(ALICE, BOB)
    async with alice.network.running():
        with peer_process() as bob:
            address = bob.address
            await alice.network.connect(BOB.public, [address])
            reader = await alice.network.open_stream(BOB.public, FLOOD)
            writer = await alice.network.open_stream(BOB.public, SINK)
            await reader.read(timeout_seconds=5)
            bob.kill()
            # Sooner than by a ping, or by a socket that takes nothing.
            limits = alice.network.limits
            assert (
                min(limits.answer_seconds + limits.pulse_seconds, limits.stall_seconds)
                > WAIT_SECONDS
            )
            with trio.fail_after(WAIT_SECONDS):
                with pytest.raises(StreamLost):
                    await read_on(reader)
                with pytest.raises(StreamLost):
                    await write_on(writer)
                await until(lambda: not alice.network.connected())
        with peer_process(address):
            await alice.network.connect(BOB.public, [address])
    assert alice.came == {BOB.public: 2}


@pytest.mark.slow
async def test_stops_quickly_with_a_frozen_peer_and_a_blocked_writer(
    mock_clock: trio.testing.MockClock,
) -> None:
    alice = Site(ALICE, BOB)
    mock_clock.rate = 1
    with peer_process() as bob:
        async with trio.open_nursery() as nursery:
            async with alice.network.running():
                await alice.network.connect(BOB.public, [bob.address])
                stream = await alice.network.open_stream(BOB.public, SINK)
                bob.freeze()

                async def write() -> None:
                    with pytest.raises(StreamLost):
                        await write_on(stream)

                nursery.start_soon(write)
                await trio.testing.wait_all_tasks_blocked(0.05)
                # A tenth of the speed of the wall's: two seconds are those of a busy machine.
                mock_clock.rate, started = 0.1, trio.current_time()
            assert trio.current_time() - started < 2


@pytest.mark.slow
async def test_stops_in_less_than_two_seconds_and_every_peer_knows(
    mock_clock: trio.testing.MockClock,
) -> None:
    mock_clock.rate = 1
    keys = [type(ALICE).from_seed(bytes([n]) * 32) for n in range(100, 120)]
    bob = Site(BOB, *keys)
    async with trio.open_nursery() as nursery:
        others = [Site(key, BOB, listen="") for key in keys]
        async with bob.network.running():

            async def stay(site: Site) -> None:
                async with site.network.running():
                    await site.network.connect(BOB.public, bob.addresses)
                    await until(lambda: site.went[BOB.public] == 1)

            for site in others:
                nursery.start_soon(stay, site)
            await until(lambda: len(bob.network.connected()) == len(keys))
            mock_clock.rate, started = 0.1, trio.current_time()
        assert trio.current_time() - started < 2
        mock_clock.rate = 1
    assert not bob.network.connected()
    assert bob.network.addresses == []
