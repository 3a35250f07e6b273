"""A node on the network: starts its parts, and passes changes on to them.

Imported only by a process that serves, since libp2p is slow to load.
"""

import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeVar

import trio

from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread, watch_loop
from node.edge_parts import (
    archiving_of,
    bring_of,
    commitment_reports_of,
    commitment_services_of,
    dicomweb_of,
    dimse_of,
    folders_of,
    indexed_archives_of,
    prefetch_of,
    query_services_of,
    retrievals_of,
    told_of,
)
from node.edges.indexing import Indexing
from node.errors import NodeError
from node.images.spool import Spool
from node.memory import give_back_when_quiet
from node.network.addresses import reachable
from node.network.network import PeerStream, StreamLost
from node.network.transport import TCP, Transport
from node.parts import (
    announcer_of,
    arrivals_of,
    endings_of,
    fetcher_of,
    find_answers_of,
    finder_of,
    follower_of,
    forwarder_of,
    granting_of,
    greeting_of,
    log_queries_of,
    notices_of,
    offering_of,
    pairings_of,
    receiver_of,
    reconciling_of,
    sender_of,
    settling_of,
    stating_of,
    witness_of,
    witnessing_of,
)
from node.presence import Presence
from node.sharing.log_queries import Answer
from node.transfer.awaited import AwaitedFetches
from node.transfer.bandwidth import EVERYONE
from node.transfer.rereading import Rereading
from node.transfer.source_worker import Reach
from node.transfer.uplink import Uplink
from protocol import messages
from protocol.errors import RemoteProtocolError
from protocol.messages import Record

log = logging.getLogger("radmesh.serving")

T = TypeVar("T")

SESSION_RETRY_SECONDS = 1.0

STOP_SECONDS = 3.0
"""Longest wait for the last entries at a stop."""

TELL_SECONDS = 5.0
"""Longest wait for a connected peer to take a new card of ours; it gets the card with
the next handshake all the same."""


@contextlib.asynccontextmanager
async def serving(node: Node, transport: Transport = TCP) -> AsyncIterator["Serving"]:
    """Run a node's network inside this block.

    Args:
        node: the node.
        transport: carries the bytes of its connections.

    Raises:
        NodeError: the node cannot listen.
    """
    watch_loop()
    await in_thread(node.clean_up)
    running = Serving(node, transport)
    with _told(node, running):
        async with running.running():
            node.started_ms = node.clock.now_ms()
            try:
                yield running
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_SECONDS):
                    await in_thread(node.record_stop)


@contextlib.contextmanager
def _told(node: Node, running: "Serving") -> Iterator[None]:
    """Pass changes from any thread on to the trio thread."""
    token = trio.lowlevel.current_trio_token()

    def soon(action: Callable[[T], None]) -> Callable[[T], None]:
        def run(what: T) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(action, what)

        return run

    before = node.on_study_change, node.on_peer_change, node.stored.on_change
    node.on_study_change = soon(running.study_changed)
    node.on_peer_change = soon(running.peer_changed)
    stored = soon(lambda _: running.stating.poke())
    node.stored.on_change = lambda: stored(None)
    queue = soon(lambda _: running.archiving.poke())
    node.archive_queue.on_change = lambda: queue(None)
    try:
        yield
    finally:
        node.on_study_change, node.on_peer_change, node.stored.on_change = before
        node.archive_queue.on_change = lambda: None
        node.started_ms = None


