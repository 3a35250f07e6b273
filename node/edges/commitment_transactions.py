"""The transactions by which archives are asked what they have stored; on disk. PS3.4 annex J.

`commitments` asks and hears; this module keeps. Each change that says something of images is an
entry first. Synchronous and thread-safe.
"""

import logging
import threading
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from edges.dimse import commitment
from edges.dimse.commitment import Reason, Reference, Report, Request
from edges.dimse.negotiation import EXPLICIT
from node.audit.effects import Effects
from node.clock import Clock
from node.database import Database
from protocol.log.entry import Event, subjects_of

log = logging.getLogger("radmesh.commitment")

COMMITMENTS_SCHEMA = """
CREATE TABLE IF NOT EXISTS commitments (
    transaction_uid TEXT PRIMARY KEY,   -- of our making
    archive TEXT NOT NULL,              -- AE title of who is asked, and alone may report
    study_uid TEXT NOT NULL,
    since INTEGER NOT NULL,             -- milliseconds since the epoch, UTC
    state TEXT NOT NULL,                -- see the words below
    told INTEGER NOT NULL,              -- whether the outcome was told to whoever wants to know
    instances INTEGER NOT NULL,
    request BLOB NOT NULL,              -- its data set, Explicit VR
    report BLOB NOT NULL                -- the outcome likewise; empty before
) STRICT, WITHOUT ROWID;
"""

ASKING, ASKED, REPORTED, NOT_REPORTED = "asking", "asked", "reported", "not reported"
"""States: it is being asked; the archive has taken it; it has reported; it has not, in time."""

DEFAULT_HOURS = 24
"""Time for a report on any association."""

KEPT_MS = 7 * 24 * 3600 * 1000
"""Time after which nothing is known of a transaction: a report that comes until then counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a transaction.

    Attributes:
        transaction: its UID.
        archive: AE title of the archive.
        study: Study Instance UID.
        stored: what is stored there for good.
        failed: what is not, with the reason, PS3.3 section C.14; what the report does not name is
            not stored.
        is_reported: false if the archive has not reported in time; then both are empty, and the
            real outcome may follow within a week.
        asked: when it was asked, milliseconds since the epoch, UTC.
    """

    transaction: str
    archive: str
    study: str
    stored: tuple[Reference, ...] = ()
    failed: Mapping[Reference, int] = field(default_factory=dict)
    is_reported: bool = True
    asked: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """A transaction. Columns as in the table."""

    transaction_uid: str
    archive: str
    study_uid: str
    since: int
    state: str
    told: int
    instances: int

    @property
    def is_open(self) -> bool:
        """Whether its report is waited for."""
        return self.state in (ASKING, ASKED)


