"""Work that blocks: in threads, or, in a simulation, in the loop's own and in one order."""

import threading

import pytest
import trio
import trio.testing

from node import blocking
from node.blocking import Background, in_thread, inline, is_inline, worker_pool


async def test_without_threads_work_is_done_in_the_loop_between_two_pauses() -> None:
    done: list[str] = []

    async def pause() -> None:
        done.append("pause")
        await trio.lowlevel.checkpoint()

    with inline(pause):
        assert is_inline()
        assert await in_thread(threading.get_ident) == threading.get_ident()
    assert done == ["pause", "pause"]
    assert not is_inline()
    assert await in_thread(threading.get_ident) != threading.get_ident()


async def test_what_was_begun_is_waited_for_also_without_threads() -> None:
    begun: list[int] = []
    with inline(), trio.CancelScope() as scope:
        # As with threads: cancelled before it begins it is not done, afterwards it is.
        def work() -> None:
            begun.append(1)
            scope.cancel()

        await in_thread(work)
        begun.append(2)
        await in_thread(work)
    assert begun == [1, 2]
    assert scope.cancelled_caught


async def test_a_limiter_counts_also_without_threads() -> None:
    limiter, most = trio.CapacityLimiter(1), 0

    async def pause() -> None:
        nonlocal most
        most = max(most, limiter.borrowed_tokens)
        await trio.lowlevel.checkpoint()

    async def work() -> None:
        await in_thread(int, limiter=limiter)

    with inline(pause):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(work)
    assert most == 1


async def test_a_failure_of_the_work_is_that_of_the_caller() -> None:
    with inline(), pytest.raises(ValueError, match="invalid literal"):
        await in_thread(int, "x")
    with inline(), worker_pool(2, "encode") as pool:
        assert pool.submit(int, "7").result() == 7
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result()


async def test_a_call_that_blocks_is_told_from_work_in_a_simulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocking, "_loop", None)
    blocking.watch_loop()
    with inline():
        await in_thread(blocking.must_be_in_thread)
        with pytest.raises(AssertionError, match="event loop"):
            blocking.must_be_in_thread()


async def test_what_goes_on_beside_is_done_once_for_many_pokes(
    mock_clock: trio.testing.MockClock,
) -> None:
    mock_clock.autojump_threshold = 0
    times: list[float] = []
    answers = [(10.0, False), (1.0, True), (10.0, False), (10.0, False)]

    def work() -> tuple[float, bool]:
        times.append(trio.current_time())
        return answers[len(times) - 1]

    with inline():
        background = Background("beside", work)
        began = trio.current_time()
        for _ in range(3):
            background.poke()
        await trio.sleep(5)
        background.poke()
        background.poke()
        await trio.sleep(5.5)
        assert [time - began for time in times] == [0, 10], "poked while it waits: once more"
        await trio.sleep(30)
        assert [time - began for time in times] == [0, 10, 11], "it said that there is more"
        background.poke()
        await trio.sleep(1)
        background.stop()
        background.poke()
        await trio.sleep(30)
        assert len(times) == 4


def test_beside_a_program_without_a_loop_nothing_goes_on() -> None:
    with inline():
        background = Background("beside", lambda: (0.0, True))
        background.poke()
        background.stop()
