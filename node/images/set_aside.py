"""Versions and files that were set aside: list, take in place of what is here, or drop.

Two kinds are set aside: versions of instances (the study has other bytes under that UID, or the
instance was discarded here), in the quarantine folder or, if a peer sent them, in batches of the
store; and files that could not be taken at all, in the quarantine folder. Only an operator changes
anything here, with a reason, and after an entry. Synchronous and thread-safe.
"""

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keys.sharing import BY_HAND
from node.audit.effects import Effects
from node.blocking import worker_pool
from node.catalog.catalog import LOCAL, Catalog, ConflictRow
from node.catalog.changes import insert_conflict, insert_manifest
from node.catalog.discards import delete_conflict, lift_bars, replace_instances
from node.catalog.patients import Described
from node.clock import Clock
from node.database import Database
from node.durable import disk_error
from node.errors import ExitCode, NodeError
from node.images.discard import Discards
from node.images.repack import without
from node.images.store import BatchStore, Pins
from protocol import encoding
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Event, subjects_of
from protocol.manifest import Manifest

if TYPE_CHECKING:
    from node.images.ingest_batches import Written
    from node.images.sources import SourceFile

TAKE_REASONS = {
    "corrected": "it corrects the version that is here",
    "damaged": "the version that is here is damaged",
    "mistake": "it was discarded by mistake",
}
"""Reasons to take something after all. Fixed words and no free text: the log holds no patient
data."""

DROP_REASONS = {
    "not-needed": "the version that is here is right",
    "damaged": "it is damaged",
    "wrong-patient": "it is of the wrong patient",
}
"""Reasons to drop something."""

RETENTION = "retention"
"""The reason to drop what was set aside for as long as `node.retention` keeps it."""

_SHORT = 12
_LEAST = 6
"""Digits of a digest that a person is shown, and fewest digits that a person must type."""


@dataclass(frozen=True, kw_only=True)
class Aside:
    """A version or a file that was set aside.

    Attributes:
        name: beginning of the BLAKE3 digest of its bytes, in hex.
        digest: the digest as far as it is known: 64 digits, or 32 for a file that was not taken.
        row: the version of an instance; None for a file that was not taken.
        folder: its folder in the quarantine, or "".
        reason: why it was set aside.
        file: the path from which it came, or "".
        size: bytes.
        time: when it was set aside, seconds since the epoch, UTC.
    """

    name: str
    digest: str
    row: ConflictRow | None
    folder: str
    reason: str
    file: str
    size: int
    time: int


@dataclass(frozen=True, kw_only=True)
class Done:
    """What was taken or dropped: study ("" for a file), instances, index of the entry."""

    study: str
    instances: int
    replaced: int
    entry: int


