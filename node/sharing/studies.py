"""Sharing and withdrawing studies, as an operator decides: each change with its entry.

A study that is withdrawn is held back in memory first: it is not announced or sent any more, even
if the disk fails. Then the entry and the table are written; a failed write is tried again.
Synchronous and thread-safe.
"""

import sqlite3
import threading
from collections.abc import Callable

from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects
from node.audit.log import AuditLog
from node.catalog.catalog import Catalog, StudyRow
from node.errors import ExitCode, NodeError
from node.sharing.decisions import Decisions
from protocol.log.entry import Entry, Event, subjects_of


class SharedStudies:
    """Sharing and withdrawing.

    Args:
        catalog: the studies of this node.
        audit: the log.
        effects: ties entries to their effects.
        decisions: the decisions that rest on what is shared.

    Attributes:
        in_withdrawal: called with a study (UID) in the transaction that withdraws it.
    """

    def __init__(
        self,
        catalog: Catalog,
        audit: AuditLog,
        effects: Effects,
        decisions: Decisions,
    ) -> None:
        self._catalog = catalog
        self._audit = audit
        self._effects = effects
        self._lock = threading.Lock()
        self.in_withdrawal: Callable[[sqlite3.Connection, str], None] = lambda c, study: None
        self._cuts = Cuts(effects.append, decisions.wait_earlier)

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Studies (UIDs) that are held back and whose withdrawal could not be written yet."""
        return self._cuts.names

    def share(self, text: str) -> StudyRow:
        """Announce a study to all peers that may see it; whoever calls this has checked it.

        Raises:
            NodeError: there is no such study, it names more patients than can be logged,
                or the disk is full.
        """
        with self._lock:
            self._cuts.write()
            row = self._catalog.find_study(text)
            if row.state != "shared" or row.to_check:
                self._require_nameable(row)
                self._effects.after_entry(
                    self._event("shared", row),
                    lambda connection: self._catalog.set_shared(row.study_uid, True),
                )
            return self._catalog.find_study(row.study_uid)

    def withdraw(self, text: str, details: dict[str, str] | None = None) -> StudyRow:
        """Stop sharing a study at once; this also settles what had to be checked.

        Args:
            text: as for `Catalog.find_study`.
            details: further details for its entry.

        Raises:
            NodeError: there is no such study; or the withdrawal could not be written. Even then the
                study is held back while this process runs.
        """
        with self._lock:
            row = self._catalog.find_study(text)
            is_due = row.state == "shared" or row.to_check
            if is_due and row.study_uid not in self.unwritten:
                self._catalog.hold_back(row.study_uid)
                event = self._event("withdrawn", row, details)
                self._write_or_say(Cut(row.study_uid, event, self._withheld(row.study_uid)))
            else:
                self._write_or_say()
            return self._catalog.find_study(row.study_uid)

    def write_unwritten(self) -> None:
        """Try again to write these withdrawals.

        Raises:
            NodeError: it still cannot be written.
        """
        with self._lock:
            self._cuts.write()

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Withdraw what an entry of the log says was withdrawn; see `Effects.compare`."""
        openings = [self._audit.opening_of(commitment) for _, commitment in entry.subjects]
        studies = [one.value for one in openings if one is not None and one.kind == "study"]
        if not studies:
            return False
        try:
            self._catalog.set_shared(studies[0], False)
            self.in_withdrawal(connection, studies[0])
        except NodeError:
            return False
        return True

    def _require_nameable(self, row: StudyRow) -> None:
        if self._catalog.has_too_many_patients(row.study_uid):
            raise NodeError(
                f"study {row.study_uid} cannot be shared: {row.to_check}, and each that is "
                "disclosed must be in the log",
                hint="look at what wrote these images; they are no study of one patient",
                code=ExitCode.REFUSED,
            )

    def _event(self, kind: str, row: StudyRow, details: dict[str, str] | None = None) -> Event:
        return Event(
            type=kind,
            actor="operator",
            subjects=subjects_of(row.study_uid, self._catalog.patients(row.study_uid)),
            details={"content_root": row.content_root.hex(), **(details or {})},
        )

    def _withheld(self, study: str) -> Callable[[Callable[[], int]], None]:
        """The effect of the entry of a withdrawal."""

        def withhold(connection: sqlite3.Connection) -> None:
            # The study may have been discarded since.
            if self._catalog.study(study) is not None:
                self._catalog.set_shared(study, False)
            self.in_withdrawal(connection, study)

        def effect(entry: Callable[[], int]) -> None:
            self._effects.of(entry(), withhold)
            self._catalog.let_go(study)

        return effect

    def _write_or_say(self, cut: Cut | None = None) -> None:
        try:
            if cut is not None:
                self._cuts.make(cut)
            else:
                self._cuts.write()
        except NodeError as error:
            raise NodeError(
                "the study is held back by this process, but that could not be written: "
                f"{error.message}",
                hint="make room on the disk: a running node then writes it by itself; after a "
                "restart look with `radmesh studies` how it stands",
                code=error.code,
            ) from error
