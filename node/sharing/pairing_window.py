"""The window of a pairing: who may try the code that is shown, and how often.

Pure: the time is an argument. Only a wrong confirmation is a try; whoever sends broken bytes or
nothing costs itself a pause and the code nothing. Addresses are hosts as limits count them: of an
IPv6 caller the /64.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from protocol import limits

GIVE_WAY_SECONDS = 3.0
"""A caller that has not confirmed for so long gives way to another one: three round trips, which
is all that it needs, take less on any line."""

LONGEST_PAUSE_SECONDS = 60.0
"""An address that comes again and again without a confirmation waits twice as long each time, up
to this: many silent callers then leave room for the right one."""

ADDRESSES = 1024
"""Most addresses that are remembered for their pauses; the one that came longest ago is forgotten
first."""


@dataclass(eq=False)
class Visit:
    """A caller that is inside.

    Attributes:
        host: its address.
        since: when it came.
        came_before: whether its address had been inside before.
    """

    host: str
    since: float
    came_before: bool
    push_out: Callable[[], None] = field(repr=False)


class Window:
    """One code, while it can be tried.

    Args:
        code: the digits.
        now: when it opens, seconds of the clock that decides about rights.

    Attributes:
        code: the digits.
        until: when it ends by itself.
        tries: how many confirmations were wrong so far.
        last_wrong: the address of the last of them.
        is_used: whether somebody has confirmed: nobody else comes in any more.
    """

    def __init__(self, code: str, now: int) -> None:
        self.code = code
        self.until = now + limits.PAIRING_WINDOW_SECONDS
        self.tries = 0
        self.last_wrong = ""
        self.is_used = False
        self._visits: list[Visit] = []
        self._wrong: Counter[str] = Counter()
        self._pauses: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"Window(until={self.until}, tries={self.tries})"

    def why_closed(self, now: int) -> str:
        """Why nobody may come in any more; "" while somebody may."""
        if self.is_used:
            return "confirmed"
        if self.tries >= limits.PAIRING_TRIES:
            return "tries"
        return "time" if now >= self.until else ""

    def enter(self, host: str, moment: float, push_out: Callable[[], None]) -> Visit | None:
        """Let a caller in, or not; the window must be open.

        Args:
            host: its address.
            moment: seconds of a clock that never goes back.
            push_out: ends its visit, when its place is needed.
        """
        if self._wrong[host] >= limits.PAIRING_TRIES_PER_ADDRESS:
            return None
        came, pause = self._pauses.get(host, (float("-inf"), 0.0))
        if moment < came + pause or not self._make_room(host, moment):
            return None
        visit = Visit(host, moment, host in self._pauses, push_out)
        self._visits.append(visit)
        pause = min(max(2 * pause, limits.PAIRING_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._pauses[host] = (moment, pause)
        self._pauses.move_to_end(host)
        if len(self._pauses) > ADDRESSES:
            self._pauses.popitem(last=False)
        return visit

    def _make_room(self, host: str, moment: float) -> bool:
        """Whether there is a place, perhaps that of a caller that gives way.

        An address that comes for the first time has the place of one that came before, at once:
        so silent callers from many addresses keep the right one out for one round of theirs.
        """
        same = [visit for visit in self._visits if visit.host == host]
        if not same and len(self._visits) < limits.PAIRING_CALLERS:
            return True
        is_new = host not in self._pauses
        for visit in same or self._visits:
            if moment >= visit.since + GIVE_WAY_SECONDS or (is_new and visit.came_before):
                self.leave(visit)
                visit.push_out()
                return True
        return False

    def leave(self, visit: Visit) -> None:
        """A caller is gone."""
        if visit in self._visits:
            self._visits.remove(visit)

    def was_wrong(self, visit: Visit) -> None:
        """A caller's confirmation was wrong: that is a try."""
        self.tries += 1
        self.last_wrong = visit.host
        self._wrong[visit.host] += 1

    def confirm(self, visit: Visit) -> None:
        """A caller has the code; all others have to go."""
        self.is_used = True
        for other in [one for one in self._visits if one is not visit]:
            self.leave(other)
            other.push_out()
