"""Reads the selected entries of the log, with the openings of their commitments."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from node.audit.erasure import is_patient
from node.audit.log import AuditLog
from node.reports.selection import Selection
from protocol.log.entry import format_time


@dataclass(frozen=True)
class Subject:
    """A subject of an entry; `value` is None when its opening is not here."""

    kind: str
    commitment: str
    value: str | None


@dataclass(frozen=True)
class Record:
    """One entry of the log.

    Attributes:
        entry: its fields, as in docs/protocol-log.md section 2.2.
        subjects: those of its subjects that belong to the selection.
    """

    entry: dict[str, Any]
    subjects: tuple[Subject, ...]

    @property
    def index(self) -> int:
        """Its place in the log."""
        index: int = self.entry["index"]
        return index

    @property
    def time(self) -> str:
        """Its time, as in `2026-11-24T09:31:58.123Z`."""
        return str(self.entry["time"])

    @property
    def type(self) -> str:
        """Its entry type."""
        return str(self.entry["type"])

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Its details."""
        details: dict[str, str | int | bool] = self.entry["details"]
        return details

    def first(self, kind: str) -> Subject | None:
        """Its first subject of a kind."""
        return next(iter(self.of_kind(kind)), None)

    def of_kind(self, kind: str) -> list[Subject]:
        """Its subjects of a kind."""
        return [subject for subject in self.subjects if subject.kind == kind]


def span(audit: AuditLog, selection: Selection, size: int) -> tuple[int, int]:
    """The range of entries in the time of a selection: the first, and the one after the last.

    Args:
        audit: the log.
        selection: only its `since` and `until` count.
        size: consider only the first `size` entries.
    """
    first = 0 if selection.since is None else _first_at(audit, selection.since, size)
    last = size if selection.until is None else _first_at(audit, selection.until, size)
    return first, max(first, last)


def _first_at(audit: AuditLog, moment: int, size: int) -> int:
    """The first entry at or after a moment: times in the log never go back."""
    wanted = format_time(max(moment, 0))
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        [encoded] = audit.entries(middle, middle + 1)
        if json.loads(encoded)["time"] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def records(
    audit: AuditLog, selection: Selection, *, size: int | None = None, start: int = 0
) -> Iterator[Record]:
    """The selected entries in their order.

    Args:
        audit: the log.
        selection: selects the entries.
        size: consider only the first `size` entries; all when None.
        start: the first entry to consider.

    Raises:
        NodeError: an entry is damaged on disk.
    """
    size = audit.size if size is None else size
    first, last = span(audit, selection, size)
    first = max(first, start)
    keep = _keeper(audit, selection)
    if selection.study or selection.patient or selection.person:
        about = audit.evidence.entries_about(
            study=selection.study, patient=selection.patient, person=selection.person
        )
        runs: Iterator[tuple[int, int]] = (
            (index, index + 1) for index in about if first <= index < last
        )
    else:
        runs = iter([(first, max(first, last))])
    for start, stop in runs:
        yield from _run(audit, start, stop, selection, keep)


def records_between(audit: AuditLog, start: int, stop: int) -> Iterator[Record]:
    """Entries `start` to `stop - 1`, all of them.

    Raises:
        NodeError: an entry is damaged on disk.
    """
    return _run(audit, start, stop, Selection(), lambda kind, value: True)


def _run(
    audit: AuditLog,
    start: int,
    stop: int,
    selection: Selection,
    keep: Callable[[str, str | None], bool],
) -> Iterator[Record]:
    openings = audit.evidence.placed_openings(start, stop)
    opened = next(openings, None)
    for encoded in audit.entries(start, stop):
        entry: dict[str, Any] = json.loads(encoded)
        values: dict[int, str] = {}
        while opened is not None and opened[0] <= entry["index"]:
            values[opened[1]] = opened[2].value
            opened = next(openings, None)
        if selection.types and entry["type"] not in selection.types:
            continue
        if selection.peer and entry["peer"] != selection.peer:
            continue
        yield Record(
            entry,
            tuple(
                Subject(subject["kind"], subject["commitment"], values.get(place))
                for place, subject in enumerate(entry["subjects"])
                if keep(subject["kind"], values.get(place))
            ),
        )


def _keeper(audit: AuditLog, selection: Selection) -> Callable[[str, str | None], bool]:
    """A function that tells whether a subject belongs to the selection.

    An entry may also be about other studies and patients, which must not be shown here.
    """
    if selection.study:
        return lambda kind, value: kind != "study" or value == selection.study
    if wanted := selection.patient:
        studies = audit.evidence.studies_of(wanted)

        def keep(kind: str, value: str | None) -> bool:
            if kind == "patient":
                return value is not None and is_patient(value, wanted)
            return kind != "study" or value in studies

        return keep
    return lambda kind, value: True
