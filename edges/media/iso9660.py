"""The files of an ISO 9660 image, found without trusting it (ECMA-119).

Names and places only: what a file holds is read by whoever asks for it. The names are those of the
primary volume, of 8.3 characters on media of DICOM (PS3.12); those of Joliet and Rock Ridge are
other names of the same files. Everything that an image claims has a bound, and each folder is read
once, so that an image that leads in circles ends.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SECTOR_BYTES = 2048
FIRST_DESCRIPTOR = 16
"""Sector of the first volume descriptor."""

MOST_FILES = 200_000
"""A disc of 700 MB with images of 10 KB has 70,000."""
MOST_FOLDERS = 20_000
MOST_FOLDER_BYTES = 16 * 1024 * 1024
"""A folder of 100,000 files has 5 MB."""
MOST_FOLDERS_BYTES = 256 * 1024 * 1024
"""Of all folders together."""
MOST_PARTS = 1000
"""Parts of one file: each but the last has nearly 4 GiB as a rule."""
MOST_DEPTH = 32
"""The standard allows 8; images of deeper trees are in use."""
_MOST_DESCRIPTORS = 64

_IDENTIFIER = b"CD001"
_PRIMARY, _END = 1, 255
_FOLDER, _CONTINUED = 0x02, 0x80
_BLOCK_SIZES = (512, 1024, 2048)
_LEAST_RECORD = 34

Read = Callable[[int, int], bytes]
"""(offset, length) -> the bytes there; fewer only at the end of the image."""


class BadImage(Exception):
    """An image, or a folder in it, that cannot be read.

    Attributes:
        reason: why, as the end of a sentence about it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an image.

    Attributes:
        name: its path in the image, with `/`, without a version.
        extents: offset and length in the image of each of its parts, bytes.
        problem: why it, or the folder of this name, cannot be read, or "".
    """

    name: str
    extents: tuple[tuple[int, int], ...] = ()
    problem: str = ""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(length for _, length in self.extents)


@dataclass(frozen=True, slots=True)
class _Record:
    name: str
    extent: tuple[int, int]
    flags: int
    problem: str


def is_image(read: Read) -> bool:
    """Whether this is the image of a disc, readable here or not."""
    return any(
        read((FIRST_DESCRIPTOR + at) * SECTOR_BYTES + 1, 5) in (_IDENTIFIER, b"BEA01")
        for at in range(2)
    )


def members_untrusted(read: Read, size: int) -> Iterator[Member]:
    """The files of an image, folder by folder, with what is wrong with single ones.

    Args:
        read: reads the image.
        size: of the image, bytes.

    Raises:
        BadImage: it has no volume that can be read, or more files than any disc; those given
            before count.
    """
    block, root = _volume(read)
    folders = deque([("", root, 0)])
    seen = {root[0]}
    files = 0
    left = MOST_FOLDERS_BYTES
    while folders:
        path, extent, depth = folders.popleft()
        left -= min(extent[1], MOST_FOLDER_BYTES)
        if left < 0:
            raise BadImage("has folders that are together larger than any")
        try:
            records = _records(read, size, block, extent)
        except BadImage as error:
            yield Member(path, problem=error.reason)
            continue
        for name, parts, flags, problem in _joined(records):
            whole = f"{path}/{name}" if path else name
            if problem:
                yield Member(whole, problem=problem)
            elif flags & _FOLDER:
                # A folder that was read already is a way in a circle, or a second name.
                if parts[0][0] in seen:
                    continue
                if depth >= MOST_DEPTH:
                    yield Member(whole, problem=f"is deeper than {MOST_DEPTH} folders")
                    continue
                if len(seen) >= MOST_FOLDERS:
                    raise BadImage(f"has more than {MOST_FOLDERS} folders")
                seen.add(parts[0][0])
                folders.append((whole, parts[0], depth + 1))
            else:
                files += 1
                if files > MOST_FILES:
                    raise BadImage(f"has more than {MOST_FILES} files")
                is_cut = any(offset + length > size for offset, length in parts)
                yield Member(whole, parts, "lies beyond the end of the image" if is_cut else "")


def _volume(read: Read) -> tuple[int, tuple[int, int]]:
    """Bytes of a block, and the place of the root folder."""
    for at in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + _MOST_DESCRIPTORS):
        sector = read(at * SECTOR_BYTES, SECTOR_BYTES)
        if sector[1:6] != _IDENTIFIER or len(sector) < SECTOR_BYTES or sector[0] == _END:
            break
        if sector[0] == _PRIMARY:
            block = int.from_bytes(sector[128:130], "little")
            if block not in _BLOCK_SIZES:
                raise BadImage("has blocks of a size that no disc has")
            return block, _extent(sector[156:190], block)
    raise BadImage(
        "has no ISO 9660 file system (UDF alone is not read here: mount it and give the folder)"
    )


def _extent(record: bytes, block: int) -> tuple[int, int]:
    # An extended attribute record comes first in the extent, and is no part of the file.
    start = int.from_bytes(record[2:6], "little") + record[1]
    return start * block, int.from_bytes(record[10:14], "little")


def _records(read: Read, size: int, block: int, extent: tuple[int, int]) -> list[_Record]:
    offset, length = extent
    if length > MOST_FOLDER_BYTES:
        raise BadImage("claims to be a folder larger than any")
    if offset + length > size:
        raise BadImage("is a folder beyond the end of the image")
    content = read(offset, length)
    found = []
    at = 0
    while at < len(content):
        length = content[at]
        if length == 0:
            # No record spans two sectors.
            at += SECTOR_BYTES - at % SECTOR_BYTES
            continue
        record = content[at : at + length]
        if len(record) < _LEAST_RECORD or len(record) < 33 + record[32]:
            raise BadImage("has a folder with a record that is cut")
        at += length
        identifier = record[33 : 33 + record[32]]
        if identifier in (b"\0", b"\1"):
            # The folder itself, and the one above.
            continue
        problem = "is interleaved, which is not read here" if record[26] or record[27] else ""
        found.append(_Record(_name(identifier), _extent(record, block), record[25], problem))
    return found


def _name(identifier: bytes) -> str:
    name = identifier.split(b";")[0].decode("latin-1").rstrip(".")
    # No name leads out of its folder; nobody opens one, but it is shown, and compared.
    cleaned = "".join(one if one.isprintable() and one != "/" else "_" for one in name)
    return cleaned.lstrip(".") or "_"


def _joined(
    records: list[_Record],
) -> Iterator[tuple[str, tuple[tuple[int, int], ...], int, str]]:
    """Names with all parts of their files: large files have several records in a row."""
    parts: list[tuple[int, int]] = []
    for record in records:
        if len(parts) <= MOST_PARTS:
            parts.append(record.extent)
        if record.flags & _CONTINUED and not record.flags & _FOLDER:
            continue
        problem = "has too many parts" if len(parts) > MOST_PARTS else record.problem
        yield record.name, tuple(parts), record.flags, problem
        parts = []
