"""What others ask us to commit to: are these instances stored here for good? PS3.4 annex J.

A transaction is on the disk before it is answered, and stays there until its report was taken or
is given up. It is judged anew for each try to report: what was discarded since is not stored. Each
judgement is an entry before it leaves, unless the log has the same already. Synchronous and
thread-safe.
"""

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edges.dimse.commitment import (
    Reason,
    Reference,
    Report,
    Request,
    decode_request,
    encode_report,
    encode_request,
)
from edges.dimse.negotiation import EXPLICIT
from node.catalog.catalog import Catalog
from node.catalog.discards import Bars
from node.catalog.held import Held, held_under
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from node.images.arrivals import Waiting
from protocol.log.entry import Event

log = logging.getLogger("radmesh.commitment")

COMMITMENT_REQUESTS_SCHEMA = """
CREATE TABLE IF NOT EXISTS commitment_requests (
    caller TEXT NOT NULL,               -- AE title of who asks
    transaction_uid TEXT NOT NULL,      -- of its making
    door TEXT NOT NULL,                 -- AE title of ours that it asked
    since INTEGER NOT NULL,             -- milliseconds since the epoch, UTC
    instances INTEGER NOT NULL,
    request BLOB NOT NULL,              -- its data set, Explicit VR
    studies TEXT NOT NULL,              -- UIDs of studies that are here, as JSON; at the last try
    told BLOB NOT NULL,                 -- digest of the report that the log has; empty before
    why TEXT NOT NULL,                  -- why it was not reported at the last try
    PRIMARY KEY (caller, transaction_uid)
) STRICT, WITHOUT ROWID;
"""

OPEN_TRANSACTIONS = 500
"""Most transactions of one caller that wait for their report."""

OPEN_INSTANCES = 500_000
"""Most instances of all of them."""

TRIED_MS = 7 * 24 * 3600 * 1000
"""After so long a report is given up."""

_NAMED_STUDIES = 32
"""Most studies that one entry names."""

_COLUMNS = "caller, transaction_uid, door, since, instances, why"


class TransactionTaken(Exception):
    """The same caller has asked for other instances under the same transaction UID."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A transaction that waits for its report. Columns as in the table."""

    caller: str
    transaction_uid: str
    door: str
    since: int
    instances: int
    why: str


