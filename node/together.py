"""Does blocking work for many waiting tasks in one call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

from node.blocking import in_thread
from node.errors import NodeError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    outcome: Result | NodeError | None = None


@dataclass(eq=False, slots=True)
class _Round(Generic[Item, Result]):
    """Items of one call. The first task leads; `changed` wakes the others at the end of the
    round or when the leader has left."""

    waiting: list[_Waiting[Item, Result]] = field(default_factory=list)
    is_begun: bool = False
    changed: trio.Event = field(default_factory=trio.Event)


class Together(Generic[Item, Result]):
    """Makes one call at a time; items that come while it runs wait for the next call.

    Args:
        work: runs in a thread; takes the items of a round, and returns for each, in order, its
            result, or an error if it failed; never None.
        most: most items in a round.
        on_done: called in the trio thread with each item and its result as soon as a round is
            done, even if no task waits for it any more.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result | NodeError]],
        *,
        most: int,
        on_done: Callable[[Item, Result], None] = lambda item, result: None,
    ) -> None:
        self._work = work
        self._most = most
        self._on_done = on_done
        self._next: _Round[Item, Result] = _Round()
        self._one_at_a_time = trio.Lock()

    async def do(self, item: Item) -> Result:
        """Wait for the result of an item. A task that is cancelled before its round begins
        takes its item back; after that, the work on the item is done all the same.

        Raises:
            NodeError: the item failed.
        """
        if len(self._next.waiting) >= self._most:
            self._next = _Round()
        current = self._next
        own: _Waiting[Item, Result] = _Waiting(item)
        current.waiting.append(own)
        try:
            while own.outcome is None:
                if own is current.waiting[0] and not current.is_begun:
                    await self._lead(current)
                else:
                    await current.changed.wait()
        except trio.Cancelled:
            if not current.is_begun:
                current.waiting.remove(own)
                current.changed.set()
                current.changed = trio.Event()
            raise
        if isinstance(own.outcome, NodeError):
            # Each task raises its own error: a shared one would mix their tracebacks.
            raise NodeError(own.outcome.message, hint=own.outcome.hint, code=own.outcome.code)
        return own.outcome

    async def _lead(self, current: _Round[Item, Result]) -> None:
        # First come, first served: rounds are done in their order.
        async with self._one_at_a_time:
            current.is_begun = True
            if current is self._next:
                self._next = _Round()
            try:
                with trio.CancelScope(shield=True):
                    await self._do(current.waiting)
            finally:
                for one in current.waiting:
                    if one.outcome is None:
                        # The leader raises the unexpected error itself, with its details.
                        one.outcome = NodeError("work for several failed as a whole")
                current.changed.set()

    async def _do(self, waiting: list[_Waiting[Item, Result]]) -> None:
        outcomes: Sequence[Result | NodeError]
        try:
            outcomes = await in_thread(self._work, [one.item for one in waiting])
        except NodeError as error:
            outcomes = [error] * len(waiting)
        for one, outcome in zip(waiting, outcomes, strict=True):
            one.outcome = outcome
            if not isinstance(outcome, NodeError):
                self._on_done(one.item, outcome)
