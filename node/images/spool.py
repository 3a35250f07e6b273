"""Arrived instances that are not packed yet, in `arrivals/`, many to a file.

A record is a header of 512 bytes, followed by the instance. Small instances are appended to one
file, so that one flush makes a whole round durable; a large one has a file of its own, written
while it comes. A record whose instance is in the catalog or the quarantine gets a mark, and a file
is deleted when all its records have one. Bytes after the last flush before a crash were never
acknowledged: if they fail their digest, they are left out.

All functions are synchronous and thread-safe.
"""

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.durable import discard, disk_error, sync_descriptor, sync_directory, sync_file
from node.errors import ExitCode, NodeError
from node.images.reading import ComparingReader, open_file
from node.images.spool_records import (
    HEADER_BYTES,
    About,
    Place,
    Record,
    header_of,
    mark_settled,
    records_of,
    write_all,
)

SMALL_BYTES = 1024 * 1024
"""Instances up to this size are held in memory as they come, and share files and flushes."""

INSTANCE_BYTES = 16 * 1024 * 1024 * 1024
"""Largest instance that is accepted."""

SPOOL_BYTES = 256 * 1024 * 1024 * 1024
SPOOL_INSTANCES = 100_000
"""The most that may wait. Each instance costs about a kilobyte of memory until it is packed."""

SEGMENT_BYTES = 64 * 1024 * 1024
"""A file of this size gets no more records: it is deleted when all its records are packed."""


class LargeFile:
    """An instance that is being written into a file of its own, with room for its header.

    Attributes:
        size: bytes written so far.
        descriptor: for reading the file until it is durable.
        is_kept: whether the file has become a record.
    """

    def __init__(self, path: Path, require_room: Callable[[int], None]) -> None:
        self.path = path
        self.size = 0
        self.is_kept = False
        self._require_room = require_room
        try:
            self.descriptor = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise _cannot_write(error) from error

    def write(self, data: bytes) -> None:
        """Append bytes of the instance.

        Raises:
            NodeError: the disk or the spool is full, or cannot be written.
        """
        self._require_room(len(data))
        rest = memoryview(data)
        try:
            while rest:
                count = os.pwrite(self.descriptor, rest, HEADER_BYTES + self.size)
                self.size += count
                rest = rest[count:]
        except OSError as error:
            raise _cannot_write(error) from error

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def drop(self) -> None:
        """The instance is not taken: close and delete the file."""
        self.close()
        discard(self.path)


@dataclass(frozen=True, slots=True)
class Staged:
    """An instance that the next round makes durable: its bytes, or the file that holds them."""

    about: About
    content: bytes | LargeFile


