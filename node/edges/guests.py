"""Who is connected to a listener: strangers cost little, and the oldest of them give way.

Who says nothing keeps nobody out.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

STRANGERS = 128
"""Most connections at one time of which it is not known whose they are."""


@dataclass(eq=False)
class Guest:
    """A connection, and whether it is known whose it is."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_admitted: bool = False


class Guests:
    """All connections of one listener."""

    def __init__(self) -> None:
        # The oldest first.
        self._guests: dict[Guest, None] = {}

    def __len__(self) -> int:
        return len(self._guests)

    @property
    def admitted(self) -> int:
        """How many are known."""
        return sum(guest.is_admitted for guest in self._guests)

    @contextlib.contextmanager
    def entered(self) -> Iterator[Guest]:
        """A new stranger is there inside this block, which ends early if it has to give way."""
        guest = Guest()
        self._guests[guest] = None
        strangers = [one for one in self._guests if not one.is_admitted]
        for one in strangers[: max(0, len(strangers) - STRANGERS)]:
            one.scope.cancel()
        try:
            with guest.scope:
                yield guest
        finally:
            del self._guests[guest]

    def admit(self, guest: Guest, most: int) -> bool:
        """Count one as known, unless so many are; returns whether it is."""
        guest.is_admitted = guest.is_admitted or self.admitted < most
        return guest.is_admitted
