"""Takes storage commitments that others ask for, and reports on them; PS3.4 annex J.

The report goes out on the association on which it was asked, if that stays open; else on one that
the node opens, where the settings say where the caller takes it. What is not taken is tried again,
with growing pauses, for a week.
"""

import logging
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from edges.dimse import commitment
from edges.dimse.commands import Element
from edges.dimse.commitment import Report, Request
from edges.dimse.data_sets import BadDataSet
from edges.dimse.negotiation import EXPLICIT, IMPLICIT, Accepted
from node.blocking import in_thread
from node.edges.commitment_requests import CommitmentRequests, OpenRequest, TransactionTaken
from node.edges.dimse_client import Callee, associated
from node.edges.dimse_operation import Lost, Operation
from node.edges.dimse_settings import Caller, DimseSettings
from node.edges.tls import tls_to_call
from node.errors import ExitCode, NodeError
from node.images.arrivals import Arrivals

log = logging.getLogger("radmesh.commitment")

SETTLE_SECONDS = 1.0
"""Most who ask release the association at once. After so long it is meant to stay."""

FIRST_PAUSE, LONGEST_PAUSE = 15.0, 3600.0
"""Pause after a report could not be given; it doubles each time."""

LOOK_SECONDS = 3600.0
"""Time between two looks for what is given up."""

# Statuses, PS3.7 annex C.
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
INVALID_ARGUMENT = 0x0115
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213

NOWHERE = "the settings do not say where it takes reports (report_to)"

_MORE: dict[Element, int | str] = {
    Element.AFFECTED_SOP_CLASS_UID: commitment.MODEL,
    Element.AFFECTED_SOP_INSTANCE_UID: commitment.INSTANCE,
    Element.ACTION_TYPE_ID: commitment.REQUEST,
}

Send = Callable[[Accepted, dict[Element, int | str], bytes], Awaitable[int]]


