"""Taking in files: find, check, group, encode, store, record.

A first pass reads every file once, checks it to its end and computes its digest;
a second reads the new ones again in batch order, encodes each batch in a thread,
decodes it, compares, and stores it durably. Only then is the study published in one transaction;
its audit entry is on disk before.

Nothing here deletes or changes a source. A crash leaves batches that no study claims; the ingest is
simply run again, and uses them. Memory holds at most `_PORTION_FILES` headers and a few batches.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from node.blocking import worker_pool
from node.catalog.catalog import Catalog
from node.dicom.headers import SeriesAttributes, StudyAttributes
from node.dicom.studies import BadInstance, MediaDirectory, NotDicom
from node.images.ingest_batches import BatchWriter, Cancelled
from node.images.ingest_report import IngestProgress, IngestReport, Problem, StudyIngested
from node.images.media import MOST_IN_ARCHIVE, listing_of
from node.images.packing import Packing
from node.images.quarantine import MAX_FILE_BYTES, Quarantine
from node.images.reading import FileChanged, shown
from node.images.sources import Found, SourceFile, SourceMember, find_files, read_found
from node.images.store import BatchStore
from protocol.log.entry import Event
from protocol.manifest import BatchEntry

__all__ = [
    "EVERYTHING",
    "Chosen",
    "IngestProgress",
    "IngestReport",
    "Problem",
    "StudyIngested",
    "ingest",
]

_PORTION_FILES = 20_000
"""Files that are grouped at once: about 30 MB of headers. If a study spans two portions, its later
instances go into further batches."""

_ENCODING_THREADS = 2
"""More threads do not help, as one thread reads; zstd encodes 250 MB/s in each."""

_PROGRESS_SECONDS = 0.1


@dataclass(frozen=True)
class Chosen:
    """Of what is found, the images that are taken.

    Attributes:
        patients: Patient IDs, "" for images that name none; with none of them, of any patient.
        studies: Study Instance UIDs; with none of them, of any study.
    """

    patients: frozenset[str] = frozenset()
    studies: frozenset[str] = frozenset()

    def takes(self, study: StudyAttributes) -> bool:
        """Whether an image of this study is taken."""
        return (not self.patients or study.patient_id in self.patients) and (
            not self.studies or study.study_uid in self.studies
        )


EVERYTHING = Chosen()


def ingest(
    paths: Iterable[Path],
    *,
    catalog: Catalog,
    store: BatchStore,
    quarantine: Path,
    audit: Callable[[Event], int],
    now: Callable[[], float],
    progress: Callable[[IngestProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    shared: bool = True,
    chosen: Chosen = EVERYTHING,
) -> IngestReport:
    """Take files and folders into the node; blocks until done, so run it in a thread.

    Idempotent: instances that are here already are counted as known.

    Args:
        paths: files and folders; folders are walked.
        quarantine: the quarantine folder; its parent, the node's home, is never
            ingested.
        audit: writes one entry durably; called once for each study that gets instances.
        now: seconds since the epoch, UTC.
        progress: called about every 0.1 s, in this thread.
        cancelled: called between files and batches; tells whether to stop.
        shared: whether new studies are shared with the peers that may see them, if the sharing
            rules say so.
        chosen: the images that are taken. Unless that is everything, what cannot be read is left
            alone, as it may be of anybody.

    Returns:
        What was done, with each file that was not taken.

    Raises:
        NodeError: a path does not exist, or the disk is full or broken. Studies that are finished
            stay.
    """
    started = time.monotonic()
    with worker_pool(_ENCODING_THREADS, "encode") as pool:
        writer = BatchWriter(store, pool, cancelled)
        aside = Quarantine(quarantine, now=now())
        packing = Packing(
            catalog=catalog,
            store=store,
            writer=writer,
            quarantine=aside,
            audit=audit,
            report=IngestReport(),
            shared=shared,
        )
        run = _Ingest(store, aside, packing, progress, cancelled, chosen)
        try:
            run.take(find_files(paths, exclude=quarantine.parent))
        except Cancelled:
            run.report.cancelled = True
        finally:
            writer.end()
    run.report.seconds = time.monotonic() - started
    return run.report


class _Ingest:
    """One run; owns its report."""

    def __init__(
        self,
        store: BatchStore,
        quarantine: Quarantine,
        packing: Packing,
        progress: Callable[[IngestProgress], None],
        cancelled: Callable[[], bool],
        chosen: Chosen,
    ) -> None:
        self.report = packing.report
        self._chosen = chosen
        self._store = store
        self._quarantine = quarantine
        self._packing = packing
        self._progress = progress
        self._cancelled = cancelled
        self._last_progress = 0.0
        self._oddities: dict[str, tuple[int, str]] = {}
        self._studies: dict[StudyAttributes, StudyAttributes] = {}
        self._series: dict[SeriesAttributes, SeriesAttributes] = {}

    def take(self, found: Iterable[Found]) -> None:
        """Take all files, portion by portion."""
        portion: list[SourceFile | SourceMember] = []
        read_bytes = 0
        for one in found:
            if self._cancelled():
                raise Cancelled
            source = self._read(one)
            if source is not None:
                portion.append(source)
                read_bytes += source.size
                if len(portion) >= _PORTION_FILES:
                    self._store_portion(portion)
                    portion = []
            self._tell("read", read_bytes, 0, 0)
        self._store_portion(portion)
        self.report.notes += [
            f"{note}: {count} of the files taken, the first is {first}"
            for note, (count, first) in self._oddities.items()
        ]

    def _read(self, found: Found) -> SourceFile | SourceMember | None:
        """Read one file; None if it is not taken, with the reason in the report."""
        report = self.report
        report.files += 1
        if found.is_link:
            report.skipped_links += 1
            return None
        if found.problem:
            report.unreadable.append(Problem(shown(found.path), found.problem))
            return None
        try:
            source = read_found(found)
        except MediaDirectory:
            report.skipped_media_directories += 1
            if found.member is None or report.skipped_media_directories <= MOST_IN_ARCHIVE:
                report.missing += [
                    Problem(shown(path), f"is listed in {shown(found.path)} and is not there")
                    for path in listing_of(found).missing
                ]
        except NotDicom:
            report.skipped_not_dicom += 1
        except BadInstance as error:
            report.quarantined.append(self._quarantined(found, error.reason))
        except FileChanged:
            report.unreadable.append(Problem(shown(found.path), "changed while it was read"))
        except OSError as error:
            report.unreadable.append(
                Problem(shown(found.path), f"cannot be read: {error.strerror}")
            )
        else:
            if not self._chosen.takes(source.header.study):
                report.not_chosen += 1
                return None
            for note in source.header.notes:
                count, first = self._oddities.get(note, (0, shown(found.path)))
                self._oddities[note] = (count + 1, first)
            return self._with_shared_attributes(source)
        return None

    def _with_shared_attributes(
        self, source: SourceFile | SourceMember
    ) -> SourceFile | SourceMember:
        """The same file, sharing equal attributes with other instances to save memory."""
        header = source.header
        return replace(
            source,
            header=replace(
                header,
                study=self._studies.setdefault(header.study, header.study),
                series=self._series.setdefault(header.series, header.series),
            ),
        )

    def _quarantined(self, found: Found, reason: str) -> Problem:
        if self._chosen != EVERYTHING:
            why = f"{reason}; no copy was kept, as only a part is taken"
            return Problem(shown(found.path), why)
        kept_at = ""
        try:
            kept_at = self._keep(found, reason)
        except FileChanged:
            reason = f"{reason}; no copy was kept: it changed meanwhile"
        except OSError as error:
            reason = f"{reason}; no copy was kept: {error.strerror}"
        return Problem(shown(found.path), reason, kept_at)

    def _keep(self, found: Found, reason: str) -> str:
        free_bytes = self._store.free_bytes()
        if found.member is None:
            return self._quarantine.keep(found.path, reason, free_bytes=free_bytes)
        with found.member.opened() as read:
            return self._quarantine.keep_read(
                read, reason, shown(found.path), most_bytes=min(MAX_FILE_BYTES, free_bytes)
            )

    def _store_portion(self, portion: list[SourceFile | SourceMember]) -> None:
        by_study: dict[str, list[SourceFile | SourceMember]] = {}
        for source in portion:
            by_study.setdefault(source.header.study.study_uid, []).append(source)
        done = encoded = 0
        total = sum(source.size for source in portion)

        def on_batch(batch: BatchEntry) -> None:
            nonlocal done, encoded
            done += batch.original_size
            encoded += batch.encoded_size
            self._tell("store", done, total, encoded)

        def on_left_out(size: int) -> None:
            nonlocal total
            total -= size

        for study_uid, sources in by_study.items():
            self._packing.pack(study_uid, sources, on_left_out, on_batch)
        self._studies.clear()
        self._series.clear()

    def _tell(self, phase: str, done: int, total: int, encoded: int) -> None:
        moment = time.monotonic()
        # Report the last batch of a portion in any case, so that a progress bar fills.
        if done == total or moment - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = moment
            self._progress(
                IngestProgress(
                    phase=phase,
                    files=self.report.files,
                    bytes=done,
                    bytes_total=total,
                    encoded_bytes=encoded,
                    instances=self.report.instances_new,
                )
            )
