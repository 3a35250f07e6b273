"""Writing bulk data: in turns with the other transfers, and no faster than a peer's cap.

Owns the waiting. `node.transfer.turns` decides whose turn it is, `node.bucket` how fast,
`node.transfer.bandwidth` under which cap.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from keys.trust import Peer
from node.bucket import PACE_SECONDS, Bucket, step_bytes
from node.network.streams import PeerStream
from node.transfer.bandwidth import BandwidthRule, local_minute, rule_in_force
from node.transfer.turns import Place, Turns
from protocol import limits

SLICE_BYTES = 4 * limits.WRITE_BLOCK_BYTES
"""Bytes written between two checks whether another transfer wants to write: a few blocks, since a
check for each block costs throughput."""

_SLOW_SECONDS = 0.1
"""A slice that takes longer than this is followed by smaller ones."""


class Uplink:
    """All bulk data that this node sends.

    Args:
        rules: the caps of the settings.
        minute: gives the minutes since local midnight.
    """

    def __init__(
        self, rules: tuple[BandwidthRule, ...] = (), minute: Callable[[], int] = local_minute
    ) -> None:
        self._rules = rules
        self._minute = minute
        self._paces: dict[bytes, Bucket] = {}
        self._turns = Turns()
        self._changed = trio.Event()

    def cap(self, peer: Peer) -> BandwidthRule | None:
        """The cap of a peer now."""
        if not self._rules:
            return None
        return rule_in_force(self._rules, peer.petname, peer.fingerprint, self._minute())

    @contextmanager
    def sending(self, peer: Peer, *, stat: bool) -> Iterator["SendSlot"]:
        """A place for one transfer among all that are sending.

        Args:
            peer: the recipient.
            stat: whether it is urgent.
        """
        place = self._turns.enter(peer.facility_key, stat=stat, now=trio.current_time())
        try:
            yield SendSlot(self, peer, place)
        finally:
            self._turns.leave(place)
            self._wake()

    def _wake(self) -> None:
        event, self._changed = self._changed, trio.Event()
        event.set()

    @contextmanager
    def _turn(self, place: Place) -> Iterator[None]:
        try:
            yield
        finally:
            self._turns.end(place)
            self._wake()

    async def _begin(self, place: Place) -> None:
        self._turns.ask(place, trio.current_time())
        while not self._turns.try_begin(place, trio.current_time()):
            deadline = self._turns.look_again_at(place, trio.current_time())
            with trio.CancelScope(deadline=deadline):
                await self._changed.wait()


class SendSlot:
    """One transfer's place on the line."""

    def __init__(self, line: Uplink, peer: Peer, place: Place) -> None:
        self._line = line
        self._peer = peer
        self._place = place
        self._slice_bytes = SLICE_BYTES

    async def write(self, stream: PeerStream, data: bytes) -> None:
        """Send everything, in as many turns as it takes.

        Raises:
            StreamLost: the stream or the connection ended.
            PeerTimeout: the peer took nothing for `limits.STALL_SECONDS`.
        """
        line, place, view = self._line, self._place, memoryview(data)
        while view:
            with line._turn(place):
                await line._begin(place)
                may_go_on = True
                while view and may_go_on:
                    piece = view[: await self._piece_bytes(len(view))]
                    view = view[len(piece) :]
                    began = trio.current_time()
                    await stream.write(piece, timeout_seconds=limits.STALL_SECONDS)
                    now = trio.current_time()
                    slow = now - began > _SLOW_SECONDS
                    self._slice_bytes = limits.WRITE_BLOCK_BYTES if slow else SLICE_BYTES
                    may_go_on = line._turns.moved(place, now)

    async def _piece_bytes(self, left: int) -> int:
        """How much to send now; waits until the peer's cap allows it."""
        line, place = self._line, self._place
        most = limits.WRITE_BLOCK_BYTES if place.trickles else self._slice_bytes
        rule = line.cap(self._peer)
        if rule is None or (place.stat and rule.stat_exempt):
            return min(left, most)
        rate = rule.bytes_per_second
        size = min(left, step_bytes(rate, limits.WRITE_BLOCK_BYTES))
        pace = line._paces.setdefault(self._peer.facility_key, Bucket())
        wait = pace.reserve(size, rate, PACE_SECONDS * rate, trio.current_time())
        if wait > 0:
            line._turns.rest(place)
            line._wake()
            await trio.sleep(wait)
            line._turns.go_on(place, trio.current_time())
        return size
