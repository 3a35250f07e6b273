"""Instances that come one by one: durable first, then answered, then packed in groups.

An edge opens an association and hands each instance over as a stream of bytes. The answer is a
promise: an instance that was `TAKEN` is in the spool, file and name flushed, and will get into the
catalog, or into the quarantine with its reason. Instances that wait for a flush share it. The
instances of one study from one source are packed together when they are due (`arrival_groups`), by
the code of an ingest, with one entry that names the source.

An instance is read while the disk flushes it, so that one that comes alone waits for the longer of
the two only.

Order of writes: spool -> answer -> batches -> entry -> catalog -> mark in the spool. A crash in
between leaves instances in the spool; the next start packs them, and counts those that were in the
catalog already as known.
"""

import contextlib
import itertools
import logging
import re
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from node.blocking import in_thread
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.dicom.headers import InstanceHeader, SeriesAttributes, StudyAttributes
from node.errors import ExitCode, NodeError
from node.images.arrival_groups import Group, Groups, Windows
from node.images.arrival_work import ArrivalWork, Became, Brought, CameBack, Spooled, Took
from node.images.spool import INSTANCE_BYTES, SMALL_BYTES, LargeFile, Spool
from node.images.spool_records import SOURCE_CHARACTERS, Record
from node.images.store import BatchStore
from node.together import Together
from protocol.log.entry import Event

log = logging.getLogger("radmesh.arrivals")

TAKES = 128
"""Most instances that are received at one time: each may hold `SMALL_BYTES` in memory."""

ROUND = 16
"""Most instances that are read before the first of them is answered."""

AGAIN_SECONDS = 5.0
"""Pause before a spool that could not be read is read again."""

