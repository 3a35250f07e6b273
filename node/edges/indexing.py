"""Indexes archives of this facility: asks them, day by day, which studies they have.

The last days are asked for often, all others once a day. What an archive has is announced like a
study that is here, if a sharing rule or a person says so (`node.catalog.indexed`); whoever may have
it gets it out of the archive first (`node.edges.archive_retrieval`).
"""

import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import trio

from edges.dimse import querying as q
from node.blocking import in_thread
from node.catalog.archive_index import IndexedStudies
from node.catalog.indexed import IndexedStudy
from node.clock import Clock, local_date
from node.dicom.headers import StudyAttributes
from node.edges.archive_settings import ArchiveSettings
from node.edges.archiving import pause
from node.errors import NodeError
from protocol.fields import is_uid

log = logging.getLogger("radmesh.indexing")

LOOK_SECONDS = 300.0
"""Time between two looks at the last days."""

RECENT_DAYS = 3

WHOLE_SECONDS = 24 * 3600.0
"""Time between two looks at all days."""

DAYS_AT_ONCE = 30
"""Days of one question."""

QUESTIONS = 20
"""Questions on one association."""

STUDIES_READ = 5000
"""Most studies of one question that are read. If there are more, its days are asked for in halves;
of one day with more, no study is missed."""

_TEXT_CHARACTERS = 256
_MODALITY = re.compile(r"[A-Z0-9_ ]{1,16}")
_DATE = re.compile(r"\d{8}")


@dataclass(frozen=True)
class Days:
    """Some days one after the other, each YYYYMMDD; the newest first."""

    each: tuple[str, ...]

    @property
    def first(self) -> str:
        """The oldest one."""
        return self.each[-1]

    @property
    def last(self) -> str:
        """The newest one."""
        return self.each[0]

    @property
    def text(self) -> str:
        """As a query has them; PS3.4 section C.2.2.2.5."""
        return self.first if len(self.each) == 1 else f"{self.first}-{self.last}"

    def halves(self) -> tuple["Days", ...]:
        """Its two halves; itself if it is one day."""
        middle = (len(self.each) + 1) // 2
        return tuple(Days(one) for one in (self.each[:middle], self.each[middle:]) if one)


@dataclass(frozen=True)
class Listed:
    """What an archive has of some days.

    Attributes:
        days: which.
        studies: the studies of these days.
        is_all: whether there are no others.
    """

    days: Days
    studies: tuple[IndexedStudy, ...]
    is_all: bool


@dataclass(frozen=True)
class Given:
    """How many images of a study an archive has given, and how many not."""

    given: int = 0
    failed: int = 0


class IndexedArchive(Protocol):
    """An archive that is indexed, whatever it speaks."""

    def studies(self, asked: Sequence[Days]) -> AsyncGenerator[Listed, None]:
        """As `IndexedDimse.studies`."""

    async def give(self, study: str, *, stat: bool) -> Given:
        """As `IndexedDimse.give`."""


def indexed_study(text: Callable[[int], str], days: Days) -> IndexedStudy | None:
    """A study as an archive tells of it; None if it has no UID or is of another day.

    Args:
        text: gives the value of an attribute by its tag.
        days: of which was asked for.
    """

    def short(tag: int) -> str:
        return "".join(one if one.isprintable() else " " for one in text(tag)).strip()[
            :_TEXT_CHARACTERS
        ]

    study, date = text(q.STUDY).strip(), text(q.STUDY_DATE).strip()
    if not is_uid(study) or date not in days.each:
        return None
    modalities = {one.strip() for one in text(q.STUDY_MODALITIES).split("\\")}
    birth_date = short(q.BIRTH_DATE)
    return IndexedStudy(
        StudyAttributes(
            study_uid=study,
            patient_id=short(q.PATIENT_ID),
            patient_name=short(q.PATIENT_NAME),
            patient_birth_date=birth_date if _DATE.fullmatch(birth_date) else "",
            patient_sex=short(q.SEX),
            accession_number=short(q.ACCESSION),
            study_id=short(q.STUDY_ID),
            study_date=date,
            study_time=short(q.STUDY_TIME),
            study_description=short(q.STUDY_DESCRIPTION),
            referring_physician=short(q.REFERRING),
            institution=short(q.INSTITUTION),
            patient_id_issuer=short(q.ISSUER),
        ),
        series=_count(text(q.STUDY_SERIES)),
        instances=_count(text(q.STUDY_INSTANCES)),
        modalities=tuple(sorted(one for one in modalities if _MODALITY.fullmatch(one))),
    )


