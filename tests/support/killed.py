"""Work in a process that is killed in the middle: at a call to the file system, or a commit."""

import contextlib
import os
import sqlite3
import warnings
from collections.abc import Callable
from typing import TypeVar

from node.database import Database

CALLS = ("fsync", "link", "mkdir", "rename", "rmdir", "unlink")

T = TypeVar("T")


def killed_at(step: int, prepare: Callable[[], T], work: Callable[[T], object]) -> bool:
    """Run work whose process ends at once at its call number `step`.

    Args:
        step: counted from 0, over all of `CALLS`.
        prepare: runs before calls are counted, in the same process.
        work: the work; takes the result of `prepare`.

    Returns:
        Whether it was killed; otherwise it came to its end.
    """
    with warnings.catch_warnings():
        # The child runs none of the other threads.
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


def killed_at_commit(
    commit: int,
    when: str,
    prepare: Callable[[], contextlib.AbstractContextManager[T]],
    work: Callable[[T], object],
) -> bool:
    """Run work whose process ends at once at the commit with a number, from 1.

    Args:
        commit: number of the commit, in any database, counted from the beginning of the work.
        when: `before` or `after` the commit.
        prepare: yields the argument of the work, and keeps it open meanwhile.
        work: the work.

    Returns:
        Whether it was killed; otherwise it came to its end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            with prepare() as prepared:
                _end_at_commit(commit, when)
                work(prepared)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def _end_at_commit(commit: int, when: str) -> None:
    original = Database._run
    count = 0

    def counted(self: Database, work: Callable[..., T], end: str) -> T:
        def ended(connection: sqlite3.Connection) -> T:
            nonlocal count
            count += end == "COMMIT"
            is_it = end == "COMMIT" and count == commit
            if is_it and when == "after":
                self.after_commit(lambda: os._exit(9))
            result = work(connection)
            if is_it and when == "before":
                os._exit(9)
            return result

        return original(self, ended, end)

    Database._run = counted  # type: ignore[method-assign]
