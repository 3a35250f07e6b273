"""Spools of arrivals in a folder of a test."""

from pathlib import Path

import blake3

from node.images.spool import Spool, Staged
from node.images.spool_records import About, Record


def staged(content: bytes, *, stat: bool = False) -> Staged:
    """An instance as it is handed to a spool."""
    digest = blake3.blake3(content).digest()
    return Staged(About(len(content), digest, "dimse:CT1", stat, 1_800_000_000_000), content)


def opened(path: Path) -> Spool:
    """The spool of a home."""
    return Spool(path / "arrivals", lambda size: None)


def read(spool: Spool, record: Record) -> bytes:
    """An instance of a spool."""
    with spool.reader(record) as reader:
        return reader.read(0, record.about.size)
