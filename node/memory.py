"""How the C library keeps memory for a process that takes and frees megabytes all the time."""

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_BYTES = 32 * 1024 * 1024
_TRIM_BYTES = 64 * 1024 * 1024
_ARENAS = 2
"""Each keeps what was freed in it; one for each thread would keep as many times as much."""


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