class SetAside:
    """Lists what was set aside, and takes or drops it for an operator.

    Args:
        quarantine: the quarantine folder.
        database: holds the catalog.
        catalog: the catalog of this node.
        store: the batches.
        effects: ties entries to their effects.
        discards: frees the space.
        clock: dates taken instances.
    """

    def __init__(
        self,
        quarantine: Path,
        database: Database,
        catalog: Catalog,
        store: BatchStore,
        effects: Effects,
        discards: Discards,
        clock: Clock,
    ) -> None:
        self._quarantine = quarantine
        self._database = database
        self._catalog = catalog
        self._store = store
        self._effects = effects
        self._discards = discards
        self._clock = clock
        self._lock = threading.Lock()

    def all(self) -> list[Aside]:
        """Everything that was set aside, oldest first.

        Raises:
            NodeError: the quarantine cannot be read.
        """
        rows = self._catalog.conflicts()
        found = [self._version(row) for row in rows]
        known = {row.kept_at for row in rows}
        try:
            folders = sorted(path.name for path in self._quarantine.iterdir() if path.is_dir())
        except FileNotFoundError:
            folders = []
        except OSError as error:
            raise disk_error("the quarantine cannot be read", error) from error
        for folder in folders:
            if folder in known or folder.startswith("."):
                continue
            told = self._told(folder)
            digest = folder.split("-")[-1]
            found.append(
                Aside(
                    name=digest[:_SHORT],
                    digest=digest,
                    row=None,
                    folder=folder,
                    reason=str(told.get("reason", "")),
                    file=str(told.get("path", "")),
                    size=_number(told.get("size")),
                    time=_number(told.get("time")),
                )
            )
        return sorted(found, key=lambda one: (one.time, one.digest))

    def take(self, text: str, reason: str) -> Done:
        """Take something in place of the version that is here, which is set aside instead.

        Args:
            text: the name of a version; or a Study Instance UID, for all instances of the study
                that were set aside because they had been discarded. The study is then accepted
                again.
            reason: a word of `TAKE_REASONS`.

        Raises:
            NodeError: nothing has that name, it cannot be taken, or the disk is full.
        """
        with self._lock:
            found = self._find(text)
            if not found:
                bars = self._catalog.bars(text.strip()).discards
                if not bars:
                    raise _nothing(text)
                return self._take(text.strip(), [], reason, lift=True)
            rows = [one.row for one in found if one.row is not None]
            if not rows:
                raise NodeError(
                    f"the file {found[0].name} cannot be taken: it {found[0].reason}",
                    hint="what is no instance stays aside; drop it, or ingest a whole copy",
                    code=ExitCode.USAGE,
                )
            is_study = rows[0].study_uid == text.strip()
            if is_study:
                rows = [row for row in rows if not row.kept_digest]
                if not rows and not self._catalog.bars(text.strip()).discards:
                    raise _nothing(text)
            elif len(rows) > 1:
                raise _several(text, found)
            done = self._take(found[0].row.study_uid, rows, reason, lift=is_study)  # type: ignore[union-attr]
        self._discards.sweep()
        return done

    def drop(self, text: str, reason: str) -> Done:
        """Delete something that was set aside.

        Args:
            text: its name.
            reason: a word of `DROP_REASONS`.

        Raises:
            NodeError: nothing has that name, or the disk is full or failing.
        """
        with self._lock:
            found = self._find(text)
            if not found:
                raise _nothing(text)
            if len(found) > 1:
                raise _several(text, found)
            done = self._drop(found[0], reason)
        self._discards.sweep()
        return done

    def drop_older(self, before: int) -> list[Done]:
        """Delete everything that was set aside before a time (seconds since the epoch, UTC).

        Raises:
            NodeError: the disk is full or failing; some may be deleted then.
        """
        with self._lock:
            done = [self._drop(one, RETENTION) for one in self.all() if one.time < before]
        self._discards.sweep()
        return done

    def _drop(self, one: Aside, reason: str) -> Done:
        event = Event(
            type="quarantine-dropped",
            actor="operator",
            subjects=() if one.row is None else self._subjects([one.row]),
            details={"reason": reason, "bytes": one.size},
        )
        row = one.row

        def forget(connection: sqlite3.Connection) -> None:
            if row is not None:
                delete_conflict(connection, row)

        entry = self._effects.after_entry(event, forget)
        self._remove_folder(one.folder)
        study = "" if row is None else row.study_uid
        return Done(study=study, instances=1, replaced=0, entry=entry)

    # --- what there is ---------------------------------------------------------------

    def _version(self, row: ConflictRow) -> Aside:
        told = self._told(row.kept_at) if row.kept_at else {}
        reason = str(told.get("reason", "")) or (
            "has other bytes than the instance of this UID that is here"
            if row.kept_digest
            else "was discarded here"
        )
        digest = row.digest.hex()
        return Aside(
            name=digest[:_SHORT],
            digest=digest,
            row=row,
            folder=row.kept_at,
            reason=reason,
            file=str(told.get("path", "")),
            size=row.size,
            time=row.received,
        )

    def _told(self, folder: str) -> dict[str, object]:
        try:
            told = json.loads((self._quarantine / folder / "reason.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def _find(self, text: str) -> list[Aside]:
        wanted = text.strip()
        found = self.all()
        of_study = [one for one in found if one.row is not None and one.row.study_uid == wanted]
        if of_study or len(wanted) < _LEAST:
            return of_study
        return [one for one in found if one.digest.startswith(wanted.lower())]

    def _subjects(self, rows: Sequence[ConflictRow]) -> tuple[tuple[str, str], ...]:
        study = rows[0].study_uid
        subjects = subjects_of(study, self._catalog.patients(study))
        return (*subjects, ("instance", rows[0].sop_uid)) if len(rows) == 1 else subjects

    # --- taking ----------------------------------------------------------------------

    def _take(self, study: str, rows: Sequence[ConflictRow], reason: str, *, lift: bool) -> Done:
        from node.images.ingest_batches import BatchWriter, Written  # here, since slow to load

        held = self._catalog.held_instances(study)
        replaced = sum(row.sop_uid in held for row in rows)
        pins = self._store.pins()
        with (
            contextlib.ExitStack() as stack,
            worker_pool(1, "encode") as pool,
        ):
            stack.callback(pins.clear)
            writer = BatchWriter(self._store, pool, lambda: False)
            stack.callback(writer.end)
            sources = [stack.enter_context(self._source(row)) for row in rows]
            described = Described(source.header.study for source in sources)
            written = writer.write(study, sources) if sources else Written()
            if written.lost:
                raise NodeError(
                    f"what lies aside {written.lost[0][1]}",
                    hint="check the disk of the node's home",
                    code=ExitCode.DISK,
                )
            subjects = (
                self._subjects(rows) if rows else subjects_of(study, self._catalog.patients(study))
            )
            event = Event(
                type="quarantine-taken",
                actor="operator",
                subjects=subjects,
                details={
                    "reason": reason,
                    "instances": len(rows),
                    "replaced": replaced,
                    "lifted": lift,
                },
            )
            rest = self._rest(study, rows, pins)

            def take(connection: sqlite3.Connection) -> None:
                if lift:
                    lift_bars(connection, study)
                if rows and written.manifest is not None:
                    self._replace(connection, study, rows, written, described, rest, pins)
                if rows:
                    # Other bytes are here now: they go to the archives, too.
                    self._catalog.in_publish(study)
                self._catalog.changed(study)

            entry = self._effects.after_entry(event, take)
        for row in rows:
            self._remove_folder(row.kept_at)
        return Done(study=study, instances=len(rows), replaced=replaced, entry=entry)

    def _rest(
        self, study: str, rows: Sequence[ConflictRow], pins: Pins
    ) -> tuple[int, Manifest | None]:
        """The revision of the study, and its manifest without the replaced instances."""
        row = self._catalog.study(study)
        if row is None or row.indexed_in:
            return -1, None
        gone = {one.sop_uid for one in rows}
        return row.revision, without(
            self._catalog.manifest(study), gone, self._store, pins, self._discards.note_batch
        )

    def _replace(
        self,
        connection: sqlite3.Connection,
        study: str,
        rows: Sequence[ConflictRow],
        written: "Written",
        described: Described,
        rest: tuple[int, Manifest | None],
        pins: Pins,
    ) -> None:
        now = int(self._clock.now())
        here = self._catalog.study(study)
        if here is not None:
            if here.revision != rest[0]:
                # This writes batches that are named by their content, so doing it again is
                # harmless.
                rest = self._rest(study, rows, pins)
            self._put_aside(
                connection, study, {row.sop_uid: row.digest for row in rows}, here.origin, now
            )
            replace_instances(connection, study, rest[1])
        for row in rows:
            delete_conflict(connection, row)
        assert written.manifest is not None
        insert_manifest(
            connection,
            written.manifest,
            written.headers,
            described,
            origin=LOCAL,
            shared=False,
            now=now,
        )
        self._catalog.deciding.settle(
            connection,
            study,
            described,
            written.headers.values(),
            (BY_HAND,),
            is_new=here is None,
            may_share=False,
        )

    def _put_aside(
        self,
        connection: sqlite3.Connection,
        study: str,
        taken: dict[str, bytes],
        origin: str,
        now: int,
    ) -> None:
        """Set the replaced instances aside; their bytes stay in their batches."""
        manifest = self._catalog.manifest(study)
        for index, one in enumerate(manifest.instances):
            if one.sop_instance_uid not in taken:
                continue
            places = manifest.places(index)
            insert_conflict(
                connection,
                ConflictRow(
                    study_uid=study,
                    sop_uid=one.sop_instance_uid,
                    digest=one.digest,
                    kept_digest=taken[one.sop_instance_uid],
                    series_uid=manifest.series[one.series_index].series_instance_uid,
                    size=one.size,
                    origin=origin,
                    received=now,
                    batches=tuple(manifest.batches[batch].digest for batch, _ in places),
                    byte_offset=one.offset,
                    kept_at="",
                ),
            )

    @contextlib.contextmanager
    def _source(self, row: ConflictRow) -> Iterator["SourceFile"]:
        """A version that was set aside, as a file that can be taken; it is read and compared."""
        from node.dicom.studies import BadInstance, NotDicom
        from node.images.reading import FileChanged
        from node.images.sources import read_source

        path = self._quarantine / row.kept_at / "file"
        if not row.kept_at:
            path = self._store.temporary_path()
        try:
            if not row.kept_at:
                path.write_bytes(self._bytes(row))
            source = read_source(path)
            header = source.header
            uids = (
                header.study.study_uid,
                header.series.series_uid,
                header.sop_instance_uid,
            )
            if source.digest != row.digest or uids != (row.study_uid, row.series_uid, row.sop_uid):
                raise NodeError(
                    f"what lies aside as {row.digest.hex()[:_SHORT]} is damaged on disk",
                    hint="check the disk; drop it, and ingest or fetch it again",
                    code=ExitCode.INTEGRITY,
                )
            yield source
        except (BadInstance, NotDicom, FileChanged) as error:
            raise NodeError(
                f"what lies aside as {row.digest.hex()[:_SHORT]} cannot be taken: it {error}",
                hint="drop it, or ingest a whole copy",
                code=ExitCode.USAGE,
            ) from error
        except OSError as error:
            raise disk_error("what lies aside cannot be read", error) from error
        finally:
            if not row.kept_at:
                path.unlink(missing_ok=True)

    def _bytes(self, row: ConflictRow) -> bytes:
        content, offset = b"", row.byte_offset
        for digest in row.batches:
            try:
                content += encoding.decode_untrusted(self._store.read(digest))[offset:]
            except RemoteProtocolError as error:
                raise NodeError(
                    f"the batch {digest.hex()} cannot be decoded: {error}",
                    code=ExitCode.INTEGRITY,
                ) from error
            offset = 0
        return content[: row.size]

    def _remove_folder(self, folder: str) -> None:
        """Delete a folder to which nothing refers any more; we made its name."""
        if not folder or any(row.kept_at == folder for row in self._catalog.conflicts()):
            return
        try:
            shutil.rmtree(self._quarantine / folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk_error("a folder of the quarantine cannot be deleted", error) from error


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _nothing(text: str) -> NodeError:
    return NodeError(
        f"nothing lies aside as {text.strip()}",
        hint="see `radmesh quarantine list`",
        code=ExitCode.NOT_FOUND,
    )


def _several(text: str, found: Sequence[Aside]) -> NodeError:
    names = ", ".join(one.digest[: 2 * _SHORT] for one in found[:5])
    return NodeError(
        f"{len(found)} things lie aside as {text.strip()}: {names}",
        hint="name one of them, see `radmesh quarantine list`",
        code=ExitCode.NOT_FOUND,
    )
