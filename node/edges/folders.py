"""Watches a folder by looking into it: shares of other machines tell nobody what they get.

A file is taken when it has been still for a while. It is moved aside first, into a folder within
the watched one, so that it is taken once and nobody writes to it under its old name; then it is
handed to the arrivals, and deleted or kept. What the process did not finish lies aside, and is
taken up by the next start. The process log has no names of files: they may name a patient.
"""

import contextlib
import logging
import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from node.blocking import in_thread
from node.edges.doors import Doors
from node.edges.folder_settings import FolderSettings
from node.errors import NodeError
from node.images.arrival_work import Became, Outcome
from node.images.arrivals import Arrivals, Association

log = logging.getLogger("radmesh.folders")

LOOK_SECONDS = 2.0
"""Time between two looks."""

TROUBLE_SECONDS = 30.0
"""The same where the folder cannot be read."""

GROWS_SECONDS = 600.0
"""A file that has not been still for so long is reported."""

MOST_FILES = 50_000
"""Files that are looked at in one folder; the rest comes when these are gone."""

AT_ONE_TIME = 8
"""Files that are taken in at one time."""

PIECE_BYTES = 1024 * 1024

TAKEN, DONE, REFUSED = ".radmesh-taken", ".radmesh-done", ".radmesh-refused"
"""Folders within the watched one: what is being taken, was taken and is kept, and is no image."""

_UNFINISHED = (".part", ".partial", ".tmp", ".filepart", ".crdownload", "~")


class _Growing(Exception):
    """A file changes while it is read."""


@dataclass(slots=True)
class _Seen:
    """A file as it was when it was looked at: size and time of change; when that was first so."""

    state: tuple[int, int]
    still_since: float
    first: float


@dataclass
class FolderCounts:
    """What a folder has brought since the start; no names."""

    waiting: int = 0
    growing: int = 0
    taken: int = 0
    set_aside: int = 0
    refused: int = 0
    trouble: str = ""


