"""The one way onto a disk: bytes first, then their name, and both flushed.

A file is durable when its bytes and the folder with its name are flushed. Only the audit
log writes into files that have their names already, since it appends
(`node/audit/files.py`).
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

from node.errors import ExitCode, NodeError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable, also those written by others."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """Make what was written by a descriptor durable."""
    os.fsync(descriptor)


def sync_open(file: BinaryIO) -> None:
    """Make what was written to an open file durable."""
    file.flush()
    os.fsync(file.fileno())


def write_new(path: Path, data: bytes | bytearray | memoryview, *, mode: int = 0o600) -> None:
    """Write a new file and make its bytes durable; the caller makes its name durable.

    Raises:
        OSError: the file exists, or the disk is full or failing; a half-written file stays.
    """
    with _created(path, mode) as file:
        file.write(data)
        sync_open(file)


@contextlib.contextmanager
def whole_file(path: Path, *, mode: int = 0o600) -> Iterator[BufferedRandom]:
    """Write a file so that after a crash there is the whole new file, or the older one.

    The block writes the file and may read it again. At the end of the block, the file gets
    its name, durably.

    Raises:
        OSError: the disk is full or failing; an older file is kept.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _created(temporary, mode) as file:
            yield file
            sync_open(file)
        temporary.rename(path)
    except BaseException:
        discard(temporary)
        raise
    sync_directory(path.parent)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a small file as `whole_file` does."""
    with whole_file(path, mode=mode) as file:
        file.write(data)


def overwrite(path: Path) -> None:
    """Write zeros over the bytes of a file that is about to go, durably.

    A best effort: a disk may keep the older bytes where no file system reaches them.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_overwritten(folder: Path) -> None:
    """Remove a folder of secret files, if it is there, as `overwrite` says."""
    if folder.is_dir():
        for path in folder.iterdir():
            overwrite(path)
        shutil.rmtree(folder)


def rename(path: Path, target: Path) -> None:
    """Give a file or folder another name beside the old one, durably."""
    path.rename(target)
    sync_directory(target.parent)


def discard(temporary: Path) -> None:
    """Remove a half-written file, if the disk allows; otherwise the next start removes it."""
    with contextlib.suppress(OSError):
        temporary.unlink()


def disk_error(what: str, error: OSError) -> NodeError:
    """A failed write or read as an error for the operator; `what` begins the sentence."""
    if error.errno in _FULL:
        return NodeError(
            f"{what}: the disk is full",
            hint="free disk space and run it again; what was finished is kept",
            code=ExitCode.DISK,
        )
    return NodeError(
        f"{what}: {error.strerror or type(error).__name__}",
        hint="check the disk and the permissions of the node's home",
        code=ExitCode.DISK,
    )


def _created(path: Path, mode: int) -> BufferedRandom:
    return open(path, "x+b", opener=lambda name, flags: os.open(name, flags, mode))
