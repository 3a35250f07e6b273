"""Classifying instances that arrived, and packing groups of them; all functions block.

`arrivals` owns the order of events; this module does the work in threads.
"""

import enum
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from node.blocking import worker_pool
from node.catalog.catalog import Catalog
from node.clock import Clock
from node.dicom.headers import InstanceHeader
from node.errors import ExitCode, NodeError
from node.images.arrival_groups import Group
from node.images.reading import ComparingReader, FileChanged
from node.images.spool import LargeFile, Spool
from node.images.spool_records import HEADER_BYTES, About, Record
from node.images.store import BatchStore
from node.phrases import count
from protocol.log.entry import Event
from protocol.recalls import meaning

if TYPE_CHECKING:
    from node.images.ingest_report import IngestReport

log = logging.getLogger("radmesh.arrivals")

BY_OPERATOR = "command"
"""The edge for a person at this node; what other edges bring, the node takes in by itself."""


class Outcome(enum.Enum):
    """What became of an instance."""

    TAKEN = "taken"
    """It is durable here and will be packed."""
    KNOWN = "known"
    """The same bytes are here already, durably."""
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
    """

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Brought:
    """An instance as it came: its bytes, its source, and whether it is urgent."""

    content: bytes | LargeFile
    source: str
    stat: bool


Looked = Became | tuple[About, InstanceHeader, str]
"""The outcome of an instance that does not go to the spool; for the others, the record kept beside
the bytes, the header, and why it will be set aside, or ""."""


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
    """Classifies instances and packs them. Thread-safe.

    Args:
        spool: holds instances until they are packed.
        catalog: the catalog of this node.
        store: the batches.
        quarantine: the quarantine folder.
        append: writes one audit entry durably.
        clock: dates arrivals.
        stopped: called between batches; tells whether the node is stopping.
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
    ) -> None:
        self._spool = spool
        self._catalog = catalog
        self._store = store
        self._quarantine = quarantine
        self._append = append
        self._clock = clock
        self._stopped = stopped

    def look_at(self, some: Sequence[Brought]) -> list[Looked | NodeError]:
        """As `look`, for several instances; the error for those where it failed."""
        found: list[Looked | NodeError] = []
        for one in some:
            try:
                found.append(self.look(one))
            except NodeError as error:
                found.append(error)
        return found

    def look(self, brought: Brought) -> Looked:
        """Find out what an instance is and what to do with it.

        Raises:
            NodeError: the disk or the database cannot be read or written.
        """
        # Imported here, since pydicom is slow to load.
        from node.dicom.studies import BadInstance, NotDicom
        from node.images.sources import read_content, read_opened

        content, source = brought.content, brought.source
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
            return self._put_to_quarantine(content, source, error.reason)
        except (FileChanged, OSError):
            raise NodeError(
                "what arrives cannot be read again",
                hint="check the disk of the node's home",
                code=ExitCode.DISK,
            ) from None
        study, sop = header.study.study_uid, header.sop_instance_uid
        held = self._catalog.instance_digest(study, sop)
        if held == digest:
            return Became(Outcome.KNOWN)
        aside = ""
        if held is not None:
            aside = "has the SOP Instance UID of another image of its study, and other bytes"
        else:
            code = self._catalog.bars(study).code(header.series.series_uid, sop)
            if code:
                aside = f"was discarded here ({meaning(code)})"
        about = About(size, digest, source, brought.stat, self._clock.now_ms())
        return about, header, aside

    def _put_to_quarantine(self, content: bytes | LargeFile, source: str, reason: str) -> Became:
        from node.images.quarantine import MAX_FILE_BYTES, Quarantine

        size = content.size if isinstance(content, LargeFile) else len(content)
        if size > min(MAX_FILE_BYTES, self._store.free_bytes()):
            return Became(Outcome.REFUSED, f"{reason}; it is too large for the quarantine")
        quarantine = Quarantine(self._quarantine, now=self._clock.now())

        def read(offset: int, length: int) -> bytes:
            if isinstance(content, bytes):
                return content[offset : offset + length]
            return os.pread(content.descriptor, length, HEADER_BYTES + offset)

        quarantine.keep_read(read, reason, source, most_bytes=size)
        return Became(Outcome.QUARANTINED, reason)

    def recover(self) -> list[tuple[Record, InstanceHeader]]:
        """Instances that an earlier process took and did not pack; call once, before all else.

        Raises:
            NodeError: the spool cannot be read.
        """
        from node.images.sources import read_opened

        found = []
        for record in self._spool.recover():
            with self._spool.opened(record) as (descriptor, start):
                header, _ = read_opened(descriptor, start, record.about.size, "")
            found.append((record, header))
        return found

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
        try:
            self._spool.settle([one.record for one in group.items if id(one) not in lost])
        except NodeError as error:
            log.warning(
                "what was packed stays in the spool until the next start: %s", error.message
            )
        return [one for one in group.items if id(one) in lost]


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
