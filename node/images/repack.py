"""Repacking a study without some of its instances, so that its batches hold none of their bytes.

A batch holds many instances and goes to peers whole. So when one of them is discarded, the others
are packed again; batches of kept instances only stay as they are.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from itertools import groupby

import blake3

from node.errors import ExitCode, NodeError
from node.images.export import InstanceReader
from node.images.store import BatchStore, Pins
from protocol import batches, encoding
from protocol.manifest import BatchEntry, InstanceEntry, Manifest, Place, SeriesEntry


def without(
    manifest: Manifest,
    gone: Set[str],
    store: BatchStore,
    pins: Pins,
    note: Callable[[bytes], None],
) -> Manifest | None:
    """The study without some instances; new batches are in the store, and pinned.

    Args:
        manifest: of the study as it is.
        gone: SOP Instance UIDs of the instances to leave out.
        store: holds its batches.
        pins: where to pin the new batches.
        note: called with the digest of each new batch before it is stored, so that none is left
            behind by a crash.

    Returns:
        The new manifest, None when nothing stays.

    Raises:
        NodeError: the store is damaged (INTEGRITY), or the disk is full.
    """
    kept = [
        index for index, one in enumerate(manifest.instances) if one.sop_instance_uid not in gone
    ]
    if not kept:
        return None
    mixed, moved = _moved(manifest, kept)
    places: dict[int, tuple[int, int]] = {}
    entries: list[BatchEntry] = []
    new_index = {}
    for batch, entry in enumerate(manifest.batches):
        if batch not in mixed:
            new_index[batch] = len(entries)
            entries.append(entry)
    for index in kept:
        if index not in moved:
            one = manifest.instances[index]
            places[index] = (new_index[one.first_batch], one.offset)
    writer = _Writer(manifest, store, pins, note)
    for entry, starts in writer.write([index for index in kept if index in moved]):
        places |= {index: (len(entries), offset) for index, offset in starts.items()}
        entries.append(entry)
    return _manifest(manifest, kept, places, entries)


def _moved(manifest: Manifest, kept: Sequence[int]) -> tuple[set[int], set[int]]:
    """Batches that hold more than kept instances, and the kept instances that must leave them."""
    by_batch: list[list[Place]] = [[] for _ in manifest.batches]
    for index in kept:
        for batch, place in manifest.places(index):
            by_batch[batch].append(place)
    found = [
        batch
        for batch, entry in enumerate(manifest.batches)
        if sum(place.length for place in by_batch[batch]) < entry.original_size
    ]
    mixed, moved = set(found), set()
    while found:
        for place in by_batch[found.pop()]:
            if place.instance not in moved:
                moved.add(place.instance)
                # Its other batches then hold bytes that nothing claims.
                others = {batch for batch, _ in manifest.places(place.instance)} - mixed
                mixed |= others
                found += others
    return mixed, moved


class _Writer:
    """Packs instances of a study into new batches."""

    def __init__(
        self,
        manifest: Manifest,
        store: BatchStore,
        pins: Pins,
        note: Callable[[bytes], None],
    ) -> None:
        self._note = note
        self._manifest = manifest
        self._store = store
        self._pins = pins
        self._reader = InstanceReader(manifest, store)

    def write(self, indexes: Sequence[int]) -> Iterator[tuple[BatchEntry, dict[int, int]]]:
        """Yields each new batch, with the offsets at which instances (indices) begin in it."""
        instances = self._manifest.instances
        for _, group in groupby(indexes, key=lambda index: instances[index].series_index):
            series = list(group)
            pieces = self._pieces(series)
            for segments in batches.plan(instances[index].size for index in series):
                starts, original = {}, bytearray()
                for segment in segments:
                    if segment.start == 0:
                        starts[series[segment.instance]] = len(original)
                    original += pieces.take(segment.length)
                yield self._store_batch(bytes(original)), starts

    def _pieces(self, series: Sequence[int]) -> "_Bytes":
        def each() -> Iterator[memoryview]:
            for index in series:
                entry = self._manifest.instances[index]
                hasher = blake3.blake3()
                for piece in self._reader.pieces(index):
                    hasher.update(piece)
                    yield piece
                if hasher.digest() != entry.digest:
                    raise _damaged(entry)

        return _Bytes(each())

    def _store_batch(self, original: bytes) -> BatchEntry:
        encoded = encoding.encode(original)
        if encoding.decode_untrusted(encoded) != original:
            raise NodeError(
                "a batch does not decode to what was encoded",
                hint="nothing was discarded; check the memory of this machine and report this",
                code=ExitCode.INTEGRITY,
            )
        digest = blake3.blake3(encoded).digest()
        self._pins.add([digest])
        self._note(digest)
        self._store.put(encoded)
        return BatchEntry(digest, len(encoded), len(original), encoding.encoding_of(encoded))


class _Bytes:
    """Reads pieces by byte count; fetches the next piece before it returns the last byte of one."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._held = bytearray()

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        # Fetch one piece more than needed, so that the digest of an instance is compared first.
        while len(self._held) <= count:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._held += piece
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken


def _manifest(
    manifest: Manifest,
    kept: Sequence[int],
    places: dict[int, tuple[int, int]],
    entries: Sequence[BatchEntry],
) -> Manifest:
    series: list[SeriesEntry] = []
    instances: list[InstanceEntry] = []
    last = None
    for index in kept:
        one = manifest.instances[index]
        if one.series_index != last:
            last = one.series_index
            series.append(manifest.series[one.series_index])
        first_batch, offset = places[index]
        instances.append(
            one._replace(series_index=len(series) - 1, first_batch=first_batch, offset=offset)
        )
    return Manifest(manifest.study_instance_uid, tuple(series), tuple(instances), tuple(entries))


def _damaged(entry: InstanceEntry) -> NodeError:
    return NodeError(
        f"the instance {entry.sop_instance_uid} of the same study does not have its digest any "
        "more",
        hint="discard it too, or the whole study; then check the disk",
        code=ExitCode.INTEGRITY,
    )
