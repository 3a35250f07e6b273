"""Encoded batches on disk, by digest: `store/ab/abcdef...`.

A batch appears under its name only when it is whole and flushed: temporary file,
flush, rename, flush of the directory. The name is BLAKE3 of the content, so a
second write of the same batch changes nothing, and every read tells whether the
disk still has what was written. A batch that is here already is flushed all the same
before it counts as stored: who wrote it may have been killed before its own flush.
What the batches mean is in the catalog; a batch that no study claims (a crash between
store and catalog) is harmless.

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
    """Batches that somebody found here or puts here, and has not published yet.

    They are not removed meanwhile, whatever the catalog says. Thread-safe; see
    `BatchStore.pins`.
    """

    def __init__(self, lock: threading.Lock, pinned: Counter[bytes]) -> None:
        self._lock = lock
        self._pinned = pinned
        self._own: set[bytes] = set()

    def add(self, digests: Iterable[bytes]) -> None:
        """Pin batches, before it is looked whether they are here."""
        with self._lock:
            new = set(digests) - self._own
            self._own |= new
            self._pinned.update(new)

    def clear(self) -> None:
        """Let all of them go: they are published, or not needed."""
        with self._lock:
            for digest in self._own:
                self._pinned[digest] -= 1
                if not self._pinned[digest]:
                    del self._pinned[digest]
            self._own.clear()


class BatchStore:
    """The directory of encoded batches; made when it does not exist.

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
        """Where the batch with this digest (32 bytes) stands, or would stand."""
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes")
        name = digest.hex()
        return self._root / name[:2] / name

    def has(self, digest: bytes) -> bool:
        """Whether the batch is here; `read` tells whether it is undamaged."""
        return self.path(digest).is_file()

    def pins(self) -> Pins:
        """A new set of pins, empty."""
        return Pins(self._pin_lock, self._pinned)

    def put(self, encoded: bytes | bytearray | memoryview, pins: Pins | None = None) -> bytes:
        """Store one encoded batch, durable on return; repairs a damaged copy.

        Args:
            encoded: its bytes.
            pins: pin it there, before anything else.

        Returns:
            Its digest.

        Raises:
            NodeError: the disk is full or cannot be written; nothing is half there.
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
        """Store several encoded batches; their digests, in order."""
        return [self.put(encoded) for encoded in batches]

    def adopt(self, files: Iterable[tuple[Path, bytes]]) -> None:
        """Move files of the same file system in, each as the batch of a digest; durable on return.

        Args:
            files: their content compared with the digest, and flushed, by the caller.

        Raises:
            NodeError: a file is gone, or the disk cannot be written.
        """
        try:
            self._move_in(files)
        except OSError as error:
            raise disk_error("a batch cannot be stored", error) from error

    def flush(self, digests: Iterable[bytes]) -> None:
        """Make batches that are here durable, and their names.

        Raises:
            NodeError: one is not here, or the disk cannot be written.
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
        """Remove a batch; nothing happens when it is not there."""
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error("a batch cannot be removed", error) from error

    def remove_unused(
        self, digests: Iterable[bytes], is_claimed: Callable[[bytes], bool]
    ) -> list[bytes]:
        """Remove batches that nobody needs; those that are pinned stay for now.

        Args:
            digests: of batches that were let go.
            is_claimed: asks the catalog whether something needs one all the same.

        Returns:
            Those that are settled: gone, or claimed.

        Raises:
            NodeError: the disk cannot be written.
        """
        done = []
        for digest in digests:
            # Who pins it next finds it, or finds it gone and puts it here again.
            with self._pin_lock:
                if digest in self._pinned:
                    continue
                if not is_claimed(digest):
                    self.remove(digest)
            done.append(digest)
        return done

    def temporary_path(self) -> Path:
        """A new name for a file of ours in passing; what a crash leaves there is swept."""
        return self._temporary / secrets.token_hex(16)

    def digests(self) -> Iterator[bytes]:
        """The digests of all batches here, in no order."""
        for folder in sorted(self._root.iterdir()):
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for path in folder.iterdir():
                if path.name.startswith(folder.name) and len(path.name) == 2 * DIGEST_BYTES:
                    yield bytes.fromhex(path.name)

    def sweep(self) -> int:
        """Remove the half-written files that a crash left; how many there were.

        Only while nobody writes: at the start of the process that holds the home.
        Whole batches stay, also those that nothing claims: an ingest that is run
        again takes them up, and a catalog from an older backup must not cost images.
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
        """Check that so many bytes can be written.

        Raises:
            NodeError: they cannot.
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
        """Make the names in some folders of batches durable, and theirs."""
        for folder in folders:
            sync_directory(folder)
        names = {folder.name for folder in folders}
        if not names <= self._durable_folders:
            # Also of a folder that was here: who made it may be about to flush, or was killed.
            sync_directory(self._root)
            self._durable_folders |= names
