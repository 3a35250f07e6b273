"""Keeps the trusted peers connected: which peer is dialled when, and why one is not connected.

Either side may dial; when both do, the two connections count as one. A peer that
cannot be reached is tried again after 1 s, then later and later up to a minute,
as is one whose connections do not last; a change of trust or addresses (`poke`)
starts over at once.
"""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import trio

from node.network.network import Network, Unreachable

log = logging.getLogger("radmesh.links")

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
JITTER = 0.2
STEADY_SECONDS = 10.0
"""After a connection that lasted this long, the delay starts over."""
DIALS_AT_ONCE = 8


@dataclass(frozen=True)
class LinkTarget:
    """A peer that should be connected.

    Attributes:
        node_public: its node key, 32 bytes.
        addresses: multiaddrs to dial; none when it can only call us.
        name: its name in the log.
    """

    node_public: bytes
    addresses: Sequence[str]
    name: str


@dataclass
class LinkStatus:
    """The state of a peer's connection, for an operator.

    Attributes:
        connected: whether it is connected now.
        last_seen: seconds since the epoch, UTC, when it was last connected; None if
            never since the node started.
        last_error: why the last attempt failed, or "".
        next_attempt: seconds since the epoch, UTC, of the next dial; None when none
            is due.
    """

    connected: bool = False
    last_seen: float | None = None
    last_error: str = ""
    next_attempt: float | None = None


class _Link:
    def __init__(self) -> None:
        self.status = LinkStatus()
        self.delay_seconds = FIRST_DELAY_SECONDS
        self.due = 0.0
        self.connected_since = 0.0
        self.dialling = False
        self.addresses: tuple[str, ...] = ()


class Links:
    """Dials the targets until they are connected, for ever.

    Args:
        network: must be running while `run` does.
        targets: the trusted peers, asked again at each round; must not block.
        clock: gives seconds since the epoch, UTC.
    """

    def __init__(
        self,
        network: Network,
        targets: Callable[[], Iterable[LinkTarget]],
        clock: Callable[[], float],
    ) -> None:
        self._network = network
        self._targets = targets
        self._clock = clock
        self._links: dict[bytes, _Link] = {}
        self._changed = trio.Event()
        network.watch(self._joined, self._left)

    def status(self, node_public: bytes) -> LinkStatus:
        """The state of the connection to a peer."""
        link = self._links.get(node_public)
        if link is None:
            return LinkStatus()
        status = link.status
        return replace(status, last_seen=self._clock() if status.connected else status.last_seen)

    def poke(self) -> None:
        """Trust or addresses have changed, or somebody waits: dial now instead of later."""
        for link in self._links.values():
            link.due = 0.0
            link.delay_seconds = FIRST_DELAY_SECONDS
        self._changed.set()

    async def run(self) -> None:
        """Keep the peers connected until cancelled; disconnect those that are not trusted."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                await self._network.close_untrusted()
                wait_seconds = self._start_due(nursery)
                with trio.move_on_after(wait_seconds):
                    await self._changed.wait()

    def _start_due(self, nursery: trio.Nursery) -> float:
        """Start the dials that are due; returns seconds until the next one is."""
        now = trio.current_time()
        connected = self._network.connected()
        targets = {target.node_public: target for target in self._targets()}
        for node_public in self._links.keys() - targets.keys() - connected:
            if not self._links[node_public].dialling:
                del self._links[node_public]
        wait_seconds = LONGEST_DELAY_SECONDS
        dialling = sum(link.dialling for link in self._links.values())
        for target in targets.values():
            link = self._links.setdefault(target.node_public, _Link())
            addresses = tuple(target.addresses)
            if addresses != link.addresses:
                link.addresses, link.due = addresses, 0.0
            if link.dialling or target.node_public in connected:
                continue
            if not addresses:
                link.status.last_error = "no address is known; it has to call this node"
                continue
            if link.due > now:
                wait_seconds = min(wait_seconds, link.due - now)
            elif dialling < DIALS_AT_ONCE:
                dialling += 1
                link.dialling = True
                nursery.start_soon(self._dial, target, link)
        return wait_seconds

    async def _dial(self, target: LinkTarget, link: _Link) -> None:
        link.status.next_attempt = None
        try:
            await self._network.connect(target.node_public, tuple(target.addresses))
            link.status.last_error = ""
        except Unreachable as error:
            if error.message != link.status.last_error:
                log.info("%s cannot be reached: %s", target.name, error.message)
            link.status.last_error = error.message
            self._schedule(link)
        finally:
            link.dialling = False
            self._changed.set()

    def _schedule(self, link: _Link) -> None:
        spread = random.uniform(1 - JITTER, 1 + JITTER)
        wait_seconds = link.delay_seconds * spread
        link.delay_seconds = min(link.delay_seconds * 2, LONGEST_DELAY_SECONDS)
        link.due = trio.current_time() + wait_seconds
        link.status.next_attempt = self._clock() + wait_seconds

    def _joined(self, node_public: bytes) -> None:
        link = self._links.setdefault(node_public, _Link())
        link.connected_since = trio.current_time()
        link.status.connected = True
        link.status.last_seen = self._clock()
        link.status.last_error = ""
        link.status.next_attempt = None

    def _left(self, node_public: bytes) -> None:
        link = self._links.setdefault(node_public, _Link())
        link.status.connected = False
        link.status.last_seen = self._clock()
        link.status.last_error = "the connection was lost"
        if trio.current_time() - link.connected_since >= STEADY_SECONDS:
            link.delay_seconds = FIRST_DELAY_SECONDS
        self._schedule(link)
        self._changed.set()
