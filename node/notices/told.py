"""What was told of what stands, by which channel: so that a restart neither repeats nor loses it.

Order of writes: the notice and what it tells of -> sent -> the notice is dropped. After a kill
between the last two it is sent once more, with the same identifier, by which the other side knows
it again. All here is derived from what stands: a disk that takes no writes, of which a notice may
have to tell, holds up none; then a restart tells again.

There is at most one unsent notice a channel and subject. What comes up meanwhile waits for the
next one, so the queue cannot grow.
"""

import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from node.clock import Clock
from node.database import Database
from node.errors import NodeError
from node.notices.subjects import SUBJECTS, Alert
from protocol.errors import RemoteProtocolError

log = logging.getLogger("radmesh.notices")

NOTICES_SCHEMA = """
CREATE TABLE IF NOT EXISTS notices_told (
    channel TEXT NOT NULL,
    subject TEXT NOT NULL,
    what TEXT NOT NULL,         -- which of the subject: numbers and words, no patient data
    told INTEGER NOT NULL,      -- seconds since the epoch, UTC
    gone INTEGER NOT NULL,      -- 1: it does not stand any more
    PRIMARY KEY (channel, subject, what)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices_unsent (
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    subject TEXT NOT NULL,
    what TEXT NOT NULL,         -- a line each
    entries TEXT NOT NULL,      -- indices in the log, with spaces between
    made INTEGER NOT NULL       -- seconds since the epoch, UTC
) STRICT, WITHOUT ROWID;
"""

PAUSE_SECONDS = 60
"""Least time between two notices of one subject by one channel."""

AGAIN_SECONDS = 3600
"""What has gone and comes back within this time is not told again before its end."""

GIVE_UP_SECONDS = 24 * 3600
"""A notice that could not be sent for so long is dropped; what still stands gets a new one."""

KEYS = 500
"""Most of one subject that are told apart; more are not told one by one."""


@dataclass(frozen=True)
class Notice:
    """What is to be sent by one channel.

    Attributes:
        id: 32 hex digits, the same at each try.
        channel: name of the channel.
        subject: name of the subject.
        keys: what of the subject, see `Alert`.
        entries: indices of the log's entries that it comes from.
        made: seconds since the epoch, UTC.
    """

    id: str
    channel: str
    subject: str
    keys: tuple[str, ...]
    entries: tuple[int, ...]
    made: int


@dataclass(frozen=True)
class _Row:
    told: int
    gone: bool = False


_Place = tuple[str, str, str]
"""Channel, subject, key."""


