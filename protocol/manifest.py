"""The manifest of a study: its instances, their digests, and their places in batches.

Canonical order: series by Series Instance UID, instances by (series, Instance
Number, SOP Instance UID), batches in the order in which the holder stored them.
Batches may hold bytes that no instance claims (an instance that the holder has
from elsewhere); instances never overlap. Two batches may have the same digest, for
example equal pieces of a large black image (docs/protocol.md section 5.3).

The digest of a manifest covers one holder's batches. The content root covers only the
instances: every holder of the same originals computes the same root.
"""

import functools
import heapq
import itertools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import blake3

from protocol import limits, wire
from protocol.encoding import Encoding, encode
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.fields import is_uid

_CONTENT_DOMAIN = b"radmesh-content-v1\0"
_PAIR = b"\x92"
"""Head of a MessagePack array of two values."""
_SORTED_AT_ONCE = 16 * 1024
_DIGEST_BYTES = 32
_LARGEST_COUNT = 2**31 - 1
NO_NUMBER = -1
"""The number of an instance without an Instance Number."""


class SeriesEntry(NamedTuple):
    """One series; `modality` is (0008,0060), at most 16 characters."""

    series_instance_uid: str
    modality: str


class InstanceEntry(NamedTuple):
    """One instance and its place, in the order of a manifest's columns.

    The first byte is at `offset` in the original bytes of batch `first_batch`; an instance
    that does not fit there continues at the start of the following batches.

    Attributes:
        series_index: position in `Manifest.series`.
        size: bytes of the original file.
        digest: BLAKE3 of the original file, 32 bytes.
        number: Instance Number, or `NO_NUMBER`.
        rows, columns, frames: of the image; 0 if there is none.
    """

    series_index: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    digest: bytes
    first_batch: int
    offset: int
    number: int
    rows: int
    columns: int
    frames: int


class BatchEntry(NamedTuple):
    """One encoded batch, in the order of a manifest's columns.

    `digest` is BLAKE3 of the encoded bytes; sizes are in bytes.
    """

    digest: bytes
    encoded_size: int
    original_size: int
    encoding: Encoding


_SERIES_WIDTH, _INSTANCE_WIDTH, _BATCH_WIDTH = (
    len(row._fields) for row in (SeriesEntry, InstanceEntry, BatchEntry)
)


def prepare() -> None:
    """Make now what the first manifest of a process would wait for, some 3 ms."""
    wire.prepare_rows(_SERIES_WIDTH, _INSTANCE_WIDTH, _BATCH_WIDTH)


class Place(NamedTuple):
    """A run of bytes of one instance inside one batch.

    Attributes:
        instance: position in `Manifest.instances`.
        start: offset in the instance.
        offset: offset in the original bytes of the batch.
        length: length in bytes.
    """

    instance: int
    start: int
    offset: int
    length: int


