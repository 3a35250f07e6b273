"""The catalog: which studies, series and instances this node has, and in which batches.

A study grows and is never rewritten: new instances bring new batches at new
positions, and the old ones keep their places. When an instance comes whose SOP
Instance UID the study has already, nothing happens if its bytes are the same; if
they differ, the study keeps its own version and the other one is recorded as a
conflict. SOP Instance UIDs are compared within their study only, so that a peer
cannot occupy the UIDs of a study that it does not send.

Every change is one transaction; `before_commit` runs inside it, so that an audit
entry can be durable before the change is. All functions are synchronous and
thread-safe.
"""

import sqlite3
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from node.catalog.changes import insert_conflict, insert_manifest, insert_study
from node.catalog.discards import (
    DISCARDS_SCHEMA,
    Bars,
    Discard,
    bars_of,
    delete_study,
    insert_discard,
    read_anew,
    remove_study,
    replace_instances,
)
from node.catalog.indexed import INDEXED_SCHEMA, fill
from node.catalog.patients import (
    OF_STUDY,
    PATIENTS,
    Described,
    Patient,
    identities,
    patients_of,
    update_study,
    why_of_change,
    why_of_first,
)
from node.catalog.rows import (
    IS_SHARED_TO_ANY,
    LOCAL,
    SCHEMA,
    STATES,
    Added,
    ConflictRow,
    InstanceRow,
    SeriesRow,
    StudyRow,
    Totals,
    conflict_row,
    instance_row,
    study_row,
)
from node.catalog.search import find_study
from node.catalog.sharing import SHARING_SCHEMA, Deciding
from node.catalog.words import ANY, WORDS_SCHEMA, Search
from node.database import Database
from node.dicom.headers import InstanceHeader, StudyAttributes
from node.errors import ExitCode, NodeError
from protocol import modalities
from protocol.encoding import Encoding
from protocol.manifest import (
    BatchEntry,
    InstanceEntry,
    Manifest,
    SeriesEntry,
)
from protocol.recalls import RETENTION

__all__ = [
    "CATALOG_SCHEMA",
    "LOCAL",
    "Added",
    "Catalog",
    "ConflictRow",
    "InstanceRow",
    "SeriesRow",
    "StudyRow",
    "Totals",
]

CATALOG_SCHEMA = SCHEMA + WORDS_SCHEMA + DISCARDS_SCHEMA + SHARING_SCHEMA + INDEXED_SCHEMA

_CACHED_MANIFESTS = 4
"""A manifest of 30,000 instances takes about 15 MB."""

_IS_TO_CHECK = "to_check <> ''"


