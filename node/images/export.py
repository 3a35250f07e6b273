"""A study back as plain DICOM files, byte for byte as they came.

Files are named by their place in the study (`SERIES01/IM00001.dcm`), never by
what is in them. Each is compared with its digest before it gets its name, and
nothing that is there already is ever replaced.
"""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import blake3

from node.catalog.catalog import Catalog
from node.errors import ExitCode, NodeError
from node.images.store import BatchStore, disk_error
from protocol import encoding
from protocol.errors import RemoteProtocolError
from protocol.manifest import InstanceEntry, Manifest

_BLOCK_BYTES = 4 * 1024 * 1024


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
) -> int:
    """Write all instances of a study below a directory.

    Files that are there with the right content are left alone, so an export that
    was broken off is run again.

    Args:
        study_uid: Study Instance UID.
        directory: made when it does not exist; must hold nothing else.
        progress: called after each file.

    Returns:
        How many instances the directory holds.

    Raises:
        NodeError: no such study; the directory holds something else; the store is
            damaged; the disk is full.
    """
    manifest = catalog.manifest(study_uid)
    names = _names(manifest)
    _require_nothing_else(directory, set(names))
    reader = InstanceReader(manifest, store)
    done = 0
    # In batch order, so that each batch is decoded once.
    order = sorted(
        range(len(names)),
        key=lambda index: (manifest.instances[index].first_batch, manifest.instances[index].offset),
    )
    for count, index in enumerate(order, start=1):
        entry = manifest.instances[index]
        _write_file(directory / names[index], entry, reader.pieces(index))
        done += entry.size
        progress(
            ExportProgress(
                instances=count,
                instances_total=len(names),
                bytes=done,
                bytes_total=manifest.total_original_bytes,
            )
        )
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
                raise _damaged(entry)
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
            if batch != self._batch:
                self._original = self._decode(batch)
                self._batch = batch
            yield self._original[place.offset : place.offset + place.length]

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


def _names(manifest: Manifest) -> list[str]:
    names = []
    number = 0
    series = -1
    for entry in manifest.instances:
        if entry.series_index != series:
            series = entry.series_index
            number = 0
        number += 1
        names.append(f"SERIES{series + 1:02}/IM{number:05}.dcm")
    return names


def _require_nothing_else(directory: Path, names: set[str]) -> None:
    try:
        if not directory.exists():
            return
        for path in directory.rglob("*"):
            name = path.relative_to(directory).as_posix()
            is_ours = name in names or any(one.startswith(f"{name}/") for one in names)
            is_leftover = name.endswith(".part") and name.removesuffix(".part") in names
            if path.is_symlink() or not (is_ours or is_leftover):
                raise NodeError(
                    f"the folder {directory} is not empty",
                    hint="give a new or empty folder; nothing there was changed",
                    code=ExitCode.USAGE,
                )
    except OSError as error:
        raise _disk(error) from error


def _write_file(path: Path, entry: InstanceEntry, pieces: Iterator[memoryview]) -> None:
    try:
        if path.exists():
            if _digest_of(path) != entry.digest:
                raise NodeError(
                    f"the file {path} is there with other content",
                    hint="give a new or empty folder; nothing there was changed",
                    code=ExitCode.USAGE,
                )
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.part")
        temporary.unlink(missing_ok=True)
        hasher = blake3.blake3()
        try:
            with temporary.open("xb") as file:
                for piece in pieces:
                    hasher.update(piece)
                    file.write(piece)
            if hasher.digest() != entry.digest:
                raise _damaged(entry)
            _name(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _disk(error) from error


def _name(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless something has it."""
    try:
        # A link fails where a rename would replace a file that came meanwhile.
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        # A FAT stick has no links; the window for a collision is small there.
        if path.exists():
            raise
        temporary.rename(path)


def _digest_of(path: Path) -> bytes:
    hasher = blake3.blake3()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.digest()


def _damaged(entry: InstanceEntry) -> NodeError:
    return NodeError(
        f"the instance {entry.sop_instance_uid} does not have its digest any more",
        hint="restore the home from its backup, or fetch the study again; check the disk",
        code=ExitCode.INTEGRITY,
    )


def _disk(error: OSError) -> NodeError:
    return disk_error("the export cannot be written", error)