_SOURCE = re.compile(rf"(?=.{{1,{SOURCE_CHARACTERS}}}\Z)[a-z][a-z0-9-]*(:[ !#-\[\]-~]+)?")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A durable instance that waits to be packed.

    Attributes:
        header: its attributes.
        digest: BLAKE3 of its bytes.
        trouble: why its group could not be packed the last time; "" if nothing is known.
    """

    header: InstanceHeader
    digest: bytes
    trouble: str


class Arrivals:
    """All arrivals at one node. For the trio thread only, unless a method says otherwise.

    Args:
        spool: holds instances until they are packed.
        catalog: the catalog of this node.
        store: the batches.
        quarantine: the quarantine folder.
        append: writes one audit entry durably (synchronous).
        require_sound: raises NodeError while no instance may be taken in.
        clock: dates arrivals.
        windows: gives how long groups of a source wait.
        came_back: see `CameBack`.
        urgent: called with the UID of a study of which urgent images are packed; in a thread.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        catalog: Catalog,
        store: BatchStore,
        quarantine: Path,
        append: Callable[[Event], int],
        require_sound: Callable[[], None],
        clock: Clock,
        windows: Callable[[str], Windows] = lambda source: Windows(),
        came_back: CameBack = lambda source, study, sop, read, size: False,
        urgent: Callable[[str], None] = lambda study: None,
    ) -> None:
        self._spool = spool
        self._stopped = threading.Event()
        self._work = ArrivalWork(
            spool=spool,
            catalog=catalog,
            store=store,
            quarantine=quarantine,
            append=append,
            clock=clock,
            stopped=self._stopped.is_set,
            came_back=came_back,
            urgent=urgent,
        )
        self._require_sound = require_sound
        self._clock = clock
        self._groups: Groups[Spooled] = Groups(windows)
        self._attributes: dict[Any, Any] = {}
        self._numbers = itertools.count()
        self._open: set[int] = set()
        self._takes = 0
        self._rounds: Together[Brought, Took] = Together(
            self._work.take, most=ROUND, on_done=self._took
        )
        self._changed = trio.Event()
        self._is_recovered = trio.Event()
        self._packed = trio.Event()
        self._trouble = ""

    # --- taking --------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def association(self, source: str) -> AsyncIterator["Association"]:
        """Bring instances inside this block; packing waits for its end, unless it takes too long.

        Args:
            source: who brings them: the edge, and after a colon its name for the other side, such
                as `dimse:CT1`. At most 64 characters of printable ASCII without quotation marks and
                backslashes, and no patient data: it is logged.

        Raises:
            NodeError: no instance may be taken in now, or the source has another form.
        """
        if _SOURCE.fullmatch(source) is None:
            raise NodeError(
                f"{source!a} cannot be the name of who brings images",
                hint=f"up to {SOURCE_CHARACTERS} letters, digits, signs; no quotation marks",
                code=ExitCode.USAGE,
            )
        self._require_sound()
        # Wait until the arrivals of an earlier process are known: the same instances may come now.
        await self._is_recovered.wait()
        number = next(self._numbers)
        self._open.add(number)
        try:
            yield Association(self, number, source)
        finally:
            self._open.remove(number)
            self._groups.ended(number)
            self._wake()

    async def _take(
        self, chunks: AsyncIterable[bytes], stat: bool, named: str, number: int, source: str
    ) -> Became:
        self._require_sound()
        if self._takes >= TAKES:
            raise NodeError(
                f"{self._takes} images come at one time, and no more are taken",
                hint="send it again in a moment",
                code=ExitCode.BUSY,
            )
        self._takes += 1
        content: bytes | LargeFile = b""
        try:
            content = await self._receive(chunks)
            looked = None
            if isinstance(content, LargeFile):
                looked = await in_thread(self._work.look, content, source, named)
                if isinstance(looked, Became):
                    return looked
                await in_thread(self._work.flush_large, content, looked, source, stat)
            brought = Brought(content, source, stat, number, named, looked)
            return (await self._rounds.do(brought)).became
        finally:
            self._takes -= 1
            if isinstance(content, LargeFile) and not content.is_kept:
                with trio.CancelScope(shield=True):
                    await in_thread(content.drop)

    async def _receive(self, chunks: AsyncIterable[bytes]) -> bytes | LargeFile:
        """The bytes of an instance, in memory or in a file of their own."""
        data = bytearray()
        large: LargeFile | None = None
        try:
            async for chunk in chunks:
                data += chunk
                if large is None and len(data) > SMALL_BYTES:
                    large = await in_thread(self._spool.open_large)
                if large is not None and len(data) >= SMALL_BYTES:
                    if large.size + len(data) > INSTANCE_BYTES:
                        raise NodeError(
                            f"an image of more than {INSTANCE_BYTES} bytes is not taken",
                            code=ExitCode.REFUSED,
                        )
                    await in_thread(large.write, bytes(data))
                    data.clear()
            if large is not None:
                await in_thread(large.write, bytes(data))
        except BaseException:
            if large is not None:
                with trio.CancelScope(shield=True):
                    await in_thread(large.drop)
            raise
        return bytes(data) if large is None else large

    def _took(self, brought: Brought, took: Took) -> None:
        """Let a durable instance wait even if its association has ended; it will be packed."""
        if took.waiting is not None:
            if isinstance(brought.content, LargeFile):
                brought.content.is_kept = True
            record, header = took.waiting
            association = brought.association
            is_open = association in self._open
            self._add(record, self._shared(header), association if is_open else None)
        elif brought.stat and took.study:
            self._groups.hurry(took.study, brought.source)
            self._wake()

    def _add(
        self,
        record: Record,
        header: InstanceHeader,
        association: int | None,
        since: float | None = None,
    ) -> None:
        """Let a durable instance wait to be packed."""
        about = record.about
        study = header.study.study_uid
        next_due = self._groups.next_due()
        self._groups.arrived(
            Spooled(self._spool, record, header),
            study=study,
            source=about.source,
            size=about.size,
            now=trio.current_time(),
            association=association,
            stat=about.stat,
            since=since,
        )
        now_due = self._groups.next_due()
        if next_due is None or (now_due is not None and now_due < next_due):
            self._wake()

    def _shared(self, header: InstanceHeader) -> InstanceHeader:
        """The same header with equal attributes held once, not once for each instance."""
        held = self._attributes
        study: StudyAttributes = held.setdefault(header.study, header.study)
        series: SeriesAttributes = held.setdefault(header.series, header.series)
        return replace(header, study=study, series=series)

    # --- packing -------------------------------------------------------------------------

    async def run(self) -> None:
        """Take up arrivals of an earlier process, and pack groups that are due, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_with_us)
            await self._recover()
            # Urgent groups must not wait for a large group that is being packed.
            nursery.start_soon(self._pack_all, True)
            await self._pack_all(False)

    async def _pack_all(self, only_stat: bool) -> None:
        while True:
            changed = self._changed
            group = self._groups.due(trio.current_time(), only_stat=only_stat)
            if group is not None:
                await self._pack(group)
                self._trouble = next((one.why for one in self._groups.waiting if one.why), "")
                self._packed.set()
                self._packed = trio.Event()
                continue
            until = self._groups.next_due(only_stat=only_stat)
            with trio.CancelScope(deadline=float("inf") if until is None else until):
                await changed.wait()

    def _wake(self) -> None:
        """A group may be due earlier than was known."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_recovered(self) -> None:
        """Wait until the arrivals of an earlier process have been taken up."""
        await self._is_recovered.wait()

    async def studies(self) -> frozenset[str]:
        """The studies (UIDs) of which images wait to be packed, those of an earlier process too."""
        await self._is_recovered.wait()
        return frozenset(group.study for group in self._groups.waiting)

    async def waiting_under(self, sop_uids: Container[str]) -> list[Waiting]:
        """The instances under these SOP Instance UIDs that wait to be packed, in no order.

        What is packed meanwhile is in the catalog: look there behind this.
        """
        await self._is_recovered.wait()
        return [
            Waiting(one.header, one.digest, group.why)
            for group in self._groups.waiting
            for one in group.items
            if one.header.sop_instance_uid in sop_uids
        ]

    async def pack_now(self, study: str, seconds: float) -> bool:
        """Pack at once what has come of a study (UID); whether all of it is in the catalog.

        Args:
            study: UID of the study, all of which has come.
            seconds: the longest wait.
        """
        await self._is_recovered.wait()
        self._groups.close(study)
        self._wake()
        with trio.move_on_after(seconds):
            while any(group.study == study for group in self._groups.waiting):
                await self._packed.wait()
            return True
        return False

    async def next_packing(self) -> None:
        """Wait until a group has been packed, or its packing failed."""
        await self._packed.wait()

    async def _stop_with_us(self) -> None:
        """Set `_stopped` when cancelled; a thread that packs checks it between two batches."""
        try:
            await trio.sleep_forever()
        finally:
            self._stopped.set()

    async def _recover(self) -> None:
        while not self._is_recovered.is_set():
            try:
                found = await in_thread(self._work.recover)
            except NodeError as error:
                self._trouble = error.message
                log.error("what arrived before the start cannot be taken up: %s", error.message)
                await trio.sleep(AGAIN_SECONDS)
                continue
            self._trouble = ""
            now, wall = trio.current_time(), self._clock.now_ms()
            for record, header in found:
                age = max(0, wall - record.about.time_ms) / 1000
                self._add(record, self._shared(header), None, now - age)
            if found:
                log.info("%d images that arrived before the start are taken up", len(found))
            self._is_recovered.set()

    async def _pack(self, group: Group[Spooled]) -> None:
        """Pack one group; instances that cannot be packed now wait again."""
        from node.images.ingest_batches import Cancelled

        items = group.items
        try:
            lost = await in_thread(self._work.pack, group)
        except Cancelled:
            # The node is stopping; the next process packs the group.
            self._groups.failed(group, "the node is ending", trio.current_time())
            return
        except Exception as error:
            why = error.message if isinstance(error, NodeError) else type(error).__name__
            log.error("%d images that arrived cannot be packed now: %s", len(items), why)
            self._groups.failed(group, why, trio.current_time())
            return
        gone = {id(one) for one in lost}
        self._work.packed([one for one in items if id(one) not in gone])
        group.items, group.bytes = lost, sum(one.size for one in lost)
        if lost:
            why = f"{len(lost)} of them cannot be read: check the disk of the home"
            log.error("of images that arrived, %s", why)
            self._groups.failed(group, why, trio.current_time())
        else:
            self._groups.done(group)
        if not self._groups.waiting:
            self._attributes.clear()

    def describe(self) -> dict[str, Any]:
        """The waiting arrivals, as JSON."""
        groups = self._groups.waiting
        now = trio.current_time()
        return {
            "instances": sum(len(one.items) for one in groups),
            "bytes": sum(one.bytes for one in groups),
            "studies": len({one.study for one in groups}),
            "oldest_seconds": round(max((now - one.first for one in groups), default=0)),
            "trouble": self._trouble,
        }

    def trouble(self) -> tuple[int, str]:
        """How many instances wait, and why any cannot be packed, or ""; for any thread."""
        return self._spool.totals[0], self._trouble


@dataclass(frozen=True, slots=True)
class Association:
    """One connection of one source; several instances may come at a time."""

    arrivals: Arrivals
    number: int
    source: str

    async def take(
        self, chunks: AsyncIterable[bytes], *, stat: bool = False, named: str = ""
    ) -> Became:
        """Take one instance, a DICOM Part 10 file in pieces.

        The outcome is durable on return. If this is cancelled or raises, the instance may be taken
        all the same, but the caller must not count on it.

        Args:
            chunks: its bytes, of any lengths.
            stat: pack its study at once.
            named: the SOP Instance UID under which it is sent, if it was said; of another one it is
                put to quarantine, as its sender would look for it here in vain.

        Raises:
            NodeError: the disk or the spool is full, too many come at a time, or the log is in
                doubt; the instance can be sent again.
        """
        return await self.arrivals._take(chunks, stat, named, self.number, self.source)
