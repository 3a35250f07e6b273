"""Work in a process that ends in the middle, at a chosen call to the file system."""

import os
import warnings
from collections.abc import Callable
from typing import TypeVar

CALLS = ("fsync", "link", "mkdir", "rename", "rmdir", "unlink")

T = TypeVar("T")


def killed_at(step: int, prepare: Callable[[], T], work: Callable[[T], object]) -> bool:
    """Run work whose process ends at once at its call number `step`.

    Args:
        step: counted from 0, over all of `CALLS`.
        prepare: runs before calls are counted, in the same process.
        work: takes what `prepare` gives.

    Returns:
        Whether it was killed; otherwise it came to its end.
    """
    with warnings.catch_warnings():
        # The child runs nothing of the other threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            prepared = prepare()
            left = step

            def counted(real: Callable[..., object]) -> Callable[..., object]:
                def call(*args: object, **kwargs: object) -> object:
                    nonlocal left
                    if left == 0:
                        os._exit(77)
                    left -= 1
                    return real(*args, **kwargs)

                return call

            for name in CALLS:
                setattr(os, name, counted(getattr(os, name)))
            work(prepared)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 77)
    return code == 77
