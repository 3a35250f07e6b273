"""How the C library keeps memory for a process that takes and frees megabytes all the time."""

import ctypes
import gc
import time

import trio

from node.blocking import in_thread

QUIET_SECONDS = 20.0
"""How long a node does next to nothing before it gives memory back."""

_BUSY_SECONDS = 0.5
"""Processor time in that while above which it was doing something."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_BYTES = 32 * 1024 * 1024
_TRIM_BYTES = 64 * 1024 * 1024
_ARENAS = 1
"""`malloc_trim` leaves the end of every further one with the process, up to 64 MB each. Threads
wait for each other here, but for microseconds: what takes time takes megabytes at once."""


def keep_freed_memory() -> bool:
    """Make the C library use again what was freed, instead of giving it back at once.

    A batch passes through a dozen buffers of megabytes. glibc gets such ones from the
    system and returns them, and the system clears each page of fresh memory: a tenth of
    what a fetch costs. To be called before threads are started.

    Returns:
        Whether the C library took it; where it is another than glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = {
        _M_MMAP_THRESHOLD: _MMAP_BYTES,
        _M_TRIM_THRESHOLD: _TRIM_BYTES,
        _M_ARENA_MAX: _ARENAS,
    }
    taken = [mallopt(name, value) for name, value in settings.items()]
    return all(taken)


def spare_collector() -> None:
    """Keep what has been made so far out of the cycle collector's way, for good.

    Modules are hundreds of thousands of objects that never go; to look through them all
    takes a tenth of a second, in which no other thread runs. To be called when all is
    loaded.
    """
    gc.collect()
    gc.freeze()


def give_back() -> bool:
    """Return what is free to the system; whether the C library could and did."""
    # What hangs together in a circle is not free before.
    gc.collect()
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):
        return False


class _Work:
    """Whether this process has worked, and rests now."""

    def __init__(self) -> None:
        self._worked = False
        self._used = time.process_time()

    def look(self) -> None:
        """Give memory back if work has ended since the last look."""
        used = time.process_time()
        is_busy, self._used = used - self._used > _BUSY_SECONDS, used
        if self._worked and not is_busy:
            give_back()
        self._worked = is_busy


async def give_back_when_quiet() -> None:
    """Return memory to the system each time that work has ended, until cancelled.

    What `keep_freed_memory` keeps makes the next batch quicker, and is of no use at rest.
    """
    work = _Work()
    while True:
        await trio.sleep(QUIET_SECONDS)
        await in_thread(work.look)
