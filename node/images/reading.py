"""Reading untrusted files: regular files only, and a second read is compared with the first.

Imports nothing slow, unlike `sources`.
"""

import os
import stat
from pathlib import Path
from typing import Protocol

import blake3


class FileChanged(Exception):
    """A file changed while it was being ingested; its instance is not taken."""


def shown(path: Path) -> str:
    """A path as text that any terminal and JSON can show."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def open_file(path: Path) -> int:
    """Open a regular file for reading; the caller closes the descriptor.

    Raises:
        OSError: it cannot be opened, or is a link, pipe or device.
    """
    # Without O_NONBLOCK, a pipe in place of a file would block the ingest for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is no regular file")
    return descriptor


def stamp_of(descriptor: int) -> tuple[int, int, int, int]:
    """Device, inode, size and time of change of an open file."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    """Bytes of an open file.

    Raises:
        FileChanged: the file has become shorter.
        OSError: it cannot be read.
    """
    content = os.pread(descriptor, length, offset)
    while len(content) < length:
        more = os.pread(descriptor, length - len(content), offset + len(content))
        if not more:
            raise FileChanged
        content += more
    return content


class Reader(Protocol):
    """Reads an instance again, piece by piece in order, and compares it with its digest."""

    def read(self, start: int, length: int) -> bytes:
        """The piece at `start`; returns the last piece only if the digest is the same.

        Raises:
            FileChanged: the bytes have changed.
            OSError: it cannot be read.
        """


class ComparingReader:
    """A `Reader` of an instance in an open file.

    Args:
        descriptor: of the file.
        offset: where the instance begins in it.
        size, digest: of the instance.
    """

    def __init__(self, descriptor: int, offset: int, size: int, digest: bytes) -> None:
        self._descriptor, self._offset = descriptor, offset
        self._size, self._digest = size, digest
        self._hasher = blake3.blake3()

    def read(self, start: int, length: int) -> bytes:
        """See `Reader.read`."""
        piece = read_exactly(self._descriptor, self._offset + start, length)
        self._hasher.update(piece)
        if start + length == self._size and self._hasher.digest() != self._digest:
            raise FileChanged
        return piece
