"""Batches of unfinished transfers, in `incoming/` under their digests, and their checking.

A batch is written only after it was opened and every instance in it was
compared with its digest, and it is flushed before credit is given for it. A
file here is a claim all the same: after a restart each is verified again.
All functions are synchronous; many threads may use them.
"""

import errno
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import blake3

from node.errors import ExitCode, NodeError
from node.part10 import matches_header
from node.store import BatchStore, sync_directory
from protocol import encoding
from protocol.errors import DigestMismatch, RemoteProtocolError
from protocol.manifest import Manifest

if TYPE_CHECKING:
    from protocol.pixels import Workspace

KEEP_SECONDS = 7 * 24 * 3600
"""What a cancelled transfer left is kept so long, so that fetching again starts there."""


class Incoming:
    """The directory of batches that have arrived and are not in the store yet."""

    def __init__(self, root: Path, store: BatchStore) -> None:
        self._root = root
        self._store = store

    def has(self, digest: bytes) -> bool:
        """Whether a batch lies here or in the store."""
        return self._path(digest).exists() or self._store.has(digest)

    def write(self, digest: bytes, encoded: bytes) -> None:
        """Keep a verified batch; durable on return.

        Raises:
            NodeError: the disk is full but for the reserve of the log and the database,
                or cannot be written.
        """
        self._store.require_free(len(encoded))
        path = self._path(digest)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise NodeError(
                f"a received batch cannot be written: {error.strerror}",
                hint="free disk space; the transfer goes on from what it has"
                if error.errno in (errno.ENOSPC, errno.EDQUOT)
                else "check the disk of the node's home",
                code=ExitCode.DISK,
            ) from error

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
            path.unlink(missing_ok=True)
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
        """Remove a batch that does not hold what it should; the store is left alone."""
        self._path(digest).unlink(missing_ok=True)

    def adopt(self, manifest: Manifest) -> None:
        """Move all batches of a verified study into the store, durably."""
        for batch in manifest.batches:
            path = self._path(batch.digest)
            if path.exists():
                self._store.adopt(path, batch.digest)
        sync_directory(self._root)

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

    def _path(self, digest: bytes) -> Path:
        return self._root / digest.hex()


def check_batch(
    manifest: Manifest, index: int, encoded: bytes, workspace: "Workspace | None" = None
) -> bytes | None:
    """Decode a batch and compare each instance that is whole in it.

    Args:
        manifest: of the study.
        index: which batch.
        encoded: its encoded bytes, digest compared already.
        workspace: of the caller, to be quicker with many batches.

    Returns:
        The original bytes when they hold part of an instance that goes on in
        another batch, so that the caller hashes it across; else None.

    Raises:
        RemoteProtocolError: the batch does not hold what the manifest says.
    """
    entry = manifest.batches[index]
    original = encoding.decode_in_place_untrusted(encoded, workspace, entry.original_size)
    if len(original) != entry.original_size:
        raise RemoteProtocolError(f"batch {index} is not of its promised original size")
    has_part = False
    for instance_index, offset_in_instance, offset, length in manifest.segments(index):
        instance = manifest.instances[instance_index]
        content = original[offset : offset + length]
        if offset_in_instance == 0:
            series = manifest.series[instance.series_index]
            if not matches_header(
                content,
                manifest.study_instance_uid,
                series.series_instance_uid,
                instance.sop_instance_uid,
            ):
                raise RemoteProtocolError(
                    "an instance carries other UIDs than its manifest entry says"
                )
        if length < instance.size:
            has_part = True
        elif blake3.blake3(content).digest() != instance.digest:
            raise DigestMismatch("an instance does not have its promised digest")
    return bytes(original) if has_part else None


def is_split(manifest: Manifest, instance_index: int) -> bool:
    """Whether an instance goes on in another batch than the one it begins in."""
    instance = manifest.instances[instance_index]
    first = manifest.batches[instance.first_batch]
    return instance.offset + instance.size > first.original_size


class LargeInstances:
    """Hashes instances that span several batches, from batches given in order.

    What was not seen in order (a resumed transfer) is listed by `unverified` and
    verified from disk by `verify_from_disk`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._hashers: dict[int, tuple[blake3.blake3, int]] = {}
        self._verified: set[int] = set()

    def add(self, index: int, original: bytes) -> None:
        """Take the original bytes of batch `index`.

        Raises:
            DigestMismatch: an instance that ends here has another digest.
        """
        view = memoryview(original)
        for instance_index, offset_in_instance, offset, length in self._manifest.segments(index):
            instance = self._manifest.instances[instance_index]
            if length == instance.size:
                continue
            if offset_in_instance == 0:
                hasher, position = blake3.blake3(), 0
            else:
                found = self._hashers.pop(instance_index, None)
                if found is None or found[1] != offset_in_instance:
                    continue
                hasher, position = found
            hasher.update(view[offset : offset + length])
            position += length
            if position < instance.size:
                self._hashers[instance_index] = (hasher, position)
            elif hasher.digest() != instance.digest:
                raise DigestMismatch("a large instance does not have its promised digest")
            else:
                self._verified.add(instance_index)

    def unverified(self, among: set[int]) -> list[int]:
        """Large instances (indices) of `among` that were not seen whole and in order."""
        return sorted(index for index in among - self._verified if is_split(self._manifest, index))

    def verify_from_disk(self, instance_index: int, incoming: Incoming) -> None:
        """Read the batches of one large instance and compare its digest.

        Raises:
            DigestMismatch: it has another one.
        """
        instance = self._manifest.instances[instance_index]
        hasher = blake3.blake3()
        position = 0
        batch = instance.first_batch
        while position < instance.size:
            original = encoding.decode_untrusted(
                incoming.read(self._manifest.batches[batch].digest)
            )
            for found, offset_in_instance, offset, length in self._manifest.segments(batch):
                if found == instance_index and offset_in_instance == position:
                    hasher.update(memoryview(original)[offset : offset + length])
                    position += length
            batch += 1
        if hasher.digest() != instance.digest:
            raise DigestMismatch("a large instance does not have its promised digest")
        self._verified.add(instance_index)
