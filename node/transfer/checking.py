"""Comparing the batches of a study that arrived with its manifest.

Each batch is decoded once: the instances in it are compared with their digests and UIDs, the parts
of large instances hashed, and the headers read that the catalog needs: one of each series, and each
that describes the study differently. Header elements of a large instance that its first batch does
not hold are read from disk at the end, since an ingest accepts elements in any order. Thread-safe:
several threads check batches of one study.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import blake3

from node.catalog.patients import Described
from node.dicom import studies
from node.dicom.elements import BadInstance, Read
from node.dicom.headers import InstanceHeader
from node.dicom.part10 import HeaderMatcher, carries
from protocol import encoding
from protocol.errors import DigestMismatch, RemoteProtocolError
from protocol.manifest import InstanceEntry, Manifest

if TYPE_CHECKING:
    from protocol.pixels import Workspace

_SMALL_BYTES = 128 * 1024
"""The parts of a smaller instance are joined before hashing: BLAKE3 is faster on one piece, by more
than the copy costs."""

_PARTS_KEPT = 2
"""Most parts of large instances (4 MiB each) that are kept until the parts before them come."""

_BATCHES_AT_HAND = 2
"""Decoded batches that are kept while the header of a large instance is read from disk; the walker
goes forward and looks back by less than a batch."""

_SAID_KEPT = 4096
"""Most different descriptions of a study that are remembered, 8 bytes each; a study usually has
one, or one per series."""

_OTHER_UIDS = "an instance carries other UIDs than its manifest entry says"

_WAIT_SECONDS = 1.0
"""Longest time that a thread waits for the thread with the preceding part; after that its own part
is read again at the end. The other thread finishes sooner, unless the manifest is made so that the
two wait for each other."""


class Batches(Protocol):
    """Gives batches by their digest."""

    def read(self, digest: bytes, /) -> bytes:
        """The encoded batch."""


Parts = Sequence[memoryview]
"""Consecutive bytes as views, without a copy."""

Cut = Callable[[int, int], Parts]
"""Gives the original bytes of a batch, from an offset and of a length."""


def _cutter(pieces: Parts) -> Cut:
    starts = list(accumulate(map(len, pieces[:-1]), initial=0))

    def cut(offset: int, length: int) -> Parts:
        parts = []
        index = bisect_right(starts, offset) - 1
        at = offset - starts[index]
        while length:
            part = pieces[index][at : at + length]
            parts.append(part)
            length -= len(part)
            index, at = index + 1, 0
        return parts

    return cut


def _digest(parts: Parts, length: int) -> bytes:
    if length < _SMALL_BYTES:
        return blake3.blake3(b"".join(parts)).digest()
    hasher = blake3.blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


class StudyCheck:
    """The check of one study on its way in.

    Args:
        manifest: of the study.
        needed: batches (indices) that will be checked.
    """

    def __init__(self, manifest: Manifest, needed: Iterable[int]) -> None:
        self._manifest = manifest
        self._needed = list(needed)
        self._matcher = HeaderMatcher()
        self._large = LargeInstances(manifest)
        self._representatives = _representatives(manifest, self._needed)
        self._firsts = {one for ones in self._representatives.values() for one in ones}
        self._headers: dict[int, InstanceHeader] = {}
        self._described = Described()
        self._said: set[int] = set()
        # Large instances whose first batch does not hold the UIDs, or the whole header: these are
        # read from disk later.
        self._untold_uids: set[int] = set()
        self._untold_headers: set[int] = set()

    @property
    def headers(self) -> dict[int, InstanceHeader]:
        """By series index, the header of the first new instance of each series, once checked."""
        return self._headers

    @property
    def described(self) -> Described:
        """What the instances that begin in the needed batches say of the study, once checked."""
        return self._described

    def check(self, index: int, encoded: bytes, workspace: "Workspace | None" = None) -> None:
        """Decode a batch and compare what is in it.

        Args:
            index: which batch.
            encoded: its encoded bytes, digest compared already.
            workspace: the caller's, reused to decode many batches faster.

        Raises:
            RemoteProtocolError: the batch does not hold what the manifest says.
        """
        with self._large.under_way(index):
            self._check(index, encoded, workspace)

    def _check(self, index: int, encoded: bytes, workspace: "Workspace | None") -> None:
        manifest = self._manifest
        entry = manifest.batches[index]
        pieces = encoding.decode_pieces_untrusted(encoded, workspace, entry.original_size)
        if sum(map(len, pieces)) != entry.original_size:
            raise RemoteProtocolError(f"batch {index} is not of its promised original size")
        if encoding.encoding_of(encoded) is not entry.encoding:
            raise RemoteProtocolError(f"batch {index} is not of its promised encoding")
        cut = _cutter(pieces)
        has_part = False
        to_read = set(self._representatives.get(index, ()))
        for instance_index, start, offset, length in manifest.segments(index):
            instance = manifest.instances[instance_index]
            parts = cut(offset, length)
            if start == 0:
                matches = self._matches(instance, parts)
                if matches is None:
                    self._untold_uids.add(instance_index)
                elif not matches:
                    raise RemoteProtocolError(_OTHER_UIDS)
                if self._says_something_new(parts[0]):
                    to_read.add(instance_index)
            if length < instance.size:
                has_part = True
            elif _digest(parts, length) != instance.digest:
                raise DigestMismatch("an instance does not have its promised digest")
        if has_part:
            self._large.add(index, cut)
        for instance_index in sorted(to_read):
            instance = manifest.instances[instance_index]
            length = min(instance.size, entry.original_size - instance.offset)
            original = b"".join(cut(instance.offset, length))
            with _header_errors():
                header = studies.read_header(original, instance.size)
            if header is None:
                self._untold_headers.add(instance_index)
            else:
                self._take_header(instance_index, header)

    def _says_something_new(self, begin: memoryview) -> bool:
        """Whether an instance describes its study differently from every instance before it."""
        said = self._matcher.of_study(begin)
        if said is None:
            return True
        number = hash(said)
        if number in self._said:
            return False
        if len(self._said) < _SAID_KEPT:
            self._said.add(number)
        return True

    def _take_header(self, instance_index: int, header: InstanceHeader) -> None:
        self._described.add(header.study)
        if instance_index in self._firsts:
            self._headers[self._manifest.instances[instance_index].series_index] = header

    def _uids(self, instance: InstanceEntry) -> tuple[str, str, str]:
        return (
            self._manifest.study_instance_uid,
            self._manifest.series[instance.series_index].series_instance_uid,
            instance.sop_instance_uid,
        )

    def _matches(self, instance: InstanceEntry, parts: Parts) -> bool | None:
        """Whether the UIDs are as promised; None when only later batches show that."""
        uids = self._uids(instance)
        size = instance.size
        # The first part holds everything before the pixels, unless the batch was made oddly.
        matches = self._matcher.matches(parts[0], *uids, size=size)
        if matches or len(parts) == 1:
            return matches
        return self._matcher.matches(b"".join(parts), *uids, size=size)

    def check_rest(self, incoming: Batches) -> None:
        """Check from disk what could not be checked as the batches came.

        That is large instances whose parts did not come in order, and headers with elements beyond
        the first batch.

        Raises:
            DigestMismatch: an instance has another digest.
            RemoteProtocolError: an instance has other UIDs, or no header.
            NodeError: a batch cannot be read.
        """
        manifest = self._manifest
        among = {place[0] for index in self._needed for place in manifest.segments(index)}
        for instance_index in self._large.unverified(among):
            self._large.verify_from_disk(instance_index, incoming)
        for instance_index in sorted(self._untold_uids | self._untold_headers):
            self._read_untold(instance_index, incoming)

    def _read_untold(self, instance_index: int, incoming: Batches) -> None:
        instance = self._manifest.instances[instance_index]
        read = _reader_on_disk(self._manifest, instance_index, incoming)
        is_untold = instance_index in self._untold_uids
        if is_untold and not carries(read, instance.size, *self._uids(instance)):
            raise RemoteProtocolError(_OTHER_UIDS)
        if instance_index in self._untold_headers:
            with _header_errors():
                header = studies.header_of(read, instance.size)
            self._take_header(instance_index, header)


@contextmanager
def _header_errors() -> Iterator[None]:
    try:
        yield
    except BadInstance as error:
        raise RemoteProtocolError("the header of an instance cannot be read") from error


def _reader_on_disk(manifest: Manifest, instance_index: int, incoming: Batches) -> Read:
    """Reads pieces of a large instance whose batches have arrived."""
    places = manifest.places(instance_index)
    starts = [place.start for _, place in places]

    @lru_cache(_BATCHES_AT_HAND)
    def part(number: int) -> memoryview:
        batch, place = places[number]
        encoded = incoming.read(manifest.batches[batch].digest)
        original = memoryview(encoding.decode_untrusted(encoded))
        return original[place.offset : place.offset + place.length]

    def read(offset: int, length: int) -> bytes:
        pieces: list[memoryview] = []
        number = bisect_right(starts, offset) - 1
        at = offset - starts[number]
        while length > 0 and number < len(places):
            piece = part(number)[at : at + length]
            pieces.append(piece)
            length -= len(piece)
            number, at = number + 1, 0
        return b"".join(pieces)

    return read


def _representatives(manifest: Manifest, needed: Iterable[int]) -> dict[int, list[int]]:
    """The first instance of each series that begins in a needed batch, by that batch."""
    wanted = set(needed)
    found: dict[int, list[int]] = {}
    seen = set()
    for index, instance in enumerate(manifest.instances):
        if instance.series_index not in seen and instance.first_batch in wanted:
            seen.add(instance.series_index)
            found.setdefault(instance.first_batch, []).append(index)
    return found


def is_split(manifest: Manifest, instance_index: int) -> bool:
    """Whether an instance continues beyond the batch that it begins in."""
    instance = manifest.instances[instance_index]
    first = manifest.batches[instance.first_batch]
    return instance.offset + instance.size > first.original_size


class LargeInstances:
    """Hashes instances that span several batches, from batches given about in order.

    `unverified` lists the instances whose parts did not come in order (a resumed transfer);
    `verify_from_disk` verifies them.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._changed = threading.Condition()
        self._at_work: set[int] = set()
        self._hashers: dict[int, tuple[blake3.blake3, int]] = {}
        self._early: dict[tuple[int, int], bytes] = {}
        self._verified: set[int] = set()

    @contextmanager
    def under_way(self, index: int) -> Iterator[None]:
        """Marks batch `index` as being decoded and added by a thread, inside this block."""
        with self._changed:
            self._at_work.add(index)
        try:
            yield
        finally:
            with self._changed:
                self._at_work.discard(index)
                self._changed.notify_all()

    def add(self, index: int, cut: Cut) -> None:
        """Take the original bytes of batch `index`.

        Raises:
            DigestMismatch: all parts of an instance have come, and its digest differs.
        """
        for instance_index, start, offset, length in self._manifest.segments(index):
            if length < self._manifest.instances[instance_index].size:
                with self._changed:
                    self._take(instance_index, start, cut(offset, length))
                    self._changed.notify_all()

    def _take(self, instance_index: int, start: int, parts: Parts) -> None:
        is_late = False
        while True:
            hasher, position = self._hashers.get(instance_index) or (blake3.blake3(), 0)
            if start <= position:
                break
            if len(self._early) < _PARTS_KEPT:
                self._early[instance_index, start] = b"".join(parts)
                return
            if is_late or not self._is_coming(instance_index, position):
                return
            is_late = not self._changed.wait(_WAIT_SECONDS)
        if start < position:
            return
        for part in parts:
            hasher.update(part)
            position += len(part)
        while (early := self._early.pop((instance_index, position), None)) is not None:
            hasher.update(early)
            position += len(early)
        self._hashers[instance_index] = (hasher, position)
        instance = self._manifest.instances[instance_index]
        if position == instance.size:
            if hasher.digest() != instance.digest:
                raise DigestMismatch("a large instance does not have its promised digest")
            self._verified.add(instance_index)

    def _is_coming(self, instance_index: int, position: int) -> bool:
        """Whether a thread is decoding the part that begins at this position."""
        return any(
            place.instance == instance_index and place.start == position
            for batch in self._at_work
            for place in self._manifest.segments(batch)
        )

    def unverified(self, among: set[int]) -> list[int]:
        """Large instances (indices) of `among` that were not seen whole and in order."""
        return sorted(index for index in among - self._verified if is_split(self._manifest, index))

    def verify_from_disk(self, instance_index: int, incoming: Batches) -> None:
        """Read the batches of one large instance and compare its digest.

        Raises:
            DigestMismatch: it has another one.
        """
        instance = self._manifest.instances[instance_index]
        hasher = blake3.blake3()
        position = 0
        batch = instance.first_batch
        while position < instance.size:
            original = encoding.decode_untrusted(
                incoming.read(self._manifest.batches[batch].digest)
            )
            for found, start, offset, length in self._manifest.segments(batch):
                if found == instance_index and start == position:
                    hasher.update(memoryview(original)[offset : offset + length])
                    position += length
            batch += 1
        if hasher.digest() != instance.digest:
            raise DigestMismatch("a large instance does not have its promised digest")
        self._verified.add(instance_index)
