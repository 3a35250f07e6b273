"""What a peer does not take of its feed: found, set aside, and tried again later.

A peer that cannot read one record resets the whole subscription, and would be told the
same again for ever, with all that stands behind it. So when a peer comes back to where it
stood though its connection held, it is told fewer records at a time, until one alone is
refused: that one is set aside, the rest goes on, and it is tried again with longer and
longer pauses. In memory only: a restart finds it out again.

Pure arithmetic on a clock that is given.
"""

from collections import OrderedDict
from dataclasses import dataclass

from protocol.limits import ANNOUNCE_RECORDS

STRIKES = 2
"""So often the same records are refused before fewer are sent: once may be chance."""

FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 6 * 3600.0

SET_ASIDE = 1000
"""Most studies that are set aside for a peer; what it refuses beyond that holds it up."""

_REMEMBERED = 64
"""Announcements that may be under way to a peer before it says where it stands."""

REFUSED = "it does not take the record"

Place = tuple[bytes, int]
"""Epoch and cursor."""


@dataclass(frozen=True)
class Aside:
    """A study that is not told to a peer for now.

    Attributes:
        reason: why, as far as is known.
        again: when it is tried again, by the clock that is given.
    """

    reason: str
    again: float


class Setbacks:
    """What is known of one peer."""

    def __init__(self) -> None:
        self.aside: dict[str, Aside] = {}
        self.most = ANNOUNCE_RECORDS
        self._told: OrderedDict[Place, tuple[int, str]] = OrderedDict()
        self._strikes = 0
        self._pauses: dict[str, float] = {}

    def tells(self, place: Place, studies: tuple[str, ...]) -> None:
        """A peer that stands at this place is going to be told of these studies (UIDs)."""
        self._told[place] = (len(studies), studies[0] if studies else "")
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)

    def forget_told(self) -> None:
        """The connection is gone: that the peer comes back says nothing."""
        self._told.clear()
        self._strikes = 0

    def comes_back(self, place: Place, now: float) -> bool:
        """A peer subscribes at this place; whether it does so since it refused something.

        Args:
            place: of the subscription.
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
        """Studies whose pause is over; from now on they are told again."""
        due = [study for study, one in self.aside.items() if one.again <= now]
        for study in due:
            del self.aside[study]
        return due
