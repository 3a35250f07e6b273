from typing import Any

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import batches, limits, wire
from protocol.encoding import Encoding
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.manifest import BatchEntry, InstanceEntry, Manifest, SeriesEntry, content_root


def _digest(*what: object) -> bytes:
    return blake3.blake3(repr(what).encode()).digest()


def make_manifest(sizes: list[list[int]], study: str = "1.2.3") -> Manifest:
    """A manifest of series with instances of these sizes."""
    series, instances, entries = [], [], []
    for index, inside in enumerate(sizes):
        series.append(SeriesEntry(f"{study}.{index:03}", "CT"))
        places: dict[int, tuple[int, int]] = {}
        for batch in batches.plan(inside):
            offset = 0
            for segment in batch:
                places.setdefault(segment.instance, (len(entries), offset))
                offset += segment.length
            entries.append(BatchEntry(_digest(index, len(entries)), 100, offset, Encoding.ZSTD))
        instances += [
            InstanceEntry(
                index, f"{study}.{index:03}.{number}", "1.2.840.10008.5.1.4.1.1.2",
                "1.2.840.10008.1.2.1", size, _digest(index, number), *places[number],
                number, 512, 512, 1,
            )
            for number, size in enumerate(inside)
        ]  # fmt: skip
    return Manifest(study, tuple(series), tuple(instances), tuple(entries))


BIG = limits.BATCH_BYTES
SAMPLE = make_manifest([[10, 20, 30], [BIG * 2 + 5, 7]])


def test_round_trip():
    read = Manifest.decode_untrusted(SAMPLE.encode())
    assert read == SAMPLE
    assert read.encode() == SAMPLE.encode()
    assert read.digest == blake3.blake3(SAMPLE.encode()).digest()
    assert read.total_original_bytes == 60 + BIG * 2 + 5 + 7
    assert read.total_encoded_bytes == 100 * 5


def test_segments_and_places():
    assert SAMPLE.segments(0) == ((0, 0, 0, 10), (1, 0, 10, 20), (2, 0, 30, 30))
    assert [SAMPLE.segments(batch) for batch in (1, 2, 3)] == [
        ((3, 0, 0, BIG),),
        ((3, BIG, 0, BIG),),
        ((3, 2 * BIG, 0, 5),),
    ]
    assert SAMPLE.places(3) == [(batch, SAMPLE.segments(batch)[0]) for batch in (1, 2, 3)]


def test_instance_may_be_split_anywhere():
    one = SAMPLE.instances[0]._replace(size=30, first_batch=0, offset=5)
    entries = tuple(BatchEntry(_digest(size), 50, size, Encoding.RAW) for size in (15, 8, 100))
    other = one._replace(sop_instance_uid="1.2.9", number=9, size=10, first_batch=2, offset=80)
    manifest = Manifest("1.2.3", SAMPLE.series[:1], (one, other), entries)
    read = Manifest.decode_untrusted(manifest.encode())
    assert read.places(0) == [(0, (0, 0, 5, 10)), (1, (0, 10, 0, 8)), (2, (0, 18, 0, 12))]


def test_two_batches_may_be_equal():
    entries = (SAMPLE.batches[1], SAMPLE.batches[1])
    one = SAMPLE.instances[0]._replace(size=2 * BIG, first_batch=0, offset=0)
    Manifest.decode_untrusted(Manifest("1.2.3", SAMPLE.series[:1], (one,), entries).encode())


def test_content_root_is_of_the_instances_alone():
    expected = blake3.blake3(
        b"radmesh-content-v1\0"
        + wire.pack(
            [
                "1.2.3",
                sorted([one.sop_instance_uid, one.size, one.digest] for one in SAMPLE.instances),
            ]
        )
    ).digest()
    assert SAMPLE.content_root == expected
    rows = [(one.sop_instance_uid, one.size, one.digest) for one in SAMPLE.instances]
    assert content_root("1.2.3", reversed(rows)) == expected
    assert content_root("1.2.4", rows) != expected
    assert content_root("1.2.3", rows[1:]) != expected


def _value() -> dict[str, Any]:
    value: dict[str, Any] = wire.decode_untrusted(SAMPLE.encode())
    return value


def _with(table: str, row: int, column: int, new: Any) -> dict[str, Any]:
    value = _value()
    value[table][row][column] = new
    return value


def _without(name: str) -> dict[str, Any]:
    value = _value()
    del value[name]
    return value


def _changed(**tables: Any) -> dict[str, Any]:
    return {**_value(), **tables}


