"""Makes a home whole or not at all, inside its folder, which may be a mounted volume.

All files are written into the folder `.making` inside. Then they move out, the card last; a
folder without a card is no home. A crash leaves `.making`; the next try begins by removing
the files of the last one, which nobody has used.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from node.durable import sync_directory
from node.errors import ExitCode, NodeError

MAKING = ".making"

LAST = "card"
"""This file moves last, when all others are in place."""

OF_FILE_SYSTEMS = frozenset(
    {"lost+found", ".snapshot", "System Volume Information", "$RECYCLE.BIN", ".Trashes"}
)
"""Names that file systems and their drivers put into a root folder, even of an empty volume."""


def make_whole(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a home in a folder that is empty or does not exist.

    Args:
        path: the folder; it becomes private to its owner.
        fill: writes the whole home, durably, into the folder that is its argument.

    Raises:
        NodeError: the folder is not empty, belongs to another user, or cannot be written;
            or as `fill` raises it. Nothing is left behind.
    """
    is_new = not path.exists()
    try:
        if not is_new and not path.is_dir():
            raise _not_empty(path)
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        with _alone(path):
            _make_private(path)
            _clear(path)
            if any(one.name not in OF_FILE_SYSTEMS for one in path.iterdir()):
                raise _not_empty(path)
            try:
                _fill_and_move(path, fill)
            except BaseException:
                with contextlib.suppress(OSError):
                    _clear(path)
                raise
        if is_new:
            sync_directory(path.parent)
    except OSError as error:
        raise NodeError(
            f"{path} cannot be made: {error.strerror}",
            hint="the folder, or the one that it is to be made in, must be yours to write to",
            code=ExitCode.NO_HOME,
        ) from error
    finally:
        if is_new:
            # This succeeds only if the folder is empty.
            with contextlib.suppress(OSError):
                path.rmdir()


def _fill_and_move(path: Path, fill: Callable[[Path], None]) -> None:
    making = path / MAKING
    making.mkdir(mode=0o700)
    fill(making)
    for one in sorted(making.iterdir(), key=lambda one: (one.name == LAST, one.name)):
        if one.name == LAST:
            sync_directory(making)
            sync_directory(path)
        one.rename(path / one.name)
    sync_directory(path)
    making.rmdir()


def _clear(path: Path) -> None:
    """Remove the files of an earlier try that a crash or an error cut short."""
    making = path / MAKING
    if not making.is_dir():
        return
    # The card moves last: until then, all files outside of `.making` came from it.
    if (making / LAST).exists() and not (path / LAST).exists():
        for one in path.iterdir():
            if one.name != MAKING and one.name not in OF_FILE_SYSTEMS:
                _remove(one)
        sync_directory(path)
    shutil.rmtree(making)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Where folders cannot be locked, the operator must avoid two tries at once.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise NodeError(
                    f"another radmesh process is making a home in {path}", code=ExitCode.BUSY
                ) from None
        yield
    finally:
        os.close(descriptor)


def _make_private(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.getuid():
        raise NodeError(
            f"the folder {path} belongs to another user",
            hint="it holds keys: give it to the user who runs radmesh, or name a new folder in it",
            code=ExitCode.NO_HOME,
        )
    if found.st_mode & 0o077:
        path.chmod(0o700)


def _not_empty(path: Path) -> NodeError:
    return NodeError(
        f"{path} exists already and is not empty",
        hint="choose another home with --home; keys are never overwritten",
        code=ExitCode.NO_HOME,
    )