class Serving:
    """The parts of a node that need the network."""

    def __init__(self, node: Node, transport: Transport = TCP) -> None:
        self._node = node
        self._ready = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.pairings = pairings_of(node, transport)
        self.presence = Presence(
            node,
            {
                messages.HELLO_PROTOCOL: self._serve_hello,
                messages.CATALOG_PROTOCOL: self._serve_catalog,
                messages.STUDY_PROTOCOL: self._serve_study,
                messages.AUDIT_PROTOCOL: lambda stream: self.log_queries.serve(stream),
                messages.FIND_PROTOCOL: self._serve_find,
                messages.GRANTS_PROTOCOL: self._serve_grants,
                messages.OFFERS_PROTOCOL: self._serve_offers,
            },
            meet=self._meet,
            left=self._left,
            transport=transport,
            door=self.pairings.door,
        )
        self.network, self.links = self.presence.network, self.presence.links
        self.announcer = announcer_of(node)
        self.greeting = greeting_of(node, lambda peer: self._open(peer, messages.HELLO_PROTOCOL))
        self.granting = granting_of(node, lambda peer: self._open(peer, messages.GRANTS_PROTOCOL))
        self.settling = settling_of(node, self.presence.connected_peer)
        self.stating = stating_of(node, self.presence.peer, lambda: self.log_queries)
        self.reconciling = reconciling_of(node, lambda: self.log_queries)
        self.witness = witness_of(node)
        self.log_queries = log_queries_of(
            node,
            lambda peer: self._open(peer, messages.AUDIT_PROTOCOL),
            {
                **self.witness.answers,
                **self._when_ready(self.settling.answers),
                **self._when_ready(self.stating.answers),
                **self._when_ready(self.reconciling.answers),
            },
        )
        self.witnessing = witnessing_of(
            node,
            self.log_queries,
            is_connected=self.presence.is_connected,
            is_unreachable=lambda peer: bool(self.links.status(peer).last_error),
            on_doubt=self._stop_disclosing,
        )
        self.find_answers = find_answers_of(node)
        self.finder = finder_of(node, self._open_find)
        self.line = Uplink(node.settings.bandwidth)
        self.sender = sender_of(
            node,
            self.line,
            self.settling.countersigner.take_receipt,
            bring_of(node, lambda: self.retrievals),
        )
        self._receiver = receiver_of(node, self.settling)
        self.fetcher = fetcher_of(
            node,
            self._receiver,
            Reach(
                find=self.presence.trusted_peer,
                open_stream=self._open_study,
                wait_connected=self.presence.wait_connected,
                is_connected=self.presence.is_connected,
                speaks_for=self.presence.speaks_for,
                why_away=self.presence.why_away,
            ),
        )
        self.offering = offering_of(
            node, lambda peer: self._open(peer, messages.OFFERS_PROTOCOL), self.fetcher
        )
        self.follower = follower_of(node, self.fetcher, self.presence.peer_to_ask)
        self.announcer.in_keeping = node.followed.heard
        self.announcer.on_heard = self._heard
        node.transfers.on_end = self._transfer_ended
        self.endings = endings_of(
            node,
            connected=self.network.connected,
            peer_changed=self.peer_changed,
            node_key_ended=self.presence.hang_up,
        )
        self.rereading = Rereading(node.catalog, node.store, node.audit.append)
        self._spool = Spool(node.home.arrivals_path, node.store.require_free)
        self.archiving = archiving_of(node)
        self.prefetch = prefetch_of(node, self.fetcher, self.finder)
        self.arrivals = arrivals_of(node, self._spool, self.archiving)
        indexed = indexed_archives_of(node, self.arrivals)
        self.indexing = Indexing(indexed, node.indexed, node.clock)
        self.retrievals = retrievals_of(node, self.arrivals, indexed)
        self.commitment_reports = commitment_reports_of(node, self.arrivals)
        told = told_of(node)
        services = {
            **commitment_services_of(node, self.commitment_reports),
            **query_services_of(
                node,
                node.settings.dimse,
                told,
                self.finder.ask,
                AwaitedFetches(self.fetcher, node.transfers).fetch,
                self.presence.is_connected,
            ),
        }
        self.dimse = dimse_of(node, self.arrivals, services)
        self.folders = folders_of(node, self.arrivals)
        self.dicomweb = dicomweb_of(node, self.arrivals, self.fetcher, told)
        self.forwarder = forwarder_of(node)
        # Runs above: what stands is read from all parts together.
        self.notices = notices_of(node)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen, dial, announce and transfer inside this block.

        Raises:
            NodeError: the node cannot listen.
        """
        self._name_unknown_caps()
        with contextlib.closing(self._spool):
            if self.dimse is not None:
                await self.dimse.open()
            if self.dicomweb is not None:
                await self.dicomweb.open()
            async with self._running():
                yield

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        async with self.presence.running() as nursery:
            self._nursery = nursery
            try:
                # First, wait for peers that may hold a later checkpoint of our log.
                await self.witnessing.wait_started()
                await in_thread(self._node.record_start)
                addresses = self._node.settings.addresses or reachable(self.network.addresses)
                await in_thread(self._node.publish_addresses, addresses)
                await in_thread(self.witness.log_alerts)
                await in_thread(self._node.peers.review_contests, self._node.clock.now())
                self._ready.set()
                nursery.start_soon(self.fetcher.run)
                nursery.start_soon(self.follower.run)
                nursery.start_soon(self.offering.run)
                nursery.start_soon(self.witnessing.run)
                nursery.start_soon(self.endings.run)
                nursery.start_soon(self._node.keeping.run)
                nursery.start_soon(self.rereading.run)
                nursery.start_soon(self.finder.run)
                nursery.start_soon(self.arrivals.run)
                nursery.start_soon(self.archiving.run)
                nursery.start_soon(self.indexing.run)
                nursery.start_soon(self.retrievals.run)
                nursery.start_soon(self.prefetch.run)
                if self.dimse is not None:
                    nursery.start_soon(self.dimse.run)
                if self.dicomweb is not None:
                    nursery.start_soon(self.dicomweb.run)
                nursery.start_soon(self.commitment_reports.run)
                nursery.start_soon(self._node.commitments.run)
                for folder in self.folders:
                    nursery.start_soon(folder.run)
                nursery.start_soon(
                    self._node.doors.run, self.arrivals.studies, self.arrivals.next_packing
                )
                if self.forwarder is not None:
                    nursery.start_soon(self.forwarder.run)
                nursery.start_soon(self.settling.run, self.log_queries)
                nursery.start_soon(give_back_when_quiet)
                yield
            finally:
                self._nursery = None

    def _name_unknown_caps(self) -> None:
        """Warn about caps for unknown facilities, which have no effect."""
        peers = self._node.peers.store.peers
        for rule in self._node.settings.bandwidth:
            named = any(rule.names(peer.petname, peer.fingerprint) for peer in peers)
            if rule.peer != EVERYONE and not named:
                log.warning("bandwidth in config.toml names an unknown facility: %s", rule.peer)

    # --- what changes ---------------------------------------------------------------

    async def keys_changed(self, role: str) -> tuple[int, int]:
        """Announce a replaced key of ours to connected peers, then use the new key.

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
                    # A peer for which the old key has ended disconnects instead of answering.
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
        """Apply a change of a peer's card or grants; revocation takes effect at once."""
        self.presence.wake_waiters()
        self.settling.poke()
        now = self._node.clock.now()
        store = self._node.peers.store
        if not self.presence.speaks_for(peer) and self._nursery is not None:
            self.presence.hang_up(peer.card.node_key)
            current = self._node.find_peer(peer.facility_key)
            # With a card that has expired, or a contested key, a fetch waits for a newer card.
            if current is None or not current.is_trusted(now):
                self.fetcher.cancel_peer(peer.facility_key)
        offered = self._node.offers.rules(peer.facility_key)
        actions = ("fetch", "emergency")
        if all(
            store.why_never(one, peer.facility_key, now, offered) is not None for one in actions
        ):
            self.sender.stop_peer(peer.facility_key)
        elif self._nursery is not None and self.sender.sessions(peer.facility_key):
            self._nursery.start_soon(
                functools.partial(self.sender.stop_ended, facility_key=peer.facility_key)
            )
        self.links.poke()
        self.witnessing.poke()
        self.announcer.announce()
        self.granting.poke()
        self.offering.poke()
        self.follower.poke()

    def _heard(self, facility_key: bytes, records: Sequence[Record]) -> None:
        self.fetcher.heard(facility_key, records)
        self.follower.heard(facility_key, records)

    def _transfer_ended(self) -> None:
        self.settling.poke()
        self.stating.poke()
        self.follower.poke()

    def study_changed(self, study: str) -> None:
        """Apply a change of a study: it came, was shared, or was withdrawn; the last at once."""
        self.announcer.announce()
        self.rereading.poke()
        self.follower.poke()
        self.prefetch.study_came(study)
        if self._nursery is not None:
            for peer in self.sender.receivers(study):
                self._nursery.start_soon(self._stop_unless_allowed, study, peer)

    async def _stop_unless_allowed(self, study: str, peer: bytes) -> None:
        def state() -> str:
            facts = self._node.facts.of(self._node.catalog.study(study), peer)
            return "" if facts is None else facts.state

        try:
            is_shared = await in_thread(state) == "shared"
        except NodeError as error:
            log.error("a transfer is ended, as its right cannot be read: %s", error.message)
            is_shared = False
        if not is_shared:
            self.sender.stop_study(study, peer)
        await self.sender.stop_ended(facility_key=peer, study=study)

    def _stop_disclosing(self) -> None:
        for peer in self._node.peers.store.peers:
            self.sender.stop_peer(peer.facility_key)

    # --- protocols that wait until our log is known to be sound --------------------

    async def _serve_hello(self, stream: PeerStream) -> None:
        # Until then our card may list addresses that we no longer listen on.
        await self._ready.wait()
        await self.greeting.serve(stream)

    async def _serve_grants(self, stream: PeerStream) -> None:
        await self._ready.wait()
        await self.granting.serve(stream)

    async def _serve_offers(self, stream: PeerStream) -> None:
        await self.witnessing.wait_checked(stream.peer)
        await self._ready.wait()
        await self.offering.serve(stream)

    async def _serve_catalog(self, stream: PeerStream) -> None:
        await self.witnessing.wait_checked(stream.peer)
        await self.witnessing.wait_sound()
        await self._ready.wait()
        await self.announcer.serve(stream)

    async def _serve_study(self, stream: PeerStream) -> None:
        await self.witnessing.wait_checked(stream.peer)
        # The node discloses nothing before its start is logged.
        await self._ready.wait()
        await self.sender.serve(stream)

    async def _serve_find(self, stream: PeerStream) -> None:
        await self.witnessing.wait_checked(stream.peer)
        await self._ready.wait()
        await self.find_answers.serve(stream)

    def _when_ready(
        self, answers: dict[type[messages.Message], Answer]
    ) -> dict[type[messages.Message], Answer]:
        """The same answers, delayed until the node's start is logged."""

        def waiting(answer: Answer) -> Answer:
            async def wait(peer: Peer, request: messages.Message) -> messages.Message:
                await self._ready.wait()
                return await answer(peer, request)

            return wait

        return {request: waiting(answer) for request, answer in answers.items()}

    async def _open(self, node_key: bytes, protocol: str) -> PeerStream:
        return await self.network.open_stream(node_key, protocol)

    async def _open_find(self, node_key: bytes) -> PeerStream:
        await self.witnessing.wait_checked(node_key)
        return await self._open(node_key, messages.FIND_PROTOCOL)

    async def _open_study(self, node_key: bytes) -> PeerStream:
        await self.witnessing.wait_checked(node_key)
        return await self._open(node_key, messages.STUDY_PROTOCOL)

    # --- one session a peer ----------------------------------------------------------

    async def _meet(self, node_key: bytes) -> None:
        """Greet a connected peer and listen to its feed while the connection lasts."""
        self.settling.poke()
        known = self.presence.peer(node_key)
        if known is not None:
            await self.witnessing.check(known, node_key)
        await self._ready.wait()
        async with trio.open_nursery() as nursery:

            def greeted() -> None:
                nursery.start_soon(self.granting.keep_told, node_key)
                nursery.start_soon(self.offering.keep_told, node_key)
                nursery.start_soon(self.stating.keep_told, node_key)

            await self._talk(node_key, greeted)
            nursery.cancel_scope.cancel()

    async def _talk(self, node_key: bytes, on_greeted: Callable[[], None]) -> None:
        """Greet a peer and listen to it, again and again, until its key speaks for nobody."""
        is_greeted = False
        while True:
            peer = self.presence.peer(node_key)
            if peer is None:
                return
            try:
                await self.greeting.greet(node_key, peer)
                if not is_greeted:
                    is_greeted = True
                    on_greeted()
                await self.announcer.listen(peer, lambda protocol: self._open(node_key, protocol))
            except StreamLost as error:
                log.debug("session with %s ended: %s", peer.petname, error)
            except (RemoteProtocolError, NodeError) as error:
                log.warning("session with %s: %s", peer.petname, error)
            await trio.sleep(SESSION_RETRY_SECONDS)

    def _left(self, node_key: bytes, peer: Peer | None) -> None:
        self.witnessing.disconnected(node_key)
        if peer is not None:
            self.announcer.disconnected(peer.facility_key)
