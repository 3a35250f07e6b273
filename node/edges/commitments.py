"""What this node asks archives to commit to: are these instances stored there for good?

PS3.4 annex J, as the one who asks. A transaction is on the disk before it is asked. Its report
comes on the same association, or hours later on one that the archive opens, also after a restart;
only the archive that was asked can report. The outcome is an entry and on the disk before the
archive is answered, and whoever wants to know is told at least once.

    transaction = await commitments.ask(callee, study, patients, references)
    commitments.on_outcome = learn          # before `run`; async, takes an `Outcome`
"""

import logging
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from edges.dimse import commitment
from edges.dimse.commands import Element, Field
from edges.dimse.commitment import Reason, Reference, Report, Request
from edges.dimse.data_sets import BadDataSet
from edges.dimse.negotiation import EXPLICIT, IMPLICIT
from node.audit.effects import Effects
from node.blocking import in_thread
from node.clock import Clock
from node.database import Database
from node.edges.dimse_client import Callee, Message, NoAssociation, associated
from node.errors import NodeError
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

SAME_ASSOCIATION_SECONDS = 10.0
"""Time for a report on the association on which it was asked."""

DEFAULT_HOURS = 24
"""Time for a report on any association."""

KEPT_MS = 7 * 24 * 3600 * 1000
"""Time after which nothing is known of a transaction: a report that comes until then counts."""

AGAIN_SECONDS = 60.0
"""Pause after an outcome could not be told, and between looks for what is not reported in time."""

# Statuses, PS3.7 annex C.
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
NO_SUCH_INSTANCE = 0x0112
UNRECOGNIZED_OPERATION = 0x0211

_LASTING = frozenset({NO_SUCH_INSTANCE, 0x0118, 0x0122, 0x0123, 0x0124, UNRECOGNIZED_OPERATION})
"""Statuses by which an archive says that it does not do this at all."""


