"""What the archives of this facility say that they have, and the studies that are indexed for it.

Synchronous and thread-safe.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from keys.sharing import FROM_ARCHIVE
from node.catalog.attributes import patients_of_each
from node.catalog.catalog import Catalog
from node.catalog.discards import delete_study
from node.catalog.indexed import IndexedStudy, archive_of, set_counts, take_over
from node.catalog.patients import Described, patients_of, update_study
from node.catalog.rows import IS_SHARED_TO_ANY, WITHHELD, state_for_peers
from node.catalog.sharing import share_with_none
from node.database import Database
from protocol.log.entry import Event, subjects_of

MISSED = 2
"""A study goes from the index when an archive left it out in so many looks, one after the other."""

AT_ONCE = 50
"""Studies of one transaction."""

_OTHER_PATIENT = "its archive now says that it is of another patient"


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
        append: writes audit entries durably with one flush.

    Attributes:
        recounted: called with a study (UID), in the transaction in which what is told of it changes
            though its content root does not.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        append: Callable[[Sequence[Event]], object],
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._append = append
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
            NodeError: the disk is full; what was not kept is found in the next look.
        """
        new = self._different(archive, brings, found)
        # Some at a time, as nobody else writes meanwhile.
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            self._logged(partial(self._take_each, archive, brings, some))
        if is_all:
            seen = {one.about.study_uid for one in found}
            self._logged(partial(self._miss, archive, first, last, seen))

    def keep_from(self, archive: str, first: str) -> None:
        """Forget what an archive has of days before one (YYYYMMDD): they are asked for no more."""
        self._drop_each("archive = ? AND study_date < ?", (archive, first))

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

    def came_whole(self, wanting: Wanting) -> None:
        """Note that all is here that an archive gives of a study."""
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
        rows = self._database.query("SELECT DISTINCT archive FROM indexed_studies")
        for row in rows:
            if row["archive"] not in names:
                self._drop_each("archive = ?", (row["archive"],))

    def became_indexed(self, study: str) -> None:
        """Log that a study (UID) of which nothing is here any more is told of all the same.

        In the transaction that removes it.
        """
        self._append(self._events(study, WITHHELD))

    def forget(self, studies: Iterable[str]) -> None:
        """Delete what tells that studies (UIDs) were here, as openings of them are erased."""
        each = [(one,) for one in studies if self._catalog.study(one) is None]
        self._database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM foreign_studies WHERE study_uid = ?", each
            )
        )

    # --- inside --------------------------------------------------------------------------

    def _different(
        self, archive: str, brings: str, found: Sequence[IndexedStudy]
    ) -> list[IndexedStudy]:
        """Those of which the tables do not say the same already: most looks bring nothing new."""
        studies = [one.about.study_uid for one in found]
        known = {
            row["study_uid"]: tuple(row)[2:]
            for row in self._database.query_among(
                "SELECT * FROM indexed_studies WHERE archive = ? AND study_uid IN (?*)",
                studies,
                (archive,),
            )
        }
        rows, patients = self._catalog.rows(studies), patients_of_each(self._database, studies)
        new = []
        for one in found:
            study = one.about.study_uid
            modalities = "\n".join(one.modalities)
            told = (one.about.study_date, one.series, one.instances, modalities, brings, 0)
            row = rows.get(study)
            is_known = known.get(study, ())[:-1] == told
            is_same = row is not None and (
                row.indexed_in != archive or one.is_told_by(row, patients.get(study, ()))
            )
            if not (is_known and is_same):
                new.append(one)
        return new

    def _logged(self, change: Callable[[sqlite3.Connection], list[Event]]) -> None:
        """Make a change in one transaction; what it gives is in the log before it counts."""
        written: list[list[Event]] = []

        def make(connection: sqlite3.Connection) -> None:
            events = change(connection)
            # A transaction may be run again.
            if events and events not in written:
                self._append(events)
                written.append(events)

        self._database.transact(make)

    def _drop_each(self, condition: str, values: tuple[str, ...]) -> None:
        """Forget that archives have the studies of these rows."""
        while True:
            rows = self._database.query(
                f"SELECT study_uid, archive FROM indexed_studies WHERE {condition}"
                f" ORDER BY study_uid LIMIT {AT_ONCE}",
                values,
            )
            if not rows:
                return
            self._logged(partial(self._drop_those, list(rows)))

    def _drop_those(
        self, rows: Sequence[sqlite3.Row], connection: sqlite3.Connection
    ) -> list[Event]:
        return [event for row in rows for event in self._drop(connection, *row)]

    def _events(self, study: str, before: str, patients: tuple[str, ...] = ()) -> list[Event]:
        """The entry about what a study that is not here is now, unless it is withheld as before.

        Args:
            study: its UID.
            before: its state before; "" if it was not known.
            patients: of one that is gone.
        """
        row = self._catalog.study(study)
        state = "gone" if row is None else state_for_peers(row)
        if {before, state} <= {"", WITHHELD, "gone"}:
            return []
        details: dict[str, str | int | bool] = {"state": state}
        if row is not None:
            details["archive"] = row.indexed_in
            if row.to_check:
                details["to_check"] = row.to_check
        subjects = subjects_of(study, patients or self._catalog.patients(study))
        return [Event(type="indexed", actor="node", subjects=subjects, details=details)]

    def _take_each(
        self,
        archive: str,
        brings: str,
        some: Sequence[IndexedStudy],
        connection: sqlite3.Connection,
    ) -> list[Event]:
        return [event for one in some for event in self._take(connection, archive, brings, one)]

    def _take(
        self, connection: sqlite3.Connection, archive: str, brings: str, one: IndexedStudy
    ) -> list[Event]:
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
            if not self._is_ours(connection, study):
                return []
            self._insert(connection, archive, one)
            return self._events(study, "")
        if row.indexed_in != archive:
            return []
        self._update(connection, one)
        now = self._catalog.study(study)
        assert now is not None
        same = state_for_peers(now) == state_for_peers(row)
        return [] if same else self._events(study, state_for_peers(row))

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

    def _update(self, connection: sqlite3.Connection, one: IndexedStudy) -> None:
        """Bring the row of a study that is not here up to date with what its archive tells."""
        study, described = one.about.study_uid, Described([one.about])
        before, told = patients_of(connection, study), one.columns
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
        archive: str,
        first: str,
        last: str,
        seen: Collection[str],
        connection: sqlite3.Connection,
    ) -> list[Event]:
        events = []
        rows = connection.execute(
            "SELECT study_uid, missed FROM indexed_studies"
            " WHERE archive = ? AND study_date >= ? AND study_date <= ?",
            (archive, first, last),
        ).fetchall()
        for study, missed in map(tuple, rows):
            if study in seen:
                continue
            if missed + 1 >= MISSED:
                events += self._drop(connection, study, archive)
            else:
                connection.execute(
                    "UPDATE indexed_studies SET missed = ? WHERE study_uid = ? AND archive = ?",
                    (missed + 1, study, archive),
                )
        return events

    def _drop(self, connection: sqlite3.Connection, study: str, archive: str) -> list[Event]:
        """An archive has a study no more; the row goes if no other archive has it."""
        connection.execute(
            "DELETE FROM indexed_studies WHERE study_uid = ? AND archive = ?", (study, archive)
        )
        row = self._catalog.study(study)
        if row is None or row.indexed_in != archive:
            return []
        patients = self._catalog.patients(study)
        other = archive_of(connection, study)
        if other is None:
            delete_study(connection, study)
            self._catalog.changed(study)
            return self._events(study, state_for_peers(row), patients)
        take_over(connection, study, other)
        self.recounted(study)
        self._catalog.changed(study)
        return []
