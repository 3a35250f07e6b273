"""The node's network: listens, dials, and knows which peers are connected.

Owns the listening sockets and the list of connections; `node/network/connection.py` owns a single
connection. Other modules decide who is trusted, which peers to dial and what is said on a stream.
Only `node/network/hardening.py` touches libp2p.

Both sides may dial at once, so a peer can have two connections: it counts as connected while either
lives, and new streams use the newest.
"""

import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import trio

from keys.identity import KeyPair, peer_id
from node.network import hardening
from node.network.bounds import NetworkLimits
from node.network.connection import Connection, Handler, Shared, upgrade
from node.network.hardening import PairingAsked, SocketConnection
from node.network.pairing_line import SHUT, Door, PairingLine
from node.network.sockets import Doorstep, Unreachable
from node.network.streams import PeerStream, PeerTimeout, StreamLost
from node.network.transport import TCP, Line, Transport
from node.network.vouching import NOBODY, Introductions

__all__ = [
    "Handler",
    "Network",
    "NetworkLimits",
    "PeerStream",
    "PeerTimeout",
    "StreamLost",
    "Unreachable",
]

log = logging.getLogger("radmesh.network")

Watcher = Callable[[bytes], None]


class Network:
    """Connections to trusted peers, and the handlers of their streams.

    Args:
        node_key: the node's identity; its PeerID is this key.
        listen: multiaddrs such as "/ip4/0.0.0.0/tcp/4101"; port 0 lets the system pick.
        is_trusted: whether a node public key (32 bytes) may connect now. Called for each connection
            and each stream.
        handlers: protocol id to the coroutine that serves one stream of it. The
            stream is finished when the handler returns and reset when it raises.
        on_connected: called once when a peer becomes connected; must not block.
        on_disconnected: called once when its last connection is gone.
        limits: bounds; the defaults are for production.
        introductions: decides about cards by which peers recognise each other.
        transport: carries the bytes.
        door: callers who want to pair by a code.
    """

    def __init__(
        self,
        node_key: KeyPair,
        *,
        listen: Sequence[str],
        is_trusted: Callable[[bytes], bool],
        handlers: Mapping[str, Handler],
        on_connected: Watcher | None = None,
        on_disconnected: Watcher | None = None,
        limits: NetworkLimits | None = None,
        introductions: Introductions = NOBODY,
        transport: Transport = TCP,
        door: Door = SHUT,
    ) -> None:
        self._transport = transport
        self._door = door
        self.limits = limits or NetworkLimits()
        self._node_key = node_key
        self.addresses: list[str] = []
        self._listen = tuple(listen)
        self._is_trusted = is_trusted
        self._watchers: list[tuple[Watcher | None, Watcher | None]] = []
        self._connections: dict[bytes, list[Connection]] = {}
        self._doorstep = Doorstep(self.limits.unproved_per_host, self.limits.unproved_total)
        self._nursery: trio.Nursery | None = None
        self._introductions = introductions
        self._handlers = dict(handlers)
        self._handling: Counter[bytes] = Counter()
        self._shared = self._as(node_key)
        self.watch(on_connected, on_disconnected)

    def _as(self, node_key: KeyPair) -> Shared:
        """The parts that connections under this key share."""
        return Shared(
            upgrader=hardening.make_upgrader(
                node_key.seed, self._may_connect, self._introductions, self._door.is_open
            ),
            limits=self.limits,
            handlers=self._handlers,
            is_trusted=self._is_trusted,
            handling=self._handling,
            joined=lambda connection: self._joined(connection, node_key),
            left=self._left,
        )

    def watch(self, on_connected: Watcher | None, on_disconnected: Watcher | None) -> None:
        """Add callbacks for peers that come and go; a callback must not block."""
        self._watchers.append((on_connected, on_disconnected))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen and serve inside this block; leaving it takes under two seconds.

        Raises:
            NodeError: an address cannot be listened on; nothing is left open.
        """
        hardening.tame_logging()
        listeners = await self._transport.listen(self._listen)
        self.addresses = [listener.address for listener in listeners]
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if listeners:
                    nursery.start_soon(trio.serve_listeners, self._accept, listeners)
                try:
                    yield
                except BaseException as raised:
                    error = raised
                    raise
                finally:
                    self._nursery = None
                    # A writer to a frozen peer is shielded from cancellation; only this wakes it.
                    for connection in itertools.chain(*self._connections.values()):
                        connection.end()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # Raise the body's own error as it is, not in a group.
            if error is not None and group.exceptions == (error,):
                raise error from None
            raise
        finally:
            self.addresses = []
            for listener in listeners:
                listener.close()

    def connected(self) -> set[bytes]:
        """Node public keys of the peers that are connected now."""
        return set(self._connections)

    async def connect(self, node_public: bytes, addresses: Sequence[str]) -> None:
        """Connect to a peer unless it is connected; tries the addresses in order.

        Raises:
            Unreachable: with the reason for each address.
        """
        if node_public in self._connections:
            return
        if not self._is_trusted(node_public):
            raise Unreachable("this node does not trust the peer")
        reasons: list[str] = []
        for address in addresses:
            try:
                seconds = self.limits.dial_seconds
                line = await self._transport.dial(address, timeout_seconds=seconds)
                await self._start(line, node_public)
            except Unreachable as error:
                reasons.append(error.message)
            if node_public in self._connections:
                return
        raise Unreachable("; ".join(dict.fromkeys(reasons)) or "no address is known")

    async def probe(self, addresses: Sequence[str]) -> dict[str, str]:
        """Make a connection to each address at once, and end it.

        Returns:
            For each address why that failed, or "".
        """
        found: dict[str, str] = {}

        async def look(address: str) -> None:
            try:
                line = await self._transport.dial(
                    address, timeout_seconds=self.limits.dial_seconds / 2
                )
                line.close()
                found[address] = ""
            except Unreachable as error:
                found[address] = error.message

        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(look, address)
        return {address: found[address] for address in addresses}

    async def open_stream(
        self, node_public: bytes, protocol_id: str, *, timeout_seconds: float = 20.0
    ) -> PeerStream:
        """Open a stream to a connected peer; use it with `async with`.

        It does not wait for the peer, which may not speak this protocol: then a read or write
        raises StreamLost, or PeerTimeout if no answer has come `timeout_seconds` from now.

        Raises:
            StreamLost: not connected, the connection broke, or 256 streams to the peer
                are open.
        """
        connections = self._connections.get(node_public)
        if not connections:
            raise StreamLost("the peer is not connected")
        return await connections[-1].open_stream(protocol_id, timeout_seconds)

    async def close_peer(self, node_public: bytes) -> None:
        """Cut all connections to a peer at once, with every stream on them."""
        connections = self._connections.pop(node_public, [])
        for connection in connections:
            connection.end()
        if connections:
            self._announce(node_public)
        await trio.lowlevel.checkpoint()

    async def close_untrusted(self) -> None:
        """Cut the peers that are no longer trusted; call after a revocation."""
        for node_public in self.connected():
            if not self._is_trusted(node_public):
                await self.close_peer(node_public)

    async def use_key(self, node_key: KeyPair) -> None:
        """Use another node key from now on; cuts all connections."""
        self._node_key = node_key
        self._shared = self._as(node_key)
        for node_public in self.connected():
            await self.close_peer(node_public)

    def _may_connect(self, node_public: bytes) -> bool:
        # A card with our key and our address on it would make us talk to ourselves.
        if node_public == self._node_key.public:
            return False
        if len(self._connections.get(node_public, ())) >= self.limits.connections_per_peer:
            return False
        return self._is_trusted(node_public)

    async def _accept(self, line: Line) -> None:
        host = line.host
        raw = SocketConnection(line, is_initiator=False, limits=self.limits)
        connection: Connection | None = None
        wants_to_pair = False
        try:
            with self._doorstep.wait(host):
                with trio.move_on_after(self.limits.upgrade_seconds):
                    connection = await upgrade(raw, None, self._shared)
        except Unreachable as error:
            log.debug("a caller from %s was refused: %s", host or "?", error.__cause__)
        except PairingAsked:
            wants_to_pair = True
        try:
            if wants_to_pair:
                await self._door.serve(PairingLine(raw, host))
            elif connection is not None:
                await connection.run()
        finally:
            raw.abort()

    async def _start(self, line: Line, node_public: bytes) -> None:
        raw = SocketConnection(line, is_initiator=True, limits=self.limits)
        connection: Connection | None = None
        ready = False
        try:
            with trio.move_on_after(self.limits.upgrade_seconds):
                connection = await upgrade(raw, node_public, self._shared)
            if connection is None:
                raise Unreachable("the peer accepted the connection and said nothing")
            if self._nursery is None:
                raise Unreachable("this node is stopping")
            ready = await self._nursery.start(connection.run)
            if not ready:
                raise Unreachable("the peer has connected in the meantime")
        finally:
            if not ready:
                raw.abort()

    def _joined(self, connection: Connection, node_key: KeyPair) -> bool:
        # Since the handshake, trust may have been revoked, our key replaced, or other connections
        # made.
        if self._nursery is None or node_key is not self._node_key:
            return False
        if not self._may_connect(connection.peer):
            return False
        group = self._connections.setdefault(connection.peer, [])
        group.append(connection)
        if len(group) == 1:
            self._announce(connection.peer)
        return True

    def _left(self, connection: Connection) -> None:
        group = self._connections.get(connection.peer, [])
        if connection not in group:
            return
        group.remove(connection)
        if not group:
            del self._connections[connection.peer]
            self._announce(connection.peer)

    def _announce(self, node_public: bytes) -> None:
        here = node_public in self._connections
        log.info("%s %s", peer_id(node_public), "connected" if here else "disconnected")
        for on_connected, on_disconnected in self._watchers:
            callback = on_connected if here else on_disconnected
            if callback is None:
                continue
            try:
                callback(node_public)
            except Exception:
                log.exception("a callback for a peer that came or went failed")
