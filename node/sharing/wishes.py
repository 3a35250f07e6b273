"""What patients want: their objections, and their consents on file.

An objection holds for announcing, finding and fetching, also for studies that come later; it counts
in memory first, so that a full disk does not delay it. Each has its entry, in which the patient is
an opening. Synchronous and thread-safe.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from keys.conditions import USES
from keys.written import folded
from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects
from node.audit.log import AuditLog
from node.catalog.patients import Patient
from node.clock import Clock
from node.database import Database
from node.dicom.headers import patient_identity
from node.errors import ExitCode, NodeError
from node.sharing.decisions import Decisions
from protocol.log.entry import Entry, Event

log = logging.getLogger("radmesh.wishes")

OBJECTION, CONSENT = "objection", "consent"

WISHES_SCHEMA = """
CREATE TABLE IF NOT EXISTS patient_wishes (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,                 -- objection, consent
    patient_id TEXT NOT NULL,
    issuer TEXT NOT NULL,               -- of the Patient ID, or ''
    peer BLOB NOT NULL,                 -- facility key; empty for all
    uses TEXT NOT NULL,                 -- care, research, all
    made INTEGER NOT NULL,              -- seconds since the epoch, UTC
    ended INTEGER NOT NULL DEFAULT 0    -- the same; 0 while it holds
) STRICT;
"""

_ADDED = {OBJECTION: "objection-added", CONSENT: "consent-added"}
_ENDED = {OBJECTION: "objection-ended", CONSENT: "consent-ended"}


@dataclass(frozen=True)
class Wish:
    """One objection or consent of a patient.

    Attributes:
        number: its number here, never given twice.
        kind: `OBJECTION` or `CONSENT`.
        patient_id, issuer: whose. An objection holds for each patient who may be meant, so an
            issuer that is not known agrees with any; a consent is of the one with this very issuer,
            or with none.
        peer: facility key of the peer; b"" for all.
        uses: one of `keys.conditions.USES`, or "all".
        made, ended: seconds since the epoch, UTC; `ended` is 0 while it holds.
    """

    number: int
    kind: str
    patient_id: str
    issuer: str
    peer: bytes
    uses: str
    made: int
    ended: int = 0

    @property
    def identity(self) -> str:
        """The patient as the log commits to patients."""
        return patient_identity(self.patient_id, self.issuer)

    def may_be_of(self, patient_id: str, issuer: str) -> bool:
        """Whether the one whose wish it is may be this patient."""
        known = (folded(issuer), folded(self.issuer))
        return patient_id == self.patient_id and ("" in known or known[0] == known[1])

    def is_of(self, patient_id: str, issuer: str) -> bool:
        """Whether the one whose wish it is surely is this patient."""
        return (patient_id, issuer) == (self.patient_id, self.issuer)


class Standing:
    """The wishes that stand at one time.

    Args:
        wishes: all of them; those that have ended do not count.
    """

    def __init__(self, wishes: Iterable[Wish]) -> None:
        self._by_patient: dict[str, list[Wish]] = {}
        for wish in wishes:
            if not wish.ended:
                self._by_patient.setdefault(wish.patient_id, []).append(wish)

    @property
    def are_any(self) -> bool:
        """Whether any objection or consent holds."""
        return bool(self._by_patient)

    def objections(self, peer: bytes, patients: Iterable[Patient]) -> frozenset[str]:
        """The uses to which one of these patients may object, for a peer.

        Args:
            peer: facility key.
            patients: Patient ID and issuer of each patient of a study.
        """
        found = [self._uses(OBJECTION, peer, each, Wish.may_be_of) for each in patients]
        return frozenset().union(*found)

    def consents(self, peer: bytes, patients: Iterable[Patient]) -> frozenset[str]:
        """The uses to which each of these patients consents, for a peer; arguments likewise."""
        found = [self._uses(CONSENT, peer, each, Wish.is_of) for each in patients]
        return frozenset.intersection(*found) if found else frozenset()

    def _uses(
        self, kind: str, peer: bytes, patient: Patient, is_meant: Callable[[Wish, str, str], bool]
    ) -> frozenset[str]:
        found: set[str] = set()
        for wish in self._by_patient.get(patient[0], ()):
            if wish.kind == kind and wish.peer in (b"", peer) and is_meant(wish, *patient):
                found.update(USES if wish.uses == "all" else (wish.uses,))
        return frozenset(found)


class Wishes:
    """The objections and consents on file.

    Args:
        database: holds them.
        audit: the log.
        effects: ties entries to their effects.
        decisions: the decisions that rest on what patients want.
        clock: dates them.

    Attributes:
        in_change: called in the transaction of a change with the Patient ID that it is about.
        on_change: called after a change that takes a right away, with the Patient ID.
    """

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        effects: Effects,
        decisions: Decisions,
        clock: Clock,
    ) -> None:
        self._database = database
        self._audit = audit
        self._effects = effects
        self._clock = clock
        self._lock = threading.Lock()
        self._cuts = Cuts(effects.append, decisions.wait_earlier)
        self.in_change: Callable[[str], None] = lambda patient_id: None
        self.on_change: Callable[[str], None] = lambda patient_id: None
        rows = database.query("SELECT * FROM patient_wishes ORDER BY number")
        # Replaced as a whole at each change, so that readers need no lock.
        self._all = {row["number"]: Wish(*row) for row in rows}
        self._standing = Standing(self._all.values())

    # --- reading -----------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """Those that hold now: a snapshot that is replaced as a whole at each change."""
        return self._standing

    def at(self, time: int) -> Standing:
        """Those that held at a time (seconds since the epoch, UTC)."""
        return Standing(
            replace(wish, ended=0)
            for wish in self._all.values()
            if wish.made <= time and (not wish.ended or time < wish.ended)
        )

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Objections that count and could not be written yet, for people."""
        return self._cuts.names

    def all(self, kind: str) -> list[Wish]:
        """The objections, or the consents, in the order in which they were noted."""
        return [wish for wish in self._all.values() if wish.kind == kind]

    # --- changing ----------------------------------------------------------------------

    def add(self, kind: str, patient_id: str, issuer: str, peer: bytes, uses: str) -> Wish:
        """Note an objection or a consent; one that is noted already is given back.

        Raises:
            NodeError: it is none, or it could not be written. An objection counts even then, while
                this process runs.
        """
        if not patient_id.strip() or uses not in (*USES, "all"):
            raise NodeError(
                f"{kind} needs a Patient ID, and one of {', '.join(USES)}, all",
                code=ExitCode.USAGE,
            )
        with self._lock:
            wish = Wish(
                max(self._all, default=0) + 1,
                kind,
                patient_id.strip(),
                issuer.strip(),
                peer,
                uses,
                self._clock.now(),
            )
            for known in self._all.values():
                if not known.ended and replace(known, number=0, made=0) == replace(
                    wish, number=0, made=0
                ):
                    if _name(known) in self._cuts.names:
                        self._written(known, self._cuts.write)
                    return known
            self._change(wish, _ADDED[kind], is_cut=kind == OBJECTION)
            return wish

    def end(self, kind: str, number: int) -> Wish:
        """End an objection or a consent.

        Raises:
            NodeError: there is none of this number, or it could not be written.
        """
        with self._lock:
            known = self._all.get(number)
            if known is None or known.kind != kind or known.ended:
                raise NodeError(
                    f"there is no {kind} {number} that holds",
                    hint=f"see `radmesh {kind} list`",
                    code=ExitCode.NOT_FOUND,
                )
            ended = replace(known, ended=self._clock.now())
            self._change(ended, _ENDED[kind], is_cut=kind == CONSENT)
            return ended

    def write_unwritten(self) -> None:
        """Try again to write what counts already.

        Raises:
            NodeError: it still cannot be written.
        """
        with self._lock:
            self._cuts.write()

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Do what an entry says was done; see `Effects.compare`."""
        added = {kind: name for name, kind in _ADDED.items()}
        number = entry.details.get("number")
        if not isinstance(number, int):
            return False
        if entry.type == "consent-ended":
            known = self._all.get(number)
            if known is None:
                return False
            wish = replace(known, ended=entry.time_ms // 1000)
        elif entry.type == "objection-added":
            openings = [self._audit.opening_of(commitment) for _, commitment in entry.subjects]
            found = [one.value for one in openings if one is not None and one.kind == "patient"]
            if not found:
                return False
            patient_id, _, issuer = found[0].partition("^^^")
            uses = str(entry.details.get("uses", "all"))
            kind = added[entry.type]
            made = entry.time_ms // 1000
            wish = Wish(number, kind, patient_id, issuer, entry.peer, uses, made)
        else:
            return False
        self._take(wish)
        self._keep(connection, wish)
        return True

    def _change(self, wish: Wish, kind: str, *, is_cut: bool) -> None:
        event = Event(
            type=kind,
            actor="operator",
            peer=wish.peer,
            subjects=(("patient", wish.identity),),
            details={"number": wish.number, "uses": wish.uses},
        )
        before = self._all, self._standing
        if not is_cut:
            self._cuts.write()

            def give(connection: sqlite3.Connection) -> None:
                self._take(wish)
                self._keep(connection, wish)

            try:
                self._effects.after_entry(event, give)
            except BaseException:
                self._all, self._standing = before
                raise
            return
        self._take(wish)

        def effect(entry: Callable[[], int]) -> None:
            self._effects.of(entry(), lambda connection: self._keep(connection, wish))

        try:
            self.on_change(wish.patient_id)
        except NodeError as error:
            # It counts all the same, at the next batch of each transfer.
            log.error("what %s ends cannot be looked up: %s", _name(wish), error.message)
        self._written(wish, lambda: self._cuts.make(Cut(_name(wish), event, effect)))

    def _written(self, wish: Wish, write: Callable[[], object]) -> None:
        try:
            write()
        except NodeError as error:
            raise NodeError(
                f"{_name(wish)} counts in this process, but it could not be written:"
                f" {error.message}",
                hint="make room on the disk: a running node then writes it by itself; after a"
                f" restart look with `radmesh {wish.kind} list`",
                code=error.code,
            ) from error

    def _take(self, wish: Wish) -> None:
        everything = {**self._all, wish.number: wish}
        self._all, self._standing = everything, Standing(everything.values())

    def _keep(self, connection: sqlite3.Connection, wish: Wish) -> None:
        connection.execute(
            "INSERT INTO patient_wishes (number, kind, patient_id, issuer, peer, uses, made, ended)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
            " ended=excluded.ended",
            (
                wish.number,
                wish.kind,
                wish.patient_id,
                wish.issuer,
                wish.peer,
                wish.uses,
                wish.made,
                wish.ended,
            ),
        )
        self.in_change(wish.patient_id)


def _name(wish: Wish) -> str:
    return f"{wish.kind} {wish.number}"