class CommitmentReports:
    """Answers those who ask, and reports to them.

    Args:
        requests: the transactions.
        arrivals: knows what waits to be packed.
        settings: who may call, and where reports go.

    Attributes:
        given: how many reports were taken since the start.
    """

    def __init__(
        self,
        requests: CommitmentRequests,
        arrivals: Arrivals,
        settings: DimseSettings,
    ) -> None:
        self._requests = requests
        self._arrivals = arrivals
        self._settings = settings
        self._callers = settings.callers
        # Transactions that somebody is reporting: an association, or the task of their caller.
        self._held: set[tuple[str, str]] = set()
        self._changed = {title: trio.Event() for title in settings.callers}
        # Who takes no report on an association of its own: waiting for an answer ends that.
        self._called_only: set[str] = set()
        # What is to be reported on an association, by the identity of its wire.
        self._queues: dict[int, deque[OpenRequest]] = {}
        # Large data sets cost memory while they are read.
        self._limiter = trio.CapacityLimiter(2)
        # How often a report was begun: one by which a connection breaks lets the others go first.
        self._begun: Counter[tuple[str, str]] = Counter()
        self.given = 0

    # --- requests ----------------------------------------------------------------------

    async def serve(self, operation: Operation) -> None:
        """Take a request; report on the same association if it stays open.

        Raises:
            Lost: the association is over; the report goes another way.
        """
        status, comment, one = await self._take(operation)
        try:
            await operation.answer(status, comment=comment, more=_MORE)
            if one is not None and operation.caller.ae_title not in self._called_only:
                await self._report_here(operation, one)
        finally:
            self._wake(operation.caller.ae_title)

    async def _take(self, operation: Operation) -> tuple[int, str, OpenRequest | None]:
        command, caller = operation.command, operation.caller.ae_title
        if command.text(Element.REQUESTED_SOP_INSTANCE_UID) != commitment.INSTANCE:
            return NO_SUCH_INSTANCE, "", None
        if command.values.get(Element.ACTION_TYPE_ID) != commitment.REQUEST:
            return NO_SUCH_ACTION, "", None
        if operation.is_too_long:
            return RESOURCE_LIMITATION, "too many instances in one transaction", None
        try:
            request: Request = await in_thread(
                commitment.decode_request,
                bytes(operation.data),
                operation.context.transfer_syntax,
                limiter=self._limiter,
            )
            operation.data.clear()
            one = await in_thread(
                self._requests.take, caller, operation.door.name, request, limiter=self._limiter
            )
        except BadDataSet as error:
            return INVALID_ARGUMENT, str(error), None
        except TransactionTaken:
            return INVALID_ARGUMENT, "this transaction UID is in use", None
        except NodeError as error:
            log.error("a storage commitment of %s is not taken: %s", caller, error.message)
            if error.code is ExitCode.BUSY:
                return RESOURCE_LIMITATION, "too many transactions are open", None
            return PROCESSING_FAILURE, "cannot be taken now: ask again later", None
        return SUCCESS, "", one

    async def _report_here(self, operation: Operation, one: OpenRequest) -> None:
        """Report on the same association; what comes on it meanwhile is left to this task.

        So no more than one operation waits there, and answers and images have their turns.
        """
        if not self._hold(one):
            return
        wire = id(operation.wire)
        if wire in self._queues:
            self._queues[wire].append(one)
            return
        queue = self._queues[wire] = deque([one])
        try:
            with trio.move_on_after(SETTLE_SECONDS):
                await operation.cancelled.wait()
            await self._report_queued(operation, queue)
        except Lost:
            if operation.caller.report_to is not None:
                self._called_only.add(one.caller)
            raise
        except NodeError as error:
            log.error("a storage commitment of %s waits: %s", one.caller, error.message)
        finally:
            del self._queues[wire]
            for left in queue:
                self._held.discard(_key(left))

    async def _report_queued(self, operation: Operation, queue: deque[OpenRequest]) -> None:
        async def send(context: Accepted, values: dict[Element, int | str], data: bytes) -> int:
            return await operation.wire.request(context, values, _whole(data))

        # Where there is no other way, what was left over goes here, too.
        is_looked_for = operation.caller.report_to is not None
        while not operation.is_cancelled:
            if not queue and not is_looked_for:
                is_looked_for = True
                some = await in_thread(self._requests.open, operation.caller.ae_title)
                queue += filter(self._hold, some)
            if not queue:
                return
            await self._report(queue[0], operation.context, send)
            self._held.discard(_key(queue.popleft()))

    # --- reports -----------------------------------------------------------------------

    async def run(self) -> None:
        """Report to those who are called for it, and give up what is old, until cancelled."""
        async with trio.open_nursery() as nursery:
            for caller in self._callers.values():
                if caller.report_to is not None:
                    nursery.start_soon(self._keep_reporting, caller)
            while True:
                try:
                    await in_thread(self._requests.give_up)
                except NodeError as error:
                    log.error("storage commitments cannot be looked at now: %s", error.message)
                await trio.sleep(LOOK_SECONDS)

    async def _keep_reporting(self, caller: Caller) -> None:
        pause = FIRST_PAUSE
        while True:
            changed = self._changed[caller.ae_title]
            try:
                is_done = await self._report_all(caller)
            except NodeError as error:
                log.error("a storage commitment of %s waits: %s", caller.ae_title, error.message)
                is_done = False
            with trio.move_on_after(math.inf if is_done else pause):
                await changed.wait()
            pause = FIRST_PAUSE if is_done else min(2 * pause, LONGEST_PAUSE)

    async def _report_all(self, caller: Caller) -> bool:
        """Report what is open; returns whether all of it was taken."""
        due: dict[str, list[OpenRequest]] = {}
        for one in await in_thread(self._requests.open, caller.ae_title):
            if _key(one) not in self._held:
                due.setdefault(one.door, []).append(one)
        is_done = True
        for door, some in due.items():
            some.sort(key=lambda one: self._begun[_key(one)])
            is_done &= await self._report_by_calling(caller, door, some)
        return is_done

    async def _report_by_calling(self, caller: Caller, door: str, some: list[OpenRequest]) -> bool:
        assert caller.report_to is not None
        left = list(some)
        try:
            callee = Callee(
                ae_title=caller.ae_title,
                calling=door,
                host=caller.report_to.host,
                port=caller.report_to.port,
                tls=await in_thread(tls_to_call, self._settings) if caller.report_tls else None,
            )
            async with associated(
                callee,
                [(commitment.MODEL, [EXPLICIT, IMPLICIT])],
                roles={commitment.MODEL: (False, True)},
            ) as calling:
                # Some accept the context and say nothing about the role, and take the report.
                context = calling.context(commitment.MODEL)
                if context is None:
                    raise NodeError(f"{caller.ae_title!a} takes no reports of storage commitment")
                for one in some:
                    if not self._hold(one):
                        left.remove(one)
                        continue
                    try:
                        if await self._report(one, context, calling.ask_once):
                            left.remove(one)
                    finally:
                        self._held.discard(_key(one))
        except NodeError as error:
            for one in left:
                await in_thread(self._requests.not_reported, one, error.message)
        return not left

    async def _report(self, one: OpenRequest, context: Accepted, send: Send) -> bool:
        """Report on one transaction; returns whether that was taken, or is not due any more."""
        self._begun[_key(one)] += 1
        report = await self._judged(one)
        if report is None:
            del self._begun[_key(one)]
            return True
        data = await in_thread(
            commitment.encode_report, report, context.transfer_syntax, limiter=self._limiter
        )
        status = await send(context, commitment.event(report), data)
        if status != SUCCESS:
            why = f"it answers a report with {status:04X}H"
            await in_thread(self._requests.not_reported, one, why)
            return False
        await in_thread(self._requests.reported, one)
        del self._begun[_key(one)]
        self.given += 1
        log.info(
            "reported to %s: %d images are stored here, %d are not",
            one.caller, len(report.stored), len(report.failed),
        )  # fmt: skip
        return True

    async def _judged(self, one: OpenRequest) -> Report | None:
        references = await in_thread(self._requests.references, one, limiter=self._limiter)
        if not references:
            return None
        uids = {each.sop_instance for each in references}
        # In this order: what is packed in between is in the catalog.
        waiting = await self._arrivals.waiting_under(uids)
        return await in_thread(
            self._requests.judge, one, references, waiting, limiter=self._limiter
        )

    def _hold(self, one: OpenRequest) -> bool:
        """Have nobody else report it; whether nobody does already."""
        if _key(one) in self._held:
            return False
        self._held.add(_key(one))
        return True

    def _wake(self, caller: str) -> None:
        self._changed[caller].set()
        self._changed[caller] = trio.Event()


def _key(one: OpenRequest) -> tuple[str, str]:
    return one.caller, one.transaction_uid


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
