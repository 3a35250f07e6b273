"""Files kept aside: bad input, and other versions of instances that we have.

Each has a folder `<date>-<digest>` with the bytes in `file` and, in `reason.json`, why, from where
and when. No name is taken from a file's content. The same bytes are kept once. All functions are
synchronous; one thread uses an object at a time.
"""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import blake3

from node.durable import disk_error, sync_directory, sync_open, write_new
from node.images.reading import open_file, shown
from node.images.sources import Source

MAX_FILE_BYTES = 1024 * 1024 * 1024
"""Larger files stay where they are and are only reported: a quarantine that fills
the disk would stop the node."""

_BLOCK_BYTES = 4 * 1024 * 1024
_DIGEST_CHARACTERS = 32
_NAME_PARTS = 2


class Quarantine:
    """The quarantine folder; made if it does not exist.

    Args:
        root: the folder.
        now: seconds since the epoch, UTC, for the names and `reason.json`.

    Raises:
        NodeError: the folder cannot be made.
    """

    def __init__(self, root: Path, *, now: float) -> None:
        self._root = root
        self._now = now
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._kept = {
                path.name.split("-")[-1]: path.name
                for path in root.iterdir()
                if len(path.name.split("-")) == _NAME_PARTS
            }
        except OSError as error:
            raise disk_error(f"the quarantine {root} cannot be used", error) from error

    def keep(self, path: Path, reason: str, *, free_bytes: int) -> str:
        """Copy a file into the quarantine, durably.

        Args:
            path: the file; it stays where it is.
            reason: why, without patient data.
            free_bytes: how much disk space may be used.

        Returns:
            The name of its folder, or "" when the file is too large to keep.

        Raises:
            OSError: the file cannot be read.
            NodeError: the quarantine cannot be written.
        """
        descriptor = open_file(path)
        try:
            size = os.fstat(descriptor).st_size
            if size > min(MAX_FILE_BYTES, free_bytes):
                return ""
            return self.keep_read(
                lambda start, length: os.pread(descriptor, length, start),
                reason,
                shown(path),
                most_bytes=MAX_FILE_BYTES,
            )
        finally:
            os.close(descriptor)

    def keep_source(self, source: Source, reason: str, *, free_bytes: int) -> str:
        """Keep an instance that was read before, comparing its digest; see `keep`.

        The only copy is kept whatever its size.

        Raises:
            FileChanged: its bytes have changed.
            OSError: it cannot be read.
            NodeError: the quarantine cannot be written.
        """
        most = source.size if source.is_only_copy else min(MAX_FILE_BYTES, free_bytes)
        if source.size > most:
            return ""
        with source.reader() as reader:

            def read(start: int, length: int) -> bytes:
                length = min(length, source.size - start)
                return reader.read(start, length) if length else b""

            return self.keep_read(read, reason, source.shown, most_bytes=most)

    def keep_read(
        self,
        read: Callable[[int, int], bytes],
        reason: str,
        came_from: str,
        *,
        most_bytes: int,
    ) -> str:
        """Keep bytes in the quarantine, durably.

        Args:
            read: gives the bytes at an offset, up to a number of them; none beyond the end.
            reason: why, without patient data.
            came_from: where the bytes came from, for people.
            most_bytes: if there are more, nothing is kept.

        Returns:
            The name of their folder, or "" when there are too many.

        Raises:
            OSError: they cannot be read.
            NodeError: the quarantine cannot be written.
        """
        temporary = self._root / f".{secrets.token_hex(8)}.tmp"
        try:
            return self._copy(read, temporary, came_from, reason, most_bytes)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _copy(
        self,
        read: Callable[[int, int], bytes],
        temporary: Path,
        came_from: str,
        reason: str,
        most_bytes: int,
    ) -> str:
        hasher = blake3.blake3()
        size = 0
        try:
            temporary.mkdir(mode=0o700)
            # Unbuffered: otherwise closing the file would try again to write what a full disk did
            # not accept, and fail as if the source could not be read.
            target = (temporary / "file").open("xb", buffering=0)
        except OSError as error:
            raise disk_error("a file cannot be put to quarantine", error) from error
        with target:
            # An OSError of the read concerns the source: let the caller handle it.
            while block := read(size, _BLOCK_BYTES):
                hasher.update(block)
                size += len(block)
                if size > most_bytes:
                    return ""
                rest = memoryview(block)
                try:
                    while rest:
                        rest = rest[target.write(rest) :]
                except OSError as error:
                    raise disk_error("a file cannot be put to quarantine", error) from error
            digest = hasher.hexdigest()
            known = self._kept.get(digest[:_DIGEST_CHARACTERS])
            try:
                if known is not None:
                    # The process that kept it may have been killed before the name was durable.
                    sync_directory(self._root)
                    return known
                sync_open(target)
                told = {
                    "reason": reason,
                    "path": came_from,
                    "size": size,
                    "blake3": digest,
                    "time": int(self._now),
                }
                write_new(temporary / "reason.json", json.dumps(told, indent=1).encode())
                sync_directory(temporary)
                date = time.strftime("%Y%m%d", time.gmtime(self._now))
                name = f"{date}-{digest[:_DIGEST_CHARACTERS]}"
                _rename_unless_there(temporary, self._root / name)
                sync_directory(self._root)
            except OSError as error:
                raise disk_error("a file cannot be put to quarantine", error) from error
        self._kept[digest[:_DIGEST_CHARACTERS]] = name
        return name


def _rename_unless_there(temporary: Path, target: Path) -> None:
    """Give a finished folder its name; another ingest may have just kept the same bytes."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