class Told:
    """The notices of all channels. Synchronous and thread-safe.

    Args:
        database: keeps them; opened with `NOTICES_SCHEMA`.
        clock: dates them.
        channels: names of the channels that there are; what was told by others is forgotten.
    """

    def __init__(self, database: Database, clock: Clock, channels: Sequence[str]) -> None:
        self._database = database
        self._clock = clock
        self._channels = tuple(channels)
        self._lock = threading.Lock()
        self._rows: dict[_Place, _Row] = {
            (row["channel"], row["subject"], row["what"]): _Row(row["told"], row["gone"] == 1)
            for row in database.query("SELECT * FROM notices_told")
            if row["channel"] in channels and row["subject"] in SUBJECTS
        }
        self._unsent: dict[str, Notice] = {
            row["id"]: Notice(
                row["id"],
                row["channel"],
                row["subject"],
                tuple(row["what"].split("\n")),
                tuple(map(int, row["entries"].split())),
                row["made"],
            )
            for row in database.query("SELECT * FROM notices_unsent ORDER BY made, id")
            if row["channel"] in channels and row["subject"] in SUBJECTS
        }

    def unsent(self, channel: str) -> list[Notice]:
        """What is to be sent by a channel, the oldest first."""
        return [one for one in self._unsent.values() if one.channel == channel]

    def look(self, alerts: Iterable[Alert]) -> None:
        """Make a notice of what stands now and was not told yet, for each channel and subject.

        Args:
            alerts: all that stands now.
        """
        with self._lock:
            now = self._clock.now()
            standing = _by_subject(alerts)
            rows, unsent = self._past(standing, now), dict(self._unsent)
            for channel in self._channels:
                for subject, found in standing.items():
                    notice = self._due(channel, subject, found, rows, now)
                    if notice is not None:
                        unsent[notice.id] = notice
                        rows |= {(channel, subject, key): _Row(now) for key in notice.keys}
            if (rows, unsent) != (self._rows, self._unsent):
                self._keep(rows, unsent)

    def sent(self, notice: Notice) -> None:
        """A notice has arrived."""
        with self._lock:
            now = self._clock.now()
            rows = dict(self._rows)
            for key in notice.keys:
                place = (notice.channel, notice.subject, key)
                if place in rows:
                    rows[place] = replace(rows[place], told=now)
            self._keep(rows, {key: one for key, one in self._unsent.items() if key != notice.id})

    def give_up_old(self) -> list[Notice]:
        """Drop what could not be sent for too long; of what still stands there is a new one."""
        with self._lock:
            now = self._clock.now()
            old = [one for one in self._unsent.values() if one.made + GIVE_UP_SECONDS <= now]
            if old:
                gone = {(one.channel, one.subject, key) for one in old for key in one.keys}
                rows = {place: row for place, row in self._rows.items() if place not in gone}
                ids = {one.id for one in old}
                self._keep(rows, {key: one for key, one in self._unsent.items() if key not in ids})
            return old

    def _past(self, standing: dict[str, dict[str, Alert]], now: int) -> dict[_Place, _Row]:
        """What was told and is still to be known: it stands, or has gone only lately."""
        rows = {}
        for place, row in self._rows.items():
            channel, subject, key = place
            waits = any(key in one.keys for one in self._of(channel, subject))
            stands = key in standing.get(subject, {})
            # A time that is still to come is from a clock that was ahead.
            is_old = not row.told <= now < row.told + AGAIN_SECONDS
            if waits or not is_old or (stands and not row.gone):
                rows[place] = replace(row, gone=row.gone or not stands)
        return rows

    def _due(
        self,
        channel: str,
        subject: str,
        found: dict[str, Alert],
        rows: dict[_Place, _Row],
        now: int,
    ) -> Notice | None:
        keys = tuple(key for key in found if (channel, subject, key) not in rows)
        if not keys or self._of(channel, subject):
            return None
        told = [row.told for place, row in rows.items() if place[:2] == (channel, subject)]
        if any(one <= now < one + PAUSE_SECONDS for one in told):
            return None
        try:
            entries = {index for alert in set(found.values()) for index in alert.entries(keys)}
        except (NodeError, RemoteProtocolError) as error:
            # A notice is worth more than the entries that it names.
            log.warning("the entries of a notice about %s cannot be read: %s", subject, error)
            entries = set()
        return Notice(secrets.token_hex(16), channel, subject, keys, tuple(sorted(entries)), now)

    def _of(self, channel: str, subject: str) -> list[Notice]:
        return [
            one for one in self._unsent.values() if (one.channel, one.subject) == (channel, subject)
        ]

    def _keep(self, rows: dict[_Place, _Row], unsent: dict[str, Notice]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM notices_told")
            connection.execute("DELETE FROM notices_unsent")
            connection.executemany(
                "INSERT INTO notices_told VALUES (?, ?, ?, ?, ?)",
                [(*place, row.told, int(row.gone)) for place, row in rows.items()],
            )
            connection.executemany(
                "INSERT INTO notices_unsent VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        one.id,
                        one.channel,
                        one.subject,
                        "\n".join(one.keys),
                        " ".join(map(str, one.entries)),
                        one.made,
                    )
                    for one in unsent.values()
                ],
            )

        try:
            self._database.transact(work)
        except NodeError as error:
            log.warning("what was told cannot be kept, and may be told again: %s", error.message)
        self._rows, self._unsent = rows, unsent


def _by_subject(alerts: Iterable[Alert]) -> dict[str, dict[str, Alert]]:
    """The alerts that go out, by subject and key."""
    found: dict[str, dict[str, Alert]] = {}
    for alert in alerts:
        if SUBJECTS[alert.subject].goes_out:
            kept = found.setdefault(alert.subject, {})
            for key in alert.keys:
                if len(kept) < KEYS or key in kept:
                    kept[key] = alert
    return found
