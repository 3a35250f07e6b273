"""Batches of unfinished transfers, in `incoming/` under their digests.

A batch is written only after it was opened and every instance in it was
compared with its digest, and it is flushed, with its name, before credit is
given for it. A file here is a claim all the same: after a restart each is
verified and flushed again.
All functions are synchronous; many threads may use them.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import blake3

from node.durable import discard, disk_error, sync_directory, sync_file
from node.errors import ExitCode, NodeError
from node.images.store import BatchStore, Pins
from protocol.errors import DigestMismatch

KEEP_SECONDS = 7 * 24 * 3600
"""What a cancelled transfer left is kept so long, so that fetching again starts there."""


class Incoming:
    """The directory of batches that have arrived and are not in the store yet.

    Made when it does not exist: a backup need not have it.

    Args:
        root: the directory.
        store: where its batches go in the end.

    Raises:
        NodeError: the directory cannot be made.
    """

    def __init__(self, root: Path, store: BatchStore) -> None:
        self._root = root
        self._store = store
        try:
            if not root.is_dir():
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(root.parent)
        except OSError as error:
            raise disk_error(f"the folder {root} cannot be made", error) from error

    def has(self, digest: bytes) -> bool:
        """Whether a batch lies here or in the store."""
        return self._path(digest).exists() or self._store.has(digest)

    def pins(self) -> Pins:
        """A new set of pins for batches that a transfer counts on, also in the store."""
        return self._store.pins()

    def is_empty(self) -> bool:
        """Whether nothing of any unfinished transfer lies here."""
        with os.scandir(self._root) as found:
            return next(found, None) is None

    def write(self, digest: bytes, encoded: bytes) -> None:
        """Keep a verified batch; `flush` makes it durable.

        Raises:
            NodeError: the disk is full but for the reserve of the log and the database,
                or cannot be written.
        """
        self._store.require_free(len(encoded))
        path = self._path(digest)
        if path.exists():
            # From another source, a moment ago. What is flushed is not put at risk again.
            return
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(encoded)
            temporary.rename(path)
        except OSError as error:
            discard(temporary)
            raise _cannot_write(error) from error

    def flush(self, digest: bytes) -> None:
        """Make a batch that was written durable, and its name.

        Raises:
            NodeError: the disk cannot be written.
        """
        try:
            path = self._path(digest)
            # Young again: a transfer goes on with it.
            os.utime(path)
            sync_file(path)
            sync_directory(self._root)
        except FileNotFoundError as error:
            # With a study that is published meanwhile it has moved to the store, or before a
            # crash, which may have come before the store's flush.
            if not self._store.has(digest):
                raise _cannot_write(error) from error
            self._store.flush([digest])
        except OSError as error:
            raise _cannot_write(error) from error

    def read(self, digest: bytes) -> bytes:
        """A batch from here or the store, its digest compared.

        Raises:
            DigestMismatch: what lies here is damaged and was removed, or the store has
                it damaged or not at all.
            NodeError: it cannot be read.
        """
        path = self._path(digest)
        try:
            encoded = path.read_bytes()
        except FileNotFoundError:
            return self._read_store(digest)
        except OSError as error:
            raise NodeError(
                f"a received batch cannot be read: {error.strerror}", code=ExitCode.DISK
            ) from error
        if blake3.blake3(encoded).digest() != digest:
            self.discard(digest)
            raise DigestMismatch("a received batch was damaged on our disk")
        return encoded

    def _read_store(self, digest: bytes) -> bytes:
        try:
            return self._store.read(digest)
        except NodeError as error:
            if error.code is not ExitCode.INTEGRITY:
                raise
            # It will be received again, and takes the place of the damaged one.
            raise DigestMismatch("a batch of ours was damaged on our disk") from error

    def discard(self, digest: bytes) -> None:
        """Remove a batch that does not hold what it should; the store is left alone.

        Raises:
            NodeError: the disk cannot be written.
        """
        try:
            self._path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_write(error) from error

    def adopt(self, digests: Iterable[bytes]) -> None:
        """Move batches that were verified and flushed into the store, durably.

        Raises:
            NodeError: one is neither here nor in the store, or the disk cannot be written.
        """
        moved, there = [], []
        for digest in dict.fromkeys(digests):
            path = self._path(digest)
            if path.exists() or not self._store.has(digest):
                moved.append((path, digest))
            else:
                there.append(digest)
        self._store.adopt(moved)
        # A process that was killed may have moved these, and not flushed them.
        self._store.flush(there)

    def sweep(self, *, unfinished: bool, now: float) -> int:
        """Remove what no transfer will use, at start: how many files that was.

        Args:
            unfinished: whether a transfer is going to go on; then only half-written
                files go.
            now: seconds since the epoch, UTC.
        """
        count = 0
        for path in self._root.iterdir():
            half_written = path.name.startswith(".")
            old = now - path.stat().st_mtime > KEEP_SECONDS
            if half_written or (old and not unfinished):
                path.unlink(missing_ok=True)
                count += 1
        return count

    def sweep_old(self, unfinished: bool, now: float) -> int:
        """As `sweep`, beside transfers that are under way: by age alone.

        A batch that a transfer goes on with is flushed anew, which makes it young again.
        With a fetch at hand things are kept for twice as long.
        """
        keep, count = KEEP_SECONDS * (2 if unfinished else 1), 0
        for path in self._files():
            try:
                if not path.name.startswith(".") and now - path.stat().st_mtime > keep:
                    path.unlink()
                    count += 1
            except FileNotFoundError:
                continue
        return count

    def totals(self) -> tuple[int, int]:
        """How many batches lie here, and their bytes."""
        sizes = []
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
        return len(sizes), sum(sizes)

    def _files(self) -> list[Path]:
        try:
            return list(self._root.iterdir())
        except OSError as error:
            raise NodeError(
                f"the folder of unfinished transfers cannot be read: {error.strerror}",
                hint="check the disk and the permissions of the node's home",
                code=ExitCode.DISK,
            ) from error

    def _path(self, digest: bytes) -> Path:
        return self._root / digest.hex()


def _cannot_write(error: OSError) -> NodeError:
    return NodeError(
        f"a received batch cannot be written: {error.strerror}",
        hint="free disk space; the transfer goes on from what it has"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "check the disk of the node's home",
        code=ExitCode.DISK,
    )