class Spool:
    """The spool folder; made if it does not exist.

    Args:
        root: the folder.
        require_free: raises NodeError if the disk has no room for that many bytes.

    Raises:
        NodeError: the folder cannot be made.
    """

    def __init__(self, root: Path, require_free: Callable[[int], None]) -> None:
        self._root = root
        self._require_free = require_free
        # Held for a whole round, including its flush; `_lock` guards only the sums.
        self._writing = threading.Lock()
        self._lock = threading.Lock()
        self._descriptor = -1
        self._current: Path | None = None
        self._length = 0
        self._is_spoilt = False
        self._open_records: dict[Path, int] = {}
        self._instances = self._bytes = 0
        try:
            if not root.is_dir():
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(root.parent)
        except OSError as error:
            raise disk_error(f"the folder {root} cannot be made", error) from error

    def close(self) -> None:
        """Close the open descriptor."""
        with self._writing:
            self._end_segment()

    @property
    def totals(self) -> tuple[int, int]:
        """How many instances wait, and their bytes; older ones count after `recover`."""
        with self._lock:
            return self._instances, self._bytes

    def require_room(self, wanted_bytes: int) -> None:
        """Check that this many bytes can be accepted, and packed later.

        Raises:
            NodeError: too much waits already, or the disk has no room.
        """
        instances, waiting = self.totals
        if instances >= SPOOL_INSTANCES or waiting + wanted_bytes > SPOOL_BYTES:
            raise NodeError(
                f"{instances} images ({waiting} bytes) that arrived wait to be packed, and no more"
                " are taken until some are",
                hint="send them again in a few minutes; see `radmesh status`",
                code=ExitCode.BUSY,
            )
        # Everything that waits is written once more when it is packed.
        self._require_free(waiting + 2 * wanted_bytes)

    def open_large(self) -> LargeFile:
        """A file for an instance of more than `SMALL_BYTES`.

        Raises:
            NodeError: the file cannot be made.
        """
        return LargeFile(self._root / f".{secrets.token_hex(8)}.tmp", self.require_room)

    # --- writing -----------------------------------------------------------------------

    def flush_large(self, staged: Staged) -> Staged:
        """Make the bytes of a large instance durable; the next `write` makes its name durable.

        Raises:
            NodeError: the disk is full or cannot be written.
        """
        assert isinstance(staged.content, LargeFile)
        try:
            write_all(staged.content.descriptor, header_of(staged.about), 0)
            sync_descriptor(staged.content.descriptor)
        except OSError as error:
            raise _cannot_write(error) from error
        finally:
            staged.content.close()
        return staged

    def write(
        self, staged: Sequence[Staged], *, meanwhile: Callable[[], None] = lambda: None
    ) -> list[Record | NodeError]:
        """Make instances durable together; returns a record or an error for each, in order.

        An instance with an error is not taken.

        Args:
            staged: the instances.
            meanwhile: called once when only the flush is left; it may start other work.
        """
        with self._writing:
            current = self._current
            done: list[Record | NodeError] = []
            for one in staged:
                if isinstance(one.content, LargeFile):
                    done.append(self._name_large(one, one.content))
                else:
                    done.append(self._append(one, one.content))
            taken = [one for one in done if isinstance(one, Record)]
            has_new_names = any(one.place.path != current for one in taken)
            meanwhile()
            error = self._flush(has_new_names)
            if error is None:
                for record in taken:
                    self._add(record)
                if self._length >= SEGMENT_BYTES or self._is_spoilt:
                    self._end_segment()
                return done
            for record in taken:
                # A record stays if its file holds other open records, and may be taken after a
                # restart. That is harmless: it is complete, or fails its digest.
                if record.place.path not in self._open_records:
                    discard(record.place.path)
            return [error if isinstance(one, Record) else one for one in done]

    def _append(self, one: Staged, content: bytes) -> Record | NodeError:
        try:
            self.require_room(len(content))
            if self._is_spoilt:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if self._current is None:
                path = self._root / secrets.token_hex(8)
                self._descriptor = os.open(
                    path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
                )
                self._current, self._length, self._is_spoilt = path, 0, False
            write_all(self._descriptor, header_of(one.about) + content, self._length)
        except NodeError as error:
            return error
        except OSError as error:
            # Append nothing after a partial record: if it cannot be cut off, the file gets no
            # further records at all.
            self._is_spoilt = not self._cut()
            return _cannot_write(error)
        place = Place(self._current, self._length)
        self._length += HEADER_BYTES + len(content)
        return Record(place, one.about)

    def _cut(self) -> bool:
        """Cut the file after its last whole record; returns whether that worked."""
        if self._current is None:
            return True
        try:
            os.ftruncate(self._descriptor, self._length)
        except OSError:
            return False
        return True

    def _name_large(self, one: Staged, file: LargeFile) -> Record | NodeError:
        path = self._root / secrets.token_hex(8)
        try:
            file.path.rename(path)
        except OSError as error:
            file.drop()
            return _cannot_write(error)
        return Record(Place(path, 0), one.about)

    def _flush(self, new_names: bool) -> NodeError | None:
        try:
            if self._current is not None:
                sync_descriptor(self._descriptor)
            if new_names:
                sync_directory(self._root)
        except OSError as error:
            # It is unknown which of the bytes are on the disk: append no further record.
            self._end_segment()
            return _cannot_write(error)
        return None

    def _end_segment(self) -> None:
        if self._current is None:
            return
        path, descriptor = self._current, self._descriptor
        self._current, self._descriptor, self._length = None, -1, 0
        self._is_spoilt = False
        with contextlib.suppress(OSError):
            os.close(descriptor)
        if path not in self._open_records:
            discard(path)

    def _add(self, record: Record) -> None:
        path = record.place.path
        self._open_records[path] = self._open_records.get(path, 0) + 1
        with self._lock:
            self._instances += 1
            self._bytes += record.about.size

    # --- reading and settling ------------------------------------------------------------

    @contextlib.contextmanager
    def reader(self, record: Record) -> Iterator[ComparingReader]:
        """A reader for reading an instance again.

        Raises:
            FileChanged: it differs from what arrived.
            OSError: it cannot be read.
        """
        with self.opened(record) as (descriptor, start):
            yield ComparingReader(descriptor, start, record.about.size, record.about.digest)

    @contextlib.contextmanager
    def opened(self, record: Record) -> Iterator[tuple[int, int]]:
        """A descriptor to read from, and the offset at which the instance begins.

        Raises:
            OSError: it cannot be read.
        """
        descriptor = open_file(record.place.path)
        try:
            yield descriptor, record.place.offset + HEADER_BYTES
        finally:
            os.close(descriptor)

    def settle(self, records: Sequence[Record]) -> None:
        """Mark instances that are in the catalog or in the quarantine; durable on return.

        Raises:
            NodeError: the disk cannot be written; the instances are found again at the next start.
        """
        with self._writing:
            by_path, gone = self._count_off(records)
            try:
                for path in gone:
                    if path == self._current:
                        # This also deletes the file, since no record in it is open.
                        self._end_segment()
                    else:
                        path.unlink(missing_ok=True)
                if gone:
                    sync_directory(self._root)
                for path in by_path.keys() - set(gone):
                    mark_settled(path, by_path[path])
                    sync_file(path)
            except OSError as error:
                raise _cannot_write(error) from error

    def let_go(self, records: Sequence[Record]) -> None:
        """Forget instances that nobody was promised. Not flushed: a crash may bring them back.

        The last ones of the present file are cut off, so that it does not grow by what is sent
        again and again.
        """
        if not records:
            return
        with self._writing:
            by_path, gone = self._count_off(records)
            for path, some in by_path.items():
                with contextlib.suppress(OSError):
                    if path == self._current and self._cut_off(some):
                        continue
                    if path not in gone:
                        mark_settled(path, some)
                    elif path == self._current:
                        self._end_segment()
                    else:
                        discard(path)

    def _cut_off(self, records: Sequence[Record]) -> bool:
        """Cut records off the present file, if they are its last ones."""
        begin = min(one.place.offset for one in records)
        size = sum(HEADER_BYTES + one.about.size for one in records)
        if self._is_spoilt or begin + size != self._length:
            return False
        self._length = begin
        self._is_spoilt = not self._cut()
        return True

    def _count_off(self, records: Sequence[Record]) -> tuple[dict[Path, list[Record]], list[Path]]:
        """Count records no longer: the records by file, and the files that have no open ones."""
        by_path: dict[Path, list[Record]] = {}
        for record in records:
            by_path.setdefault(record.place.path, []).append(record)
        for path, some in by_path.items():
            self._open_records[path] -= len(some)
        with self._lock:
            self._instances -= len(records)
            self._bytes -= sum(one.about.size for one in records)
        gone = [path for path in by_path if not self._open_records[path]]
        for path in gone:
            del self._open_records[path]
        return by_path, gone

    # --- after a restart -----------------------------------------------------------------

    def recover(self) -> list[Record]:
        """Instances that an earlier process took and did not pack; call once, before any `write`.

        Raises:
            NodeError: the folder cannot be read.
        """
        found: list[Record] = []
        try:
            for path in sorted(self._root.iterdir()):
                here = [] if path.name.startswith(".") else list(records_of(path))
                if here:
                    # The process that wrote it may have been killed before the flush.
                    sync_file(path)
                    found += here
                else:
                    path.unlink(missing_ok=True)
            sync_directory(self._root)
        except OSError as error:
            raise disk_error("what has arrived cannot be read", error) from error
        for record in found:
            self._add(record)
        return sorted(found, key=lambda one: (one.about.time_ms, one.place.path, one.place.offset))


def _cannot_write(error: OSError) -> NodeError:
    failure = disk_error("what arrives cannot be kept", error)
    hint = "free disk space, and send it again" if "full" in failure.message else failure.hint
    return NodeError(failure.message, hint=hint, code=failure.code)