class CommitmentRequests:
    """The transactions of those who ask this node.

    Args:
        database: holds them, and the catalog.
        catalog: the studies of this node.
        append: writes one audit entry durably.
        clock: dates them.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        append: Callable[[Event], int],
        clock: Clock,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._append = append
        self._clock = clock
        self._lock = threading.Lock()

    def take(self, caller: str, door: str, request: Request) -> OpenRequest:
        """Put a transaction down, durably; the same one again changes nothing.

        Raises:
            TransactionTaken: the caller has another transaction open under this UID.
            NodeError: the caller has too much open, or the disk is full or failing.
        """
        written = encode_request(request, EXPLICIT)
        values = (caller, request.transaction, door, self._clock.now_ms(), len(request.references))

        def put_down(connection: sqlite3.Connection) -> None:
            found = connection.execute(
                "SELECT request FROM commitment_requests WHERE caller = ? AND transaction_uid = ?",
                values[:2],
            ).fetchone()
            if found is not None:
                if bytes(found["request"]) != written:
                    raise TransactionTaken
                return
            row = connection.execute(
                "SELECT count(*) AS transactions, coalesce(sum(instances), 0) AS instances"
                " FROM commitment_requests WHERE caller = ?",
                (caller,),
            ).fetchone()
            if (
                row["transactions"] >= OPEN_TRANSACTIONS
                or row["instances"] + len(request.references) > OPEN_INSTANCES
            ):
                raise NodeError(
                    f"{row['transactions']} transactions of {caller} wait for their reports",
                    hint='can it be called? see dimse.callers."AE_TITLE".report_to',
                    code=ExitCode.BUSY,
                )
            connection.execute(
                "INSERT INTO commitment_requests VALUES (?, ?, ?, ?, ?, ?, '[]', ?, '')",
                (*values, written, b""),
            )

        self._database.transact(put_down)
        return OpenRequest(caller, request.transaction, door, *values[3:], why="")

    def open(self, caller: str = "") -> list[OpenRequest]:
        """The transactions that wait for their reports, of one caller or of all, oldest first."""
        where = "WHERE caller = ?" if caller else ""
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM commitment_requests {where}"
            " ORDER BY since, caller, transaction_uid",
            (caller,) if caller else (),
        )
        return [OpenRequest(*row) for row in rows]

    def references(self, one: OpenRequest) -> tuple[Reference, ...]:
        """The instances of a transaction; none if it is not open any more."""
        row = self._database.query_one(
            "SELECT request FROM commitment_requests WHERE caller = ? AND transaction_uid = ?",
            (one.caller, one.transaction_uid),
        )
        return () if row is None else decode_request(bytes(row["request"]), EXPLICIT).references

    def judge(
        self, one: OpenRequest, references: Sequence[Reference], waiting: Iterable[Waiting]
    ) -> Report | None:
        """What is stored here for good, and what is not; the log has it on return.

        Args:
            one: the transaction.
            references: its instances.
            waiting: those of them that waited to be packed, looked for right before.

        Returns:
            The report; None when the request is gone meanwhile: nothing may leave then.

        Raises:
            NodeError: the log or the database cannot be read or written.
        """
        with self._lock:
            held = _Here(self._catalog, held_under(self._database, _uids(references)), waiting)
            failed = {each: why for each in references if (why := held.why_not(each)) is not None}
            stored = tuple(each for each in references if each not in failed)
            report = Report(one.transaction_uid, stored, failed)
            return report if self._tell(one, report, held.studies(stored)) else None

    def _tell(self, one: OpenRequest, report: Report, studies: Sequence[str]) -> bool:
        digest = hashlib.sha256(encode_report(report, EXPLICIT)).digest()
        key = (one.caller, one.transaction_uid)
        row = self._database.query_one(
            "SELECT told FROM commitment_requests WHERE caller = ? AND transaction_uid = ?", key
        )
        if row is None:
            return False
        if bytes(row["told"]) == digest:
            return True
        self._append(
            Event(
                type="commitment-given",
                outcome="failed" if report.failed and not report.stored else "success",
                subjects=tuple(("study", study) for study in studies[:_NAMED_STUDIES]),
                details={
                    "system": one.caller,
                    "transaction": hashlib.sha256(one.transaction_uid.encode()).hexdigest(),
                    "stored": len(report.stored),
                    "failed": len(report.failed),
                    "studies": len(studies),
                },
            )
        )
        self._write(
            "UPDATE commitment_requests SET told = ?, studies = ?"
            " WHERE caller = ? AND transaction_uid = ?",
            (digest, json.dumps(studies), *key),
        )
        return True

    def reported(self, one: OpenRequest) -> None:
        """Its report was taken: it is over."""
        self._write(
            "DELETE FROM commitment_requests WHERE caller = ? AND transaction_uid = ?",
            (one.caller, one.transaction_uid),
        )

    def not_reported(self, one: OpenRequest, why: str) -> None:
        """Keep why its report was not taken."""
        if why != one.why:
            log.warning("a storage commitment of %s is not reported: %s", one.caller, why)
            self._write(
                "UPDATE commitment_requests SET why = ? WHERE caller = ? AND transaction_uid = ?",
                (why, one.caller, one.transaction_uid),
            )

    def give_up(self) -> None:
        """Delete what could not be reported for a week."""
        for one in self.open():
            if one.since + TRIED_MS <= self._clock.now_ms():
                log.error("a storage commitment of %s is given up: %s", one.caller, one.why)
                self.reported(one)

    def forget(self, studies: Iterable[str]) -> None:
        """Delete the transactions about studies (UIDs), as openings of them are erased."""
        wanted = set(studies)
        uids = {uid for study in wanted for uid in self._catalog.held_instances(study)}
        for one in self.open():
            row = self._database.query_one(
                "SELECT studies FROM commitment_requests WHERE caller = ? AND transaction_uid = ?",
                (one.caller, one.transaction_uid),
            )
            named = set() if row is None else set(json.loads(row["studies"]))
            if not named.isdisjoint(wanted) or not uids.isdisjoint(_uids(self.references(one))):
                self.reported(one)

    def _write(self, sql: str, values: tuple[str | bytes, ...]) -> None:
        self._database.transact(lambda connection: connection.execute(sql, values))


class _Here:
    """What is here under the UIDs of a transaction."""

    def __init__(self, catalog: Catalog, held: Iterable[Held], waiting: Iterable[Waiting]) -> None:
        self._catalog = catalog
        self._held: dict[str, list[Held]] = {}
        self._waiting: dict[str, list[Waiting]] = {}
        self._bars: dict[str, Bars] = {}
        for one in held:
            # What only other facilities sent is not what this caller asks for.
            if not one.is_foreign:
                self._held.setdefault(one.sop_uid, []).append(one)
        for each in waiting:
            self._waiting.setdefault(each.header.sop_instance_uid, []).append(each)

    def why_not(self, reference: Reference) -> int | None:
        """Why an instance is not stored for good, as a failure reason; None if it is."""
        uid = reference.sop_instance
        held, waiting = self._held.get(uid, []), self._waiting.get(uid, [])
        if not held and not waiting:
            return Reason.NO_SUCH_OBJECT
        classes = {one.sop_class_uid for one in held}
        classes |= {one.header.sop_class_uid for one in waiting}
        if classes != {reference.sop_class}:
            return Reason.CLASS_CONFLICT
        # Other bytes under the UID are or will be set aside: whose is which is a person's matter.
        digests = {one.digest for one in held} | {one.digest for one in waiting}
        if len(digests) > 1 or any(one.is_disputed for one in held):
            return Reason.PROCESSING_FAILURE
        if any(one.trouble or self._is_barred(one) for one in waiting):
            return Reason.PROCESSING_FAILURE
        return None

    def _is_barred(self, one: Waiting) -> bool:
        """Whether it was discarded here, and will be set aside for that."""
        study = one.header.study.study_uid
        if study not in self._bars:
            self._bars[study] = self._catalog.bars(study)
        return bool(
            self._bars[study].code(one.header.series.series_uid, one.header.sop_instance_uid)
        )

    def studies(self, references: Iterable[Reference]) -> list[str]:
        """The studies (UIDs) of instances, in order."""
        found = set()
        for one in references:
            found |= {each.study_uid for each in self._held.get(one.sop_instance, ())}
            found |= {
                each.header.study.study_uid for each in self._waiting.get(one.sop_instance, ())
            }
        return sorted(found)


def _uids(references: Iterable[Reference]) -> set[str]:
    return {one.sop_instance for one in references}