class Transactions:
    """The transactions of this node.

    Args:
        database: holds them.
        effects: writes entries and what follows from them.
        clock: dates them.
        hours: after so many a transaction is not waited for any more.
    """

    def __init__(self, database: Database, effects: Effects, clock: Clock, hours: int) -> None:
        self._database = database
        self._effects = effects
        self._clock = clock
        self._waited_ms = hours * 3600 * 1000
        self._lock = threading.Lock()

    def put_down(
        self, archive: str, study: str, patients: tuple[str, ...], request: Request
    ) -> int:
        """Put down what is going to be asked; returns the index of its entry.

        Raises:
            NodeError: the log or the database cannot be written.
        """
        event = Event(
            type="commitment-asked",
            subjects=subjects_of(study, patients),
            details={
                "system": archive,
                "transaction": request.transaction,
                "instances": len(request.references),
            },
        )
        values = (
            request.transaction, archive, study, self._clock.now_ms(), ASKING, 0,
            len(request.references), commitment.encode_request(request, EXPLICIT), b"",
        )  # fmt: skip
        return self._effects.after_entry(
            event,
            lambda connection: connection.execute(
                "INSERT INTO commitments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values
            ),
        )

    def is_asked(self, transaction: str) -> None:
        """The archive has taken it."""
        self._write(
            "UPDATE commitments SET state = ? WHERE transaction_uid = ? AND state = ?",
            (ASKED, transaction, ASKING),
        )

    def take_back(self, transaction: str, entry: int, why: str) -> None:
        """The archive has not taken it: nothing will be reported."""
        self._effects.append(
            Event(
                type="commitment-asked",
                outcome="failed",
                details={"of": entry, "why": why},
            )
        )
        self._write(
            "DELETE FROM commitments WHERE transaction_uid = ? AND state = ?",
            (transaction, ASKING),
        )

    def take(self, archive: str, report: Report) -> bool:
        """Take a report of an archive; a second one changes nothing.

        Returns:
            Whether the archive was asked for this transaction.

        Raises:
            NodeError: the log or the database cannot be written.
        """
        with self._lock:
            row = self._database.query_one(
                "SELECT archive, study_uid, state, request FROM commitments"
                " WHERE transaction_uid = ?",
                (report.transaction,),
            )
            if row is None or row["archive"] != archive:
                # The same answer for both: who guesses learns nothing.
                log.warning("%a reports about what it was not asked", archive)
                return False
            if row["state"] == REPORTED:
                return True
            request = commitment.decode_request(bytes(row["request"]), EXPLICIT)
            outcome = _of_request(request, report)
            event = Event(
                type="commitment-heard",
                outcome="failed" if outcome.failed and not outcome.stored else "success",
                subjects=(("study", str(row["study_uid"])),),
                details={
                    "system": archive,
                    "transaction": report.transaction,
                    "stored": len(outcome.stored),
                    "failed": len(outcome.failed),
                },
            )
            self._settle(event, report.transaction, REPORTED, outcome)
            return True

    def _settle(self, event: Event, transaction: str, state: str, outcome: Report | None) -> None:
        report = b"" if outcome is None else commitment.encode_report(outcome, EXPLICIT)
        self._effects.after_entry(
            event,
            lambda connection: connection.execute(
                "UPDATE commitments SET state = ?, told = 0, report = ? WHERE transaction_uid = ?",
                (state, report, transaction),
            ),
        )

    def open(self) -> list[Asked]:
        """The transactions that are known, oldest first."""
        rows = self._database.query(
            "SELECT transaction_uid, archive, study_uid, since, state, told, instances"
            " FROM commitments ORDER BY since, transaction_uid"
        )
        return [Asked(*row) for row in rows]

    def outcome(self, one: Asked) -> Outcome:
        """The outcome of a transaction that is not open any more."""
        row = self._database.query_one(
            "SELECT report FROM commitments WHERE transaction_uid = ?", (one.transaction_uid,)
        )
        if row is None or not row["report"]:
            return Outcome(
                one.transaction_uid,
                one.archive,
                one.study_uid,
                is_reported=False,
                asked=one.since,
            )
        report = commitment.decode_report(bytes(row["report"]), EXPLICIT)
        return Outcome(
            one.transaction_uid,
            one.archive,
            one.study_uid,
            report.stored,
            report.failed,
            asked=one.since,
        )

    def is_told(self, one: Asked) -> None:
        """Whoever wants to know has noted its outcome."""
        # Unless a report came meanwhile; what was reported needs no data sets any more.
        empty = ", request = ?, report = ?" if one.state == REPORTED else ""
        self._write(
            f"UPDATE commitments SET told = 1{empty} WHERE transaction_uid = ? AND state = ?",
            (*((b"", b"") if empty else ()), one.transaction_uid, one.state),
        )

    def give_up(self, in_hand: Container[str]) -> None:
        """Note what was not reported in time, and forget what is old.

        Args:
            in_hand: the transactions that are just being asked.
        """
        now = self._clock.now_ms()
        with self._lock:
            for one in self.open():
                is_left = one.state == ASKING and one.transaction_uid not in in_hand
                is_late = one.state == ASKED and one.since + self._waited_ms <= now
                if is_left or is_late:
                    log.warning("%a has not reported on %d images", one.archive, one.instances)
                    event = Event(
                        type="commitment-heard",
                        outcome="failed",
                        subjects=(("study", one.study_uid),),
                        details={
                            "system": one.archive,
                            "transaction": one.transaction_uid,
                            "why": NOT_REPORTED,
                        },
                    )
                    self._settle(event, one.transaction_uid, NOT_REPORTED, None)
                elif one.told and one.since + max(KEPT_MS, self._waited_ms) <= now:
                    self._write(
                        "DELETE FROM commitments WHERE transaction_uid = ?",
                        (one.transaction_uid,),
                    )

    def forget(self, studies: Iterable[str]) -> None:
        """Delete what is kept about studies (UIDs), as openings of them are erased."""
        for study in studies:
            self._write("DELETE FROM commitments WHERE study_uid = ?", (study,))

    def _write(self, sql: str, values: tuple[str | int | bytes, ...]) -> None:
        self._database.transact(lambda connection: connection.execute(sql, values))


def _of_request(request: Request, report: Report) -> Report:
    """The outcome for what was asked: what a report does not say to be stored is not."""
    stored = set(report.stored)
    failed = {
        one: report.failed.get(one, Reason.PROCESSING_FAILURE)
        for one in request.references
        if one not in stored
    }
    return Report(
        request.transaction,
        tuple(one for one in request.references if one in stored),
        failed,
    )
