"""What callers are told of and get, in the log before they do, and their limits a day.

A workstation asks for its list again and again: of what it was told in the last 24 hours no further
entry is written. Both are read from the log, so a restart forgets nothing. Synchronous and
thread-safe.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

from node.audit.log import AuditLog
from node.audit.of_day import DAY_MS, EntriesOfDay
from node.edges.dimse_settings import Caller
from node.edges.door_settings import Door
from node.edges.query_values import SeenStudy
from node.errors import ExitCode, NodeError
from protocol.log.entry import Entry, Event

QUERIED, RETRIEVED = "queried", "retrieved"

Details = Mapping[str, str | int | bool]

_STUDIES = 100
"""Most studies of one entry: it needs some 100 bytes for each of its subjects."""


class CallersLately:
    """What callers were told of and got in the last 24 hours.

    Args:
        audit: the log.
        now: seconds since the epoch, UTC.
    """

    def __init__(self, audit: AuditLog, now: Callable[[], int]) -> None:
        self._audit = audit
        self._now = now
        self._entries = EntriesOfDay(audit, now, (QUERIED, RETRIEVED))
        self._lock = threading.Lock()
        # By type of entry and caller: when each study was named last, the oldest first.
        self._known: dict[tuple[str, str], dict[str, int]] = {}

    def tell(self, caller: str, purpose: str, door: str, studies: Sequence[SeenStudy]) -> None:
        """Log that a caller is going to be told of studies; durable on return.

        One entry for studies of the same patients: what is selected or erased for one patient must
        not touch another.

        Args:
            caller: its AE title, or `dicomweb:` and its name.
            purpose: why it asks; "" where its settings do not say.
            door: AE title of ours by which it asks; "" by DICOMweb.
            studies: what it is told of.

        Raises:
            NodeError: the log cannot be written; the caller must not be told.
        """
        with self._lock:
            known = self._of_day(QUERIED, caller)
            groups: dict[tuple[tuple[str, ...], bytes], list[str]] = {}
            for one in studies:
                if one.study not in known:
                    groups.setdefault((one.patients, one.holder), []).append(one.study)
            events = [
                _event(
                    QUERIED, caller, purpose, door, part, patients, {"studies": len(part)}, holder
                )
                for (patients, holder), group in groups.items()
                for part in _parts(group)
            ]
            if events:
                self._audit.append_many(events)

    def require_room(self, caller: Caller, studies: Sequence[str]) -> None:
        """Check that a caller may still get these studies (UIDs) today.

        Raises:
            NodeError: it would get more than its limit.
        """
        with self._lock:
            self._require_room(caller, studies)

    def give(
        self,
        caller: Caller,
        door: Door,
        destination: str,
        study: str,
        patients: tuple[str, ...],
        instances: int,
    ) -> None:
        """Log that a caller is going to get a study or a part of it; durable on return.

        Args:
            caller: who asked.
            door: by which AE title of ours.
            destination: AE title of who gets it.
            study: Study Instance UID.
            patients: its patients, as the log commits to them.
            instances: how many will be sent.

        Raises:
            NodeError: it would get more than its limit, or the log cannot be written; nothing may
                be sent.
        """
        with self._lock:
            self._require_room(caller, [study])
            title = caller.ae_title
            more: Details = {"destination": destination, "instances": instances}
            self._audit.append_many(
                [_event(RETRIEVED, title, caller.purpose, door.name, [study], patients, more)]
            )

    def _require_room(self, caller: Caller, studies: Sequence[str]) -> None:
        known = self._of_day(RETRIEVED, caller.ae_title)
        if len(known) + len(set(studies) - known.keys()) > caller.studies_a_day:
            raise NodeError(
                f"{caller.ae_title} may get {caller.studies_a_day} studies a day",
                hint="see `studies_a_day` of this caller in config.toml",
                code=ExitCode.REFUSED,
            )

    def _of_day(self, kind: str, caller: str) -> dict[str, int]:
        for entry in self._entries.new():
            self._take(entry)
        known, oldest = self._known.setdefault((kind, caller), {}), self._oldest
        while known and next(iter(known.values())) <= oldest:
            del known[next(iter(known))]
        return known

    @property
    def _oldest(self) -> int:
        return self._now() * 1000 - DAY_MS

    def _take(self, entry: Entry) -> None:
        if entry.outcome != "success" or entry.time_ms <= self._oldest:
            return
        known = self._known.setdefault((entry.type, str(entry.details.get("caller"))), {})
        # Nobody can tell any more which study an erased one was: it counts as one of its own.
        for study in list(self._entries.opened(entry, "study")) or [f"entry {entry.index}"]:
            known.pop(study, None)
            known[study] = entry.time_ms


def _event(
    kind: str,
    caller: str,
    purpose: str,
    door: str,
    studies: Sequence[str],
    patients: tuple[str, ...],
    more: Details,
    peer: bytes = b"",
) -> Event:
    return Event(
        type=kind,
        peer=peer,
        purpose=purpose,
        subjects=(*(("study", one) for one in studies), *(("patient", one) for one in patients)),
        details={"caller": caller, **({"door": door} if door else {}), **more},
    )


def _parts(studies: list[str]) -> list[list[str]]:
    return [studies[start : start + _STUDIES] for start in range(0, len(studies), _STUDIES)]
