"""Rights that end by a date (cards, trust, node keys), and changes that a full disk delayed.

No event says that a date has come. So a task looks at the clock each second and treats a difference
from the last look like any other change of trust: feeds, connections and transfers follow. The
clock never goes back (`node/clock.py`).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from keys.trust import Peer, TrustStore
from node.blocking import in_thread
from node.clock import LOOK_SECONDS, Clock
from node.errors import NodeError
from node.sharing.emergencies import Emergencies
from node.sharing.feeds import Feeds
from node.sharing.peers import Peers
from node.sharing.refusals import Refusals
from node.sharing.studies import SharedStudies
from node.sharing.wishes import Wishes

log = logging.getLogger("radmesh.endings")

AGAIN_SECONDS = 5.0
"""Time until a failed write is tried again."""

_LOOKED_AT = ("see", "fetch", "emergency", "witness")


class UnfinishedDiscards(Protocol):
    """Discards that are not fully written yet, or whose files are not deleted yet."""

    @property
    def is_unfinished(self) -> bool:
        """Whether there are such discards."""

    def write_unwritten(self) -> None:
        """Try again to write them."""


class Unwritten(Protocol):
    """Changes that count already and may not be written yet."""

    @property
    def unwritten(self) -> tuple[str, ...]:
        """What they are about, for people."""

    def write_unwritten(self) -> None:
        """Try again to write them."""


class Endings:
    """The task that looks at the clock.

    Args:
        peers: whose rights may end.
        studies: whose withdrawals may be unwritten.
        wishes: objections that may be unwritten.
        discards: discards that may be unwritten.
        feeds: the feeds, derived from the rights.
        connected: gives the node keys (32 bytes) of the connections.
        peer_changed: called with a peer whose rights differ.
        node_key_ended: called with the node key of a connection when the key is not valid any more.
        clock: tells the date.
        refusals: counts of refusals, to be logged when their hour is over.
        more: what else may be unwritten.
        emergencies: emergencies whose review may be overdue.
        log_failed: whether the last entry could not be written.
        try_log: checks whether an entry could be written now; raises NodeError if not.
    """

    def __init__(
        self,
        *,
        peers: Peers,
        studies: SharedStudies,
        wishes: Wishes,
        discards: UnfinishedDiscards,
        feeds: Feeds,
        connected: Callable[[], Iterable[bytes]],
        peer_changed: Callable[[Peer], None],
        node_key_ended: Callable[[bytes], None],
        clock: Clock,
        refusals: Refusals,
        more: Sequence[Unwritten] = (),
        emergencies: Emergencies | None = None,
        log_failed: Callable[[], bool] = lambda: False,
        try_log: Callable[[], None] = lambda: None,
    ) -> None:
        self._log_failed = log_failed
        self._try_log = try_log
        self._refusals = refusals
        self._peers = peers
        self._studies = studies
        self._wishes = wishes
        self._discards = discards
        self._more = more
        self._emergencies = emergencies
        self._feeds = feeds
        self._connected = connected
        self._peer_changed = peer_changed
        self._node_key_ended = node_key_ended
        self._clock = clock
        self._rights = self._now()
        self._underived: set[bytes] = set()
        self._again = 0.0

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once; a disk that fails is tried again at the next look."""
        before, self._rights = self._rights, self._now()
        changed = [peer for peer, rights in self._rights.items() if before.get(peer) != rights]
        # First the actions that need no disk.
        for peer in self._peers.store.peers:
            if peer.facility_key in changed:
                self._peer_changed(peer)
        now = self._clock.now()
        for node_key in list(self._connected()):
            if self._peers.store.by_node_key(node_key, now) is None:
                self._node_key_ended(node_key)
        self._underived |= set(changed)
        await self._write()
        if self._refusals.is_due:
            await in_thread(self._refusals.write)

    async def _write(self) -> None:
        unwritten = self._peers.unwritten or self._studies.unwritten or self._wishes.unwritten
        more = any(one.unwritten for one in self._more)
        unfinished = bool(unwritten) or more or self._discards.is_unfinished
        overdue = self._emergencies is not None and self._emergencies.is_any_overdue()
        due = self._underived or unfinished or overdue or self._log_failed()
        if not due or trio.current_time() < self._again:
            return
        try:
            await in_thread(self._write_all, list(self._underived))
            self._underived.clear()
        except NodeError as error:
            self._again = trio.current_time() + AGAIN_SECONDS
            log.error("what has ended cannot be written now: %s", error.message)

    def _write_all(self, underived: list[bytes]) -> None:
        self._peers.write_unwritten()
        self._studies.write_unwritten()
        self._wishes.write_unwritten()
        self._discards.write_unwritten()
        for one in self._more:
            one.write_unwritten()
        if self._emergencies is not None:
            self._emergencies.say_overdue()
        for facility_key in underived:
            self._feeds.peer_changed(facility_key)
        # Otherwise the alert that nothing can be logged would last until the next entry.
        self._try_log()

    def _now(self) -> dict[bytes, tuple[object, ...]]:
        store, now = self._peers.store, self._clock.now()
        return {peer.facility_key: _rights(store, peer, now) for peer in store.peers}


def _rights(store: TrustStore, peer: Peer, now: int) -> tuple[object, ...]:
    """The rights of a peer that may change with time alone."""
    key = peer.facility_key
    rights = [store.why_never(action, key, now) is None for action in _LOOKED_AT]
    return (*rights, *store.times(key, now))
