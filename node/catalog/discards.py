"""Discards from the catalog: deletes rows, and remembers what must not come in again.

A study from which something was discarded is written anew from the manifest of its
remaining instances, with positions from 0. The images themselves are in batches. A batch
that no study and no conflict needs any more is listed in `leftover_batches` in the same
transaction, until its file is deleted.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from node.catalog.changes import insert_batches, recount
from node.catalog.indexed import archive_of, become_indexed, is_foreign, note_foreign
from node.catalog.rows import ConflictRow
from node.catalog.sharing import forget_study
from node.database import Database
from protocol.manifest import Manifest
from protocol.recalls import REJECTED, RETENTION

DISCARDS_SCHEMA = """
CREATE TABLE IF NOT EXISTS discards (
    number INTEGER PRIMARY KEY,         -- not that of its entry: an erasure has to hide which one
    study TEXT NOT NULL,
    series TEXT NOT NULL,               -- "" for the whole study
    sop TEXT NOT NULL,                  -- "" for the whole series
    code TEXT NOT NULL,                 -- protocol.recalls
    revision INTEGER NOT NULL,          -- of the study, before
    lifted INTEGER NOT NULL             -- whether it may come in again all the same
) STRICT;
CREATE INDEX IF NOT EXISTS discards_by_study ON discards (study);
CREATE TABLE IF NOT EXISTS leftover_batches (
    digest BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS study_batches_by_digest ON study_batches (digest);
"""


class Discard(NamedTuple):
    """A study, series or instance that an operator discards.

    Attributes:
        study: Study Instance UID.
        series: Series Instance UID; "" for the whole study, or where `sop` suffices.
        sop: SOP Instance UID, or "" for the whole series or study.
        code: reason code of `protocol.recalls`.
    """

    study: str
    series: str
    sop: str
    code: str

    @property
    def is_whole(self) -> bool:
        """Whether the whole study is discarded."""
        return not (self.series or self.sop)

    def holds(self, series: str, sop: str) -> bool:
        """Whether an instance of the study is discarded with it."""
        return self.series in ("", series) and self.sop in ("", sop)


class Bars(NamedTuple):
    """The discards from one study whose instances are not taken again."""

    discards: tuple[Discard, ...]

    def code(self, series: str, sop: str) -> str:
        """Why an instance is not taken, or ""."""
        return next((one.code for one in self.discards if one.holds(series, sop)), "")


@dataclass(frozen=True, slots=True)
class Recall:
    """The recall that peers get for discards of one study: the last code, and their number.

    `count` counts only discards of wrong images. It never falls, so a peer can tell which
    recalls it has seen already.
    """

    code: str
    count: int


NO_RECALL = Recall("", 0)


def bars_of(source: Database | sqlite3.Connection, study: str) -> Bars:
    """The discards from a study (UID) whose instances are not taken again."""
    rows = _rows(source, "WHERE study = ? AND lifted = 0", study)
    return Bars(
        tuple(
            Discard(row["study"], row["series"], row["sop"], row["code"])
            for row in rows
            if row["code"] in REJECTED
        )
    )


def recall_of(source: Database | sqlite3.Connection, study: str) -> Recall:
    """The recall that peers get for the discards of a study (UID)."""
    codes = [row["code"] for row in _rows(source, "WHERE study = ?", study)]
    rejected = [code for code in codes if code in REJECTED]
    if rejected:
        return Recall(rejected[-1], len(rejected))
    return Recall(RETENTION, 0) if codes else NO_RECALL


def _rows(source: Database | sqlite3.Connection, where: str, study: str) -> list[sqlite3.Row]:
    sql = f"SELECT * FROM discards {where} ORDER BY number"
    if isinstance(source, Database):
        return source.query(sql, (study,))
    return source.execute(sql, (study,)).fetchall()


def insert_discard(connection: sqlite3.Connection, discard: Discard) -> None:
    """Remember a discard."""
    connection.execute(
        "INSERT INTO discards (number, study, series, sop, code, revision, lifted) VALUES ("
        " (SELECT coalesce(max(number), 0) + 1 FROM discards), ?1, ?2, ?3, ?4,"
        " coalesce((SELECT revision FROM studies WHERE study_uid = ?1), 0), 0)",
        tuple(discard),
    )


def lift_bars(connection: sqlite3.Connection, study: str) -> None:
    """Allow the discarded instances of a study (UID) to be taken again."""
    connection.execute("UPDATE discards SET lifted = 1 WHERE study = ?", (study,))


def delete_study(connection: sqlite3.Connection, study: str) -> None:
    """Delete a study (UID) from the catalog; versions set aside stay."""
    if is_foreign(connection, study):
        note_foreign(connection, study)
    replace_instances(connection, study, None)
    connection.execute("DELETE FROM study_patients WHERE study_uid = ?", (study,))
    connection.execute("DELETE FROM study_values WHERE study_uid = ?", (study,))
    connection.execute("DELETE FROM unread_studies WHERE study_uid = ?", (study,))
    connection.execute("DELETE FROM study_words WHERE study_uid = ?", (study,))
    connection.execute("DELETE FROM studies WHERE study_uid = ?", (study,))
    forget_study(connection, study)


def remove_study(connection: sqlite3.Connection, study: str) -> bool:
    """Delete the images of a study (UID); whether an archive of ours has it, so that it is indexed.

    Else the study is deleted.
    """
    told = archive_of(connection, study)
    if told is None or is_foreign(connection, study):
        delete_study(connection, study)
        return False
    replace_instances(connection, study, None)
    become_indexed(connection, study, told)
    return True


def read_anew(connection: sqlite3.Connection, study: str) -> None:
    """Have the patients of a study (UID) read anew from its images: one may be gone."""
    connection.execute(
        "INSERT INTO unread_studies SELECT study_uid FROM studies WHERE study_uid = ?"
        " ON CONFLICT (study_uid) DO NOTHING",
        (study,),
    )


def replace_instances(connection: sqlite3.Connection, study: str, rest: Manifest | None) -> None:
    """Give a study (UID) exactly the instances of a manifest, or none."""
    before = [
        row["digest"]
        for row in connection.execute(
            "SELECT DISTINCT digest FROM study_batches WHERE study_uid = ?", (study,)
        )
    ]
    connection.execute("DELETE FROM instances WHERE study_uid = ?", (study,))
    connection.execute("DELETE FROM study_batches WHERE study_uid = ?", (study,))
    if rest is not None:
        insert_batches(connection, rest.batches)
        connection.executemany(
            "INSERT INTO study_batches VALUES (?,?,?)",
            ((study, position, one.digest) for position, one in enumerate(rest.batches)),
        )
        connection.executemany(
            "INSERT INTO instances VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                (
                    study, one.sop_instance_uid, rest.series[one.series_index].series_instance_uid,
                    one.sop_class_uid, one.transfer_syntax_uid, one.size, one.digest, one.number,
                    one.rows, one.columns, one.frames, one.first_batch, one.offset,
                )
                for one in rest.instances
            ),
        )  # fmt: skip
    connection.execute(
        "DELETE FROM series WHERE study_uid = ?1 AND series_uid NOT IN"
        " (SELECT series_uid FROM instances WHERE study_uid = ?1)",
        (study,),
    )
    _leave_unclaimed(connection, before)
    read_anew(connection, study)
    recount(connection, study, rest)


def delete_conflict(connection: sqlite3.Connection, row: ConflictRow) -> None:
    """Delete the record of a version set aside."""
    connection.execute(
        "DELETE FROM conflicts WHERE study_uid = ? AND sop_uid = ? AND digest = ?",
        (row.study_uid, row.sop_uid, row.digest),
    )
    _leave_unclaimed(connection, row.batches)


def _leave_unclaimed(connection: sqlite3.Connection, digests: Iterable[bytes]) -> None:
    """List for deletion those of the given batches that no study and no conflict needs."""
    set_aside: set[bytes] = set()
    for row in connection.execute("SELECT batches FROM conflicts WHERE length(batches) > 0"):
        packed = row["batches"]
        set_aside.update(packed[start : start + 32] for start in range(0, len(packed), 32))
    for digest in digests:
        claimed = connection.execute(
            "SELECT 1 FROM study_batches WHERE digest = ? LIMIT 1", (digest,)
        ).fetchone()
        if claimed is None and digest not in set_aside:
            connection.execute("DELETE FROM batches WHERE digest = ?", (digest,))
            _note_leftover(connection, digest)


def leftovers(database: Database, after: bytes, most: int) -> list[bytes]:
    """Digests of batches whose files are to be deleted, in order, from after `after` on."""
    rows = database.query(
        "SELECT digest FROM leftover_batches WHERE digest > ? ORDER BY digest LIMIT ?",
        (after, most),
    )
    return [row["digest"] for row in rows]


def note_leftover(database: Database, digest: bytes) -> None:
    """List a batch for deletion of its file, unless something needs it until then."""
    database.transact(lambda connection: _note_leftover(connection, digest))


def _note_leftover(connection: sqlite3.Connection, digest: bytes) -> None:
    connection.execute(
        "INSERT INTO leftover_batches VALUES (?) ON CONFLICT (digest) DO NOTHING", (digest,)
    )


def settle_leftovers(database: Database, digests: Iterable[bytes]) -> None:
    """Unlist batches whose files are deleted, or which are needed again."""
    settled = [(digest,) for digest in digests]
    database.transact(
        lambda connection: connection.executemany(
            "DELETE FROM leftover_batches WHERE digest = ?", settled
        )
    )
