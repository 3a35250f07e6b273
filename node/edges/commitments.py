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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from edges.dimse import commitment
from edges.dimse.commands import Element, Field
from edges.dimse.commitment import Reference, Request
from edges.dimse.data_sets import BadDataSet
from edges.dimse.negotiation import EXPLICIT, IMPLICIT
from node.audit.effects import Effects
from node.blocking import in_thread
from node.clock import Clock
from node.database import Database
from node.edges.commitment_transactions import (
    DEFAULT_HOURS,
    NOT_REPORTED,
    REPORTED,
    Asked,
    Outcome,
    Transactions,
)
from node.edges.dimse_client import Callee, Message, NoAssociation, associated
from node.errors import ExitCode, NodeError

log = logging.getLogger("radmesh.commitment")

SAME_ASSOCIATION_SECONDS = 10.0
"""Time for a report on the association on which it was asked."""

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

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        is_lasting: bool = False,
        code: ExitCode = ExitCode.FAILED,
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.is_lasting = is_lasting


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
        kept: the transactions on disk.
        on_outcome: called with each outcome until it returns without a `NodeError`; it may be
            called again with the same one after a kill.
    """

    def __init__(
        self, database: Database, effects: Effects, clock: Clock, hours: int = DEFAULT_HOURS
    ) -> None:
        self.kept = Transactions(database, effects, clock, hours)
        self._changed = trio.Event()
        self._asking: dict[str, _Asking] = {}
        # Large data sets cost memory while they are read.
        self._limiter = trio.CapacityLimiter(2)
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
            references: 1 to `edges.dimse.commitment.REFERENCES`; more are several transactions.

        Returns:
            The transaction UID.

        Raises:
            NotAsked: the archive cannot be reached, or does not take it; ask again, with a new
                transaction.
            NodeError: the disk is full or failing, or the log takes no entry.
        """
        request = Request(f"2.25.{secrets.randbits(128)}", tuple(dict.fromkeys(references)))
        assert 0 < len(request.references) <= commitment.REFERENCES
        transaction = request.transaction
        asking = self._asking[transaction] = _Asking()
        try:
            entry = await in_thread(self.kept.put_down, callee.ae_title, study, patients, request)
            try:
                await self._ask(callee, request, asking)
            except NotAsked as error:
                if not asking.is_reported:
                    await in_thread(self.kept.take_back, transaction, entry, error.message)
                    raise
        finally:
            del self._asking[transaction]
        return transaction

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
                await in_thread(self.kept.is_asked, request.transaction)
                with asking.scope:
                    await calling.wait_for_requests(
                        SAME_ASSOCIATION_SECONDS, lambda: asking.is_reported
                    )
        except NoAssociation as error:
            # When it is asked, how the association ends does not matter.
            if not is_asked:
                raise NotAsked(
                    error.message,
                    hint=error.hint,
                    is_lasting=error.is_lasting,
                    code=error.code,
                ) from error

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
                commitment.decode_report,
                message.data_set,
                message.context.transfer_syntax,
                limiter=self._limiter,
            )
            is_ours = await in_thread(self.kept.take, archive, report, limiter=self._limiter)
        except BadDataSet as error:
            log.warning("%a sent a report that cannot be read: %s", archive, error)
            return INVALID_ARGUMENT
        except NodeError as error:
            log.error("a report of %a cannot be taken now: %s", archive, error.message)
            return PROCESSING_FAILURE
        if not is_ours:
            return INVALID_ARGUMENT
        asking = self._asking.get(report.transaction)
        if asking is not None:
            asking.is_reported = True
            if not asking.is_spoken_to:
                asking.scope.cancel()
        self._wake()
        return SUCCESS

    # --- outcomes ----------------------------------------------------------------------

    async def run(self) -> None:
        """Tell outcomes, and give up what is not reported in time, until cancelled."""
        while True:
            changed = self._changed
            try:
                await in_thread(self.kept.give_up, self._asking)
                for one in await in_thread(self.kept.open):
                    if one.state in (REPORTED, NOT_REPORTED) and not one.told:
                        await self._tell(one)
            except NodeError as error:
                log.error("storage commitments cannot be looked at now: %s", error.message)
            with trio.move_on_after(AGAIN_SECONDS):
                await changed.wait()

    async def _tell(self, one: Asked) -> None:
        try:
            await self.on_outcome(await in_thread(self.kept.outcome, one))
            await in_thread(self.kept.is_told, one)
        except NodeError as error:
            log.error("what %a has stored cannot be noted now: %s", one.archive, error.message)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
