"""What a check of `radmesh doctor` finds, and the type of a check."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from node.blocking import in_thread
from node.operations.base import Call

Finding = dict[str, str]
"""`about`, `state` (`fine`, `note`, `wrong`), `found`, and `next`, what to do."""

ENDING_SECONDS = 30 * 24 * 3600
"""A certificate or card that ends within this time is wrong."""


@dataclass(frozen=True)
class Check:
    """One row of the table of checks.

    Attributes:
        name: what it looks at, for the finding that it could not be made.
        run: makes the findings; is given `CHECK_SECONDS`.
    """

    name: str
    run: Callable[[Call], Awaitable[Iterable[Finding]]]


def finding(about: str, state: str, found: str, todo: str = "") -> Finding:
    """A finding, as JSON."""
    return {"about": about, "state": state, "found": found, "next": todo}


def blocking(name: str, find: Callable[[Call], Iterable[Finding]]) -> Check:
    """A check that reads disk or database, in a thread."""

    async def run(call: Call) -> list[Finding]:
        return await in_thread(lambda: list(find(call)))

    return Check(name, run)
