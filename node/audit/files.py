"""The files of the audit log: framed entries, and the newest checkpoint.

Frame: length of the entry (u32, big-endian), CRC-32 of the entry (u32,
big-endian), entry. Frames are appended and flushed; nothing is ever written in
the middle. Bytes behind the last whole frame were never acknowledged to anybody:
they are a write that a crash cut short, or zeros that were written ahead. Thanks to
these zeros, a flush does not change the file's size and need not wait for the file
system's journal (docs/protocol-log.md section 6).
"""

import array
import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from node.durable import rename, write_whole
from node.errors import ExitCode, NodeError
from protocol.log.entry import ENTRY_BYTES

FRAME_HEADER = struct.Struct(">II")

_READ_BYTES = 1 << 20
_READ_ENTRIES = 512
_RESERVE_BYTES = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def frame(entry: bytes) -> bytes:
    """An entry as it is stored in the file."""
    return FRAME_HEADER.pack(len(entry), zlib.crc32(entry)) + entry


class LogFile:
    """The file of entries, held by one process.

    One thread at a time may append; any thread may read durable entries.

    Attributes:
        is_broken: a flush failed and the content of the disk is unknown: no entry is taken
            until `reopen` and `mend`.

    Args:
        path: the file.
        create: make the file; otherwise it must exist.

    Raises:
        NodeError: it cannot be opened, or another process holds it.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._path = path
        self._starts = array.array("Q")
        self._end = 0
        self._reserved = 0
        self.is_broken = False
        self._descriptor = self._open(os.O_CREAT | os.O_EXCL if create else 0)

    def _open(self, flags: int) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        except OSError as error:
            raise NodeError(
                f"the audit log {self._path} cannot be opened: {error.strerror}",
                hint="restore the folder `audit` from the backup of this home",
                code=ExitCode.INTEGRITY if error.errno == errno.ENOENT else ExitCode.NO_HOME,
            ) from error
        try:
            self._lock(descriptor)
        except NodeError:
            os.close(descriptor)
            raise
        return descriptor

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise NodeError(
                f"another process is writing the audit log {self._path}",
                hint="stop it first; two writers would break the log",
                code=ExitCode.BUSY,
            ) from None

    @property
    def count(self) -> int:
        """Number of entries known to be whole."""
        return len(self._starts)

    def scan(self) -> Iterator[bytes]:
        """Read all entries from the beginning, up to the end or the first bad frame.

        Raises:
            NodeError: the disk is failing.
        """
        for entry in self._whole_frames():
            self._starts.append(self._end)
            self._end += FRAME_HEADER.size + len(entry)
            yield entry

    def _whole_frames(self) -> Iterator[bytes]:
        try:
            size = os.fstat(self._descriptor).st_size
            position = 0
            with os.fdopen(os.dup(self._descriptor), "rb", _READ_BYTES) as file:
                file.seek(0)
                while True:
                    header = file.read(FRAME_HEADER.size)
                    if len(header) < FRAME_HEADER.size:
                        return
                    length, checksum = FRAME_HEADER.unpack(header)
                    position += len(header) + length
                    if not 0 < length <= ENTRY_BYTES or position > size:
                        return
                    entry = file.read(length)
                    if zlib.crc32(entry) != checksum:
                        return
                    yield entry
        except OSError as error:
            raise _read_error(self._path, error) from error

    def torn_tail(self) -> bytes:
        """The bytes that a crash left behind the last whole frame, without zeros at the end,
        which were written ahead; call after `scan`."""
        size = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, size - self._end, self._end).rstrip(b"\0")

    def cut(self) -> None:
        """Remove the bytes behind the last whole frame, and flush all before it: a killed
        process may have left entries in memory only.

        Raises:
            NodeError: the disk is full or failing.
        """
        try:
            self._cut()
        except OSError as error:
            raise _disk_error(self._path, error.strerror) from error

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self._end)
        os.fsync(self._descriptor)
        self._reserved = self._end

    def append(self, entries: Sequence[bytes]) -> None:
        """Append entries; they are durable when this returns.

        Raises:
            NodeError: the disk is full or failing. None of the entries is in the log;
                after a failed flush `is_broken` is set.
        """
        if self.is_broken:
            raise _disk_error(self._path, "an earlier write failed")
        data = memoryview(b"".join(frame(entry) for entry in entries))
        written = 0
        try:
            if self._end + len(data) > self._reserved:
                self._reserve(self._end + len(data))
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._end + written)
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._undo()
            # All bytes were written, so the flush failed.
            if written == len(data):
                self.is_broken = True
            raise _disk_error(self._path, error.strerror) from error
        except BaseException:
            # Bytes behind the end could be taken for entries after a crash.
            self._undo()
            raise
        for entry in entries:
            self._starts.append(self._end)
            self._end += FRAME_HEADER.size + len(entry)

    def _reserve(self, needed: int) -> None:
        # Entries may reach beyond the reserved zeros, if a disk was too full for those.
        start = max(self._reserved, self._end)
        zeros = bytes(needed - start + _RESERVE_BYTES)
        try:
            self._reserved = start + os.pwrite(self._descriptor, zeros, start)
            os.fsync(self._descriptor)
        except OSError as error:
            # A disk too full for zeros may still take the entries.
            if error.errno not in _DISK_FULL:
                self.is_broken = True
                raise

    def require_room(self) -> None:
        """Check that the disk takes more, by writing zeros ahead, which are no entries.

        Raises:
            NodeError: it is full or failing.
        """
        start = max(self._reserved, self._end)
        try:
            written = os.pwrite(self._descriptor, bytes(_RESERVE_BYTES), start)
            os.fsync(self._descriptor)
        except OSError as error:
            raise _disk_error(self._path, error.strerror) from error
        self._reserved = start + written

    def _undo(self) -> None:
        try:
            self._cut()
        except OSError:
            self.is_broken = True

    def reopen(self) -> Iterator[bytes]:
        """After a failed flush: read the whole frames from the disk, not from memory.

        The system may show data that it failed to write as if it were on disk, and forget
        the failure, so a second flush of the same file proves nothing.

        Raises:
            NodeError: it cannot be opened or read, or another process took it.
        """
        try:
            fresh = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            # Keep the descriptor's number, since other threads may be reading.
            os.dup2(fresh, self._descriptor, inheritable=False)
            os.close(fresh)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise _disk_error(self._path, error.strerror) from error
        self._lock(self._descriptor)
        return self._whole_frames()

    def mend(self) -> None:
        """Take entries again; call when the frames from `reopen` hold all acknowledged ones.

        Raises:
            NodeError: the disk still fails.
        """
        last = self._starts[-1]
        try:
            # Write the last entry again, so that the flush has something to prove.
            data = os.pread(self._descriptor, self._end - last, last)
            os.pwrite(self._descriptor, data, last)
            self._cut()
        except OSError as error:
            raise _disk_error(self._path, error.strerror) from error
        self.is_broken = False

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Entries `start` to `stop - 1`.

        Raises:
            NodeError: an entry on disk differs from the written one.
        """
        while start < stop:
            upto = min(start + _READ_ENTRIES, stop)
            begin = self._starts[start]
            end = self._starts[upto] if upto < len(self._starts) else self._end
            try:
                block = os.pread(self._descriptor, end - begin, begin)
            except OSError as error:
                raise _read_error(self._path, error) from error
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
        """Cut off the zeros written ahead, and close the file."""
        if self._descriptor >= 0:
            # Cut only the zeros that this object wrote. Other bytes behind the end belong to a
            # log that was not read whole or was refused; they are evidence.
            if self._reserved > self._end and not self.is_broken:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._end)
            os.close(self._descriptor)
            self._descriptor = -1


def _disk_error(path: Path, reason: str | None) -> NodeError:
    return NodeError(
        f"the audit log {path} cannot be written: {reason}",
        hint="free disk space or repair the disk, then start again; what could not be "
        "logged was not done",
        code=ExitCode.DISK,
    )


def _read_error(path: Path, error: OSError) -> NodeError:
    return NodeError(
        f"{path} cannot be read: {error.strerror}",
        hint="repair the disk; what is in the folder `audit` may be all that is left of it",
        code=ExitCode.DISK,
    )


def read_file(path: Path) -> bytes:
    """The bytes of a small file; empty when there is no such file.

    Raises:
        NodeError: the disk is failing.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _read_error(path, error) from error


def replace_durable(path: Path, data: bytes) -> None:
    """Write a small file so that after a crash it is whole, old or new.

    Raises:
        NodeError: the disk is full or failing; the old file is kept.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise _disk_error(path, error.strerror) from error


def rename_durable(path: Path, target: Path) -> None:
    """Give a file another name in its folder, durably.

    Raises:
        NodeError: the disk is failing.
    """
    try:
        rename(path, target)
    except OSError as error:
        raise _disk_error(path, error.strerror) from error