LONG_UID = "1." * 32 + "1"
BAD = {
    "no map": [],
    "version missing": _without("v"),
    "version 2": _changed(v=2),
    "version true": _changed(v=True),
    "study missing": _without("study"),
    "study is a path": _changed(study="../../etc/x"),
    "study too long": _changed(study=LONG_UID),
    "no series": _without("series"),
    "no instances": _changed(instances=[]),
    "instances is a map": _changed(instances={}),
    "row too short": _changed(batches=[row[:3] for row in _value()["batches"]]),
    "row is no list": _changed(series=["1.2", "CT"]),
    "series order": _changed(series=_value()["series"][::-1]),
    "series twice": _with("series", 1, 0, _value()["series"][0][0]),
    "series uid": _with("series", 0, 0, "x"),
    "modality a number": _with("series", 0, 1, 5),
    "modality too long": _with("series", 0, 1, "M" * 17),
    "modality with escape": _with("series", 0, 1, "\x1b[2J"),
    "series without instance": _changed(series=[*_value()["series"], ["1.2.3.999", "CT"]]),
    "unknown series": _with("instances", 4, 0, 2),
    "negative series": _with("instances", 0, 0, -1),
    "sop uid empty": _with("instances", 0, 1, ""),
    "sop uid twice": _with("instances", 1, 1, _value()["instances"][0][1]),
    "sop class": _with("instances", 0, 2, "1..2"),
    "transfer syntax": _with("instances", 0, 3, b"1.2"),
    "size zero": _with("instances", 0, 4, 0),
    "size beyond its batches": _with("instances", 4, 4, 8),
    "size beyond everything": _with("instances", 3, 4, 2**53 - 1),
    "size a boolean": _with("instances", 0, 4, True),
    "digest short": _with("instances", 0, 5, b"short"),
    "digest text": _with("instances", 0, 5, "x" * 32),
    "batch beyond the last": _with("instances", 4, 6, 5),
    "offset at the end": _with("instances", 0, 7, 60),
    "overlap": _with("instances", 1, 7, 9),
    "overlap at a split": _with("instances", 2, 6, 1),
    "order of numbers": _with("instances", 0, 8, 2),
    "number too large": _with("instances", 4, 8, 2**31),
    "rows negative": _with("instances", 0, 9, -1),
    "columns too large": _with("instances", 0, 10, 2**31),
    "frames text": _with("instances", 0, 11, "1"),
    "batch digest": _with("batches", 0, 0, b""),
    "batch too small": _with("batches", 0, 1, limits.BATCH_HEADER_BYTES - 1),
    "batch too large": _with("batches", 0, 1, limits.ENCODED_BATCH_BYTES + 1),
    "batch of nothing": _with("batches", 0, 2, 0),
    "batch original too large": _with("batches", 0, 2, BIG + 1),
    "batch encoding": _with("batches", 0, 3, 9),
    "batch without instance": _changed(batches=[*_value()["batches"], _value()["batches"][0]]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_manifests_are_refused(name):
    with pytest.raises(RemoteProtocolError):
        Manifest.decode_untrusted(wire.pack(BAD[name]))


def test_unknown_entries_of_the_map_are_ignored():
    assert Manifest.decode_untrusted(wire.pack(_changed(future=[1]))) == SAMPLE


def test_instances_that_all_claim_all_batches_are_refused_quickly():
    # Each walks every batch: without a bound, a million steps of work for a few kilobytes.
    count = 2000
    entries = tuple(BatchEntry(_digest(n), 8, 1, Encoding.RAW) for n in range(count))
    template = SAMPLE.instances[0]
    instances = tuple(
        template._replace(
            sop_instance_uid=f"1.9.{n:05}", number=0, size=count, first_batch=0, offset=0
        )
        for n in range(count)
    )
    bomb = Manifest("1.2.3", SAMPLE.series[:1], instances, entries)
    with pytest.raises(RemoteProtocolError, match="instance 2 overlaps"):
        Manifest.decode_untrusted(bomb.encode())


def test_too_many_bytes_or_instances_are_refused(monkeypatch):
    for limit, held in (("MANIFEST_INSTANCES", 5), ("MANIFEST_BATCHES", 5)):
        with monkeypatch.context() as patch:
            patch.setattr(limits, limit, held)
            Manifest.decode_untrusted(SAMPLE.encode())
            patch.setattr(limits, limit, held - 1)
            with pytest.raises(RemoteProtocolError, match="too many"):
                Manifest.decode_untrusted(SAMPLE.encode())
    monkeypatch.setattr(limits, "MANIFEST_BYTES", 100)
    with pytest.raises(RemoteProtocolError, match="too large"):
        Manifest.decode_untrusted(SAMPLE.encode())


def test_place_outside_of_the_batches_is_our_mistake():
    one = SAMPLE.instances[0]._replace(offset=60)
    with pytest.raises(LocalProtocolError):
        Manifest("1.2.3", SAMPLE.series[:1], (one,), SAMPLE.batches[:1]).places(0)


@given(st.lists(st.lists(st.sampled_from([1, 1000, BIG - 1, BIG, BIG + 1, 2 * BIG]), min_size=1,
                         max_size=6), min_size=1, max_size=3))  # fmt: skip
def test_planned_manifests_property(sizes):
    manifest = make_manifest(sizes)
    read = Manifest.decode_untrusted(manifest.encode())
    assert read == manifest
    for index, one in enumerate(read.instances):
        places = read.places(index)
        assert sum(place.length for _, place in places) == one.size
        assert all(place in read.segments(batch) for batch, place in places)


@given(st.binary(max_size=200))
def test_any_bytes_property(data):
    try:
        Manifest.decode_untrusted(data)
    except RemoteProtocolError:
        return
    raise AssertionError("random bytes were taken for a manifest")


@given(st.integers(0), st.integers(0, 255))
def test_one_changed_byte_property(position, value):
    data = bytearray(SAMPLE.encode())
    data[position % len(data)] = value
    try:
        read = Manifest.decode_untrusted(data)
    except RemoteProtocolError:
        return
    assert read.encode() == bytes(data)
