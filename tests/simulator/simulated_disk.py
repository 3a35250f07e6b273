"""The disks of a simulation: each can be full for a while, and each node can be killed.

A kill comes at a commit of a database or an entry of a log: just before, in the middle of
the entry, or just after, before anything that follows it in memory. A killed process leaves
its folder as it is at that moment: the folder is copied, and the next process gets the copy.
Unflushed data is present, as after a kill but not as after a power cut (for power cuts see
`tests/support/faulty_disk.py`).
"""

import builtins
import contextlib
import errno
import io
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from node.app import Node
from node.audit.files import LogFile
from node.database import Database

NOT_COPIED = ("-shm", "lock", ".sock")
FREE_BYTES = 1 << 40


class Disk:
    """The disk of one incarnation of a node.

    Attributes:
        is_full: whether it takes no more data.
        was_full: whether it was ever full.
        is_dead: whether its process was killed; the folder then no longer matters.
        points: number of commits and entries so far.
        torn: the log's file and the range being written, if the process was killed in the
            middle of that write; otherwise None.
        kill_after: whether the process is killed after the current commit.
    """

    def __init__(self, path: Path, killed: Callable[["Disk", str], None]) -> None:
        self.path = path
        self.is_full = self.was_full = self.is_dead = False
        self.points = 0
        self._killed = killed
        self._kill_at: int | None = None
        self._rng = random.Random(0)
        self.torn: tuple[Path, int, int] | None = None
        self.kill_after = False

    def kill_at(self, points: int, rng: random.Random) -> None:
        """Kill the process at a commit or entry, so many from now."""
        self._kill_at, self._rng = self.points + points, rng

    def spare(self) -> None:
        """Cancel the kill."""
        self._kill_at = None

    def due(self, *moments: str) -> str:
        """The moment of the current commit or entry at which the kill is due; "" for none."""
        self.points += 1
        if self.is_dead or self._kill_at is None or self.points < self._kill_at:
            return ""
        self._kill_at = None
        return self._rng.choice(moments)

    def kill(self, what: str) -> None:
        """The process ends here."""
        if not self.is_dead:
            self._killed(self, what)

    def copy(self, target: Path) -> None:
        """Copy what the next process finds."""
        shutil.copytree(
            self.path,
            target,
            ignore=lambda _, names: [name for name in names if name.endswith(NOT_COPIED)],
        )


class Disks:
    """All disks; `installed` makes the product's calls go through them."""

    def __init__(self) -> None:
        self._disks: dict[Path, Disk] = {}

    def add(self, disk: Disk) -> None:
        """Add a disk."""
        self._disks[disk.path] = disk

    def of(self, path: Path) -> Disk | None:
        """The disk that a path is on."""
        for parent in (path, *path.parents):
            if parent in self._disks:
                return self._disks[parent]
        return None

    def _is_full(self, path: object) -> bool:
        if not any(disk.is_full for disk in self._disks.values()):
            return False
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        disk = self.of(Path(os.fsdecode(path)).absolute())  # type: ignore[arg-type]
        return disk is not None and disk.is_full and not disk.is_dead

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Make the product's calls go through the disks inside this block."""
        real = {
            (Database, "_run"): self._run(Database._run),
            (LogFile, "append"): self._append(LogFile.append),
            (Node, "free_bytes"): lambda node: self._free_bytes(node),
            (os, "pwrite"): self._writing(os.pwrite),
            (os, "write"): self._writing(os.write),
            (os, "open"): self._opening(os.open),
            (os, "fsync"): lambda descriptor: None,
            (os, "fdatasync"): lambda descriptor: None,
        }
        before = {(owner, name): getattr(owner, name) for owner, name in real}
        for (owner, name), function in real.items():
            setattr(owner, name, function)
        opened = io.open
        builtins.open = self._py_open(opened)  # type: ignore[assignment]
        try:
            yield
        finally:
            builtins.open = opened
            for (owner, name), function in before.items():
                setattr(owner, name, function)

    def _free_bytes(self, node: Node) -> int:
        disk = self.of(node.home.path)
        return 0 if disk is not None and disk.is_full else FREE_BYTES

    def _writing(self, real):  # type: ignore[no-untyped-def]
        def write(descriptor, data, *more):  # type: ignore[no-untyped-def]
            if self._is_full(descriptor):
                raise _full()
            return real(descriptor, data, *more)

        return write

    def _opening(self, real):  # type: ignore[no-untyped-def]
        def open_(path, flags, *more, **named):  # type: ignore[no-untyped-def]
            makes = flags & os.O_CREAT and not isinstance(path, int) and not Path(path).exists()
            if makes and self._is_full(path):
                raise _full()
            return real(path, flags, *more, **named)

        return open_

    def _py_open(self, real):  # type: ignore[no-untyped-def]
        def open_(file, mode="r", *more, **named):  # type: ignore[no-untyped-def]
            if set(mode) & set("wxa+") and not isinstance(file, int) and self._is_full(file):
                raise _full()
            return real(file, mode, *more, **named)

        return open_

    def _run(self, real):  # type: ignore[no-untyped-def]
        disks = self

        def run(self: Database, work, end: str):  # type: ignore[no-untyped-def]
            disk = disks.of(self._path)
            if disk is None or end != "COMMIT":
                return real(self, work, end)

            def committed(connection: sqlite3.Connection):  # type: ignore[no-untyped-def]
                before = connection.total_changes
                # Registered first, so it runs before anything that follows the commit in memory.
                self.after_commit(lambda: _kill_after(disk))
                result = work(connection)
                if connection.total_changes == before:
                    return result
                if disk.is_full:
                    raise sqlite3.OperationalError("database or disk is full")
                moment = disk.due("before", "after")
                if moment == "before":
                    disk.kill("before a commit")
                elif moment:
                    disk.kill_after = True
                return result

            return real(self, committed, end)

        return run

    def _append(self, real):  # type: ignore[no-untyped-def]
        disks = self

        def append(self: LogFile, entries) -> None:  # type: ignore[no-untyped-def]
            disk = disks.of(self._path)
            moment = "" if disk is None else disk.due("before", "torn", "after")
            if disk is None or not moment:
                real(self, entries)
                return
            if moment == "before":
                disk.kill("before an entry")
            begin = self._end
            real(self, entries)
            if moment == "after":
                disk.kill("after an entry")
            elif moment == "torn":
                disk.torn = (self._path, begin, self._end)
                disk.kill("in the middle of an entry")

        return append


def _kill_after(disk: Disk) -> None:
    if disk.kill_after:
        disk.kill_after = False
        disk.kill("after a commit")


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def tear(disk: Disk, copied: Path, rng: random.Random) -> None:
    """In a copy, cut the last entries of the log at a random byte."""
    if disk.torn is None:
        return
    path, begin, end = disk.torn
    target = copied / path.relative_to(disk.path)
    data = bytearray(target.read_bytes())
    keep = rng.randrange(begin, end)
    data[keep:end] = bytes(end - keep)
    target.write_bytes(bytes(data))
