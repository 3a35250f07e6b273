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
from node.audit.effects import Effects
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event, subjects_of
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

_SEPARATOR = "^^^"


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
        clock: tells what has ended.
        patients: gives the patients of a study (UID), as the log commits to them.
    """

    def __init__(
        self,
        database: Database,
        effects: Effects,
        clock: Clock,
        patients: Callable[[str], tuple[str, ...]],
    ) -> None:
        self._database = database
        self._effects = effects
        self._clock = clock
        self._patients = patients
        self._lock = threading.Lock()

    def all(self, *, waiting: bool = False) -> list[Asked]:
        """The requests, the newest first; with `waiting` only those that wait for a person."""
        rows = self._database.query("SELECT * FROM requests ORDER BY number DESC")
        found = [Asked(*row) for row in rows]
        oldest = self._clock.now() - WAITS_SECONDS
        if not waiting:
            return found
        return [one for one in found if one.state == "waiting" and one.asked > oldest]

    def of(self, peer: bytes, transfer: bytes) -> Asked | None:
        """The request of a transfer (its name) of a peer (facility key), if it had to wait."""
        row = self._database.query_one(
            "SELECT * FROM requests WHERE peer = ? AND transfer = ?", (peer, transfer)
        )
        return None if row is None else Asked(*row)

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
            own = [one for one in self.all(waiting=True) if one.peer == peer]
            return "too many of its requests wait" if len(own) >= WAITING_PER_PEER else ""
        if found.state == "denied":
            return f"request {found.number} was denied"
        if found.state == "approved" and found.rule == rule and found.until <= self._clock.now():
            return f"the approval of request {found.number} has ended"
        if found.state == "waiting" and found.asked <= self._clock.now() - WAITS_SECONDS:
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
            self._effects.after_entry(event, lambda connection: _store(connection, row))

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
            self._settle(row, "approved", {"number": number, "rule": row.rule, "until": ends})
        return row

    def deny(self, number: int, reason: str) -> Asked:
        """Refuse a request that waits, or take back an approval.

        Raises:
            NodeError: there is no such request, or the reason is too long.
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
            self._settle(row, "denied", {"number": number, "rule": row.rule})
        return row

    def used(self, peer: bytes, transfer: bytes) -> None:
        """The study of an approved request has gone out: it was for this one use."""
        self._database.transact(
            lambda connection: connection.execute(
                "UPDATE requests SET state = 'ended', person = '', role = '', reason = ''"
                " WHERE peer = ? AND transfer = ? AND state = 'approved'",
                (peer, transfer),
            )
        )

    def forget(self, studies: Sequence[str]) -> None:
        """Delete the requests for these studies (UIDs) that are over."""
        self._database.transact(
            lambda connection: connection.executemany(
                "DELETE FROM requests WHERE study = ? AND state IN ('denied', 'ended')",
                [(study,) for study in studies],
            )
        )

    def _settle(self, row: Asked, kind: str, details: dict[str, str | int | bool]) -> None:
        event = Event(
            type=kind,
            actor="operator",
            peer=row.peer,
            purpose=row.purpose,
            subjects=subjects_of(row.study, self._patients(row.study)),
            details={**details, "transfer": row.transfer.hex()},
        )
        self._effects.after_entry(event, lambda connection: _store(connection, row))

    def _waiting(self, number: int, *also: str) -> Asked:
        found = next((one for one in self.all() if one.number == number), None)
        if found is None or found.state not in ("waiting", *also):
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
    return (("asker", _SEPARATOR.join(told)),) if any(told) else ()


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
