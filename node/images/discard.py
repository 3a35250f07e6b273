"""Discarding studies, series and instances that are wrong, as an operator decides.

Order: the study is held back in memory (no peer is told of it, transfers of it end), then the entry
`discarded`, then one transaction that takes it out of the catalog and the feeds, then the files. A
start completes what an entry says. The catalog lists files that it no longer needs until they are
deleted, so a crash leaves none behind.

Synchronous and thread-safe.
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass

from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects, once
from node.audit.log import AuditLog
from node.catalog.catalog import Catalog, StudyRow
from node.catalog.discards import Discard, leftovers, note_leftover, settle_leftovers
from node.catalog.search import find_parts
from node.database import Database
from node.errors import ExitCode, NodeError
from node.images.holds import WhyStays
from node.images.repack import without
from node.images.store import BatchStore, Pins
from node.sharing.decisions import Decisions
from protocol.log.entry import Entry, Event, subjects_of
from protocol.manifest import Manifest
from protocol.recalls import RETENTION, meaning

log = logging.getLogger("radmesh.discard")

_SWEPT_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Discarded:
    """The result of a discard.

    Attributes:
        study: Study Instance UID.
        instances, bytes: how many instances and original bytes were discarded.
        left: how many instances of the study stay.
        entry: index of the entry.
    """

    study: str
    instances: int
    bytes: int
    left: int
    entry: int


class Discards:
    """Discards, and frees the space.

    Args:
        database: holds the catalog.
        catalog: the catalog of this node.
        store: the batches.
        audit: the log.
        effects: ties entries to their effects.
        decisions: the decisions that rest on what is here.

    Attributes:
        require_free_to_go: raises NodeError if a study (UID) has to stay whatever a person says.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        store: BatchStore,
        audit: AuditLog,
        effects: Effects,
        decisions: Decisions,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._store = store
        self._audit = audit
        self._effects = effects
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._cuts = Cuts(effects.append, decisions.wait_earlier)
        self._wait_earlier = decisions.wait_earlier
        self.require_free_to_go: Callable[[str], None] = lambda study: None
        self._has_leftovers = False

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Studies (UIDs) that are held back and whose discard could not be written yet."""
        return self._cuts.names

    @property
    def is_unfinished(self) -> bool:
        """Whether a discard is still to be written, or a file to be deleted."""
        return bool(self._cuts.names) or self._has_leftovers

    def discard(self, text: str, code: str) -> Discarded:
        """Discard a study, a series or an instance.

        Args:
            text: a UID of one of these, or any other text that `Catalog.find_study` takes.
            code: the reason, a code of `protocol.recalls`.

        Raises:
            NodeError: nothing has that name; the rest of the study is damaged; or the discard could
                not be written. In the last case the study is held back while this process runs, and
                the write is tried again.
        """
        with self._lock:
            discard = self._find(text, code)
            self.require_free_to_go(discard.study)
            row = self._require(discard.study)
            size, count = self._amount(discard)
            left = row.instance_count - count
            event = self._event(discard, row, count, size)
            self._catalog.hold_back(discard.study)
            entry = self._write_or_say(discard, event)
        self.sweep()
        return Discarded(study=discard.study, instances=count, bytes=size, left=left, entry=entry)

    def remove(self, row: StudyRow, why_stays: WhyStays) -> Discarded:
        """Remove a study that has been kept for long enough: as it was found, or not at all.

        It may come in again. Entry and change are in one transaction, which finds the study as
        `row` has it: what came in since stays.

        Args:
            row: the study as it was looked at.
            why_stays: asked once more, when nothing can begin with the study any more.

        Raises:
            NodeError: it has to stay, has changed, or the disk cannot be written. It is here then,
                and shared as before.
        """
        study = row.study_uid
        discard = Discard(study, "", "", RETENTION)
        with self._lock:
            self._catalog.hold_back(study)
            is_done = False
            try:
                self._wait_earlier()
                why = why_stays(study)
                if why:
                    raise NodeError(f"study {study} stays: it {why}", code=ExitCode.REFUSED)
                event = self._event(discard, row, row.instance_count, row.original_bytes)
                append = once(self._audit.append)
                entries: list[int] = []

                def entry() -> int:
                    # In the transaction: a hold may have been placed a moment ago.
                    self.require_free_to_go(study)
                    entries.append(append(event))
                    return entries[-1]

                is_done = self._catalog.discard(
                    discard, None, entry=entry, revision=row.revision, held_back=True
                )
                if not is_done:
                    raise NodeError(f"study {study} has changed", code=ExitCode.REFUSED)
            finally:
                if not is_done:
                    self._catalog.let_go(study)
                    self._catalog.on_change(study)
        self.sweep()
        return Discarded(
            study=study,
            instances=row.instance_count,
            bytes=row.original_bytes,
            left=0,
            entry=entries[-1],
        )

    def write_unwritten(self) -> None:
        """Try again to write these discards.

        Raises:
            NodeError: it still cannot be written.
        """
        with self._lock:
            self._cuts.write()
        self.sweep()

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Discard what an entry of the log says was discarded; see `Effects.compare`."""
        named = {}
        for _, commitment in entry.subjects:
            opening = self._audit.opening_of(commitment)
            if opening is not None:
                named[opening.kind] = opening.value
        level, part = entry.details.get("level"), named.get("instance", "")
        if "study" not in named or bool(part) is (level == "study"):
            return False
        discard = Discard(
            named["study"],
            part if level == "series" else "",
            part if level == "instance" else "",
            str(entry.details.get("code", "")),
        )
        row = self._catalog.study(discard.study)
        root = entry.details.get("content_root")
        if discard.code == RETENTION and row is not None and row.content_root.hex() != root:
            # Only what the entry is about has been kept for long enough.
            return False
        pins = self._store.pins()
        try:
            self._take_out(discard, lambda: entry.index, pins, held_back=False)
        except NodeError as error:
            # The rest of the study cannot be read: withhold all of it.
            log.error("entry %d cannot be made true: %s", entry.index, error.message)
            with contextlib.suppress(NodeError):
                self._catalog.set_shared(discard.study, False)
            return False
        finally:
            pins.clear()
        return True

    def sweep(self) -> int:
        """Delete the files of batches that nothing claims any more; returns how many were settled.

        Batches that an ingest or a fetch has pinned stay until the next call.

        Raises:
            NodeError: the disk cannot be written.
        """
        count, left, after = 0, 0, b""
        with self._sweeping:
            while True:
                digests = leftovers(self._database, after, _SWEPT_AT_ONCE)
                if not digests:
                    self._has_leftovers = left > 0
                    return count
                after = digests[-1]
                settled = self._store.remove_unused(digests, self._catalog.has_batch)
                count += len(settled)
                left += len(digests) - len(settled)
                settle_leftovers(self._database, settled)

    def note_batch(self, digest: bytes) -> None:
        """A batch is going to be written: if nothing claims it later, `sweep` deletes it."""
        self._has_leftovers = True
        note_leftover(self._database, digest)

    # --- what is meant ------------------------------------------------------------

    def _find(self, text: str, code: str) -> Discard:
        wanted = text.strip()
        for parts in find_parts(self._database, wanted):
            if len(parts) > 1:
                studies = ", ".join(study for study, _, _ in parts)
                raise NodeError(
                    f"{wanted} is in several studies: {studies}",
                    hint="discard the study, or look with `radmesh studies`",
                    code=ExitCode.NOT_FOUND,
                )
            if parts and self._catalog.study(wanted) is None:
                return Discard(*parts[0], code)
        return Discard(self._catalog.find_study(wanted).study_uid, "", "", code)

    def _require(self, study: str) -> StudyRow:
        return self._catalog.find_study(study)

    def _amount(self, discard: Discard) -> tuple[int, int]:
        """How many bytes and instances of it are here."""
        sizes = [
            one.size
            for one in self._catalog.instances(discard.study)
            if discard.holds(one.series_uid, one.sop_uid)
        ]
        return sum(sizes), len(sizes)

    def _event(self, discard: Discard, row: StudyRow, count: int, size: int) -> Event:
        level = "instance" if discard.sop else "series" if discard.series else "study"
        subjects = list(subjects_of(discard.study, self._catalog.patients(discard.study)))
        if level != "study":
            # The log has no subject kind for series; the level says which UID this is.
            subjects.append(("instance", discard.sop or discard.series))
        return Event(
            type="discarded",
            actor="operator",
            subjects=tuple(subjects),
            details={
                "code": discard.code,
                "reason": meaning(discard.code),
                "level": level,
                "instances": count,
                "bytes": size,
                "content_root": row.content_root.hex(),
            },
        )

    # --- the change ------------------------------------------------------------------

    def _write_or_say(self, discard: Discard, event: Event) -> int:
        cut = Cut(discard.study, event, lambda entry: self._write(discard, entry))
        try:
            return self._cuts.make(cut, alone=True)
        except NodeError as error:
            if error.code is ExitCode.INTEGRITY and cut.entry is None:
                self._cuts.give_up(cut)
                self._catalog.let_go(discard.study)
                self._catalog.on_change(discard.study)
                raise
            raise NodeError(
                "the study is held back by this process, but that it is discarded could not be "
                f"written: {error.message}",
                hint="make room on the disk: a running node then writes it by itself; after a "
                "restart look with `radmesh studies` how it stands",
                code=error.code,
            ) from error

    def _write(self, discard: Discard, entry: Callable[[], int]) -> None:
        pins = self._store.pins()
        try:
            # Check that the rest can be read before the entry is written.
            self._rest(discard, pins)
            entry()
            self._take_out(discard, entry, pins, held_back=True)
        finally:
            pins.clear()

    def _take_out(
        self, discard: Discard, entry: Callable[[], int], pins: Pins, *, held_back: bool
    ) -> None:
        is_done = False
        while not is_done:
            revision, rest = self._rest(discard, pins)
            is_done = self._catalog.discard(
                discard, rest, entry=entry, revision=revision, held_back=held_back
            )

    def _rest(self, discard: Discard, pins: Pins) -> tuple[int, Manifest | None]:
        """The revision of the study, and the manifest of what stays of it."""
        row = self._catalog.study(discard.study)
        if row is None or discard.is_whole:
            return (0 if row is None else row.revision), None
        manifest = self._catalog.manifest(discard.study)
        gone = {
            one.sop_instance_uid
            for one in manifest.instances
            if discard.holds(
                manifest.series[one.series_index].series_instance_uid, one.sop_instance_uid
            )
        }
        return row.revision, without(manifest, gone, self._store, pins, self.note_batch)
