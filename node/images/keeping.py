"""How long studies stay: which may go as they are safe in an archive; when no more come in.

A study goes only if all of it is proven to be stored in an archive of the facility, it is not
younger than some days, and nothing keeps it: a legal hold, a transfer, an offer, a request. So what
this node alone has is never removed, however full it is: it stops taking images in instead.

Synchronous and thread-safe but `Keeping.run`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from node.blocking import in_thread
from node.catalog.catalog import Catalog, StudyRow
from node.clock import Clock
from node.errors import ExitCode, NodeError
from node.images.discard import Discards
from node.images.holds import WhyStays, first_reason

log = logging.getLogger("radmesh.keeping")

LOOK_SECONDS = 300.0
"""Time between two looks at what may go."""

AT_ONCE = 200
"""Studies that one look removes at most: the next one goes on."""

DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class KeepingSettings:
    """How long studies stay; the table `keeping`.

    Attributes:
        days: after so many days in an archive a study goes; 0 for never.
        quota_gb: gigabytes (10^9 bytes) of the store; above it those go that were only brought from
            an archive, then those that are longest in one; 0 for none.
        youngest_days: no study goes that came in less than so many days ago.
    """

    days: int = 0
    quota_gb: int = 0
    youngest_days: int = 7

    @property
    def quota_bytes(self) -> int:
        """The quota in bytes."""
        return self.quota_gb * 10**9

    @property
    def is_on(self) -> bool:
        """Whether anything ever goes."""
        return bool(self.days or self.quota_gb)


@dataclass(frozen=True)
class Stored:
    """A study that is proven to be in an archive as it is here.

    Attributes:
        study: Study Instance UID.
        content_root: of what is proven to be there.
        since: when that was proven, seconds since the epoch, UTC.
    """

    study: str
    content_root: bytes
    since: int


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept, for `radmesh status`.

    Attributes:
        used_bytes: encoded bytes of all studies.
        quota_bytes: the quota, 0 for none.
        removed: studies that went since the start of the node.
        why_full: why no more images are taken in, or "".
    """

    used_bytes: int
    quota_bytes: int
    removed: int
    why_full: str


class Keeping:
    """Removes what has been kept for long enough.

    Args:
        settings: how long that is.
        catalog: the studies.
        discards: removes them.
        stored: gives the studies that are proven to be in an archive, those first that go first.
        reasons: what keeps a study.
        clock: tells the time.
    """

    def __init__(
        self,
        settings: KeepingSettings,
        catalog: Catalog,
        discards: Discards,
        stored: Callable[[], Iterable[Stored]],
        reasons: Sequence[WhyStays],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._discards = discards
        self._stored = stored
        self._reasons = reasons
        self._clock = clock
        self._removed = 0
        self._why_full = ""

    @property
    def why_full(self) -> str:
        """Why no more images are taken in, by the last look, or ""."""
        return self._why_full

    def describe(self) -> Kept:
        """What is kept now."""
        return Kept(
            used_bytes=self._catalog.totals().encoded_bytes,
            quota_bytes=self._settings.quota_bytes,
            removed=self._removed,
            why_full=self._why_full,
        )

    def require_room(self) -> None:
        """Check that images may come in, by the last look and the size of the store now.

        Raises:
            NodeError: the quota is used up, and nothing may go.
        """
        if self._why_full and self._catalog.totals().encoded_bytes >= self._settings.quota_bytes:
            raise NodeError(
                f"no more images are taken in: {self._why_full}",
                hint="raise keeping.quota_gb; `radmesh keeping` says what keeps the studies",
                code=ExitCode.DISK,
            )

    def why_stays(self, study: str) -> str:
        """Why a study (UID) has to stay now, or ""; whether it is in an archive is not asked."""
        row = self._catalog.study(study)
        if row is None:
            return "is not here"
        if self._clock.now() - row.received < self._settings.youngest_days * DAY_SECONDS:
            return f"came in less than {self._settings.youngest_days} days ago"
        return first_reason(study, self._reasons)

    def due(self) -> list[StudyRow]:
        """Studies that go now, in the order of `stored`; `AT_ONCE` at most."""
        excess = 0
        if self._settings.quota_bytes:
            excess = self._catalog.totals().encoded_bytes - self._settings.quota_bytes
        ends = self._clock.now() - self._settings.days * DAY_SECONDS
        found: list[StudyRow] = []
        for one in self._stored():
            is_over = self._settings.days and one.since <= ends
            if len(found) == AT_ONCE:
                break
            if not (is_over or excess > 0):
                continue
            row = self._catalog.study(one.study)
            if row is None or row.content_root != one.content_root or self.why_stays(one.study):
                continue
            found.append(row)
            excess -= row.encoded_bytes
        return found

    def look(self) -> int:
        """Remove what has been kept for long enough; returns how many studies went.

        Raises:
            NodeError: the disk or the log cannot be written.
        """
        if not self._settings.is_on:
            return 0
        count = 0
        for row in self.due():
            try:
                self._discards.remove(row, self.why_stays)
                count += 1
            except NodeError as error:
                if error.code is not ExitCode.REFUSED:
                    raise
                # It began to be needed, or changed, since it was looked at.
                log.info("%s", error.message)
        self._removed += count
        self._why_full = self._fullness()
        if self._why_full:
            log.warning("no more images are taken in: %s", self._why_full)
        return count

    def _fullness(self) -> str:
        quota = self._settings.quota_bytes
        if not quota or self._catalog.totals().encoded_bytes < quota or self.due():
            return ""
        return (
            f"the quota of {quota / 1e9:g} GB is used up, and no study may go: each is not proven"
            " to be in an archive, or something keeps it"
        )

    async def run(self) -> None:
        """Look from time to time, until cancelled."""
        if not self._settings.is_on:
            return
        while True:
            try:
                while await in_thread(self.look) == AT_ONCE:
                    pass
            except NodeError as error:
                log.error("studies that may go cannot be removed: %s", error.message)
            await trio.sleep(LOOK_SECONDS)
