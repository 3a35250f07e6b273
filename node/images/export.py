"""Exporting a study as plain DICOM files, byte for byte as they came.

Files are named by their place in the study (`SERIES01/IM00001.dcm`), never by their content. Each
is compared with its digest before it gets its name, and no existing file is ever replaced: a file
of the study from an earlier export keeps its name, even if the study has grown and places have
shifted.
"""

import errno
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import blake3

from node.catalog.catalog import Catalog
from node.durable import disk_error
from node.errors import ExitCode, NodeError
from node.images.store import BatchStore
from node.making import OF_FILE_SYSTEMS
from protocol import encoding
from protocol.errors import RemoteProtocolError
from protocol.manifest import InstanceEntry, Manifest

FILE_MODE = 0o600
"""Default mode of exported files: they name a patient."""

_BLOCK_BYTES = 4 * 1024 * 1024

_NAME = re.compile(r"SERIES([0-9]{2,})/IM([0-9]{5,})\.dcm")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProgress:
    """How far an export is; bytes of original files."""

    instances: int
    instances_total: int
    bytes: int
    bytes_total: int


def export_study(
    catalog: Catalog,
    store: BatchStore,
    study_uid: str,
    directory: Path,
    progress: Callable[[ExportProgress], None] = lambda _: None,
    *,
    mode: int = FILE_MODE,
) -> int:
    """Write all instances of a study below a directory.

    Existing files of the study are left alone, so an export can simply be run again if it was
    interrupted or the study has grown.

    Args:
        study_uid: Study Instance UID.
        directory: made if it does not exist; must hold nothing else.
        progress: called after each file.
        mode: permissions of new files; whoever can read them can enter new folders.

    Returns:
        How many instances the directory holds.

    Raises:
        NodeError: no such study; the directory holds something else; the store is
            damaged; the disk is full.
    """
    manifest = catalog.manifest(study_uid)
    try:
        found = _found(directory, manifest)
        _make_folder(directory, mode, parents=True)
        names = _names(manifest, found)
        reader = InstanceReader(manifest, store)
        done = 0
        # In batch order, so that each batch is decoded once.
        order = sorted(
            range(len(names)),
            key=lambda at: (manifest.instances[at].first_batch, manifest.instances[at].offset),
        )
        for count, index in enumerate(order, start=1):
            entry = manifest.instances[index]
            if index not in found:
                _write_file(directory / names[index], entry, reader.pieces(index), mode)
            done += entry.size
            progress(
                ExportProgress(
                    instances=count,
                    instances_total=len(names),
                    bytes=done,
                    bytes_total=manifest.total_original_bytes,
                )
            )
    except OSError as error:
        raise _disk(error) from error
    return len(names)


def read_instance(catalog: Catalog, store: BatchStore, study_uid: str, sop_uid: str) -> bytes:
    """One instance as it came; for instances that fit into memory.

    Raises:
        NodeError: no such study or instance, or the store is damaged.
    """
    manifest = catalog.manifest(study_uid)
    for index, entry in enumerate(manifest.instances):
        if entry.sop_instance_uid == sop_uid:
            content = b"".join(InstanceReader(manifest, store).pieces(index))
            if blake3.blake3(content).digest() != entry.digest:
                raise damaged(entry)
            return content
    raise NodeError(f"study {study_uid} has no instance {sop_uid} here", code=ExitCode.NOT_FOUND)


class InstanceReader:
    """Takes instances out of batches; the last decoded batch is kept."""

    def __init__(self, manifest: Manifest, store: BatchStore) -> None:
        self._manifest = manifest
        self._store = store
        self._batch = -1
        self._original = memoryview(b"")

    def pieces(self, index: int) -> Iterator[memoryview]:
        """The bytes of one instance, in order."""
        for batch, place in self._manifest.places(index):
            yield self._of(batch)[place.offset : place.offset + place.length]

    def read(self, index: int, offset: int, length: int) -> bytes:
        """Bytes of one instance, from an offset; fewer only at its end."""
        parts, start = [], 0
        for batch, place in self._manifest.places(index):
            begin, end = max(offset, start), min(offset + length, start + place.length)
            if begin < end:
                shift = place.offset - start
                parts.append(self._of(batch)[begin + shift : end + shift])
            start += place.length
        return b"".join(parts)

    def _of(self, batch: int) -> memoryview:
        if batch != self._batch:
            self._original = self._decode(batch)
            self._batch = batch
        return self._original

    def _decode(self, batch: int) -> memoryview:
        entry = self._manifest.batches[batch]
        try:
            original = encoding.decode_untrusted(self._store.read(entry.digest))
        except RemoteProtocolError as error:
            raise NodeError(
                f"the batch {entry.digest.hex()} cannot be decoded: {error}",
                code=ExitCode.INTEGRITY,
            ) from error
        if len(original) != entry.original_size:
            raise NodeError(
                f"the batch {entry.digest.hex()} is not of the size in the catalog",
                code=ExitCode.INTEGRITY,
            )
        return memoryview(original)


