"""Moves batches between a store and the pool of a backup: whole or not at all."""

import errno
import os
from pathlib import Path

import blake3

from node.backup.layout import batch_path
from node.durable import sync_directory, sync_open

_NO_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
)
_BLOCK_BYTES = 4 * 1024 * 1024


class Batches:
    """Brings batches from one folder into another; `finish` makes their names durable.

    Args:
        source, target: folders laid out like a store.
        link: link files instead of copying, where both folders are on the same disk.
    """

    def __init__(self, source: Path, target: Path, *, link: bool) -> None:
        self._source = source
        self._target = target
        self._link = link
        self._temporary = target / "tmp"
        self._folders: set[Path] = set()
        self._temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._temporary.iterdir():
            left.unlink()

    def has(self, digest: bytes, size: int) -> bool:
        """Whether the target already has a file of that size for a batch."""
        try:
            return batch_path(self._target, digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def take(self, digest: bytes) -> bool:
        """Bring a batch over; False when the source lacks it or has it damaged.

        A linked batch is not read.

        Raises:
            OSError: the disk is full or failing.
        """
        source, target = batch_path(self._source, digest), batch_path(self._target, digest)
        if target.parent not in self._folders:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            self._folders.add(target.parent)
        if self._link:
            try:
                target.unlink(missing_ok=True)
                os.link(source, target)
                return True
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._link = False
        return self._copy(source, target, digest)

    def _copy(self, source: Path, target: Path, digest: bytes) -> bool:
        making = self._temporary / digest.hex()
        hasher = blake3.blake3()
        try:
            with source.open("rb") as file, making.open("xb") as copy:
                os.fchmod(copy.fileno(), 0o600)
                while block := file.read(_BLOCK_BYTES):
                    hasher.update(block)
                    copy.write(block)
                sync_open(copy)
            if hasher.digest() != digest:
                return False
            making.rename(target)
        except FileNotFoundError:
            return False
        finally:
            making.unlink(missing_ok=True)
        return True

    def finish(self) -> None:
        """Make the names of the batches brought over durable."""
        for folder in sorted(self._folders):
            sync_directory(folder)
        sync_directory(self._target)
