"""Sources of instances: the interface that packing needs, and the files given to an ingest.

No function here follows a symbolic link below the given paths, waits on a pipe or a device, or
trusts a size: `fstat` of the open file decides, and a file that changes while it is read is
refused. The digest computed here is the identity of the instance from then on.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import blake3

from node.dicom import studies
from node.dicom.elements import Read
from node.dicom.studies import InstanceHeader
from node.errors import ExitCode, NodeError
from node.images.reading import (
    ComparingReader,
    FileChanged,
    Reader,
    open_file,
    read_exactly,
    shown,
)

_WHOLE_BYTES = 16 * 1024 * 1024
"""Files up to this size are read at once; larger ones are walked and hashed in blocks."""

_BLOCK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A path below the given ones; `problem` says why it cannot be opened, or is ""."""

    path: Path
    problem: str = ""
    is_link: bool = False


class Source(Protocol):
    """An instance that was read once and can be packed.

    Attributes:
        header: the header of the instance.
        size: bytes.
        digest: BLAKE3 of its bytes, 32 bytes.
        shown: where it came from, for people; we add no patient data.
        is_only_copy: whether only we have it, so that it must be kept whatever is wrong with it.
    """

    @property
    def header(self) -> InstanceHeader: ...

    @property
    def size(self) -> int: ...

    @property
    def digest(self) -> bytes: ...

    @property
    def shown(self) -> str: ...

    @property
    def is_only_copy(self) -> bool: ...

    def reader(self) -> AbstractContextManager[Reader]:
        """To read it once more.

        Raises:
            FileChanged: it is not what it was.
            OSError: it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that can be taken.

    Attributes:
        size: bytes.
        digest: BLAKE3 of the content, 32 bytes.
        stamp: device, inode, size and time of change, to notice a change.
    """

    path: Path
    header: InstanceHeader
    size: int
    digest: bytes
    stamp: tuple[int, int, int, int]

    @property
    def shown(self) -> str:
        """Its path as text."""
        return shown(self.path)

    @property
    def is_only_copy(self) -> bool:
        """No: an ingest leaves its files where they are."""
        return False

    def reader(self) -> "SourceReader":
        """To read it once more."""
        return SourceReader(self)


def find_files(paths: Iterable[Path], *, exclude: Path) -> Iterator[Found]:
    """Walk the given files and folders, names in order.

    Args:
        paths: files or folders; these may be links themselves.
        exclude: a folder that is left out wherever it is (the node's home).

    Raises:
        NodeError: a given path does not exist; raised before anything is yielded.
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


def read_source(path: Path) -> SourceFile:
    """Read a file once: check it, take its attributes, compute its digest.

    Raises:
        NotDicom: it is plainly something else.
        BadInstance: it cannot be taken.
        FileChanged: it changed while it was read.
        OSError: it cannot be read.
    """
    descriptor = open_file(path)
    try:
        before = _stamp(descriptor)
        size = before[2]
        header, digest = read_opened(descriptor, 0, size, path.name)
        if _stamp(descriptor) != before:
            raise FileChanged
    finally:
        os.close(descriptor)
    return SourceFile(path, header, size, digest, before)


def read_opened(descriptor: int, start: int, size: int, name: str) -> tuple[InstanceHeader, bytes]:
    """Read an instance in an open file; returns its header and its digest.

    Args:
        start, size: where the instance is in the file.
        name: its original file name, whose ending may say what it should be.

    Raises:
        NotDicom: it is plainly something else.
        BadInstance: it cannot be taken.
        FileChanged: the file has become shorter.
        OSError: it cannot be read.
    """
    if size <= _WHOLE_BYTES:
        return read_content(read_exactly(descriptor, start, size), name)
    header = studies.read_dataset(
        lambda offset, length: os.pread(descriptor, length, start + offset), size, name
    )
    hasher = blake3.blake3()
    for offset in range(0, size, _BLOCK_BYTES):
        length = min(_BLOCK_BYTES, size - offset)
        hasher.update(read_exactly(descriptor, start + offset, length))
    return header, hasher.digest()


def read_content(content: bytes, name: str) -> tuple[InstanceHeader, bytes]:
    """As `read_opened`, for bytes in memory.

    Raises:
        NotDicom: it is plainly something else.
        BadInstance: it cannot be taken.
    """
    header = studies.read_dataset(_bytes_reader(content), len(content), name)
    return header, blake3.blake3(content).digest()


def _bytes_reader(content: bytes) -> Read:
    return lambda offset, length: content[offset : offset + length]


def _stamp(descriptor: int) -> tuple[int, int, int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class SourceReader:
    """Reads a file again and compares it with its digest.

    A context manager: the file is open inside it.
    """

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._descriptor = -1

    def __enter__(self) -> ComparingReader:
        source = self._source
        self._descriptor = open_file(source.path)
        if _stamp(self._descriptor) != source.stamp:
            os.close(self._descriptor)
            raise FileChanged
        return ComparingReader(self._descriptor, 0, source.size, source.digest)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
