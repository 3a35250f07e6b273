"""Carries out what stands in `archive_queue`: sends studies to archives, and asks for proof.

Each archive has two lanes, one for what is urgent, with one study and one association at a time
each. So nothing waits for another archive, and no urgent study for a routine one.

Order of writes: row in the queue, with the study -> entry `forward-begun` -> images -> what became
of each, some at a time -> entry `forwarded` -> state -> entry `stored` -> state. A kill in between
sends the images again of which it was not written down yet, under the same UIDs with the same
bytes.
"""

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from node.blocking import in_thread
from node.catalog.catalog import Catalog
from node.clock import Clock, local_time
from node.dicom.identity import Identity
from node.edges.archive_dimse import ArchiveFull, Begin, DimseArchive, OnAnswer
from node.edges.archive_queue import (
    DONE,
    DROPPED,
    REFUSED,
    SENT,
    STORED,
    TAKEN,
    TRIES,
    ArchiveInstance,
    ArchiveQueue,
    ArchiveStudy,
)
from node.edges.archive_settings import COMMITMENT, QUERY, RETURNED, ArchiveSettings
from node.edges.archive_stow import StowArchive
from node.edges.outgoing import Answered, Originals, Outgoing, outgoing_of
from node.errors import ExitCode, NodeError
from node.failures import describe_unexpected
from node.images.store import BatchStore

log = logging.getLogger("radmesh.archives")

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 5.0, 900.0
"""Pause after something came to nothing; it doubles each time."""

LOOK_SECONDS = 60.0
"""Longest time between two looks into the queue: a time window may have begun."""

UNMATCHED_SECONDS = 600.0
"""Time until a study that waits for a match is looked at again; a match is told at once."""

NOTED = 64
NOTED_SECONDS = 1.0
"""What became of so many images, or within this time, is written down together."""

REPORT_SECONDS = 24 * 3600.0
"""Longest wait for the report of a storage commitment; then it is asked for again."""

MORE_THERE = 10_000
"""So many images more than are here may be at the archive."""

BACK_MOST = 100_000
"""Most images that came back and are not written down yet."""

Commit = Callable[[ArchiveSettings, str, Sequence[Outgoing]], Awaitable[None]]
"""Asks an archive to commit itself to images of a study (UID); the outcome comes later, by
`Archiving.committed`. Raises NodeError if it cannot be asked."""

Identify = Callable[[str], Identity | None]
"""How a study (UID) goes to an archive here; None while that is not known. Runs in a thread."""


class Archive(Protocol):
    """An archive, whatever it speaks."""

    async def check(self) -> None:
        """As `DimseArchive.check`."""

    async def send(
        self,
        images: Sequence[Outgoing],
        originals: Originals,
        begin: Begin,
        answered: OnAnswer,
        *,
        stat: bool,
    ) -> None:
        """As `DimseArchive.send`."""

    async def held(self, study_uid: str, series: Sequence[str], most: int) -> set[str]:
        """As `DimseArchive.held`."""


class _MatchChanged(NodeError):
    """While a study was sent its match changed, or a person dropped it, or it is gone."""


@dataclass
class _Lane:
    """One of the two lanes of an archive.

    Attributes:
        failures: how often one after the other it was not there, or took nothing.
        since: since when that is so, milliseconds since the epoch, UTC; 0 if it is not.
        trouble: why, for people; "" if it is well.
        rests_until: it is left alone until then, as `trio.current_time`.
        study: the one under way, or "".
    """

    failures: int = 0
    since: int = 0
    trouble: str = ""
    rests_until: float = 0.0
    study: str = ""


