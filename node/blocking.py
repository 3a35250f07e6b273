"""The one way from the event loop to work that blocks: disk, SQLite, compression.

Whoever awaits goes through `in_thread`. What blocks says so with `must_be_in_thread`,
which the tests make strict: a database call in the loop's thread holds up every peer.
"""

import os
import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

CHECK_VARIABLE = "RADMESH_CHECK_BLOCKING"
"""In the environment of a node that the tests start: see `watch_loop`."""

_loop: int | None = None


async def in_thread(
    function: Callable[[*Arguments], Result],
    *arguments: *Arguments,
    limiter: trio.CapacityLimiter | None = None,
) -> Result:
    """Run a blocking function in a worker thread and wait for what it gives.

    Cancelling waits too: what writes to a disk is never left half watched.

    Args:
        function: synchronous and thread-safe.
        arguments: for it.
        limiter: bounds how many of a kind run at once; trio's default bound otherwise.

    Raises:
        Exception: whatever the function raises.
    """
    return await trio.to_thread.run_sync(function, *arguments, limiter=limiter)


def watch_loop() -> None:
    """From here on this thread is the event loop's, where nothing may block.

    Costs nothing unless the environment asks for the check.
    """
    global _loop
    if os.environ.get(CHECK_VARIABLE):
        _loop = threading.get_ident()


def must_be_in_thread() -> None:
    """Say that the caller blocks, so it has no place in the event loop's thread.

    Raises:
        AssertionError: it runs there all the same; under the tests only.
    """
    if _loop is not None and threading.get_ident() == _loop:
        raise AssertionError("a blocking call in the event loop's thread")
