"""The folders in which a drill plays: each holds a copy of the keys, so none may stay.

A folder is locked as long as its drill runs. What a killed drill left is removed by the next start
of a node beside it, and by the next drill there.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from node.durable import overwrite

_PREFIX = ".radmesh-drill-"
_WITH_KEYS = ("keys", "rotation", "sealing")


@contextlib.contextmanager
def new_copy(folder: Path) -> Iterator[Path]:
    """A private folder below another one; removed at the end of the block, keys overwritten.

    Raises:
        OSError: it cannot be made.
    """
    sweep(folder)
    made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            # Where folders cannot be locked, none is swept either.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield made
    finally:
        _remove(made)
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed drills left in a folder, as far as that can be done."""
    with contextlib.suppress(OSError):
        for left in folder.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                _remove_unless_used(left)


def _remove_unless_used(left: Path) -> None:
    descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)
    finally:
        os.close(descriptor)


def _remove(made: Path) -> None:
    for name in _WITH_KEYS:
        for key in (made / name).glob("*"):
            with contextlib.suppress(OSError):
                overwrite(key)
    shutil.rmtree(made, ignore_errors=True)
