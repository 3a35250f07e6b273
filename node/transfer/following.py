"""Fetching studies again that have grown at their source, without being asked.

Theory. Follow-ups that are due are derived from tables alone: which sources are followed, and what
they announce (`node.transfer.followed`). So a crash loses only pauses, and the first look after a
start finds what was announced meanwhile. Only the pauses are in memory: a study is fetched when its
source has been quiet for a while, so that a study that grows image by image comes in few steps. A
follow-up is an ordinary fetch from then on (`node.transfer.fetching`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from keys.trust import Peer
from node.blocking import in_thread
from node.errors import NodeError
from node.transfer.fetching import Fetcher
from node.transfer.followed import FOLLOW_RESERVE_BYTES, Followed, News
from node.transfer.transfers import Transfer, Transfers
from protocol.messages import Record

log = logging.getLogger("radmesh.following")

QUIET_SECONDS = 10.0
"""How long the source must announce no further change before a study is fetched again."""

PATIENCE_SECONDS = 60.0
"""A study that keeps changing is fetched this long after its first change."""

AT_ONCE = 4
"""Most follow-ups of one source at a time, so that places are left for fetches that people ask
for."""

LOOK_SECONDS = 300.0
"""Time between two looks at everything: no event says that a following's day is over."""

HEARD = 10_000
"""Most announced studies that are looked up by name; with more, everything is looked at."""

_Key = tuple[str, bytes]
"""Study (UID) and facility key of its source."""


@dataclass
class _Waiting:
    """News that waits: when it was first heard, when it last changed, if the disk lacks room."""

    news: News
    first: float
    last: float
    lacks_room: bool = False

    @property
    def due(self) -> float:
        """When it is to be fetched, by trio's clock."""
        return min(self.last + QUIET_SECONDS, self.first + PATIENCE_SECONDS)


class Follower:
    """The task that starts follow-ups, and stops those of studies that are not followed any more.

    Args:
        followed: which sources are followed.
        fetcher: fetches.
        transfers: the register of transfers.
        find: the peer with a facility key that may be asked now, None for any other.
        free_bytes: free space of the home's disk, bytes (synchronous).
        in_doubt: whether our log is in doubt, and so takes no entries.
    """

    def __init__(
        self,
        *,
        followed: Followed,
        fetcher: Fetcher,
        transfers: Transfers,
        find: Callable[[bytes], Peer | None],
        free_bytes: Callable[[], int],
        in_doubt: Callable[[], bool],
    ) -> None:
        self._followed = followed
        self._fetcher = fetcher
        self._transfers = transfers
        self._find = find
        self._free_bytes = free_bytes
        self._in_doubt = in_doubt
        self._heard: dict[bytes, set[str]] | None = None
        self._waiting: dict[_Key, _Waiting] = {}
        self._poked = trio.Event()

    def heard(self, facility_key: bytes, records: Iterable[Record]) -> None:
        """A peer has announced studies, and the announcement is stored."""
        if self._heard is not None:
            self._heard.setdefault(facility_key, set()).update(one.study for one in records)
            if sum(map(len, self._heard.values())) > HEARD:
                self._heard = None
        self.poke()

    def poke(self) -> None:
        """Something has changed: a transfer is over, or a study or a peer is different."""
        self._poked.set()

    def without_room(self) -> list[News]:
        """Studies that have grown at their source and for which the disk has no room."""
        return [one.news for one in list(self._waiting.values()) if one.lacks_room]

    async def run(self) -> None:
        """Follow until cancelled; a disk that fails is tried again at the next look."""
        looked = trio.current_time()
        while True:
            self._poked = trio.Event()
            if trio.current_time() >= looked + LOOK_SECONDS or self._heard is None:
                self._heard, looked = None, trio.current_time()
            try:
                await self._look()
            except NodeError as error:
                self._heard = None
                log.error("what has grown at its source cannot be fetched: %s", error.message)
                await trio.sleep(QUIET_SECONDS)
            # Wait until a point in time, not for a duration: a duration that was rounded down ends
            # too early, and the next one is zero.
            with trio.move_on_at(self._next(looked)):
                await self._poked.wait()

    def _next(self, looked: float) -> float:
        now = trio.current_time()
        # News that is due already waits for a place or for room: `poke`, or the next look, finds
        # either.
        due = [one.due for one in self._waiting.values() if one.due > now]
        return min([*due, looked + LOOK_SECONDS])

    async def _look(self) -> None:
        heard, self._heard = self._heard, {}
        if heard is None:
            await in_thread(self._followed.sweep)
        if heard is None or heard:
            news = await in_thread(self._followed.news, heard)
            self._take_news(news, is_all=heard is None)
        await self._stop_unwanted()
        now = trio.current_time()
        due = [key for key, one in self._waiting.items() if one.due <= now]
        if due and not self._in_doubt():
            for key in sorted(due, key=lambda key: self._waiting[key].due):
                await self._start(key)

    def _take_news(self, news: Sequence[News], *, is_all: bool) -> None:
        now = trio.current_time()
        if is_all:
            left = {(one.study, one.peer) for one in news}
            self._waiting = {key: one for key, one in self._waiting.items() if key in left}
        for one in news:
            key = (one.study, one.peer)
            known = self._waiting.get(key)
            if known is None:
                self._waiting[key] = _Waiting(one, now, now)
            elif known.news.root != one.root:
                known.news, known.last = one, now

    async def _start(self, key: _Key) -> None:
        study, facility_key = key
        active = self._incoming()
        if any(one.study == study for one in active):
            return
        if Counter(one.peer for one in active if one.follow_up)[facility_key] >= AT_ONCE:
            return
        peer, waiting = self._find(facility_key), self._waiting[key]
        free = await in_thread(self._free_bytes)
        waiting.lacks_room = free - waiting.news.more_bytes < FOLLOW_RESERVE_BYTES
        if waiting.lacks_room:
            return
        del self._waiting[key]
        if peer is None:
            return
        news = await in_thread(self._followed.take, study, facility_key)
        # A person may have asked for the study while the disk was at work.
        if news is not None and not any(one.study == study for one in self._incoming()):
            log.info("a study has grown at %s and is fetched again", peer.petname)
            await self._fetcher.start(
                study,
                peer,
                news.purpose,
                only_peer=news.only_peer,
                stat=news.stat,
                wanted_root=news.root,
            )

    async def _stop_unwanted(self) -> None:
        """Stop follow-ups of studies that are not followed any more."""
        for transfer in self._incoming():
            if transfer.follow_up and not await in_thread(
                self._followed.is_followed, transfer.study, transfer.peer
            ):
                await self._fetcher.stop(transfer, "the study is not followed any more")

    def _incoming(self) -> list[Transfer]:
        return [one for one in self._transfers.active.values() if one.direction == "in"]