class Folder:
    """One watched folder.

    Args:
        settings: which, and what becomes of its files.
        arrivals: takes the images.
        doors: offers them, if they are to be sent on.

    Attributes:
        counts: what has happened.
    """

    def __init__(self, settings: FolderSettings, arrivals: Arrivals, doors: Doors) -> None:
        self.settings = settings
        self._arrivals = arrivals
        self._doors = doors
        self._seen: dict[Path, _Seen] = {}
        # One thread at most waits for a share that does not answer.
        self._limiter = trio.CapacityLimiter(1)
        self.counts = FolderCounts()

    def describe(self) -> dict[str, Any]:
        """The folder and its counts, as JSON."""
        found = {name: getattr(self.counts, name) for name in FolderCounts.__dataclass_fields__}
        return {"name": self.settings.name, "path": str(self.settings.path), **found}

    async def run(self) -> None:
        """Take what comes, until cancelled."""
        while True:
            try:
                due = await in_thread(self._look, trio.current_time(), limiter=self._limiter)
                self._say("")
                if due:
                    await self._take_all(due)
            except OSError as error:
                self._say(f"it cannot be read: {error.strerror or type(error).__name__}")
            except NodeError as error:
                self._say(error.message)
            await trio.sleep(TROUBLE_SECONDS if self.counts.trouble else LOOK_SECONDS)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.counts.trouble:
            log.warning("the watched folder %s: %s", self.settings.name, trouble)
        self.counts.trouble = trouble

    # --- looking -----------------------------------------------------------------------

    def _look(self, now: float) -> list[Path]:
        """The files to take now; those that lie aside already come first.

        Raises:
            OSError: the folder cannot be read.
        """
        files = _files(self.settings.path)
        aside = self.settings.path / TAKEN
        if aside.is_dir():
            files = _files(aside) + files
        seen, due = {}, []
        for path, state in files:
            known = self._seen.get(path)
            if known is None:
                known = _Seen(state, now, now)
            elif known.state != state:
                known = _Seen(state, now, known.first)
            seen[path] = known
            if now - known.still_since >= self.settings.still_seconds:
                due.append(path)
        self._seen = seen
        self.counts.waiting = len(seen)
        self.counts.growing = sum(
            now - one.first >= GROWS_SECONDS and now - one.still_since < self.settings.still_seconds
            for one in seen.values()
        )
        return due

    # --- taking ------------------------------------------------------------------------

    async def _take_all(self, paths: list[Path]) -> None:
        """Take files.

        Raises:
            NodeError: one could not be taken now; it lies aside, and is tried again.
            OSError: one could not be read or moved now; the others are taken.
        """
        source = self.settings.door.name
        failures: list[NodeError | OSError] = []
        left = iter(paths)

        async def take_some() -> None:
            for path in left:
                if any(isinstance(one, NodeError) for one in failures):
                    # It would be the same for the others.
                    return
                try:
                    await self._take(path, association)
                except (FileNotFoundError, _Growing):
                    # Somebody took it away, or still writes to it: it is looked at again.
                    continue
                except (NodeError, OSError) as error:
                    failures.append(error)

        async with self._arrivals.association(source) as association:
            async with trio.open_nursery() as nursery:
                for _ in range(min(AT_ONE_TIME, len(paths))):
                    nursery.start_soon(take_some)
        if failures:
            raise failures[0]

    async def _take(self, path: Path, association: Association) -> None:
        aside = await in_thread(self._move_aside, path, limiter=self._limiter)
        self._seen.pop(path, None)
        try:
            async with contextlib.aclosing(self._pieces(aside)) as pieces:
                became = await association.take(pieces, stat=self.settings.door.stat)
        except PermissionError:
            became = Became(Outcome.REFUSED, "may not be read")
        if self.settings.door.to and became.study:
            await in_thread(
                self._doors.note, became.study, self.settings.door.name, self.settings.name
            )
        await in_thread(self._finish, aside, became, limiter=self._limiter)

    def _move_aside(self, path: Path) -> Path:
        """Move a file into the folder of those that are being taken, under a name of its own."""
        folder = self.settings.path / TAKEN
        if path.parent == folder:
            return path
        return _moved(path, folder)

    async def _pieces(self, path: Path) -> AsyncGenerator[bytes, None]:
        """The bytes of a file.

        Raises:
            _Growing: it changes while it is read: its writer still has it open.
        """
        descriptor = await in_thread(_open, path, limiter=self._limiter)
        try:
            before = os.fstat(descriptor)
            offset = 0
            while True:
                piece = await in_thread(
                    os.pread, descriptor, PIECE_BYTES, offset, limiter=self._limiter
                )
                if not piece:
                    break
                offset += len(piece)
                if offset >= before.st_size:
                    after = await in_thread(os.fstat, descriptor, limiter=self._limiter)
                    if _state(after) != _state(before) or offset != before.st_size:
                        raise _Growing
                yield piece
        finally:
            os.close(descriptor)

    def _finish(self, path: Path, became: Became) -> None:
        """A file is dealt with: it goes, or is kept."""
        if became.outcome is Outcome.REFUSED:
            self.counts.refused += 1
            _moved(path, self.settings.path / REFUSED)
            return
        if became.outcome in (Outcome.TAKEN, Outcome.KNOWN, Outcome.RETURNED):
            self.counts.taken += 1
        else:
            self.counts.set_aside += 1
        if self.settings.keep:
            _moved(path, self.settings.path / DONE)
        else:
            path.unlink()


def _files(folder: Path) -> list[tuple[Path, tuple[int, int]]]:
    """Regular files below a folder that may be whole, with what tells whether they change.

    What begins with a point is left out, and so are links, which may lead anywhere.

    Raises:
        OSError: the folder itself cannot be read.
    """
    found: list[tuple[Path, tuple[int, int]]] = []
    folders = [folder]
    for place in folders:
        try:
            entries = os.scandir(place)
        except OSError:
            if place == folder:
                raise
            # It was removed while we looked, or is not for us.
            continue
        with entries:
            for entry in entries:
                if len(found) >= MOST_FILES:
                    return found
                with contextlib.suppress(OSError):
                    if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        about = entry.stat(follow_symlinks=False)
                        found.append((Path(entry.path), _state(about)))
    return found


def _state(about: os.stat_result) -> tuple[int, int]:
    return about.st_size, about.st_mtime_ns


def _moved(path: Path, folder: Path) -> Path:
    """Move a file into a folder of the same file system, under a name that is free there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(10_000):
        target = folder / (f"{number}-{path.name}" if number else path.name)
        try:
            # A link fails where the name is taken, which a renaming would replace.
            os.link(path, target, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError:
            # A file system without links: shares, and sticks.
            if target.exists():
                continue
            path.rename(target)
            return target
        path.unlink()
        return target
    raise OSError(0, "too many files of one name")


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(0, "it is no regular file any more")
    return descriptor
