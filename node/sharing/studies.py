"""Sharing and withdrawing studies, as an operator decides: each change with its entry.

A study that is withdrawn is held back in memory first: it is not announced or sent any more, even
if the disk fails. Then the entry and the table are written; a failed write is tried again.
Synchronous and thread-safe.
"""

import sqlite3
import threading
from collections.abc import Callable

from keys.trust import Peer
from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects
from node.audit.log import AuditLog
from node.catalog.catalog import Catalog, StudyRow
from node.catalog.rows import SHARED, WITHHELD
from node.catalog.sharing import (
    effects_for,
    effects_of_each,
    set_for_peer,
    share_nothing_with,
    share_with_none,
)
from node.database import Database
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
        database: holds the catalog.

    Attributes:
        in_withdrawal: called with a study (UID) in the transaction that withdraws it.
        is_trusted: whether a peer (facility key) is trusted now.
    """

    def __init__(
        self,
        catalog: Catalog,
        audit: AuditLog,
        effects: Effects,
        decisions: Decisions,
        database: Database,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._audit = audit
        self._effects = effects
        self._lock = threading.Lock()
        self.in_withdrawal: Callable[[sqlite3.Connection, str], None] = lambda c, study: None
        self.is_trusted: Callable[[bytes], bool] = lambda peer: True
        self._cuts = Cuts(effects.append, decisions.wait_earlier)

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Studies (UIDs) that are held back and whose withdrawal could not be written yet; with
        ` from NAME` behind one that is held back from a peer alone."""
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

    def share_to(self, text: str, peer: Peer, *, door: str = "") -> StudyRow:
        """Let one peer have a study, whatever its state; this also settles what had to be checked.

        The peer still needs the rights to see and fetch.

        Args:
            text: as for `Catalog.find_study`.
            peer: the peer.
            door: the AE title of ours by which the study came in; "" for a person who decides.

        Raises:
            NodeError: as for `share`, or the peer is not trusted any more.
        """
        key = peer.facility_key
        if peer.revoked is not None:
            raise _revoked(peer)
        with self._lock:
            self._cuts.write()
            row = self._catalog.find_study(text)
            held = effects_for(self._database, key, [row.study_uid]).get(row.study_uid, "")
            has_it = row.state == "shared" or (held == SHARED and not row.to_check)
            if held == WITHHELD or not has_it:
                self._require_nameable(row)

                def give(connection: sqlite3.Connection) -> None:
                    # Ask again: study and trust may have changed since.
                    if not self.is_trusted(key):
                        raise _revoked(peer)
                    now = self._catalog.find_study(row.study_uid)
                    is_shared = now.state == "shared"
                    set_for_peer(connection, row.study_uid, key, "" if is_shared else SHARED)
                    if not is_shared:
                        self._catalog.set_shared(row.study_uid, False)
                    self._catalog.changed(row.study_uid)

                details = {"door": door} if door else {}
                self._effects.after_entry(self._event("shared-to", row, details, peer=key), give)
            return self._catalog.find_study(row.study_uid)

    def withdraw_from(self, text: str, peer: Peer) -> StudyRow:
        """Let one peer not have a study from now on, also when it is shared later.

        Raises:
            NodeError: as for `withdraw`.
        """
        key = peer.facility_key
        with self._lock:
            row = self._catalog.find_study(text)
            study = row.study_uid
            held = effects_for(self._database, key, [study]).get(study, "")
            if held != WITHHELD and not self._catalog.is_held_back(study, key):
                self._catalog.hold_back(study, key)
                event = self._event("withdrawn-from", row, peer=key)
                name = f"{study} from {peer.petname}"
                self._write_or_say(Cut(name, event, self._withheld_from(study, key)))
            else:
                self._write_or_say()
            return self._catalog.find_study(study)

    def end_peer(self, peer: bytes) -> None:
        """Share nothing with a peer (facility key) alone any more: its trust was revoked."""
        self._database.transact(lambda connection: share_nothing_with(connection, peer))

    def withdraw(self, text: str, details: dict[str, str] | None = None) -> StudyRow:
        """Stop sharing a study at once; this also settles what had to be checked.

        No single peer has it any more either.

        Args:
            text: as for `Catalog.find_study`.
            details: further details for its entry.

        Raises:
            NodeError: there is no such study; or the withdrawal could not be written. Even then the
                study is held back while this process runs.
        """
        with self._lock:
            row = self._catalog.find_study(text)
            is_due = row.state == "shared" or row.to_check or self._is_shared_to_one(row)
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
        if entry.type == "withdrawn-from" and not entry.peer:
            return False
        openings = [self._audit.opening_of(commitment) for _, commitment in entry.subjects]
        studies = [one.value for one in openings if one is not None and one.kind == "study"]
        if not studies:
            return False
        if entry.type == "withdrawn-from":
            self._withhold_from(connection, studies[0], entry.peer)
            return True
        try:
            self._withhold(connection, studies[0])
        except NodeError:
            return False
        return True

    def _is_shared_to_one(self, row: StudyRow) -> bool:
        each = effects_of_each(self._database, [row.study_uid]).get(row.study_uid, ())
        return any(effect == SHARED for _, effect in each)

    def _withhold(self, connection: sqlite3.Connection, study: str) -> None:
        is_gone = share_with_none(connection, study)
        if not self._catalog.set_shared(study, False) and is_gone:
            self._catalog.changed(study)
        self.in_withdrawal(connection, study)

    def _withhold_from(self, connection: sqlite3.Connection, study: str, peer: bytes) -> None:
        set_for_peer(connection, study, peer, WITHHELD)
        self._catalog.changed(study)

    def _require_nameable(self, row: StudyRow) -> None:
        if self._catalog.has_too_many_patients(row.study_uid):
            raise NodeError(
                f"study {row.study_uid} cannot be shared: {row.to_check}, and each that is "
                "disclosed must be in the log",
                hint="look at what wrote these images; they are no study of one patient",
                code=ExitCode.REFUSED,
            )

    def _event(
        self, kind: str, row: StudyRow, details: dict[str, str] | None = None, peer: bytes = b""
    ) -> Event:
        return Event(
            type=kind,
            actor="node" if details and "door" in details else "operator",
            peer=peer,
            subjects=subjects_of(row.study_uid, self._catalog.patients(row.study_uid)),
            # Of what is in an archive alone, the content is not known.
            details={
                **({} if row.indexed_in else {"content_root": row.content_root.hex()}),
                **(details or {}),
            },
        )

    def _withheld(self, study: str) -> Callable[[Callable[[], int]], None]:
        """The effect of the entry of a withdrawal."""

        def withhold(connection: sqlite3.Connection) -> None:
            # The study may have been discarded since.
            if self._catalog.study(study) is not None:
                self._withhold(connection, study)
            else:
                self.in_withdrawal(connection, study)

        def effect(entry: Callable[[], int]) -> None:
            self._effects.of(entry(), withhold)
            self._catalog.let_go(study)

        return effect

    def _withheld_from(self, study: str, peer: bytes) -> Callable[[Callable[[], int]], None]:
        """The effect of the entry of a withdrawal from one peer."""

        def effect(entry: Callable[[], int]) -> None:
            self._effects.of(
                entry(), lambda connection: self._withhold_from(connection, study, peer)
            )
            self._catalog.let_go(study, peer)

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


def _revoked(peer: Peer) -> NodeError:
    return NodeError(
        f"trust in {peer.petname} was revoked: nothing can be shared with it",
        hint="pair with it again first (`radmesh trust add`)",
        code=ExitCode.REFUSED,
    )