def _count(text: str) -> int:
    stripped = text.strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() and len(stripped) < 8 else 0


@dataclass
class _State:
    """How far an archive is indexed.

    Attributes:
        failures: how often one after the other it could not be asked.
        trouble: why, for people; "" if it is well.
        left: what is still asked for in the look at all days, the newest first.
        whole_due: when all days are asked for again, as `trio.current_time`.
        looked: when it was asked last, seconds since the epoch, UTC; 0 for never.
    """

    failures: int = 0
    trouble: str = ""
    left: tuple[Days, ...] = ()
    whole_due: float = float("-inf")
    looked: int = 0


class Indexing:
    """Indexes the archives whose settings say so. For the trio thread only.

    Args:
        archives: those of the settings, by name, each with how it is asked.
        indexed: keeps what they have.
        clock: tells the day.
    """

    def __init__(
        self,
        archives: Mapping[str, tuple[ArchiveSettings, Callable[[], IndexedArchive]]],
        indexed: IndexedStudies,
        clock: Clock,
    ) -> None:
        self._archives = archives
        self._indexed = indexed
        self._clock = clock
        self._states = {name: _State() for name in archives}
        self._asked = trio.Event()

    def look_now(self) -> None:
        """A person asks for another look, at all days."""
        for state in self._states.values():
            state.whole_due = float("-inf")
            state.left = ()
        self._asked.set()
        self._asked = trio.Event()

    def describe(self) -> dict[str, dict[str, Any]]:
        """How far each archive is indexed, as JSON."""
        return {
            name: {
                "trouble": one.trouble,
                "looked": one.looked,
                "days_left": sum(len(days.each) for days in one.left),
            }
            for name, one in self._states.items()
        }

    async def run(self) -> None:
        """Index until cancelled."""
        try:
            await in_thread(self._indexed.keep_archives, frozenset(self._archives))
        except NodeError as error:
            log.error("what archives had that are no more in config.toml stays: %s", error.message)
        async with trio.open_nursery() as nursery:
            for name in self._archives:
                nursery.start_soon(self._index, name)

    async def _index(self, name: str) -> None:
        settings, made = self._archives[name]
        state = self._states[name]
        while True:
            asked = self._asked
            seconds = LOOK_SECONDS
            try:
                await self._look(settings, made(), state)
                if state.trouble:
                    log.info("the archive %s can be indexed again", name)
                state.failures, state.trouble = 0, ""
                if state.left:
                    seconds = 0.0
            except NodeError as error:
                seconds = pause(state.failures)
                state.failures += 1
                if state.trouble != error.message:
                    log.warning("the archive %s is not indexed: %s", name, error.message)
                state.trouble = error.message
            if seconds:
                with trio.move_on_after(seconds):
                    await asked.wait()

    async def _look(
        self, settings: ArchiveSettings, archive: IndexedArchive, state: _State
    ) -> None:
        """Ask for the last days, or for the next portion of all days."""
        now = trio.current_time()
        if not state.left and now >= state.whole_due:
            state.left = self._days(settings.index_days)
            state.whole_due = now + WHOLE_SECONDS
            await in_thread(self._indexed.keep_from, settings.name, state.left[-1].first)
        asked = state.left[:QUESTIONS] or self._days(min(RECENT_DAYS, settings.index_days))
        async with contextlib.aclosing(archive.studies(asked)) as listing:
            async for one in listing:
                await in_thread(self._take, settings, one)
                halves = () if one.is_all or len(one.days.each) == 1 else one.days.halves()
                state.left = (*halves, *(days for days in state.left if days != one.days))
                state.looked = self._clock.now()

    def _take(self, settings: ArchiveSettings, one: Listed) -> None:
        if not one.is_all and len(one.days.each) == 1:
            log.warning(
                "the archive %s has more studies of one day than are read, or some that cannot be",
                settings.name,
            )
        self._indexed.take(
            settings.name,
            settings.brings,
            one.days.first,
            one.days.last,
            one.studies,
            is_all=one.is_all,
        )

    def _days(self, many: int) -> tuple[Days, ...]:
        """So many days up to tomorrow, as clocks differ, each question with some of them."""
        today = datetime.strptime(local_date(self._clock.now()), "%Y%m%d")
        each = [(today - timedelta(days=number)).strftime("%Y%m%d") for number in range(-1, many)]
        return tuple(
            Days(tuple(each[start : start + DAYS_AT_ONCE]))
            for start in range(0, len(each), DAYS_AT_ONCE)
        )
