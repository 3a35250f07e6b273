"""Taking instances that arrived into the spool, and packing groups of them; all functions block.

`arrivals` owns the order of events; this module does the work in threads.

An instance is read while the disk flushes it. So the spool also gets instances that turn out not to
be wanted, and lets go of them before they are answered. A crash in between leaves them in the
spool, where the next start finds them: known ones are packed as known, damaged ones go to the
quarantine.
"""

import enum
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import blake3

from keys.sharing import BY_HAND
from node.blocking import worker_pool
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.dicom.headers import InstanceHeader
from node.errors import ExitCode, NodeError
from node.images.arrival_groups import Group
from node.images.reading import ComparingReader, FileChanged
from node.images.spool import LargeFile, Spool, Staged
from node.images.spool_records import HEADER_BYTES, About, Record
from node.images.store import BatchStore
from node.phrases import count
from protocol.log.entry import Event
from protocol.recalls import meaning

if TYPE_CHECKING:
    from node.images.ingest_report import IngestReport

log = logging.getLogger("radmesh.arrivals")

Read = Callable[[int, int], bytes]
"""Gives the bytes of an instance at an offset, up to a number of them; none beyond its end."""

CameBack = Callable[[str, str, str, Read, int], bool]
"""Whether a source brings what an archive has got from us, from: source, study, SOP Instance UID,
how to read it, and its size in bytes. Raises NodeError if ours cannot be read."""

BY_OPERATOR = BY_HAND
"""The edge for a person at this node; what other edges bring, the node takes in by itself."""


class Outcome(enum.Enum):
    """What became of an instance."""

    TAKEN = "taken"
    """It is durable here and will be packed."""
    KNOWN = "known"
    """The same bytes are here already, durably."""
    RETURNED = "came back"
    """It is here already, and an archive that has got it from us sends it back."""
    SET_ASIDE = "set aside"
    """It is durable, and will be set aside: its UID is here with other bytes, or was discarded."""
    QUARANTINED = "quarantined"
    """It cannot be taken in, and is in the quarantine."""
    REFUSED = "refused"
    """It cannot be taken in, and nothing of it was kept."""


