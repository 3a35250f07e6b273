"""What strangers try against a node, on real sockets.

One test per repair of libp2p; each fails when its repair is taken out.
"""

import contextlib

import pytest
import trio
import trio.testing
from Crypto.Util.asn1 import DerSequence
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.keys import PublicKey
from libp2p.crypto.pb import crypto_pb2
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise import messages as noise_messages
from libp2p.security.noise.messages import NoiseExtensions, NoiseHandshakePayload
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.noise.pb import noise_pb2
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader
from network_nodes import ALICE, BOB, FAST, MALLORY, Site, resident_bytes, until, victim

from node.network import hardening
from node.network.hardening import SocketConnection
from node.network.network import Unreachable
from node.network.transport import TcpLine

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


@pytest.fixture
def slow_clock(mock_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """A tenth of the speed of the wall's: seconds are those of a busy machine."""
    mock_clock.rate = 0.1
    return mock_clock


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
        raw = SocketConnection(TcpLine(stream), is_initiator=True, limits=FAST)
        with pytest.raises(SecurityUpgradeFailure):
            await plain.upgrade_security(raw, True, hardening.node_id(BOB.public))
        raw.abort()
        assert bob.came == {ALICE.public: 1}


class _RsaPayload(NoiseHandshakePayload):
    """Names a private RSA key whose factors take libp2p seconds to test."""

    def serialize(self) -> bytes:
        p, q = (1 << 11_213) - 1, (1 << 4_423) - 1
        der = DerSequence([0, p * q, 5, 5, p, q, 1, 1, 1]).encode()
        key = crypto_pb2.PublicKey(key_type=crypto_pb2.KeyType.RSA, data=der)
        return noise_pb2.NoiseHandshakePayload(
            identity_key=key.SerializeToString(), identity_sig=bytes(64)
        ).SerializeToString()


class _RsaPattern(PatternXX):
    def make_handshake_payload(
        self, extensions: NoiseExtensions | None = None
    ) -> NoiseHandshakePayload:
        payload = super().make_handshake_payload(extensions)
        return _RsaPayload(payload.id_pubkey, payload.id_sig)


class _RsaNoise(Noise):
    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._pattern().handshake_inbound(conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self._pattern().handshake_outbound(conn, None)

    def _pattern(self) -> PatternXX:
        return _RsaPattern(self.local_peer, self.libp2p_privkey, self.noise_privkey)


def _rsa_upgrader() -> TransportUpgrader:
    static = create_new_key_pair().private_key
    noise = _RsaNoise(hardening.host_keys(MALLORY.seed), noise_privkey=static)
    return TransportUpgrader({NOISE: noise}, {YAMUX: Yamux})


@pytest.fixture
def kinds_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The kinds of key that libp2p reads from handshakes, as it reads them."""
    kinds: list[int] = []
    read = noise_messages.deserialize_public_key

    def read_and_tell(data: bytes) -> PublicKey:
        kinds.append(crypto_pb2.PublicKey.FromString(data).key_type)
        return read(data)

    monkeypatch.setattr(noise_messages, "deserialize_public_key", read_and_tell)
    return kinds


async def test_a_callers_key_of_another_kind_is_refused_unread(kinds_read: list[int]) -> None:
    async with victim() as bob:
        stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
        raw = SocketConnection(TcpLine(stream), is_initiator=True, limits=FAST)
        kinds_read.clear()
        await _rsa_upgrader().upgrade_security(raw, True, hardening.node_id(BOB.public))
        assert await raw.receive_into(memoryview(bytearray(1))) == 0
        # The caller has read Bob's key, and Bob not the caller's.
        assert kinds_read == [crypto_pb2.KeyType.Ed25519]
        raw.abort()


async def test_a_key_of_another_kind_at_an_address_that_we_call_is_refused_unread(
    kinds_read: list[int],
) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        raw = SocketConnection(TcpLine(stream), is_initiator=False, limits=FAST)
        with pytest.raises(SecurityUpgradeFailure):
            await _rsa_upgrader().upgrade_security(raw, False)
        raw.abort()

    alice = Site(ALICE, BOB, listen="")
    async with alice.network.running(), trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(Unreachable):
            await alice.network.connect(BOB.public, [f"/ip4/127.0.0.1/tcp/{port}"])
        assert kinds_read == []
        nursery.cancel_scope.cancel()


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


async def test_a_strangers_length_prefix_does_not_decide_what_we_read(
    slow_clock: trio.testing.MockClock,
) -> None:
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


async def test_a_stranger_that_asks_without_end_is_not_answered_for_long(
    slow_clock: trio.testing.MockClock,
) -> None:
    async with victim() as bob:
        stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
        answered = 0
        with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"\x13/multistream/1.0.0\n" + b"\x01\n" * 50_000)
            while answer := await stream.receive_some(65_536):
                answered += len(answer)
        await stream.aclose()
        assert answered < 8192


async def test_a_dripping_stranger_is_cut_off_in_time(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 1
    async with victim() as bob:
        stream = await trio.open_tcp_stream("127.0.0.1", bob.port)
        # Time goes on by the drips alone: half a second each.
        mock_clock.rate, drips = 0, 0
        await stream.send_all(b"\x7f")
        with contextlib.suppress(trio.BrokenResourceError):
            while drips < 100:
                await stream.send_all(b"/")
                await trio.testing.wait_all_tasks_blocked(0)
                mock_clock.jump(0.5)
                await trio.testing.wait_all_tasks_blocked(0)
                drips += 1
        mock_clock.rate = 1
        await stream.aclose()
        limit = bob.network.limits.upgrade_seconds
        assert limit <= drips / 2 <= limit + 2


@pytest.mark.slow
async def test_silent_sockets_do_not_keep_honest_peers_out(
    slow_clock: trio.testing.MockClock,
) -> None:
    async with victim() as bob:
        limits = bob.network.limits
        silent = [await trio.open_tcp_stream("127.0.0.1", bob.port) for _ in range(300)]
        await until(lambda: len(bob.network._doorstep) == limits.unproved_per_host)
        assert limits.unproved_per_host < 300
        mallory = Site(MALLORY, BOB, listen="")
        async with mallory.network.running():
            # Before the silent ones have to go by themselves.
            with trio.fail_after(limits.upgrade_seconds - 1):
                await mallory.network.connect(BOB.public, bob.addresses)
        assert len(bob.network._doorstep) <= limits.unproved_per_host
        for stream in silent:
            await stream.aclose()
