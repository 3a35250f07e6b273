"""Requests that wait for a person here: what a peer asks for by a rule that asks first.

The peer asks again each minute under the same transfer. An approval is for that transfer alone and
for what the person read who gave it: one study, one purpose, who asks and why; one use, until a
time. Each step has its entry, written before it counts; only a denial counts before (`Cuts`).
Synchronous and thread-safe.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keys.grants import Approval
from node.audit.cuts import Cut, Cuts
from node.audit.effects import Effects
from node.callers import SEPARATOR
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from node.sharing.decisions import Decisions
from protocol.log.entry import Entry, Event, subjects_of
from protocol.messages import Request

REQUESTS_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY,
    peer BLOB NOT NULL,                 -- facility key
    transfer BLOB NOT NULL,
    study TEXT NOT NULL,
    purpose TEXT NOT NULL,
    stat INTEGER NOT NULL,
    person TEXT NOT NULL,               -- who asks, by the peer's word; '' when it is over
    role TEXT NOT NULL,
    reason TEXT NOT NULL,               -- likewise
    rule TEXT NOT NULL,                 -- the rule that asks
    asked INTEGER NOT NULL,             -- seconds since the epoch, UTC
    state TEXT NOT NULL,                -- waiting, approved, denied, ended
    until INTEGER NOT NULL DEFAULT 0,   -- when an approval ends
    note TEXT NOT NULL DEFAULT '',      -- why it was denied
    UNIQUE (peer, transfer)
) STRICT;
"""

APPROVED_SECONDS = 24 * 3600
"""How long an approval counts, if nothing is said."""

WAITS_SECONDS = 7 * 24 * 3600
"""How long a request waits for a person."""

WAITING_PER_PEER = 100
"""Most requests of a peer that wait at one time; further ones are refused."""

REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Asked:
    """A request that waits, or waited. Columns as in the table."""

    number: int
    peer: bytes
    transfer: bytes
    study: str
    purpose: str
    stat: int
    person: str
    role: str
    reason: str
    rule: str
    asked: int
    state: str
    until: int
    note: str


