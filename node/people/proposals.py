"""Acts that one person has proposed, and that wait for a second one.

Theory. A proposal is known by the index of its entry `proposed`. Its confirmation is an entry
that names both persons; then the act runs, and each entry that it causes names both, too, and
the proposal; then the proposal is over, in one transaction with the mark of the confirmation.
After a kill in between, the next start looks in the log: where the act took effect, the
proposal is over; otherwise an entry says that the confirmation failed, and the proposal waits
as before. So an act is never done by one person, nor twice.

Order of writes: `proposed` -> row -> `confirmed` -> act -> row and mark.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from node.audit.effects import ENTRY_FIRST, Effects
from node.audit.log import AuditLog
from node.callers import SERVICE, Caller, asked_by
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from node.people.acts import Act, Proposal
from node.people.persons import Person, Persons
from node.people.rules import may_confirm, needs_two
from protocol.log.entry import Entry, Event, decode_entry_untrusted

log = logging.getLogger("radmesh.people")

PROPOSALS_SCHEMA = """
CREATE TABLE IF NOT EXISTS proposals (
    number INTEGER PRIMARY KEY,         -- index of the entry `proposed`
    operation TEXT NOT NULL,
    what TEXT NOT NULL,                 -- for the second person; "" when it is over
    parameters TEXT NOT NULL,           -- JSON; "" when it is over
    proposer TEXT NOT NULL,             -- id of the person
    role TEXT NOT NULL,                 -- in which the person proposed it
    proposed INTEGER NOT NULL,          -- milliseconds since the epoch, UTC
    state TEXT NOT NULL,                -- proposed, done, declined, ended
    ended INTEGER,
    ended_by TEXT NOT NULL,             -- id of the person, or ""
    reason TEXT NOT NULL
) STRICT;
"""

KEPT_MS = 30 * 24 * 3600 * 1000
"""How long it is shown what became of it."""

MOST_OPEN = 100
REASON_LENGTH = 200


class Proposals:
    """The proposals of this node. Thread-safe.

    Args:
        database: holds them.
        audit: the log.
        effects: the register of effects.
        persons: the people.
        clock: dates proposals and ends them.
    """

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        effects: Effects,
        persons: Persons,
        clock: Clock,
    ) -> None:
        self._database = database
        self._audit = audit
        self._effects = effects
        self._persons = persons
        self._clock = clock
        self._lock = threading.RLock()
        self._confirming: set[int] = set()

    def all(self) -> list[Proposal]:
        """Proposals that wait, and those that were over lately, oldest first."""
        rows = self._database.query("SELECT * FROM proposals ORDER BY number")
        return [_from_row(row) for row in rows]

    def open(self) -> list[Proposal]:
        """Proposals that wait, oldest first."""
        now = self._clock.now() * 1000
        return [one for one in self.all() if one.state == "proposed" and one.until > now]

    def propose(self, operation: str, kinds: Sequence[str], act: Act, caller: Caller) -> Proposal:
        """Keep an act until a second person confirms it.

        Args:
            operation: the name of its operation.
            kinds: the rules that hold it.
            act: the act.
            caller: the person who proposes it.

        Raises:
            NodeError: the caller is no person of the list, the same is proposed already, too
                many wait, or it cannot be written.
        """
        if not caller.person:
            raise needs_two(kinds)
        with self._lock:
            self.lapse()
            waiting = self.open()
            for one in waiting:
                if (one.operation, one.parameters) == (operation, dict(act.parameters)):
                    raise NodeError(
                        f"this is proposed already, as {one.number}",
                        hint=f"another person confirms it: `radmesh confirm {one.number}`",
                        code=ExitCode.REFUSED,
                    )
            if len(waiting) >= MOST_OPEN:
                raise NodeError(
                    f"{MOST_OPEN} proposals wait already",
                    hint="confirm or decline some of them: see `radmesh proposals`",
                    code=ExitCode.REFUSED,
                )
            event = Event(
                type="proposed",
                actor="operator",
                peer=act.peer,
                subjects=act.subjects,
                details={"kind": ",".join(kinds), "operation": operation},
            )
            made = Proposal(
                number=0,
                operation=operation,
                what=act.what,
                parameters=dict(act.parameters),
                proposer=caller.person,
                role=caller.role,
                proposed=self._clock.now_ms(),
                state="proposed",
                ended=None,
                ended_by="",
                reason="",
            )
            number = self._effects.numbered_after_entry(
                event, lambda connection, index: _insert(connection, replace(made, number=index))
            )
        return replace(made, number=number)

    def find(self, number: int) -> Proposal:
        """A proposal that waits.

        Raises:
            NodeError: there is none with this number, or it is over.
        """
        found = next((one for one in self.all() if one.number == number), None)
        if found is None:
            raise NodeError(
                f"there is no proposal {number}",
                hint="see `radmesh proposals`",
                code=ExitCode.NOT_FOUND,
            )
        if found.state != "proposed":
            raise NodeError(
                f"proposal {number} is over: {found.state}",
                hint="it can be proposed again",
                code=ExitCode.REFUSED,
            )
        return found

    # --- the second person --------------------------------------------------------------

    def second(
        self, number: int, caller: Caller, is_still_allowed: Callable[[Person, str], bool]
    ) -> tuple[Proposal, Caller]:
        """A proposal and the two persons who carry it out together.

        Args:
            number: of the proposal.
            caller: the second person.
            is_still_allowed: whether the proposer may still do this, by operation.

        Raises:
            NodeError: there is no such proposal, or the caller cannot confirm it.
        """
        with self._lock:
            self.lapse()
            found = self.find(number)
            person = self._persons.with_id(caller.person) if caller.person else None
            if person is None or not may_confirm(person):
                raise NodeError(
                    "only a person of the list confirms what another one has proposed",
                    hint="it takes the role approve or admin, over the people's socket",
                    code=ExitCode.REFUSED,
                )
            if person.id == found.proposer:
                raise NodeError(
                    f"proposal {number} is yours: another person has to confirm it",
                    hint="`radmesh people list` shows who has the role approve or admin",
                    code=ExitCode.REFUSED,
                )
            proposer = self._persons.with_id(found.proposer)
            if proposer is None or not is_still_allowed(proposer, found.operation):
                self._end(found, "ended", "", "who proposed it may not do it any more")
                raise NodeError(
                    f"who made proposal {number} may not do this any more: it has ended",
                    hint="whoever may do it proposes it again",
                    code=ExitCode.REFUSED,
                )
            first = Caller(
                "person",
                proposer.name,
                role=found.role,
                display=proposer.display,
                person=proposer.id,
            )
            return found, replace(caller, proposer=first, proposal=number)

    def confirm(self, proposal: Proposal) -> int:
        """Log the confirmation, on behalf of both; the act follows, then `done` or `failed`.

        Returns:
            The index of its entry.

        Raises:
            NodeError: another confirmation of it is being carried out, or it cannot be logged.
        """
        with self._lock:
            if proposal.number in self._confirming or self.find(proposal.number) != proposal:
                raise NodeError(
                    f"proposal {proposal.number} is being carried out",
                    hint="see `radmesh proposals`",
                    code=ExitCode.BUSY,
                )
            entry = self._effects.append(_confirmed(proposal))
            self._confirming.add(proposal.number)
            return entry

    def done(self, proposal: Proposal, entry: int, caller: Caller) -> None:
        """The act of a confirmation took effect.

        Args:
            proposal: what was confirmed.
            entry: the index of the confirmation.
            caller: who confirmed it.

        Raises:
            NodeError: the disk fails; the next start finds in the log that it is done.
        """
        self._effects.of(
            entry,
            lambda connection: self._over(connection, proposal.number, "done", caller.person, ""),
        )
        self._confirming.discard(proposal.number)
        self._forget_parameters()

    def failed(self, proposal: Proposal, entry: int, why: str) -> None:
        """The act of a confirmation failed: log it; the proposal waits as before.

        Args:
            proposal: what was confirmed.
            entry: the index of the confirmation.
            why: a word that names nobody.

        Raises:
            NodeError: it cannot be logged; the next start logs it.
        """
        self._confirming.discard(proposal.number)
        self._audit.append(
            replace(_confirmed(proposal), outcome="failed", details={"of": entry, "why": why})
        )

    def decline(self, number: int, caller: Caller, reason: str) -> Proposal:
        """End a proposal; who made it may, too, and so may the owner.

        Args:
            number: of the proposal.
            caller: who declines.
            reason: kept beside the log, since it may name somebody.

        Raises:
            NodeError: there is no such proposal, or it cannot be written.
        """
        text = " ".join(reason.split())
        if not text or len(text) > REASON_LENGTH:
            raise NodeError(
                f"a reason is needed, of at most {REASON_LENGTH} characters",
                hint="--reason TEXT: whoever proposed it reads it",
                code=ExitCode.USAGE,
            )
        with self._lock:
            self.lapse()
            found = self.find(number)
            if number in self._confirming:
                raise NodeError(f"proposal {number} is being carried out", code=ExitCode.BUSY)
            self._end(found, "declined", caller.person, text)
        return found

    def lapse(self) -> None:
        """End the proposals whose time is over, and forget those that were over long ago.

        Raises:
            NodeError: it cannot be logged or written.
        """
        # A clock that is set back prolongs nothing.
        now = self._clock.now() * 1000
        with self._lock:
            for one in self.all():
                if one.state == "proposed" and one.until <= now:
                    if one.number not in self._confirming:
                        with asked_by(SERVICE):
                            self._end(one, "ended", "", "nobody confirmed it in time")
                elif one.ended is not None and one.ended + KEPT_MS <= now:
                    self._drop(one.number)

    def _drop(self, number: int) -> None:
        self._database.transact(
            lambda connection: connection.execute(
                "DELETE FROM proposals WHERE number = ?", (number,)
            )
        )

    def _end(self, proposal: Proposal, state: str, by: str, reason: str) -> None:
        kind = "declined" if state == "declined" else "proposal-ended"
        self._effects.after_entry(
            Event(
                type=kind,
                actor="operator" if state == "declined" else "node",
                details={"operation": proposal.operation, "proposal": proposal.number},
            ),
            lambda connection: self._over(connection, proposal.number, state, by, reason),
        )
        self._forget_parameters()

    def _over(
        self, connection: sqlite3.Connection, number: int, state: str, by: str, reason: str
    ) -> None:
        connection.execute(
            "UPDATE proposals SET state = ?, ended = ?, ended_by = ?, reason = ?, what = '',"
            " parameters = '' WHERE number = ?",
            (state, self._clock.now_ms(), by, reason, number),
        )

    def _forget_parameters(self) -> None:
        """Take what a proposal named out of the write-ahead log, too: it may be a patient."""
        try:
            self._database.empty_write_ahead_log()
        except NodeError as error:
            log.warning("a proposal that is over is overwritten later: %s", error.message)

    # --- at the start -------------------------------------------------------------------

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Whether the act of a confirmation took effect before the node ended; then it is over.

        See `Effects.compare`.
        """
        number = entry.details.get("proposal")
        row = connection.execute("SELECT * FROM proposals WHERE number = ?", (number,)).fetchone()
        if row is None or row["state"] != "proposed":
            return False
        if not self._took_effect(_from_row(row), entry, connection):
            return False
        self._over(connection, row["number"], "done", "", "")
        return True

    def _took_effect(
        self, proposal: Proposal, entry: Entry, connection: sqlite3.Connection
    ) -> bool:
        begun = self._audit.evidence.erasures.pending()
        if proposal.operation == "audit.erase" and any(one.since > entry.index for one in begun):
            # This start finishes it, and writes its entry if that is missing.
            return True
        mark = f'"proposal":{proposal.number}'.encode()
        for encoded in self._audit.entries(entry.index + 1):
            if mark not in encoded:
                continue
            later = decode_entry_untrusted(encoded)
            if later.details.get("proposal") != proposal.number or later.outcome != "success":
                continue
            if later.type == "confirmed":
                return False
            if later.type not in ENTRY_FIRST or self._effects.is_marked(connection, later.index):
                return True
        return False


def _confirmed(proposal: Proposal) -> Event:
    return Event(type="confirmed", actor="operator", details={"operation": proposal.operation})


def _insert(connection: sqlite3.Connection, proposal: Proposal) -> None:
    connection.execute(
        "INSERT INTO proposals (number, operation, what, parameters, proposer, role, proposed,"
        " state, ended, ended_by, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, '', '')",
        (
            proposal.number,
            proposal.operation,
            proposal.what,
            json.dumps(proposal.parameters),
            proposal.proposer,
            proposal.role,
            proposal.proposed,
            proposal.state,
        ),
    )


def _from_row(row: sqlite3.Row) -> Proposal:
    values = dict(row)
    values["parameters"] = json.loads(values["parameters"] or "{}")
    return Proposal(**values)
