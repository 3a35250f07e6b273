"""The node on the network: hosts, links, and one session a connected peer.

Imported only by a process that serves, since libp2p is slow to load.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import trio

from keys.trust import Peer
from node.blocking import in_thread
from node.errors import NodeError
from node.images.arrival_windows import windows_by
from node.images.arrivals import Arrivals
from node.images.spool import Spool
from node.network.addresses import reachable
from node.network.links import Links, LinkTarget
from node.network.network import Network, NetworkLimits, PeerStream, StreamLost
from node.network.vouching import introductions
from node.receipts.reconciling import reconciling_of
from node.receipts.settling import settling_of
from node.reports.forwarding import forwarder_of
from node.sharing.announcer import Announcer
from node.sharing.endings import Endings
from node.sharing.greeting import Greeting
from node.transfer.attempts import Reach
from node.transfer.bandwidth import EVERYONE
from node.transfer.fetching import Fetcher
from node.transfer.gathering import Shelves
from node.transfer.line import Line
from node.transfer.receiving import Receiver
from node.transfer.rereading import Rereading
from node.transfer.sending import Sender
from node.witness.auditing import Answer, Auditing
from node.witness.rounds import Witnessing
from node.witness.witness import Witness
from protocol import messages
from protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from node.app import Node

log = logging.getLogger("radmesh.serving")

SESSION_RETRY_SECONDS = 1.0

TELL_SECONDS = 5.0
"""Longest wait for a connected peer to take a new card of ours; it gets the card with
the next handshake all the same."""


class Serving:
    """The parts of a node that need the network."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.token = trio.lowlevel.current_trio_token()
        key = node.keys.node
        self.announcer = Announcer(
            budgets=node.budgets,
            key=key,
            peers=node.peers,
            feeds=node.feeds,
            recalls=node.recalls,
            append=node.audit.append,
            clock=node.clock,
        )
        self.line = Line(node.settings.bandwidth)
        self.settling = settling_of(node, self._connected_peer)
        self.reconciling = reconciling_of(node, lambda: self.auditing)
        self.sender = Sender(
            key=key,
            own_facility=node.card.facility_key,
            peers=node.peers,
            catalog=node.catalog,
            store=node.store,
            append=node.audit.append_many,
            add_receipt=self.settling.countersigner.take_receipt,
            transfers=node.transfers,
            line=self.line,
            in_doubt=lambda: node.audit.halt.reason is not None,
            clock=node.clock,
            budgets=node.budgets,
            refusals=node.refusals,
        )
        self.witness = Witness(
            node.witness_store,
            own_facility=node.card.facility_key,
            key=lambda: node.keys.witness,
            append=node.audit.append,
            now=node.clock.now,
            log_keys=node.log_keys_of,
        )
        self.auditing = Auditing(
            node.peers,
            lambda peer: self.network.open_stream(peer, messages.AUDIT_PROTOCOL),
            answers={
                **self.witness.answers,
                **self._when_ready(self.settling.answers),
                **self._when_ready(self.reconciling.answers),
            },
            clock=node.clock,
            budgets=node.budgets,
        )
        self.witnessing = Witnessing(
            audit=node.audit,
            store=node.witness_store,
            doubt=node.doubt,
            peers=node.peers,
            auditing=self.auditing,
            settings=node.settings.audit,
            is_connected=self.is_connected,
            is_unreachable=lambda peer: bool(self.links.status(peer).last_error),
            on_doubt=self._stop_disclosing,
            now=node.clock.now,
        )
        self.greeting = Greeting(
            node.peers,
            lambda: node.card,
            lambda peer: self.network.open_stream(peer, messages.HELLO_PROTOCOL),
            clock=node.clock,
            budgets=node.budgets,
        )
        self.network = Network(
            key,
            listen=node.settings.listen,
            is_trusted=self._is_trusted,
            handlers={
                messages.HELLO_PROTOCOL: self._serve_hello,
                messages.CATALOG_PROTOCOL: self._serve_catalog,
                messages.STUDY_PROTOCOL: self._serve_study,
                messages.AUDIT_PROTOCOL: self.auditing.serve,
            },
            on_connected=self._connected,
            on_disconnected=self._disconnected,
            limits=NetworkLimits(block_bytes=node.settings.write_block_bytes),
            introductions=introductions(
                node.peers, node.card.facility_key, lambda: self._node.card, clock=node.clock
            ),
        )
        self.links = Links(self.network, self._targets, node.clock.now)
        self._receiver = Receiver(
            key=key,
            facility_key=node.card.facility_key,
            append=node.audit.append_many,
            add_receipt=node.audit.add_receipt,
            exchanging=self.settling.exchanging,
            announced=node.feeds.announced_by,
            clock=node.clock,
        )
        self.fetcher = Fetcher(
            receiver=self._receiver,
            shelves=Shelves(
                catalog=node.catalog,
                incoming=node.incoming,
                append=node.audit.append_many,
                transfers=node.transfers,
                free_bytes=node.free_bytes,
            ),
            peers=node.peers,
            feeds=node.feeds,
            reach=Reach(
                find=self._trusted_peer,
                open_stream=self._open_study,
                wait_connected=self.wait_connected,
                is_connected=self.is_connected,
                speaks_for=self._speaks_for,
                why_away=self._why_away,
            ),
            clock=node.clock,
            index=node.exchanges,
        )
        self.announcer.on_heard = self.fetcher.heard
        self.endings = Endings(
            peers=node.peers,
            studies=node.shared_studies,
            discards=node.discards,
            feeds=node.feeds,
            connected=self.network.connected,
            peer_changed=self.peer_changed,
            node_key_ended=self.node_key_ended,
            clock=node.clock,
            refusals=node.refusals,
        )
        self.rereading = Rereading(node.catalog, node.store, node.audit.append)
        self._spool = Spool(node.home.arrivals_path, node.store.require_free)
        self.arrivals = Arrivals(
            spool=self._spool,
            catalog=node.catalog,
            store=node.store,
            quarantine=node.home.quarantine_path,
            append=node.audit.append,
            require_sound=node.audit.halt.require_none,
            clock=node.clock,
            windows=windows_by(node.settings.arrivals),
        )
        self.forwarder = forwarder_of(node)
        self._sessions: dict[bytes, trio.CancelScope] = {}
        self._connections_changed = trio.Event()
        self._ready = trio.Event()
        self._nursery: trio.Nursery | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen, dial, announce and transfer inside this block.

        Raises:
            NodeError: the node cannot listen.
        """
        self._name_unknown_caps()
        with contextlib.closing(self._spool):
            async with self._running():
                yield

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        async with self.network.running(), trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start_soon(self.links.run)
                for peer in self.network.connected():
                    self._connected(peer)
                # Nothing is logged before those have spoken who may know more of our log.
                await self.witnessing.wait_started()
                await in_thread(self._node.record_start)
                addresses = self._node.settings.addresses or reachable(self.network.addresses)
                await in_thread(self._node.publish_addresses, addresses)
                await in_thread(self.witness.log_alerts)
                await in_thread(self._node.peers.review_contests, self._node.clock.now())
                self._ready.set()
                nursery.start_soon(self.fetcher.run)
                nursery.start_soon(self.witnessing.run)
                nursery.start_soon(self.endings.run)
                nursery.start_soon(self.rereading.run)
                nursery.start_soon(self.arrivals.run)
                if self.forwarder is not None:
                    nursery.start_soon(self.forwarder.run)
                nursery.start_soon(self.settling.run, self.auditing)
                yield
            finally:
                nursery.cancel_scope.cancel()
                self._nursery = None

    def _name_unknown_caps(self) -> None:
        """A cap for a name that nobody has does nothing, and might be thought to."""
        peers = self._node.peers.store.peers
        for rule in self._node.settings.bandwidth:
            named = any(rule.names(peer.petname, peer.fingerprint) for peer in peers)
            if rule.peer != EVERYONE and not named:
                log.warning("bandwidth in config.toml names an unknown facility: %s", rule.peer)

    # --- who is there --------------------------------------------------------------

    def _is_trusted(self, node_key: bytes) -> bool:
        return self._node.peers.store.by_node_key(node_key, self._node.clock.now()) is not None

    def _speaks_for(self, peer: Peer) -> bool:
        """Whether the node key on a peer's card is that of the peer and trusted now."""
        store, now = self._node.peers.store, self._node.clock.now()
        return store.speaks_for(peer.card.node_key, peer, now)

    def _trusted_peer(self, facility_key: bytes) -> Peer | None:
        for peer in self._node.peers.store.peers:
            if peer.facility_key == facility_key and peer.revoked is None:
                return peer
        return None

    def _connected_peer(self, facility_key: bytes) -> Peer | None:
        peer = self._trusted_peer(facility_key)
        return peer if peer is not None and self.is_peer_connected(peer) else None

    def _targets(self) -> list[LinkTarget]:
        return [
            LinkTarget(peer.card.node_key, peer.card.addresses, peer.petname)
            for peer in self._node.peers.store.peers
            if self._speaks_for(peer)
        ]

    def _why_away(self, peer: Peer) -> str:
        if peer.card.expires <= self._node.clock.now():
            return "its card has expired, and it has to show a newer one"
        return self.links.status(peer.card.node_key).last_error

    def is_connected(self, node_key: bytes) -> bool:
        """Whether a peer is connected now."""
        return node_key in self.network.connected()

    def is_peer_connected(self, peer: Peer) -> bool:
        """Whether a peer is connected now, by a key that is its own."""
        return self.is_connected(peer.card.node_key) and self._speaks_for(peer)

    async def wait_connected(self, node_key: bytes) -> None:
        """Wait until a peer is connected, or has another key; it is dialled at once."""
        self.links.poke()
        while not self.is_connected(node_key):
            if all(peer.card.node_key != node_key for peer in self._node.peers.store.peers):
                return
            await self._connections_changed.wait()

    async def keys_changed(self, role: str) -> tuple[int, int]:
        """A key of ours was replaced: tell the connected peers, then be known by it.

        Returns:
            How many trusted peers were told now, and how many were not.
        """
        now = self._node.clock.now()
        store = self._node.peers.store
        peers = [peer for peer in store.peers if peer.is_trusted(now)]
        told: set[bytes] = set()

        async def tell(node_key: bytes, peer: Peer) -> None:
            with trio.move_on_after(TELL_SECONDS):
                try:
                    # A peer for which the old key has ended cuts the connection for an answer.
                    await self.greeting.greet(node_key, peer, lambda: told.add(peer.facility_key))
                except (StreamLost, RemoteProtocolError) as error:
                    log.info("%s does not take our new card yet: %s", peer.petname, error)

        async with trio.open_nursery() as nursery:
            for node_key in self.network.connected():
                peer = store.by_node_key(node_key, now)
                if peer is not None:
                    nursery.start_soon(tell, node_key, peer)
        self.witnessing.poke()
        if role == "node":
            key = self._node.keys.node
            self.announcer.use_key(key)
            self.sender.key = key
            self._receiver.use_key(key)
            await self.network.use_key(key)
            self.links.poke()
        return len(told), len(peers) - len(told)

    def peer_changed(self, peer: Peer) -> None:
        """A peer's card or grants have changed; revocation takes effect at once."""
        self._wake_waiters()
        now = self._node.clock.now()
        store = self._node.peers.store
        speaks = store.speaks_for(peer.card.node_key, peer, now)
        if not speaks and self._nursery is not None:
            self._nursery.start_soon(self.network.close_peer, peer.card.node_key)
            current = self._node.find_peer(peer.facility_key)
            # With a card that has expired, or a contested key, a fetch waits for a newer card.
            if current is None or not current.is_trusted(now):
                self.fetcher.cancel_peer(peer.facility_key)
        if any(store.why_not(peer, grant, now) is not None for grant in ("fetch", "see")):
            self.sender.stop_peer(peer.facility_key)
        self.links.poke()
        self.witnessing.poke()
        self.announcer.announce()

    def study_changed(self, study: str) -> None:
        """A study is here, was shared, or was withdrawn, which takes effect at once."""
        self.announcer.announce()
        self.rereading.poke()
        if self._nursery is not None and self.sender.is_sending(study):
            self._nursery.start_soon(self._stop_unless_shared, study)

    async def _stop_unless_shared(self, study: str) -> None:
        row = await in_thread(self._node.catalog.study, study)
        if row is None or row.state != "shared":
            self.sender.stop_study(study)

    def node_key_ended(self, node_key: bytes) -> None:
        """Nobody speaks with this node key any more: its connection ends."""
        if self._nursery is not None:
            self._nursery.start_soon(self.network.close_peer, node_key)

    def _wake_waiters(self) -> None:
        event, self._connections_changed = self._connections_changed, trio.Event()
        event.set()
        self.settling.poke()

    def _connected(self, node_key: bytes) -> None:
        self._wake_waiters()
        if self._nursery is not None and node_key not in self._sessions:
            self._sessions[node_key] = trio.CancelScope()
            self._nursery.start_soon(self._session, node_key, self._sessions[node_key])

    def _disconnected(self, node_key: bytes) -> None:
        scope = self._sessions.pop(node_key, None)
        if scope is not None:
            scope.cancel()
        self.witnessing.disconnected(node_key)
        peer = self._node.peers.store.by_node_key(node_key, self._node.clock.now())
        if peer is not None:
            self.announcer.disconnected(peer.facility_key)
        if self._nursery is not None:
            self._nursery.start_soon(self._saw, node_key)

    async def _saw(self, node_key: bytes) -> None:
        peer = self._node.peers.store.by_node_key(node_key, self._node.clock.now())
        if peer is not None:
            try:
                await in_thread(self._node.peers.saw, peer.facility_key, self._node.clock.now())
            except NodeError as error:
                log.error("when %s was seen could not be kept: %s", peer.petname, error.message)

    # --- what waits until our log is known to be sound -----------------------------

    async def _serve_hello(self, stream: PeerStream) -> None:
        # Until then our card may name addresses where we are no more.
        await self._ready.wait()
        await self.greeting.serve(stream)

    async def _serve_catalog(self, stream: PeerStream) -> None:
        await self.witnessing.wait_checked(stream.peer)
        await self.witnessing.wait_sound()
        await self._ready.wait()
        await self.announcer.serve(stream)

    async def _serve_study(self, stream: PeerStream) -> None:
        await self.witnessing.wait_checked(stream.peer)
        # A node that the log does not say to have started discloses nothing.
        await self._ready.wait()
        await self.sender.serve(stream)

    def _when_ready(
        self, answers: dict[type[messages.Message], Answer]
    ) -> dict[type[messages.Message], Answer]:
        """The same answers, given when the log says that the node has started."""

        def waiting(answer: Answer) -> Answer:
            async def wait(peer: Peer, request: messages.Message) -> messages.Message:
                await self._ready.wait()
                return await answer(peer, request)

            return wait

        return {request: waiting(answer) for request, answer in answers.items()}

    async def _open_study(self, node_key: bytes) -> PeerStream:
        await self.witnessing.wait_checked(node_key)
        return await self.network.open_stream(node_key, messages.STUDY_PROTOCOL)

    def _stop_disclosing(self) -> None:
        for peer in self._node.peers.store.peers:
            self.sender.stop_peer(peer.facility_key)

    # --- one session a peer ----------------------------------------------------------

    async def _session(self, node_key: bytes, scope: trio.CancelScope) -> None:
        """Greet a connected peer and listen to its feed while the connection lasts."""
        with scope:
            await self._saw(node_key)
            known = self._node.peers.store.by_node_key(node_key, self._node.clock.now())
            if known is not None:
                await self.witnessing.check(known, node_key)
            await self._ready.wait()
            while True:
                peer = self._node.peers.store.by_node_key(node_key, self._node.clock.now())
                if peer is None:
                    return
                try:
                    await self.greeting.greet(node_key, peer)
                    await self.announcer.listen(
                        peer, lambda protocol: self.network.open_stream(node_key, protocol)
                    )
                except StreamLost as error:
                    log.debug("session with %s ended: %s", peer.petname, error)
                except (RemoteProtocolError, NodeError) as error:
                    log.warning("session with %s: %s", peer.petname, error)
                await trio.sleep(SESSION_RETRY_SECONDS)
