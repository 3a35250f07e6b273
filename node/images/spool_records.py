"""The format of the files in `arrivals/`: records, each a header and an instance.

A header has 512 bytes: magic, a mark that says whether the record is settled, data about the
instance as JSON, and the BLAKE3 of magic and JSON.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import blake3

from node.durable import disk_error

log = logging.getLogger("radmesh.arrivals")

_BLOCK_BYTES = 1024 * 1024

HEADER_BYTES = 512
_MAGIC = b"RMARRIV1"
_OPEN, _SETTLED = b"\x01", b"\x02"
_MARK = len(_MAGIC)
_BODY_BYTES = HEADER_BYTES - len(_MAGIC) - 1 - 32

SOURCE_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class About:
    """The data kept about an instance beside its bytes.

    Attributes:
        size: bytes.
        digest: BLAKE3 of its bytes, 32 bytes.
        source: the source that brought it; see `Arrivals.association`.
        stat: whether it is urgent.
        time_ms: when it came, milliseconds since the epoch, UTC.
    """

    size: int
    digest: bytes
    source: str
    stat: bool
    time_ms: int


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a durable record: its file, and the offset of its header."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """One instance of the spool."""

    place: Place
    about: About


def waiting(root: Path) -> tuple[int, int]:
    """How many instances wait in a spool that no process has open, and their bytes."""
    count = size = 0
    try:
        for path in root.iterdir():
            if path.name.startswith("."):
                continue
            for about, mark, _ in _headers(path):
                if mark == _OPEN:
                    count, size = count + 1, size + about.size
    except FileNotFoundError:
        # The home is of an earlier release; or the file was packed just now.
        pass
    except OSError as error:
        raise disk_error("what has arrived cannot be read", error) from error
    return count, size


def records_of(path: Path) -> Iterator[Record]:
    """The open records of a file, if their digests are right."""
    with path.open("rb", buffering=0) as file:
        for about, mark, offset in _headers(path):
            if mark != _OPEN:
                continue
            hasher = blake3.blake3()
            start = offset + HEADER_BYTES
            for at in range(0, about.size, _BLOCK_BYTES):
                length = min(_BLOCK_BYTES, about.size - at)
                hasher.update(os.pread(file.fileno(), length, start + at))
            if hasher.digest() == about.digest:
                yield Record(Place(path, offset), about)
            else:
                log.warning(
                    "an image of %d bytes in arrivals/%s is not whole, and is left out: the node"
                    " ended while it came, or the disk is damaged",
                    about.size,
                    path.name,
                )


def _headers(path: Path) -> Iterator[tuple[About, bytes, int]]:
    """The headers of a file, each with mark and offset, up to the first invalid one."""
    with path.open("rb", buffering=0) as file:
        end, offset = os.fstat(file.fileno()).st_size, 0
        while offset + HEADER_BYTES <= end:
            header = os.pread(file.fileno(), HEADER_BYTES, offset)
            about = _parse_untrusted(header)
            if about is None:
                return
            yield about, header[_MARK : _MARK + 1], offset
            offset += HEADER_BYTES + about.size


def header_of(about: About) -> bytes:
    body = json.dumps(
        {
            "size": about.size,
            "digest": about.digest.hex(),
            "source": about.source,
            "stat": about.stat,
            "time": about.time_ms,
        },
        separators=(",", ":"),
    ).encode()
    body = body.ljust(_BODY_BYTES)
    assert len(body) == _BODY_BYTES
    return _MAGIC + _OPEN + body + blake3.blake3(_MAGIC + body).digest()


def _parse_untrusted(header: bytes) -> About | None:
    """The content of a header; None if it is not a valid header."""
    body, digest = header[_MARK + 1 : -32], header[-32:]
    if not header.startswith(_MAGIC) or blake3.blake3(_MAGIC + body).digest() != digest:
        return None
    told = json.loads(body)
    return About(
        size=told["size"],
        digest=bytes.fromhex(told["digest"]),
        source=told["source"],
        stat=told["stat"],
        time_ms=told["time"],
    )


def mark_settled(path: Path, records: Sequence[Record]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for record in records:
            write_all(descriptor, _SETTLED, record.place.offset + _MARK)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[count:], offset + count
