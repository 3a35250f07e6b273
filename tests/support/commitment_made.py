"""Who asks for storage commitment and who reports on it, in tests: ours, and pynetdicom."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from dimse_made import LOOPBACK, data_set
from facilities import free_port
from pydicom.dataset import Dataset

from edges.dimse import commitment
from edges.dimse.commands import Element, Field
from edges.dimse.commitment import Reference, Report, Request
from edges.dimse.negotiation import EXPLICIT
from node.edges.dimse_client import Callee, Calling, Message, associated

Reported = tuple[int, str, list[str], dict[str, int]]
"""Event type, transaction, UIDs that are stored, and reasons of those that failed."""


def callee(port: int, *, calling: str = "CT1", called: str = "RADMESH") -> Callee:
    return Callee(ae_title=called, calling=calling, host=LOOPBACK, port=port)


def reference(instance: Dataset) -> Reference:
    return Reference(instance.SOPClassUID, instance.SOPInstanceUID)


async def store(port: int, *instances: Dataset, named: str = "") -> list[int]:
    """Send images; returns the statuses of the answers.

    Args:
        port: of a node.
        instances: of one SOP class.
        named: the SOP Instance UID under which they are sent; "" for their own.
    """
    found = []
    if not instances:
        return []
    sop_class = instances[0].SOPClassUID
    async with associated(callee(port), [(sop_class, [EXPLICIT])]) as calling:
        for one in instances:
            values: dict[Element, int | str] = {
                Element.COMMAND_FIELD: Field.C_STORE,
                Element.AFFECTED_SOP_CLASS_UID: sop_class,
                Element.AFFECTED_SOP_INSTANCE_UID: named or one.SOPInstanceUID,
                Element.PRIORITY: 0,
            }
            found.append(await calling.ask_once(calling.contexts[0], values, data_set(one)))
    return found


def as_reported(kind: int, report: Report) -> Reported:
    failed = {one.sop_instance: int(why) for one, why in report.failed.items()}
    return kind, report.transaction, [one.sop_instance for one in report.stored], failed


@dataclass
class Asker:
    """Who has asked for commitment over an association that stays open.

    Attributes:
        calling: the association.
        reported: the reports that came on it.
        answer: the status by which they are answered.
    """

    reported: list[Reported] = field(default_factory=list)
    answer: int = 0
    calling: Calling | None = None

    async def on_request(self, message: Message) -> int:
        assert message.command.field == Field.N_EVENT_REPORT
        report = commitment.decode_report(message.data_set, message.context.transfer_syntax)
        self.reported.append(as_reported(message.command.number(Element.EVENT_TYPE_ID), report))
        return self.answer

    async def ask(
        self,
        transaction: str,
        references: Sequence[Reference],
        *,
        data: bytes | None = None,
        **changed: int | str,
    ) -> int:
        """Ask; returns the status of the answer."""
        assert self.calling is not None
        context = self.calling.context(commitment.MODEL)
        assert context is not None
        if data is None:
            data = commitment.encode_request(
                Request(transaction, tuple(references)), context.transfer_syntax
            )
        values = commitment.action() | {Element[name]: value for name, value in changed.items()}
        return await self.calling.ask_once(context, values, data)

    async def hear(self, count: int = 1, *, seconds: float = 10) -> list[Reported]:
        """Wait for reports on the same association."""
        assert self.calling is not None
        await self.calling.wait_for_requests(seconds, lambda: len(self.reported) >= count)
        return self.reported


@contextlib.asynccontextmanager
async def asking(scp: Callee, *, syntax: str = EXPLICIT, answer: int = 0) -> AsyncIterator[Asker]:
    """An association on which to ask for commitment."""
    asker = Asker(answer=answer)
    async with associated(
        scp, [(commitment.MODEL, [syntax])], on_request=asker.on_request
    ) as asker.calling:
        yield asker


@dataclass
class Peer:
    """Somebody with pynetdicom who takes reports, and answers requests.

    Attributes:
        port: where.
        reported: reports that came.
        asked: requests that came: transaction, and UIDs.
        status: by which reports are answered.
        action_status: by which requests are answered.
        callers: AE titles of who reported.
        aborts: transactions whose reports end the association.
    """

    port: int
    reported: list[Reported] = field(default_factory=list)
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    status: int = 0
    action_status: int = 0
    callers: list[str] = field(default_factory=list)
    aborts: set[str] = field(default_factory=set)


@contextlib.contextmanager
def peer(
    title: str = "PACS", *, port: int = 0, roles: bool = True, tls: ssl.SSLContext | None = None
) -> Iterator[Peer]:
    """Run a system with pynetdicom in a thread.

    Args:
        title: its AE title.
        port: its port; 0 for a free one.
        roles: whether it answers role selection.
        tls: with which certificates, or without TLS.
    """
    from pynetdicom import AE, evt

    found = Peer(port or free_port())

    def on_report(event: Any) -> tuple[int, None]:
        information = event.event_information
        if information.TransactionUID in found.aborts:
            event.assoc.abort()
            return 0, None
        found.callers.append(event.assoc.requestor.ae_title)
        found.reported.append((
            event.event_type,
            str(information.TransactionUID),
            [str(one.ReferencedSOPInstanceUID)
             for one in information.get("ReferencedSOPSequence", [])],
            {str(one.ReferencedSOPInstanceUID): int(one.FailureReason)
             for one in information.get("FailedSOPSequence", [])},
        ))  # fmt: skip
        return found.status, None

    def on_action(event: Any) -> tuple[int, None]:
        information = event.action_information
        found.asked.append((
            str(information.TransactionUID),
            [str(one.ReferencedSOPInstanceUID) for one in information.ReferencedSOPSequence],
        ))  # fmt: skip
        return found.action_status, None

    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    chosen = {"scu_role": True, "scp_role": True} if roles else {}
    ae.add_supported_context(commitment.MODEL, **chosen)
    server = ae.start_server(
        (LOOPBACK, found.port),
        block=False,
        ssl_context=tls,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report), (evt.EVT_N_ACTION, on_action)],
    )
    try:
        yield found
    finally:
        server.shutdown()


def report_as(
    title: str,
    port: int,
    transaction: str,
    stored: Sequence[Reference],
    failed: Sequence[Reference] = (),
    *,
    called: str = "RADMESH",
    kind: int = 0,
) -> int:
    """Report to a node as pynetdicom does; returns the status of the answer. Blocks."""
    from pynetdicom import AE, build_role

    information = Dataset()
    information.TransactionUID = transaction
    for name, some in (("ReferencedSOPSequence", stored), ("FailedSOPSequence", failed)):
        items = []
        for one in some:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one
            if name == "FailedSOPSequence":
                item.FailureReason = 0x0112
            items.append(item)
        if items:
            setattr(information, name, items)
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.add_requested_context(commitment.MODEL)
    association = ae.associate(
        LOOPBACK,
        port,
        ae_title=called,
        ext_neg=[build_role(commitment.MODEL, scp_role=True)],
    )
    if not association.is_established:
        return -1
    assert association.accepted_contexts[0].as_scp
    status, _ = association.send_n_event_report(
        information, kind or (2 if failed else 1), commitment.MODEL, commitment.INSTANCE
    )
    association.release()
    return int(status.Status) if status else -1


async def reports_as(*arguments: Any, **more: Any) -> int:
    """As `report_as`, for a test on trio."""
    return await trio.to_thread.run_sync(lambda: report_as(*arguments, **more))
