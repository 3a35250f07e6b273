"""Taking files in: find, check, group, encode, store, record.

A first pass reads every file once, checks it to its end and computes its digest;
a second reads the new ones again in batch order, encodes each batch in a thread,
decodes it, compares, and stores it durably. Only then is the study published in
one transaction, with its audit entry on disk before the change is.

Nothing here deletes or changes a source. A crash leaves batches that no study
claims; the ingest is simply run again, and takes them up.
Memory holds at most `_PORTION_FILES` headers and a few batches.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from node.blocking import worker_pool
from node.catalog.catalog import LOCAL, Added, Catalog
from node.dicom.headers import SeriesAttributes, StudyAttributes
from node.dicom.studies import BadInstance, MediaDirectory, NotDicom
from node.images.ingest_batches import BatchWriter, Cancelled, Written
from node.images.ingest_report import (
    IngestProgress,
    IngestReport,
    Problem,
    StudyIngested,
    notes_of,
    overtaken,
)
from node.images.media import missing_members
from node.images.quarantine import Quarantine
from node.images.sources import FileChanged, Found, SourceFile, find_files, read_source, shown
from node.images.store import BatchStore
from protocol import limits
from protocol.log.entry import Event, subjects_of
from protocol.manifest import BatchEntry, Manifest
from protocol.recalls import meaning

__all__ = ["IngestProgress", "IngestReport", "Problem", "StudyIngested", "ingest"]

_PORTION_FILES = 20_000
"""Files that are grouped at once: about 30 MB of headers. A study that crosses a
portion gets its later instances in further batches."""

_ENCODING_THREADS = 2
"""More do not help beside the one thread that reads; zstd takes 250 MB/s in each."""

_PROGRESS_SECONDS = 0.1

_LONGEST_ROW_BYTES = 512
"""Of a manifest for one instance: its row with three UIDs of 64 characters, and a series
and a batch of its own, are 407 bytes."""


def ingest(
    paths: Iterable[Path],
    *,
    catalog: Catalog,
    store: BatchStore,
    quarantine: Path,
    audit: Callable[[Event], int],
    progress: Callable[[IngestProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.time,
    shared: bool = True,
) -> IngestReport:
    """Take files and folders into the node; blocks until done, so run it in a thread.

    Idempotent: what is here already is counted as known.

    Args:
        paths: files and folders; folders are walked.
        quarantine: the quarantine folder; its parent, the node's home, is never
            ingested.
        audit: writes one entry durably; called once per study that gets instances.
        progress: called about every 0.1 s, in this thread.
        cancelled: asked between files and batches.
        now: seconds since the epoch, UTC.
        shared: whether studies that were not here before are shared with the peers
            that may see.

    Returns:
        What was done, file by file where something was not taken.

    Raises:
        NodeError: a path does not exist, or the disk is full or broken. Studies
            finished before stay.
    """
    started = time.monotonic()
    with worker_pool(_ENCODING_THREADS, "encode") as pool:
        writer = BatchWriter(store, pool, cancelled)
        run = _Ingest(
            catalog, store, writer,
            Quarantine(quarantine, now=now()), audit, progress, cancelled, shared,
        )  # fmt: skip
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
        catalog: Catalog,
        store: BatchStore,
        writer: BatchWriter,
        quarantine: Quarantine,
        audit: Callable[[Event], int],
        progress: Callable[[IngestProgress], None],
        cancelled: Callable[[], bool],
        shared: bool,
    ) -> None:
        self.report = IngestReport()
        self._catalog = catalog
        self._store = store
        self._writer = writer
        self._quarantine = quarantine
        self._audit = audit
        self._progress = progress
        self._cancelled = cancelled
        self._shared = shared
        self._last_progress = 0.0
        self._oddities: dict[str, tuple[int, str]] = {}
        self._studies: dict[StudyAttributes, StudyAttributes] = {}
        self._series: dict[SeriesAttributes, SeriesAttributes] = {}

    def take(self, found: Iterable[Found]) -> None:
        """Take all files, portion by portion."""
        portion: list[SourceFile] = []
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

    def _read(self, found: Found) -> SourceFile | None:
        """Read one file; None, and the reason in the report, when it is not taken."""
        report = self.report
        report.files += 1
        if found.is_link:
            report.skipped_links += 1
            return None
        if found.problem:
            report.unreadable.append(Problem(shown(found.path), found.problem))
            return None
        try:
            source = read_source(found.path)
        except MediaDirectory:
            report.skipped_media_directories += 1
            report.missing += [
                Problem(shown(path), f"is listed in {shown(found.path)} and is not there")
                for path in missing_members(found.path)
            ]
        except NotDicom:
            report.skipped_not_dicom += 1
        except BadInstance as error:
            self._put_aside(report.quarantined, found.path, error.reason)
        except FileChanged:
            report.unreadable.append(Problem(shown(found.path), "changed while it was read"))
        except OSError as error:
            report.unreadable.append(
                Problem(shown(found.path), f"cannot be read: {error.strerror}")
            )
        else:
            for note in source.header.notes:
                count, first = self._oddities.get(note, (0, shown(found.path)))
                self._oddities[note] = (count + 1, first)
            return self._with_shared_attributes(source)
        return None

    def _with_shared_attributes(self, source: SourceFile) -> SourceFile:
        """The same file with equal attributes held once, not once per instance."""
        header = source.header
        return replace(
            source,
            header=replace(
                header,
                study=self._studies.setdefault(header.study, header.study),
                series=self._series.setdefault(header.series, header.series),
            ),
        )

    def _put_aside(self, problems: list[Problem], path: Path, reason: str) -> str:
        try:
            kept_at = self._quarantine.keep(path, reason, free_bytes=self._store.free_bytes())
        except OSError as error:
            reason = f"{reason}; no copy was kept: {error.strerror}"
            kept_at = ""
        problems.append(Problem(shown(path), reason, kept_at))
        return kept_at

    def _store_portion(self, portion: list[SourceFile]) -> None:
        by_study: dict[str, list[SourceFile]] = {}
        for source in portion:
            by_study.setdefault(source.header.study.study_uid, []).append(source)
        done = encoded = 0
        total = sum(source.size for source in portion)

        def on_batch(batch: BatchEntry) -> None:
            nonlocal done, encoded
            done += batch.original_size
            encoded += batch.encoded_size
            self._tell("store", done, total, encoded)

        for study_uid, sources in by_study.items():
            new, known, conflicting = self._compare(study_uid, sources)
            total -= sum(source.size for source in sources) - sum(source.size for source in new)
            written = self._writer.write(study_uid, new, on_batch)
            for source, why in written.lost:
                self.report.unreadable.append(Problem(shown(source.path), why))
            if written.manifest is not None and not self._fits(written.manifest):
                self._refuse(study_uid, new)
                written = Written()
            self._publish(study_uid, new, written, known, conflicting)
        self._studies.clear()
        self._series.clear()

    def _compare(
        self, study_uid: str, sources: list[SourceFile]
    ) -> tuple[list[SourceFile], int, int]:
        """The new files of a study, and how many are known and in conflict."""
        held = self._catalog.held_instances(study_uid)
        bars = self._catalog.bars(study_uid)
        new, known, conflicting = [], 0, 0
        too_many = []
        for source in sources:
            header = source.header
            kept = held.get(header.sop_instance_uid)
            code = bars.code(header.series.series_uid, header.sop_instance_uid)
            if kept is None and code:
                conflicting += 1
                self._record_aside(
                    source,
                    b"",
                    f"was discarded here ({meaning(code)}); it is taken only by"
                    " `radmesh quarantine take`",
                )
            elif kept is None and len(held) >= limits.MANIFEST_INSTANCES:
                too_many.append(source)
            elif kept is None:
                held[header.sop_instance_uid] = source.digest
                new.append(source)
            elif kept == source.digest:
                known += 1
            else:
                conflicting += 1
                self._record_aside(
                    source,
                    kept,
                    f"has the SOP Instance UID of another instance of study {study_uid} and other"
                    " bytes; the study keeps the one that came first",
                )
        self._refuse(study_uid, too_many)
        self.report.instances_known += known
        return new, known, conflicting

    def _fits(self, manifest: Manifest) -> bool:
        """Whether a study can still be fetched once this part of it is published.

        A peer takes no larger manifest; what most studies have is far below.
        """
        study_uid = manifest.study_instance_uid
        row = self._catalog.study(study_uid)
        count, original = len(manifest.instances), manifest.total_original_bytes
        if row is not None:
            count, original = count + row.instance_count, original + row.original_bytes
        most_batches = count + original // limits.BATCH_LEAST_BYTES + 1
        if (
            count * _LONGEST_ROW_BYTES <= limits.MANIFEST_BYTES
            and most_batches <= limits.MANIFEST_BATCHES
        ):
            return True
        size, batches = len(manifest.encode()), len(manifest.batches)
        if row is not None:
            held = self._catalog.manifest(study_uid)
            size, batches = size + len(held.encode()), batches + len(held.batches)
        return size <= limits.MANIFEST_BYTES and batches <= limits.MANIFEST_BATCHES

    def _refuse(self, study_uid: str, sources: list[SourceFile]) -> None:
        self.report.quarantined += [
            Problem(
                shown(source.path),
                f"is of study {study_uid}, which has as many instances as can be sent to a"
                " peer; no copy was kept",
            )
            for source in sources
        ]

    def _record_aside(self, source: SourceFile, kept_digest: bytes, why: str) -> None:
        header = source.header
        kept_at = self._put_aside(self.report.conflicts, source.path, why)
        if kept_at:
            self._catalog.record_conflict(
                study_uid=header.study.study_uid,
                series_uid=header.series.series_uid,
                sop_uid=header.sop_instance_uid,
                kept_digest=kept_digest,
                digest=source.digest,
                size=source.size,
                kept_at=kept_at,
            )

    def _publish(
        self,
        study_uid: str,
        sources: list[SourceFile],
        written: Written,
        known: int,
        conflicting: int,
    ) -> None:
        manifest = written.manifest
        was = self._catalog.study(study_uid)
        added = Added(new=0, known=0, conflicting=0)
        if manifest is not None:
            added = self._catalog.publish(
                manifest,
                written.headers,
                written.described,
                origin=LOCAL,
                shared=self._shared,
                before_commit=lambda _: self._audit(self._event(manifest)),
            )
            row = self._catalog.study(study_uid)
            self.report.notes += notes_of(row, was) if row is not None else []
            if added.conflicting:
                held = self._catalog.held_instances(study_uid)
                self.report.conflicts += overtaken(manifest, held, sources)
        encoded_bytes = manifest.total_encoded_bytes if manifest is not None else 0
        original_bytes = manifest.total_original_bytes if manifest is not None else 0
        self.report.instances_new += added.new
        self.report.instances_known += added.known
        self.report.original_bytes += original_bytes
        self.report.encoded_bytes += encoded_bytes
        self.report.studies.append(
            StudyIngested(
                study=study_uid,
                new=added.new,
                known=known + added.known,
                conflicting=conflicting + added.conflicting,
                original_bytes=original_bytes,
                encoded_bytes=encoded_bytes,
            )
        )

    def _event(self, manifest: Manifest) -> Event:
        """The entry of what a transaction is about to make visible."""
        study_uid = manifest.study_instance_uid
        row = self._catalog.study(study_uid)
        details: dict[str, str | int | bool] = {
            "instances": len(manifest.instances),
            "bytes": manifest.total_original_bytes,
            "batches": len(manifest.batches),
            "content_root": manifest.content_root.hex(),
        }
        if row is not None and row.to_check and row.state != "shared":
            details["to_check"] = row.to_check
        return Event(
            type="ingest",
            actor="operator",
            subjects=subjects_of(study_uid, self._catalog.patients(study_uid)),
            details=details,
        )

    def _tell(self, phase: str, done: int, total: int, encoded: int) -> None:
        moment = time.monotonic()
        # The last batch of a portion is told in any case, so that a bar fills.
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
