"""Forwards the log to a syslog collector while the node runs, without delaying the node.

Theory. A cursor in the node's database counts the delivered entries: those of connections
that were ended in order (`node/reports/delivery.py`). After any failure, including a crash
of ours, sending starts again at the cursor: each entry is sent at least once, in order. A
connection is ended when no entry has come for a moment or when it has carried many, so
that the cursor never lags far behind.
"""

import logging
import socket
from collections.abc import Callable
from typing import Any

import trio

from node.audit.log import AuditLog
from node.blocking import in_thread
from node.clock import SYSTEM_CLOCK, Clock
from node.database import Database
from node.errors import NodeError
from node.failures import describe_unexpected
from node.reports.collector import Collector
from node.reports.delivery import Delivery, open_delivery
from node.reports.facilities import Facilities
from node.reports.records import records_between
from node.reports.selection import Selection
from node.reports.syslog import framed, messages
from node.reports.writing import export_event

log = logging.getLogger("radmesh.collector")

FORWARDING_SCHEMA = """
CREATE TABLE IF NOT EXISTS forwarded (
    collector TEXT PRIMARY KEY,     -- message format and address
    entries INTEGER NOT NULL        -- that were delivered
) STRICT, WITHOUT ROWID;
"""

POLL_SECONDS = 1.0
"""Time between two looks at the size of the log; a look costs a microsecond."""

IDLE_SECONDS = 3.0
"""Time without new entries after which a connection is ended, to confirm its entries."""

CONNECTION_ENTRIES = 5_000
"""Most entries that one connection carries; they are sent again if it breaks."""

PORTION_ENTRIES = 256

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0


class Forwarder:
    """Forwards the log to one collector.

    Args:
        audit: the log.
        database: keeps the cursor; opened with `FORWARDING_SCHEMA`.
        collector: the collector.
        facilities: returns the facilities known now.
        origin: the name of the log.
        persons: whether our people are named to the collector.
        clock: tells how long it has failed.
        idle_seconds: see `IDLE_SECONDS`.
        retry_seconds: first and longest pause after a failure.
    """

    def __init__(
        self,
        audit: AuditLog,
        database: Database,
        collector: Collector,
        facilities: Callable[[], Facilities],
        origin: str,
        *,
        persons: bool = False,
        clock: Clock = SYSTEM_CLOCK,
        idle_seconds: float = IDLE_SECONDS,
        retry_seconds: tuple[float, float] = (FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS),
    ) -> None:
        self._audit = audit
        self._database = database
        self._collector = collector
        self._facilities = facilities
        self._origin = origin
        self._persons = persons
        self._idle_seconds = idle_seconds
        self._retry_seconds = retry_seconds
        self._name = f"{collector.form} {collector.address}"
        self._delivered = 0
        self._error = ""
        self._clock = clock
        self._failing_since: float | None = None

    @property
    def failing_seconds(self) -> float:
        """For how long nothing could be delivered; 0 if all is well. For any thread."""
        since = self._failing_since
        return 0.0 if since is None else self._clock.running() - since

    def describe(self) -> dict[str, Any]:
        """The state of forwarding, as JSON."""
        return {
            "address": self._collector.address,
            "format": self._collector.form,
            "delivered": self._delivered,
            "last_error": self._error or None,
        }

    async def run(self) -> None:
        """Forward until cancelled; after a failure try again, after ever longer pauses."""
        pause = self._retry_seconds[0]
        started = False
        while True:
            try:
                if not started:
                    self._delivered = await in_thread(self._begin)
                    started = True
                await self._wait_for_entries(self._delivered)
                await self._connect_and_send()
            except Exception as error:
                # Whatever the error, even a fault of ours: the node goes on without forwarding.
                self._failed(error)
                await trio.sleep(pause)
                pause = min(2 * pause, self._retry_seconds[1])
            else:
                if self._error:
                    log.info("the log is forwarded again to %s", self._collector.address)
                self._error, self._failing_since = "", None
                pause = self._retry_seconds[0]

    def _failed(self, error: Exception) -> None:
        what = error.message if isinstance(error, NodeError) else describe_unexpected(error)
        if what != self._error:
            log.warning("the log is not forwarded: %s", what)
        self._error = what
        if self._failing_since is None:
            self._failing_since = self._clock.running()

    def _begin(self) -> int:
        """Return the cursor; log the start of forwarding if the collector is new."""
        row = self._database.query_one(
            "SELECT entries FROM forwarded WHERE collector = ?", (self._name,)
        )
        if row is not None:
            return min(int(row["entries"]), self._audit.size)
        self._audit.append(
            export_event(
                "syslog",
                Selection(),
                {
                    "continuous": True,
                    "first": 0,
                    "messages": self._collector.form,
                    "to": self._collector.address,
                },
            )
        )
        self._keep(0)
        return 0

    def _keep(self, entries: int) -> None:
        self._database.transact(
            lambda connection: connection.execute(
                "INSERT INTO forwarded VALUES (?, ?)"
                " ON CONFLICT (collector) DO UPDATE SET entries = excluded.entries",
                (self._name, entries),
            )
        )

    async def _wait_for_entries(self, sent: int) -> None:
        while self._audit.size <= sent:  # noqa: ASYNC110 (entries come from any thread)
            await trio.sleep(POLL_SECONDS)

    async def _connect_and_send(self) -> None:
        """Send entries over one connection, then move the cursor."""
        sent = self._delivered
        async with open_delivery(self._collector) as delivery:
            while sent - self._delivered < CONNECTION_ENTRIES:
                with trio.move_on_after(self._idle_seconds) as patience:
                    await self._wait_for_entries(sent)
                if patience.cancelled_caught:
                    break
                sent = await self._send_portion(delivery, sent)
            await delivery.confirm()
        await in_thread(self._keep, sent)
        self._delivered = sent

    async def _send_portion(self, delivery: Delivery, sent: int) -> int:
        stop = min(self._audit.size, sent + PORTION_ENTRIES)
        data = await in_thread(self._portion, sent, stop)
        await delivery.send(data)
        return stop

    def _portion(self, start: int, stop: int) -> bytes:
        facilities, host = self._facilities(), socket.gethostname()
        parts: list[bytes] = []
        for record in records_between(self._audit, start, stop):
            parts += messages(
                record,
                self._collector.form,
                facilities,
                self._origin,
                host,
                persons=self._persons,
            )
        return b"".join(map(framed, parts))
