"""The ZIP container of a bundle, read so strictly that no two readers can see two logs in it.

A reader of the list at the end and a reader of the local headers must get the same files
(docs/protocol-log.md section 7.1). So every byte belongs to a listed file or to the list,
the two headers of a file agree, and two names are different files on every system.

Numbers of APPNOTE.TXT: 4.3.7 local header, 4.3.12 list of files, 4.3.14 to 4.3.16 its end,
4.5.3 ZIP64.
"""

import re
import struct
import zlib
from typing import BinaryIO, NamedTuple

MEMBERS = 10_000
"""Most files in a bundle: enough for a checkpoint for each day of 27 years."""

DIRECTORY_BYTES = 4_000_000
"""Longest list of the files: `MEMBERS` files with names of 300 bytes."""

PACKED_BYTES = 1 << 16
"""Most bytes that are read from the file at once."""

_NAME_BYTES = 200
_PART = r"[A-Za-z0-9._-]{0,99}[A-Za-z0-9_-]"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*".encode())
"""Allowed names: two of them can collide only by case. No `.`, no `..`, no dot at the end."""

_LOCAL = struct.Struct("<4s5H3L2H")
_LISTED = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_LARGE = struct.Struct("<2H")

_NO_NUMBER = 0xFFFFFFFF
_SMALL = 0x7FFFFFFF
"""Larger numbers may be in ZIP64 fields; only up to this do all writers agree."""

_STORED, _DEFLATED = 0, 8
_VERSIONS = (10, 20, 45)
_SYSTEMS = (0, 3)
_REGULAR = (0, 8)
"""Allowed file types in the upper four bits of the Unix mode: none given, and regular file."""


class BundleDamaged(Exception):
    """The bundle cannot be read; the text says why."""


class Member(NamedTuple):
    """A file in the container.

    Attributes:
        name: its name, of the characters allowed in bundles.
        start: offset of its content in the container, in bytes.
        packed: bytes of its content as stored.
        size: bytes of its content when unpacked, as the container claims.
        crc: CRC-32 of the unpacked content, as the container claims.
        deflated: whether the content is compressed.
    """

    name: str
    start: int
    packed: int
    size: int
    crc: int
    deflated: bool


def read_members(file: BinaryIO) -> tuple[list[Member], int]:
    """The files of a container, and its size; reads only headers, not content.

    Args:
        file: the container, seekable.

    Raises:
        BundleDamaged: not in the form of docs/protocol-log.md section 7.1.
    """
    try:
        return _read_members(file)
    except (struct.error, OSError, OverflowError, ValueError) as error:
        raise BundleDamaged("the file is not an audit bundle, or is damaged") from error


def _read_members(file: BinaryIO) -> tuple[list[Member], int]:
    file_bytes = file.seek(0, 2)
    count, length, start = _read_end(file, file_bytes)
    file.seek(start)
    listing = file.read(length)
    members: list[Member] = []
    at = position = 0
    for _ in range(count):
        header = listing[at : at + _LISTED.size]
        member, offset, at = _read_listed(listing, header, at)
        if offset != position:
            raise BundleDamaged("between the files of the bundle lie bytes that belong to none")
        members.append(_with_start(file, member, header, offset))
        position = members[-1].start + member.packed
    if at != length or position != start:
        raise BundleDamaged("the list of files in the bundle is damaged")
    _check_names([member.name for member in members])
    return members, file_bytes


def _read_end(file: BinaryIO, file_bytes: int) -> tuple[int, int, int]:
    """The number of listed files, the length of the list, and its offset."""
    end = file_bytes - _END.size
    file.seek(max(end, 0))
    signature, disk, first_disk, here, count, length, start, comment = _END.unpack(
        file.read(_END.size)
    )
    if signature != b"PK\5\6" or comment or (disk, first_disk, here) != (0, 0, count):
        raise BundleDamaged("the file is not an audit bundle, or is damaged")
    locator = end - _LOCATOR.size
    if locator >= _END_64.size:
        file.seek(locator)
        if file.read(4) == b"PK\6\7":
            small = count, length, start
            end, count, length, start = _read_end_64(file, locator)
            if small != (count, min(length, _NO_NUMBER), min(start, _NO_NUMBER)):
                raise BundleDamaged("the list of files in the bundle is damaged")
    if count > MEMBERS:
        raise BundleDamaged(f"the bundle holds more than {MEMBERS} files")
    if length > DIRECTORY_BYTES or start + length != end:
        raise BundleDamaged("the list of files in the bundle is damaged")
    return count, length, start


def _read_end_64(file: BinaryIO, locator: int) -> tuple[int, int, int, int]:
    """For a container above 2 GiB: where the list ends, then what `_read_end` returns."""
    end = locator - _END_64.size
    file.seek(end)
    record = _END_64.unpack(file.read(_END_64.size))
    signature, rest, _, version, disk, first_disk, here, count, length, start = record
    located = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if (
        (signature, rest, version) != (b"PK\6\6", _END_64.size - 12, 45)
        or (disk, first_disk, here) != (0, 0, count)
        or located != (b"PK\6\7", 0, end, 1)
        or start <= _SMALL
    ):
        raise BundleDamaged("the list of files in the bundle is damaged")
    return end, count, length, start