class Counts(NamedTuple):
    """The numbers of a manifest's rows by its offer; no further rows are read.

    Attributes:
        bytes: bytes of all original files.
    """

    series: int
    instances: int
    batches: int
    bytes: int

    def check_untrusted(self) -> None:
        """Check that a study may have these counts.

        Raises:
            RemoteProtocolError: there are more series or batches than the instances and
                bytes can need, or a count exceeds the limit for a study.
        """
        if self.series > self.instances:
            raise RemoteProtocolError("a study has more series than instances")
        if self.instances > limits.MANIFEST_INSTANCES or self.batches > limits.MANIFEST_BATCHES:
            raise RemoteProtocolError(
                "the study has too many instances or batches", WireCode.TOO_LARGE
            )
        if self.batches > self.instances - (-self.bytes // limits.BATCH_LEAST_BYTES):
            raise RemoteProtocolError("the study is in too many small batches", WireCode.TOO_LARGE)

    @property
    def manifest_bytes(self) -> int:
        """The size of the largest encoded manifest with these numbers of rows."""
        rows = self.series + self.instances + self.batches
        return min(
            limits.MANIFEST_BYTES,
            limits.MANIFEST_ROW_BYTES * rows + limits.MANIFEST_SPARE_BYTES,
        )


class WireForm(NamedTuple):
    """A manifest as it is offered and sent (docs/protocol.md section 4.8).

    Attributes:
        digest: BLAKE3 of the encoded manifest, 32 bytes.
        size: bytes of the encoded manifest.
        pieces: the encoded manifest in pieces, each encoded as a batch; not sealed yet.
    """

    digest: bytes
    size: int
    pieces: tuple[bytes, ...]


def content_root(study_instance_uid: str, instances: Iterable[tuple[str, int, bytes]]) -> bytes:
    """The content root of (SOP Instance UID, size, digest) in any order; 32 bytes."""
    hasher = blake3.blake3(_CONTENT_DOMAIN + _PAIR + wire.pack(study_instance_uid))
    some = iter(instances)
    parts = []
    while part := sorted(itertools.islice(some, _SORTED_AT_ONCE)):
        parts.append(part)
    # Sorted in parts: one call that sorts everything would block every other thread.
    rows = map(list, heapq.merge(*parts))
    for piece in wire.pack_array(rows, sum(map(len, parts))):
        hasher.update(piece)
    return hasher.digest()


@dataclass(frozen=True)
class Manifest:
    """A study as one holder has it; use `decode_untrusted` for a manifest from a peer."""

    study_instance_uid: str
    series: tuple[SeriesEntry, ...]
    instances: tuple[InstanceEntry, ...]
    batches: tuple[BatchEntry, ...]

    def encode(self) -> bytes:
        """The strict MessagePack form."""
        batches = ([one[0], one[1], one[2], int(one[3])] for one in self.batches)
        parts = [
            b"\x85",
            wire.pack("batches"),
            *wire.pack_array(batches, len(self.batches)),
            wire.pack("instances"),
            *wire.pack_array(map(list, self.instances), len(self.instances)),
            wire.pack("series"),
            *wire.pack_array(map(list, self.series), len(self.series)),
            wire.pack("study"),
            wire.pack(self.study_instance_uid),
            wire.pack("v"),
            wire.pack(1),
        ]
        return b"".join(parts)

    @property
    def counts(self) -> Counts:
        """The numbers of its rows."""
        return Counts(
            len(self.series), len(self.instances), len(self.batches), self.total_original_bytes
        )

    @classmethod
    def decode_untrusted(
        cls, data: bytes | bytearray | memoryview, counts: Counts | None = None
    ) -> "Manifest":
        """Read and check a manifest, in steps of `limits.DECODE_STEP_ROWS` rows.

        Args:
            data: the encoded manifest.
            counts: the required numbers of rows, checked by `Counts.check_untrusted`; None
                for one of our own manifests, whose counts are not known beforehand.

        Raises:
            RemoteProtocolError: the manifest breaks a rule of docs/protocol.md section 5.3.
        """
        if len(data) > (limits.MANIFEST_BYTES if counts is None else counts.manifest_bytes):
            raise RemoteProtocolError("the manifest is too large", WireCode.TOO_LARGE)
        reader = wire.Reader(data, max_items=limits.MANIFEST_SPARE_ITEMS)
        series: list[SeriesEntry] = []
        instances: list[InstanceEntry] = []
        batches: list[BatchEntry] = []
        study = version = None
        for key in reader.entries():
            match key:
                case "series":
                    for rows in reader.rows(
                        counts and counts.series, _SERIES_WIDTH, limits.MANIFEST_ROW_BYTES
                    ):
                        series += _series(rows)
                case "instances":
                    for rows in reader.rows(
                        counts and counts.instances, _INSTANCE_WIDTH, limits.MANIFEST_ROW_BYTES
                    ):
                        instances += _instances(rows)
                case "batches":
                    for rows in reader.rows(
                        counts and counts.batches, _BATCH_WIDTH, limits.MANIFEST_ROW_BYTES
                    ):
                        batches += _batches(rows)
                case "study":
                    study = _uid(reader.scalar(), "study")
                case "v":
                    version = reader.scalar()
                case _:
                    reader.skip()
        reader.end()
        if type(version) is not int or version != 1 or study is None:
            raise RemoteProtocolError("the manifest is not a map of version 1")
        manifest = cls(study, tuple(series), tuple(instances), tuple(batches))
        manifest.check_untrusted()
        if counts is not None and manifest.total_original_bytes != counts.bytes:
            raise RemoteProtocolError("the instances are not of the announced size")
        return manifest

    def check_untrusted(self) -> None:
        """Check order, uniqueness and places; single values have been checked before.

        Raises:
            RemoteProtocolError: a rule is broken; the text names the first bad instance or batch.
        """
        if not self.instances:
            raise RemoteProtocolError("the manifest has no instances")
        self.counts.check_untrusted()
        uids = [one.series_instance_uid for one in self.series]
        if any(later <= earlier for earlier, later in itertools.pairwise(uids)):
            raise RemoteProtocolError("the series are not in ascending order")
        if len({one.sop_instance_uid for one in self.instances}) != len(self.instances):
            raise RemoteProtocolError("an instance is listed twice")
        previous: tuple[int, int, str] | None = None
        used_series = set()
        for index, one in enumerate(self.instances):
            if one.series_index >= len(self.series):
                raise RemoteProtocolError(f"instance {index} is of no listed series")
            key = (one.series_index, one.number, one.sop_instance_uid)
            if previous is not None and key <= previous:
                raise RemoteProtocolError(f"instance {index} is not in ascending order")
            previous = key
            used_series.add(one.series_index)
        if len(used_series) != len(self.series):
            raise RemoteProtocolError("a series has no instance")
        self._check_places_untrusted()

    def _check_places_untrusted(self) -> None:
        # Every place except an instance's first begins at the start of a batch, and two such
        # places in one batch overlap. So more places than this mean an overlap. This check
        # keeps the work from growing with instances times batches.
        left_places = len(self.instances) + len(self.batches)
        for index, one in enumerate(self.instances):
            left, batch, offset = one.size, one.first_batch, one.offset
            while left > 0:
                if batch >= len(self.batches):
                    raise RemoteProtocolError(f"instance {index} goes beyond the last batch")
                room = self.batches[batch].original_size - offset
                if room < 1:
                    raise RemoteProtocolError(f"instance {index} stands outside of its batch")
                left_places -= 1
                if left_places < 0:
                    raise RemoteProtocolError(f"instance {index} overlaps another")
                left -= room
                batch += 1
                offset = 0
        for batch, places in enumerate(self._places):
            if not places:
                raise RemoteProtocolError(f"batch {batch} holds no instance")
            end = 0
            for place in places:
                if place.offset < end:
                    raise RemoteProtocolError(f"instances overlap in batch {batch}")
                end = place.offset + place.length

    @functools.cached_property
    def _places(self) -> tuple[tuple[Place, ...], ...]:
        by_batch: list[list[Place]] = [[] for _ in self.batches]
        sizes = [one.original_size for one in self.batches]
        for index, one in enumerate(self.instances):
            if one.offset + one.size <= sizes[one.first_batch]:
                by_batch[one.first_batch].append(Place(index, 0, one.offset, one.size))
                continue
            for batch, place in self.places(index):
                by_batch[batch].append(place)
        return tuple(tuple(sorted(places, key=lambda place: place.offset)) for places in by_batch)

    def places(self, instance: int) -> list[tuple[int, Place]]:
        """The places of one instance's bytes, in their order: (batch, place)."""
        one = self.instances[instance]
        found: list[tuple[int, Place]] = []
        start, batch, offset = 0, one.first_batch, one.offset
        while start < one.size:
            length = min(one.size - start, self.batches[batch].original_size - offset)
            if length < 1:
                raise LocalProtocolError("an instance stands outside of its batches")
            found.append((batch, Place(instance, start, offset, length)))
            start += length
            batch += 1
            offset = 0
        return found

    def segments(self, batch: int) -> tuple[Place, ...]:
        """The places in one batch, by ascending offset."""
        return self._places[batch]

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the encoded manifest, 32 bytes."""
        return self.wire_form.digest

    @functools.cached_property
    def wire_form(self) -> WireForm:
        """The form sent to every recipient; computed once and kept."""
        encoded = self.encode()
        starts = range(0, len(encoded), limits.BATCH_BYTES)
        return WireForm(
            blake3.blake3(encoded).digest(),
            len(encoded),
            tuple(encode(encoded[start : start + limits.BATCH_BYTES]) for start in starts),
        )

    @functools.cached_property
    def content_root(self) -> bytes:
        """The content root, 32 bytes."""
        return content_root(
            self.study_instance_uid,
            ((one.sop_instance_uid, one.size, one.digest) for one in self.instances),
        )

    @functools.cached_property
    def total_original_bytes(self) -> int:
        """Bytes of all original files."""
        return sum(one.size for one in self.instances)

    @functools.cached_property
    def total_encoded_bytes(self) -> int:
        """Bytes of all encoded batches."""
        return sum(one.encoded_size for one in self.batches)


def _series(rows: list[list[Any]]) -> list[SeriesEntry]:
    for _, modality in rows:
        if (
            not isinstance(modality, str)
            or len(modality) > limits.MODALITY_CHARACTERS
            or not modality.isprintable()
        ):
            raise RemoteProtocolError("a modality in the manifest is malformed")
    return [SeriesEntry(_uid(uid, "series"), modality) for uid, modality in rows]


def _instances(rows: list[list[Any]]) -> list[InstanceEntry]:
    """Check column by column, which is many times faster for thousands of rows."""
    series, sop, sop_class, syntax, size, digest, batch, offset, *counts = zip(*rows, strict=True)
    _numbers(series, 0, limits.MANIFEST_INSTANCES)
    for what, uids in (
        ("SOP instance", sop),
        ("SOP class", sop_class),
        ("transfer syntax", syntax),
    ):
        if set(map(type, uids)) != {str} or not all(map(is_uid, set(uids))):
            raise RemoteProtocolError(f"a {what} UID in the manifest is malformed")
    _numbers(size, 1, 2**53 - 1)
    _digests(digest)
    _numbers(batch, 0, _LARGEST_COUNT)
    _numbers(offset, 0, limits.BATCH_BYTES)
    for number, least in zip(counts, (-(2**31), 0, 0, 0), strict=True):
        _numbers(number, least, _LARGEST_COUNT)
    # There are few classes and syntaxes, so all rows share one string for each.
    columns = (series, sop, map(sys.intern, sop_class), map(sys.intern, syntax))
    return list(
        map(
            InstanceEntry._make,
            zip(*columns, size, digest, batch, offset, *counts, strict=True),
        )
    )


def _batches(rows: list[list[Any]]) -> list[BatchEntry]:
    digest, encoded_size, original_size, encoding = zip(*rows, strict=True)
    _digests(digest)
    _numbers(encoded_size, limits.BATCH_HEADER_BYTES, limits.ENCODED_BATCH_BYTES)
    _numbers(original_size, 1, limits.BATCH_BYTES)
    _numbers(encoding, 0, 255)
    try:
        encodings = map(Encoding, encoding)
        return list(
            map(
                BatchEntry._make,
                zip(digest, encoded_size, original_size, encodings, strict=True),
            )
        )
    except ValueError:
        raise RemoteProtocolError("the manifest has a batch of unknown encoding") from None


def _uid(value: Any, what: str) -> str:
    if not is_uid(value):
        raise RemoteProtocolError(f"a {what} UID in the manifest is malformed")
    return str(value)


def _digests(values: tuple[Any, ...]) -> None:
    if set(map(type, values)) != {bytes} or set(map(len, values)) != {_DIGEST_BYTES}:
        raise RemoteProtocolError("a digest in the manifest is malformed")


def _numbers(values: tuple[Any, ...], least: int, most: int) -> None:
    if set(map(type, values)) != {int} or min(values) < least or max(values) > most:
        raise RemoteProtocolError("a number in the manifest is out of range")
