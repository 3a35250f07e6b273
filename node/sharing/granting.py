"""Tells connected peers what they may do here, and hears what they let us do.

One statement a stream, to the peer; after the hello, and again whenever what the peer may know of
its rights has changed. A release that does not know the protocol answers `na`, and is not told.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from keys.trust import Peer
from node.blocking import in_thread
from node.clock import Clock
from node.errors import NodeError
from node.network.messaging import MessageStream
from node.network.network import PeerStream, StreamLost
from node.sharing.budgets import Budgets
from node.sharing.granted import Granted
from node.sharing.peers import Peers
from protocol.errors import RemoteProtocolError, WireCode
from protocol.granted import KNOWN, Grants

log = logging.getLogger("radmesh.granting")

AGAIN_SECONDS = 60.0
"""Time until a statement that could not be told is tried again, if nothing changes before; also how
long an end that has passed may stand in what a peer was told."""


class Granting:
    """Both directions of the grants protocol.

    Args:
        granted: the statements.
        peers: who is trusted.
        open_stream: opens a grants stream to a connected node key (32 bytes).
        clock: tells whether trust counts now.
        budgets: limits how many new statements of a facility are taken.
    """

    def __init__(
        self,
        granted: Granted,
        peers: Peers,
        open_stream: Callable[[bytes], Awaitable[PeerStream]],
        *,
        clock: Clock,
        budgets: Budgets,
    ) -> None:
        self._granted = granted
        self._peers = peers
        self._open_stream = open_stream
        self._clock = clock
        self._budgets = budgets
        self._changed = trio.Event()
        self._taking: dict[bytes, trio.CancelScope] = {}

    def poke(self) -> None:
        """Look again at what peers were told: rights have changed."""
        event, self._changed = self._changed, trio.Event()
        event.set()

    async def keep_told(self, node_key: bytes) -> None:
        """Tell a connected peer now and at each change, until cancelled."""
        told: Grants | None = None
        while True:
            changed = self._changed
            peer = self._peers.store.by_node_key(node_key, self._clock.now())
            if peer is not None and peer.is_trusted(self._clock.now()):
                told = await self._tell(node_key, peer, told)
            with trio.move_on_after(AGAIN_SECONDS):
                await changed.wait()

    async def _tell(self, node_key: bytes, peer: Peer, told: Grants | None) -> Grants | None:
        """Tell a peer what it was not told on this connection; returns what it was told now."""
        try:
            message = await in_thread(self._granted.to_tell, peer)
            if message != told:
                async with await self._open_stream(node_key) as stream:
                    await MessageStream(stream).send(message)
        except StreamLost as error:
            log.debug("%s was not told what it may do: %s", peer.petname, error)
            return told
        except NodeError as error:
            log.info("%s cannot be told what it may do: %s", peer.petname, error.message)
            return told
        return message

    async def serve(self, stream: PeerStream) -> None:
        """Hear one statement; never raises for a peer's doing."""
        peer = self._peers.store.by_node_key(stream.peer, self._clock.now())
        if peer is None:
            await stream.reset()
            return
        # One at a time for each peer: a newer statement takes the place of one that waits.
        if (before := self._taking.get(peer.facility_key)) is not None:
            before.cancel()
        scope = self._taking[peer.facility_key] = trio.CancelScope()
        try:
            with scope:
                await self._hear(MessageStream(stream), peer)
                await stream.close()
                return
            await stream.reset()
        except StreamLost as error:
            log.debug("what %s lets us do was not heard: %s", peer.petname, error)
        except RemoteProtocolError as error:
            log.warning("what %s lets us do is not taken: %s", peer.petname, error)
            await stream.reset()
        except NodeError as error:
            log.error("what %s lets us do cannot be kept: %s", peer.petname, error.message)
            await stream.reset()
        finally:
            if self._taking.get(peer.facility_key) is scope:
                del self._taking[peer.facility_key]

    async def _hear(self, channel: MessageStream, peer: Peer) -> None:
        message = await channel.receive_untrusted(KNOWN)
        if not isinstance(message, Grants):
            raise RemoteProtocolError("a statement of grants must come first", WireCode.UNEXPECTED)
        if await in_thread(self._granted.is_known, peer, message):
            return
        # There is no event for a budget that fills up.
        while not self._budgets.take(peer.facility_key, "grants"):  # noqa: ASYNC110
            await trio.sleep(self._budgets.missing(peer.facility_key, "grants"))
        await in_thread(self._granted.take_untrusted, peer, message, self._speaks_for(peer))

    def _speaks_for(self, peer: Peer) -> Callable[[bytes], bool]:
        def speaks_for(node_key: bytes) -> bool:
            holder = self._peers.store.by_node_key(node_key, self._clock.now())
            return holder is not None and holder.facility_key == peer.facility_key

        return speaks_for
