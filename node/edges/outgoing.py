"""The images of a study as they go to an archive: out of the batches, named for the archive.

What was made here goes byte for byte. What came from elsewhere has a few elements changed
(`node.dicom.coercion`), with the same date at each try, so that it has the same bytes each time.
Nothing of it is written to a file. All functions block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import blake3

from node.dicom.coercion import Edit, edits_of
from node.dicom.identity import Identity
from node.dicom.part10 import read_meta
from node.errors import ExitCode, NodeError
from node.images.export import InstanceReader
from node.images.store import BatchStore
from protocol.manifest import Manifest

PIECE_BYTES = 256 * 1024
"""Most bytes that are handed on at a time of an image that is not held as a whole."""

HELD_BYTES = 16 * 1024 * 1024
"""An image up to this size is held in memory as a whole while it is read."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An image that is to go.

    Attributes:
        index: its place in the manifest.
        sop_uid, sop_class, transfer_syntax, series_uid: UIDs, the syntax that of the file.
        size: bytes of the file as it came.
        digest: BLAKE3 of the file as it is here.
    """

    index: int
    sop_uid: str
    sop_class: str
    transfer_syntax: str
    series_uid: str
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """What the archive said to an image.

    Attributes:
        sop_uid: of the image.
        is_taken: whether the archive has taken it.
        status: what it answered: PS3.7 annex C, also for STOW-RS; 0 if it was not asked.
        why: why it has not taken it, for people; no patient data.
        digest: BLAKE3 of the data set as it went; empty if it did not.
    """

    sop_uid: str
    is_taken: bool
    status: int = 0
    why: str = ""
    digest: bytes = b""


def outgoing_of(manifest: Manifest) -> list[Outgoing]:
    """All images of a study, in the order of its batches, so that each is decoded once."""
    found = [
        Outgoing(
            index,
            one.sop_instance_uid,
            one.sop_class_uid,
            one.transfer_syntax_uid,
            manifest.series[one.series_index].series_instance_uid,
            one.size,
            one.digest,
        )
        for index, one in enumerate(manifest.instances)
    ]
    places = manifest.instances
    return sorted(found, key=lambda one: (places[one.index].first_batch, places[one.index].offset))


class Originals:
    """Reads the images of a study as they go to an archive; for one thread at a time.

    Args:
        manifest: of the study.
        store: holds its batches.
        identity: how it goes.
        now: dates what is changed, seconds since the epoch, UTC.
    """

    def __init__(self, manifest: Manifest, store: BatchStore, identity: Identity, now: int) -> None:
        self._manifest = manifest
        self._reader = InstanceReader(manifest, store)
        self._identity = identity
        self._now = now

    def read(self, one: Outgoing) -> "OutgoingFile":
        """One image, checked against its digest.

        Raises:
            BadInstance: it cannot go, for example since it names another patient.
            NodeError: the store is damaged, or the image is not there any more.
        """
        read = self._checked(one)
        edits = edits_of(read, one.size, self._identity, self._now)
        return OutgoingFile(read, one.size, read_meta(read)[0].end, edits)

    def _checked(self, one: Outgoing) -> Callable[[int, int], bytes]:
        hasher, pieces = blake3.blake3(), []
        for piece in self._reader.pieces(one.index):
            hasher.update(piece)
            if one.size <= HELD_BYTES:
                pieces.append(piece)
        if hasher.digest() != self._manifest.instances[one.index].digest:
            raise NodeError(
                f"the instance {one.sop_uid} does not have its digest any more",
                hint="restore the home from its backup, or fetch the study again; check the disk",
                code=ExitCode.INTEGRITY,
            )
        if one.size > HELD_BYTES:
            return lambda offset, length: self._reader.read(one.index, offset, length)
        data = b"".join(pieces)
        return lambda offset, length: data[offset : offset + length]


class OutgoingFile:
    """An image as a file: its head as it came, and its data set as it goes.

    Args:
        read: (offset, length) -> bytes of the file as it came.
        size: bytes of that.
        data_set_at: where its data set begins.
        edits: what is changed in the data set.

    Attributes:
        size: bytes of the file as it goes.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], size: int, data_set_at: int, edits: Sequence[Edit]
    ) -> None:
        self._read = read
        self._end = size
        self._data_set_at = data_set_at
        self._edits = edits
        self._digest = b""
        self.size = size + sum(len(one.data) - (one.end - one.begin) for one in edits)

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the data set as it goes; empty before `data_set` is at its end."""
        return self._digest

    def head(self) -> bytes:
        """What stands before the data set."""
        return self._read(0, self._data_set_at)

    def data_set(self) -> Iterator[bytes]:
        """The data set in pieces."""
        hasher = blake3.blake3()
        for piece in self._changed():
            hasher.update(piece)
            yield piece
        self._digest = hasher.digest()

    def _changed(self) -> Iterator[bytes]:
        position = self._data_set_at
        for edit in self._edits:
            yield from self._pieces(position, edit.begin)
            if edit.data:
                yield edit.data
            position = edit.end
        yield from self._pieces(position, self._end)

    def _pieces(self, begin: int, end: int) -> Iterator[bytes]:
        # Of one that is held a copy in one piece is the quickest.
        step = max(1, end - begin) if self._end <= HELD_BYTES else PIECE_BYTES
        for place in range(begin, end, step):
            yield self._read(place, min(step, end - place))
