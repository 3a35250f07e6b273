"""Announcing our studies to peers, and listening to theirs.

A peer without the grant `see` may subscribe, too: its feed is empty until the grant is given, and
then goes live without another request.
"""

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import trio

from keys.identity import KeyPair
from keys.trust import Peer
from node.blocking import in_thread
from node.clock import Clock
from node.network.messaging import MessageStream, first_error
from node.network.network import PeerStream, StreamLost
from node.sharing.budgets import Budgets
from node.sharing.feeds import Feeds, Untold
from node.sharing.peers import Peers
from node.sharing.recalls import Recalls
from node.sharing.setbacks import Place, Setbacks
from protocol import limits, messages
from protocol.errors import RemoteProtocolError, WireCode
from protocol.feed import Subscription
from protocol.fields import from_map_untrusted, to_map
from protocol.log.entry import Event, subjects_of
from protocol.messages import Announcement, Heartbeat, Record, Signed, Subscribe

log = logging.getLogger("radmesh.announcer")

NO_ROOM_SECONDS = 5.0
"""Time until a full disk is checked again."""


SUBJECTS = 500
"""Most studies and patients in one entry: it takes 65,535 bytes, and each needs about 110."""


class Announcer:
    """Both directions of the catalog protocol.

    Args:
        key: our node key.
        peers: who may see what.
        feeds: what each peer was told of our studies, and what peers told us.
        recalls: keeps what peers recalled.
        append: writes one audit entry durably (synchronous).
        clock: tells whether a peer's rights count now.
        budgets: limits how often a peer may subscribe, and how much it may announce.

    Attributes:
        on_heard: called with the facility key of a peer and the records it has just announced.
        in_keeping: called with both, in the transaction that stores the records.
    """

    def __init__(
        self,
        *,
        key: KeyPair,
        peers: Peers,
        feeds: Feeds,
        recalls: Recalls,
        append: Callable[[Event], int],
        clock: Clock,
        budgets: Budgets,
    ) -> None:
        self._budgets = budgets
        self._setbacks: dict[bytes, Setbacks] = {}
        self._serving: dict[bytes, trio.CancelScope] = {}
        self._key = key
        self._clock = clock
        self._peers = peers
        self._feeds = feeds
        self._recalls = recalls
        self._append = append
        self._news = trio.Event()
        self.on_heard: Callable[[bytes, Sequence[Record]], None] = lambda peer, records: None
        self.in_keeping: Callable[[sqlite3.Connection, bytes, Sequence[Record]], None] = (
            lambda connection, peer, records: None
        )

    def use_key(self, key: KeyPair) -> None:
        """Sign with another node key from now on."""
        self._key = key

    def announce(self) -> None:
        """Feeds have changed: tell all subscribers."""
        event, self._news = self._news, trio.Event()
        event.set()

    def disconnected(self, facility_key: bytes) -> None:
        """A peer has disconnected: coming back later does not mean that it refused a record."""
        if facility_key in self._setbacks:
            self._setbacks[facility_key].forget_told()

    def aside(self) -> list[tuple[bytes, str, str]]:
        """Records that peers do not accept for now: facility key, study (UID), why."""
        return [
            (peer, study, one.reason)
            for peer, setbacks in list(self._setbacks.items())
            for study, one in list(setbacks.aside.items())
        ]

    async def serve(self, stream: PeerStream) -> None:
        """Handle one inbound stream of the catalog protocol."""
        channel = MessageStream(stream)
        first = await channel.receive_untrusted()
        if not isinstance(first, Subscribe):
            raise RemoteProtocolError("a subscription must come first", WireCode.UNEXPECTED)
        peer = self._peers.store.by_node_key(stream.peer, self._clock.now())
        if peer is None:
            await stream.reset()
            return
        try:
            async with trio.open_nursery() as nursery:
                older = self._serving.get(peer.facility_key)
                if older is not None:
                    older.cancel()
                self._serving[peer.facility_key] = nursery.cancel_scope
                try:
                    nursery.start_soon(self._wait_gone, stream, nursery.cancel_scope)
                    await self._tell(channel, stream, peer.facility_key, first)
                    nursery.cancel_scope.cancel()
                finally:
                    if self._serving.get(peer.facility_key) is nursery.cancel_scope:
                        del self._serving[peer.facility_key]
        except BaseExceptionGroup as group:
            raise first_error(group) from None

    async def _wait_gone(self, stream: PeerStream, scope: trio.CancelScope) -> None:
        """End a subscription with its stream: unread records are neither sent nor logged."""
        try:
            await stream.read(1, timeout_seconds=float("inf"))
        except StreamLost:
            scope.cancel()
            return
        raise RemoteProtocolError("a subscriber has nothing more to say", WireCode.UNEXPECTED)

    async def _tell(
        self, channel: MessageStream, stream: PeerStream, facility: bytes, first: Subscribe
    ) -> None:
        setbacks = self._setbacks.setdefault(facility, Setbacks())
        place = (first.epoch, first.cursor)
        has_refused = setbacks.comes_back(place, trio.current_time())
        await self._wait_turn(channel, facility, "subscription")
        while True:
            news = self._news
            pending = await in_thread(self._next, stream.peer, setbacks, place, trio.current_time())
            if pending is None:
                await stream.reset()
                return
            if pending.reset or pending.records or pending.cursor != place[1]:
                if pending.reset and not has_refused:
                    await self._wait_turn(channel, facility, "feed-reset")
                setbacks.tells(place, tuple(record.study for record in pending.records))
                announcement = Announcement(
                    recipient=stream.peer,
                    epoch=pending.epoch,
                    reset=pending.reset,
                    cursor=pending.cursor,
                    time=self._clock.now_ms(),
                    records=pending.records,
                )
                await channel.send(messages.sign(announcement, self._key))
                place = (pending.epoch, pending.cursor)
                continue
            with trio.move_on_after(limits.HEARTBEAT_SECONDS) as waited:
                await news.wait()
            if waited.cancelled_caught:
                await channel.send(Heartbeat())

    async def _wait_turn(self, channel: MessageStream, facility: bytes, kind: str) -> None:
        """Wait as long as a budget demands; heartbeats show that we are alive."""
        while not self._budgets.take(facility, kind):
            seconds = self._budgets.missing(facility, kind)
            await trio.sleep(min(seconds, limits.HEARTBEAT_SECONDS))
            if seconds > limits.HEARTBEAT_SECONDS:
                await channel.send(Heartbeat())

    def _next(self, node_key: bytes, setbacks: Setbacks, place: Place, now: float) -> Untold | None:
        """What a peer is told next, logged on return; None when the peer is not trusted."""
        with self._peers.decisions.made():
            peer = self._peers.store.by_node_key(node_key, self._clock.now())
            if peer is None:
                return None
            due = setbacks.take_due(now)
            if due:
                self._feeds.announce_again(peer.facility_key, due)
            pending = self._feeds.pending(peer.facility_key, *place, setbacks.most)
            # Check the rights once more: a feed is derived from them, and can be out of date.
            records = self._feeds.may_tell(peer.facility_key, pending.records)
            if records != pending.records:
                log.warning("the feed of %s held what it may not be told", peer.petname)
                self._feeds.peer_changed(peer.facility_key)
                pending = self._feeds.pending(peer.facility_key, *place, setbacks.most)
                records = self._feeds.may_tell(peer.facility_key, pending.records)
            records = self._readable(records, setbacks, now)
            self._log_announced(peer, records)
            return replace(pending, records=records)

    def _readable(
        self, records: tuple[Record, ...], setbacks: Setbacks, now: float
    ) -> tuple[Record, ...]:
        """The records that a peer can read, as our own decoder shows; set the others aside."""
        chosen = []
        for record in records:
            try:
                from_map_untrusted(Record, to_map(record))
            except RemoteProtocolError as error:
                setbacks.set_aside(record.study, str(error), now)
            if record.study not in setbacks.aside:
                chosen.append(record)
        return tuple(chosen)

    def _log_announced(self, peer: Peer, records: tuple[Record, ...]) -> None:
        """Log records before a peer is told of them; each once, however often the peer asks."""
        if not records:
            return
        unlogged = self._feeds.unlogged(peer.facility_key, records)
        patients = self._feeds.patients_told(unlogged)
        rules = self._feeds.rules_of(peer.facility_key, patients) if patients else {}
        # What tells a patient is a disclosure: its entry names the rule.
        for rule in sorted({rules.get(record.study, "") for record in unlogged}):
            left = tuple(one for one in unlogged if rules.get(one.study, "") == rule)
            while left:
                some = _fitting(left, patients)
                self._append(_announced(peer, some, patients, rule))
                self._feeds.mark_told(peer.facility_key, some)
                left = left[len(some) :]

    def _keep(self, peer: bytes, announcement: Announcement, subscription: Subscription) -> None:
        """Store what a peer announced, after logging what it recalled."""
        news = self._recalls.news(peer, announcement.records)
        for event in self._recalls.events(peer, news):
            self._append(event)

        def keep(connection: sqlite3.Connection) -> None:
            self._recalls.keep(connection, peer, news)
            self.in_keeping(connection, peer, announcement.records)

        self._feeds.store_announcement(peer, announcement, subscription, keep)

    async def listen(self, peer: Peer, open_stream: Callable[[str], Awaitable[PeerStream]]) -> None:
        """Subscribe to a connected peer and keep what it announces, until the stream is lost.

        Args:
            peer: the peer to subscribe to.
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
                # A record beyond the budget waits, and nothing more is read, so the peer waits too.
                size = len(message.body)
                await trio.sleep(self._budgets.wait(peer.facility_key, "announcement-bytes", size))
                # There is no event for free disk space.
                while not await in_thread(self._budgets.has_room):  # noqa: ASYNC110
                    await trio.sleep(NO_ROOM_SECONDS)
                await in_thread(self._keep, peer.facility_key, announcement, subscription)
                self.on_heard(peer.facility_key, announcement.records)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()


def _announced(
    peer: Peer, records: Sequence[Record], patients: Mapping[str, tuple[str, ...]], rule: str
) -> Event:
    details: dict[str, str | int | bool] = {
        "available": sum(record.kind != "withdrawn" for record in records),
        "withdrawn": sum(record.kind == "withdrawn" for record in records),
        "rights": peer.rights_digest,
    }
    return Event(
        type="announced",
        peer=peer.facility_key,
        # Each study is followed by the patients that the peer is told of with it.
        subjects=tuple(
            subject
            for record in records
            for subject in subjects_of(record.study, patients.get(record.study, ()))
        ),
        details={**details, "rule": rule} if rule else details,
    )


def _fitting(
    records: tuple[Record, ...], patients: Mapping[str, tuple[str, ...]]
) -> tuple[Record, ...]:
    """The first records, as many as one entry takes; at least one."""
    subjects = 0
    for place, record in enumerate(records):
        subjects += 1 + len(patients.get(record.study, ()))
        if subjects > SUBJECTS and place:
            return records[:place]
    return records
