"""Studies that are indexed: an archive of this facility has them, and no image of them is here.

What an archive says that it has is kept in `indexed_studies`. A study of which nothing is here has
a row in `studies` all the same, without a content root: so it is shared, announced, found and
withdrawn like any other. Its first image that comes makes it a study that is here; if retention
removes that again, it is indexed as before.

These functions work inside a transaction of the catalog or of `archive_index`.
"""

import sqlite3
from collections.abc import Iterable

from keys.sharing import FROM_ARCHIVE, FROM_PEER
from node.catalog.rows import LOCAL
from node.catalog.sharing import share_with_none
from node.catalog.words import index_study

INDEXED_SCHEMA = """
-- What the archives of this facility say that they have.
CREATE TABLE IF NOT EXISTS indexed_studies (
    study_uid TEXT NOT NULL,
    archive TEXT NOT NULL,              -- its name
    study_date TEXT NOT NULL,
    series INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    modalities TEXT NOT NULL,           -- one a line
    brings TEXT NOT NULL,               -- the source of images that the archive brings
    missed INTEGER NOT NULL,            -- looks since it was seen last
    whole INTEGER NOT NULL,             -- `instances` when all that it gave was here; -1 before
    PRIMARY KEY (study_uid, archive)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS indexed_studies_by_date ON indexed_studies (archive, study_date);
-- Studies of other facilities that were here. An archive that has them does not make them ours.
CREATE TABLE IF NOT EXISTS foreign_studies (
    study_uid TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
"""

NO_ROOT = bytes(32)
"""In place of the content root of a study that is not here."""


def archive_of(connection: sqlite3.Connection, study: str) -> sqlite3.Row | None:
    """What the first archive that has a study says of it."""
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM indexed_studies WHERE study_uid = ? ORDER BY missed, archive LIMIT 1",
        (study,),
    ).fetchone()
    return found


def set_counts(
    connection: sqlite3.Connection,
    study: str,
    series: int,
    instances: int,
    modalities: Iterable[str],
) -> None:
    """Give a study that is not here the counts and modalities that an archive tells."""
    connection.execute(
        "UPDATE studies SET revision = revision + 1, content_root = ?2, series_count = ?3,"
        " instance_count = ?4, modalities = ?5, original_bytes = 0, encoded_bytes = 0"
        " WHERE study_uid = ?1",
        (study, NO_ROOT, series, instances, "\n".join(modalities)),
    )
    index_study(connection, study)


def fill(connection: sqlite3.Connection, study: str, origin: str, now: int) -> None:
    """The first images of an indexed study have come: it is here.

    Images of another facility make it a study of that facility, which nobody has shared yet.
    """
    connection.execute(
        "UPDATE studies SET indexed_in = '', received = ?2, origin = ?3,"
        f" shared = CASE WHEN ?3 = '{LOCAL}' THEN shared ELSE 0 END WHERE study_uid = ?1",
        (study, now, origin),
    )
    if origin != LOCAL:
        share_with_none(connection, study)


def become_indexed(connection: sqlite3.Connection, study: str) -> bool:
    """Make a study, of which no image is left here, one that is indexed; whether an archive has it.

    Its state stays. One of another facility is never ours to tell of.
    """
    known = archive_of(connection, study)
    if known is None or note_foreign(connection, study):
        return False
    connection.execute(
        "UPDATE studies SET indexed_in = ? WHERE study_uid = ?", (known["archive"], study)
    )
    for table in ("unread_studies", "study_sources"):
        connection.execute(f"DELETE FROM {table} WHERE study_uid = ?", (study,))
    connection.execute(
        "INSERT INTO study_sources VALUES (?, ?)", (study, f"{FROM_ARCHIVE}:{known['archive']}")
    )
    set_counts(
        connection, study, known["series"], known["instances"], known["modalities"].split("\n")
    )
    return True


def note_foreign(connection: sqlite3.Connection, study: str) -> bool:
    """Remember a study that goes, if it is of another facility; returns whether it is."""
    found = connection.execute(
        "SELECT 1 FROM studies WHERE study_uid = ?1 AND (origin <> ?2 OR EXISTS (SELECT 1"
        f" FROM study_sources s WHERE s.study_uid = ?1 AND s.source LIKE '{FROM_PEER}:%'))",
        (study, LOCAL),
    ).fetchone()
    if found is None:
        return False
    connection.execute(
        "INSERT INTO foreign_studies VALUES (?) ON CONFLICT (study_uid) DO NOTHING", (study,)
    )
    return True