class NotAsked(NodeError):
    """An archive did not take a transaction: nothing will be reported of it.

    Attributes:
        is_lasting: whether it will be the same until a person changes something: the archive does
            no storage commitment, say.
    """

    def __init__(self, message: str, *, hint: str = "", is_lasting: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.is_lasting = is_lasting


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
    """

    transaction: str
    archive: str
    study: str
    stored: tuple[Reference, ...] = ()
    failed: Mapping[Reference, int] = field(default_factory=dict)
    is_reported: bool = True


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


@dataclass(eq=False)
class _Asking:
    """A transaction that `ask` has in hand.

    Attributes:
        scope: around the wait for its report.
        is_spoken_to: whether the archive asks something on the same association: then the wait is
            not broken off, as it has to be answered.
        is_reported: whether its report has come.
    """

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_spoken_to: bool = False
    is_reported: bool = False


async def _nobody(outcome: Outcome) -> None:
    pass


class Commitments:
    """The transactions of this node.

    Args:
        database: holds them.
        effects: writes entries and what follows from them.
        clock: dates them.
        hours: after so many a transaction is not waited for any more.

    Attributes:
        on_outcome: called with each outcome until it returns without a `NodeError`; it may be
            called again with the same one after a kill.
    """

    def __init__(
        self, database: Database, effects: Effects, clock: Clock, hours: int = DEFAULT_HOURS
    ) -> None:
        self._database = database
        self._effects = effects
        self._clock = clock
        self._waited_ms = hours * 3600 * 1000
        self._lock = threading.Lock()
        self._changed = trio.Event()
        self._asking: dict[str, _Asking] = {}
        self.on_outcome: Callable[[Outcome], Awaitable[None]] = _nobody

    # --- asking ------------------------------------------------------------------------

    async def ask(
        self,
        callee: Callee,
        study: str,
        patients: tuple[str, ...],
        references: Sequence[Reference],
    ) -> str:
        """Ask an archive whether it has stored instances of a study for good.

        Waits some seconds for the report on the same association; the outcome is told by
        `on_outcome` whenever it comes.

        Args:
            callee: the archive.
            study: Study Instance UID, for the log.
            patients: its patients, likewise.
            references: at most `edges.dimse.commitment.REFERENCES`.

        Returns:
            The transaction UID.

        Raises:
            NotAsked: the archive cannot be reached, or does not take it; ask again, with a new
                transaction.
            NodeError: the disk is full or failing, or the log takes no entry.
        """
        request = Request(f"2.25.{secrets.randbits(128)}", tuple(dict.fromkeys(references)))
        transaction = request.transaction
        asking = self._asking[transaction] = _Asking()
        try:
            entry = await in_thread(self._put_down, callee.ae_title, study, patients, request)
            try:
                await self._ask(callee, request, asking)
            except NotAsked as error:
                if not asking.is_reported:
                    await in_thread(self._take_back, transaction, entry, error.message)
                    raise
        finally:
            del self._asking[transaction]
        return transaction

    def _put_down(
        self, archive: str, study: str, patients: tuple[str, ...], request: Request
    ) -> int:
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

    async def _ask(self, callee: Callee, request: Request, asking: _Asking) -> None:
        async def on_request(message: Message) -> int:
            asking.is_spoken_to = True
            return await self.heard(callee.ae_title, message)

        is_asked = False
        try:
            async with associated(
                callee, [(commitment.MODEL, [EXPLICIT, IMPLICIT])], on_request=on_request
            ) as calling:
                context = calling.context(commitment.MODEL)
                if context is None:
                    raise NotAsked(
                        f"{callee.ae_title!a} does no storage commitment", is_lasting=True
                    )
                data = await in_thread(commitment.encode_request, request, context.transfer_syntax)
                status = await calling.ask_once(context, commitment.action(), data)
                if status != SUCCESS:
                    raise NotAsked(
                        f"{callee.ae_title!a} answers a storage commitment with {status:04X}H",
                        is_lasting=status in _LASTING,
                    )
                is_asked = True
                await in_thread(self._is_asked, request.transaction)
                with asking.scope:
                    await calling.wait_for_requests(
                        SAME_ASSOCIATION_SECONDS, lambda: asking.is_reported
                    )
        except NoAssociation as error:
            # When it is asked, how the association ends does not matter.
            if not is_asked:
                raise NotAsked(
                    error.message, hint=error.hint, is_lasting=error.is_lasting
                ) from error

    def _is_asked(self, transaction: str) -> None:
        self._write(
            "UPDATE commitments SET state = ? WHERE transaction_uid = ? AND state = ?",
            (ASKED, transaction, ASKING),
        )

    def _take_back(self, transaction: str, entry: int, why: str) -> None:
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

    # --- reports -----------------------------------------------------------------------

    async def heard(self, archive: str, message: Message) -> int:
        """Take a report from a system that calls, or was called; gives the status of the answer.

        Args:
            archive: AE title of who reports, which was checked.
            message: the report.
        """
        command = message.command
        if command.field != Field.N_EVENT_REPORT:
            return UNRECOGNIZED_OPERATION
        if command.text(Element.AFFECTED_SOP_INSTANCE_UID) != commitment.INSTANCE:
            return NO_SUCH_INSTANCE
        kind = command.values.get(Element.EVENT_TYPE_ID)
        if kind not in (commitment.ALL_STORED, commitment.SOME_FAILED):
            return NO_SUCH_EVENT
        try:
            report = await in_thread(
                commitment.decode_report, message.data_set, message.context.transfer_syntax
            )
            status = await in_thread(self._take, archive, report)
        except BadDataSet as error:
            log.warning("%a sent a report that cannot be read: %s", archive, error)
            return INVALID_ARGUMENT
        except NodeError as error:
            log.error("a report of %a cannot be taken now: %s", archive, error.message)
            return PROCESSING_FAILURE
        if status == SUCCESS:
            asking = self._asking.get(report.transaction)
            if asking is not None:
                asking.is_reported = True
                if not asking.is_spoken_to:
                    asking.scope.cancel()
            self._wake()
        return status

    def _take(self, archive: str, report: Report) -> int:
        with self._lock:
            row = self._database.query_one(
                "SELECT archive, study_uid, state, request FROM commitments"
                " WHERE transaction_uid = ?",
                (report.transaction,),
            )
            if row is None or row["archive"] != archive:
                # The same answer for both: who guesses learns nothing.
                log.warning("%a reports about what it was not asked", archive)
                return INVALID_ARGUMENT
            if row["state"] == REPORTED:
                return SUCCESS
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
            return SUCCESS

    def _settle(self, event: Event, transaction: str, state: str, outcome: Report | None) -> None:
        report = b"" if outcome is None else commitment.encode_report(outcome, EXPLICIT)
        self._effects.after_entry(
            event,
            lambda connection: connection.execute(
                "UPDATE commitments SET state = ?, told = 0, report = ? WHERE transaction_uid = ?",
                (state, report, transaction),
            ),
        )

    # --- outcomes ----------------------------------------------------------------------

    async def run(self) -> None:
        """Tell outcomes, and give up what is not reported in time, until cancelled."""
        while True:
            changed = self._changed
            try:
                await in_thread(self._give_up)
                for one in await in_thread(self.open):
                    if one.state in (REPORTED, NOT_REPORTED) and not one.told:
                        await self._tell(one)
            except NodeError as error:
                log.error("storage commitments cannot be looked at now: %s", error.message)
            with trio.move_on_after(AGAIN_SECONDS):
                await changed.wait()

    async def _tell(self, one: Asked) -> None:
        try:
            await self.on_outcome(await in_thread(self._outcome, one))
            await in_thread(self._is_told, one)
        except NodeError as error:
            log.error("what %a has stored cannot be noted now: %s", one.archive, error.message)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def open(self) -> list[Asked]:
        """The transactions that are known, oldest first."""
        rows = self._database.query(
            "SELECT transaction_uid, archive, study_uid, since, state, told, instances"
            " FROM commitments ORDER BY since, transaction_uid"
        )
        return [Asked(*row) for row in rows]

    def _outcome(self, one: Asked) -> Outcome:
        row = self._database.query_one(
            "SELECT report FROM commitments WHERE transaction_uid = ?", (one.transaction_uid,)
        )
        if row is None or not row["report"]:
            return Outcome(one.transaction_uid, one.archive, one.study_uid, is_reported=False)
        report = commitment.decode_report(bytes(row["report"]), EXPLICIT)
        return Outcome(
            one.transaction_uid, one.archive, one.study_uid, report.stored, report.failed
        )

    def _is_told(self, one: Asked) -> None:
        # Unless another report came meanwhile.
        self._write(
            "UPDATE commitments SET told = 1 WHERE transaction_uid = ? AND state = ?",
            (one.transaction_uid, one.state),
        )

    def _give_up(self) -> None:
        now = self._clock.now_ms()
        with self._lock:
            for one in self.open():
                is_left = one.state == ASKING and one.transaction_uid not in self._asking
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

    def _write(self, sql: str, values: tuple[str | int, ...]) -> None:
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
