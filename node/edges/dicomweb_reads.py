"""Who reads which study by DICOMweb: an entry first; and partners' studies are fetched for it.

A viewer asks for a study a thousand times: one entry for some minutes of that.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from node.blocking import in_thread
from node.catalog.catalog import Catalog, StudyRow
from node.clock import Clock
from node.edges.dicomweb_answers import Refused, later
from node.edges.dicomweb_settings import WebCaller
from node.errors import NodeError
from protocol.log.entry import Event, subjects_of

ENTRY_SECONDS = 15 * 60
"""Within this time, one caller's reading of one study is one entry."""

FETCH_SECONDS = 5.0
"""How long a request waits for a study that is being fetched: a small one comes within it."""

FAILED_SECONDS = 60.0
"""So long after a fetch that failed, none is started for a caller again."""

_REMEMBERED = 10_000


class Fetching(Protocol):
    """A study that is being fetched.

    Attributes:
        over: set when that has ended.
        is_ended: whether it has.
        why: what it waits for, or why it failed; "" where nothing is to be said.
    """

    over: trio.Event
    why: str

    @property
    def is_ended(self) -> bool: ...


Fetch = Callable[[str, str], Awaitable[Fetching | None]]
"""(study, purpose) -> the fetch that is under way now; None if no partner announces the study."""


class Reads:
    """What callers read. For the trio thread.

    Args:
        catalog: our studies.
        append: writes an entry durably (synchronous).
        fetch: fetches a study.
        clock: tells when an entry is old.
    """

    def __init__(
        self, catalog: Catalog, append: Callable[[Event], int], fetch: Fetch, clock: Clock
    ) -> None:
        self._catalog = catalog
        self._append = append
        self._fetch = fetch
        self._clock = clock
        self._noted: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._noting: dict[tuple[str, str], trio.Lock] = {}
        self._fetches: OrderedDict[str, tuple[Fetching, float]] = OrderedDict()

    async def begin(self, caller: WebCaller, study: str) -> StudyRow:
        """A caller is going to be given something of a study; its entry is durable on return.

        Raises:
            Refused: the study is not here, or not yet.
            NodeError: the log cannot be written.
        """
        row = await self.require(caller, study)
        key = (caller.name, study)
        lock = self._noting.setdefault(key, trio.Lock())
        try:
            async with lock:
                if self._clock.running() - self._noted.get(key, -ENTRY_SECONDS) >= ENTRY_SECONDS:
                    await in_thread(self._note, caller, study)
                    self._noted[key] = self._clock.running()
                    self._noted.move_to_end(key)
                    while len(self._noted) > _REMEMBERED:
                        self._noted.popitem(last=False)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._noting.pop(key, None)
        return row

    def _note(self, caller: WebCaller, study: str) -> None:
        self._append(
            Event(
                type="retrieved",
                purpose=caller.purpose,
                subjects=subjects_of(study, self._catalog.patients(study)),
                details={"caller": f"dicomweb:{caller.name}"},
            )
        )

    async def require(self, caller: WebCaller, study: str) -> StudyRow:
        """The row of a study; one of a partner is fetched first, if the caller has a purpose.

        Raises:
            Refused: it is not here, or not yet.
        """
        row = await in_thread(self._here, study)
        if row is None and caller.purpose:
            await self._wait_fetched(study, caller.purpose)
            row = await in_thread(self._here, study)
        if row is None:
            raise Refused(404, "there is no such study here")
        return row

    def _here(self, study: str) -> StudyRow | None:
        """The row of a study that is here; what is in an archive alone, that gives itself."""
        row = self._catalog.study(study)
        return None if row is None or row.indexed_in else row

    async def _wait_fetched(self, study: str, purpose: str) -> None:
        fetching = self._failed_lately(study)
        if fetching is None:
            try:
                fetching = await self._fetch(study, purpose)
            except NodeError as error:
                raise later(f"the study cannot be fetched now: {error.message}") from error
            if fetching is None:
                return
            self._fetches[study] = (fetching, self._clock.running())
            self._fetches.move_to_end(study)
            while len(self._fetches) > _REMEMBERED:
                self._fetches.popitem(last=False)
        had_ended = fetching.is_ended
        with trio.move_on_after(FETCH_SECONDS):
            await fetching.over.wait()
        if not fetching.is_ended:
            waits = f": {fetching.why}" if fetching.why else ""
            raise later(f"the study is being fetched from a partner{waits}; ask again")
        if await in_thread(self._here, study) is None:
            if not had_ended:
                self._fetches[study] = (fetching, self._clock.running())
            raise Refused(
                502,
                f"the study was not fetched: {fetching.why or 'it did not come'}",
                ("retry-after", str(int(FAILED_SECONDS))),
            )
        self._fetches.pop(study, None)

    def _failed_lately(self, study: str) -> Fetching | None:
        """The fetch of this study that is under way, or has failed within a minute."""
        fetching, time = self._fetches.get(study, (None, 0.0))
        if fetching is None or not fetching.is_ended:
            return fetching
        if self._clock.running() - time < FAILED_SECONDS:
            return fetching
        del self._fetches[study]
        return None
