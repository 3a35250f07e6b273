"""Which study goes to which archive of this facility, and how far that is; on disk.

A study is put down in the transaction that publishes it, so none is forgotten by a kill. Of each
image that an archive has taken, the queue knows under which identity and with which bytes it went:
what is begun anew sends only what is missing, and what the archive sends back is known.

`ArchiveQueue` owns the tables; `archiving` carries out what stands in them. Synchronous and
thread-safe.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from keys.sharing import FROM_PEER
from node.audit.effects import Effects
from node.catalog.catalog import Catalog
from node.catalog.sharing import sources_of_each
from node.clock import Clock
from node.database import Database
from node.edges.archive_settings import NONE, ArchiveSettings
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event, subjects_of

ARCHIVES_SCHEMA = """
CREATE TABLE IF NOT EXISTS archive_studies (
    study_uid TEXT NOT NULL,
    archive TEXT NOT NULL,
    state TEXT NOT NULL,                -- see `ArchiveStudy`
    stat INTEGER NOT NULL,              -- whether it is urgent
    since INTEGER NOT NULL,             -- put down; milliseconds since the epoch, UTC; grows
    due INTEGER NOT NULL,               -- the next try, likewise
    tries INTEGER NOT NULL,             -- that came to nothing, one after the other
    failing INTEGER NOT NULL,           -- since when, milliseconds as above; 0 if it does not
    why TEXT NOT NULL,                  -- why it waits or failed, for people
    begun INTEGER NOT NULL,             -- when its first byte left, milliseconds as above; 0 before
    proof TEXT NOT NULL,                -- by what it is proven stored: commitment, query, returned
    PRIMARY KEY (study_uid, archive)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS archive_studies_by_due ON archive_studies (archive, due);
CREATE TABLE IF NOT EXISTS archive_instances (
    study_uid TEXT NOT NULL,
    archive TEXT NOT NULL,
    sop_uid TEXT NOT NULL,
    state TEXT NOT NULL,                -- taken, refused, stored
    tries INTEGER NOT NULL,             -- how often it was sent
    status INTEGER NOT NULL,            -- what the archive answered; PS3.7 annex C, or of HTTP
    why TEXT NOT NULL,                  -- why it was refused, for people
    mark TEXT NOT NULL,                 -- of the identity under which it went
    digest BLOB NOT NULL,               -- BLAKE3 of its data set as it went
    PRIMARY KEY (study_uid, archive, sop_uid)
) STRICT, WITHOUT ROWID;
"""

WAITS, UNMATCHED, SENT, DONE, STORED, FAILED, DROPPED = (
    "waits", "waits for a match", "sent, not proven", "sent", "stored", "failed", "dropped",
)  # fmt: skip
OPEN = (WAITS, UNMATCHED, SENT)
"""States in which something is to be done."""

TAKEN, REFUSED = "taken", "refused"
"""States of an image, beside `STORED`."""

TRIES = 3
"""How often an image is sent that the archive refuses, or has not when it is asked."""

BROUGHT = "brought"
"""Mark of an image that the archive has given."""

_INSTANCE = "sop_uid, state, status, why, mark, digest, tries"

_OPEN = f"state IN ({', '.join(repr(one) for one in OPEN)})"


@dataclass(frozen=True, slots=True)
class ArchiveStudy:
    """A study on its way to an archive; columns as in the table.

    States: it waits to be sent; it waits until it is known whose it is; all is sent, and the
    archive is asked for it; all is sent, and no proof is wanted; it is proven stored; images of it
    are refused for good; a person has dropped it.
    """

    study_uid: str
    archive: str
    state: str
    stat: int
    since: int
    due: int
    tries: int
    failing: int
    why: str
    begun: int
    proof: str


@dataclass(frozen=True, slots=True)
class ArchiveInstance:
    """What became of an image at an archive; as in the table, without study and archive."""

    sop_uid: str
    state: str
    status: int = 0
    why: str = ""
    mark: str = ""
    digest: bytes = b""
    tries: int = 1


class ArchiveQueue:
    """The queue of this node, for all its archives.

    Args:
        archives: those of the settings, by name.
        database: holds the tables.
        catalog: the studies of this node.
        effects: ties entries to their effects.
        petname: gives the petname of a facility by its fingerprint, or "".
        clock: dates what happens.

    Attributes:
        note_stored: called with the UID of a study, by what it is proven, and the number of its
            images, before a state says that all of it is stored; once more after a kill. Returns
            whether the study still has just so many images.
        on_change: called after each change of what is to be done.
    """

    def __init__(
        self,
        archives: Mapping[str, ArchiveSettings],
        database: Database,
        catalog: Catalog,
        effects: Effects,
        petname: Callable[[str], str],
        clock: Clock,
    ) -> None:
        self.archives = archives
        self._database = database
        self._catalog = catalog
        self._effects = effects
        self._petname = petname
        self._clock = clock
        self.note_stored: Callable[[str, str, int], bool] = lambda study, proof, instances: True
        self.on_change: Callable[[], None] = lambda: None

    # --- what goes in ------------------------------------------------------------------

    def published(self, study_uid: str) -> None:
        """Put a study down that has got images, for each archive that wants it by a rule.

        In the transaction that publishes them. Of a study that a person has dropped nothing more
        goes by itself.
        """
        self._put_down(study_uid, stat=False, is_new=True)

    def hurry(self, study_uid: str) -> None:
        """A study that came here is urgent: it goes first, and where a rule asks for that."""
        self._put_down(study_uid, stat=True, is_new=False)

    def matched(self, study_uid: str) -> None:
        """It is known, or known better, of which patient here a study is."""

        def put(connection: sqlite3.Connection) -> None:
            for one in self.of_study(study_uid):
                if one.state == UNMATCHED:
                    self._update(one, "state = ?, due = ?", (WAITS, self._clock.now_ms()))
                elif one.state not in (WAITS, DROPPED):
                    self._put(connection, study_uid, one.archive, stat=False)
            self._database.after_commit(lambda: self.on_change())

        self._database.transact(put)

    def _put_down(self, study_uid: str, *, stat: bool, is_new: bool) -> None:
        if not self.archives:
            return

        def put(connection: sqlite3.Connection) -> None:
            row = self._catalog.study(study_uid)
            if row is None:
                return
            is_urgent = stat or self._is_urgent_fetch(study_uid)
            sources = self._sources(study_uid)
            for archive in self.archives.values():
                if is_new and archive.is_from_there(sources):
                    # What it has given, it has: of a study of its index only the proof is missing.
                    if archive.index_source in sources:
                        self._brought(connection, study_uid, archive)
                    continue
                known = self.find(study_uid, archive.name)
                if known is None:
                    is_due = archive.wants(row.modalities, sources, is_urgent)
                else:
                    is_waiting = known.state in (WAITS, UNMATCHED) and is_urgent and not known.stat
                    is_due = is_waiting or (is_new and known.state != DROPPED)
                if is_due:
                    self._put(connection, study_uid, archive.name, stat=is_urgent)
            self._database.after_commit(lambda: self.on_change())

        self._database.transact(put)

    def _brought(
        self, connection: sqlite3.Connection, study_uid: str, archive: ArchiveSettings
    ) -> None:
        """Settle a study that an archive has given like one that was sent there and taken.

        So it is proven to be there, and may be removed here again.
        """
        now = self._clock.now_ms()
        state = DONE if archive.proof == NONE else SENT
        connection.execute(
            "INSERT INTO archive_studies VALUES (?, ?, ?, 0, ?, ?, 0, 0, '', ?, '')"
            " ON CONFLICT (study_uid, archive) DO UPDATE SET state = excluded.state,"
            " since = CASE WHEN excluded.since > archive_studies.since THEN excluded.since"
            " ELSE archive_studies.since + 1 END, due = excluded.due, tries = 0, failing = 0,"
            " why = '', proof = ''",
            (study_uid, archive.name, state, now, now, now),
        )
        self.note(
            study_uid,
            archive.name,
            [
                # No data set went: the digest of the file is like none that comes back.
                ArchiveInstance(sop, TAKEN, mark=f"{BROUGHT}/{digest.hex()}", digest=digest)
                for sop, digest in self._catalog.held_instances(study_uid).items()
            ],
        )

    def _put(self, connection: sqlite3.Connection, study: str, archive: str, stat: bool) -> None:
        now = self._clock.now_ms()
        connection.execute(
            "INSERT INTO archive_studies VALUES (?, ?, ?, ?, ?, ?, 0, 0, '', 0, '')"
            " ON CONFLICT (study_uid, archive) DO UPDATE SET state = excluded.state,"
            " stat = CASE WHEN excluded.stat = 1 THEN 1 ELSE archive_studies.stat END,"
            " since = CASE WHEN excluded.since > archive_studies.since THEN excluded.since"
            " ELSE archive_studies.since + 1 END, due = excluded.due, tries = 0, failing = 0,"
            " why = '', proof = ''",
            (study, archive, WAITS, int(stat), now, now),
        )

    def _sources(self, study_uid: str) -> list[str]:
        """Who brought a study; facilities by their petnames, as people write them."""
        found = []
        for one in sources_of_each(self._database, [study_uid]).get(study_uid, []):
            edge, _, name = one.partition(":")
            found.append(f"{edge}:{self._petname(name) or name}" if edge == FROM_PEER else one)
        return found

    def _is_urgent_fetch(self, study_uid: str) -> bool:
        row = self._database.query_one(
            "SELECT stat FROM transfers WHERE study = ? AND direction = 'in'"
            " ORDER BY started DESC LIMIT 1",
            (study_uid,),
        )
        return row is not None and row["stat"] != 0

    def ask(self, study_text: str, archive: str, *, stat: bool = False) -> ArchiveStudy:
        """Have a study sent for a person, all of it, also what the archive has; entry first.

        Args:
            study_text: as for `Catalog.find_study`.
            archive: the name of one, or "" for the only one.
            stat: whether it goes before what is not urgent.

        Raises:
            NodeError: there is no such study or archive, or it cannot be written.
        """
        study = self._catalog.find_study(study_text).study_uid
        name = self._named(archive).name
        event = self._event("forward-asked", study, name, {"stat": stat}, actor="operator")

        def put(connection: sqlite3.Connection) -> None:
            self._forget(connection, study, name)
            self._put(connection, study, name, stat)

        self._effects.after_entry(event, put)
        self.on_change()
        return self._found(study, name)

    def _named(self, archive: str) -> ArchiveSettings:
        if archive and archive in self.archives:
            return self.archives[archive]
        if not archive and len(self.archives) == 1:
            return next(iter(self.archives.values()))
        names = ", ".join(self.archives) or "none"
        raise NodeError(
            f"there is no archive {archive}" if archive else "it is not said to which archive",
            hint=f'archives of config.toml: {names}; each is a table [archives."NAME"]',
            code=ExitCode.NOT_FOUND if archive else ExitCode.USAGE,
        )

    def retry(self, study_text: str = "", archive: str = "") -> int:
        """Try again now what waits or failed; returns how many studies.

        Args:
            study_text: as for `Catalog.find_study`; "" for all.
            archive: the name of one, or "" for all.

        Raises:
            NodeError: there is no such study or archive, or it cannot be written.
        """
        study = self._catalog.find_study(study_text).study_uid if study_text else ""
        name = self._named(archive).name if archive else ""
        again = [
            one
            for one in self.all()
            if one.state in (*OPEN, FAILED)
            and study in ("", one.study_uid)
            and name in ("", one.archive)
        ]

        def change(connection: sqlite3.Connection) -> None:
            for one in again:
                if one.state == FAILED:
                    connection.execute(
                        "DELETE FROM archive_instances WHERE study_uid = ? AND archive = ?"
                        f" AND state = '{REFUSED}'",
                        (one.study_uid, one.archive),
                    )
                state = WAITS if one.state == FAILED else one.state
                self._update(one, "due = ?, tries = 0, state = ?", (self._clock.now_ms(), state))

        self._database.transact(change)
        self.on_change()
        return len(again)

    def drop(self, study_text: str, archive: str = "") -> ArchiveStudy:
        """Send a study to an archive no more, for a person; entry first.

        What is there stays there. What comes of the study later does not go by itself either.

        Args:
            study_text: as for `Catalog.find_study`.
            archive: its name; "" if the study is on its way to one alone.

        Raises:
            NodeError: it is not on its way there, or it cannot be written.
        """
        known = self._on_its_way(study_text, archive)
        study, name = known.study_uid, known.archive
        event = self._event("forward-dropped", study, name, {}, actor="operator")
        self._effects.after_entry(
            event, lambda connection: self._settle(connection, study, name, DROPPED)
        )
        self.on_change()
        return self._found(study, name)

    def _on_its_way(self, study_text: str, archive: str) -> ArchiveStudy:
        """A study that is not settled; its archive may have gone from the settings."""
        way = [one for one in self.all() if one.state in (*OPEN, FAILED)]
        if not any(one.study_uid == study_text for one in way):
            study_text = self._catalog.find_study(study_text).study_uid
        found = [one for one in way if one.study_uid == study_text and archive in ("", one.archive)]
        if len(found) != 1:
            what = "is on its way to several archives" if found else "is not on its way there"
            raise NodeError(
                f"study {study_text} {what}",
                hint="see `radmesh archive`, and name the archive with --to",
                code=ExitCode.USAGE if found else ExitCode.NOT_FOUND,
            )
        return found[0]

    def study_changed(self, study_uid: str) -> None:
        """Forget a study that is not here any more; in the transaction that discards it."""
        if not self._catalog.is_here(study_uid):
            self.forget([study_uid])

    def forget(self, studies: Iterable[str]) -> None:
        """Delete what is known about studies (UIDs), as openings of them are erased.

        What is here still has its way to go: its row says no more than the catalog.
        """
        each = [one for one in studies if not self._catalog.is_here(one)]

        def delete(connection: sqlite3.Connection) -> None:
            for one in each:
                self._forget(connection, one, rows=True)

        self._database.transact(delete)

    def _forget(
        self, connection: sqlite3.Connection, study: str, archive: str = "", *, rows: bool = False
    ) -> None:
        for table in ("archive_instances", *(["archive_studies"] if rows else [])):
            connection.execute(
                f"DELETE FROM {table} WHERE study_uid = ? AND ('' = ? OR archive = ?)",
                (study, archive, archive),
            )

    # --- reading -----------------------------------------------------------------------

    def all(self) -> list[ArchiveStudy]:
        """All studies of the queue, those to which something is to be done first."""
        rows = self._database.query(
            f"SELECT * FROM archive_studies ORDER BY CASE WHEN {_OPEN} THEN 0 ELSE 1 END,"
            " stat DESC, since, study_uid, archive"
        )
        return [ArchiveStudy(*row) for row in rows]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many studies there are, by archive and state."""
        rows = self._database.query(
            "SELECT archive, state, count(*) AS many FROM archive_studies GROUP BY archive, state"
        )
        return {(row["archive"], row["state"]): row["many"] for row in rows}

    def late(self, seconds: float) -> int:
        """How many studies could not go for so long, or failed."""
        before = self._clock.now_ms() - int(seconds * 1000)
        row = self._database.query_one(
            "SELECT count(*) AS many FROM archive_studies"
            f" WHERE state = '{FAILED}' OR ({_OPEN} AND failing <> 0 AND failing <= ?)",
            (before,),
        )
        return 0 if row is None else int(row["many"])

    def of_study(self, study_uid: str) -> list[ArchiveStudy]:
        """How far a study is, for each archive to which it goes."""
        rows = self._database.query(
            "SELECT * FROM archive_studies WHERE study_uid = ? ORDER BY archive", (study_uid,)
        )
        return [ArchiveStudy(*row) for row in rows]

    def find(self, study_uid: str, archive: str) -> ArchiveStudy | None:
        """How far a study is on its way to an archive; None if it does not go there."""
        return next((one for one in self.of_study(study_uid) if one.archive == archive), None)

    def _found(self, study_uid: str, archive: str) -> ArchiveStudy:
        found = self.find(study_uid, archive)
        assert found is not None
        return found

    def why_stays(self, study_uid: str) -> str:
        """Why a study has to stay here, as the end of a sentence, or ""."""
        unsettled = (*OPEN, FAILED)
        is_open = any(one.state in unsettled for one in self.of_study(study_uid))
        return "is on its way to an archive" if is_open else ""

    def instances(self, study_uid: str, archive: str) -> dict[str, ArchiveInstance]:
        """What became of the images of a study at an archive, by SOP Instance UID."""
        rows = self._database.query(
            f"SELECT {_INSTANCE} FROM archive_instances WHERE study_uid = ? AND archive = ?",
            (study_uid, archive),
        )
        return {row[0]: ArchiveInstance(*row) for row in rows}

    def instance(self, study_uid: str, archive: str, sop_uid: str) -> ArchiveInstance | None:
        """What became of one image at an archive; None if it did not go there."""
        row = self._database.query_one(
            f"SELECT {_INSTANCE} FROM archive_instances"
            " WHERE study_uid = ? AND archive = ? AND sop_uid = ?",
            (study_uid, archive, sop_uid),
        )
        return None if row is None else ArchiveInstance(*row)

    def refused(self) -> list[tuple[str, str, ArchiveInstance]]:
        """Study, archive and image, for each image that an archive refuses."""
        rows = self._database.query(
            f"SELECT study_uid, archive, {_INSTANCE} FROM archive_instances"
            f" WHERE state = '{REFUSED}' ORDER BY study_uid, archive, sop_uid"
        )
        return [(row[0], row[1], ArchiveInstance(*row[2:])) for row in rows]

    def next_due(
        self, archive: str, *, stat: bool, only_sent: bool = False, but: str = ""
    ) -> ArchiveStudy | None:
        """The study that is due first at an archive, now or later.

        Args:
            archive: its name.
            stat: of those that are urgent, or of the others.
            only_sent: of those that are sent and not proven alone.
            but: a study (UID) that is left out.
        """
        states = f"state = '{SENT}'" if only_sent else _OPEN
        row = self._database.query_one(
            f"SELECT * FROM archive_studies WHERE archive = ? AND stat = ? AND {states}"
            " AND study_uid <> ? ORDER BY due, since, study_uid LIMIT 1",
            (archive, int(stat), but),
        )
        return None if row is None else ArchiveStudy(*row)

    # --- what happens to it --------------------------------------------------------------

    def note(self, study: str, archive: str, instances: Sequence[ArchiveInstance]) -> None:
        """Write down what became of images that were sent."""
        self._database.transact(
            lambda connection: connection.executemany(
                "INSERT INTO archive_instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (study_uid, archive, sop_uid) DO UPDATE SET"
                " state = excluded.state, tries = CASE WHEN archive_instances.mark = excluded.mark"
                " THEN archive_instances.tries + 1 ELSE 1 END,"
                " status = excluded.status, why = excluded.why, mark = excluded.mark,"
                " digest = excluded.digest",
                [
                    (study, archive, one.sop_uid, one.state, 1, one.status, one.why, one.mark,
                     one.digest)
                    for one in instances
                ],
            )
        )  # fmt: skip

    def begins(self, one: ArchiveStudy, details: dict[str, str | int | bool]) -> None:
        """The first byte of a try is about to leave: an entry says so."""
        self._effects.append(self._event("forward-begun", one.study_uid, one.archive, details))

    def begun(self, one: ArchiveStudy) -> int:
        """When the first try began, milliseconds since the epoch, UTC; now, if none did.

        It dates what is changed in an image, so that it has the same bytes at each try.
        """
        now = self._clock.now_ms()
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE archive_studies SET begun = ?"
                " WHERE study_uid = ? AND archive = ? AND begun = 0",
                (now, one.study_uid, one.archive),
            )
        )
        return self._found(one.study_uid, one.archive).begun

    def postpone(self, one: ArchiveStudy, why: str, seconds: float, *, counts: bool = True) -> None:
        """Try it again after a pause; a study that got images meanwhile is due all the same.

        Args:
            one: the study.
            why: why it came to nothing, for people.
            seconds: the pause.
            counts: whether it counts as a try, which it does not if the archive was not there.
        """
        now = self._clock.now_ms()
        self._update(
            one,
            "due = ?, tries = ?, failing = CASE WHEN failing = 0 THEN ? ELSE failing END, why = ?",
            (now + int(seconds * 1000), one.tries + counts, now, why),
        )

    def waits_for_match(self, one: ArchiveStudy, seconds: float) -> None:
        """It goes nowhere before it is known which patient of this facility it is of."""
        self._update(
            one,
            "due = ?, why = ?, state = ?",
            (
                self._clock.now_ms() + int(seconds * 1000),
                "it is not known of which patient here it is: see `radmesh match`",
                UNMATCHED,
            ),
        )

    def sent(self, one: ArchiveStudy, details: dict[str, str | int | bool]) -> None:
        """All of it is taken: entry, then state."""
        self._effects.append(self._event("forwarded", one.study_uid, one.archive, details))
        archive = self.archives.get(one.archive)
        state = DONE if archive is None or archive.proof == NONE else SENT
        self._update(
            one,
            "state = ?, due = ?, tries = 0, failing = 0, why = ''",
            (state, self._clock.now_ms()),
        )

    def failed(self, one: ArchiveStudy, why: str, refused: Sequence[ArchiveInstance]) -> None:
        """Images of it are refused for good: entry that names them, then state."""
        details: dict[str, str | int | bool] = {"why": "refused", "refused": len(refused)}
        named = tuple(("instance", each.sop_uid) for each in refused[:NAMED])
        self._effects.append(
            self._event(
                "forward-failed", one.study_uid, one.archive, details, outcome="failed", more=named
            )
        )
        self._database.transact(
            lambda connection: self._settle(
                connection, one.study_uid, one.archive, FAILED, why=why, since=one.since
            )
        )

    def stored(self, one: ArchiveStudy, proof: str, instances: int) -> None:
        """All of it is proven stored: the entry and whoever has to know, then the state."""
        if not self.note_stored(one.study_uid, proof, instances):
            # It grew or shrank meanwhile: it is looked at again.
            return

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE archive_instances SET state = ? WHERE study_uid = ? AND archive = ?"
                " AND state = ?",
                (STORED, one.study_uid, one.archive, TAKEN),
            )
            self._settle(
                connection, one.study_uid, one.archive, STORED, proof=proof, since=one.since
            )

        self._database.transact(change)

    def missing(self, one: ArchiveStudy, sop_uids: Iterable[str]) -> None:
        """The archive has not what it took: these images are to be sent again."""
        each = [(REFUSED, one.study_uid, one.archive, uid) for uid in sop_uids]

        def change(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE archive_instances SET state = ?, status = 0,"
                " why = 'the archive took it and has it not'"
                " WHERE study_uid = ? AND archive = ? AND sop_uid = ?",
                each,
            )
            connection.execute(
                "UPDATE archive_studies SET state = ?, due = ?, tries = 0"
                " WHERE study_uid = ? AND archive = ? AND since = ?",
                (WAITS, self._clock.now_ms(), one.study_uid, one.archive, one.since),
            )

        self._database.transact(change)

    def has(self, archive: str, images: Iterable[tuple[str, str]]) -> None:
        """An archive has shown that it has these images: study and SOP Instance UID of each."""
        each = [(STORED, study, archive, uid, TAKEN) for study, uid in images]
        self._database.transact(
            lambda connection: connection.executemany(
                "UPDATE archive_instances SET state = ? WHERE study_uid = ? AND archive = ?"
                " AND sop_uid = ? AND state = ?",
                each,
            )
        )

    def gone(self, one: ArchiveStudy) -> None:
        """The study is not here any more."""
        self._database.transact(
            lambda connection: self._forget(connection, one.study_uid, one.archive, rows=True)
        )

    def _settle(
        self,
        connection: sqlite3.Connection,
        study: str,
        archive: str,
        state: str,
        *,
        why: str = "",
        proof: str = "",
        since: int | None = None,
    ) -> None:
        connection.execute(
            "UPDATE archive_studies SET state = ?, why = ?, proof = ?, tries = 0, failing = ?"
            " WHERE study_uid = ? AND archive = ? AND (? = 1 OR since = ?)",
            (
                state, why, proof, self._clock.now_ms() if state == FAILED else 0, study, archive,
                int(since is None), since or 0,
            ),
        )  # fmt: skip

    def _update(
        self, one: ArchiveStudy, sets: str, values: Sequence[str | int | bytes] = ()
    ) -> None:
        """Change a row, unless the study has got images or another state since it was read."""
        self._database.transact(
            lambda connection: connection.execute(
                f"UPDATE archive_studies SET {sets}"
                " WHERE study_uid = ? AND archive = ? AND since = ? AND state = ?",
                (*values, one.study_uid, one.archive, one.since, one.state),
            )
        )

    def _event(
        self,
        kind: str,
        study: str,
        archive: str,
        details: dict[str, str | int | bool],
        *,
        actor: str = "node",
        outcome: str = "success",
        more: tuple[tuple[str, str], ...] = (),
    ) -> Event:
        return Event(
            type=kind,
            actor=actor,
            outcome=outcome,
            subjects=(*subjects_of(study, self._catalog.patients(study)), *more),
            details={"archive": archive, **details},
        )


NAMED = 20
"""Most images that an entry names."""