class Requests:
    """The requests that rules have people asked about.

    Args:
        database: holds them.
        effects: ties entries to their effects.
        decisions: the decisions that rest on approvals.
        clock: tells what has ended.
        patients: gives the patients of a study (UID), as the log commits to them.
    """

    def __init__(
        self,
        database: Database,
        effects: Effects,
        decisions: Decisions,
        clock: Clock,
        patients: Callable[[str], tuple[str, ...]],
    ) -> None:
        self._database = database
        self._effects = effects
        self._clock = clock
        self._patients = patients
        self._lock = threading.Lock()
        self._cuts = Cuts(effects.append, decisions.wait_earlier)
        # Replaced as a whole, so that readers need no lock.
        self._denied: dict[int, Asked] = {}

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Requests that are denied, which could not be written yet; for people."""
        return self._cuts.names

    def all(self) -> list[Asked]:
        """The requests, the newest first."""
        return self._read("ORDER BY number DESC")

    def waiting(self) -> list[Asked]:
        """The requests that wait for a person, the newest first."""
        found = self._read(
            "WHERE state = 'waiting' AND asked > ? ORDER BY number DESC", (self._oldest(),)
        )
        return [one for one in found if one.state == "waiting"]

    def of(self, peer: bytes, transfer: bytes) -> Asked | None:
        """The request of a transfer (its name) of a peer (facility key), if it had to wait."""
        found = self._read("WHERE peer = ? AND transfer = ?", (peer, transfer))
        return found[0] if found else None

    def _read(self, which: str, values: tuple[bytes | int, ...] = ()) -> list[Asked]:
        rows = self._database.query(f"SELECT * FROM requests {which}", values)
        return [self._denied.get(row["number"]) or Asked(*row) for row in rows]

    def _oldest(self) -> int:
        """What was asked before this time, or then, waits no longer."""
        return self._clock.now() - WAITS_SECONDS

    def approval(self, peer: bytes, request: Request) -> Approval | None:
        """The approval of what a peer (facility key) asks for; None if there is none."""
        found = self.of(peer, request.transfer)
        if found is None or found.state != "approved" or not _is_of(found, request):
            return None
        return Approval(found.rule, found.study, found.until)

    def why_refused(self, peer: bytes, request: Request, rule: str) -> str:
        """Why a request that a rule would ask about is refused instead; "" if it may wait."""
        found = self.of(peer, request.transfer)
        if found is None:
            own = sum(one.peer == peer for one in self.waiting())
            return "too many of its requests wait" if own >= WAITING_PER_PEER else ""
        if found.state == "denied":
            return f"request {found.number} was denied"
        if found.state == "approved" and found.rule == rule and found.until <= self._clock.now():
            return f"the approval of request {found.number} has ended"
        if found.state == "waiting" and found.asked <= self._oldest():
            return f"nobody has answered request {found.number}"
        if not _is_of(found, request):
            return f"request {found.number} of the same transfer asked for something else"
        return ""

    def is_noted(self, peer: bytes, request: Request, rule: str) -> bool:
        """Whether a request of a peer (facility key) waits already by this rule.

        Or it was approved just now, so it goes on when it is asked again.
        """
        found = self.of(peer, request.transfer)
        if found is None or found.rule != rule:
            return False
        is_approved = found.state == "approved" and self._clock.now() < found.until
        return is_approved or found.state == "waiting"

    def note(self, peer: bytes, request: Request, rule: str) -> None:
        """Note that a request waits, with its entry; once, however often it is asked again.

        Raises:
            NodeError: it cannot be logged or stored.
        """
        with self._lock:
            known = self.of(peer, request.transfer)
            if self.is_noted(peer, request, rule):
                return
            number, now = self._next_number() if known is None else known.number, self._clock.now()
            event = Event(
                type="approval-asked",
                peer=peer,
                purpose=request.purpose,
                subjects=(
                    *subjects_of(request.study, self._patients(request.study)),
                    *asker_subjects(request),
                ),
                details={"number": number, "rule": rule, "transfer": request.transfer.hex()},
            )
            row = Asked(
                number,
                peer,
                request.transfer,
                request.study,
                request.purpose,
                int(request.stat),
                request.person or "",
                request.role or "",
                request.reason or "",
                rule,
                # By another rule it waits no longer than by the first.
                known.asked if known is not None and known.state == "waiting" else now,
                "waiting",
                0,
                "",
            )

            def effect(connection: sqlite3.Connection) -> None:
                _store(connection, row)
                self._forget_askers(connection)

            self._effects.after_entry(event, effect)

    def approve(self, number: int, until: int | None = None) -> Asked:
        """Let a request that waits go on, for one use until a time (seconds since the epoch, UTC).

        Raises:
            NodeError: no such request waits, or the time is over.
        """
        now = self._clock.now()
        ends = now + APPROVED_SECONDS if until is None else until
        if ends <= now:
            raise NodeError("an approval that ends in the past is none", code=ExitCode.USAGE)
        with self._lock:
            row = replace(self._waiting(number), state="approved", until=ends)
            details: dict[str, str | int | bool] = {"number": number, "rule": row.rule}
            event = self._event(row, "approved", {**details, "until": ends})
            self._cuts.write()
            self._effects.after_entry(event, lambda connection: _store(connection, row))
        return row

    def deny(self, number: int, reason: str) -> Asked:
        """Refuse a request that waits, or take back an approval; it counts before it is written.

        Raises:
            NodeError: there is no such request, the reason is too long, or it could not be written.
        """
        if len(reason) > REASON_CHARACTERS or not reason.isprintable():
            raise NodeError(
                f"a reason is at most {REASON_CHARACTERS} printable characters on one line",
                code=ExitCode.USAGE,
            )
        with self._lock:
            found = self._waiting(number, "approved")
            # Who asked is in the log, where it can be erased.
            row = replace(found, state="denied", note=reason, person="", role="", reason="")
            self._denied = {**self._denied, number: row}

            def effect(entry: Callable[[], int]) -> None:
                self._effects.of(entry(), lambda connection: _deny(connection, row))
                left = dict(self._denied)
                del left[number]
                self._denied = left

            event = self._event(row, "denied", {"number": number, "rule": row.rule})
            try:
                self._cuts.make(Cut(f"request {number}", event, effect))
            except NodeError as error:
                raise NodeError(
                    f"request {number} is denied in this process, but that could not be written:"
                    f" {error.message}",
                    hint="make room on the disk: a running node then writes it by itself; after a"
                    " restart look with `radmesh requests --all`",
                    code=error.code,
                ) from error
        return row

    def write_unwritten(self) -> None:
        """Try again to write what is denied already.

        Raises:
            NodeError: it still cannot be written.
        """
        with self._lock:
            self._cuts.write()

    def make_true(self, entry: Entry, connection: sqlite3.Connection) -> bool:
        """Deny the request that an entry says is denied; see `Effects.compare`."""
        row = connection.execute(
            "SELECT * FROM requests WHERE peer = ? AND transfer = ?",
            (entry.peer, bytes.fromhex(str(entry.details.get("transfer", "")))),
        ).fetchone()
        if row is not None:
            denied = replace(Asked(*row), state="denied", person="", role="", reason="")
            _deny(connection, denied)
        return True

    def used(self, peer: bytes, transfer: bytes) -> None:
        """The study of a request has gone out: an approval was for this one use.

        A request that still waits has gone out since no rule asks any more.
        """
        self._end("AND transfer = ?", peer, transfer)

    def end_peer(self, peer: bytes) -> None:
        """End all requests of a peer whose trust was revoked; in the transaction at hand.

        No approval comes back with trust.
        """
        self._end("", peer)

    def _end(self, which: str, *values: bytes) -> None:
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE requests SET state = 'ended', person = '', role = '', reason = ''"
                f" WHERE state IN ('approved', 'waiting') AND peer = ? {which}",
                values,
            )
        )

    def forget(self, studies: Sequence[str]) -> None:
        """Delete the requests for these studies (UIDs); a facility that waits asks anew."""
        with self._lock:
            self._database.transact(
                lambda connection: connection.executemany(
                    "DELETE FROM requests WHERE study = ?", [(study,) for study in studies]
                )
            )

    def sweep(self) -> None:
        """Forget who asked, and why, where nobody answered in time or the approval has ended.

        Raises:
            NodeError: it could not be written.
        """
        self._database.transact(self._forget_askers)

    def _forget_askers(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE requests SET person = '', role = '', reason = '' WHERE person || role || reason"
            " <> '' AND (state = 'waiting' AND asked <= ? OR state = 'approved' AND until <= ?)",
            (self._oldest(), self._clock.now()),
        )

    def _event(self, row: Asked, kind: str, details: dict[str, str | int | bool]) -> Event:
        return Event(
            type=kind,
            actor="operator",
            peer=row.peer,
            purpose=row.purpose,
            subjects=subjects_of(row.study, self._patients(row.study)),
            details={**details, "transfer": row.transfer.hex()},
        )

    def _waiting(self, number: int, *also: str) -> Asked:
        found = next(iter(self._read("WHERE number = ?", (number,))), None)
        is_over = found is not None and found.state == "waiting" and found.asked <= self._oldest()
        if found is None or is_over or found.state not in ("waiting", *also):
            raise NodeError(
                f"no request {number} waits",
                hint="see `radmesh requests`",
                code=ExitCode.NOT_FOUND,
            )
        return found

    def _next_number(self) -> int:
        [row] = self._database.query("SELECT coalesce(max(number), 0) FROM requests")
        return int(row[0]) + 1


def _is_of(known: Asked, request: Request) -> bool:
    """Whether a peer asks for what it asked for first, under the same transfer."""
    if (known.study, known.purpose) != (request.study, request.purpose):
        return False
    if known.state not in ("waiting", "approved"):
        # Who asked is not kept any more.
        return True
    told = (request.person or "", request.role or "", request.reason or "")
    return (known.person, known.role, known.reason) == told


def asker_subjects(request: Request) -> tuple[tuple[str, str], ...]:
    """The subject of an entry for who asks by a request, by the peer's word; none for nobody."""
    told = (request.person or "", request.role or "", request.reason or "")
    return (("asker", SEPARATOR.join(told)),) if any(told) else ()


def _deny(connection: sqlite3.Connection, row: Asked) -> None:
    connection.execute(
        "UPDATE requests SET state = 'denied', note = ?, person = '', role = '', reason = ''"
        " WHERE number = ?",
        (row.note, row.number),
    )


def _store(connection: sqlite3.Connection, row: Asked) -> None:
    connection.execute(
        "INSERT INTO requests (number, peer, transfer, study, purpose, stat, person, role, reason,"
        " rule, asked, state, until, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (number) DO UPDATE SET stat=excluded.stat,"
        " person=excluded.person, role=excluded.role,"
        " reason=excluded.reason, rule=excluded.rule, asked=excluded.asked,"
        " state=excluded.state, until=excluded.until, note=excluded.note",
        (
            row.number,
            row.peer,
            row.transfer,
            row.study,
            row.purpose,
            row.stat,
            row.person,
            row.role,
            row.reason,
            row.rule,
            row.asked,
            row.state,
            row.until,
            row.note,
        ),
    )
