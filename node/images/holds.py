"""Legal holds: studies that nothing deletes until the hold is lifted.

Order of writes: entry -> hold. Synchronous and thread-safe.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.audit.effects import Effects
from node.catalog.catalog import Catalog, StudyRow
from node.clock import Clock
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event, subjects_of

HOLDS_SCHEMA = """
CREATE TABLE IF NOT EXISTS study_holds (
    study TEXT PRIMARY KEY,             -- Study Instance UID
    reference TEXT NOT NULL,            -- the matter, in words of whoever placed it
    placed INTEGER NOT NULL             -- seconds since the epoch, UTC
) STRICT;
"""

REFERENCE_CHARACTERS = 64


@dataclass(frozen=True)
class Hold:
    """A hold on one study.

    Attributes:
        study: Study Instance UID.
        reference: the matter for which it is kept, such as a file number.
        placed: seconds since the epoch, UTC.
    """

    study: str
    reference: str
    placed: int


class Holds:
    """The holds of a node.

    Args:
        database: holds them.
        catalog: the studies.
        effects: ties entries to their effects.
        clock: dates them.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        effects: Effects,
        clock: Clock,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._effects = effects
        self._clock = clock

    def all(self) -> list[Hold]:
        """All holds, the oldest first."""
        rows = self._database.query("SELECT * FROM study_holds ORDER BY placed, study")
        return [Hold(row["study"], row["reference"], row["placed"]) for row in rows]

    def of(self, study: str) -> Hold | None:
        """The hold on a study (UID), if there is one."""
        row = self._database.query_one("SELECT * FROM study_holds WHERE study = ?", (study,))
        return None if row is None else Hold(row["study"], row["reference"], row["placed"])

    def require_none(self, study: str) -> None:
        """Check that a study (UID) may be deleted.

        Raises:
            NodeError: it is held.
        """
        held = self.of(study)
        if held is not None:
            raise NodeError(
                f"study {study} is under a legal hold ({held.reference!a})",
                hint="nothing of it is deleted before somebody lifts it: `radmesh hold lift`",
                code=ExitCode.REFUSED,
            )

    def place(self, text: str, reference: str) -> Hold:
        """Hold a study; of a held one, the reference changes.

        Args:
            text: as for `Catalog.find_study`.
            reference: the matter, such as a file number; no patient data.

        Raises:
            NodeError: there is no such study, or the reference is none.
        """
        named = " ".join(reference.split())
        if not named or len(named) > REFERENCE_CHARACTERS or not named.isprintable():
            raise NodeError(
                f"a hold has a reference of 1 to {REFERENCE_CHARACTERS} characters",
                hint="such as the number of a file; no patient data",
                code=ExitCode.USAGE,
            )
        row = self._catalog.find_study(text)
        if row.indexed_in:
            raise NodeError(
                f"study {row.study_uid} is not here but in the archive {row.indexed_in}",
                hint=f"a hold keeps what is here: `radmesh archive retrieve {row.study_uid}` first",
                code=ExitCode.REFUSED,
            )
        hold = Hold(row.study_uid, named, self._clock.now())

        def keep(connection: sqlite3.Connection) -> None:
            # It may have been discarded meanwhile.
            self._catalog.find_study(hold.study)
            _keep(connection, hold)

        self._effects.after_entry(self._event("hold-placed", row), keep)
        return hold

    def lift(self, text: str) -> Hold:
        """End a hold.

        Raises:
            NodeError: there is no such study, or no hold on it.
        """
        row = self._catalog.find_study(text)
        hold = self.of(row.study_uid)
        if hold is None:
            raise NodeError(
                f"study {row.study_uid} is not held",
                hint="see `radmesh hold list`",
                code=ExitCode.NOT_FOUND,
            )
        self._effects.after_entry(
            self._event("hold-lifted", row),
            lambda connection: connection.execute(
                "DELETE FROM study_holds WHERE study = ?", (hold.study,)
            ),
        )
        return hold

    def _event(self, kind: str, row: StudyRow) -> Event:
        return Event(
            type=kind,
            actor="operator",
            subjects=subjects_of(row.study_uid, self._catalog.patients(row.study_uid)),
            details={"content_root": row.content_root.hex()},
        )


def _keep(connection: sqlite3.Connection, hold: Hold) -> None:
    connection.execute(
        "INSERT INTO study_holds (study, reference, placed) VALUES (?, ?, ?)"
        " ON CONFLICT (study) DO UPDATE SET reference=excluded.reference",
        (hold.study, hold.reference, hold.placed),
    )


WhyStays = Callable[[str], str]
"""Why a study (UID) has to stay here now, completing `it ...`; "" if nothing keeps it."""


def first_reason(study: str, reasons: Sequence[WhyStays]) -> str:
    """The first reason for which a study (UID) has to stay, or ""."""
    return next(filter(None, (why(study) for why in reasons)), "")
