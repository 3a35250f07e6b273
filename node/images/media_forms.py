"""Where the files of a disc go: into a folder, a ZIP file or an ISO image.

None of them looks whole before it is: a ZIP file and an image get their names last, and in a folder
the DICOMDIR, without which nothing reads a medium, comes last. No existing file is replaced.
"""

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from edges.media import iso_writing
from edges.media.iso9660 import FIRST_DESCRIPTOR, SECTOR_BYTES
from edges.media.iso_writing import Placed
from node.durable import discard, sync_directory, sync_open
from node.errors import ExitCode, NodeError
from node.images.export import name_new, set_mode
from node.making import OF_FILE_SYSTEMS

DICOMDIR, IMAGES, README, INDEX = "DICOMDIR", "IMAGES", "README.TXT", "INDEX.HTM"
"""What is in the root of a disc."""
_NAMES = (IMAGES, README, INDEX)
FORMS = ("folder", "zip", "iso")

_MAKING = ".radmesh-disc"
"""Where the files of a folder are until all are there; with it, the name of an unfinished file
ends."""

Pieces = Iterable[bytes | memoryview]


class Medium(Protocol):
    """Takes the files of a disc, one after the other."""

    def add(self, path: tuple[str, ...], pieces: Pieces) -> None:
        """Write a file.

        Args:
            path: its name on the medium, from its root on; each once.

        Raises:
            OSError: the disk is full or broken.
        """


def form_for(target: Path, form: str | None) -> str:
    """The form of a disc: the given one, or by the ending of its name.

    Raises:
        NodeError: there is no such form.
    """
    if form is None:
        ending = target.suffix.lower().removeprefix(".")
        return ending if ending in ("zip", "iso") else "folder"
    if form not in FORMS:
        raise NodeError(
            f"there is no form {form!a}", hint=f"the forms are {', '.join(FORMS)}",
            code=ExitCode.USAGE,
        )  # fmt: skip
    return form


def require_free(target: Path, form: str) -> None:
    """Raise NodeError unless a disc can be made there without touching what exists."""
    if not target.parent.is_dir():
        raise NodeError(f"there is no folder {target.parent}", code=ExitCode.NOT_FOUND)
    if form == "folder" and target.is_dir() and not target.is_symlink():
        names = {one.name for one in target.iterdir()} - OF_FILE_SYSTEMS - {_MAKING}
        if not names - set(_left_in(target)):
            return
        raise NodeError(
            f"the folder {target} is not empty",
            hint="give a new or empty folder; nothing there was changed",
            code=ExitCode.USAGE,
        )
    if os.path.lexists(target):
        raise NodeError(
            f"{target} exists already",
            hint="choose another name; nothing that exists is overwritten",
            code=ExitCode.USAGE,
        )


@contextmanager
def medium(target: Path, form: str, *, mode: int, label: str, now: datetime) -> Iterator[Medium]:
    """Make a disc; it is there when the block has ended, and nothing of it if that fails.

    Args:
        target: the folder or file, as `require_free` wants it.
        mode: permissions of the files.
        label: name of the volume of an image.
        now: UTC.

    Raises:
        OSError: the disk is full or broken.
        NodeError: a file is too large for the form.
    """
    if form == "folder":
        with _folder(target, mode) as made:
            yield made
    else:
        with _single_file(target, mode) as file:
            if form == "zip":
                with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                    yield _Zip(archive, now)
            else:
                image = _Image(file, label, now)
                yield image
                image.end()


class _Folder:
    def __init__(self, root: Path, mode: int) -> None:
        self.root, self._mode = root, mode
        self.folders = {root}

    def add(self, path: tuple[str, ...], pieces: Pieces) -> None:
        """See `Medium.add`."""
        target = self.root.joinpath(*path)
        for depth in range(1, len(path)):
            folder = self.root.joinpath(*path[:depth])
            if folder not in self.folders:
                folder.mkdir(mode=0o700)
                set_mode(folder, self._mode | (self._mode & 0o444) >> 2)
                self.folders.add(folder)
        with _created(target) as file:
            for piece in pieces:
                file.write(piece)
            sync_open(file)
        set_mode(target, self._mode)


