"""Broken glass: studies that were asked for in an emergency, until a person has reviewed each.

Both sides keep one: the asking node from before its request, the source from before the first byte.
Each step has its entry, written before it counts. Synchronous and thread-safe.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from keys.purposes import BREAK_GLASS
from keys.trust import Peer
from node.audit.effects import Effects
from node.callers import SEPARATOR, Caller, asking
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event, subjects_of

log = logging.getLogger("radmesh.emergencies")

EMERGENCIES_SCHEMA = """
CREATE TABLE IF NOT EXISTS emergencies (
    number INTEGER PRIMARY KEY,
    direction TEXT NOT NULL,            -- in: we asked; out: the peer asked
    peer BLOB NOT NULL,                 -- facility key
    transfer BLOB NOT NULL,
    study TEXT NOT NULL,                -- '' when its opening was erased
    asker TEXT NOT NULL,                -- name, role and reason; '' when it is reviewed
    person TEXT NOT NULL,               -- ours who did it: id or user name; '' for none
    begun INTEGER NOT NULL,             -- seconds since the epoch, UTC
    ended INTEGER,
    overdue INTEGER NOT NULL DEFAULT 0, -- whether the log says that nobody reviewed it in time
    outcome TEXT NOT NULL DEFAULT ''    -- of its review; '' while it waits for one
) STRICT;
"""

IN, OUT = "in", "out"

REVIEW_SECONDS = 72 * 3600
"""How long a review may take before it is overdue."""

OUTCOMES = ("justified", "not-justified")

NOTE_CHARACTERS = 1000


class Decided(Protocol):
    """What the facility has decided about emergencies: `node.config.EmergencySettings`."""

    @property
    def over_objections(self) -> bool:
        """Whether a peer's emergency goes over a patient's objection."""

    @property
    def rest_until_reviewed(self) -> bool:
        """Whether emergency access rests while a review is overdue."""


class Asks(Protocol):
    """The request for a study, or the transfer that asks for it."""

    @property
    def transfer(self) -> bytes:
        """Its name."""

    @property
    def study(self) -> str:
        """Study Instance UID."""

    @property
    def purpose(self) -> str:
        """The purpose."""


@dataclass(frozen=True)
class Emergency:
    """One emergency access. Columns as in the table."""

    number: int
    direction: str
    peer: bytes
    transfer: bytes
    study: str
    asker: str
    person: str
    begun: int
    ended: int | None
    overdue: int
    outcome: str

    @property
    def is_open(self) -> bool:
        """Whether it waits for a review."""
        return not self.outcome


class Emergencies:
    """The emergencies of this node.

    Args:
        database: holds them.
        effects: ties entries to their effects.
        clock: tells what is overdue.
        settings: what the facility has decided about emergencies.
        patients: gives the patients of a study (UID), as the log commits to them.
    """

    def __init__(
        self,
        database: Database,
        effects: Effects,
        clock: Clock,
        settings: Decided,
        patients: Callable[[str], tuple[str, ...]],
    ) -> None:
        self._database = database
        self._effects = effects
        self._clock = clock
        self.settings = settings
        self._patients = patients
        self._lock = threading.Lock()
        self._due = self._next_due()

    def all(self) -> list[Emergency]:
        """All emergencies, the newest first."""
        rows = self._database.query("SELECT * FROM emergencies ORDER BY number DESC")
        return [Emergency(*row) for row in rows]

    def open(self) -> list[Emergency]:
        """Those that wait for a review, the newest first."""
        rows = self._database.query(
            "SELECT * FROM emergencies WHERE outcome = '' ORDER BY number DESC"
        )
        return [Emergency(*row) for row in rows]

    def is_late(self, one: Emergency) -> bool:
        """Whether the review of an emergency is overdue."""
        return one.is_open and one.begun + REVIEW_SECONDS <= self._clock.now()

    def why_rests(self, direction: str, peer: bytes | None = None, asks: Asks | None = None) -> str:
        """Why a new emergency access is refused since another is not reviewed; "" if it is not.

        Args:
            direction: `IN` or `OUT`.
            peer: only those with this facility; None for all.
            asks: what is asked for; what has begun goes on.
        """
        if not self.settings.rest_until_reviewed:
            return ""
        ours = [
            one for one in self.open() if one.direction == direction and peer in (None, one.peer)
        ]
        if asks is not None and (asks.transfer, asks.study) in {
            (one.transfer, one.study) for one in ours
        }:
            return ""
        late = next((one for one in ours if self.is_late(one)), None)
        return "" if late is None else f"the review of emergency {late.number} is overdue"

    def begin(
        self,
        direction: str,
        peer: Peer,
        asks: Asks,
        asker: tuple[str, str, str],
        patients: tuple[str, ...],
    ) -> None:
        """Note that an emergency access begins, with its entry; once for each transfer.

        What a peer has of one study is one emergency until that is reviewed, however often it asks:
        it cannot fill the list of reviews. Of our own, each is reviewed by itself, as each may be
        somebody else's.

        Args:
            direction: `IN` if we ask, `OUT` if the peer does.
            peer: the other side.
            asks: what is asked for.
            asker: name, role and reason of the person who asks.
            patients: of the study, as far as they are known.

        Raises:
            NodeError: it cannot be logged or stored.
        """
        with self._lock:
            known = self._known(direction, peer.facility_key, asks.transfer, asks.study)
            if known is not None and known.ended is None and known.transfer == asks.transfer:
                return
            number = self._next_number() if known is None else known.number
            caller = asking()
            name, role, reason = asker
            if direction == IN:
                # Our own person is a subject of the entry, as of any other.
                role = ""
            row = Emergency(
                number,
                direction,
                peer.facility_key,
                asks.transfer,
                asks.study,
                SEPARATOR.join(("" if direction == IN else name, role, reason)),
                _who(caller) or name if direction == IN else "",
                self._clock.now() if known is None else known.begun,
                None,
                0 if known is None else known.overdue,
                "",
            )
            event = Event(
                type="emergency-begun",
                actor="operator" if direction == IN else "node",
                peer=peer.facility_key,
                purpose=asks.purpose,
                subjects=(*subjects_of(asks.study, patients), ("asker", row.asker)),
                details={
                    "direction": direction,
                    "number": number,
                    "transfer": asks.transfer.hex(),
                },
            )
            self._effects.after_entry(event, lambda connection: _store(connection, row))
            self._due = self._next_due()
        who = f"{peer.petname} was asked" if direction == IN else f"{peer.petname} asked"
        log.warning(
            "emergency access %d: %s for a study; a person has to review it: `radmesh review`",
            number,
            who,
        )

    def end(self, direction: str, peer: bytes, transfer: bytes, *, is_complete: bool) -> None:
        """Note that an emergency access is over, with its entry; nothing if none is under way.

        Raises:
            NodeError: it cannot be logged or stored.
        """
        with self._lock:
            for one in self._under_way():
                if (one.direction, one.peer, one.transfer) == (direction, peer, transfer):
                    now = self._clock.now()
                    self._change(one, "emergency-ended", ended=now, is_complete=is_complete)

    def end_interrupted(self, going_on: Container[bytes]) -> None:
        """After a start: note the end of what a crash interrupted.

        Args:
            going_on: names of transfers to us that are not over.

        Raises:
            NodeError: it cannot be logged or stored.
        """
        with self._lock:
            for one in self._under_way():
                if one.direction == OUT or one.transfer not in going_on:
                    now = self._clock.now()
                    self._change(one, "emergency-ended", ended=now, is_complete=False)

    def _under_way(self) -> list[Emergency]:
        rows = self._database.query("SELECT * FROM emergencies WHERE ended IS NULL")
        return [Emergency(*row) for row in rows]

    def is_any_overdue(self) -> bool:
        """Whether a review is overdue, and the log does not say so yet; does not block."""
        return self._due is not None and self._due <= self._clock.now()

    def say_overdue(self) -> None:
        """Log each review that is overdue, once.

        Raises:
            NodeError: it cannot be logged or stored.
        """
        with self._lock:
            for one in self.open():
                if self.is_late(one) and not one.overdue:
                    self._change(one, "emergency-overdue", overdue=1)
                    log.warning(
                        "emergency access %d is not reviewed after %d hours: `radmesh review`",
                        one.number,
                        REVIEW_SECONDS // 3600,
                    )
            self._due = self._next_due()

    def review(self, number: int, outcome: str, note: str, caller: Caller) -> Emergency:
        """Close an emergency access by a person's review.

        Args:
            number: of the emergency.
            outcome: one of `OUTCOMES`.
            note: what the person found; it goes into an opening.
            caller: who reviews.

        Raises:
            NodeError: there is no such open emergency, this person did it, or the words are wrong.
        """
        if outcome not in OUTCOMES:
            raise NodeError(
                f"there is no outcome {outcome!a}",
                hint=f"the outcomes are {' and '.join(OUTCOMES)}",
                code=ExitCode.USAGE,
            )
        if not note.strip() or len(note) > NOTE_CHARACTERS or not note.isprintable():
            raise NodeError(
                f"a review needs a note of at most {NOTE_CHARACTERS} printable characters on one "
                "line",
                code=ExitCode.USAGE,
            )
        with self._lock:
            found = next((one for one in self.open() if one.number == number), None)
            if found is None:
                raise NodeError(
                    f"no emergency {number} waits for a review",
                    hint="see `radmesh review`",
                    code=ExitCode.NOT_FOUND,
                )
            if found.person and found.person in (caller.person, caller.name):
                raise NodeError(
                    f"emergency {number} was yours, so another person has to review it",
                    hint="ask a person with the role admin or audit",
                    code=ExitCode.REFUSED,
                )
            # Who asked and why stay in the log, where they can be erased.
            return self._change(
                found, "emergency-reviewed", outcome=outcome, asker="", note=note.strip()
            )

    def forget(self, studies: Sequence[str]) -> None:
        """Delete the reviewed emergencies about these studies (UIDs).

        One that waits for a review still waits; which study it was, and who asked, is forgotten.
        """

        def work(connection: sqlite3.Connection) -> None:
            gone = [(study,) for study in studies]
            connection.executemany(
                "DELETE FROM emergencies WHERE study = ? AND outcome != ''", gone
            )
            connection.executemany(
                "UPDATE emergencies SET study = '', asker = '' WHERE study = ?", gone
            )

        with self._lock:
            self._database.transact(work)

    def _known(self, direction: str, peer: bytes, transfer: bytes, study: str) -> Emergency | None:
        for one in self.open():
            if (one.direction, one.peer, one.study) == (direction, peer, study) and (
                direction == OUT or one.transfer == transfer
            ):
                return one
        return None

    def _change(
        self,
        one: Emergency,
        kind: str,
        *,
        ended: int | None = None,
        overdue: int = 0,
        outcome: str | None = None,
        asker: str | None = None,
        is_complete: bool = True,
        note: str = "",
    ) -> Emergency:
        """Log a step of an emergency, then change its row."""
        changed = replace(
            one,
            ended=one.ended if ended is None else ended,
            overdue=one.overdue or overdue,
            outcome=one.outcome if outcome is None else outcome,
            asker=one.asker if asker is None else asker,
        )
        details: dict[str, str | int | bool] = {
            "direction": one.direction,
            "number": one.number,
            "transfer": one.transfer.hex(),
        }
        if outcome is not None:
            details["verdict"] = outcome
        if not is_complete:
            details["broken_off"] = True
        subjects = subjects_of(one.study, self._patients(one.study)) if one.study else ()
        event = Event(
            type=kind,
            actor="node" if outcome is None else "operator",
            peer=one.peer,
            purpose=BREAK_GLASS,
            subjects=(*subjects, *((("note", note),) if note else ())),
            details=details,
        )
        self._effects.after_entry(event, lambda connection: _store(connection, changed))
        return changed

    def _next_due(self) -> int | None:
        """When the next review is overdue of which the log does not say so yet."""
        [row] = self._database.query(
            "SELECT min(begun) FROM emergencies WHERE outcome = '' AND overdue = 0"
        )
        return None if row[0] is None else int(row[0]) + REVIEW_SECONDS

    def _next_number(self) -> int:
        [row] = self._database.query("SELECT coalesce(max(number), 0) FROM emergencies")
        return int(row[0]) + 1


def _who(caller: Caller) -> str:
    return caller.person or caller.name


def _store(connection: sqlite3.Connection, row: Emergency) -> None:
    connection.execute(
        "INSERT INTO emergencies (number, direction, peer, transfer, study, asker, person, begun,"
        " ended, overdue, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (number) DO UPDATE SET transfer=excluded.transfer, asker=excluded.asker,"
        " ended=excluded.ended, overdue=excluded.overdue, outcome=excluded.outcome",
        (
            row.number,
            row.direction,
            row.peer,
            row.transfer,
            row.study,
            row.asker,
            row.person,
            row.begun,
            row.ended,
            row.overdue,
            row.outcome,
        ),
    )
