"""Finding and reading the files that an ingest is given.

Nothing here follows a symbolic link below the given paths, waits on a pipe or a
device, or trusts a size: a file is what `fstat` of the open file says, and one
that changes while it is read is refused. The digest that is computed here is the
identity of the instance from then on.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import blake3

from node.dicom import studies
from node.dicom.elements import Read
from node.dicom.studies import InstanceHeader
from node.errors import ExitCode, NodeError

_WHOLE_BYTES = 16 * 1024 * 1024
"""Files up to this size are read at once; larger ones are walked and hashed in blocks."""

_BLOCK_BYTES = 4 * 1024 * 1024


class FileChanged(Exception):
    """A file changed while it was being ingested; its instance is not taken."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something below the given paths; `problem` says why it cannot be opened, or is ""."""

    path: Path
    problem: str = ""
    is_link: bool = False


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that can be taken.

    Attributes:
        size: bytes.
        digest: BLAKE3 of the content, 32 bytes.
        stamp: device, inode, size and time of change, to notice that it changed.
    """

    path: Path
    header: InstanceHeader
    size: int
    digest: bytes
    stamp: tuple[int, int, int, int]


def shown(path: Path) -> str:
    """A path as text that any terminal and JSON can take."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def find_files(paths: Iterable[Path], *, exclude: Path) -> Iterator[Found]:
    """Walk the given files and folders, names in order.

    Args:
        paths: files or folders; these may be links themselves.
        exclude: a folder that is left out wherever it lies (the node's home).

    Raises:
        NodeError: a given path does not exist; before anything is yielded.
    """
    excluded = exclude.resolve()
    starts = []
    for path in paths:
        try:
            starts.append(path.resolve(strict=True))
        except (OSError, RuntimeError):
            raise NodeError(
                f"there is no file or folder {shown(path)}", code=ExitCode.NOT_FOUND
            ) from None
    for start in starts:
        yield from _find(start, excluded)


def _find(start: Path, excluded: Path) -> Iterator[Found]:
    open_folders = [iter([start])]
    while open_folders:
        path = next(open_folders[-1], None)
        if path is None:
            open_folders.pop()
            continue
        if path == excluded:
            continue
        try:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                open_folders.append(iter(sorted(path.iterdir())))
            elif stat.S_ISLNK(mode):
                yield Found(path, is_link=True)
            elif stat.S_ISREG(mode):
                yield Found(path)
            else:
                yield Found(path, "is no regular file")
        except OSError as error:
            yield Found(path, f"cannot be read: {error.strerror}")


def open_file(path: Path) -> int:
    """Open a regular file for reading; the caller closes the descriptor.

    Raises:
        OSError: it cannot be opened, or is a link, pipe or device.
    """
    # Without O_NONBLOCK, a pipe put in the place of a file would hold the ingest for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is no regular file")
    return descriptor


def read_source(path: Path) -> SourceFile:
    """Read a file once: check it, take its attributes, compute its digest.

    Raises:
        NotDicom: plainly something else.
        BadInstance: it cannot be taken.
        FileChanged: while it was read.
        OSError: it cannot be read.
    """
    descriptor = open_file(path)
    try:
        before = _stamp(descriptor)
        size = before[2]
        if size <= _WHOLE_BYTES:
            content = read_exactly(descriptor, 0, size)
            header = studies.read_dataset(_bytes_reader(content), size, path.name)
            digest = blake3.blake3(content).digest()
        else:
            header = studies.read_dataset(
                lambda offset, length: os.pread(descriptor, length, offset), size, path.name
            )
            hasher = blake3.blake3()
            for start in range(0, size, _BLOCK_BYTES):
                hasher.update(read_exactly(descriptor, start, min(_BLOCK_BYTES, size - start)))
            digest = hasher.digest()
        if _stamp(descriptor) != before:
            raise FileChanged
    finally:
        os.close(descriptor)
    return SourceFile(path, header, size, digest, before)


def _bytes_reader(content: bytes) -> Read:
    return lambda offset, length: content[offset : offset + length]


def _stamp(descriptor: int) -> tuple[int, int, int, int]:
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


class SourceReader:
    """Reads a file again, piece by piece in order, and compares it with its digest.

    A context manager: the file is open inside it.
    """

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._hasher = blake3.blake3()
        self._descriptor = -1

    def __enter__(self) -> "SourceReader":
        self._descriptor = open_file(self._source.path)
        if _stamp(self._descriptor) != self._source.stamp:
            os.close(self._descriptor)
            raise FileChanged
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, start: int, length: int) -> bytes:
        """The piece at `start`; the one that ends the file is given only if all is as it was.

        Raises:
            FileChanged: the file has changed.
            OSError: it cannot be read.
        """
        piece = read_exactly(self._descriptor, start, length)
        self._hasher.update(piece)
        if start + length == self._source.size and self._hasher.digest() != self._source.digest:
            raise FileChanged
        return piece