def _found(directory: Path, manifest: Manifest) -> dict[int, str]:
    """Names of the existing files, by the instance (index) that each holds.

    Raises:
        NodeError: the directory holds something else.
    """
    if not os.path.lexists(directory):
        return {}
    by_digest = {entry.digest: index for index, entry in enumerate(manifest.instances)}
    found: dict[int, str] = {}
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if name.partition("/")[0] in OF_FILE_SYSTEMS:
            continue
        is_file = path.is_file() and _NAME.fullmatch(name.removesuffix(".part"))
        is_folder = path.is_dir() and _NAME.fullmatch(f"{name}/IM00001.dcm")
        if path.is_symlink() or not (is_file or is_folder):
            raise NodeError(
                f"the folder {directory} is not empty",
                hint="give a new or empty folder; nothing there was changed",
                code=ExitCode.USAGE,
            )
        if is_folder or name.endswith(".part"):
            continue
        index = by_digest.get(_digest_of(path))
        if index is None:
            raise NodeError(
                f"the file {path} is there with other content",
                hint="give a new or empty folder; nothing there was changed",
                code=ExitCode.USAGE,
            )
        found.setdefault(index, name)
    return found


def _names(manifest: Manifest, found: Mapping[int, str]) -> list[str]:
    """The name of each instance: its existing one, else that of its place, else a free one."""
    folders: dict[int, int] = {}
    files: dict[int, dict[int, int]] = {}
    for index, name in found.items():
        match = _NAME.fullmatch(name)
        assert match is not None
        folders.setdefault(manifest.instances[index].series_index, int(match[1]))
        files.setdefault(int(match[1]), {})[index] = int(match[2])
    members: dict[int, list[int]] = {}
    for index, entry in enumerate(manifest.instances):
        members.setdefault(entry.series_index, []).append(index)
    folders = _numbered(range(len(manifest.series)), folders)
    names = dict(found)
    for series, indexes in members.items():
        folder = folders[series]
        missing = [index for index in indexes if index not in found]
        numbers = _numbered(indexes, files.get(folder, {}))
        names |= {index: f"SERIES{folder:02}/IM{numbers[index]:05}.dcm" for index in missing}
    return [names[index] for index in range(len(names))]


def _numbered(things: Iterable[int], given: Mapping[int, int]) -> dict[int, int]:
    """A number from 1 for each thing: the given one, else its place, else the next free one."""
    numbers = dict(given)
    taken = set(given.values())
    late = []
    for place, thing in enumerate(things, start=1):
        if thing in numbers:
            continue
        if place in taken:
            late.append(thing)
        else:
            numbers[thing] = place
            taken.add(place)
    free = (number for number in itertools.count(1) if number not in taken)
    return numbers | dict(zip(late, free, strict=False))


def _make_folder(path: Path, mode: int, *, parents: bool = False) -> None:
    if path.is_dir():
        return
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    set_mode(path, mode | (mode & 0o444) >> 2)


def set_mode(path: Path, mode: int) -> None:
    """Set permissions, where the file system has some.

    Raises:
        OSError: it has, and they cannot be set.
    """
    try:
        path.chmod(mode)
    except OSError as error:
        # The file system has no permissions, as on a USB stick.
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise


def _write_file(path: Path, entry: InstanceEntry, pieces: Iterator[memoryview], mode: int) -> None:
    _make_folder(path.parent, mode)
    temporary = path.with_name(f"{path.name}.part")
    temporary.unlink(missing_ok=True)
    hasher = blake3.blake3()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            for piece in pieces:
                hasher.update(piece)
                file.write(piece)
        if hasher.digest() != entry.digest:
            raise damaged(entry)
        set_mode(temporary, mode)
        name_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def name_new(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless the name is taken."""
    try:
        # A rename would replace a file that came meanwhile; a link fails instead.
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        # FAT has no links; there, a collision is only possible in a short window.
        if path.exists():
            raise
        temporary.rename(path)


def _digest_of(path: Path) -> bytes:
    hasher = blake3.blake3()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.digest()


def damaged(entry: InstanceEntry) -> NodeError:
    """The error for an instance whose bytes do not have its digest."""
    return NodeError(
        f"the instance {entry.sop_instance_uid} does not have its digest any more",
        hint="restore the home from its backup, or fetch the study again; check the disk",
        code=ExitCode.INTEGRITY,
    )


def _disk(error: OSError) -> NodeError:
    return disk_error("the export cannot be written", error)