def pause(tries: int) -> float:
    """Seconds until the next try after so many that came to nothing."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 20), LAST_PAUSE_SECONDS)


class Archiving:
    """The archives of this node. For the trio thread only, unless a method says otherwise.

    Args:
        queue: what is to be done.
        catalog: the studies of this node.
        store: their batches.
        identify: see `Identify`.
        require_sound: raises NodeError while nothing may be sent.
        clock: dates what happens, and tells the time of day.

    Attributes:
        commit: asks for a storage commitment; without it the archive is asked by C-FIND.
    """

    def __init__(
        self,
        queue: ArchiveQueue,
        catalog: Catalog,
        store: BatchStore,
        identify: Identify,
        *,
        require_sound: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._catalog = catalog
        self._store = store
        self._identify = identify
        self._require_sound = require_sound
        self._clock = clock
        self.commit: Commit | None = None
        self._changed = trio.Event()
        self._lanes = {(name, stat): _Lane() for name in queue.archives for stat in (False, True)}
        self._came_back: deque[tuple[str, str, str]] = deque()
        self._returned: Counter[str] = Counter()

    # --- what others say ---------------------------------------------------------------

    def poke(self) -> None:
        """Something has changed in the queue: look now."""
        self._changed.set()
        self._changed = trio.Event()

    def try_now(self) -> None:
        """A person asks for another try: archives that were not there are asked at once."""
        for lane in self._lanes.values():
            lane.rests_until, lane.failures = 0.0, 0
        self.poke()

    def came_back(self, archive: str, study_uid: str, sop_uid: str) -> None:
        """An archive has sent us an image of ours, so it has it; for any thread."""
        self._returned[archive] += 1
        if len(self._came_back) < BACK_MOST:
            self._came_back.append((archive, study_uid, sop_uid))

    async def committed(
        self,
        archive: str,
        study_uid: str,
        done: frozenset[str],
        failed: frozenset[str],
        *,
        asked: int,
    ) -> None:
        """The report of a storage commitment has come.

        Args:
            archive: name of the archive.
            study_uid: UID of the study.
            done, failed: the images (SOP Instance UIDs) for which it has, and has not; both empty
                if it has not answered in time. A report may be about a part of the study.
            asked: when it was asked, milliseconds since the epoch, UTC.

        Raises:
            NodeError: it cannot be written down; the report is to be kept, and told again.
        """
        await in_thread(self._take_report, archive, study_uid, done, failed, asked)
        self.poke()

    def _take_report(
        self, archive: str, study: str, done: frozenset[str], failed: frozenset[str], asked: int
    ) -> None:
        one = self._queue.find(study, archive)
        if one is None or asked < one.since:
            # It is about what was here before: other bytes may have gone under the UIDs since.
            return
        self._queue.has(archive, [(study, uid) for uid in done])
        if one.state != SENT:
            return
        if failed:
            log.warning("the archive %s has not %d images that it took", archive, len(failed))
            self._queue.missing(one, failed)
        elif not self._is_whole(one, COMMITMENT) and not done:
            why = "the archive was asked to commit itself, and has not answered"
            self._queue.postpone(one, why, pause(one.tries))

    def _is_whole(self, one: ArchiveStudy, proof: str) -> bool:
        """Settle a study of which the archive has shown that it has each image."""
        held = self._catalog.held_instances(one.study_uid)
        known = self._queue.instances(one.study_uid, one.archive)
        if not held or not all(
            # Of these bytes, not of others that were here before under the UID.
            uid in known and known[uid].state == STORED and known[uid].mark.endswith(digest.hex())
            for uid, digest in held.items()
        ):
            return False
        self._queue.stored(one, proof, len(held))
        return True

    def describe(self) -> list[dict[str, Any]]:
        """How each archive is, as JSON."""
        found = []
        for archive in self._queue.archives.values():
            lanes = [self._lanes[archive.name, stat] for stat in (False, True)]
            ill = [lane for lane in lanes if lane.trouble]
            found.append(
                {
                    "archive": archive.name,
                    "under_way": [lane.study for lane in lanes if lane.study],
                    "trouble": ill[0].trouble if ill else "",
                    "returned": self._returned[archive.name],
                    "since": min((lane.since for lane in ill), default=0),
                }
            )
        return found

    def is_under_way(self, one: ArchiveStudy) -> bool:
        """Whether a study is being sent, or asked for, now."""
        return any(
            self._lanes[one.archive, stat].study == one.study_uid
            for stat in (False, True)
            if (one.archive, stat) in self._lanes
        )

    async def check(self, name: str) -> None:
        """Ask an archive whether it is there.

        Raises:
            NodeError: it is not.
        """
        await _archive_of(self._queue.archives[name]).check()

    # --- the lanes ---------------------------------------------------------------------

    async def run(self) -> None:
        """Send and ask until cancelled."""
        async with trio.open_nursery() as nursery:
            for name, stat in self._lanes:
                nursery.start_soon(self._work, self._queue.archives[name], stat)
            nursery.start_soon(self._note_what_came_back)

    async def _work(self, settings: ArchiveSettings, stat: bool) -> None:
        lane = self._lanes[settings.name, stat]
        while True:
            changed = self._changed
            seconds = LOOK_SECONDS
            try:
                if trio.current_time() >= lane.rests_until:
                    seconds = await self._step(settings, lane, stat)
                else:
                    seconds = lane.rests_until - trio.current_time()
            except NodeError as error:
                log.error("what is to go to %s cannot be looked at: %s", settings.name, error)
                await trio.sleep(FIRST_PAUSE_SECONDS)
            if seconds > 0:
                with trio.move_on_after(min(seconds, LOOK_SECONDS)):
                    await changed.wait()

    async def _step(self, settings: ArchiveSettings, lane: _Lane, stat: bool) -> float:
        """Do what is due first; returns the seconds until something is due again."""
        is_open = stat or settings.takes_at(self._minute())
        other = self._lanes[settings.name, not stat]
        # What became urgent while it is sent does not hold up what is behind it.
        but = other.study
        one = await in_thread(
            lambda: self._queue.next_due(settings.name, stat=stat, only_sent=not is_open, but=but)
        )
        if one is None:
            return LOOK_SECONDS
        left = (one.due - self._clock.now_ms()) / 1000
        if left > 0:
            return left
        if one.study_uid == other.study:
            # The other lane has begun it meanwhile: look again, without it.
            return 0.0
        lane.study = one.study_uid
        try:
            await self._do(settings, one)
            if lane.trouble:
                log.info("the archive %s takes images again", settings.name)
            lane.failures, lane.since, lane.trouble = 0, 0, ""
        except _MatchChanged:
            await in_thread(self._queue.waits_for_match, one, 0.0)
        except NodeError as error:
            await self._trouble(settings, lane, one, error)
        except Exception as error:
            # A fault of ours with one study is not the end of the others.
            what = describe_unexpected(error)
            log.error("sending to %s failed: %s", settings.name, what)
            why = f"a fault of this node: {what}"
            await in_thread(self._queue.postpone, one, why, pause(one.tries))
        finally:
            lane.study = ""
            self.poke()
        return 0.0

    def _minute(self) -> int:
        return local_time(self._clock.now())[0]

    async def _trouble(
        self, settings: ArchiveSettings, lane: _Lane, one: ArchiveStudy, error: NodeError
    ) -> None:
        """It came to nothing: of the archive if it is not there, else of this study."""
        if isinstance(error, ArchiveFull) or error.code is ExitCode.UNREACHABLE:
            seconds = pause(lane.failures)
            lane.failures += 1
            lane.since = lane.since or self._clock.now_ms()
            lane.rests_until = trio.current_time() + seconds
            if lane.trouble != error.message:
                log.warning("%s", error.message)
            lane.trouble = error.message
            # The next one is tried first then, so that one study does not hold up the others.
            await in_thread(lambda: self._queue.postpone(one, error.message, seconds, counts=False))
            return
        log.error("a study cannot go to the archive %s now: %s", settings.name, error.message)
        # Each try is an entry: what a person has to change first is not tried again and again.
        is_lasting = getattr(error, "is_lasting", False)
        seconds = REPORT_SECONDS if is_lasting else pause(one.tries)
        await in_thread(self._queue.postpone, one, error.message, seconds)

    async def _do(self, settings: ArchiveSettings, one: ArchiveStudy) -> None:
        if one.state == SENT:
            await self._prove(settings, one)
        else:
            await self._send(settings, one)

    # --- sending -----------------------------------------------------------------------

    async def _send(self, settings: ArchiveSettings, one: ArchiveStudy) -> None:
        self._require_sound()
        if not await in_thread(self._catalog.is_here, one.study_uid):
            await in_thread(self._queue.gone, one)
            return
        identity = await in_thread(self._identify, one.study_uid)
        if identity is None:
            await in_thread(self._queue.waits_for_match, one, UNMATCHED_SECONDS)
            return
        plan = await in_thread(self._plan, one, identity)
        marks = {image.sop_uid: _mark(identity, image.digest) for image in plan.images}
        notes = _Notes(self, one, identity, marks)
        if plan.images:
            await self._send_planned(settings, one, identity, plan, notes)
        await in_thread(self._after, one, identity, notes)

    async def _send_planned(
        self,
        settings: ArchiveSettings,
        one: ArchiveStudy,
        identity: Identity,
        plan: "_Plan",
        notes: "_Notes",
    ) -> None:
        has_begun = False

        async def begin() -> None:
            nonlocal has_begun
            # The match may have been undone while the association was asked for.
            if not await in_thread(self.is_still, one, identity):
                raise _MatchChanged("the study does not go on as it was")
            if not has_begun:
                has_begun = True
                await in_thread(self._queue.begins, one, plan.details(identity))

        try:
            await _archive_of(settings).send(
                plan.images, plan.originals, begin, notes.answered, stat=one.stat != 0
            )
        finally:
            # What is known of images that went is written down also when it broke off.
            with trio.CancelScope(shield=True):
                await notes.write()

    def _plan(self, one: ArchiveStudy, identity: Identity) -> "_Plan":
        manifest = self._catalog.manifest(one.study_uid)
        known = self._queue.instances(one.study_uid, one.archive)
        images = [
            image
            for image in outgoing_of(manifest)
            if _is_due(known.get(image.sop_uid), _mark(identity, image.digest))
        ]
        now = self._queue.begun(one) // 1000
        return _Plan(images, Originals(manifest, self._store, identity, now))

    def is_still(self, one: ArchiveStudy, identity: Identity) -> bool:
        """Whether a study goes on under this identity; for a thread."""
        found = self._identify(one.study_uid)
        row = self._queue.find(one.study_uid, one.archive)
        goes = row is not None and row.state != DROPPED
        return goes and found is not None and found.mark == identity.mark

    def _after(self, one: ArchiveStudy, identity: Identity, notes: "_Notes") -> None:
        """What follows when each image was tried that was to go; in a thread."""
        held = self._catalog.held_instances(one.study_uid)
        known = self._queue.instances(one.study_uid, one.archive)
        here = [known[uid] for uid in held if uid in known]
        refused = [each for each in here if each.state == REFUSED]
        if any(
            uid not in known or known[uid].mark != _mark(identity, digest)
            for uid, digest in held.items()
        ):
            # It has grown or changed, and so is due again.
            return
        if not refused:
            self._queue.sent(one, notes.details(len(here)))
            return
        why = f"{len(refused)} of {len(held)} images are refused: {refused[0].why}"
        if any(_is_due(each, each.mark) for each in refused):
            log.warning("the archive %s refuses images of a study: %s", one.archive, why)
            self._queue.postpone(one, why, pause(one.tries))
            return
        log.error("a study does not go to the archive %s as a whole: %s", one.archive, why)
        self._queue.failed(one, why, refused)

    # --- proof --------------------------------------------------------------------------

    async def _prove(self, settings: ArchiveSettings, one: ArchiveStudy) -> None:
        """Ask whether all that was sent is stored."""
        plan = await in_thread(self._all_of, one)
        if not plan:
            await in_thread(self._queue.gone, one)
            return
        if await in_thread(self._is_whole, one, RETURNED):
            return
        if settings.proof == COMMITMENT and self.commit is not None:
            why = "the archive is asked to commit itself, and has not answered yet"
            # Before it is asked: the answer may come at once.
            await in_thread(lambda: self._queue.postpone(one, why, REPORT_SECONDS, counts=False))
            await self.commit(settings, one.study_uid, plan)
            return
        series = sorted({image.series_uid for image in plan})
        found = await _archive_of(settings).held(one.study_uid, series, len(plan) + MORE_THERE)
        await in_thread(self._settle, one, found)

    def _all_of(self, one: ArchiveStudy) -> list[Outgoing]:
        if not self._catalog.is_here(one.study_uid):
            return []
        return outgoing_of(self._catalog.manifest(one.study_uid))

    def _settle(self, one: ArchiveStudy, there: set[str]) -> None:
        """Compare what an archive says that it has with what it took; in a thread."""
        held = set(self._catalog.held_instances(one.study_uid))
        self._queue.has(one.archive, [(one.study_uid, uid) for uid in held & there])
        absent = held - there
        if self._is_whole(one, QUERY):
            return
        if not absent or one.tries < TRIES:
            why = f"the archive has {len(held) - len(absent)} of {len(held)} images so far"
            self._queue.postpone(one, why, pause(one.tries))
            return
        log.warning(
            "the archive %s took %d images of a study and has %d of them not: they are sent again",
            one.archive, len(held), len(absent),
        )  # fmt: skip
        self._queue.missing(one, absent)

    async def _note_what_came_back(self) -> None:
        while True:
            await trio.sleep(NOTED_SECONDS)
            if not self._came_back:
                continue
            some = [self._came_back.popleft() for _ in range(len(self._came_back))]
            try:
                await in_thread(self._note_back, some)
            except NodeError as error:
                log.error("what archives have sent back is not noted: %s", error.message)

    def _note_back(self, some: Sequence[tuple[str, str, str]]) -> None:
        by_archive: dict[str, list[tuple[str, str]]] = {}
        for archive, study, sop in some:
            by_archive.setdefault(archive, []).append((study, sop))
        for archive, images in by_archive.items():
            self._queue.has(archive, images)
        for archive, study in {(archive, study) for archive, study, _ in some}:
            one = self._queue.find(study, archive)
            if one is not None and one.state in (SENT, DONE):
                self._is_whole(one, RETURNED)


@dataclass
class _Plan:
    """The images of a study that are to go now, and who reads them."""

    images: list[Outgoing]
    originals: Originals

    def details(self, identity: Identity) -> dict[str, str | int | bool]:
        """The details of the entry before the first byte."""
        how = "temporary" if identity.is_temporary else "matched"
        return {
            "instances": len(self.images),
            "bytes": sum(one.size for one in self.images),
            "identity": "unchanged" if identity.unchanged else how,
        }


@dataclass
class _Notes:
    """What became of the images of one try, written down some at a time."""

    archiving: Archiving
    one: ArchiveStudy
    identity: Identity
    marks: dict[str, str]
    unwritten: list[ArchiveInstance] = field(default_factory=list)
    next_time: float = 0.0
    taken: int = 0
    warned: int = 0

    async def answered(self, answer: Answered) -> None:
        """Take down what became of an image."""
        self.taken += answer.is_taken
        self.warned += answer.is_taken and answer.status != 0
        self.unwritten.append(
            ArchiveInstance(
                sop_uid=answer.sop_uid,
                state=TAKEN if answer.is_taken else REFUSED,
                status=answer.status,
                why=answer.why,
                mark=self.marks[answer.sop_uid],
                digest=answer.digest,
            )
        )
        now = trio.current_time()
        if len(self.unwritten) >= NOTED or now >= self.next_time:
            await self.write()
            self.next_time = trio.current_time() + NOTED_SECONDS
            if not await in_thread(self.archiving.is_still, self.one, self.identity):
                raise _MatchChanged("the study does not go on as it was")

    async def write(self) -> None:
        """Write down what is not yet."""
        some, self.unwritten = self.unwritten, []
        if some:
            await in_thread(self.archiving._queue.note, self.one.study_uid, self.one.archive, some)

    def details(self, instances: int) -> dict[str, str | int | bool]:
        """The details of the entry after the last byte."""
        return {"instances": instances, "sent": self.taken, "warnings": self.warned}


def _mark(identity: Identity, digest: bytes) -> str:
    """By what an image went: differs when it must be sent again."""
    return f"{identity.mark}/{digest.hex()}"


def _is_due(known: ArchiveInstance | None, mark: str) -> bool:
    """Whether an image is to be sent."""
    if known is None or known.mark != mark:
        return True
    return known.state == REFUSED and known.tries < TRIES


def _archive_of(settings: ArchiveSettings) -> Archive:
    return StowArchive(settings) if settings.stow else DimseArchive(settings)
