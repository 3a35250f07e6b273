"""Accounting of disclosures as CSV (45 CFR 164.528): when, to whom, what, why.

A disclosure has one line, or one line for each patient that its images name. It is dated
by its first `disclosure-begun`: from then on originals may have left. A transfer that broke
off and went on, with the same content, is one disclosure until its recipient has confirmed
it. The column `outcome` says how it ended. Disclosures for treatment, payment and health
care operations need not be accounted for (164.528(a)(1)(i)); by default they are counted
and left out.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from node.audit.log import AuditLog
from node.phrases import clean
from node.reports.facilities import Facilities, Facility
from node.reports.records import Record, Subject, records
from node.reports.selection import Selection
from protocol.log.entry import format_time

COLUMNS = (
    "date_utc",
    "recipient_name",
    "recipient_address",
    "recipient_network_address",
    "patient",
    "description",
    "purpose",
    "outcome",
    "study",
    "instances",
    "recipient_fingerprint",
    "transfer",
    "entry",
)

EXEMPT = frozenset(("treatment", "second-opinion", "operations"))
"""Purposes that need no accounting. A second opinion is treatment (45 CFR 164.501)."""

_BEGUN = "disclosure-begun"
_ANSWERED, _ASKED = "find-answered", "find-asked"
_ANNOUNCED = "announced"
_EXPORTED = "exported"
_ON_DISC = "written to a disc"
_NO_DISC = "the disc was not finished"
_MANIFESTS = frozenset(("kos", "mado", "fhir"))
_MANIFEST = "written to a file"
_TOLD = "told to the recipient"
_ENDS = {
    "disclosed": "received by the recipient",
    "disclosure-failed": "broke off; some of it may have arrived",
}
_NO_END = "begun, its end is not in the log; some of it may have arrived"

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
"""Characters with which a formula begins, for a spreadsheet, at the start of a cell."""


_LATER_FORMULA = re.compile(rf"([;,|]\s*)(?=[{re.escape(''.join(_FORMULA))}])")
"""The same characters after a separator of cells that spreadsheets of some countries use."""


@dataclass
class _Open:
    """A disclosure that its recipient has not confirmed: its first entry, and its outcome."""

    record: Record
    outcome: str = _NO_END


class Accounting:
    """One accounting; `left_out` counts once `lines` has ended.

    Args:
        audit: the log.
        selection: selects the disclosures; its `types` are ignored.
        facilities: names and addresses of the recipients.
        with_exempt: include disclosures that need no accounting.

    Attributes:
        count: number of disclosures written.
        left_out: number of disclosures left out because they need no accounting.
    """

    def __init__(
        self,
        audit: AuditLog,
        selection: Selection,
        facilities: Facilities,
        *,
        with_exempt: bool,
    ) -> None:
        self._audit = audit
        self._selection = selection
        self._facilities = facilities
        self._with_exempt = with_exempt
        self.count = 0
        self.left_out = 0

    def lines(self) -> Iterator[bytes]:
        """The file, line by line (RFC 4180, UTF-8), oldest end first.

        Raises:
            NodeError: the log is damaged on disk.
        """
        yield _line(COLUMNS)
        for begun, outcome in self._disclosures():
            if begun.entry["purpose"] in EXEMPT and not self._with_exempt:
                self.left_out += 1
                continue
            self.count += 1
            patients: list[Subject | None] = [*begun.of_kind("patient")]
            for patient in patients or [None]:
                yield _line(self._cells(begun, patient, outcome))

    def _disclosures(self) -> Iterator[tuple[Record, str]]:
        """Each disclosure that began in the selected time, and its outcome, even if later."""
        types = frozenset((_BEGUN, *_ENDS, _ANSWERED, _ASKED, _ANNOUNCED, _EXPORTED))
        wanted = replace(self._selection, until=None, types=types)
        until = None if self._selection.until is None else format_time(self._selection.until)
        open_ones: dict[tuple[str, object], dict[object, _Open]] = {}
        discs: dict[object, _Open] = {}
        for record in records(self._audit, wanted):
            transfer = (str(record.entry["peer"]), record.details.get("transfer"))
            # Within one transfer, another content or purpose makes another disclosure.
            content = (record.details.get("content_root"), record.entry["purpose"])
            is_late = until is not None and record.time >= until
            if is_late and not open_ones:
                break
            begun = open_ones.get(transfer, {})
            if record.type == _ANNOUNCED:
                if not is_late:
                    yield from ((each, _TOLD) for each in _of_announcement(record))
            elif record.type in (_ANSWERED, _ASKED):
                if not is_late:
                    yield from ((each, _TOLD) for each in _of_search(record))
            elif record.type == _EXPORTED:
                failed = discs.get(record.details.get("of"))
                if failed is not None:
                    failed.outcome = _NO_DISC
                elif not is_late:
                    is_manifest = record.details.get("form") in _MANIFESTS
                    discs[record.index] = _Open(record, _MANIFEST if is_manifest else _ON_DISC)
            elif record.type == _BEGUN:
                if content in begun:
                    begun[content].outcome = _NO_END
                elif not is_late:
                    open_ones.setdefault(transfer, {})[content] = _Open(record)
            elif record.type == "disclosed" and begun:
                # An entry that matches no content ends the disclosure begun last.
                ended = begun.pop(content if content in begun else next(reversed(begun)))
                yield ended.record, _ENDS[record.type]
                if not begun:
                    del open_ones[transfer]
            else:
                for one in begun.values():
                    one.outcome = _ENDS[record.type]
        for opened in (*open_ones.values(), discs):
            for one in opened.values():
                yield one.record, one.outcome

    def _cells(self, begun: Record, patient: Subject | None, outcome: str) -> tuple[str, ...]:
        recipient = self._recipient(begun)
        study = begun.first("study")
        nobody = "not named by the images"
        if any(subject["kind"] == "patient" for subject in begun.entry["subjects"]):
            nobody = "not named yet: the study had images of others only"
        return (
            begun.time,
            recipient.name,
            recipient.postal_address or "not known",
            " ".join(recipient.addresses) or "not known",
            _named(patient.value, patient.commitment) if patient else nobody,
            _description(begun, study),
            begun.entry["purpose"] or "not given",
            outcome,
            _named(study.value, study.commitment) if study else "",
            str(begun.details.get("instances", "")),
            recipient.fingerprint,
            str(begun.details.get("transfer", begun.details.get("find", ""))),
            str(begun.index),
        )

    def _recipient(self, begun: Record) -> Facility:
        """The facility that got it; or whoever carries a disc, as a person here wrote."""
        if begun.type != _EXPORTED:
            return self._facilities.of(begun.entry["peer"])
        written = begun.first("message")
        name = _named(written.value, written.commitment) if written else "not known"
        return Facility(name, fingerprint="")


def _of_search(record: Record) -> Iterator[Record]:
    """The disclosures of a search for a patient: one for each study that the peer was told of.

    A question of ours tells the peer who our patient is. An answer without a study tells of nobody
    who is known here; an answer that there are too many tells that the patient is here.
    """
    if record.type == _ASKED or record.details.get("why"):
        yield record
        return
    for study in record.of_kind("study"):
        yield replace(record, subjects=(study, *record.of_kind("patient")))


def _of_announcement(record: Record) -> Iterator[Record]:
    """The disclosures of an announcement: one for each study of which it told the patient."""
    studies: list[list[Subject]] = []
    for subject in record.subjects:
        if subject.kind == "study":
            studies.append([subject])
        elif subject.kind == "patient" and studies:
            studies[-1].append(subject)
    for subjects in studies:
        if len(subjects) > 1:
            yield replace(record, subjects=tuple(subjects))


def _description(begun: Record, study: Subject | None) -> str:
    """What was disclosed."""
    if begun.type == _ASKED:
        return "who the patient is (a question to search for imaging studies)"
    if begun.type == _ANSWERED:
        what = "one imaging study is" if study else "many imaging studies are"
        return f"that {what} here (the answer to a search for its patient)"
    if begun.type == _ANNOUNCED or begun.details.get("form") in _MANIFESTS:
        return "that one imaging study is here, with its patient, date and description"
    count = begun.details.get("instances", "")
    number = f"{count} images of " if count != "" else ""
    return f"{number}one imaging study (DICOM images with their headers)"


def _named(value: str | None, commitment: str) -> str:
    return value if value is not None else f"erased (commitment {commitment})"


def _line(cells: tuple[str, ...]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([safe_cell(cell) for cell in cells])
    return buffer.getvalue().encode()


def safe_cell(text: str) -> str:
    """Text that a spreadsheet shows and never runs: a formula gets an apostrophe in front."""
    cleaned = _LATER_FORMULA.sub(r"\1'", clean(text))
    return f"'{cleaned}" if cleaned.lstrip().startswith(_FORMULA) else cleaned
