"""Checks whether the files in `store/` and `incoming/` are those that the catalog names."""

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import blake3

from node.fsck.catalog import Catalog
from node.fsck.findings import Finding

ORPHAN_SECONDS = 24 * 3600
"""While a node has the home, a younger batch may be of an ingest under way."""

LEFTOVER_SECONDS = 3600
"""While a node has the home, a younger half-written file may be under way."""

INCOMING_SECONDS = 7 * 24 * 3600
"""Files of a cancelled transfer are kept so long on purpose."""

_BLOCK_BYTES = 4 * 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[0-9a-f]{2}")

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes in all."""


@dataclass(frozen=True)
class View:
    """How a home is looked at.

    Attributes:
        home: its folder.
        in_use: whether a process has it, so that a young file may be under way.
        now: seconds since the epoch, UTC.
        fast: compare only the sizes of batches, without reading them.
    """

    home: Path
    in_use: bool
    now: float
    fast: bool

    def is_old(self, found: float, in_use_seconds: float) -> bool:
        """Whether a file with this time of change cannot be under way."""
        return not self.in_use or self.now - found > in_use_seconds


def check_store(
    view: View, catalog: Catalog, only: frozenset[bytes] | None, progress: Progress
) -> Iterator[Finding]:
    """Find what is wrong in `store/`.

    Args:
        only: read only these batches; None reads all.
        progress: called after each batch.
    """
    store = view.home / "store"
    here = _batches(store)
    done, total = 0, sum(catalog.batches.values())
    for digest, size in sorted(catalog.batches.items()):
        found = here.pop(digest, None)
        name = digest.hex()
        place = f"store/{name[:2]}/{name}"
        if found is None:
            yield Finding("batch-missing", name, f"the batch {place} is missing")
            continue
        try:
            here_size = found.stat().st_size
            read = not view.fast and (only is None or digest in only)
            whole = not read or _is_whole(found, digest)
        except OSError as error:
            yield Finding("batch-changed", name, f"{place} cannot be read: {error.strerror}")
            continue
        if not whole:
            yield Finding("batch-changed", name, f"{place} is not what was stored")
        elif here_size != size:
            what = f"{place} has {here_size} bytes, and {size} by the catalog"
            yield Finding("batch-size", name, what)
        done += size
        progress(done, total)
    for digest, path in sorted(here.items()):
        if digest not in catalog.needed and view.is_old(changed_at(path), ORPHAN_SECONDS):
            name = digest.hex()
            what = f"the catalog knows nothing of store/{name[:2]}/{name}"
            yield Finding("batch-orphaned", name, what)
    yield from _others(view, store)


def _batches(store: Path) -> dict[bytes, Path]:
    return {
        bytes.fromhex(path.name): path
        for folder in entries_of(store)
        if _FOLDER.fullmatch(folder.name) and folder.is_dir()
        for path in entries_of(folder)
        if _is_batch(folder, path)
    }


def _is_batch(folder: Path, path: Path) -> bool:
    return _DIGEST.fullmatch(path.name) is not None and path.name.startswith(folder.name)


def _others(view: View, store: Path) -> Iterator[Finding]:
    """Find files and folders in `store/` that are no batches."""
    for path in entries_of(store):
        if path.name == "tmp":
            for half in entries_of(path):
                if view.is_old(changed_at(half), LEFTOVER_SECONDS):
                    where = f"store/tmp/{half.name}"
                    yield Finding("store-leftover", where, f"{where} is half written")
        elif _FOLDER.fullmatch(path.name) and path.is_dir():
            for other in entries_of(path):
                if not _is_batch(path, other):
                    yield _foreign(f"store/{path.name}/{other.name}")
        else:
            yield _foreign(f"store/{path.name}")


def _foreign(where: str) -> Finding:
    return Finding("store-foreign", where, f"{where} is no batch")


def check_incoming(view: View, catalog: Catalog) -> Iterator[Finding]:
    """Find files in `incoming/` that no transfer will use."""
    for path in entries_of(view.home / "incoming"):
        age = view.now - changed_at(path)
        half = path.name.startswith(".") and view.is_old(changed_at(path), LEFTOVER_SECONDS)
        left = not catalog.transfers_open and age > INCOMING_SECONDS
        if half or left:
            where = f"incoming/{path.name}"
            yield Finding("incoming-leftover", where, f"{where} belongs to no transfer")


def entries_of(folder: Path) -> list[Path]:
    """The members of a folder, sorted by name; empty when there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def changed_at(path: Path) -> float:
    """When a file was changed, seconds since the epoch, UTC."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        # The file is gone: count it as just changed.
        return float("inf")


def _is_whole(path: Path, digest: bytes) -> bool:
    hasher = blake3.blake3()
    with path.open("rb") as file:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.digest() == digest
