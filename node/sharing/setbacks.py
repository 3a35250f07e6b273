"""Records of a feed that its peer does not accept: found, set aside, and tried again later.

A peer that cannot read one record resets the whole subscription, and would get that record, and all
that follow it, again for ever. So when a peer subscribes at its old position although its
connection held, it gets fewer records at a time, until a single record is refused: that record is
set aside and tried again after longer and longer pauses; the others go on. This is in memory only:
after a restart it is found out again.

Pure arithmetic; times are arguments.
"""

from collections import OrderedDict
from dataclasses import dataclass

from protocol.limits import ANNOUNCE_RECORDS

STRIKES = 2
"""How often the same records are refused before fewer are sent: once may be chance."""

FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 6 * 3600.0

SET_ASIDE = 1000
"""Most studies that are set aside for a peer; a further refused record holds up its feed."""

_REMEMBERED = 64
"""Most announcements to a peer that are remembered until it subscribes again."""

REFUSED = "it does not take the record"

Place = tuple[bytes, int]
"""A position in a feed: epoch and cursor."""


@dataclass(frozen=True)
class Aside:
    """A study of which a peer is not told for now.

    Attributes:
        reason: why the peer does not accept the record, as far as is known.
        again: when it is tried again, by the caller's clock.
    """

    reason: str
    again: float


class Setbacks:
    """The setbacks of one peer."""

    def __init__(self) -> None:
        self.aside: dict[str, Aside] = {}
        self.most = ANNOUNCE_RECORDS
        self._told: OrderedDict[Place, tuple[int, str]] = OrderedDict()
        self._strikes = 0
        self._pauses: dict[str, float] = {}

    def tells(self, place: Place, studies: tuple[str, ...]) -> None:
        """A peer at this position of its feed is about to be told of these studies (UIDs)."""
        self._told[place] = (len(studies), studies[0] if studies else "")
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)

    def forget_told(self) -> None:
        """The connection is gone: if the peer subscribes again, that is no refusal."""
        self._told.clear()
        self._strikes = 0

    def comes_back(self, place: Place, now: float) -> bool:
        """A peer subscribes at this position; returns whether it has refused a record since.

        Args:
            place: the position at which it subscribes.
            now: seconds.
        """
        refused = self._told.get(place)
        self._told.clear()
        if refused is None:
            self._strikes = 0
            self.most = min(ANNOUNCE_RECORDS, self.most * 2)
            return False
        self._strikes += 1
        if self._strikes < STRIKES:
            return True
        self._strikes = 0
        count, study = refused
        if count > 1:
            self.most = max(1, min(self.most, count) // 2)
        elif count == 1:
            self.set_aside(study, REFUSED, now)
            self.most = ANNOUNCE_RECORDS
        return True

    def set_aside(self, study: str, reason: str, now: float) -> None:
        """Do not tell of a study (UID) until its pause is over."""
        if study in self.aside or len(self.aside) >= SET_ASIDE:
            return
        pause = min(self._pauses.get(study, FIRST_PAUSE_SECONDS / 2) * 2, LONGEST_PAUSE_SECONDS)
        if len(self._pauses) < SET_ASIDE or study in self._pauses:
            self._pauses[study] = pause
        self.aside[study] = Aside(reason, now + pause)

    def take_due(self, now: float) -> list[str]:
        """Studies whose pause is over; they are set aside no longer."""
        due = [study for study, one in self.aside.items() if one.again <= now]
        for study in due:
            del self.aside[study]
        return due
