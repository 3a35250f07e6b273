"""Announcing our studies to peers, and listening to theirs.

A peer without the grant `see` may subscribe all the same: its feed is empty
until it is granted, and then goes live without another request.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from keys.identity import KeyPair
from keys.trust import Peer
from node.blocking import in_thread
from node.clock import Clock
from node.network.messaging import MessageStream
from node.network.network import PeerStream, StreamLost
from node.sharing.feeds import Feeds, Pending
from node.sharing.peers import Peers
from node.transfer.sessions import first_error
from protocol import limits, messages
from protocol.errors import RemoteProtocolError, WireCode
from protocol.log.entry import Event
from protocol.messages import Announcement, Heartbeat, Record, Signed, Subscribe

log = logging.getLogger("radmesh.announcer")


class Announcer:
    """Both directions of the catalog protocol.

    Args:
        key: our node key.
        peers: who may see what.
        feeds: what each was told, and what they told.
        append: writes one audit entry durably (synchronous).
        clock: decides whether a peer may be told.

    Attributes:
        on_heard: called with the facility key of a peer and what it has just announced.
    """

    def __init__(
        self,
        *,
        key: KeyPair,
        peers: Peers,
        feeds: Feeds,
        append: Callable[[Event], int],
        clock: Clock,
    ) -> None:
        self._key = key
        self._clock = clock
        self._peers = peers
        self._feeds = feeds
        self._append = append
        self._news = trio.Event()
        self.on_heard: Callable[[bytes, Sequence[Record]], None] = lambda peer, records: None

    def use_key(self, key: KeyPair) -> None:
        """Sign with another node key from now on."""
        self._key = key

    def announce(self) -> None:
        """Feeds have changed: tell all who listen."""
        event, self._news = self._news, trio.Event()
        event.set()

    async def serve(self, stream: PeerStream) -> None:
        """Handle one inbound stream of the catalog protocol."""
        channel = MessageStream(stream)
        first = await channel.receive_untrusted()
        if not isinstance(first, Subscribe):
            raise RemoteProtocolError("a subscription must come first", WireCode.UNEXPECTED)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_gone, stream, nursery.cancel_scope)
                await self._tell(channel, stream, first)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_error(group) from None

    async def _wait_gone(self, stream: PeerStream, scope: trio.CancelScope) -> None:
        """End a subscription with its stream: what nobody reads is not told, nor logged."""
        try:
            await stream.read(1, timeout_seconds=float("inf"))
        except StreamLost:
            scope.cancel()
            return
        raise RemoteProtocolError("a subscriber has nothing more to say", WireCode.UNEXPECTED)

    async def _tell(self, channel: MessageStream, stream: PeerStream, first: Subscribe) -> None:
        epoch, cursor = first.epoch, first.cursor
        while True:
            news = self._news
            pending = await in_thread(self._next, stream.peer, epoch, cursor)
            if pending is None:
                await stream.reset()
                return
            if pending.reset or pending.records or pending.cursor != cursor:
                announcement = Announcement(
                    recipient=stream.peer,
                    epoch=pending.epoch,
                    reset=pending.reset,
                    cursor=pending.cursor,
                    time=self._clock.now_ms(),
                    records=pending.records,
                )
                await channel.send(messages.sign(announcement, self._key))
                epoch, cursor = pending.epoch, pending.cursor
                continue
            with trio.move_on_after(limits.HEARTBEAT_SECONDS) as waited:
                await news.wait()
            if waited.cancelled_caught:
                await channel.send(Heartbeat())

    def _next(self, node_key: bytes, epoch: bytes, cursor: int) -> Pending | None:
        """What a peer is told next, in the log on return; None when it is not trusted."""
        with self._peers.decisions.made():
            peer = self._peers.store.by_node_key(node_key, self._clock.now())
            if peer is None:
                return None
            pending = self._feeds.pending(peer.facility_key, epoch, cursor)
            # Asked once more: a feed is derived, and what is derived can be late.
            records = self._feeds.may_tell(peer.facility_key, pending.records)
            if len(records) != len(pending.records):
                log.warning("the feed of %s held what it may not be told", peer.petname)
                self._feeds.peer_changed(peer.facility_key)
            self._log_announced(peer, records)
            return replace(pending, records=records)

    def _log_announced(self, peer: Peer, records: tuple[Record, ...]) -> None:
        """What a peer learns is in the log before it learns it."""
        if not records:
            return
        self._append(
            Event(
                type="announced",
                peer=peer.facility_key,
                subjects=tuple(("study", record.study) for record in records),
                details={
                    "available": sum(record.kind != "withdrawn" for record in records),
                    "withdrawn": sum(record.kind == "withdrawn" for record in records),
                },
            )
        )
        self._feeds.mark_told(peer.facility_key, records)

    async def listen(self, peer: Peer, open_stream: Callable[[str], Awaitable[PeerStream]]) -> None:
        """Subscribe to a connected peer and keep what it announces, until the stream is lost.

        Args:
            peer: whose feed.
            open_stream: opens a stream to it for a protocol id.

        Raises:
            StreamLost: the connection broke.
            RemoteProtocolError: the peer broke a rule.
        """
        stream = await open_stream(messages.CATALOG_PROTOCOL)
        try:
            channel = MessageStream(stream)
            subscription = await in_thread(
                self._feeds.subscription, peer.facility_key, self._key.public
            )
            await channel.send(Subscribe(epoch=subscription.epoch, cursor=subscription.cursor))
            while True:
                message = await channel.receive_untrusted(
                    timeout_seconds=limits.SUBSCRIPTION_SILENCE_SECONDS
                )
                if isinstance(message, Heartbeat):
                    continue
                if not isinstance(message, Signed):
                    raise RemoteProtocolError("an unsigned announcement", WireCode.BAD_SIGNATURE)
                announcement = messages.open_signed_untrusted(message, Announcement, stream.peer)
                subscription.take_untrusted(announcement)
                await in_thread(
                    self._feeds.store_announcement, peer.facility_key, announcement, subscription
                )
                self.on_heard(peer.facility_key, announcement.records)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()
