"""What the archives of this facility say that they have, and the studies that are indexed for it.

Synchronous and thread-safe.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from keys.sharing import FROM_ARCHIVE
from node.catalog.catalog import Catalog
from node.catalog.indexed import archive_of, set_counts
from node.catalog.patients import Described, patients_of, update_study
from node.catalog.rows import IS_SHARED_TO_ANY
from node.catalog.sharing import share_with_none
from node.database import Database
from node.dicom.headers import StudyAttributes

MISSED = 2
"""A study goes from the index when an archive left it out in so many looks, one after the other."""

_COLUMNS = (
    "patient_name", "patient_birth_date", "patient_sex", "accession_number", "study_id",
    "study_date", "study_time", "referring_physician", "institution",
)  # fmt: skip
"""Columns of `studies` that an archive tells, named as in `StudyAttributes`."""

_OTHER_PATIENT = "its archive now says that it is of another patient"


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


@dataclass(frozen=True)
class Wanting:
    """A study of which an archive has images that are not here.

    Attributes:
        study: Study Instance UID.
        archive: name of the archive.
        instances: how many images it has.
        here: how many are here.
    """

    study: str
    archive: str
    instances: int
    here: int


class IndexedStudies:
    """What archives say that they have.

    Args:
        database: with the catalog.
        catalog: the studies of this node.

    Attributes:
        recounted: called with a study (UID), in the transaction in which what is told of it changes
            though its content root does not.
    """

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog
        self.recounted: Callable[[str], None] = lambda study: None

    def take(
        self,
        archive: str,
        brings: str,
        first: str,
        last: str,
        found: Sequence[IndexedStudy],
        *,
        is_all: bool,
    ) -> None:
        """Keep what an archive has of some days.

        Args:
            archive: its name.
            brings: the source of images that it brings.
            first, last: the days, YYYYMMDD.
            found: the studies of these days.
            is_all: whether these are all that it has of them: others are missed then.

        Raises:
            NodeError: the disk is full; nothing has changed.
        """

        def keep(connection: sqlite3.Connection) -> None:
            for one in found:
                self._take(connection, archive, brings, one)
            if is_all:
                self._miss(connection, archive, first, last, {one.about.study_uid for one in found})

        self._database.transact(keep)

    def wanting(self, study: str) -> Wanting | None:
        """The archive from which a study (UID) can be completed; None if nothing is known missing.

        Of a study that came here another way nothing is taken from an archive.
        """
        row = self._catalog.study(study)
        if row is None:
            return None
        here = 0 if row.indexed_in else row.instance_count
        wanted = (
            ""
            if row.indexed_in
            else (
                " AND instances > :here AND instances <> whole AND EXISTS"
                " (SELECT 1 FROM study_sources s WHERE s.study_uid = i.study_uid"
                f" AND s.source = '{FROM_ARCHIVE}:' || i.archive)"
            )
        )
        found = self._database.query_one(
            "SELECT archive, instances FROM indexed_studies i WHERE study_uid = :study"
            f"{wanted} ORDER BY missed, archive LIMIT 1",
            {"study": study, "here": here},
        )
        return None if found is None else Wanting(study, found["archive"], found["instances"], here)

    def is_whole(self, wanting: Wanting) -> None:
        """All that an archive gave of a study is here."""
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE indexed_studies SET whole = instances"
                " WHERE study_uid = ? AND archive = ? AND instances = ?",
                (wanting.study, wanting.archive, wanting.instances),
            )
        )

    def counts(self) -> dict[str, int]:
        """How many studies each archive has, by its name."""
        rows = self._database.query(
            "SELECT archive, count(*) AS many FROM indexed_studies GROUP BY archive"
        )
        return {row["archive"]: row["many"] for row in rows}

    def keep_archives(self, names: Collection[str]) -> None:
        """Forget what archives other than these have told."""

        def drop(connection: sqlite3.Connection) -> None:
            rows = connection.execute("SELECT study_uid, archive FROM indexed_studies").fetchall()
            for study, archive in map(tuple, rows):
                if archive not in names:
                    self._drop(connection, study, archive)

        self._database.transact(drop)

    def forget(self, studies: Iterable[str]) -> None:
        """Delete what tells that studies (UIDs) were here, as openings of them are erased."""
        each = [(one,) for one in studies if self._catalog.study(one) is None]
        self._database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM foreign_studies WHERE study_uid = ?", each
            )
        )

    # --- inside --------------------------------------------------------------------------

    def _take(
        self, connection: sqlite3.Connection, archive: str, brings: str, one: IndexedStudy
    ) -> None:
        study = one.about.study_uid
        modalities = "\n".join(one.modalities)
        connection.execute(
            "INSERT INTO indexed_studies VALUES (?, ?, ?, ?, ?, ?, ?, 0, -1)"
            " ON CONFLICT (study_uid, archive) DO UPDATE SET study_date = excluded.study_date,"
            " series = excluded.series, instances = excluded.instances,"
            " modalities = excluded.modalities, brings = excluded.brings, missed = 0",
            (study, archive, one.about.study_date, one.series, one.instances, modalities, brings),
        )
        row = self._catalog.study(study)
        if row is None:
            if self._is_ours(connection, study):
                self._insert(connection, archive, one)
        elif row.indexed_in == archive:
            self._update(connection, archive, one)

    def _is_ours(self, connection: sqlite3.Connection, study: str) -> bool:
        """Whether a study that is not here may be told of."""
        foreign = "SELECT 1 FROM foreign_studies WHERE study_uid = ?"
        barred = any(one.is_whole for one in self._catalog.bars(study).discards)
        return not barred and connection.execute(foreign, (study,)).fetchone() is None

    def _insert(self, connection: sqlite3.Connection, archive: str, one: IndexedStudy) -> None:
        about, described = one.about, Described([one.about])
        study = about.study_uid
        self._catalog.insert_indexed(connection, about, archive)
        update_study(connection, study, described)
        set_counts(connection, study, one.series, one.instances, one.modalities)
        self._catalog.deciding.settle(
            connection, study, described, (), [f"{FROM_ARCHIVE}:{archive}"], is_new=True
        )
        self._catalog.changed(study)

    def _update(self, connection: sqlite3.Connection, archive: str, one: IndexedStudy) -> None:
        """Bring the row of a study that is not here up to date with what its archive tells."""
        about, study = one.about, one.about.study_uid
        row = connection.execute("SELECT * FROM studies WHERE study_uid = ?", (study,)).fetchone()
        described = Described([about])
        before = patients_of(connection, study)
        told = {name: getattr(about, name) for name in _COLUMNS}
        told |= {"patient_id": about.patient_id, "description": about.study_description}
        counts = (one.series, one.instances, "\n".join(one.modalities))
        known = (row["series_count"], row["instance_count"], row["modalities"])
        same_texts = all(row[column] == text for column, text in told.items())
        if same_texts and counts == known and before == described.patients:
            return
        columns = ", ".join(f"{column} = ?" for column in told)
        connection.execute(
            f"UPDATE studies SET {columns} WHERE study_uid = ?", (*told.values(), study)
        )
        if before != described.patients:
            connection.execute("DELETE FROM study_patients WHERE study_uid = ?", (study,))
            # Whoever shared it meant the patient that it was of.
            connection.execute(
                "UPDATE studies SET shared = 0, to_check = ?2"
                f" WHERE study_uid = ?1 AND {IS_SHARED_TO_ANY}",
                (study, _OTHER_PATIENT),
            )
            share_with_none(connection, study)
        connection.execute("DELETE FROM study_values WHERE study_uid = ?", (study,))
        update_study(connection, study, described)
        set_counts(connection, study, one.series, one.instances, one.modalities)
        self.recounted(study)
        self._catalog.changed(study)

    def _miss(
        self,
        connection: sqlite3.Connection,
        archive: str,
        first: str,
        last: str,
        seen: Collection[str],
    ) -> None:
        rows = connection.execute(
            "SELECT study_uid, missed FROM indexed_studies"
            " WHERE archive = ? AND study_date >= ? AND study_date <= ?",
            (archive, first, last),
        ).fetchall()
        for study, missed in map(tuple, rows):
            if study in seen:
                continue
            if missed + 1 >= MISSED:
                self._drop(connection, study, archive)
            else:
                connection.execute(
                    "UPDATE indexed_studies SET missed = ? WHERE study_uid = ? AND archive = ?",
                    (missed + 1, study, archive),
                )

    def _drop(self, connection: sqlite3.Connection, study: str, archive: str) -> None:
        """An archive has a study no more; the row goes if no other archive has it."""
        connection.execute(
            "DELETE FROM indexed_studies WHERE study_uid = ? AND archive = ?", (study, archive)
        )
        row = self._catalog.study(study)
        if row is None or row.indexed_in != archive:
            return
        other = archive_of(connection, study)
        if other is None:
            self._catalog.delete_indexed(connection, study)
        else:
            connection.execute(
                "UPDATE studies SET indexed_in = ? WHERE study_uid = ?", (other["archive"], study)
            )
            set_counts(
                connection,
                study,
                other["series"],
                other["instances"],
                other["modalities"].split("\n"),
            )
            self.recounted(study)
        self._catalog.changed(study)
