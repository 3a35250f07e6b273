"""The manifest of a study: its instances, their digests, and where each stands in which batch.

Canonical order: series by Series Instance UID, instances by (series, Instance
Number, SOP Instance UID), batches in the order in which the holder stored them.
Batches may hold bytes that no instance claims (an instance that the holder has
from elsewhere); instances never overlap. Two batches may have one digest: the
pieces of a large black image are equal (docs/protocol.md section 5.3).

The digest of a manifest covers one holder's batches. The content root covers the
instances alone: every holder of the same originals computes the same one.
"""

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import blake3

from protocol import limits, wire
from protocol.encoding import Encoding, encode
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.fields import is_uid

_CONTENT_DOMAIN = b"radmesh-content-v1\0"
_DIGEST_BYTES = 32
_LARGEST_COUNT = 2**31 - 1
NO_NUMBER = -1
"""Stands for an instance without an Instance Number."""


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """One series; `modality` is (0008,0060), at most 16 characters."""

    series_instance_uid: str
    modality: str


class InstanceEntry(NamedTuple):
    """One instance and its place, in the order of a manifest's columns.

    The first byte stands at `offset` in the original bytes of batch `first_batch`;
    what does not fit there goes on at the start of the batches that follow.

    Attributes:
        series_index: position in `Manifest.series`.
        size: bytes of the original file.
        digest: BLAKE3 of the original file, 32 bytes.
        number: Instance Number, or `NO_NUMBER`.
        rows, columns, frames: 0 where there is no image.
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


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """One encoded batch; `digest` is BLAKE3 of the encoded bytes, sizes in bytes."""

    digest: bytes
    encoded_size: int
    original_size: int
    encoding: Encoding


class Place(NamedTuple):
    """A run of bytes of one instance inside one batch.

    Attributes:
        instance: position in `Manifest.instances`.
        start: offset in the instance.
        offset: offset in the original bytes of the batch.
        length: bytes.
    """

    instance: int
    start: int
    offset: int
    length: int


class WireForm(NamedTuple):
    """A manifest as it is offered and sent (docs/protocol.md section 4.8).

    Attributes:
        digest: BLAKE3 of the encoded manifest, 32 bytes.
        size: its bytes.
        pieces: it, cut, and each piece encoded as a batch; not sealed yet.
    """

    digest: bytes
    size: int
    pieces: tuple[bytes, ...]


def content_root(study_instance_uid: str, instances: Iterable[tuple[str, int, bytes]]) -> bytes:
    """The content root of (SOP Instance UID, size, digest) in any order; 32 bytes."""
    rows = [[uid, size, digest] for uid, size, digest in sorted(instances)]
    return blake3.blake3(_CONTENT_DOMAIN + wire.pack([study_instance_uid, rows])).digest()


@dataclass(frozen=True)
class Manifest:
    """A study as one holder has it; make one that comes from a peer with `decode_untrusted`."""

    study_instance_uid: str
    series: tuple[SeriesEntry, ...]
    instances: tuple[InstanceEntry, ...]
    batches: tuple[BatchEntry, ...]

    def encode(self) -> bytes:
        """The strict MessagePack form."""
        return wire.pack(
            {
                "v": 1,
                "study": self.study_instance_uid,
                "series": [[one.series_instance_uid, one.modality] for one in self.series],
                "instances": [list(one) for one in self.instances],
                "batches": [
                    [one.digest, one.encoded_size, one.original_size, int(one.encoding)]
                    for one in self.batches
                ],
            }
        )

    @classmethod
    def decode_untrusted(cls, data: bytes | bytearray | memoryview) -> "Manifest":
        """Read and check a manifest.

        Raises:
            RemoteProtocolError: it breaks a rule of docs/protocol.md section 5.3.
        """
        if len(data) > limits.MANIFEST_BYTES:
            raise RemoteProtocolError("the manifest is too large", WireCode.TOO_LARGE)
        value = wire.decode_untrusted(data, max_items=limits.MANIFEST_ITEMS)
        if not isinstance(value, dict) or type(value.get("v")) is not int or value["v"] != 1:
            raise RemoteProtocolError("the manifest is not a map of version 1")
        study = _uid(value.get("study"), "study")
        manifest = cls(
            study,
            tuple(_series(row) for row in _rows(value, "series", 2)),
            _instances(_rows(value, "instances", 12)),
            tuple(_batch(row) for row in _rows(value, "batches", 4)),
        )
        manifest.check_untrusted()
        return manifest

    def check_untrusted(self) -> None:
        """Check order, uniqueness and places; single values are checked already.

        Raises:
            RemoteProtocolError: naming the first instance or batch that breaks a rule.
        """
        if not self.instances:
            raise RemoteProtocolError("the manifest has no instances")
        if len(self.instances) > limits.MANIFEST_INSTANCES:
            raise RemoteProtocolError("the manifest has too many instances", WireCode.TOO_LARGE)
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
        # Every place but an instance's first begins a batch, and two in one batch
        # overlap: more places than this are an overlap, found before the work of
        # walking them grows with instances times batches.
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
        for index in range(len(self.instances)):
            for batch, place in self.places(index):
                by_batch[batch].append(place)
        return tuple(tuple(sorted(places, key=lambda place: place.offset)) for places in by_batch)

    def places(self, instance: int) -> list[tuple[int, Place]]:
        """Where the bytes of one instance stand, in their order: (batch, place)."""
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
        """What stands in one batch, by ascending offset."""
        return self._places[batch]

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the encoded manifest, 32 bytes."""
        return self.wire_form.digest

    @functools.cached_property
    def wire_form(self) -> WireForm:
        """What is the same for every recipient; made once and kept."""
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


