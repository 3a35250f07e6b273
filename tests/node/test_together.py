"""Work for several in one call: who waits gets what came of its own, whatever the others do."""

import threading

import pytest
import trio
import trio.testing

from node.errors import ExitCode, NodeError
from node.together import Together


class Held:
    """Work that waits in its thread until it is let go; remembers the rounds."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, items):
        self.rounds.append(list(items))
        self.begun.set()
        assert self.go.wait(10)
        return [NodeError("odd", code=ExitCode.DISK) if item % 2 else item * 10 for item in items]


async def _waiting_for(together: Together[int, int], items, into: dict[int, object]) -> None:
    async def one(item: int) -> None:
        try:
            into[item] = await together.do(item)
        except NodeError as error:
            into[item] = error.message

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(one, item)


async def test_what_comes_while_a_round_runs_is_the_next_one() -> None:
    work, done = Held(), {}
    kept: list[int] = []
    together = Together(work, most=100, on_done=lambda item, _: kept.append(item))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_waiting_for, together, [2], done)
        await trio.to_thread.run_sync(work.begun.wait, 10)
        nursery.start_soon(_waiting_for, together, [3, 4, 6], done)
        await trio.testing.wait_all_tasks_blocked()
        work.go.set()
    assert [sorted(items) for items in work.rounds] == [[2], [3, 4, 6]]
    assert done == {2: 20, 3: "odd", 4: 40, 6: 60}
    assert sorted(kept) == [2, 4, 6]


async def test_a_round_has_no_more_than_its_most() -> None:
    work, done = Held(), {}
    work.go.set()
    together = Together(work, most=3)
    await _waiting_for(together, range(0, 20, 2), done)
    assert max(map(len, work.rounds)) == 3
    assert sorted(item for items in work.rounds for item in items) == list(range(0, 20, 2))
    assert done == {item: item * 10 for item in range(0, 20, 2)}


async def test_the_first_of_a_round_is_cancelled_and_the_others_go_on() -> None:
    work, done = Held(), {}
    together = Together(work, most=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_waiting_for, together, [2], done)
        await trio.to_thread.run_sync(work.begun.wait, 10)
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await together.do(4)

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(_waiting_for, together, [6], done)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        work.go.set()
    assert work.rounds == [[2], [6]]
    assert done == {2: 20, 6: 60}


async def test_who_is_cancelled_in_its_round_is_kept_all_the_same() -> None:
    work = Held()
    kept: list[int] = []
    together = Together(work, most=100, on_done=lambda item, _: kept.append(item))
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def only() -> None:
            with scope:
                await together.do(2)

        nursery.start_soon(only)
        await trio.to_thread.run_sync(work.begun.wait, 10)
        scope.cancel()
        work.go.set()
    assert kept == [2]


async def test_nobody_hangs_when_the_work_itself_breaks() -> None:
    def breaks(items):
        raise ZeroDivisionError

    together: Together[int, int] = Together(breaks, most=100)
    done: dict[int, object] = {}
    with trio.fail_after(10), pytest.raises(BaseExceptionGroup) as caught:
        await _waiting_for(together, [1, 2, 3], done)
    assert caught.group_contains(ZeroDivisionError)
