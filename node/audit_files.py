"""The files of the audit log: framed entries, and the newest checkpoint.

Frame: length of the entry (u32, big-endian), CRC-32 of the entry (u32,
big-endian), entry. Frames are appended and flushed; nothing is ever written in
the middle. What lies behind the last whole frame was never acknowledged to
anybody: a write that a crash cut short (docs/protocol-log.md section 6).
"""

import array
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from node.errors import ExitCode, NodeError
from protocol.log.entry import ENTRY_BYTES

FRAME_HEADER = struct.Struct(">II")

_READ_BYTES = 1 << 20
_READ_ENTRIES = 512


def frame(entry: bytes) -> bytes:
    """An entry as it stands in the file."""
    return FRAME_HEADER.pack(len(entry), zlib.crc32(entry)) + entry


class LogFile:
    """The file of entries, held by one process.

    Appending is for one thread at a time; reading entries that are durable is for any.

    Args:
        path: the file.
        create: make it; otherwise it must exist.
        sync: flushes a descriptor to disk.

    Raises:
        NodeError: it cannot be opened, or another process holds it.
    """

    def __init__(
        self, path: Path, *, create: bool = False, sync: Callable[[int], None] = os.fdatasync
    ) -> None:
        self._path = path
        self._sync = sync
        self._broken = False
        self._starts = array.array("Q")
        self._end = 0
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise NodeError(
                f"the audit log {path} cannot be opened: {error.strerror}",
                hint="restore the folder `audit` from the backup of this home",
                code=ExitCode.INTEGRITY if error.errno == errno.ENOENT else ExitCode.NO_HOME,
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise NodeError(
                f"another process is writing the audit log {path}",
                hint="stop it first; two writers would break the log",
                code=ExitCode.BUSY,
            ) from None

    @property
    def count(self) -> int:
        """Entries known to be whole."""
        return len(self._starts)

    def scan(self) -> Iterator[bytes]:
        """Read all entries from the beginning, up to the end or the first bad frame."""
        size = os.fstat(self._descriptor).st_size
        with os.fdopen(os.dup(self._descriptor), "rb", _READ_BYTES) as file:
            file.seek(0)
            while True:
                header = file.read(FRAME_HEADER.size)
                if len(header) < FRAME_HEADER.size:
                    return
                length, checksum = FRAME_HEADER.unpack(header)
                if not 0 < length <= ENTRY_BYTES or self._end + len(header) + length > size:
                    return
                entry = file.read(length)
                if zlib.crc32(entry) != checksum:
                    return
                self._starts.append(self._end)
                self._end += len(header) + length
                yield entry

    def torn_tail(self) -> bytes:
        """What lies behind the last whole frame, after `scan`."""
        size = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, size - self._end, self._end)

    def cut_torn_tail(self) -> None:
        """Remove what lies behind the last whole frame."""
        os.ftruncate(self._descriptor, self._end)
        os.fsync(self._descriptor)

    def flush(self) -> None:
        """Make what was read durable: a killed process may have left it in memory only."""
        os.fsync(self._descriptor)

    def append(self, entries: Sequence[bytes]) -> None:
        """Append entries; they are durable when this returns.

        Raises:
            NodeError: the disk is full or failing. None of the entries is in the log;
                after a failed flush the log takes no more until it is opened anew,
                because nobody knows what is on disk.
        """
        if self._broken:
            raise _disk_error(self._path, "an earlier write failed")
        data = memoryview(b"".join(frame(entry) for entry in entries))
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._end + written)
            self._sync(self._descriptor)
        except OSError as error:
            self._undo()
            # All was written: it is the flush that failed.
            if written == len(data):
                self._broken = True
            raise _disk_error(self._path, error.strerror) from error
        except BaseException:
            # Bytes behind the end could be taken for entries after a crash.
            self._undo()
            raise
        for entry in entries:
            self._starts.append(self._end)
            self._end += FRAME_HEADER.size + len(entry)

    def _undo(self) -> None:
        try:
            self.cut_torn_tail()
        except OSError:
            self._broken = True

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Entries `start` to `stop - 1`.

        Raises:
            NodeError: an entry on disk is no longer what was written.
        """
        while start < stop:
            upto = min(start + _READ_ENTRIES, stop)
            begin = self._starts[start]
            end = self._starts[upto] if upto < len(self._starts) else self._end
            block = os.pread(self._descriptor, end - begin, begin)
            position = 0
            for index in range(start, upto):
                header = block[position : position + FRAME_HEADER.size].ljust(FRAME_HEADER.size)
                length, checksum = FRAME_HEADER.unpack(header)
                position += FRAME_HEADER.size
                entry = block[position : position + length]
                position += length
                if len(entry) != length or zlib.crc32(entry) != checksum:
                    raise NodeError(
                        f"entry {index} of the audit log is damaged on disk",
                        hint="keep the folder `audit` as it is and restore it from the backup",
                        code=ExitCode.INTEGRITY,
                    )
                yield entry
            start = upto

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _disk_error(path: Path, reason: str | None) -> NodeError:
    return NodeError(
        f"the audit log {path} cannot be written: {reason}",
        hint="free disk space or repair the disk, then start again; what could not be "
        "logged was not done",
        code=ExitCode.DISK,
    )


def replace_durable(path: Path, data: bytes) -> None:
    """Write a small file so that after a crash it is whole, old or new.

    For one writer at a time.

    Raises:
        NodeError: the disk is full or failing; the old file stands.
    """
    temporary = path.with_name(f"{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        raise _disk_error(path, error.strerror) from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
