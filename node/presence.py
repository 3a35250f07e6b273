"""The trusted peers that are connected now, with one session for each connection."""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import trio

from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.errors import NodeError
from node.network.links import Links, LinkTarget
from node.network.network import Handler, Network, NetworkLimits
from node.network.pairing_line import SHUT, Door
from node.network.transport import TCP, Transport
from node.sharing.introductions import introductions

log = logging.getLogger("radmesh.presence")


class Presence:
    """The connections of a node, and the peers at their other ends.

    Args:
        node: the node.
        handlers: the function that serves each protocol.
        meet: runs the session with a peer that has connected (node key, 32 bytes);
            cancelled when the peer disconnects.
        left: called when a peer has disconnected, with the peer that its key spoke for.
        transport: carries the bytes of connections.
        door: callers who want to pair by a code.

    Attributes:
        network: listens, and opens streams.
        links: dials the peers.
    """

    def __init__(
        self,
        node: Node,
        handlers: Mapping[str, Handler],
        *,
        meet: Callable[[bytes], Awaitable[None]],
        left: Callable[[bytes, Peer | None], None],
        transport: Transport = TCP,
        door: Door = SHUT,
    ) -> None:
        self.network = Network(
            node.keys.node,
            listen=node.settings.listen,
            is_trusted=lambda node_key: self.peer(node_key) is not None,
            handlers=handlers,
            on_connected=self._connected,
            on_disconnected=self._disconnected,
            limits=NetworkLimits(block_bytes=node.settings.write_block_bytes),
            introductions=introductions(
                node.peers, node.card.facility_key, lambda: node.card, clock=node.clock
            ),
            transport=transport,
            door=door,
        )
        self.links = Links(self.network, self._targets, node.clock.now)
        self._peers = node.peers
        self._find_peer = node.find_peer
        self._clock = node.clock
        self._meet = meet
        self._left = left
        self._sessions: dict[bytes, trio.CancelScope] = {}
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """Listen, dial and run sessions inside this block; its nursery is cancelled at the end.

        Raises:
            NodeError: the node cannot listen.
        """
        async with self.network.running(), trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start_soon(self.links.run)
                for node_key in self.network.connected():
                    self._connected(node_key)
                yield nursery
            finally:
                nursery.cancel_scope.cancel()
                self._nursery = None

    # --- the peers of keys -----------------------------------------------------------

    def peer(self, node_key: bytes) -> Peer | None:
        """The peer that a node key speaks for now; None when it speaks for nobody."""
        return self._peers.store.by_node_key(node_key, self._clock.now())

    def speaks_for(self, peer: Peer) -> bool:
        """Whether the node key on a peer's card belongs to the peer and is trusted now."""
        return self._peers.store.speaks_for(peer.card.node_key, peer, self._clock.now())

    def trusted_peer(self, facility_key: bytes) -> Peer | None:
        """The peer with a facility key, unless its trust was revoked."""
        peer = self._find_peer(facility_key)
        return peer if peer is not None and peer.revoked is None else None

    def peer_to_ask(self, facility_key: bytes) -> Peer | None:
        """As `trusted_peer`; None also when trust has ended by its date."""
        peer = self.trusted_peer(facility_key)
        return peer if peer is not None and peer.is_trusted(self._clock.now()) else None

    # --- connected peers -------------------------------------------------------------

    def is_connected(self, node_key: bytes) -> bool:
        """Whether a node key is connected now."""
        return node_key in self.network.connected()

    def is_peer_connected(self, peer: Peer) -> bool:
        """Whether a peer is connected now, with a key that belongs to it."""
        return self.is_connected(peer.card.node_key) and self.speaks_for(peer)

    def connected_peer(self, facility_key: bytes) -> Peer | None:
        """The peer with a facility key, if it is connected now."""
        peer = self.trusted_peer(facility_key)
        return peer if peer is not None and self.is_peer_connected(peer) else None

    def why_away(self, peer: Peer) -> str:
        """Why a peer is not connected, or "" if we do not know."""
        if peer.card.expires <= self._clock.now():
            return "its card has expired, and it has to show a newer one"
        return self.links.status(peer.card.node_key).last_error

    async def wait_connected(self, node_key: bytes) -> None:
        """Dial a peer at once, and wait until it is connected or has another key."""
        self.links.poke()
        while not self.is_connected(node_key):
            if all(peer.card.node_key != node_key for peer in self._peers.store.peers):
                return
            await self._changed.wait()

    def wake_waiters(self) -> None:
        """Let `wait_connected` look again: something has changed."""
        event, self._changed = self._changed, trio.Event()
        event.set()

    def hang_up(self, node_key: bytes) -> None:
        """End the connection of a node key that speaks for nobody any more."""
        if self._nursery is not None:
            self._nursery.start_soon(self.network.close_peer, node_key)

    def _targets(self) -> list[LinkTarget]:
        return [
            LinkTarget(peer.card.node_key, peer.card.addresses, peer.petname)
            for peer in self._peers.store.peers
            if self.speaks_for(peer)
        ]

    # --- connecting and disconnecting -------------------------------------------------

    def _connected(self, node_key: bytes) -> None:
        self.wake_waiters()
        if self._nursery is not None and node_key not in self._sessions:
            self._sessions[node_key] = trio.CancelScope()
            self._nursery.start_soon(self._session, node_key, self._sessions[node_key])

    async def _session(self, node_key: bytes, scope: trio.CancelScope) -> None:
        with scope:
            await self._saw(node_key)
            await self._meet(node_key)

    def _disconnected(self, node_key: bytes) -> None:
        scope = self._sessions.pop(node_key, None)
        if scope is not None:
            scope.cancel()
        self._left(node_key, self.peer(node_key))
        if self._nursery is not None:
            self._nursery.start_soon(self._saw, node_key)

    async def _saw(self, node_key: bytes) -> None:
        peer = self.peer(node_key)
        if peer is not None:
            try:
                await in_thread(self._peers.saw, peer.facility_key, self._clock.now())
            except NodeError as error:
                log.error("when %s was seen could not be kept: %s", peer.petname, error.message)
