"""Encoded batches on disk, by digest: `store/ab/abcdef...`.

A batch appears under its name only when it is whole and flushed: temporary file, flush, rename,
flush of the directory. The name is BLAKE3 of the content, so a second write of the same batch
changes nothing, and every read shows whether the disk still has what was written. A batch that is
here already is flushed all the same before it counts as stored: the process that wrote it may have
been killed before its own flush. The catalog knows what the batches hold; a batch that no study
claims (after a crash between store and catalog) is harmless.

All functions are synchronous and thread-safe.
"""

import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import blake3

from node.durable import discard, disk_error, sync_directory, sync_file, write_new
from node.errors import ExitCode, NodeError

DIGEST_BYTES = 32

RESERVE_BYTES = 64 * 1024 * 1024
"""Kept free for the audit log and the database: a node that cannot log must stop."""


class Pins:
    """Batches that a caller has found here or puts here, and has not published yet.

    They are not removed while pinned, whatever the catalog says. Thread-safe; see
    `BatchStore.pins`.
    """

    def __init__(self, lock: threading.Lock, pinned: Counter[bytes]) -> None:
        self._lock = lock
        self._pinned = pinned
        self._own: set[bytes] = set()

    def add(self, digests: Iterable[bytes]) -> None:
        """Pin batches; call this before checking whether they are here."""
        with self._lock:
            new = set(digests) - self._own
            self._own |= new
            self._pinned.update(new)

    def clear(self) -> None:
        """Unpin all batches: they are published, or not needed."""
        with self._lock:
            for digest in self._own:
                self._pinned[digest] -= 1
                if not self._pinned[digest]:
                    del self._pinned[digest]
            self._own.clear()


