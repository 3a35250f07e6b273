"""Operations that write the audit log in other formats, or send it to a collector."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.images import run_work
from node.operations.selecting import Selected, read_selection
from node.reports import dicom, fhir
from node.reports.accounting import Accounting
from node.reports.audit_messages import AuditMessage, audit_messages
from node.reports.collector import parse_collector
from node.reports.delivery import open_delivery
from node.reports.facilities import Facilities
from node.reports.records import Record, records, span
from node.reports.selection import Selection
from node.reports.syslog import framed, messages
from node.reports.writing import export_event, write_logged, write_parts
from protocol.log.checkpoint import log_origin

FORMATS = ("dicom", "fhir", "accounting")

_SEND_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Report(Selected):
    """Parameters of `audit.report`."""

    format: str
    path: parameters.Path
    exempt: bool = False


@dataclass(frozen=True, kw_only=True)
class Send(Selected):
    """Parameters of `audit.send`."""

    to: str
    ca: parameters.Path
    certificate: parameters.Path | None = None
    key: parameters.Path | None = None
    format: str = "dicom"


def facilities_of(node: Node) -> Facilities:
    """The facilities that this node knows now."""
    return Facilities(node.card, node.peers.store.peers)


class _Report:
    """A report while it is written; `count` is the number of messages or lines so far."""

    def __init__(
        self,
        node: Node,
        form: str,
        selection: Selection,
        *,
        with_exempt: bool,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._node = node
        self._selection = selection
        self._progress = progress
        self._cancelled = cancelled
        self.size = node.audit.size
        self.count = 0
        self._accounting: Accounting | None = None
        if form == "accounting":
            self._accounting = Accounting(
                node.audit, selection, facilities_of(node), with_exempt=with_exempt
            )
            self.parts = self._watched(self._accounting.lines())
        else:
            write = dicom.document if form == "dicom" else fhir.lines
            self.parts = write(self._audit_messages())

    @property
    def left_out(self) -> int:
        """Number of disclosures left out because they need no accounting."""
        return 0 if self._accounting is None else self._accounting.left_out

    def _audit_messages(self) -> Iterator[AuditMessage]:
        origin = log_origin(self._node.card.facility_key)
        facilities, persons = facilities_of(self._node), self._node.settings.audit.persons
        for record in records(self._node.audit, self._selection, size=self.size):
            for message in audit_messages(record, facilities, origin, persons=persons):
                self._step()
                yield message

    def _watched(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        yield next(lines)  # the titles
        for line in lines:
            self._step()
            yield line

    def _step(self) -> None:
        if self._cancelled():
            raise NodeError("the report was not finished", code=ExitCode.INTERRUPTED)
        self.count += 1
        self._progress(self.count)


async def report(call: Call, asked: Report) -> Result:
    """Write a report to a file."""
    node, form, path = call.node, asked.format, Path(asked.path)
    if form not in FORMATS:
        raise NodeError(
            f"there is no report {form!r}",
            hint=f"the reports are {', '.join(FORMATS)}",
            code=ExitCode.USAGE,
        )

    def work(on_progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Result:
        selection = read_selection(node, asked)
        made = _Report(
            node,
            form,
            selection,
            with_exempt=asked.exempt,
            progress=on_progress,
            cancelled=cancelled,
        )
        first, last = span(node.audit, selection, made.size)
        written = write_logged(
            path,
            write_parts(made.parts),
            lambda: export_event(
                form,
                selection,
                {"first": first, "end": last, "count": made.count, "left_out": made.left_out},
            ),
            node.audit,
            salted=True,
        )
        return {
            "path": str(path),
            "format": form,
            "count": made.count,
            "left_out": made.left_out,
            "bytes": written.bytes,
            "sha256": written.sha256,
            "salt": written.salt,
            "entry": written.entry,
        }

    return await run_work(work, call.report, lambda count: {"count": count})


async def send(call: Call, asked: Send) -> Result:
    """Send entries to a syslog collector, once."""
    node = call.node
    collector = parse_collector(
        asked.to, asked.ca, asked.certificate or "", asked.key or "", asked.format
    )
    facilities, origin = facilities_of(node), log_origin(node.card.facility_key)

    def select() -> tuple[Selection, int]:
        return read_selection(node, asked), node.audit.size

    def record_export(selection: Selection, size: int) -> int:
        first, last = span(node.audit, selection, size)
        return node.audit.append(
            export_event(
                "syslog",
                selection,
                {
                    "first": first,
                    "end": last,
                    "messages": collector.form,
                    "to": collector.address,
                },
            )
        )

    def made(record: Record) -> list[bytes]:
        host = socket.gethostname()
        named = node.settings.audit.persons
        return [
            framed(message)
            for message in messages(record, collector.form, facilities, origin, host, persons=named)
        ]

    selection, size = await in_thread(select)
    count = 0
    async with open_delivery(collector) as delivery:
        entry = await in_thread(record_export, selection, size)
        chosen = records(node.audit, selection, size=size)
        while True:
            portion = await in_thread(_portion, chosen, made)
            if not portion:
                break
            await delivery.send(b"".join(portion))
            count += len(portion)
            call.report({"count": count})
        await delivery.confirm()
    return {"to": collector.address, "count": count, "entry": entry}


def _portion(chosen: Iterator[Record], made: Callable[[Record], list[bytes]]) -> list[bytes]:
    """The next messages, about `_SEND_BYTES` bytes; empty when there are no more."""
    portion: list[bytes] = []
    size = 0
    for record in chosen:
        framed_ones = made(record)
        portion += framed_ones
        size += sum(map(len, framed_ones))
        if size >= _SEND_BYTES:
            break
    return portion


OPERATIONS = (
    Operation("audit.report", Report, report, writes=True, local_only=True),
    Operation("audit.send", Send, send, writes=True, local_only=True),
)
