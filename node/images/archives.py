"""The files in ZIP files and ISO images, read in place: nothing of them is unpacked to a disk.

What an archive claims is not trusted: the number of its files, their sizes, the bytes that they
grow to, and the memory that its list takes have bounds. Names in it are shown and compared, and
nothing is opened by them.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import blake3

from edges.media import iso9660
from edges.media.iso9660 import Read
from node.images.reading import FileChanged, open_file, read_exactly, stamp_of

_MOST_LIST_BYTES = 16 * 1024 * 1024
"""Largest list of a ZIP file: 150,000 files with names of usual length."""

_MOST_GROWTH = 200
_LEAST_BOUND_BYTES = 1024 * 1024 * 1024
"""All files of an archive together are at most 200 times as large as it is, or 1 GiB: deflated
images that are mostly black come near 100 times."""

_MOST_TURNS = 64
"""How often a file of a ZIP file is read from its beginning again: a reader of images goes back
where a file is odd, and a hostile one could have it go back without end."""

_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_ENCRYPTED = 0x1
_WINDOW_BYTES = 256 * 1024


class BadArchive(Exception):
    """An archive that cannot be read, or not any further.

    Attributes:
        reason: why, as the end of a sentence about it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        archive: path of the archive.
        stamp: of the archive when it was listed, to notice a change.
        name: the file's path in the archive, with `/`.
        size: bytes of the file.
        extents: for an ISO image, where its parts are.
        deflated: for a ZIP file, offset of its local header, bytes there, CRC-32, and whether they
            are deflated; None for an ISO image.
    """

    archive: Path
    stamp: tuple[int, int, int, int]
    name: str
    size: int
    extents: tuple[tuple[int, int], ...] = ()
    deflated: tuple[int, int, int, bool] | None = None

    @contextmanager
    def opened(self) -> Iterator[Read]:
        """A function that reads it: any bytes of an ISO image, of a ZIP file quickly only forward.

        Raises:
            FileChanged: the archive is not what it was.
            OSError: it cannot be read; also in the function.
        """
        descriptor = open_file(self.archive)
        try:
            if stamp_of(descriptor) != self.stamp:
                raise FileChanged
            if self.deflated is None:
                yield lambda offset, length: self._pieces(descriptor, offset, length)
            else:
                yield _Inflated(descriptor, self.deflated, self.size).read
        finally:
            os.close(descriptor)

    def _pieces(self, descriptor: int, offset: int, length: int) -> bytes:
        found = []
        for start, size in self.extents:
            if offset < size and length > 0:
                piece = read_exactly(descriptor, start + offset, min(length, size - offset))
                found.append(piece)
                length -= len(piece)
                offset += len(piece)
            offset -= size
        return b"".join(found)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of an archive, or what is wrong with one: then `member` is None."""

    name: str
    member: Member | None = None
    problem: str = ""


def form_of(path: Path) -> str:
    """`zip` or `iso` by the first bytes of a file, whatever its name; "" for anything else.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = open_file(path)
    try:
        if os.pread(descriptor, 4, 0) in (b"PK\3\4", b"PK\5\6"):
            return "zip"
        is_iso = iso9660.is_image(lambda offset, length: os.pread(descriptor, length, offset))
        return "iso" if is_iso else ""
    finally:
        os.close(descriptor)


def members(path: Path, form: str) -> Iterator[Listed]:
    """The files of an archive.

    Raises:
        BadArchive: it, or the rest of it, cannot be read.
        OSError: likewise.
    """
    left = max(_LEAST_BOUND_BYTES, _MOST_GROWTH * path.stat().st_size)
    for one in _zip_members(path) if form == "zip" else _iso_members(path):
        if one.member is not None:
            left -= one.member.size
            if left < 0:
                raise BadArchive(
                    f"claims files that are together more than {_MOST_GROWTH} times as large as it "
                    "is; those from there on are not read"
                )
        yield one


def _iso_members(path: Path) -> Iterator[Listed]:
    descriptor = open_file(path)
    try:
        stamp = stamp_of(descriptor)

        def read(offset: int, length: int) -> bytes:
            return os.pread(descriptor, length, offset)

        for one in iso9660.members_untrusted(read, stamp[2]):
            member = Member(path, stamp, one.name, one.size, extents=one.extents)
            yield Listed(one.name, None if one.problem else member, one.problem)
    except iso9660.BadImage as error:
        raise BadArchive(error.reason) from None
    finally:
        os.close(descriptor)


class _Bounded(FileIO):
    """A file of which nobody reads much at once: `zipfile` reads as much as the file claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MOST_LIST_BYTES:
            raise zipfile.BadZipFile("its list is too long")
        return super().read(_MOST_LIST_BYTES if size is None or size < 0 else size) or b""