class BatchStore:
    """The directory of encoded batches; made if it does not exist.

    Args:
        root: the directory.
        reserve_bytes: disk space that writes leave free.

    Raises:
        NodeError: the directory cannot be made.
    """

    def __init__(self, root: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._root = root
        self._temporary = root / "tmp"
        self._reserve_bytes = reserve_bytes
        self._durable_folders: set[str] = set()
        self._pin_lock = threading.Lock()
        self._pinned: Counter[bytes] = Counter()
        try:
            self._temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_directory(root.parent)
        except OSError as error:
            raise disk_error(f"the store {root} cannot be made", error) from error

    def path(self, digest: bytes) -> Path:
        """The path of the batch with this digest (32 bytes), whether it exists or not."""
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes")
        name = digest.hex()
        return self._root / name[:2] / name

    def has(self, digest: bytes) -> bool:
        """Whether the batch is here; `read` checks whether it is undamaged."""
        return self.path(digest).is_file()

    def pins(self) -> Pins:
        """A new set of pins, empty."""
        return Pins(self._pin_lock, self._pinned)

    def put(self, encoded: bytes | bytearray | memoryview, pins: Pins | None = None) -> bytes:
        """Store one encoded batch, durable on return; repairs a damaged copy.

        Args:
            encoded: its bytes.
            pins: where to pin it, before anything else is done.

        Returns:
            Its digest.

        Raises:
            NodeError: the disk is full or cannot be written; no partial batch stays.
        """
        digest = blake3.blake3(encoded).digest()
        if pins is not None:
            pins.add([digest])
        if self._is_whole(digest):
            self.flush([digest])
            return digest
        self.require_free(len(encoded))
        temporary = self._temporary / secrets.token_hex(16)
        try:
            write_new(temporary, encoded)
            self._move_in([(temporary, digest)])
        except OSError as error:
            discard(temporary)
            raise disk_error("a batch cannot be stored", error) from error
        return digest

    def put_many(self, batches: Iterable[bytes]) -> list[bytes]:
        """Store several encoded batches; returns their digests, in order."""
        return [self.put(encoded) for encoded in batches]

    def adopt(self, files: Iterable[tuple[Path, bytes]]) -> None:
        """Move files into the store, each as the batch of a digest; durable on return.

        Args:
            files: on the same file system; the caller has compared their digests and flushed them.

        Raises:
            NodeError: a file is gone, or the disk cannot be written.
        """
        try:
            self._move_in(files)
        except OSError as error:
            raise disk_error("a batch cannot be stored", error) from error

    def flush(self, digests: Iterable[bytes]) -> None:
        """Make batches that are here, and their names, durable.

        Raises:
            NodeError: a batch is not here, or the disk cannot be written.
        """
        paths = [self.path(digest) for digest in digests]
        try:
            for path in paths:
                sync_file(path)
            self._flush_names({path.parent for path in paths})
        except OSError as error:
            raise disk_error("a batch cannot be stored", error) from error

    def read(self, digest: bytes) -> bytes:
        """The encoded batch, its digest compared.

        Raises:
            NodeError: it is missing or damaged (INTEGRITY), or cannot be read (DISK).
        """
        try:
            encoded = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NodeError(
                f"the batch {digest.hex()} is missing from the store",
                hint="restore the home from its backup, or fetch the study again",
                code=ExitCode.INTEGRITY,
            ) from None
        except OSError as error:
            raise disk_error("a batch cannot be read", error) from error
        if blake3.blake3(encoded).digest() != digest:
            raise NodeError(
                f"the batch {digest.hex()} is damaged on disk",
                hint="restore the home from its backup, or fetch the study again; check the disk",
                code=ExitCode.INTEGRITY,
            )
        return encoded

    def remove(self, digest: bytes) -> None:
        """Remove a batch, if it is here."""
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error("a batch cannot be removed", error) from error

    def remove_unused(
        self, digests: Iterable[bytes], is_claimed: Callable[[bytes], bool]
    ) -> list[bytes]:
        """Remove batches that nothing needs; pinned ones stay for now.

        Args:
            digests: of batches that the catalog no longer needs.
            is_claimed: asks the catalog whether a batch is needed after all.

        Returns:
            The digests that are settled: removed, or claimed.

        Raises:
            NodeError: the disk cannot be written.
        """
        done = []
        for digest in digests:
            # A caller that pins it next finds it here, or finds it gone and stores it again.
            with self._pin_lock:
                if digest in self._pinned:
                    continue
                if not is_claimed(digest):
                    self.remove(digest)
            done.append(digest)
        return done

    def temporary_path(self) -> Path:
        """A new name for a temporary file; `sweep` deletes files that a crash leaves there."""
        return self._temporary / secrets.token_hex(16)

    def digests(self) -> Iterator[bytes]:
        """The digests of all batches here, in no particular order."""
        for folder in sorted(self._root.iterdir()):
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for path in folder.iterdir():
                if path.name.startswith(folder.name) and len(path.name) == 2 * DIGEST_BYTES:
                    yield bytes.fromhex(path.name)

    def sweep(self) -> int:
        """Remove half-written files that a crash left; returns how many.

        Call it only while nobody writes: at the start of the process that holds the home. Whole
        batches stay, even if nothing claims them: an ingest that is run again uses them, and
        restoring an older backup of the catalog must not lose images.
        """
        count = 0
        for path in self._temporary.iterdir():
            path.unlink(missing_ok=True)
            count += 1
        return count

    def free_bytes(self) -> int:
        """Free space of the store's disk, less the reserve."""
        return max(0, shutil.disk_usage(self._root).free - self._reserve_bytes)

    def require_free(self, wanted_bytes: int) -> None:
        """Check that this many bytes can be written.

        Raises:
            NodeError: the disk has no room for them.
        """
        free = self.free_bytes()
        if free < wanted_bytes:
            raise NodeError(
                f"the disk of the node's home has no room for {wanted_bytes} bytes: {free} are"
                f" left beside a reserve of {self._reserve_bytes}",
                hint="free disk space and run it again; what was finished is kept",
                code=ExitCode.DISK,
            )

    def _is_whole(self, digest: bytes) -> bool:
        try:
            return blake3.blake3(self.path(digest).read_bytes()).digest() == digest
        except OSError:
            return False

    def _move_in(self, files: Iterable[tuple[Path, bytes]]) -> None:
        folders = set()
        for path, digest in files:
            target = self.path(digest)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            path.replace(target)
            folders.add(target.parent)
        self._flush_names(folders)

    def _flush_names(self, folders: set[Path]) -> None:
        """Make the names in some folders of batches durable, and the names of these folders."""
        for folder in folders:
            sync_directory(folder)
        names = {folder.name for folder in folders}
        if not names <= self._durable_folders:
            # Also for existing folders: the process that made one may not have flushed it yet, or
            # was killed.
            sync_directory(self._root)
            self._durable_folders |= names
