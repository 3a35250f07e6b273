"""Takes storage commitments that others ask for, and reports on them; PS3.4 annex J.

The report goes out on the association on which it was asked, if that stays open; else on one that
the node opens, where the settings say where the caller takes it. What is not taken is tried again,
with growing pauses, for a week.
"""

import contextlib
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import trio

from edges.dimse import commitment
from edges.dimse.commands import Element
from edges.dimse.commitment import Report, Request
from edges.dimse.data_sets import BadDataSet
from edges.dimse.negotiation import EXPLICIT, IMPLICIT, Accepted
from node.blocking import in_thread
from node.edges.commitment_requests import CommitmentRequests, OpenRequest, TransactionTaken
from node.edges.dimse_client import Callee, associated
from node.edges.dimse_operation import Operation
from node.edges.dimse_settings import Caller, DimseSettings
from node.edges.dimse_tls import tls_to_call
from node.errors import ExitCode, NodeError
from node.images.arrivals import Arrivals

log = logging.getLogger("radmesh.commitment")

SETTLE_SECONDS = 1.0
"""Most who ask release the association at once. After so long it is meant to stay."""

WAITING = 4
"""Most requests of one association that wait for that: others of its messages need their turn."""

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
        # How many requests of an association wait for whether it stays open.
        self._waiting: Counter[int] = Counter()
        # Large data sets cost memory while they are read.
        self._limiter = trio.CapacityLimiter(2)
        self.given = 0

    # --- requests ----------------------------------------------------------------------

    async def serve(self, operation: Operation) -> None:
        """Take a request; report on the same association if it stays open.

        Raises:
            Lost: the association is over; the report goes another way.
        """
        status, comment, one = await self._take(operation)
        try:
            if one is None:
                await operation.answer(status, comment=comment, more=_MORE)
                return
            with self._holding(one) as is_ours:
                await operation.answer(status, more=_MORE)
                if is_ours and await self._stays_open(operation):
                    await self._report_here(operation, one)
        finally:
            self._wake(operation.caller.ae_title)

    async def _stays_open(self, operation: Operation) -> bool:
        """Wait for whether the other side keeps the association open."""
        wire = id(operation.wire)
        if self._waiting[wire] >= WAITING:
            return False
        self._waiting[wire] += 1
        try:
            with trio.move_on_after(SETTLE_SECONDS):
                await operation.cancelled.wait()
        finally:
            self._waiting[wire] -= 1
            if not self._waiting[wire]:
                del self._waiting[wire]
        return not operation.is_cancelled

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
        async def send(context: Accepted, values: dict[Element, int | str], data: bytes) -> int:
            return await operation.wire.request(context, values, _whole(data))

        try:
            await self._report(one, operation.context, send)
            if operation.caller.report_to is None:
                # There is no other way for what was left over.
                for other in await in_thread(self._requests.open, one.caller):
                    with self._holding(other) as is_ours:
                        if is_ours:
                            await self._report(other, operation.context, send)
        except NodeError as error:
            log.error("a storage commitment of %s waits: %s", one.caller, error.message)

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
                    with self._holding(one) as is_ours:
                        if not is_ours or await self._report(one, context, calling.ask_once):
                            left.remove(one)
        except NodeError as error:
            for one in left:
                await in_thread(self._requests.not_reported, one, error.message)
        return not left

    async def _report(self, one: OpenRequest, context: Accepted, send: Send) -> bool:
        """Report on one transaction; returns whether that was taken, or is not due any more."""
        report = await self._judged(one)
        if report is None:
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

    @contextlib.contextmanager
    def _holding(self, one: OpenRequest) -> Iterator[bool]:
        """Nobody else reports it meanwhile; gives false if somebody does."""
        key = _key(one)
        if key in self._held:
            yield False
            return
        self._held.add(key)
        try:
            yield True
        finally:
            self._held.discard(key)

    def _wake(self, caller: str) -> None:
        self._changed[caller].set()
        self._changed[caller] = trio.Event()


def _key(one: OpenRequest) -> tuple[str, str]:
    return one.caller, one.transaction_uid


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
