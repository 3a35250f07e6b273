"""Brings studies from the archives of this facility, when somebody wants what is indexed.

An archive gives one study at a time. The images come in as arrivals, are packed at once, and from
then on the study is here like any other. What an archive could not give as a whole is not counted
as here: a person decides about that.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import trio

from node.blocking import in_thread
from node.catalog.archive_index import IndexedStudies, Wanting
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.edges.archive_settings import ArchiveSettings
from node.edges.archiving import pause
from node.edges.indexing import Given, IndexedArchive
from node.errors import ExitCode, NodeError
from node.failures import describe_unexpected
from protocol.log.entry import Event, subjects_of

log = logging.getLogger("radmesh.retrieval")

MOST_WAITING = 1000
"""Studies that wait for archives at most."""

MOST_OF_ONE = 8
"""Studies that wait for one peer at most; as many as it may have under way."""

MOST_A_DAY = 1000
"""Studies that are brought for one peer in a day at most."""

PACK_SECONDS = 900.0
"""Longest wait until what has come is packed."""

TOLD = 100
"""Most studies that could not be brought of which it is kept why."""

DAY_SECONDS = 24 * 3600

HERE, UNDER_WAY, FAILED = "here", "under way", "failed"


@dataclass(eq=False)
class Retrieval:
    """A study that is wanted from an archive.

    Attributes:
        wanting: the study, and where it is.
        peer: facility key of who wants it; b"" for a person here.
        stat: whether it is urgent.
        state: `UNDER_WAY`, `HERE` or `FAILED`.
        why: why it failed, for people.
        tries: how often it failed.
        rests_until: nothing is tried again until then, as `trio.current_time`.
        is_over: set when it is here or has failed.
    """

    wanting: Wanting
    peer: bytes
    stat: bool
    state: str = UNDER_WAY
    why: str = ""
    tries: int = 0
    rests_until: float = 0.0
    is_over: trio.Event = field(default_factory=trio.Event)

    @property
    def has_failed(self) -> bool:
        """Whether the archive did not give it, or not all of it."""
        return self.state == FAILED


class Retrievals:
    """Brings studies from archives. For the trio thread only.

    Args:
        archives: those that are indexed, by name, each with how it is asked.
        indexed: which archive has what.
        catalog: the studies of this node.
        pack_now: see `Arrivals.pack_now`.
        append: writes an audit entry durably (synchronous).
        clock: tells the day.
    """

    def __init__(
        self,
        archives: Mapping[str, tuple[ArchiveSettings, Callable[[], IndexedArchive]]],
        indexed: IndexedStudies,
        catalog: Catalog,
        pack_now: Callable[[str, float], Awaitable[bool]],
        append: Callable[[Event], object],
        clock: Clock,
    ) -> None:
        self._archives = archives
        self._indexed = indexed
        self._catalog = catalog
        self._pack_now = pack_now
        self._append = append
        self._clock = clock
        self._known: dict[str, Retrieval] = {}
        self._of_day: Counter[bytes] = Counter()
        self._day = 0
        self._changed = trio.Event()

    async def bring(
        self, study: str, *, peer: bytes = b"", stat: bool = False, seconds: float
    ) -> Retrieval | None:
        """Have a study here that an archive has; returns when it is, or after some time.

        Args:
            study: its UID.
            peer: facility key of who wants it and may have it; b"" for a person here.
            stat: whether it is urgent.
            seconds: the longest wait.

        Returns:
            How far it is; None if nothing of it is missing here as far as is known.

        Raises:
            NodeError: too many are wanted at one time.
        """
        wanting = await in_thread(self._indexed.wanting, study)
        if wanting is None or wanting.archive not in self._archives:
            return None
        found = self._known.get(study)
        is_resting = (
            found is not None
            and found.state == FAILED
            and peer != b""
            and trio.current_time() < found.rests_until
        )
        if found is None or (found.state != UNDER_WAY and not is_resting):
            found = self._begin(wanting, peer, stat, found)
        found.stat = found.stat or stat
        with trio.move_on_after(seconds):
            await found.is_over.wait()
        return found

    def _begin(
        self, wanting: Wanting, peer: bytes, stat: bool, before: Retrieval | None
    ) -> Retrieval:
        waiting = [one for one in self._known.values() if one.state == UNDER_WAY]
        if peer:
            self._count(peer, sum(one.peer == peer for one in waiting))
        if len(waiting) >= MOST_WAITING:
            raise NodeError("too many studies wait for archives", code=ExitCode.BUSY)
        tries = 0 if before is None or before.state == HERE else before.tries
        found = self._known[wanting.study] = Retrieval(wanting, peer, stat, tries=tries)
        over = [study for study, one in self._known.items() if one.state != UNDER_WAY]
        for study in over[:-TOLD]:
            del self._known[study]
        self._changed.set()
        self._changed = trio.Event()
        return found

    def _count(self, peer: bytes, waiting: int) -> None:
        """Count a study that is brought for a peer.

        Raises:
            NodeError: it wants too many.
        """
        day = self._clock.now() // DAY_SECONDS
        if day != self._day:
            self._day = day
            self._of_day.clear()
        if waiting >= MOST_OF_ONE or self._of_day[peer] >= MOST_A_DAY:
            raise NodeError("the peer wants too many studies out of archives", code=ExitCode.BUSY)
        self._of_day[peer] += 1

    def failed(self) -> list[Retrieval]:
        """What could not be brought lately, and was not brought since."""
        return [one for one in self._known.values() if one.state == FAILED]

    def under_way(self) -> list[Retrieval]:
        """What is wanted now."""
        return [one for one in self._known.values() if one.state == UNDER_WAY]

    # --- the archives ------------------------------------------------------------------

    async def run(self) -> None:
        """Bring what is wanted until cancelled."""
        async with trio.open_nursery() as nursery:
            for name in self._archives:
                nursery.start_soon(self._work, name)

    async def _work(self, name: str) -> None:
        while True:
            changed = self._changed
            due = [one for one in self.under_way() if one.wanting.archive == name]
            if not due:
                await changed.wait()
                continue
            # Those that are urgent first, else in their order.
            await self._do(name, min(due, key=lambda one: not one.stat))

    async def _do(self, name: str, one: Retrieval) -> None:
        _, made = self._archives[name]
        try:
            await in_thread(self._log_begin, one)
            given = await made().give(one.wanting.study, stat=one.stat)
            one.why = await self._settle(one, given)
            one.state, one.tries = HERE, 0
        except NodeError as error:
            self._fail(one, error.message)
        except Exception as error:
            # A fault of ours with one study is not the end of the others.
            what = describe_unexpected(error)
            log.error("bringing a study from %s failed: %s", name, what)
            self._fail(one, f"a fault of this node: {what}")
        finally:
            if one.state != UNDER_WAY:
                one.is_over.set()

    def _log_begin(self, one: Retrieval) -> None:
        study = one.wanting.study
        self._append(
            Event(
                type="retrieve-begun",
                actor="node" if one.peer else "operator",
                peer=one.peer,
                subjects=subjects_of(study, self._catalog.patients(study)),
                details={"archive": one.wanting.archive},
            )
        )

    def _fail(self, one: Retrieval, why: str) -> None:
        one.rests_until = trio.current_time() + pause(one.tries)
        one.tries += 1
        one.why, one.state = why, FAILED
        log.warning("a study does not come from the archive %s: %s", one.wanting.archive, why)

    async def _settle(self, one: Retrieval, given: Given) -> str:
        """What has come is packed; returns what is missing and may be, for people, or ""."""
        study = one.wanting.study
        if not await self._pack_now(study, PACK_SECONDS):
            raise NodeError("what came of it cannot be packed: see `radmesh status`")
        if not await in_thread(self._catalog.is_here, study):
            came = f"of {given.given} images that it says it has given, none is here"
            raise NodeError(
                came if given.given else "it gives no image of it",
                hint="does it send to this node (`moves_to`), and may it call?",
            )
        # A person who asks has been told how many are missing.
        if given.failed and one.peer:
            raise NodeError(
                f"it gives {given.given} of {given.given + given.failed} images; "
                # It goes to the process log, which names no study.
                "`radmesh archive retrieve STUDY` takes it as it is"
            )
        await in_thread(self._indexed.came_whole, one.wanting)
        if not given.failed:
            return ""
        return f"{given.failed} of {given.given + given.failed} images did not come"
