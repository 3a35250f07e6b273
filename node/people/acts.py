"""Acts that a two-person rule may hold, and the proposals that they become."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LIFE_MS = 7 * 24 * 3600 * 1000
"""How long a proposal waits."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """An act that a rule may hold.

    Attributes:
        what: says to the second person all that matters of it.
        parameters: of its operation; names in them mean the same a week later.
        kinds: the rules that hold it; None: those of its operation.
        peer: facility key of the facility that it is about, or empty.
        subjects: whom it is about, for the entry.
    """

    what: str
    parameters: Mapping[str, Any] = field(repr=False)
    kinds: tuple[str, ...] | None = None
    peer: bytes = b""
    subjects: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposal; `parameters` and `what` are empty when it is over. Times as in the table."""

    number: int
    operation: str
    what: str
    parameters: Mapping[str, Any] = field(repr=False)
    proposer: str
    role: str
    proposed: int
    state: str
    ended: int | None
    ended_by: str
    reason: str

    @property
    def until(self) -> int:
        """When it ends by itself, milliseconds since the epoch, UTC."""
        return self.proposed + LIFE_MS