@dataclass(frozen=True, slots=True)
class Became:
    """What became of an instance.

    Attributes:
        outcome: the outcome.
        reason: completes a sentence that begins with the instance, or "".
        study: its Study Instance UID, or "" if it is unknown.
    """

    outcome: Outcome
    reason: str = ""
    study: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was read of an instance that goes into the catalog, or is set aside by packing.

    Attributes:
        header: its attributes.
        digest: BLAKE3 of its bytes.
        aside: why it will be set aside, or "".
    """

    header: InstanceHeader
    digest: bytes
    aside: str = ""


Looked = Became | Wanted
"""What was read of an instance; `Became` if it is not wanted in the spool."""


@dataclass(frozen=True, slots=True)
class Brought:
    """An instance as it came.

    Attributes:
        content: its bytes, or the file that holds them.
        source: the source that brought it.
        stat: whether it is urgent.
        association: the number of the association that brought it.
        named: the SOP Instance UID under which it was sent; "" if none was said.
        looked: what was read of it; None if it is to be read while the disk flushes it.
    """

    content: bytes | LargeFile
    source: str
    stat: bool
    association: int
    named: str = ""
    looked: Looked | None = None


@dataclass(frozen=True, slots=True)
class Took:
    """What became of an instance, and where it stands if it waits to be packed.

    Attributes:
        became: the outcome.
        study: its Study Instance UID, or "" if it is unknown.
        waiting: its record and header, if it waits now.
    """

    became: Became
    study: str = ""
    waiting: tuple[Record, InstanceHeader] | None = None


@dataclass(frozen=True, slots=True)
class Spooled:
    """A durable instance of the spool, as a `sources.Source`."""

    spool: Spool
    record: Record
    header: InstanceHeader

    @property
    def size(self) -> int:
        return self.record.about.size

    @property
    def digest(self) -> bytes:
        return self.record.about.digest

    @property
    def shown(self) -> str:
        return self.record.about.source

    @property
    def is_only_copy(self) -> bool:
        return True

    def reader(self) -> AbstractContextManager[ComparingReader]:
        return self.spool.reader(self.record)


class ArrivalWork:
    """Takes instances and packs them. Thread-safe, with one call of `take` at a time.

    Args:
        spool: holds instances until they are packed.
        catalog: the catalog of this node.
        store: the batches.
        quarantine: the quarantine folder.
        append: writes one audit entry durably.
        clock: dates arrivals.
        stopped: called between batches; tells whether the node is stopping.
        came_back: see `CameBack`.
        urgent: called with the UID of a study of which urgent images are packed.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        catalog: Catalog,
        store: BatchStore,
        quarantine: Path,
        append: Callable[[Event], int],
        clock: Clock,
        stopped: Callable[[], bool],
        came_back: CameBack = lambda source, study, sop, read, size: False,
        urgent: Callable[[str], None] = lambda study: None,
    ) -> None:
        self._came_back = came_back
        self._urgent = urgent
        self._spool = spool
        self._catalog = catalog
        self._store = store
        self._quarantine = quarantine
        self._append = append
        self._clock = clock
        self._stopped = stopped
        # Its thread ends with this object.
        self._reader: Executor | None = None
        # The digests of instances that wait, by study and SOP Instance UID.
        self._digests: dict[tuple[str, str], bytes] = {}

    def take(self, some: Sequence[Brought]) -> list[Took | NodeError]:
        """Make instances durable together, and find out what each is.

        Returns:
            For each, in order, what became of it, or why it was not taken.
        """
        reader = self._reader = self._reader or worker_pool(1, "arrivals")
        reading: list[Future[list[Looked | NodeError]]] = []

        def read_meanwhile() -> None:
            reading.append(reader.submit(self._look_at, some))

        now = self._clock.now_ms()
        records = self._spool.write(
            [Staged(_about(one, now), one.content) for one in some], meanwhile=read_meanwhile
        )
        looked = reading[0].result()
        took = [self._decide(*one) for one in zip(some, records, looked, strict=True)]
        self._spool.let_go(
            [
                record
                for record, one in zip(records, took, strict=True)
                if isinstance(record, Record) and not (isinstance(one, Took) and one.waiting)
            ]
        )
        return took

    def _look_at(self, some: Sequence[Brought]) -> list[Looked | NodeError]:
        found: list[Looked | NodeError] = []
        for one in some:
            try:
                found.append(one.looked or self.look(one.content, one.source, one.named))
            except NodeError as error:
                found.append(error)
        return found

    def _decide(
        self, brought: Brought, record: Record | NodeError, looked: Looked | NodeError
    ) -> Took | NodeError:
        """What becomes of an instance, by what was written and what was read."""
        if isinstance(looked, NodeError):
            return looked
        if isinstance(looked, Became):
            return Took(looked, looked.study)
        study, sop = looked.header.study.study_uid, looked.header.sop_instance_uid
        waits, aside = self._digests.get((study, sop)), looked.aside
        if waits == looked.digest:
            return Took(Became(Outcome.KNOWN, study=study), study)
        if isinstance(record, NodeError):
            return record
        if waits is not None and not aside:
            aside = "has the SOP Instance UID of another image that came, and other bytes"
        self._wait(record, looked.header)
        became = Became(Outcome.SET_ASIDE if aside else Outcome.TAKEN, aside, study)
        return Took(became, study, (record, looked.header))

    def _wait(self, record: Record, header: InstanceHeader) -> None:
        key = (header.study.study_uid, header.sop_instance_uid)
        self._digests.setdefault(key, record.about.digest)

    def packed(self, items: Sequence[Spooled]) -> None:
        """These instances wait no longer."""
        for one in items:
            key = (one.header.study.study_uid, one.header.sop_instance_uid)
            if self._digests.get(key) == one.digest:
                del self._digests[key]

    def look(self, content: bytes | LargeFile, source: str, named: str = "") -> Looked:
        """Find out what an instance is and what to do with it.

        Args:
            content, source, named: as in `Brought`.

        Raises:
            NodeError: the disk or the database cannot be read or written.
        """
        # Imported here, since pydicom is slow to load.
        from node.dicom.studies import BadInstance, NotDicom
        from node.images.sources import read_content, read_opened

        try:
            if isinstance(content, LargeFile):
                size = content.size
                header, digest = read_opened(content.descriptor, HEADER_BYTES, size, "")
            else:
                size = len(content)
                header, digest = read_content(content, "")
        except NotDicom:
            return Became(Outcome.REFUSED, "is no DICOM image")
        except BadInstance as error:
            return self._put_to_quarantine(_reading(content), size, source, error.reason)
        except (FileChanged, OSError):
            raise _unreadable() from None
        study, sop = header.study.study_uid, header.sop_instance_uid
        if named not in ("", sop):
            reason = "it was sent as another SOP Instance UID than it has"
            return self._put_to_quarantine(_reading(content), size, source, reason)
        held = self._catalog.instance_digest(study, sop)
        if held is not None and self._came_back(source, study, sop, _reading(content), size):
            return Became(Outcome.RETURNED, study=study)
        if held == digest:
            return Became(Outcome.KNOWN, study=study)
        aside = ""
        if held is not None:
            aside = "has the SOP Instance UID of another image of its study, and other bytes"
        else:
            code = self._catalog.bars(study).code(header.series.series_uid, sop)
            if code:
                aside = f"was discarded here ({meaning(code)})"
        return Wanted(header, digest, aside)

    def _put_to_quarantine(self, read: Read, size: int, source: str, reason: str) -> Became:
        from node.images.quarantine import MAX_FILE_BYTES, Quarantine

        if size > min(MAX_FILE_BYTES, self._store.free_bytes()):
            return Became(Outcome.REFUSED, f"{reason}; it is too large for the quarantine")
        quarantine = Quarantine(self._quarantine, now=self._clock.now())
        quarantine.keep_read(read, reason, source, most_bytes=size)
        return Became(Outcome.QUARANTINED, reason)

    def flush_large(self, file: LargeFile, looked: Wanted, source: str, stat: bool) -> None:
        """Make the bytes of a large instance durable, before `take` makes its name durable.

        Raises:
            NodeError: the disk is full or cannot be written.
        """
        about = About(file.size, looked.digest, source, stat, self._clock.now_ms())
        self._spool.flush_large(Staged(about, file))

    def recover(self) -> list[tuple[Record, InstanceHeader]]:
        """Instances that an earlier process took and did not pack; call once, before all else.

        What cannot be read as DICOM goes to the quarantine: the process ended before it could say
        so, or was of a release that read it.

        Raises:
            NodeError: the spool cannot be read, or the quarantine cannot be written.
        """
        from node.dicom.studies import BadInstance, NotDicom
        from node.images.sources import read_opened

        found, bad = [], []
        for record in self._spool.recover():
            try:
                with self._spool.opened(record) as (descriptor, start):
                    header, _ = read_opened(descriptor, start, record.about.size, "")
            except (BadInstance, NotDicom) as error:
                reason = error.reason if isinstance(error, BadInstance) else "is no DICOM image"
                if self._is_quarantined(record, reason):
                    bad.append(record)
                continue
            except (FileChanged, OSError):
                raise _unreadable() from None
            self._wait(record, header)
            found.append((record, header))
        self._spool.let_go(bad)
        return found

    def _is_quarantined(self, record: Record, reason: str) -> bool:
        """Put an instance of the spool to quarantine; it stays where it is if there is no room."""
        with self._spool.opened(record) as (descriptor, start):
            size = record.about.size

            def read(offset: int, length: int) -> bytes:
                return os.pread(descriptor, min(length, size - offset), start + offset)

            became = self._put_to_quarantine(read, size, record.about.source, reason)
        if became.outcome is Outcome.QUARANTINED:
            return True
        log.error("an image that arrived before the start stays in arrivals/: %s", became.reason)
        return False

    def pack(self, group: Group[Spooled]) -> list[Spooled]:
        """Pack a group and mark it in the spool; returns the instances that could not be read.

        Raises:
            Cancelled: the node is stopping.
            NodeError: the disk is full or failing, or the log takes no entry; the whole group
                waits.
        """
        from node.images.ingest_batches import BatchWriter
        from node.images.ingest_report import IngestReport
        from node.images.packing import Packing
        from node.images.quarantine import Quarantine

        report = IngestReport()
        with worker_pool(2, "encode") as pool:
            writer = BatchWriter(self._store, pool, self._stopped)
            packing = Packing(
                catalog=self._catalog,
                store=self._store,
                writer=writer,
                quarantine=Quarantine(self._quarantine, now=self._clock.now()),
                audit=self._append,
                report=report,
                shared=True,
                actor="operator" if group.source.partition(":")[0] == BY_OPERATOR else "node",
                brought_by=group.source,
            )
            try:
                lost = {id(one) for one in packing.pack(group.study, group.items)}
            finally:
                writer.end()
        _say(report)
        if group.stat:
            # Before the spool forgets that it is urgent.
            self._urgent(group.study)
        try:
            self._spool.settle([one.record for one in group.items if id(one) not in lost])
        except NodeError as error:
            log.warning(
                "what was packed stays in the spool until the next start: %s", error.message
            )
        return [one for one in group.items if id(one) in lost]


def _reading(content: bytes | LargeFile) -> Read:
    def read(offset: int, length: int) -> bytes:
        if isinstance(content, bytes):
            return content[offset : offset + length]
        return os.pread(content.descriptor, length, HEADER_BYTES + offset)

    return read


def _unreadable() -> NodeError:
    return NodeError(
        "what arrives cannot be read again",
        hint="check the disk of the node's home",
        code=ExitCode.DISK,
    )


def _about(brought: Brought, now_ms: int) -> About:
    content = brought.content
    if isinstance(content, LargeFile):
        assert isinstance(brought.looked, Wanted)
        size, digest = content.size, brought.looked.digest
    else:
        size, digest = len(content), blake3.blake3(content).digest()
    return About(size, digest, brought.source, brought.stat, now_ms)


def _say(report: "IngestReport") -> None:
    """Log the result of a packing for the operator: counts only."""
    aside = len(report.conflicts) + len(report.quarantined)
    log.info(
        "packed what arrived: %s, %d known",
        count(report.instances_new, "new image"),
        report.instances_known,
    )
    if aside:
        log.warning(
            "put aside of what arrived: %s; see `radmesh quarantine list`", count(aside, "image")
        )
