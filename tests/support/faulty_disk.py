"""A disk that fails or loses power at a chosen system call.

Python's calls on files below one folder are counted: opening to write, writing,
flushing, cutting, renaming, removing, making folders; files opened by Python's own `open`
are written by the same calls here. The disk remembers what is durable by the letter of
POSIX: the bytes of a file as of its last flush, the names of a folder as of its last flush.
From that `survivors` makes the folders that may exist after a power cut. SQLite's calls are
not seen; its files are copied as they are, since SQLite flushes by itself.
"""

import builtins
import errno
import io
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

UNSEEN = (".db", ".db-wal", ".db-shm", "lock", ".sock")
_CHUNK = 64


class FaultyDisk:
    """Counts the calls below `root`, and lets one of them fail.

    Attributes:
        calls: number of calls so far.
        flushes: number of flushes among them.
        fail_at: the call (from 0) that fails; None for none.
        error: its errno; 0 for a power cut: this and all later calls do nothing and fail.
        half: whether a failing write writes its first half.
        forgotten: whether the flush named by `forget_flush` has come.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root.resolve()
        self.calls = self.flushes = 0
        self.fail_at: int | None = None
        self.error = 0
        self.half = False
        self.is_dead = False
        self.forgotten = False
        self._flushes_before: int | None = None
        self._lock = threading.RLock()
        self._paths: dict[int, Path] = {}
        self._names = self._all_names()
        self._durable = {
            inode: self._read(path) for path, inode in self._names.items() if path.is_file()
        }
        self._real = {
            name: getattr(os, name)
            for name in (
                "open",
                "close",
                "pwrite",
                "write",
                "fsync",
                "fdatasync",
                "ftruncate",
                "rename",
                "replace",
                "unlink",
                "mkdir",
                "dup2",
            )
        }
        for name in self._real:
            monkeypatch.setattr(os, name, getattr(self, f"_{name}"))
        self._real_io_open = io.open
        for module in (io, builtins):
            monkeypatch.setattr(module, "open", self._io_open)
        # Removed files are kept here, or another file could get their inode number.
        self._removed = Path(tempfile.mkdtemp(dir=self.root.parent, prefix=".removed-"))

    def fail(self, at: int | None, error: int = 0, *, half: bool = False) -> None:
        """Let a call fail, counted from now."""
        self.calls, self.fail_at, self.error, self.half = 0, at, error, half

    def forget_flush(self, number: int) -> None:
        """Let a flush, counted from now and from 0, silently do nothing."""
        self.forgotten, self._flushes_before = False, number

    def _read(self, path: Path) -> bytes:
        return b"" if path.name.endswith(UNSEEN) else path.read_bytes()

    def _all_names(self) -> dict[Path, int]:
        return {path: path.stat().st_ino for path in self.root.rglob("*")}

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).is_relative_to(self.root)

    def _count(self) -> None:
        """Count one call; raises if this call shall fail."""
        at, self.calls = self.calls, self.calls + 1
        if self.is_dead:
            raise OSError(errno.EIO, "the power is off")
        if at == self.fail_at:
            self.is_dead = self.error == 0
            raise OSError(self.error or errno.EIO, os.strerror(self.error or errno.EIO))

    # --- the calls -----------------------------------------------------------------

    def _open(self, path, flags, mode=0o777, **kwargs):  # type: ignore[no-untyped-def]
        with self._lock:
            ours = self._is_ours(path) and not str(path).endswith(UNSEEN)
            is_new = ours and not Path(path).exists()
            if ours and flags & os.O_CREAT:
                self._count()
            descriptor = self._real["open"](path, flags, mode, **kwargs)
            if ours:
                self._paths[descriptor] = Path(path)
                if is_new:
                    self._durable[os.fstat(descriptor).st_ino] = b""
            return descriptor

    def _io_open(self, file, mode="r", buffering=-1, *args, **kwargs):  # type: ignore[no-untyped-def]
        seen = self._is_ours(file) and not str(file).endswith(UNSEEN)
        if not seen or not set(mode) & set("wxa"):
            return self._real_io_open(file, mode, buffering, *args, **kwargs)
        how = {"w": os.O_TRUNC, "x": os.O_EXCL, "a": os.O_APPEND}[mode[0]]
        flags = os.O_CREAT | os.O_CLOEXEC | how | (os.O_RDWR if "+" in mode else os.O_WRONLY)
        opener = kwargs.pop("opener", None)
        raw = _Written(opener(file, flags) if opener else os.open(file, flags, 0o666))
        if buffering == 0:
            return raw
        if "+" in mode:
            return io.BufferedRandom(raw)
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

    def _close(self, descriptor):  # type: ignore[no-untyped-def]
        with self._lock:
            self._paths.pop(descriptor, None)
            self._real["close"](descriptor)

    def _dup2(self, descriptor, target, **kwargs):  # type: ignore[no-untyped-def]
        with self._lock:
            self._real["dup2"](descriptor, target, **kwargs)
            if descriptor in self._paths:
                self._paths[target] = self._paths[descriptor]

    def _pwrite(self, descriptor, data, offset):  # type: ignore[no-untyped-def]
        return self._written("pwrite", descriptor, data, offset)

    def _write(self, descriptor, data):  # type: ignore[no-untyped-def]
        return self._written("write", descriptor, data)

    def _written(self, name, descriptor, data, *rest):  # type: ignore[no-untyped-def]
        with self._lock:
            if descriptor in self._paths:
                try:
                    self._count()
                except OSError:
                    if self.half and not self.is_dead:
                        self._real[name](descriptor, data[: len(data) // 2], *rest)
                    raise
            return self._real[name](descriptor, data, *rest)

    def _ftruncate(self, descriptor, size):  # type: ignore[no-untyped-def]
        with self._lock:
            if descriptor in self._paths:
                self._count()
            self._real["ftruncate"](descriptor, size)

    def _fsync(self, descriptor):  # type: ignore[no-untyped-def]
        self._flushed(descriptor)

    def _fdatasync(self, descriptor):  # type: ignore[no-untyped-def]
        self._flushed(descriptor)

    def _flushed(self, descriptor: int) -> None:
        # No real flush: this class decides what is durable, and the tests run faster.
        with self._lock:
            path = self._paths.get(descriptor)
            if path is None:
                return
            self._count()
            self.flushes += 1
            if self._flushes_before is not None:
                self._flushes_before -= 1
                if self._flushes_before < 0:
                    self.forgotten, self._flushes_before = True, None
                    return
            if path.is_dir():
                here = {name: at for name, at in self._all_names().items() if name.parent == path}
                # Names below a folder that is gone from here are gone too.
                kept = {
                    name: at
                    for name, at in self._names.items()
                    if name.parent != path
                    and (
                        not name.is_relative_to(path)
                        or name == path
                        or path / name.relative_to(path).parts[0] in here
                    )
                }
                self._names = kept | here
            else:
                # Do not read through the descriptor: it may be for writing only.
                data = Path(f"/proc/self/fd/{descriptor}").read_bytes()
                self._durable[os.fstat(descriptor).st_ino] = data

    def _rename(self, source, target, **kwargs):  # type: ignore[no-untyped-def]
        self._moved("rename", source, target, **kwargs)

    def _replace(self, source, target, **kwargs):  # type: ignore[no-untyped-def]
        self._moved("replace", source, target, **kwargs)

    def _unlink(self, path, *, dir_fd=None):  # type: ignore[no-untyped-def]
        with self._lock:
            # `shutil.rmtree` names files relative to the folder that it has open.
            whole = path if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink() / path
            if self._is_ours(whole) and not str(whole).endswith(UNSEEN):
                self._count()
                self._keep_number(Path(whole))
            self._real["unlink"](path, dir_fd=dir_fd)

    def _mkdir(self, path, *args, **kwargs):  # type: ignore[no-untyped-def]
        with self._lock:
            if self._is_ours(path):
                self._count()
            self._real["mkdir"](path, *args, **kwargs)
            if self._is_ours(path):
                # Its inode number may have belonged to a file.
                self._durable.pop(Path(path).stat().st_ino, None)

    def _keep_number(self, path: Path) -> None:
        if path.is_file():
            os.link(path, self._removed / str(path.stat().st_ino))

    def _moved(self, name, source, target, **kwargs):  # type: ignore[no-untyped-def]
        with self._lock:
            if self._is_ours(source):
                self._count()
                self._keep_number(Path(target))
                if Path(source).is_dir():
                    # Names below a folder move with it.
                    moved = {
                        Path(target) / name.relative_to(source): at
                        for name, at in self._names.items()
                        if name.is_relative_to(source) and name != Path(source)
                    }
                    self._names |= moved
            self._real[name](source, target, **kwargs)

    # --- what may be left ------------------------------------------------------------

    def survivors(self, directory: Path, seed: int) -> Iterator[tuple[str, Path]]:
        """Folders as they may be found if the power failed now, with their kind."""
        # The log's own thread may be at work: all is read between two of its calls.
        with self._lock:
            now, names, durable = self._all_names(), dict(self._names), dict(self._durable)
            content = {inode: self._read(path) for path, inode in now.items() if path.is_file()}
        newest = durable | content
        torn = {
            inode: _torn(durable.get(inode, b""), data, random.Random(seed))
            for inode, data in newest.items()
        }
        log_inodes = {inode for path, inode in now.items() if path.name == "log"}
        behind = {
            inode: durable.get(inode, b"") if inode in log_inodes else data
            for inode, data in newest.items()
        }
        chance = random.Random(seed)
        some: dict[Path, int] = {}
        for path in sorted(names.keys() | now.keys()):
            inode = chance.choice((names.get(path), now.get(path)))
            if path.parent != self.root and path.parent not in now:
                # A renamed folder may be found under its old name, with everything in it.
                inode = names.get(path)
            if inode is not None and (path.parent in some or path.parent == self.root):
                some[path] = inode
        # A rename gives the new name before it takes the old one: no file loses both.
        for path, inode in names.items():
            if inode in now.values() and inode not in some.values():
                some.setdefault(path, inode)
        for kind, found, contents in (
            ("killed", now, newest),
            ("all that was not flushed is lost", names, durable),
            ("names are there before their bytes", now, durable),
            ("bytes are there before their names", names, newest),
            ("some names are there", some, durable),
            ("torn", now, torn),
            ("the log alone is behind", now, behind),
        ):
            target = directory / kind.replace(" ", "-")
            shutil.rmtree(target, ignore_errors=True)
            self._make(target, found, contents)
            yield kind, target

    def _make(self, target: Path, names: dict[Path, int], contents: dict[int, bytes]) -> None:
        target.mkdir(parents=True)
        for path, inode in sorted(names.items()):
            copy = target / path.relative_to(self.root)
            if not copy.parent.is_dir():
                continue
            if path.name.endswith(UNSEEN):
                if path.is_file():
                    shutil.copyfile(path, copy)
            elif inode in contents:
                copy.write_bytes(contents[inode])
            else:
                copy.mkdir(exist_ok=True)


class _Written(io.RawIOBase):
    """A file that Python's `open` opened for writing, with its calls counted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        return os.write(self._descriptor, data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _torn(durable: bytes, newest: bytes, chance: random.Random) -> bytes:
    """The file with only some of the chunks that were written since the last flush."""
    durable = durable.ljust(len(newest), b"\0")
    parts = [
        chance.choice((durable, newest))[start : start + _CHUNK]
        for start in range(0, len(newest), _CHUNK)
    ]
    return b"".join(parts)
