"""Sources of instances: the interface that packing needs, and the files given to an ingest, among
them those in given ZIP files and ISO images.

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
from node.images import archives
from node.images.archives import Member, MemberReader
from node.images.reading import (
    ComparingReader,
    FileChanged,
    Reader,
    open_file,
    read_exactly,
    shown,
    stamp_of,
)

_WHOLE_BYTES = 16 * 1024 * 1024
"""Files up to this size are read at once; larger ones are walked and hashed in blocks."""

_BLOCK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A path below the given ones; `problem` says why it cannot be opened, or is "".

    Of a file in an archive, `path` goes on behind that of the archive, and `member` is the file.
    `root` is the given path below which it is.
    """

    path: Path
    problem: str = ""
    is_link: bool = False
    member: Member | None = None
    root: Path = Path()


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


@dataclass(frozen=True, slots=True)
class SourceMember:
    """A file of an archive that can be taken; as `SourceFile`."""

    member: Member
    header: InstanceHeader
    size: int
    digest: bytes
    shown: str

    @property
    def is_only_copy(self) -> bool:
        """No: the archive stays where it is."""
        return False

    def reader(self) -> MemberReader:
        """To read it once more."""
        return MemberReader(self.member, self.digest)


def find_files(paths: Iterable[Path], *, exclude: Path) -> Iterator[Found]:
    """Walk the given files and folders, names in order.

    A ZIP file or an ISO image that is given is walked like a folder; one that lies in a folder is a
    file like any other.

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
        form = archive_form(start)
        yield from _find_in_archive(start, form) if form else _find(start, excluded)


def archive_form(path: Path) -> str:
    """`zip` or `iso` if this is such a file; "" for anything else, also if it cannot be read."""
    try:
        return "" if path.is_dir() else archives.form_of(path)
    except OSError:
        return ""


def _find_in_archive(start: Path, form: str) -> Iterator[Found]:
    try:
        for one in archives.members(start, form):
            yield Found(start / one.name.lstrip("/"), one.problem, member=one.member, root=start)
    except archives.BadArchive as error:
        yield Found(start, error.reason, root=start)
    except OSError as error:
        yield Found(start, f"cannot be read: {error.strerror}", root=start)


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
                yield Found(path, is_link=True, root=start)
            elif stat.S_ISREG(mode):
                yield Found(path, root=start)
            else:
                yield Found(path, "is no regular file", root=start)
        except OSError as error:
            yield Found(path, f"cannot be read: {error.strerror}", root=start)


def read_found(found: Found) -> SourceFile | SourceMember:
    """Read a file that was found once, as `read_source`."""
    return read_source(found.path) if found.member is None else read_member(found.member, found)


def read_header_found(found: Found) -> tuple[InstanceHeader, int]:
    """Check a file that was found, and take its attributes and its size, without its digest.

    Raises:
        NotDicom, BadInstance, FileChanged, OSError: as `read_source`.
    """
    name = found.path.name
    if found.member is not None:
        size = found.member.size
        with found.member.opened() as read:
            # A small one at once: what is odd is read back and forth.
            if size <= _WHOLE_BYTES:
                read = _bytes_reader(read(0, size))
            return studies.read_dataset(read, size, name), size
    descriptor = open_file(found.path)
    try:
        size = os.fstat(descriptor).st_size
        read = _descriptor_reader(descriptor, 0)
        return studies.read_dataset(read, size, name), size
    finally:
        os.close(descriptor)


def _descriptor_reader(descriptor: int, start: int) -> Read:
    return lambda offset, length: os.pread(descriptor, length, start + offset)


def read_member(member: Member, found: Found) -> SourceMember:
    """Read a file of an archive once; see `read_source`."""
    with member.opened() as read:
        if member.size <= _WHOLE_BYTES:
            content = read(0, member.size)
            if len(content) < member.size:
                raise FileChanged
            header, digest = read_content(content, found.path.name)
        else:
            header = studies.read_dataset(read, member.size, found.path.name)
            hasher = blake3.blake3()
            for offset in range(0, member.size, _BLOCK_BYTES):
                hasher.update(read(offset, min(_BLOCK_BYTES, member.size - offset)))
            digest = hasher.digest()
    return SourceMember(member, header, member.size, digest, shown(found.path))


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
        before = stamp_of(descriptor)
        size = before[2]
        header, digest = read_opened(descriptor, 0, size, path.name)
        if stamp_of(descriptor) != before:
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
    header = studies.read_dataset(_descriptor_reader(descriptor, start), size, name)
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
        if stamp_of(self._descriptor) != source.stamp:
            os.close(self._descriptor)
            raise FileChanged
        return ComparingReader(self._descriptor, 0, source.size, source.digest)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
