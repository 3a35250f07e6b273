"""Places for work are shared fairly, whoever asks most or takes longest."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from node.transfer.shares import Shares

pytestmark = pytest.mark.timeout(20)


@asynccontextmanager
async def place(shares: Shares, whose: bytes) -> AsyncIterator[None]:
    share, borrower = shares.of(whose), object()
    await share.acquire_on_behalf_of(borrower)
    try:
        yield
    finally:
        share.release_on_behalf_of(borrower)


class Work:
    """Pieces of work of a test; time is the test's own.

    Attributes:
        running: whose work has a place now, in the order in which it began.
    """

    def __init__(self, places: int, nursery: trio.Nursery) -> None:
        self.now = 0.0
        self.running: list[bytes] = []
        self.shares = Shares(places, lambda: self.now)
        self._nursery = nursery
        self._ends: dict[bytes, list[trio.Event]] = {}

    async def ask(self, whose: bytes, pieces: int = 1) -> None:
        for _ in range(pieces):
            self._nursery.start_soon(self._one, whose)
            await trio.testing.wait_all_tasks_blocked()

    async def _one(self, whose: bytes) -> None:
        async with place(self.shares, whose):
            end = trio.Event()
            self._ends.setdefault(whose, []).append(end)
            self.running.append(whose)
            await end.wait()
            self.running.remove(whose)

    async def finish(self, whose: bytes, after: float) -> None:
        """One piece of someone's work has taken so long."""
        self.now += after
        self._ends[whose].pop(0).set()
        await trio.testing.wait_all_tasks_blocked()


async def test_who_sends_hundreds_of_pieces_does_not_hold_up_who_sends_one() -> None:
    async with trio.open_nursery() as nursery:
        work = Work(2, nursery)
        await work.ask(b"many", 300)
        assert work.running == [b"many", b"many"]
        await work.ask(b"few", 2)
        await work.finish(b"many", 1)
        assert work.running == [b"many", b"few"]
        # Each has a place; the next piece of the same one takes the one it leaves.
        await work.finish(b"few", 0.1)
        assert sorted(work.running) == [b"few", b"many"]
        nursery.cancel_scope.cancel()


async def test_places_go_by_time_where_they_are_fewer_than_sources() -> None:
    async with trio.open_nursery() as nursery:
        work = Work(1, nursery)
        done = dict.fromkeys((b"slow", b"quick"), 0)
        await work.ask(b"slow", 50)
        await work.ask(b"quick", 50)
        while work.now < 20:
            [whose] = work.running
            done[whose] += 1
            await work.finish(whose, {b"slow": 2, b"quick": 0.5}[whose])
        # As much time for each, so four times as many pieces of the quick one.
        assert done[b"quick"] >= 3 * done[b"slow"]
        assert done[b"slow"] >= 4
        nursery.cancel_scope.cancel()


async def test_who_has_no_place_goes_before_who_has_one_though_it_used_more() -> None:
    async with trio.open_nursery() as nursery:
        work = Work(2, nursery)
        await work.ask(b"quick", 5)
        await work.ask(b"long", 5)
        await work.finish(b"quick", 0)
        assert sorted(work.running) == [b"long", b"quick"]
        await work.finish(b"long", 500)
        assert sorted(work.running) == [b"long", b"quick"]
        nursery.cancel_scope.cancel()


async def test_who_was_away_is_owed_nothing() -> None:
    async with trio.open_nursery() as nursery:
        work = Work(1, nursery)
        await work.ask(b"steady", 10)
        for _ in range(5):
            await work.finish(b"steady", 10)
        await work.ask(b"new", 20)
        began = []
        for _ in range(8):
            [whose] = work.running
            began.append(whose)
            await work.finish(whose, 10)
        assert began.count(b"new") <= 5
        assert began.count(b"steady") >= 3
        nursery.cancel_scope.cancel()


async def test_a_cancelled_wait_leaves_its_place_to_others() -> None:
    async with trio.open_nursery() as nursery:
        work = Work(1, nursery)
        await work.ask(b"first")
        with trio.move_on_after(0):
            async with place(work.shares, b"given up"):
                raise AssertionError("there was no place")
        await work.ask(b"second")
        await work.finish(b"first", 1)
        assert work.running == [b"second"]
        await work.finish(b"second", 1)
        # Nothing is remembered of who has no work, and all places are free again.
        assert work.shares._sources == {}
        await work.ask(b"third")
        assert work.running == [b"third"]
        nursery.cancel_scope.cancel()


async def test_a_failure_gives_its_place_back() -> None:
    shares = Shares(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="bad"):
            async with place(shares, b"one"):
                raise ValueError("bad batch")
    with trio.fail_after(5):
        async with place(shares, b"two"):
            pass