def _rows(value: dict[str, Any], name: str, width: int) -> list[list[Any]]:
    rows = value.get(name)
    if not isinstance(rows, list):
        raise RemoteProtocolError(f"the manifest lacks its {name}")
    if any(not isinstance(row, list) or len(row) != width for row in rows):
        raise RemoteProtocolError(f"a row of the manifest's {name} is malformed")
    return rows


def _series(row: list[Any]) -> SeriesEntry:
    modality = row[1]
    if (
        not isinstance(modality, str)
        or len(modality) > limits.MODALITY_CHARACTERS
        or not modality.isprintable()
    ):
        raise RemoteProtocolError("a modality in the manifest is malformed")
    return SeriesEntry(_uid(row[0], "series"), modality)


def _instances(rows: list[list[Any]]) -> tuple[InstanceEntry, ...]:
    """Check column by column, which for thousands of rows is many times as fast."""
    if not rows:
        return ()
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
    if set(map(type, digest)) != {bytes} or set(map(len, digest)) != {_DIGEST_BYTES}:
        raise RemoteProtocolError("a digest in the manifest is malformed")
    _numbers(batch, 0, _LARGEST_COUNT)
    _numbers(offset, 0, limits.BATCH_BYTES)
    for number, least in zip(counts, (-(2**31), 0, 0, 0), strict=True):
        _numbers(number, least, _LARGEST_COUNT)
    return tuple(map(InstanceEntry._make, rows))


def _batch(row: list[Any]) -> BatchEntry:
    try:
        encoding = Encoding(_number(row[3], 0, 255))
    except ValueError:
        raise RemoteProtocolError("the manifest has a batch of unknown encoding") from None
    return BatchEntry(
        digest=_digest(row[0]),
        encoded_size=_number(row[1], limits.BATCH_HEADER_BYTES, limits.ENCODED_BATCH_BYTES),
        original_size=_number(row[2], 1, limits.BATCH_BYTES),
        encoding=encoding,
    )


def _uid(value: Any, what: str) -> str:
    if not is_uid(value):
        raise RemoteProtocolError(f"a {what} UID in the manifest is malformed")
    return str(value)


def _digest(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) != _DIGEST_BYTES:
        raise RemoteProtocolError("a digest in the manifest is malformed")
    return value


def _numbers(values: tuple[Any, ...], least: int, most: int) -> None:
    if set(map(type, values)) != {int} or min(values) < least or max(values) > most:
        raise RemoteProtocolError("a number in the manifest is out of range")


def _number(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise RemoteProtocolError("a number in the manifest is out of range")
    return value