class Catalog:
    """The catalog tables of the node's database.

    Args:
        database: opened with `CATALOG_SCHEMA`.
        clock: returns seconds since the epoch, UTC.

    Attributes:
        in_change: called with the Study Instance UID in the transaction of each change.
        in_publish: likewise, for each change that brings new instances.
        in_indexing: called with the UID in the transaction after which a study is indexed only.
        on_change: called with the UID after the commit, and when the study is held back;
            in the thread that made the change.
        mark: called in a transaction with the index of the entry whose effect it holds.
        deciding: decides what new studies become.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.in_change: Callable[[str], None] = lambda study_uid: None
        self.in_publish: Callable[[str], None] = lambda study_uid: None
        self.in_indexing: Callable[[str], None] = lambda study_uid: None
        self.on_change: Callable[[str], None] = lambda study_uid: None
        self.mark: Callable[[sqlite3.Connection, int], None] = lambda connection, entry: None
        self.deciding = Deciding(database, clock)
        self._held_back: Counter[tuple[str, bytes]] = Counter()
        self._holds = 0
        self._held_lock = threading.Lock()
        self._manifests: OrderedDict[str, tuple[int, Manifest]] = OrderedDict()
        self._manifests_lock = threading.Lock()

    # --- reading ---------------------------------------------------------------

    @property
    def version(self) -> tuple[int, int]:
        """Changes whenever an answer about a study may change; read it before the answer."""
        return self._database.transactions, self._holds

    def studies(
        self,
        state: str | None = None,
        *,
        limit: int | None = None,
        to_check: bool = False,
        search: Search = ANY,
        after: tuple[str, str] | None = None,
    ) -> list[StudyRow]:
        """Studies, newest study date first.

        Args:
            state: only those in this state, see `StudyRow`.
            limit: largest number of studies.
            to_check: only those that somebody should look at.
            search: only those that a person looks for.
            after: only those that follow the study of this date and UID.
        """
        chosen, values = _chosen(search, to_check=to_check)
        chosen += [STATES[state]] if state else []
        if after is not None:
            # The first condition lets SQLite begin in the middle of its index.
            chosen.append("study_date <= :date AND (study_date < :date OR study_uid > :uid)")
        where = f"WHERE {' AND '.join(chosen)}" if chosen else ""
        date, uid = after or ("", "")
        rows = self._database.query(
            f"SELECT * FROM studies {where} ORDER BY study_date DESC, study_uid"
            + ("" if limit is None else " LIMIT :limit"),
            {"limit": limit, "date": date, "uid": uid, **values},
        )
        found = [self._row(row) for row in rows]
        return [row for row in found if state is None or row.state == state]

    def content_roots(self, study_uids: Iterable[str]) -> dict[str, bytes]:
        """The content root of each of these studies that is here."""
        rows = self._database.query_among(
            "SELECT study_uid, content_root FROM studies"
            " WHERE study_uid IN (?*) AND indexed_in = ''",
            study_uids,
        )
        return {row["study_uid"]: row["content_root"] for row in rows}

    def study(self, study_uid: str) -> StudyRow | None:
        """One study by its Study Instance UID, also one that is indexed only."""
        row = self._database.query_one("SELECT * FROM studies WHERE study_uid = ?", (study_uid,))
        return None if row is None else self._row(row)

    def is_here(self, study_uid: str) -> bool:
        """Whether images of a study are here; of one that is indexed there are none."""
        found = self.study(study_uid)
        return found is not None and not found.indexed_in

    def _row(self, row: sqlite3.Row) -> StudyRow:
        found = study_row(row)
        if self.is_held_back(found.study_uid) and found.state == "shared":
            return found._replace(state="withheld")
        return found

    def rows(self, study_uids: Iterable[str]) -> dict[str, StudyRow]:
        """The rows of those of these studies that the catalog has."""
        rows = self._database.query_among(
            "SELECT * FROM studies WHERE study_uid IN (?*)", study_uids
        )
        return {row["study_uid"]: self._row(row) for row in rows}

    def is_held_back(self, study_uid: str, peer: bytes = b"") -> bool:
        """Whether a study counts as withheld now, in spite of its row in the table.

        With `peer`, whether it does so for this facility key alone.
        """
        return (study_uid, peer) in self._held_back

    def patients(self, study_uid: str) -> tuple[str, ...]:
        """The patients that a study's instances name, each as in `StudyAttributes.patient`."""
        return identities(self._patients(study_uid))

    def foresee(
        self, study_uid: str, described: Described, *, received: bool = False
    ) -> tuple[tuple[str, ...], str]:
        """What a study becomes with further instances.

        Args:
            study_uid: UID of the study, which may not be here yet.
            described: attributes of the new instances.
            received: whether the new instances came from a peer.

        Returns:
            The study's patients as in `patients`, and why it then has to be checked, or "".
        """
        before = self._patients(study_uid)
        why = why_of_change(before, described)
        if received and not why:
            row = self._database.query_one(
                f"SELECT 1 FROM studies WHERE study_uid = ? AND {IS_SHARED_TO_ANY}", (study_uid,)
            )
            why = "" if row is None else why_of_first(before, described)
        return identities(before | described.patients), why

    def _patients(self, study_uid: str) -> set[Patient]:
        return {tuple(row) for row in self._database.query(OF_STUDY, (study_uid,))}

    def has_too_many_patients(self, study_uid: str) -> bool:
        """Whether a study names more patients than an entry of the log can."""
        return len(self._patients(study_uid)) > PATIENTS

    def waiting_count(self) -> tuple[int, int]:
        """How many studies wait to be checked, and how many are shared but should be checked."""
        row = self._database.query_one(
            f"SELECT count(*) FILTER (WHERE {STATES['to check']}),"
            " count(*) FILTER (WHERE shared <> 0) FROM studies WHERE " + _IS_TO_CHECK
        )
        assert row is not None
        return row[0], row[1]

    def unread(self) -> list[str]:
        """UIDs of the studies whose instances have not all been read for their patient."""
        rows = self._database.query("SELECT study_uid FROM unread_studies ORDER BY study_uid")
        return [row["study_uid"] for row in rows]

    def study_count(self, *, to_check: bool = False, search: Search = ANY) -> int:
        """How many studies there are, that somebody should look at or that a person looks for."""
        chosen, values = _chosen(search, to_check=to_check)
        where = f"WHERE {' AND '.join(chosen)}" if chosen else ""
        return int(self._database.query(f"SELECT count(*) FROM studies {where}", values)[0][0])

    def totals(self) -> Totals:
        """Sums over all studies that are here."""
        row = self._database.query_one(
            "SELECT count(*) AS studies, coalesce(sum(instance_count), 0) AS instances,"
            " (SELECT coalesce(sum(encoded_size), 0) FROM batches) AS encoded_bytes"
            " FROM studies WHERE indexed_in = ''"
        )
        assert row is not None
        return Totals(**{name: row[name] for name in Totals.__slots__})

    def find_study(self, text: str) -> StudyRow:
        """Find the study that a person means.

        Args:
            text: Study Instance UID, the beginning of one (6 characters or more),
                or accession number.

        Raises:
            NodeError: no study fits, or several (the message lists their UIDs).
        """
        found = find_study(self._database, text)
        return self.study(found.study_uid) or found

    def series(self, study_uid: str) -> list[SeriesRow]:
        """The series of a study, by number."""
        rows = self._database.query(
            "SELECT s.*, (SELECT count(*) FROM instances i WHERE i.study_uid = s.study_uid"
            " AND i.series_uid = s.series_uid) AS instance_count FROM series s"
            " WHERE s.study_uid = ?"
            " ORDER BY s.series_number IS NULL, s.series_number, s.series_uid",
            (study_uid,),
        )
        return [SeriesRow(**{name: row[name] for name in SeriesRow.__slots__}) for row in rows]

    def instances(self, study_uid: str) -> list[InstanceRow]:
        """The instances of a study, by series and number."""
        rows = self._database.query(
            "SELECT * FROM instances WHERE study_uid = ? ORDER BY series_uid, number, sop_uid",
            (study_uid,),
        )
        return [instance_row(row) for row in rows]

    def conflicts(self, study_uid: str | None = None) -> list[ConflictRow]:
        """The versions set aside, of one study or of all."""
        where = "" if study_uid is None else "WHERE study_uid = ?"
        rows = self._database.query(
            f"SELECT * FROM conflicts {where} ORDER BY study_uid, sop_uid, digest",
            () if study_uid is None else (study_uid,),
        )
        return [conflict_row(row) for row in rows]

    def held_instances(self, study_uid: str) -> dict[str, bytes]:
        """Digest of each instance of a study, by SOP Instance UID."""
        rows = self._database.query(
            "SELECT sop_uid, digest FROM instances WHERE study_uid = ?", (study_uid,)
        )
        return {row["sop_uid"]: row["digest"] for row in rows}

    def instance_digest(self, study_uid: str, sop_uid: str) -> bytes | None:
        """The digest of one instance of a study; None when it is not here."""
        row = self._database.query_one(
            "SELECT digest FROM instances WHERE study_uid = ? AND sop_uid = ?",
            (study_uid, sop_uid),
        )
        return None if row is None else bytes(row["digest"])

    def study_batches(self, study_uid: str) -> list[BatchEntry]:
        """The batches of a study, in order of position."""
        rows = self._database.query(
            "SELECT b.* FROM study_batches p JOIN batches b USING (digest)"
            " WHERE p.study_uid = ? ORDER BY p.position",
            (study_uid,),
        )
        return [
            BatchEntry(
                row["digest"], row["encoded_size"], row["original_size"], Encoding(row["encoding"])
            )
            for row in rows
        ]

    def has_batch(self, digest: bytes) -> bool:
        """Whether a study or a conflict needs this batch."""
        return (
            self._database.query_one("SELECT 1 FROM batches WHERE digest = ?", (digest,))
            is not None
        )

    def batches_needed(self, manifest: Manifest) -> list[int]:
        """Batches (indices) of a manifest that hold an instance which we do not have.

        An instance counts as here only with the same SOP Instance UID and the same bytes,
        in the study or as a version set aside.
        """
        held = {*self.held_instances(manifest.study_instance_uid).items()}
        aside = self._database.query(
            "SELECT sop_uid, digest FROM conflicts WHERE study_uid = ?",
            (manifest.study_instance_uid,),
        )
        held.update((row["sop_uid"], row["digest"]) for row in aside)
        return [
            index
            for index in range(len(manifest.batches))
            if any(
                (entry.sop_instance_uid, entry.digest) not in held
                for entry in (manifest.instances[place[0]] for place in manifest.segments(index))
            )
        ]

    def manifest(self, study_uid: str) -> Manifest:
        """The manifest of a study as it is now.

        Raises:
            NodeError: there is no such study, or it is indexed only.
        """

        def read(connection: sqlite3.Connection) -> Manifest:
            row = self._database.query_one(
                "SELECT revision, indexed_in FROM studies WHERE study_uid = ?", (study_uid,)
            )
            if row is None:
                raise _no_study(study_uid)
            if row["indexed_in"]:
                raise _only_indexed(study_uid, row["indexed_in"])
            revision = int(row["revision"])
            with self._manifests_lock:
                cached = self._manifests.get(study_uid)
                if cached is not None and cached[0] == revision:
                    self._manifests.move_to_end(study_uid)
                    return cached[1]
            manifest = self._build_manifest(study_uid)
            # Cache after the commit: a revision that is rolled back is used for other content.
            self._database.after_commit(lambda: self._cache(study_uid, revision, manifest))
            return manifest

        return self._database.transact(read)

    def _cache(self, study_uid: str, revision: int, manifest: Manifest) -> None:
        with self._manifests_lock:
            self._manifests[study_uid] = (revision, manifest)
            self._manifests.move_to_end(study_uid)
            while len(self._manifests) > _CACHED_MANIFESTS:
                self._manifests.popitem(last=False)

    def _build_manifest(self, study_uid: str) -> Manifest:
        series = self._database.query(
            "SELECT series_uid, modality FROM series WHERE study_uid = ? ORDER BY series_uid",
            (study_uid,),
        )
        index = {row["series_uid"]: position for position, row in enumerate(series)}
        # Select in the order of the fields of an entry: thousands of rows are read by place.
        rows = self._database.query(
            "SELECT series_uid, sop_uid, sop_class_uid, transfer_syntax_uid, size, digest,"
            " first_position, byte_offset, number, image_rows, image_columns, frames"
            " FROM instances WHERE study_uid = ? ORDER BY series_uid, number, sop_uid",
            (study_uid,),
        )
        return Manifest(
            study_uid,
            # A home of an earlier release may hold unclean modalities.
            tuple(
                SeriesEntry(row["series_uid"], modalities.clean(row["modality"])) for row in series
            ),
            tuple(InstanceEntry(index[row[0]], *row[1:]) for row in map(tuple, rows)),
            tuple(self.study_batches(study_uid)),
        )

    # --- changes ---------------------------------------------------------------

    def publish(
        self,
        manifest: Manifest,
        headers: Mapping[int, InstanceHeader],
        described: Described | None = None,
        *,
        origin: str,
        shared: bool,
        sources: Sequence[str] = (),
        before_commit: Callable[[Added], int | None] | None = None,
        at_hand: Collection[int] | None = None,
    ) -> Added:
        """Add the instances of a manifest, whose batches are in the store, in one transaction.

        Idempotent. A study that is here already keeps its attributes and, unless it gets
        another patient, its state.

        Args:
            manifest: lists the new instances; it may list known ones, too.
            headers: by series index, the header of one instance of each series that
                has a new one.
            described: the study's attributes in all new instances; without it, those in
                the headers.
            origin: `LOCAL`, or the facility key (hex) of the source.
            shared: whether to share the study, if it was not here before.
            sources: who brought the instances, for the sharing rules, which decide whether a
                study is shared that may be; empty does not ask them.
            before_commit: called when all is written and nothing is visible; an error that
                it raises undoes all. Not called when nothing changes. It may return the
                index of the entry that it wrote; called again, it must not write a second
                one (`node.audit.effects.once`).
            at_hand: batches (indices) of the manifest that are in the store, when not all.

        Raises:
            NodeError: the disk is full, or an instance was discarded whose batch is not at
                hand; nothing has changed.
        """
        study_uid = manifest.study_instance_uid
        told = described or Described(header.study for header in headers.values())

        def add(connection: sqlite3.Connection) -> Added:
            if at_hand is not None:
                self.require_at_hand(manifest, at_hand)
            bars = bars_of(connection, study_uid)
            before = self.study(study_uid)
            is_new = bool(sources) and before is None
            added = insert_manifest(
                connection,
                manifest,
                headers,
                told,
                origin=origin,
                # Not before the rules have decided: so it was shared at no moment before.
                shared=shared and not sources,
                now=int(self._clock()),
                bars=bars.code,
            )
            if added.new and before is not None and before.indexed_in:
                fill(connection, study_uid, origin, int(self._clock()))
            if bars.discards:
                # `told` may include instances that were set aside, so read the patients anew.
                read_anew(connection, study_uid)
            if added.new and sources:
                decided = self.deciding.settle(
                    connection,
                    study_uid,
                    told,
                    headers.values(),
                    sources,
                    is_new=is_new,
                    may_share=shared,
                )
                added = replace(added, decided=decided)
            if added.new:
                self.changed(study_uid)
                self.in_publish(study_uid)
            if before_commit is not None and (added.new or added.conflicting):
                entry = before_commit(added)
                if entry is not None:
                    self.mark(connection, entry)
            return added

        return self._database.transact(add)

    def publish_received(
        self,
        manifest: Manifest,
        headers: Mapping[int, InstanceHeader],
        origin_facility: bytes,
        described: Described | None = None,
        *,
        sources: Sequence[str] = (),
        before_commit: Callable[[Added], int | None] | None = None,
        at_hand: Collection[int] | None = None,
    ) -> Added:
        """As `publish`, for a study from the facility with this key.

        A new one is not shared, unless `sources` are given and a sharing rule shares it.
        """
        return self.publish(
            manifest,
            headers,
            described,
            origin=origin_facility.hex(),
            shared=bool(sources),
            sources=sources,
            before_commit=before_commit,
            at_hand=at_hand,
        )

    def last_discard(self, study_uid: str) -> int:
        """The number of the last discard from a study, which only grows; -1 for none."""
        [row] = self._database.query(
            "SELECT coalesce(max(number), -1) AS last FROM discards WHERE study = ?", (study_uid,)
        )
        return int(row["last"])

    def require_at_hand(self, manifest: Manifest, at_hand: Collection[int]) -> None:
        """Check that these batches (indices) of a manifest hold all instances not here.

        Raises:
            NodeError: an instance that was here has been discarded.
        """
        if not set(self.batches_needed(manifest)) <= set(at_hand):
            raise NodeError(
                f"something of study {manifest.study_instance_uid} was discarded here while the "
                "rest came",
                hint="fetch it again",
                code=ExitCode.BUSY,
            )

    def record_conflict(
        self,
        *,
        study_uid: str,
        series_uid: str,
        sop_uid: str,
        kept_digest: bytes,
        digest: bytes,
        size: int,
        kept_at: str,
    ) -> None:
        """Record a file with other bytes, which is in the quarantine folder `kept_at`."""
        row = ConflictRow(
            study_uid=study_uid,
            sop_uid=sop_uid,
            digest=digest,
            kept_digest=kept_digest,
            series_uid=series_uid,
            size=size,
            origin=LOCAL,
            received=int(self._clock()),
            batches=(),
            byte_offset=0,
            kept_at=kept_at,
        )
        self._database.transact(lambda connection: insert_conflict(connection, row))

    def set_shared(self, study_uid: str, shared: bool) -> bool:
        """Share a study with the peers that may see, or withhold it; this also checks it off.

        Returns:
            Whether anything changed.

        Raises:
            NodeError: there is no such study.
        """

        def change(connection: sqlite3.Connection) -> bool:
            if self.study(study_uid) is None:
                raise _no_study(study_uid)
            changed = connection.execute(
                "UPDATE studies SET shared = ?1, to_check = '', revision = revision + 1"
                " WHERE study_uid = ?2 AND (shared <> ?1 OR to_check <> '')",
                (shared, study_uid),
            ).rowcount
            if changed:
                self.changed(study_uid)
            return bool(changed)

        return self._database.transact(change)

    def bars(self, study_uid: str) -> Bars:
        """The discards from a study whose instances are not taken again."""
        return bars_of(self._database, study_uid)

    def discard(
        self,
        discard: Discard,
        rest: Manifest | None,
        *,
        entry: Callable[[], int],
        revision: int,
        held_back: bool = False,
    ) -> bool:
        """Discard a study, or a part of it, in one transaction with the feeds.

        Args:
            discard: the study or part, and the reason.
            rest: manifest of the remaining instances, with its batches in the store; None
                when no instance remains.
            entry: gives the index of the entry that records the discard, and writes it if it is
                not written yet; asked after the revision was found to be the same.
            revision: revision of the study for which `rest` was made.
            held_back: whether the caller holds the study back; the change ends that.

        Returns:
            False if the study has another revision now; nothing has changed then.

        Raises:
            NodeError: the disk is full; nothing has changed.
        """
        let_go = is_done = False

        def change(connection: sqlite3.Connection) -> bool:
            nonlocal let_go
            row = self.study(discard.study)
            if row is not None and row.revision != revision:
                return False
            index = entry()
            insert_discard(connection, discard)
            if rest is None and discard.code == RETENTION:
                if remove_study(connection, discard.study):
                    self.in_indexing(discard.study)
            elif rest is None:
                delete_study(connection, discard.study)
            else:
                replace_instances(connection, discard.study, rest)
            if held_back and not let_go:
                # Let go before the feeds are derived: otherwise they would withdraw the study.
                # Do it once only, also when this transaction is run again.
                self.let_go(discard.study)
                let_go = True
            self.changed(discard.study)
            self.mark(connection, index)
            return True

        try:
            is_done = self._database.transact(change)
        finally:
            if let_go and not is_done:
                self.hold_back(discard.study)
        return is_done

    def read_again(
        self,
        study_uid: str,
        described: Described | None,
        revision: int,
        is_whole: bool,
        before_commit: Callable[[], int],
    ) -> bool:
        """Take the attributes read from all instances of a study in `unread`.

        A shared study stays shared: its peers have been told, and an operator decides.

        Args:
            study_uid: UID of the study.
            described: attributes of its instances; None when the study was gone.
            revision: revision of the study when it was read.
            is_whole: whether all instances could be read; patients are dropped only then.
            before_commit: writes the entry if new patients were found; once, as that of
                `publish`.

        Returns:
            False when the study has changed meanwhile and must be read again.
        """

        def take(connection: sqlite3.Connection) -> bool:
            row = self.study(study_uid)
            if row is not None and (described is None or row.revision != revision):
                return False
            connection.execute("DELETE FROM unread_studies WHERE study_uid = ?", (study_uid,))
            if row is None or described is None:
                return True
            before = patients_of(connection, study_uid)
            update_study(connection, study_uid, described, is_all=is_whole)
            if row.state == "shared":
                connection.execute(
                    "UPDATE studies SET shared = 1 WHERE study_uid = ?", (study_uid,)
                )
            if not patients_of(connection, study_uid) <= before:
                self.mark(connection, before_commit())
            # What it says decides which peers may know of it.
            self.changed(study_uid)
            return True

        return self._database.transact(take)

    def insert_indexed(
        self, connection: sqlite3.Connection, about: StudyAttributes, archive: str
    ) -> None:
        """Add a study that an archive has and that is not here; for `IndexedStudies`."""
        insert_study(connection, about, LOCAL, False, int(self._clock()))
        connection.execute(
            "UPDATE studies SET indexed_in = ? WHERE study_uid = ?", (archive, about.study_uid)
        )

    def hold_back(self, study_uid: str, peer: bytes = b"") -> None:
        """Treat a study as withheld, in spite of its row in the table; needs no disk.

        Each call must be followed by one of `let_go`, once the row is up to date. With `peer`, this
        is for that facility key alone.
        """
        with self._held_lock:
            self._held_back[study_uid, peer] += 1
            self._holds += 1
        self.on_change(study_uid)

    def let_go(self, study_uid: str, peer: bytes = b"") -> None:
        """End one `hold_back`: the study's row in the table counts again."""
        with self._held_lock:
            self._held_back[study_uid, peer] -= 1
            if self._held_back[study_uid, peer] <= 0:
                del self._held_back[study_uid, peer]
            self._holds += 1

    def changed(self, study_uid: str) -> None:
        """Report a change of a study, made in the current transaction."""
        self.in_change(study_uid)
        self._database.after_commit(lambda: self.on_change(study_uid))


def _no_study(study_uid: str) -> NodeError:
    return NodeError(f"there is no study {study_uid} here", code=ExitCode.NOT_FOUND)


def _only_indexed(study_uid: str, archive: str) -> NodeError:
    return NodeError(
        f"study {study_uid} is not here: it is in the archive {archive}",
        hint=f"`radmesh archive retrieve {study_uid}` brings it here",
        code=ExitCode.NOT_FOUND,
    )


def _chosen(search: Search, *, to_check: bool) -> tuple[list[str], dict[str, Any]]:
    """The conditions of a query for studies, and the values of their parameters."""
    conditions, values = search.conditions("study_words", "study_uid")
    return conditions + ([_IS_TO_CHECK] if to_check else []), {**values}
