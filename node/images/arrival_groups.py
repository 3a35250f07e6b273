"""When arrived instances are packed: pure arithmetic; times are arguments.

The instances of one study from one source form a group. A group is packed when it has been quiet,
or is urgent, or has waited or grown enough; later instances form another group. Each instance is in
exactly one group at a time, until its group is done.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")

QUIET_SECONDS = 30.0
LONGEST_SECONDS = 600.0
"""How long a group waits without a new instance, and how long at most."""

STAT_QUIET_SECONDS = 1.0
STAT_LONGEST_SECONDS = 5.0
"""The same for an urgent group whose association is still open; otherwise it does not wait. It is
not packed instance by instance: each packing makes an announcement to all peers, and a batch of its
own."""

MOST_ITEMS = 20_000
MOST_BYTES = 8 * 1024 * 1024 * 1024
"""A group of this size is packed; the rest of its study makes another group."""

AGAIN_SECONDS = 5.0
AGAIN_MOST_SECONDS = 600.0
"""Pause before a group that could not be packed is tried again; it doubles each time."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How long groups of one source wait, seconds: without a new instance, and at most."""

    quiet: float = QUIET_SECONDS
    longest: float = LONGEST_SECONDS


@dataclass(eq=False, slots=True)
class Group(Generic[Item]):
    """The instances of one study that one source brought.

    Attributes:
        study: Study Instance UID.
        source: the source that brought them.
        items: in the order in which they came.
        bytes: size of all items.
        first, last: when the first and the newest item came, seconds.
        associations: open associations that brought items.
        stat: whether any item is urgent.
        is_closed: whether nothing more is expected.
        failures: how often packing failed.
        why: why packing failed the last time.
        not_before: when packing may be tried again, seconds.
    """

    study: str
    source: str
    items: list[Item] = field(default_factory=list)
    bytes: int = 0
    first: float = 0.0
    last: float = 0.0
    associations: set[Hashable] = field(default_factory=set)
    stat: bool = False
    is_closed: bool = False
    failures: int = 0
    why: str = ""
    not_before: float = 0.0


class Groups(Generic[Item]):
    """The groups that wait. Times are seconds on any clock that does not go back.

    Args:
        windows: gives how long groups of a source wait.
    """

    def __init__(self, windows: Callable[[str], Windows] = lambda source: Windows()) -> None:
        self._windows = windows
        self._waiting: dict[tuple[str, str], Group[Item]] = {}
        self._at_work: set[Group[Item]] = set()

    def arrived(
        self,
        item: Item,
        *,
        study: str,
        source: str,
        size: int,
        now: float,
        association: Hashable | None = None,
        stat: bool = False,
        since: float | None = None,
    ) -> None:
        """An instance has come.

        Args:
            size: bytes.
            association: the association that brought it, if it is still open.
            since: when it came, if that was before `now` (after a restart).
        """
        group = self._waiting.get((study, source))
        came = now if since is None else min(since, now)
        if group is None:
            group = self._waiting[study, source] = Group(study, source, first=came)
        group.items.append(item)
        group.bytes += size
        group.first, group.last = min(group.first, came), max(group.last, now)
        group.stat |= stat
        if association is not None:
            group.associations.add(association)

    def hurry(self, study: str, source: str) -> None:
        """Make the waiting group of a study from a source urgent."""
        group = self._waiting.get((study, source))
        if group is not None:
            group.stat = True

    def close(self, study: str) -> None:
        """All of a study has come: its waiting groups are due."""
        for group in self._waiting.values():
            if group.study == study:
                group.is_closed = True

    def ended(self, association: Hashable) -> None:
        """An association brings nothing more."""
        for group in (*self._waiting.values(), *self._at_work):
            group.associations.discard(association)

    def due(self, now: float, *, only_stat: bool = False) -> Group[Item] | None:
        """Take the group to be packed now, urgent ones first; `done` or `failed` must follow.

        Args:
            only_stat: take urgent groups only.
        """
        due = [group for group in self._chosen(only_stat) if self._when(group) <= now]
        if not due:
            return None
        group = min(due, key=lambda one: (not one.stat, self._when(one)))
        del self._waiting[group.study, group.source]
        self._at_work.add(group)
        return group

    def next_due(self, *, only_stat: bool = False) -> float | None:
        """When the next group will be due, as far as is known now; None when no group waits."""
        return min(map(self._when, self._chosen(only_stat)), default=None)

    def _chosen(self, only_stat: bool) -> list[Group[Item]]:
        return [group for group in self._waiting.values() if group.stat or not only_stat]

    def done(self, group: Group[Item]) -> None:
        """A group has been packed."""
        self._at_work.remove(group)

    def failed(self, group: Group[Item], why: str, now: float) -> None:
        """Items left in a group could not be packed: they wait again, with newer items."""
        group.why = why
        self._at_work.remove(group)
        if not group.items:
            return
        group.not_before = now + min(
            AGAIN_SECONDS * 2.0 ** min(group.failures, 10), AGAIN_MOST_SECONDS
        )
        group.failures += 1
        newer = self._waiting.get((group.study, group.source))
        if newer is not None:
            group.items += newer.items
            group.bytes += newer.bytes
            group.last = newer.last
            group.stat |= newer.stat
            group.associations |= newer.associations
        self._waiting[group.study, group.source] = group

    @property
    def waiting(self) -> list[Group[Item]]:
        """All groups that are not packed yet, also those that are being packed."""
        return [*self._waiting.values(), *self._at_work]

    def _when(self, group: Group[Item]) -> float:
        """When a group is due, unless something changes before."""
        is_full = len(group.items) >= MOST_ITEMS or group.bytes >= MOST_BYTES
        if is_full or group.is_closed or (group.stat and not group.associations):
            when = group.last
        elif group.stat:
            when = min(group.last + STAT_QUIET_SECONDS, group.first + STAT_LONGEST_SECONDS)
        else:
            windows = self._windows(group.source)
            when = group.first + windows.longest
            if not group.associations:
                when = min(when, group.last + windows.quiet)
        return max(when, group.not_before)
