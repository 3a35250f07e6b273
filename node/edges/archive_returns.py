"""Knows what an archive sends back to us of what it has got from us.

An archive changes what it stores: names, numbers, lengths. So its images have the UIDs of ours and
other bytes. They are ours if the whole data set is the one that went, or if the pixels are the same
as here. All functions block, and are thread-safe.
"""

import threading
from collections.abc import Callable

import blake3

from edges.dimse.negotiation import EXPLICIT
from node.catalog.catalog import Catalog
from node.dicom.elements import BadInstance, Placed, Read, walk
from node.dicom.part10 import BIG_ENDIAN, DEFLATED, IMPLICIT, read_meta
from node.edges.archive_queue import STORED, TAKEN, ArchiveQueue
from node.images.export import InstanceReader
from node.images.store import BatchStore
from protocol.manifest import Manifest

_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, Double Float and integer Pixel Data."""

_NATIVE = frozenset({EXPLICIT, *IMPLICIT})
"""Transfer syntaxes in which the same pixels have the same bytes."""

_BLOCK_BYTES = 4 * 1024 * 1024

OnReturn = Callable[[str, str, str], None]
"""Told the archive, the study and the SOP Instance UID of an image that came back."""


class ArchiveReturns:
    """Compares what archives bring with what is here.

    Args:
        queue: knows what went to which archive.
        catalog: the studies of this node.
        store: their batches.
        on_return: see `OnReturn`.
    """

    def __init__(
        self, queue: ArchiveQueue, catalog: Catalog, store: BatchStore, on_return: OnReturn
    ) -> None:
        self._queue = queue
        self._catalog = catalog
        self._store = store
        self._on_return = on_return
        self._lock = threading.Lock()
        self._last: tuple[Manifest, InstanceReader, dict[str, int]] | None = None

    def is_ours(self, source: str, study_uid: str, sop_uid: str, read: Read, size: int) -> bool:
        """Whether an archive brings back what it has got from us; then that is noted.

        Args:
            source: who brings it.
            study_uid, sop_uid: UIDs of an image that is here.
            read: reads what came, a DICOM file.
            size: bytes of that.

        Raises:
            NodeError: the database or the store cannot be read.
        """
        for archive in self._queue.archives.values():
            if archive.source != source or not source:
                continue
            went = self._queue.instance(study_uid, archive.name, sop_uid)
            if went is None or went.state not in (STORED, TAKEN):
                continue
            if went.digest == _data_set_digest(read, size) or self._has_our_pixels(
                study_uid, sop_uid, read, size
            ):
                self._on_return(archive.name, study_uid, sop_uid)
                return True
        return False

    def _has_our_pixels(self, study_uid: str, sop_uid: str, read: Read, size: int) -> bool:
        theirs = _pixels(read, size)
        if theirs is None:
            return False
        with self._lock:
            manifest = self._catalog.manifest(study_uid)
            if self._last is None or self._last[0] is not manifest:
                places = {one.sop_instance_uid: at for at, one in enumerate(manifest.instances)}
                self._last = (manifest, InstanceReader(manifest, self._store), places)
            _, reader, places = self._last
            index = places.get(sop_uid)
            if index is None:
                return False
            ours = _pixels(
                lambda offset, length: reader.read(index, offset, length),
                manifest.instances[index].size,
            )
        return ours == theirs


def _data_set_digest(read: Read, size: int) -> bytes:
    try:
        return _digest(read, read_meta(read)[0].end, size)
    except BadInstance:
        return b""


def _pixels(read: Read, size: int) -> tuple[str, bytes] | None:
    """The form of the pixels of a file, and their digest; None if it has none to compare."""
    try:
        meta, syntax = read_meta(read)
        if syntax in DEFLATED:
            return None
        placed = walk(
            read,
            meta.end,
            size,
            implicit=syntax in IMPLICIT,
            big_endian=syntax == BIG_ENDIAN,
            wanted=(),
            listed=True,
        ).placed
    except BadInstance:
        return None
    found = [one for one in placed if one.tag in _PIXELS]
    if len(found) != 1:
        return None
    begin, end = found[0].value, _end_of(found[0])
    if begin == end:
        return None
    return "native" if syntax in _NATIVE else syntax, _digest(read, begin, end)


def _end_of(one: Placed) -> int:
    return one.close if one.length is None else one.value + one.length


def _digest(read: Read, begin: int, end: int) -> bytes:
    hasher = blake3.blake3()
    for place in range(begin, end, _BLOCK_BYTES):
        hasher.update(read(place, min(_BLOCK_BYTES, end - place)))
    return hasher.digest()