def _left_in(target: Path) -> list[str]:
    """What a process left in a folder that was killed while the files got their names there."""
    if not (target / _MAKING / DICOMDIR).exists():
        return []
    # What is still aside did not come from there.
    return [name for name in _NAMES if not os.path.lexists(target / _MAKING / name)]


@contextmanager
def _folder(target: Path, mode: int) -> Iterator[_Folder]:
    is_new = not target.exists()
    target.mkdir(mode=0o700, exist_ok=True)
    making = target / _MAKING
    for name in _left_in(target):
        _remove(target / name)
    shutil.rmtree(making, ignore_errors=True)
    moved: list[Path] = []
    try:
        making.mkdir(mode=0o700)
        made = _Folder(making, mode)
        yield made
        for folder in made.folders:
            sync_directory(folder)
        for one in sorted(making.iterdir(), key=lambda one: one.name == DICOMDIR):
            if one.name == DICOMDIR:
                sync_directory(target)
            one.rename(target / one.name)
            moved.append(target / one.name)
        making.rmdir()
        if is_new:
            set_mode(target, mode | (mode & 0o444) >> 2)
        sync_directory(target)
        sync_directory(target.parent)
    except BaseException:
        for one in reversed(moved):
            _remove(one)
        shutil.rmtree(making, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                target.rmdir()
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        discard(path)


@contextmanager
def _single_file(target: Path, mode: int) -> Iterator[BinaryIO]:
    temporary = target.with_name(f".{target.name}{_MAKING}")
    # What a killed process left there.
    temporary.unlink(missing_ok=True)
    try:
        with _created(temporary) as file:
            yield file
            sync_open(file)
        set_mode(temporary, mode)
        name_new(temporary, target)
        try:
            discard(temporary)
            sync_directory(target.parent)
        except BaseException:
            discard(target)
            raise
    finally:
        discard(temporary)


def _created(path: Path) -> BinaryIO:
    return open(path, "x+b", opener=lambda name, flags: os.open(name, flags, 0o600))


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, now: datetime) -> None:
        self._archive, self._now = archive, now

    def add(self, path: tuple[str, ...], pieces: Pieces) -> None:
        """See `Medium.add`."""
        # A ZIP file knows no earlier year.
        moment = max(self._now.timetuple()[:6], (1980, 1, 1, 0, 0, 0))
        about = zipfile.ZipInfo("/".join(path), moment)
        about.compress_type = zipfile.ZIP_DEFLATED
        about.external_attr = 0o100644 << 16
        with self._archive.open(about, "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece)


class _Image:
    def __init__(self, file: BinaryIO, label: str, now: datetime) -> None:
        self._file, self._label, self._now = file, label, now
        self._files: list[Placed] = []
        self._sector = iso_writing.FIRST_FILE
        # The descriptors, written at the end, make it an image.
        file.write(bytes(self._sector * SECTOR_BYTES))

    def add(self, path: tuple[str, ...], pieces: Pieces) -> None:
        """See `Medium.add`."""
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > iso_writing.MOST_FILE_BYTES:
                raise NodeError(
                    "one of the files is larger than 4 GiB, and a disc image has no such files",
                    hint="write a folder or a ZIP file",
                    code=ExitCode.USAGE,
                )
            self._file.write(piece)
        self._file.write(bytes(-size % SECTOR_BYTES))
        self._files.append(Placed(path, self._sector, size))
        self._sector += iso_writing.sectors(size)

    def end(self) -> None:
        """Write what makes the file an image."""
        descriptors, rest = iso_writing.finish(self._files, self._sector, self._label, self._now)
        self._file.write(rest)
        self._file.seek(FIRST_DESCRIPTOR * SECTOR_BYTES)
        self._file.write(descriptors)