def _zip_members(path: Path) -> Iterator[Listed]:
    descriptor = open_file(path)
    with _Bounded(descriptor) as file:
        stamp = stamp_of(descriptor)
        try:
            listed = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError, ArithmeticError, EOFError, struct.error,
                NotImplementedError):  # fmt: skip
            raise BadArchive("is a ZIP file whose list of files is cut or damaged") from None
    for one in listed:
        if one.filename.endswith("/"):
            continue
        name = one.filename.replace("\\", "/")
        if one.flag_bits & _ENCRYPTED:
            yield Listed(name, problem="is encrypted, which is not read here")
        elif one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield Listed(name, problem="is compressed in a way that is not read here")
        else:
            place = (one.header_offset, one.compress_size, one.CRC, bool(one.compress_type))
            yield Listed(name, Member(path, stamp, name, one.file_size, deflated=place))


class _Inflated:
    """Reads a file of a ZIP file forward; going back begins anew."""

    def __init__(self, descriptor: int, place: tuple[int, int, int, bool], size: int) -> None:
        header, self._packed, self._crc_claimed, self._is_deflated = place
        head = os.pread(descriptor, _LOCAL_HEADER.size, header)
        if len(head) < _LOCAL_HEADER.size or not head.startswith(b"PK\3\4"):
            raise OSError(0, "the ZIP file is damaged at its place")
        *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)
        self._start = header + _LOCAL_HEADER.size + name_bytes + extra_bytes
        self._descriptor, self._size = descriptor, size
        self._turns = 0
        self._begin()

    def _begin(self) -> None:
        self._turns += 1
        if self._turns > _MOST_TURNS:
            raise OSError(0, "it is too odd to be read out of a ZIP file: unpack it")
        self._taken = 0
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if self._is_deflated else None
        self._data = b""
        self._base = self._crc = 0

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at an offset; fewer only at the end.

        Raises:
            OSError: they are damaged, or not as many as claimed.
        """
        length = max(0, min(length, self._size - offset))
        if offset < self._base:
            self._begin()
        pieces = []
        while length:
            skip = offset - self._base
            if skip >= len(self._data):
                self._more()
                continue
            piece = self._data[skip : skip + length]
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    def _more(self) -> None:
        """Replace the window by the next one; at the end, compare the checksum."""
        self._base += len(self._data)
        self._data = b""
        pending = self._inflate.unconsumed_tail if self._inflate is not None else b""
        while not self._data:
            if not pending:
                count = min(_WINDOW_BYTES, self._packed - self._taken)
                pending = os.pread(self._descriptor, count, self._start + self._taken)
                self._taken += len(pending)
            if not pending:
                raise OSError(0, "it is cut in the ZIP file")
            if self._inflate is None:
                self._data = pending
                break
            try:
                self._data = self._inflate.decompress(pending, _WINDOW_BYTES)
            except zlib.error:
                raise OSError(0, "it is damaged in the ZIP file") from None
            pending = self._inflate.unconsumed_tail
            if self._inflate.eof and not self._data:
                raise OSError(0, "it is cut in the ZIP file")
        self._data = self._data[: self._size - self._base]
        self._crc = zlib.crc32(self._data, self._crc)
        if self._base + len(self._data) == self._size and self._crc != self._crc_claimed:
            raise OSError(0, "it is damaged in the ZIP file")


class MemberReader:
    """Reads a file of an archive again and compares it with its digest; a context manager."""

    def __init__(self, member: Member, digest: bytes) -> None:
        self._member, self._digest = member, digest
        self._opened = member.opened()
        self._hasher = blake3.blake3()
        self._bytes: Read = lambda offset, length: b""

    def __enter__(self) -> "MemberReader":
        self._bytes = self._opened.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.__exit__(None, None, None)

    def read(self, start: int, length: int) -> bytes:
        """See `reading.Reader.read`."""
        piece = self._bytes(start, length)
        self._hasher.update(piece)
        is_last = start + length == self._member.size
        if len(piece) < length or (is_last and self._hasher.digest() != self._digest):
            raise FileChanged
        return piece
