"""An ISO 9660 image of level 1, as media of DICOM have it (ECMA-119, PS3.12).

The files come first, one after the other from sector `FIRST_FILE` on; then come the folders; the
descriptors, without which there is no image, are written into their place last. So an image is
written in one pass, and one that was cut off is none.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edges.media.iso9660 import FIRST_DESCRIPTOR, SECTOR_BYTES

FIRST_FILE = FIRST_DESCRIPTOR + 2
"""Sector in which the first file begins: behind the primary descriptor and the terminator."""

MOST_FILE_BYTES = 2**32 - 1
"""Largest file: its size has 32 bits."""

_PART = re.compile(r"[A-Z0-9_]{1,8}")
_FILE = re.compile(r"[A-Z0-9_]{1,8}(\.[A-Z0-9_]{0,3})?")
_MOST_LEVELS = 8

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A file that was written: path, sector in which it begins, and bytes."""

    path: Parts
    sector: int
    size: int


def sectors(size: int) -> int:
    """How many sectors this many bytes take."""
    return -(-size // SECTOR_BYTES)


def finish(files: Sequence[Placed], end: int, label: str, now: datetime) -> tuple[bytes, bytes]:
    """What makes an image of files that are in their places.

    Args:
        files: the files; names of level 1, in capitals, at most eight levels.
        end: the first sector behind them.
        label: of the volume: A-Z, 0-9 and `_`, at most 32.
        now: when it is made.

    Returns:
        The descriptors, for sector 16; and what follows the files.
    """
    folders = _Folders(files)
    tables_at = end + sum(sectors(size) for size in folders.sizes)
    at = end
    for path, size in zip(folders.paths, folders.sizes, strict=True):
        folders.sector[path] = at
        at += sectors(size)
    moment = _moment(now)
    content = b"".join(_padded(folders.encoded(path, moment)) for path in folders.paths)
    tables = [folders.path_table(order) for order in ("<", ">")]
    length = sectors(len(tables[0]))
    total = tables_at + 2 * length
    content += b"".join(_padded(table) for table in tables)
    root = _record(b"\0", folders.sector[()], folders.sizes[0], 2, moment)
    primary = _primary(label, total, len(tables[0]), tables_at, tables_at + length, root, now)
    return primary + _padded(b"\xffCD001\x01"), content


class _Folders:
    """The folders of an image, in the order of their path table."""

    def __init__(self, files: Sequence[Placed]) -> None:
        self._files: dict[Parts, list[tuple[bytes, Placed | None]]] = {(): []}
        for file in files:
            _check(file.path)
            for depth in range(1, len(file.path)):
                if file.path[:depth] not in self._files:
                    self._files[file.path[:depth]] = []
                    self._files[file.path[: depth - 1]].append(
                        (file.path[depth - 1].encode(), None)
                    )
            name = file.path[-1] + ("" if "." in file.path[-1] else ".") + ";1"
            self._files[file.path[:-1]].append((name.encode(), file))
        numbers: dict[Parts, int] = {(): 1}
        paths: list[Parts] = []
        level: list[Parts] = [()]
        while level:
            paths += level
            numbers |= {path: len(numbers) + at for at, path in enumerate(level, start=1) if path}
            below = [path for path in self._files if len(path) == len(level[0]) + 1]
            level = sorted(below, key=lambda path: (numbers[path[:-1]], path[-1]))
        self.paths, self._numbers = paths, numbers
        self.sector: dict[Parts, int] = {}
        self.sizes = [len(self.encoded(path, bytes(7))) for path in paths]

    def encoded(self, path: Parts, moment: bytes) -> bytes:
        """The records of a folder; the size is right before the places are known."""
        own, above = (self.sector.get(one, 0) for one in (path, path[:-1]))
        sizes = dict(zip(self.paths, getattr(self, "sizes", ()), strict=False))
        records = [
            _record(b"\0", own, sizes.get(path, 0), 2, moment),
            _record(b"\1", above, sizes.get(path[:-1], 0), 2, moment),
        ]
        for name, file in sorted(self._files[path], key=lambda one: one[0]):
            if file is None:
                folder = (*path, name.decode())
                records.append(
                    _record(name, self.sector.get(folder, 0), sizes.get(folder, 0), 2, moment)
                )
            else:
                records.append(_record(name, file.sector, file.size, 0, moment))
        content = bytearray()
        for record in records:
            if len(content) % SECTOR_BYTES + len(record) > SECTOR_BYTES:
                content += bytes(-len(content) % SECTOR_BYTES)
            content += record
        return bytes(content) + bytes(-len(content) % SECTOR_BYTES)

    def path_table(self, order: str) -> bytes:
        """The path table, in one of its two byte orders."""
        table = b""
        for path in self.paths:
            name = path[-1].encode() if path else b"\0"
            table += struct.pack(
                f"{order}BBIH", len(name), 0, self.sector[path], self._numbers[path[:-1]]
            )
            table += name + bytes(len(name) % 2)
        return table


def _check(path: Parts) -> None:
    folders = all(map(_PART.fullmatch, path[:-1]))
    if not (folders and _FILE.fullmatch(path[-1]) and len(path) <= _MOST_LEVELS):
        raise ValueError(f"{path} is no name of level 1")


def _record(name: bytes, sector: int, size: int, flags: int, moment: bytes) -> bytes:
    length = 33 + len(name) + (len(name) + 1) % 2
    head = struct.pack("<BB", length, 0) + _both(sector) + _both(size) + moment
    tail = struct.pack("<BBB", flags, 0, 0) + _both_short(1) + bytes((len(name),)) + name
    return (head + tail).ljust(length, b"\0")


def _primary(
    label: str, total: int, table_bytes: int, little: int, big: int, root: bytes, now: datetime
) -> bytes:
    """The primary volume descriptor, ECMA-119 section 8.4."""
    stamp = now.strftime("%Y%m%d%H%M%S00").encode() + b"\0"
    never = b"0" * 16 + b"\0"
    content = b"\x01CD001\x01\0" + b" " * 32 + label.encode().ljust(32)[:32] + bytes(8)
    content += _both(total) + bytes(32) + _both_short(1) * 2 + _both_short(SECTOR_BYTES)
    content += _both(table_bytes) + struct.pack("<II", little, 0) + struct.pack(">II", big, 0)
    content += root + b" " * 128 * 3 + b"RADMESH".ljust(128) + b" " * 37 * 3
    content += stamp + stamp + never + never + b"\x01\0"
    return _padded(content)


def _moment(now: datetime) -> bytes:
    return struct.pack(
        "<BBBBBBb", now.year - 1900, now.month, now.day, now.hour, now.minute, now.second, 0
    )


def _both(number: int) -> bytes:
    return struct.pack("<I", number) + struct.pack(">I", number)


def _both_short(number: int) -> bytes:
    return struct.pack("<H", number) + struct.pack(">H", number)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % SECTOR_BYTES)
