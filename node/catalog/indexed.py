"""Studies that are indexed: an archive of this facility has them, and no image of them is here.

What an archive says that it has is kept in `indexed_studies`. A study of which nothing is here has
a row in `studies` all the same, without a content root: so it is shared, announced, found and
withdrawn like any other. Its first image that comes makes it a study that is here; if retention
removes that again, it is indexed as before.

These functions work inside a transaction of the catalog or of `archive_index`.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from keys.sharing import FROM_ARCHIVE, FROM_PEER
from node.catalog.patients import Described, Patient
from node.catalog.rows import LOCAL, StudyRow
from node.catalog.sharing import share_with_none
from node.catalog.words import index_study
from node.dicom.headers import StudyAttributes

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

_COLUMNS = (
    "patient_name", "patient_birth_date", "patient_sex", "accession_number", "study_id",
    "study_date", "study_time", "referring_physician", "institution",
)  # fmt: skip
"""Columns of `studies` that an archive tells, named as in `StudyAttributes`."""


@dataclass(frozen=True)
class IndexedStudy:
    """A study as an archive tells of it.

    Attributes:
        about: its attributes.
        series, instances: how many there are.
        modalities: of its series.
    """

    about: StudyAttributes
    series: int
    instances: int
    modalities: tuple[str, ...]

    @property
    def columns(self) -> dict[str, str]:
        """What is told of it, by column of `studies`; without counts and modalities."""
        told = {name: str(getattr(self.about, name)) for name in _COLUMNS}
        described = self.about.study_description
        return told | {"patient_id": self.about.patient_id, "description": described}

    def is_told_by(self, row: StudyRow, patients: Iterable[Patient]) -> bool:
        """Whether the row of a study that is not here, with its patients, says the same."""
        return (
            (row.series_count, row.instance_count) == (self.series, self.instances)
            and row.modalities == self.modalities
            and {*patients} == Described([self.about]).patients
            and all(getattr(row, column) == text for column, text in self.columns.items())
        )


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


def become_indexed(connection: sqlite3.Connection, study: str, told: sqlite3.Row) -> None:
    """Make a study, of which no image is left here, one that is indexed. Its state stays.

    Args:
        connection: in a transaction.
        study: Study Instance UID.
        told: what an archive says of it, as by `archive_of`.
    """
    for table in ("unread_studies", "study_sources"):
        connection.execute(f"DELETE FROM {table} WHERE study_uid = ?", (study,))
    connection.execute(
        "INSERT INTO study_sources VALUES (?, ?)", (study, f"{FROM_ARCHIVE}:{told['archive']}")
    )
    take_over(connection, study, told)


def take_over(connection: sqlite3.Connection, study: str, told: sqlite3.Row) -> None:
    """A study is indexed for this archive from now on; `told` as in `become_indexed`."""
    connection.execute(
        "UPDATE studies SET indexed_in = ? WHERE study_uid = ?", (told["archive"], study)
    )
    modalities = told["modalities"].split("\n")
    set_counts(connection, study, told["series"], told["instances"], modalities)


def is_foreign(connection: sqlite3.Connection, study: str) -> bool:
    """Whether a study is of another facility: an archive that has it does not make it ours."""
    found = connection.execute(
        "SELECT 1 FROM studies WHERE study_uid = ?1 AND (origin <> ?2 OR EXISTS (SELECT 1"
        f" FROM study_sources s WHERE s.study_uid = ?1 AND s.source LIKE '{FROM_PEER}:%'))",
        (study, LOCAL),
    )
    return found.fetchone() is not None


def note_foreign(connection: sqlite3.Connection, study: str) -> None:
    """Remember a study of another facility that goes."""
    connection.execute(
        "INSERT INTO foreign_studies VALUES (?) ON CONFLICT (study_uid) DO NOTHING", (study,)
    )
