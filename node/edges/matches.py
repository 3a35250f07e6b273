"""Which patient of this facility a study from elsewhere is of, and so how it goes to its archives.

Without a match it goes nowhere. A person makes one, or a rule: the issuer of the study's Patient ID
is our own, or one whose IDs the settings call ours. A name never matches; it proposes. A match
holds for the patients that the images named when it was made: when the study grows it stays, and
with an image of another patient the study waits again. Synchronous and thread-safe.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from keys.sharing import FROM_PEER
from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects
from node.audit.log import AuditLog
from node.catalog.attributes import patients_of_each
from node.catalog.catalog import LOCAL, Catalog, StudyRow
from node.catalog.patients import Patient, identities, why_to_check
from node.catalog.sharing import received_from, sources_of_each
from node.catalog.words import Search
from node.clock import Clock
from node.database import Database
from node.dicom.headers import patient_identity
from node.dicom.identity import UNCHANGED, Identity
from node.edges.identity_settings import FromPeer, IdentitySettings
from node.edges.match_rows import (
    MATCHED,
    TEMPORARY,
    UNDONE,
    LocalPatient,
    Match,
    are_same,
    facts_of,
    require_whole,
    store,
    undo,
)
from node.errors import ExitCode, NodeError
from node.sharing.decisions import Decisions
from node.sharing.peers import Peers
from protocol.find_messages import ByNumber
from protocol.log.entry import Entry, Event

OWN_ISSUER = "own issuer"
"""The rule by which a Patient ID of our own issuer, or of one of `ours`, is a local one."""

_LOOKED_AT = 200
"""Most studies of a Patient ID that are looked at for one."""


class Matches:
    """The matches of this node.

    Args:
        settings: whose Patient IDs are ours, and our words for those of others.
        database: holds the matches.
        catalog: the studies of this node.
        audit: the log.
        effects: ties entries to their effects.
        peers: the facilities that we know.
        decisions: the decisions that rest on matches.
        clock: dates them.

    Attributes:
        settings: whose Patient IDs are ours, and our words for those of others.
        in_match: called with the UID of a study in the transaction that matches it, or undoes that.
        on_change: called with the UID of a study whose match a person made or undid, after that.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        database: Database,
        catalog: Catalog,
        audit: AuditLog,
        effects: Effects,
        peers: Peers,
        decisions: Decisions,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self._database = database
        self._catalog = catalog
        self._audit = audit
        self._effects = effects
        self._peers = peers
        self._clock = clock
        self._lock = threading.Lock()
        self._cuts = Cuts(effects.append, decisions.wait_earlier)
        self._held: frozenset[str] = frozenset()
        self._last_number = self._clock.now()
        self.in_match: Callable[[str], None] = lambda study_uid: None
        self.on_change: Callable[[str], None] = lambda study_uid: None

    # --- how a study goes ----------------------------------------------------------------

    def ready(self, study_uid: str) -> Identity | None:
        """How a study goes to an archive of this facility; None while it waits for a match.

        A match by a rule is made here, with its entry, when it is first asked for.

        Raises:
            NodeError: it cannot be logged or stored, or the database cannot be read.
        """
        row = self._catalog.study(study_uid)
        if row is None:
            return None
        sources = sources_of_each(self._database, [study_uid]).get(study_uid, [])
        if not self.is_from_elsewhere(row, sources):
            return UNCHANGED
        found = self._identity(row)
        if found is not None or self.of(study_uid) is not None:
            return found
        with self._lock:
            patients = self._patients(study_uid)
            local = self.by_rule(row, patients, sources)
            if local is not None and self.of(study_uid) is None:
                self._make(row, patients, MATCHED, local, rule=OWN_ISSUER)
        return self._identity(row)

    def _identity(self, row: StudyRow) -> Identity | None:
        match = self.of(row.study_uid)
        if match is None or match.state == UNDONE or row.study_uid in self._held:
            return None
        seen = self.seen(row.study_uid)
        if not are_same(seen, self._patients(row.study_uid)):
            return None
        return Identity(
            patient_id=match.patient_id,
            issuer=match.issuer,
            name=match.name,
            birth_date=match.birth_date,
            sex=match.sex,
            accession_number=match.accession_number,
            prefix=match.prefix,
            source=self.petname_of(row),
            maps=self.settings.maps,
            patients=frozenset(seen),
            is_temporary=match.state == TEMPORARY,
        )

    def petname_of(self, row: StudyRow) -> str:
        """Our name for the facility that a study first came from; "" where it was none."""
        for peer in self._peers.store.peers:
            if peer.facility_key.hex() == row.origin:
                return peer.petname
        return ""

    def of(self, study_uid: str) -> Match | None:
        """The match of a study, if it has one or had one that was undone."""
        found = self._database.query_one(
            "SELECT * FROM study_matches WHERE study_uid = ?", (study_uid,)
        )
        return None if found is None else Match(*found)

    def is_from_elsewhere(self, row: StudyRow, sources: Iterable[str]) -> bool:
        """Whether some of a study was made elsewhere, by who brought it."""
        return row.origin != LOCAL or any(
            one.startswith(f"{FROM_PEER}:") or self.settings.is_from_elsewhere(one)
            for one in sources
        )

    def why_stays(self, study_uid: str) -> str:
        """Why retention leaves a study here, completing `it ...`; "" if nothing is open."""
        match = self.of(study_uid)
        is_open = study_uid in self._held or (match is not None and match.state != MATCHED)
        return "waits until it is known which patient here it is of" if is_open else ""

    def is_made_here(self, row: StudyRow) -> bool:
        """Whether all of a study was made here."""
        sources = sources_of_each(self._database, [row.study_uid]).get(row.study_uid, [])
        return not self.is_from_elsewhere(row, sources)

    def elsewhere(self, patient_id: str, issuer: str) -> list[tuple[bytes, ByNumber]]:
        """Who a local patient is elsewhere, by all matches: facility key, and the patient there."""
        own = {"", self.settings.issuer}
        rows = self._database.query_among(
            "SELECT DISTINCT s.origin, p.patient_id, p.issuer FROM study_matches m"
            " JOIN matched_patients p ON p.study_uid = m.study_uid"
            " JOIN studies s ON s.study_uid = m.study_uid"
            f" WHERE m.state = '{MATCHED}' AND m.patient_id = ? AND s.origin <> '{LOCAL}'"
            " AND m.issuer IN (?*)",
            own if issuer in own else {issuer},
            (patient_id,),
        )
        return [(bytes.fromhex(one), ByNumber(*two)) for one, *two in sorted(map(tuple, rows))]

    def _patients(self, study_uid: str) -> list[Patient]:
        return patients_of_each(self._database, [study_uid]).get(study_uid, [])

    def seen(self, study_uid: str) -> list[Patient]:
        """The patients that the images of a study named when it was matched."""
        rows = self._database.query(
            "SELECT patient_id, issuer FROM matched_patients WHERE study_uid = ?", (study_uid,)
        )
        return sorted((row[0], row[1]) for row in rows)

    # --- rules ------------------------------------------------------------------------------

    def by_rule(
        self, row: StudyRow, patients: Sequence[Patient], sources: Iterable[str]
    ) -> LocalPatient | None:
        """The local patient by the issuer of the Patient ID; None if that does not say it."""
        if not patients or why_to_check(patients):
            return None
        issuers = {issuer.strip() for _, issuer in patients} - {""}
        issuer = issuers.pop() if issuers else self._known_issuer(row, sources)
        if not self.settings.is_ours(issuer) or self.is_contradicted(row):
            return None
        return LocalPatient(patient_id=patients[0][0].strip(), issuer=self.settings.issuer)

    def is_contradicted(self, row: StudyRow) -> bool:
        """Whether studies made here under the same Patient ID name another birth date."""
        search = Search(patient_id=row.patient_id)
        found = self._catalog.studies(limit=_LOOKED_AT, search=search)
        sources = sources_of_each(self._database, [one.study_uid for one in found])
        return any(
            "" not in (one.patient_birth_date, row.patient_birth_date)
            and one.patient_birth_date != row.patient_birth_date
            and not self.is_from_elsewhere(one, sources.get(one.study_uid, []))
            for one in found
        )

    def _known_issuer(self, row: StudyRow, sources: Iterable[str]) -> str:
        """The issuer of the Patient IDs of all facilities that a study came from, if it is one."""
        facilities = {received_from(one.fingerprint): one for one in self._peers.store.peers}
        found = {"" if row.origin == LOCAL else self._of_facility(bytes.fromhex(row.origin)).issuer}
        for source in sources:
            peer = facilities.get(source)
            found.add("" if peer is None else self._of_facility(peer.facility_key).issuer)
        return found.pop() if len(found) == 1 else ""

    def _of_facility(self, facility_key: bytes) -> FromPeer:
        """What the settings say of a facility; a name there is that of the one trusted now."""
        for name, said in self.settings.peers.items():
            try:
                if self._peers.find(name).facility_key == facility_key:
                    return said
            except NodeError:
                continue
        return FromPeer()

    # --- changing -------------------------------------------------------------------------------

    def match(self, study_uid: str, local: LocalPatient, *, several: bool = False) -> Match:
        """Say which local patient a study is of, by a person.

        Args:
            study_uid: UID of the study.
            local: the patient; without an issuer, of our own.
            several: the person has looked: the several patients that the images name are one.

        Raises:
            NodeError: there is no such study, it was made here, what is said of the patient is
                malformed, or it cannot be logged or stored.
        """
        whole = replace(local, issuer=local.issuer or self.settings.issuer, why="")
        require_whole(whole)
        with self._lock:
            row, patients = self._to_match(study_uid, several=several)
            match = self._make(row, patients, MATCHED, whole)
        self.on_change(study_uid)
        return match

    def match_for_now(self, study_uid: str, *, several: bool = False) -> Match:
        """Let a study go under a new temporary Patient ID; to be matched later.

        Raises:
            NodeError: as for `match`.
        """
        with self._lock:
            row, patients = self._to_match(study_uid, several=several)
            # A time, since the size of the log comes again after a restore.
            self._last_number = max(self._clock.now(), self._last_number + 1)
            patient_id = self.settings.temporary_id(self._last_number)
            local = LocalPatient(patient_id=patient_id, issuer=self.settings.issuer)
            match = self._make(row, patients, TEMPORARY, local)
        self.on_change(study_uid)
        return match

    def undo(self, study_uid: str) -> None:
        """Take the match of a study back: it goes nowhere until a person matches it.

        Raises:
            NodeError: it has none, or that could not be written; it counts even then, while this
                process runs.
        """
        with self._lock:
            match = self.of(study_uid)
            if match is None or match.state == UNDONE:
                raise NodeError(
                    "this study has no match",
                    hint="see `radmesh match`",
                    code=ExitCode.NOT_FOUND,
                )
            event = Event(
                type="match-undone",
                actor="operator",
                subjects=(
                    ("study", study_uid),
                    ("patient", patient_identity(match.patient_id, match.issuer)),
                ),
            )

            def effect(entry: Callable[[], int]) -> None:
                def take_back(connection: sqlite3.Connection) -> None:
                    undo(connection, study_uid)
                    self.in_match(study_uid)

                self._effects.of(entry(), take_back)
                self._held -= {study_uid}

            try:
                if study_uid in self._held:
                    self._cuts.write()
                else:
                    self._held |= {study_uid}
                    self._cuts.make(Cut(f"the match of study {study_uid}", event, effect))
            except NodeError as error:
                raise NodeError(
                    "the match is undone in this process, but that could not be written:"
                    f" {error.message}",
                    hint="make room on the disk: a running node then writes it by itself",
                    code=error.code,
                ) from error
        self.on_change(study_uid)

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Matches that are undone, which could not be written yet; for people."""
        return self._cuts.names

    def write_unwritten(self) -> None:
        """Try again to write what is undone already.

        Raises:
            NodeError: it still cannot be written.
        """
        with self._lock:
            self._cuts.write()

    def _to_match(self, study_uid: str, *, several: bool) -> tuple[StudyRow, list[Patient]]:
        row = self._catalog.study(study_uid)
        if row is None:
            raise NodeError("there is no such study here", code=ExitCode.NOT_FOUND)
        sources = sources_of_each(self._database, [study_uid]).get(study_uid, [])
        if not self.is_from_elsewhere(row, sources):
            raise NodeError(
                "this study was made here, and goes as it is",
                hint="sources whose images were made elsewhere are listed in `elsewhere` of the"
                " table identity in config.toml",
                code=ExitCode.USAGE,
            )
        patients = self._patients(study_uid)
        why = why_to_check(patients)
        if why and not several:
            raise NodeError(
                f"look at this study first: {why}",
                hint="if they are one, say so with --several; else discard what is not of the"
                " patient",
                code=ExitCode.USAGE,
            )
        return row, patients

    def _make(
        self,
        row: StudyRow,
        patients: Sequence[Patient],
        state: str,
        local: LocalPatient,
        rule: str = "",
    ) -> Match:
        """Log a match and keep it, for the patients on whom it was decided and no others."""
        facility = b"" if row.origin == LOCAL else bytes.fromhex(row.origin)
        match = Match(
            row.study_uid,
            state,
            local.patient_id,
            local.issuer,
            local.name,
            local.birth_date,
            local.sex,
            local.accession_number,
            self._of_facility(facility).prefix if facility else "",
            rule,
            self._clock.now(),
        )
        known = self.of(row.study_uid)
        if (
            known is not None
            and replace(known, made=match.made) == match
            and set(self.seen(row.study_uid)) == set(patients)
            and row.study_uid not in self._held
        ):
            return known
        self._cuts.write()
        event = Event(
            type="matched",
            actor="node" if rule else "operator",
            peer=facility,
            subjects=(
                ("study", row.study_uid),
                *(("patient", one) for one in identities(patients)),
                ("patient", patient_identity(match.patient_id, match.issuer)),
                ("facts", facts_of(row, match)),
            ),
            details={"how": "temporary" if state == TEMPORARY else "rule" if rule else "person"},
        )

        def keep(connection: sqlite3.Connection) -> None:
            if self._catalog.study(row.study_uid) is None:
                raise NodeError("the study was discarded meanwhile", code=ExitCode.NOT_FOUND)
            store(connection, match, patients)
            self.in_match(row.study_uid)

        self._effects.after_entry(event, keep)
        return match

    # --- forgetting -----------------------------------------------------------------------------

    def study_changed(self, study_uid: str) -> None:
        """Forget the match of a study that is gone; in the transaction at hand."""

        def forget(connection: sqlite3.Connection) -> None:
            for table in ("study_matches", "matched_patients"):
                connection.execute(
                    f"DELETE FROM {table} WHERE study_uid = ?1"
                    " AND NOT EXISTS (SELECT 1 FROM studies WHERE study_uid = ?1)",
                    (study_uid,),
                )

        self._database.transact(forget)

    def forget(self, studies: Iterable[str]) -> None:
        """Delete the matches of studies (UIDs), as openings of them are erased: they wait again."""
        gone = [(study,) for study in studies]

        def delete(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM study_matches WHERE study_uid = ?", gone)
            connection.executemany("DELETE FROM matched_patients WHERE study_uid = ?", gone)

        with self._lock:
            self._database.transact(delete)

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Undo the match that an entry says is undone; see `Effects.compare`."""
        openings = [self._audit.opening_of(commitment) for _, commitment in entry.subjects]
        studies = [one.value for one in openings if one is not None and one.kind == "study"]
        for study_uid in studies:
            undo(connection, study_uid)
            self.in_match(study_uid)
        return bool(studies)
