"""What strangers try against a node, on real sockets.

One test per repair of libp2p; each fails when its repair is taken out.
"""

import contextlib
import time

import pytest
import trio
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader
from network_nodes import ALICE, BOB, FAST, MALLORY, Site, resident_bytes, until, victim

from node.network import hardening
from node.network.bounds import NetworkLimits
from node.network.hardening import SocketConnection
from node.network.network import Unreachable

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


async def test_a_stranger_is_refused_before_anything_runs() -> None:
    async with victim() as bob:
        bob.trusted.discard(MALLORY.public)
        mallory = Site(MALLORY, BOB, listen="")
        async with mallory.network.running():
            for _ in range(3):
                with pytest.raises(Unreachable, match="may not trust this node"):
                    await mallory.network.connect(BOB.public, bob.addresses)
        assert mallory.came == {}
        assert bob.came == {ALICE.public: 1}
        assert bob.network._connections.keys() == {ALICE.public}


async def test_we_do_not_call_a_stranger() -> None:
    async with victim() as bob:
        mallory = Site(MALLORY, listen="")
        async with mallory.network.running():
            with pytest.raises(Unreachable, match="does not trust"):
                await mallory.network.connect(BOB.public, bob.addresses)


async def test_an_impostor_at_the_right_address_is_refused() -> None:
    mallory = Site(MALLORY, ALICE)
    alice = Site(ALICE, BOB, MALLORY, listen="")
    async with mallory.network.running(), alice.network.running():
        with pytest.raises(Unreachable, match="another key"):
            await alice.network.connect(BOB.public, mallory.addresses)
    assert alice.came == {}
    assert mallory.came == {}


async def test_a_plaintext_peer_is_refused_whoever_it_says_it_is() -> None:
    async with victim() as bob:
        transport = InsecureTransport(hardening.host_keys(ALICE.seed))
        plain = TransportUpgrader({PLAINTEXT_PROTOCOL_ID: transport}, {YAMUX: Yamux})
        stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
        raw = SocketConnection(stream, is_initiator=True, limits=FAST)
        with pytest.raises(SecurityUpgradeFailure):
            await plain.upgrade_security(raw, True, hardening.node_id(BOB.public))
        raw.abort()
        assert bob.came == {ALICE.public: 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 1000,
        b"\x03\xff\xfe\n",
        b"\x13/multistream/1.0.0\n\x03\xff\xfe\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + bytes(65_535),
        b"\x13/multistream/1.0.0\n" + b"\x03ls\n" * 1000,
        b"",
    ],
    ids=["http", "ff", "not utf-8", "protocol not utf-8", "noise", "ls", "nothing"],
)
async def test_garbage_from_a_stranger_ends_its_connection_only(sent: bytes) -> None:
    async with victim() as bob:
        for _ in range(5):
            stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(sent)
                await stream.send_eof()
                while await stream.receive_some(4096):
                    pass
            await stream.aclose()
        await until(lambda: len(bob.network._doorstep) == 0)


async def test_a_strangers_length_prefix_does_not_decide_what_we_read() -> None:
    two_gib = b"\x80\x80\x80\x80\x08"
    async with victim() as bob:
        before = resident_bytes()
        stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
        sent = 0
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(5):
            await stream.send_all(b"\x13/multistream/1.0.0\n" + two_gib)
            while True:
                await stream.send_all(bytes(MIB))
                sent += MIB
        await stream.aclose()
        assert sent <= 32 * MIB
        assert resident_bytes() - before < 32 * MIB


@pytest.mark.slow
async def test_a_dripping_stranger_is_cut_off_in_time() -> None:
    limits = NetworkLimits(upgrade_seconds=1.0)
    async with victim(limits) as bob:
        stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
        started = time.monotonic()
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(4):
            await stream.send_all(b"\x7f")
            while True:
                await stream.send_all(b"/")
                await trio.sleep(0.1)
        await stream.aclose()
        assert time.monotonic() - started < 3


@pytest.mark.slow
async def test_silent_sockets_do_not_keep_honest_peers_out() -> None:
    async with victim() as bob:
        silent = [await trio.open_tcp_stream("127.0.0.1", bob.port) for _ in range(300)]
        await trio.sleep(0.1)
        limits = bob.network.limits
        assert len(bob.network._doorstep) <= limits.unproved_per_host < 300
        mallory = Site(MALLORY, BOB, listen="")
        async with mallory.network.running():
            with trio.fail_after(2):
                await mallory.network.connect(BOB.public, bob.addresses)
        for stream in silent:
            await stream.aclose()
