"""Repairs of libp2p 0.8.1: what a bare host does wrong, put right below it.

Owns everything that touches the library's inner workings; `node/network.py`
uses the library only through what is here. Radmesh takes from libp2p the
multistream-select negotiation, Noise, yamux and identities, and leaves its
swarm and host aside, because those two

- die with the process when a stream handler raises (three bytes that are not
  UTF-8 are enough), or end without a word,
- keep the slot of every inbound connection for ever: none is accepted after 250,
- refuse to dial for 60 s after one failure, and hand out dead connections,
- dial peers again that were closed on purpose, and run identify with strangers.

What remains to repair in the layers that we do use:

- `SocketConnection`: a Noise message that is cut by a cancellation kills the
  whole connection (decryption fails for ever after); a frozen peer blocks a
  writer without end; a message in more than 101 TCP segments is an error; and
  a stranger's length prefix decides how much memory we set aside.
- `TrustedNoise`: any key may connect, and the plaintext protocol is on offer.
- `node/muxer_guard.py`: a peer that ignores the receive window, or opens streams
  without end, is buffered until memory is gone.
- `LineReader`: the length of a protocol name is up to the peer: 2 GiB are taken.
- `tame_logging`: the library takes its loggers out of any configuration, and a
  peer that hangs up is a warning or an error to it.

All of this leans on private parts of one version: the version is pinned, and
every repair has a test that fails without it (tests/test_node_strangers.py,
test_node_hardening.py, test_node_connections.py and test_node_network.py).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.upgrader import TransportUpgrader

from node.introduction import IntroducingNoise
from node.vouching import NOBODY, Introductions
from protocol.limits import WRITE_BLOCK_BYTES

log = logging.getLogger("radmesh.libp2p")

SEED_BYTES = 32
_LOG_LINE_CHARACTERS = 300
_EXPECTED_LOG = ("clos", "reset", "incomplete", "handshake", "negotiat", "multiselect", "eof")
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_RECEIVE_BYTES = 256 * 1024
_PROTOCOL_LINE_BYTES = 1024


@dataclass(frozen=True)
class NetworkLimits:
    """Bounds of the network layer, in seconds, bytes and counts.

    A frozen peer is noticed after `pulse_seconds + answer_seconds` by reading, after
    `stall_seconds` by writing, and in the middle of a message after `pulse_seconds +
    message_seconds`: all stay under 30 s.
    """

    dial_seconds: float = 10.0
    """For the TCP connection to one address."""
    upgrade_seconds: float = 10.0
    """For Noise and yamux on a new connection; silent sockets go after this."""
    negotiate_seconds: float = 10.0
    """For the protocol name on a new stream."""
    pulse_seconds: float = 5.0
    """A connection silent for so long is pinged."""
    answer_seconds: float = 10.0
    """A pinged connection silent for so long is closed."""
    stall_seconds: float = 15.0
    """A message of 64 KiB that does not go out in this time ends the connection."""
    message_seconds: float = 20.0
    """A message that has begun and is not whole after this time ends the connection:
    a damaged length would have us wait for bytes that are not meant for it."""
    linger_seconds: float = 10.0
    """A peer may take so long to close its half of a stream that we closed."""
    handler_grace_seconds: float = 30.0
    """A handler may outlive its connection by so much before it is cancelled."""
    unproved_per_host: int = 16
    """Connections of one address on which no key has been proved yet."""
    unproved_total: int = 150
    unproved_bytes: int = 128 * 1024
    """Read from one connection before the peer is known; a handshake takes 1 KiB."""
    connections_per_peer: int = 4
    """Two arise when both sides dial at once; more serve nobody."""
    streams_per_peer: int = 64
    """Handlers running for one peer."""
    stream_entries: int = 512
    """Streams of one connection in any state, ours and theirs."""
    frame_bytes: int = 1024 * 1024
    """Of one yamux frame of data; we send 64 KiB, the library takes 16 MiB."""
    buffered_bytes: int = 64 * 1024 * 1024
    """Received and not yet read, over all streams of one connection: four
    transfers whose readers are behind by a full credit each."""
    block_bytes: int = WRITE_BLOCK_BYTES


class SocketConnection(IRawConnection):
    """A TCP connection as libp2p's upgrader wants it.

    Reads are exact (short only at the end), so that no count of small segments
    breaks a message, and come from a buffer, which saves two of three system
    calls. Writes are whole: a caller's cancellation waits until the message is
    out, and when it does not go out within the stall limit the connection ends.

    Attributes:
        received: bytes received so far, the sign of life.
        ended: the peer, or the line, has ended it.
        partial_since: trio's time at which the first part of what is being read had
            come; None when nothing is, or nothing of it has come.
    """

    def __init__(
        self, stream: trio.SocketStream, *, is_initiator: bool, limits: NetworkLimits
    ) -> None:
        self.is_initiator = is_initiator
        self.received = 0
        self.ended = False
        self.partial_since: float | None = None
        self._stream = stream
        self._stall_seconds = limits.stall_seconds
        self._budget: int | None = limits.unproved_bytes
        self._buffer = memoryview(b"")

    def trust(self) -> None:
        """The peer has proved its key and is trusted: lift the stranger's limit."""
        self._budget = None

    async def read(self, n: int | None = None) -> bytes:
        """Exactly n bytes, fewer only when the connection ends."""
        if n is None:
            n = len(self._buffer) or 1
        if self._budget is not None:
            self._budget -= n
            if self._budget < 0:
                raise IOException("too many bytes before the peer is known")
        if n <= len(self._buffer):
            return self._take(n)
        parts = [self._take(len(self._buffer))]
        missing = n - len(parts[0])
        self.partial_since = trio.current_time() if parts[0] else None
        while missing > 0:
            try:
                data = await self._stream.receive_some(max(_RECEIVE_BYTES, missing))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.ended = True
                break
            self.received += len(data)
            self._buffer = memoryview(data)
            parts.append(self._take(min(missing, len(data))))
            missing -= len(parts[-1])
            if self.partial_since is None:
                self.partial_since = trio.current_time()
        self.partial_since = None
        return b"".join(parts)

    def _take(self, n: int) -> bytes:
        data = bytes(self._buffer[:n])
        self._buffer = self._buffer[n:]
        return data

    async def write(self, data: bytes) -> None:
        """Send all of it, cancelled or not; end the connection when that stalls.

        Raises:
            RawConnError: the one exception on which yamux gives a connection up; after
                any other it works through what it has received, with a pause each time.
        """
        deadline = trio.current_time() + self._stall_seconds
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise RawConnError("connection closed") from error
        if scope.cancelled_caught:
            self.abort()
            raise RawConnError("connection closed: the peer takes no data")

    def abort(self) -> None:
        """Close the socket now; every reader and writer wakes up, and nothing more is read."""
        self._buffer = memoryview(b"")
        self._stream.socket.close()

    async def close(self) -> None:
        """As `abort`."""
        self.abort()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the peer, when it is still there."""
        try:
            host, port = self._stream.socket.getpeername()[:2]
        except OSError:
            return None
        return host, port

    def get_transport_addresses(self) -> list[Any]:
        """None are kept; part of the interface."""
        return []

    def get_connection_type(self) -> ConnectionType:
        """Always direct; part of the interface."""
        return ConnectionType.DIRECT


class TrustedNoise(IntroducingNoise):
    """Noise that ends with a peer we trust, or not at all.

    The earliest point at which a PeerID is proved: before yamux, before any
    handler, before the peer learns a protocol name.
    """

    def __init__(
        self, seed: bytes, admit: Callable[[bytes], bool], introductions: Introductions
    ) -> None:
        # The Noise static key is vouched for by the node key in the handshake, so
        # that a fresh one for each process is as good as a stored one.
        super().__init__(host_keys(seed), noise_privkey=create_noise_key_pair().private_key)
        self._admit = admit
        self.introductions = introductions

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Answer a handshake; refuse strangers."""
        return self._check(conn, await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Start a handshake; refuse strangers."""
        return self._check(conn, await super().secure_outbound(conn, peer_id))

    def _check(self, conn: IRawConnection, session: ISecureConn) -> ISecureConn:
        public = node_public(session.get_remote_peer())
        if public is None or not self._admit(public) or not isinstance(conn, SocketConnection):
            raise HandshakeFailure("not a trusted peer")
        conn.trust()
        return session


def make_upgrader(
    seed: bytes, admit: Callable[[bytes], bool], introductions: Introductions = NOBODY
) -> TransportUpgrader:
    """The way from a TCP connection to yamux over Noise; nothing else is on offer.

    Args:
        seed: of the node key, 32 bytes.
        admit: whether a node public key may connect now.
        introductions: cards that make a new node key known.
    """
    noise = TrustedNoise(seed, admit, introductions)
    return TransportUpgrader({NOISE: noise}, {TProtocol(YAMUX): Yamux})


def host_keys(seed: bytes) -> Any:
    """The libp2p key pair of a node key.

    Raises:
        ValueError: the seed is not 32 bytes; the library would silently make a
            random key of an empty one.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError("a node key seed has 32 bytes")
    return create_new_key_pair(seed)


def node_id(public: bytes) -> ID:
    """PeerID of a node public key of 32 bytes."""
    return ID(_PEER_ID_PREFIX + public)


def node_public(peer: ID) -> bytes | None:
    """Node public key in a PeerID; None for any key that is not Ed25519."""
    raw = peer.to_bytes()
    if len(raw) != len(_PEER_ID_PREFIX) + 32 or not raw.startswith(_PEER_ID_PREFIX):
        return None
    return raw[len(_PEER_ID_PREFIX) :]


class LineReader(ReadWriteCloser):
    """A stream while its protocol is negotiated: no line is longer than 1 KiB."""

    def __init__(self, stream: YamuxStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        """As the stream, or IOException when the peer announced a longer line."""
        if n is None or n > _PROTOCOL_LINE_BYTES:
            raise IOException("protocol name too long")
        return await self._stream.read(n)

    async def write(self, data: bytes) -> None:
        """As the stream."""
        await self._stream.write(data)

    async def close(self) -> None:
        """As the stream."""
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Not needed for a negotiation."""
        return None


class _Relay(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().partition("\n")[0][:_LOG_LINE_CHARACTERS]
        expected = any(word in line.lower() for word in _EXPECTED_LOG)
        log.log(logging.DEBUG if expected else logging.WARNING, "%s: %s", record.name, line)


def tame_logging() -> None:
    """Send libp2p's log to the logger `radmesh.libp2p`, one line each, no tracebacks.

    What every peer may cause at any time (it hangs up, it does not speak our
    protocol) becomes DEBUG; `node/network.py` logs what an operator should see.
    """
    library = logging.getLogger("libp2p")
    library.handlers = [_Relay()]
    library.propagate = False
    library.setLevel(logging.WARNING)
