"""The handshake of a connection by libp2p 0.8.1, with repairs for its faults.

Owns everything that touches the library. Radmesh takes from libp2p the choice of a
security protocol by multistream-select, Noise's handshake, and identities, and leaves
the rest aside. Its swarm and host

- crash the process when a stream handler raises (three bytes that are not UTF-8 are enough), or end
  silently,
- keep the slot of every inbound connection for ever: none is accepted after 250,
- refuse to dial for 60 s after one failure, and hand out dead connections,
- dial peers again that were closed on purpose, and run identify with strangers;

its messages and its yamux copy each byte eight times and buffer what a peer sends
beyond its window (`node/network/channel.py` and `node/network/muxer.py` take their place).

Repairs of the parts that we do use, each with the faults that it repairs:

- `SocketConnection`: a Noise message that a cancellation cuts short breaks the whole connection
  (every later decryption fails); a frozen peer blocks a writer for ever; a message in more than 101
  TCP segments is an error; and a stranger's length prefix decides how much memory we set aside.
- `TrustedNoise`: any key may connect, and the plaintext protocol is offered; and a stranger's key
  of another kind is parsed, which takes seconds (`node/network/introduction.py`).
- `tame_logging`: the library detaches its loggers from any configuration, and logs a peer that
  hangs up as a warning or an error.

All of this relies on private parts of one version: the version is pinned, and every repair has a
test that fails without it (tests/node/network/test_strangers.py, test_hardening*.py,
test_connections.py and test_network.py beside it).
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from node.network.bounds import NetworkLimits
from node.network.channel import Bytes, Channel, Cipher
from node.network.introduction import IntroducingNoise
from node.network.sockets import Unreachable
from node.network.transport import Line
from node.network.vouching import NOBODY, Introductions
from protocol.pairing import PAIR_PROTOCOL

log = logging.getLogger("radmesh.libp2p")

Upgrader = TransportUpgrader
"""Upgrades a TCP connection to an encrypted one; see `make_upgrader`."""

SEED_BYTES = 32
_LOG_LINE_CHARACTERS = 300
_EXPECTED_LOG = ("clos", "reset", "incomplete", "handshake", "negotiat", "multiselect", "eof")
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_RECEIVE_BYTES = 256 * 1024


class SocketConnection(IRawConnection):
    """A line with the interface that libp2p's upgrader needs.

    Reads are exact (short only at the end), so that no count of small segments
    breaks a message, and come from a buffer, which saves two of three system
    calls. Writes are whole: a caller's cancellation waits until the message is sent, and the
    connection ends if that stalls.

    Attributes:
        received: bytes received so far, as a sign of life.
        ended: whether the peer, or the line, has ended the connection.
        partial_since: trio's time at which the first part of the message being read came; None when
            no part of one has come.
    """

    def __init__(self, line: Line, *, is_initiator: bool, limits: NetworkLimits) -> None:
        self.is_initiator = is_initiator
        self.received = 0
        self.ended = False
        self.partial_since: float | None = None
        self._line = line
        self._stall_seconds = limits.stall_seconds
        self._budget: int | None = limits.greeting_bytes
        self._handshake_bytes = limits.unproved_bytes
        self._buffer = memoryview(b"")

    def begin_handshake(self) -> None:
        """Noise was agreed on: allow as many bytes as its handshake needs."""
        self._budget = self._handshake_bytes

    def trust(self) -> None:
        """The peer has proved its key and is trusted: lift the limit for strangers."""
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
            room = memoryview(bytearray(max(_RECEIVE_BYTES, missing)))
            count = await self.receive_into(room)
            if not count:
                break
            self._buffer = memoryview(bytes(room[:count]))
            parts.append(self._take(min(missing, count)))
            missing -= len(parts[-1])
            if self.partial_since is None:
                self.partial_since = trio.current_time()
        self.partial_since = None
        return b"".join(parts)

    def _take(self, n: int) -> bytes:
        data = bytes(self._buffer[:n])
        self._buffer = self._buffer[n:]
        return data

    def take_rest(self) -> bytes:
        """Bytes that were read from the socket and that no caller has taken yet."""
        return self._take(len(self._buffer))

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; returns how many came, 0 when the connection has ended."""
        try:
            count = await self._line.receive_into(buffer)
        except (OSError, trio.ClosedResourceError):
            count = 0
        self.received += count
        if not count:
            self.ended = True
        return count

    async def write(self, data: bytes) -> None:
        """As `send`, for the handshake.

        Raises:
            RawConnError: the connection has ended; libp2p expects this error then.
        """
        try:
            await self.send([data])
        except ConnectionError as error:
            raise RawConnError("connection closed") from error

    async def send(self, parts: Sequence[Bytes]) -> None:
        """Send everything, even if cancelled; end the connection when that stalls.

        Raises:
            ConnectionError: the connection has ended.
        """
        left = list(parts)
        deadline = trio.current_time() + self._stall_seconds
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            while left:
                try:
                    count = await self._line.send_some(left)
                except (OSError, trio.ClosedResourceError) as error:
                    # A part of the message may be sent; nothing can follow it.
                    self.ended = True
                    self.abort()
                    raise ConnectionResetError("the connection is closed") from error
                left = _after(left, count)
                if left:
                    scope.deadline = trio.current_time() + self._stall_seconds
        if scope.cancelled_caught:
            self.abort()
            raise ConnectionResetError("the peer takes no data")

    def send_now(self, data: Bytes) -> None:
        """Send what the system accepts without waiting; for the last message before `abort`."""
        with contextlib.suppress(OSError):
            self._line.send_now(data)

    def abort(self) -> None:
        """Close the socket now; every reader and writer wakes up, and nothing more is read."""
        self._buffer = memoryview(b"")
        self._line.close()

    async def close(self) -> None:
        """As `abort`."""
        self.abort()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the peer, if it is still connected."""
        return self._line.address

    def get_transport_addresses(self) -> list[Any]:
        """An empty list; part of the interface."""
        return []

    def get_connection_type(self) -> ConnectionType:
        """Always direct; part of the interface."""
        return ConnectionType.DIRECT


class TrustedNoise(IntroducingNoise):
    """Noise that succeeds only with a peer we trust.

    It checks this as early as the PeerID is proved: before yamux, before any handler, before the
    peer learns a protocol name.
    """

    def __init__(
        self, seed: bytes, admit: Callable[[bytes], bool], introductions: Introductions
    ) -> None:
        # The node key signs the Noise static key in the handshake, so that a fresh static key for
        # each process is as good as a stored one.
        super().__init__(host_keys(seed), noise_privkey=create_noise_key_pair().private_key)
        self._admit = admit
        self.introductions = introductions

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Answer a handshake; refuse strangers."""
        _begin(conn)
        return self._check(conn, await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Start a handshake; refuse strangers."""
        _begin(conn)
        return self._check(conn, await super().secure_outbound(conn, peer_id))

    def _check(self, conn: IRawConnection, session: ISecureConn) -> ISecureConn:
        public = node_public(session.get_remote_peer())
        if not self._admit(public) or not isinstance(conn, SocketConnection):
            raise HandshakeFailure("not a trusted peer")
        conn.trust()
        return session


def _begin(conn: IRawConnection) -> None:
    if isinstance(conn, SocketConnection):
        conn.begin_handshake()


def _after(parts: list[Bytes], count: int) -> list[Bytes]:
    """The parts without their first `count` bytes."""
    for index, part in enumerate(parts):
        if count < len(part):
            return [memoryview(part)[count:], *parts[index + 1 :]]
        count -= len(part)
    return []


async def handshake(
    raw: SocketConnection, expected: bytes | None, upgrader: Upgrader
) -> tuple[bytes, Channel]:
    """Agree on Noise and yamux over a TCP connection.

    Args:
        raw: a fresh connection; the caller closes it on failure.
        expected: node public key of the peer we dialled; None for a caller.
        upgrader: made by `make_upgrader`.

    Returns:
        The node public key that the peer has proved, and the channel to it.

    Raises:
        PairingAsked: the caller wants to pair; nothing was said to it but that it may.
        Unreachable: with the reason.
    """
    wanted = node_id(expected) if expected is not None else None
    try:
        secured = await upgrader.upgrade_security(raw, raw.is_initiator, wanted)
        await upgrader.muxer_multistream.select_transport(secured)
        public = node_public(secured.get_remote_peer())
    except SecurityUpgradeFailure as error:
        if raw.ended:
            raise Unreachable("the peer hung up while connecting") from error
        raise Unreachable("the node there has another key or does not speak Noise") from error
    except MultiselectError as error:
        raise Unreachable("the peer hung up: it may not trust this node yet") from error
    except PairingAsked:
        raise
    except Exception as error:
        raise Unreachable("the peer hung up while connecting") from error
    return public, _channel(raw, secured)


def _channel(raw: SocketConnection, session: Any) -> Channel:
    """Take the ciphers, and bytes that were read ahead, out of libp2p's session."""
    noise = session.conn.noise_state.noise_protocol
    sending, receiving = (
        Cipher(state.cipher.cipher, state.n)
        for state in (noise.cipher_state_encrypt, noise.cipher_state_decrypt)
    )
    opened = session._drain(None)
    return Channel(raw, sending=sending, receiving=receiving, opened=opened, rest=raw.take_rest())


class PairingAsked(Exception):
    """A caller has asked for a pairing in place of Noise, and was told that it may."""


class _Offered(dict[Any, Any]):
    """What a caller may ask for: Noise, and a pairing while one is open.

    The library looks a name up here, answers, and then takes its handler from here. A pairing is
    never among the keys: it is neither listed nor proposed by us when we dial.
    """

    def __init__(self, others: dict[Any, Any], may_pair: Callable[[], bool]) -> None:
        super().__init__(others)
        self._may_pair = may_pair

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (name == PAIR_PROTOCOL and self._may_pair())

    def __getitem__(self, name: Any) -> Any:
        if name == PAIR_PROTOCOL:
            raise PairingAsked
        return super().__getitem__(name)


def make_upgrader(
    seed: bytes,
    admit: Callable[[bytes], bool],
    introductions: Introductions = NOBODY,
    may_pair: Callable[[], bool] = lambda: False,
) -> Upgrader:
    """An upgrader from TCP to yamux over Noise; it offers nothing else, but for pairing.

    Args:
        seed: of the node key, 32 bytes.
        admit: whether a node public key may connect now.
        introductions: decides about cards that make a new node key known.
        may_pair: whether a caller may pair by a code now.
    """
    noise = TrustedNoise(seed, admit, introductions)
    upgrader = TransportUpgrader({NOISE: noise}, {TProtocol(YAMUX): Yamux})
    multiselect = upgrader.security_multistream.multiselect
    multiselect.handlers = _Offered(multiselect.handlers, may_pair)
    return upgrader


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


def node_public(peer: ID) -> bytes:
    """Node public key in a PeerID.

    Raises:
        ValueError: the key is not an Ed25519 key; `IntroducingNoise` refuses those.
    """
    raw = peer.to_bytes()
    if len(raw) != len(_PEER_ID_PREFIX) + 32 or not raw.startswith(_PEER_ID_PREFIX):
        raise ValueError("not the PeerID of an Ed25519 key")
    return raw[len(_PEER_ID_PREFIX) :]


class _Relay(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().partition("\n")[0][:_LOG_LINE_CHARACTERS]
        expected = any(word in line.lower() for word in _EXPECTED_LOG)
        log.log(logging.DEBUG if expected else logging.WARNING, "%s: %s", record.name, line)


def tame_logging() -> None:
    """Send libp2p's log to the logger `radmesh.libp2p`, one line each, no tracebacks.

    Events that every peer may cause at any time (it hangs up, it does not speak our protocol)
    become DEBUG; `node/network/network.py` logs what an operator should see.
    """
    library = logging.getLogger("libp2p")
    library.handlers = [_Relay()]
    library.propagate = False
    library.setLevel(logging.WARNING)
