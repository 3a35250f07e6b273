"""The hello of two connected nodes: which versions they speak, and their newest cards."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

import keys.errors
from keys.card import Card
from keys.trust import Peer
from node import VERSION
from node.blocking import in_thread
from node.clock import Clock
from node.errors import NodeError
from node.network.messaging import MessageStream
from node.network.network import PeerStream
from node.sharing.budgets import Budgets
from node.sharing.peers import Peers
from protocol import messages
from protocol.errors import RemoteProtocolError, WireCode
from protocol.messages import Hello

log = logging.getLogger("radmesh.greeting")


@dataclass(frozen=True)
class Greeted:
    """What a peer said of itself when we greeted it.

    Attributes:
        software: name and version, as the peer has them; for people.
        ahead_seconds: how far its clock is ahead of ours, behind if negative; None where its
            release does not tell.
        round_trip_seconds: how long its answer took; the offset is as exact as that.
    """

    software: str
    ahead_seconds: float | None
    round_trip_seconds: float


class Greeting:
    """Both directions of the hello protocol.

    Args:
        peers: who is trusted; takes their newer cards.
        card: gives our newest card.
        open_stream: opens a hello stream to a connected node key (32 bytes).
        clock: tells whether a card counts now.
        budgets: limits how often a facility may greet.
    """

    def __init__(
        self,
        peers: Peers,
        card: Callable[[], Card],
        open_stream: Callable[[bytes], Awaitable[PeerStream]],
        *,
        clock: Clock,
        budgets: Budgets,
    ) -> None:
        self._budgets = budgets
        self._peers = peers
        self._clock = clock
        self._card = card
        self._open_stream = open_stream
        self._software = f"radmesh {VERSION}"

    def _hello(self) -> Hello:
        return Hello(
            versions=(messages.PROTOCOL_VERSION,),
            software=self._software,
            card=self._card().encoded,
            time=self._clock.now_ms(),
        )

    async def greet(
        self, node_key: bytes, peer: Peer, sent: Callable[[], None] = lambda: None
    ) -> Greeted:
        """Say hello to a connected peer and hear its own.

        Args:
            node_key: the node key by which the peer is connected, 32 bytes.
            peer: the peer.
            sent: called when our card has been sent to it.

        Returns:
            What it said of itself.

        Raises:
            StreamLost: the connection broke.
            RemoteProtocolError: the peer broke a rule.
        """
        stream = await self._open_stream(node_key)
        try:
            channel = MessageStream(stream)
            begun_ms, begun = self._clock.now_ms(), self._clock.running()
            await channel.send(self._hello())
            sent()
            hello = await self._take(channel, peer)
            took = self._clock.running() - begun
            # Otherwise streams would pile up if a peer never ends its half.
            await stream.finish()
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()
            raise
        ahead = None if hello.time is None else (hello.time - begun_ms) / 1000 - took / 2
        return Greeted(hello.software, ahead, took)

    async def serve(self, stream: PeerStream) -> None:
        """Handle one inbound stream of the hello protocol."""
        peer = self._peers.store.by_node_key(stream.peer, self._clock.now())
        if peer is None:
            await stream.reset()
            return
        # There is no event for a budget that fills up.
        while not self._budgets.take(peer.facility_key, "hello"):  # noqa: ASYNC110
            # A peer that disconnects meanwhile has used nothing: an unstable line makes no debt.
            await trio.sleep(self._budgets.missing(peer.facility_key, "hello"))
        channel = MessageStream(stream)
        await self._take(channel, peer)
        await channel.send(self._hello())
        await stream.close()

    async def _take(self, channel: MessageStream, peer: Peer) -> Hello:
        hello = await channel.receive_untrusted()
        if not isinstance(hello, Hello):
            raise RemoteProtocolError("a hello must come first", WireCode.UNEXPECTED)
        if messages.PROTOCOL_VERSION not in hello.versions:
            raise RemoteProtocolError("the peer speaks no version that we speak")
        try:
            await in_thread(
                self._peers.take_newer_card, hello.card, peer.facility_key, self._clock.now()
            )
        except (NodeError, keys.errors.KeysError) as error:
            log.warning("the card that %s sent is not taken: %s", peer.petname, error)
        return hello