def _read_listed(listing: bytes, header: bytes, at: int) -> tuple[Member, int, int]:
    """A file as listed, the offset of its local header, and the offset of the next listing."""
    (
        signature,
        made_by,
        version,
        flags,
        method,
        _,
        _,
        crc,
        packed,
        size,
        name_length,
        extra_length,
        comment_length,
        disk,
        internal,
        external,
        offset,
    ) = _LISTED.unpack(header)
    at += _LISTED.size
    name = listing[at : at + name_length]
    extra = listing[at + name_length : at + name_length + extra_length]
    if _NAME.fullmatch(name) is None or len(name) > _NAME_BYTES:
        raise BundleDamaged(f"the bundle holds a file named {name[:_NAME_BYTES]!a}"[:300])
    shown = name.decode()
    if (
        signature != b"PK\1\2"
        or comment_length
        or disk
        or internal
        or flags
        or method not in (_STORED, _DEFLATED)
        or version not in _VERSIONS
        or made_by & 0xFF not in _VERSIONS
        or made_by >> 8 not in _SYSTEMS
        or external & 0xFFFF
        or external >> 28 not in _REGULAR
    ):
        raise BundleDamaged(f"the file {shown} is in the bundle in a way that bundles are not made")
    size, packed, offset = _numbers(shown, extra, (size, packed, offset))
    if method == _STORED and size != packed:
        raise BundleDamaged(f"the file {shown} of the bundle is damaged")
    member = Member(shown, 0, packed, size, crc, method == _DEFLATED)
    return member, offset, at + name_length + extra_length


def _numbers(name: str, extra: bytes, small: tuple[int, int, int]) -> tuple[int, int, int]:
    """Size, packed size and offset of a listed file; `extra` holds those above 2 GiB."""
    absent = [number == _NO_NUMBER for number in small]
    large = iter(struct.unpack(f"<{sum(absent)}Q", extra[4:]))
    numbers = [next(large) if is_absent else n for is_absent, n in zip(absent, small, strict=True)]
    if any(absent) or extra:
        well_formed = extra[:4] == _LARGE.pack(1, 8 * sum(absent)) and any(absent)
        # Either both sizes are in `extra`, or neither is.
        needed = absent[0] == absent[1] and (not absent[2] or numbers[2] > _SMALL)
        if not well_formed or not needed or (absent[0] and max(numbers[:2]) <= _SMALL):
            raise BundleDamaged(f"the file {name} of the bundle has a field that bundles have not")
    return numbers[0], numbers[1], numbers[2]


def _with_start(file: BinaryIO, member: Member, listed: bytes, offset: int) -> Member:
    """The file with its place, after comparing its local header with the listed one."""
    file.seek(offset)
    header = file.read(_LOCAL.size)
    signature, _, _, _, _, _, _, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    # Version, flags, method, time and CRC are the same bytes in both headers.
    if signature != b"PK\3\4" or header[4:18] != listed[6:20]:
        raise BundleDamaged(f"the two headers of {member.name} in the bundle differ")
    name, extra = file.read(name_length), file.read(extra_length)
    if extra:
        # Nodes of the first release wrote this into every header.
        large = struct.pack("<2H2Q", 1, 16, member.size, member.packed)
        same = extra == large and packed == size == _NO_NUMBER
    else:
        same = (size, packed) == (member.size, member.packed)
    if not same or name != member.name.encode():
        raise BundleDamaged(f"the two headers of {member.name} in the bundle differ")
    return member._replace(start=offset + _LOCAL.size + name_length + extra_length)


def _check_names(names: list[str]) -> None:
    """Check that, ignoring case, names are unique and none is a folder of another."""
    folded: set[str] = set()
    for name in names:
        if name.lower() in folded:
            raise BundleDamaged(f"the bundle holds two files named {name}")
        folded.add(name.lower())
    for name in names:
        folder, _, _ = name.lower().rpartition("/")
        while folder:
            if folder in folded:
                raise BundleDamaged(f"the bundle holds a file and a folder named {folder}")
            folder, _, _ = folder.rpartition("/")


class Content:
    """The content of a file in the container, unpacked block by block.

    Args:
        file: the container.
        member: the file.
    """

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self._file = file
        self._member = member
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.deflated else None
        self._read = self._given = self._crc = 0
        self.whole = False
        """Whether it was read to its end, with the length and CRC that the container claims."""

    def next_block(self, most: int) -> bytes:
        """The next bytes, at most `most`; none at the end.

        Raises:
            BundleDamaged: its length or CRC is not the one that the container claims, or
                bytes follow the end of the compressed data.
        """
        try:
            block = b"" if self.whole else self._unpack(most)
        except (zlib.error, OSError):
            raise self._damaged() from None
        self._given += len(block)
        self._crc = zlib.crc32(block, self._crc)
        if self._given > self._member.size:
            raise self._damaged()
        if not block and not self.whole:
            if (self._given, self._crc) != (self._member.size, self._member.crc):
                raise self._damaged()
            self.whole = True
        return block

    def _damaged(self) -> BundleDamaged:
        return BundleDamaged(f"the file {self._member.name} of the bundle is damaged")

    def _unpack(self, most: int) -> bytes:
        inflate = self._inflate
        if inflate is None:
            return self._packed(most)
        block = b""
        while not block and not inflate.eof:
            packed = inflate.unconsumed_tail or self._packed(PACKED_BYTES)
            block = inflate.decompress(packed, most)
            if not packed and not block and not inflate.eof:
                raise self._damaged()
        if inflate.eof and (inflate.unused_data or self._read < self._member.packed):
            raise self._damaged()
        return block

    def _packed(self, most: int) -> bytes:
        """The next bytes as stored."""
        count = min(most, self._member.packed - self._read)
        self._file.seek(self._member.start + self._read)
        data = self._file.read(count)
        if len(data) != count:
            raise self._damaged()
        self._read += count
        return data
