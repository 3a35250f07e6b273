"""The one way from the event loop to work that blocks: disk, SQLite, compression.

Async code calls blocking functions by `in_thread`. A function that blocks calls
`must_be_in_thread`, which raises in tests: a database call in the loop's thread would
delay every peer.

A simulation has no threads: within `inline`, the work of threads runs in the loop's own
thread, one piece after the other and in a reproducible order.
"""

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, TypeVarTuple, cast

import trio

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

Pause = Callable[[], Awaitable[None]]
"""Waits as long as a simulated thread takes to begin, or to report that it is done."""


class Limiter(Protocol):
    """Limits how many threads work at once, as `trio.CapacityLimiter` does."""

    async def acquire_on_behalf_of(self, borrower: object, /) -> None:
        """Wait for a place and hold it."""

    def release_on_behalf_of(self, borrower: object, /) -> None:
        """Give a place back."""


CHECK_VARIABLE = "RADMESH_CHECK_BLOCKING"
"""In the environment of a node that the tests start: see `watch_loop`."""

_loop: int | None = None
_pause: Pause | None = None
_at_work = 0


async def in_thread(
    function: Callable[[*Arguments], Result],
    *arguments: *Arguments,
    limiter: Limiter | None = None,
) -> Result:
    """Run a blocking function in a worker thread and wait for its result.

    Cancellation waits for the function, too: no write to a disk is abandoned half done.

    Args:
        function: synchronous and thread-safe.
        arguments: for it.
        limiter: limits how many of a kind run at once; None means trio's default limit.

    Raises:
        Exception: as the function raises it.
    """
    if _pause is not None:
        return await _inline(function, arguments, limiter, _pause)
    # Trio takes any limiter with these two methods, which its types do not say.
    theirs = cast(trio.CapacityLimiter | None, limiter)
    return await trio.to_thread.run_sync(function, *arguments, limiter=theirs)


async def _inline(
    function: Callable[[*Arguments], Result],
    arguments: tuple[*Arguments],
    limiter: Limiter | None,
    pause: Pause,
) -> Result:
    global _at_work
    await trio.lowlevel.checkpoint_if_cancelled()
    async with _held(limiter):
        with trio.CancelScope(shield=True):
            await pause()
            _at_work += 1
            try:
                return function(*arguments)
            finally:
                _at_work -= 1
                await pause()


@contextlib.asynccontextmanager
async def _held(limiter: Limiter | None) -> AsyncIterator[None]:
    borrower = object()
    if limiter is not None:
        await limiter.acquire_on_behalf_of(borrower)
    try:
        yield
    finally:
        if limiter is not None:
            limiter.release_on_behalf_of(borrower)


@contextlib.contextmanager
def inline(pause: Pause = trio.lowlevel.checkpoint) -> Iterator[None]:
    """Use no threads inside this block: for a simulation, which needs one order of events.

    Args:
        pause: awaited before and after each piece of work; other tasks run meanwhile, as
            they do while a thread begins and ends.
    """
    global _pause
    before, _pause = _pause, pause
    try:
        yield
    finally:
        _pause = before


def is_inline() -> bool:
    """Whether no threads are used; see `inline`."""
    return _pause is not None


def worker_pool(threads: int, name: str) -> Executor:
    """A pool of threads for one piece of blocking work, which itself runs in a thread."""
    if is_inline():
        return _NoPool()
    return ThreadPoolExecutor(threads, thread_name_prefix=name)


class _NoPool(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Background:
    """Does its work in the background, once or more after each `poke`.

    Args:
        name: name of its thread.
        work: synchronous; returns the least seconds until it is called again, and whether
            there is more to do then without a poke.
    """

    def __init__(self, name: str, work: Callable[[], tuple[float, bool]]) -> None:
        self._work = work
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._is_going = False
        self._thread: threading.Thread | None = None
        if not is_inline():
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def poke(self) -> None:
        """Say that there is something to do."""
        if not self._wanted.is_set():
            self._wanted.set()
        if self._thread is None and not self._is_going:
            # Outside of a loop nothing runs in the background: the rest is done at the end.
            with contextlib.suppress(RuntimeError):
                trio.lowlevel.spawn_system_task(self._run_inline)
                self._is_going = True

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopping.is_set():
                return
            if self._stopping.wait(self._step()):
                return

    async def _run_inline(self) -> None:
        while self._wanted.is_set() and not self._stopping.is_set():  # noqa: ASYNC110 (a pause)
            await trio.sleep(await in_thread(self._step))
        self._is_going = False

    def _step(self) -> float:
        self._wanted.clear()
        seconds, again = self._work()
        if again:
            self._wanted.set()
        return seconds

    def stop(self) -> None:
        """Stop; waits for work under way."""
        self._stopping.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()


def watch_loop() -> None:
    """Declare this thread the event loop's, in which nothing may block.

    Does nothing unless the environment turns the check on.
    """
    global _loop
    if os.environ.get(CHECK_VARIABLE):
        _loop = threading.get_ident()


def must_be_in_thread() -> None:
    """Declare that the caller blocks and must not run in the event loop's thread.

    Raises:
        AssertionError: it runs there; raised in tests only.
    """
    if _loop is not None and threading.get_ident() == _loop and not _at_work:
        raise AssertionError("a blocking call in the event loop's thread")
