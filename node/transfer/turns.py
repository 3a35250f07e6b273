"""Whose turn it is to write: a pure decision over all transfers that a node sends.

- Transfers on one link (to one peer) take turns, a batch each, in the order in
  which they asked; transfers on other links are not held up by them.
- An urgent (STAT) transfer goes before routine ones of its link, and while it has
  bytes to send, routine transfers on any link pause. An urgent transfer that is itself held up, by
  its cap or by its line, holds up no transfer on another link.
- Nobody starves: a transfer that has waited `TRICKLE_SECONDS` writes one small piece in any case,
  so that no recipient takes a source for dead.

No clock and no tasks: time is an argument, and `node.transfer.uplink` does the waiting.
"""

import enum
from dataclasses import dataclass

TRICKLE_SECONDS = 5.0
"""Well below `limits.STALL_SECONDS`."""

TURN_SECONDS = 1.0
"""Longest turn: on a slow line it ends before its batch does."""

STAT_GRACE_SECONDS = 0.5
"""An urgent transfer that has moved nothing for this long does not need the line."""


class _State(enum.Enum):
    IDLE = "has nothing to send"
    WAITING = "asked for a turn"
    WRITING = "has the turn"
    RESTING = "has the turn and waits for its cap"


@dataclass(eq=False)
class Place:
    """One transfer among the others.

    Attributes:
        link: the peer that it sends to.
        stat: whether it is urgent.
        trickles: whether it got its turn because it had waited too long.
    """

    link: bytes
    stat: bool
    moved_at: float
    trickles: bool = False
    state: _State = _State.IDLE
    asked: int = 0
    asked_at: float = 0.0
    began_at: float = 0.0


class Turns:
    """All transfers that are sending; times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._asked = 0

    def enter(self, link: bytes, *, stat: bool, now: float) -> Place:
        """A transfer begins to send."""
        place = Place(link, stat, moved_at=now)
        self._places.append(place)
        return place

    def leave(self, place: Place) -> None:
        """A transfer has sent all, or is over."""
        self._places.remove(place)

    def ask(self, place: Place, now: float) -> None:
        """A transfer has a batch to send and queues for a turn."""
        self._asked += 1
        place.state, place.asked, place.asked_at = _State.WAITING, self._asked, now

    def try_begin(self, place: Place, now: float) -> bool:
        """Begin its turn, if that is allowed now; returns whether it is."""
        place.trickles = now >= place.asked_at + TRICKLE_SECONDS
        if not (place.trickles or self._may_begin(place, now)):
            return False
        place.state = _State.WRITING
        place.began_at = place.moved_at = now
        return True

    def look_again_at(self, place: Place, now: float) -> float:
        """When the answer of `try_begin` may change by time alone."""
        times = [place.asked_at + TRICKLE_SECONDS]
        if not place.stat:
            times += [
                other.moved_at + STAT_GRACE_SECONDS
                for other in self._places
                if other.stat and other.moved_at + STAT_GRACE_SECONDS > now
            ]
        return min(times)

    def rest(self, place: Place) -> None:
        """The transfer waits for its cap, within its turn."""
        place.state = _State.RESTING

    def go_on(self, place: Place, now: float) -> None:
        """The wait for its cap is over."""
        place.state = _State.WRITING
        place.moved_at = now

    def moved(self, place: Place, now: float) -> bool:
        """The transfer has written a piece; returns whether its turn goes on."""
        place.moved_at = now
        if place.trickles or (not place.stat and self._stat_needs_line(place.link, now)):
            return False
        return now - place.began_at < TURN_SECONDS or not any(
            other.state is _State.WAITING for other in self._on(place)
        )

    def end(self, place: Place) -> None:
        """Its turn is over."""
        place.state = _State.IDLE

    def _on(self, place: Place) -> list[Place]:
        return [other for other in self._places if other is not place and other.link == place.link]

    def _may_begin(self, place: Place, now: float) -> bool:
        for other in self._on(place):
            if other.state in (_State.WRITING, _State.RESTING):
                return False
            first = (not other.stat, other.asked) < (not place.stat, place.asked)
            if other.state is _State.WAITING and first:
                return False
        return place.stat or not self._stat_needs_line(place.link, now)

    def _stat_needs_line(self, link: bytes, now: float) -> bool:
        for other in self._places:
            if not other.stat:
                continue
            match other.state:
                case _State.WAITING:
                    return True
                case _State.RESTING:
                    if other.link == link:
                        return True
                case _:
                    if now < other.moved_at + STAT_GRACE_SECONDS:
                        return True
        return False
