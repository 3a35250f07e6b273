"""The one way into the catalog: instances of one study are compared, packed and published.

An ingest of files and arrivals both go through here, so that all instances get the same checks,
setting aside, patients and entry. Batches are durable before the entry, and the entry before the
catalog shows anything.
"""

from collections.abc import Callable, Sequence

from keys.sharing import BY_HAND, WITHHOLD, Decided
from node.audit.effects import once
from node.catalog.catalog import LOCAL, Added, Catalog
from node.catalog.rows import state_for_peers
from node.catalog.sharing import details_of
from node.images.ingest_batches import BatchWriter, Written
from node.images.ingest_report import (
    IngestReport,
    Problem,
    StudyIngested,
    notes_of,
    overtaken,
)
from node.images.quarantine import Quarantine
from node.images.reading import FileChanged
from node.images.sources import Source
from node.images.store import BatchStore
from protocol import limits
from protocol.log.entry import Event, subjects_of
from protocol.manifest import BatchEntry, Manifest
from protocol.recalls import meaning

_LONGEST_ROW_BYTES = 512
"""Most bytes of a manifest for one instance: a row with three UIDs of 64 characters, and a series
and a batch of its own, take 407 bytes."""


class Packing:
    """Takes instances that were read into the catalog, study by study.

    Args:
        catalog: the catalog of this node.
        store: the batches.
        writer: writes batches into the store.
        quarantine: keeps instances that cannot be taken.
        audit: writes one entry durably; called once for each study that gets instances.
        report: records what was done, and why instances were not taken.
        shared: whether new studies are shared, if the sharing rules say so.
        actor: the actor of the entries.
        brought_by: the source that the entries name, or "".
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        store: BatchStore,
        writer: BatchWriter,
        quarantine: Quarantine,
        audit: Callable[[Event], int],
        report: IngestReport,
        shared: bool,
        actor: str = "operator",
        brought_by: str = "",
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._writer = writer
        self._quarantine = quarantine
        self._audit = audit
        self.report = report
        self._shared = shared
        self._actor = actor
        self._brought_by = brought_by
        self._lost: list[Source] = []

    def pack(
        self,
        study_uid: str,
        sources: Sequence[Source],
        on_left_out: Callable[[int], None] = lambda size: None,
        on_batch: Callable[[BatchEntry], None] = lambda batch: None,
    ) -> list[Source]:
        """Take instances of one study; those taken are durable and in the catalog on return.

        Args:
            sources: in the order in which they came: of two with the same UID the first counts.
            on_left_out: called with the number of bytes that will not be packed.
            on_batch: called for each batch once it is in the store.

        Returns:
            The instances that could not be read again. All others are in the catalog or the
            quarantine or, if they are not the only copies, in the report.

        Raises:
            Cancelled: the caller asked to stop.
            NodeError: the disk is full or broken, or the log takes no entry; instances that are not
                in the catalog or the quarantine then have to be brought again.
        """
        self._lost = []
        new, known, conflicting = self._compare(study_uid, sources)
        on_left_out(sum(one.size for one in sources) - sum(one.size for one in new))
        written = self._writer.write(study_uid, new, on_batch)
        for source, why in written.lost:
            self._lose(source, why)
        if written.manifest is not None and not self._fits(written.manifest):
            gone = {id(source) for source, _ in written.lost}
            self._refuse(study_uid, [source for source in new if id(source) not in gone])
            written = Written()
        self._publish(study_uid, new, written, known, conflicting)
        return self._lost

    def _lose(self, source: Source, why: str) -> None:
        self._lost.append(source)
        self.report.unreadable.append(Problem(source.shown, why))

    def _compare(self, study_uid: str, sources: Sequence[Source]) -> tuple[list[Source], int, int]:
        """The new instances of a study, how many are known, and how many are in conflict."""
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
        """Whether a study can still be fetched after this part of it is published.

        A peer accepts no larger manifest; most studies are far below that.
        """
        study_uid = manifest.study_instance_uid
        row = self._catalog.study(study_uid)
        if row is not None and row.indexed_in:
            row = None
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

    def _refuse(self, study_uid: str, sources: Sequence[Source]) -> None:
        why = f"is of study {study_uid}, which has as many instances as can be sent to a peer"
        for source in sources:
            if source.is_only_copy:
                self._put_aside(self.report.quarantined, source, why)
            else:
                problem = Problem(source.shown, f"{why}; no copy was kept")
                self.report.quarantined.append(problem)

    def _record_aside(self, source: Source, kept_digest: bytes, why: str) -> None:
        header = source.header
        kept_at = self._put_aside(self.report.conflicts, source, why)
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

    def _put_aside(self, problems: list[Problem], source: Source, reason: str) -> str:
        """Keep a copy in the quarantine; returns the name of its folder, or "" if none is kept.

        Raises:
            NodeError: the source is the only copy, and cannot be kept.
        """
        if source.is_only_copy:
            self._store.require_free(source.size)
        kept_at = ""
        try:
            free_bytes = self._store.free_bytes()
            kept_at = self._quarantine.keep_source(source, reason, free_bytes=free_bytes)
        except (FileChanged, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else "it changed meanwhile"
            if source.is_only_copy:
                self._lose(source, f"{reason}; no copy was kept: {why}")
                return ""
            reason = f"{reason}; no copy was kept: {why}"
        problems.append(Problem(source.shown, reason, kept_at))
        return kept_at

    def _publish(
        self,
        study_uid: str,
        sources: Sequence[Source],
        written: Written,
        known: int,
        conflicting: int,
    ) -> None:
        manifest = written.manifest
        was = self._catalog.study(study_uid)
        added = Added(new=0, known=0, conflicting=0)
        if manifest is not None:
            entry_of = once(self._audit)
            added = self._catalog.publish(
                manifest,
                written.headers,
                written.described,
                origin=LOCAL,
                shared=self._shared,
                sources=(self._brought_by or BY_HAND,),
                before_commit=lambda done: entry_of(self._event(manifest, done.decided)),
            )
            row = self._catalog.study(study_uid)
            self.report.notes += notes_of(row, was) if row is not None else []
            decided = added.decided
            if was is None and decided is not None and decided.effect == WITHHOLD:
                self.report.notes.append(f"study {study_uid}: {decided.why}, so it is not shared")
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

    def _event(self, manifest: Manifest, decided: Decided | None) -> Event:
        """The entry of the instances that a transaction is about to make visible."""
        study_uid = manifest.study_instance_uid
        row = self._catalog.study(study_uid)
        details: dict[str, str | int | bool] = {
            "instances": len(manifest.instances),
            "bytes": manifest.total_original_bytes,
            "batches": len(manifest.batches),
            "content_root": manifest.content_root.hex(),
        }
        if self._brought_by:
            details["source"] = self._brought_by
        if decided is not None:
            details |= details_of(decided)
        if row is not None:
            details["state"] = state_for_peers(row)
        if row is not None and row.to_check and row.state != "shared":
            details["to_check"] = row.to_check
        return Event(
            type="ingest",
            actor=self._actor,
            subjects=subjects_of(study_uid, self._catalog.patients(study_uid)),
            details=details,
        )
