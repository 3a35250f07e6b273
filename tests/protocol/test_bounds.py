"""What a kilobyte from a peer may cost: values, bytes and memory are counted, not seconds."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import blake3
import exchange_pair
import msgpack
import pytest
import zstandard
from exchange_pair import NOW, STUDY, Pair, make_study
from hypothesis import given
from hypothesis import strategies as st

from keys import seal
from protocol import batches, encoding, limits, messages, wire
from protocol.encoding import Encoding
from protocol.errors import RemoteProtocolError, WireCode
from protocol.manifest import BatchEntry, Counts, InstanceEntry, Manifest, SeriesEntry
from protocol.messages import Offer
from protocol.transfer import ManifestArrived

MIB = 1024 * 1024
STEP_BYTES = limits.DECODE_STEP_ROWS * limits.MANIFEST_ROW_BYTES + 5


class Cost:
    """What was done in a `measured` part.

    Attributes:
        built: bytes of each value that was built in one call.
        walked: values that were passed in one call.
        peak: most bytes of memory at a time.
    """

    def __init__(self) -> None:
        self.built: list[int] = []
        self.walked: list[int] = []
        self.peak = 0


@contextmanager
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cost]:
    cost = Cost()
    build, walk = wire._build, wire._walk

    def noting_build(encoded: bytes) -> object:
        cost.built.append(len(encoded))
        return build(encoded)

    def noting_walk(data: bytes, start: int, items: int, depth: int) -> tuple[int, int]:
        end, count = walk(data, start, items, depth)
        cost.walked.append(count)
        return end, count

    with monkeypatch.context() as patch:
        patch.setattr(wire, "_build", noting_build)
        patch.setattr(wire, "_walk", noting_walk)
        tracemalloc.start()
        try:
            yield cost
        finally:
            cost.peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()


SMALL = make_study([b"one", b"two"]).manifest


def with_unknown(value: bytes) -> bytes:
    """A small manifest with a field of a later version."""
    known = SMALL.encode()
    assert known[:1] == b"\x85"
    return b"\x86" + known[1:] + wire.pack("x") + value


def array(count: int, value: bytes) -> bytes:
    return msgpack.Packer().pack_array_header(count) + value * count


UNKNOWN = {
    "16.7 million numbers": lambda: array(limits.MANIFEST_BYTES // 6, b"\x00"),
    "16.7 million lists": lambda: array(limits.MANIFEST_BYTES // 6, b"\x90"),
    "a million texts": lambda: array(2**20, b"\xa1x"),
    "60 thousand maps": lambda: array(60_000, b"\x81\xa1x\x01"),
    "a text of 90 MB": lambda: b"\xdb" + (90 * MIB).to_bytes(4, "big") + b"x" * (90 * MIB),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_field_is_neither_walked_without_end_nor_built(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = with_unknown(UNKNOWN[name]())
    with measured(monkeypatch) as cost, pytest.raises(RemoteProtocolError) as caught:
        Manifest.decode_untrusted(data)
    assert caught.value.code is WireCode.TOO_LARGE
    assert cost.peak < MIB
    assert max(cost.built) <= STEP_BYTES
    assert sum(cost.walked) <= limits.MANIFEST_SPARE_ITEMS


def test_what_a_later_version_adds_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_unknown(array(65_000, b"\x90"))
    with measured(monkeypatch) as cost:
        assert Manifest.decode_untrusted(data, SMALL.counts) == SMALL
    assert cost.peak < MIB
    assert max(cost.built) < 1000


def test_unknown_fields_of_messages_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    known = messages.encode(messages.Credit(bytes=7))
    assert known[:1] == b"\x82"
    data = b"\x83" + known[1:] + wire.pack("x") + b"\xdc\xff\x00" + b"\x90" * 0xFF00
    with measured(monkeypatch) as cost:
        assert messages.decode_untrusted(data) == messages.Credit(bytes=7)
    assert max(cost.built) < 10
    assert cost.peak < MIB


@pytest.mark.slow
def test_unknown_fields_of_the_maps_in_a_message_are_not_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = {
        "sequence": 1, "kind": "available", "study": STUDY, "content_root": bytes(32),
        "series": 1, "instances": 1, "bytes": 1, "encoded_bytes": 9, "modalities": ["CT"],
        "study_date": "", "unknown": [[]] * 60_000,
    }  # fmt: skip
    data = wire.pack(
        {
            "type": "announcement", "recipient": bytes(32), "epoch": bytes(16), "reset": False,
            "cursor": 1, "time": 1, "records": [record],
        }
    )  # fmt: skip
    with measured(monkeypatch) as cost:
        message = messages.decode_untrusted(data)
    assert isinstance(message, messages.Announcement)
    assert message.records[0].study == STUDY
    assert max(cost.built) < 100


# --- rows -----------------------------------------------------------------------------


def tiny_batches(count: int) -> bytes:
    """One instance in so many batches of a byte: valid but for their number."""
    one = InstanceEntry(0, f"{STUDY}.1.1", "1.2", "1.2", count, bytes(32), 0, 0, 1, 0, 0, 0)
    study = Manifest(STUDY, (SeriesEntry(f"{STUDY}.1", "CT"),), (one,), ())
    [before, after] = study.encode().split(wire.pack("batches") + b"\x90")
    return before + wire.pack("batches") + array(count, wire.pack([bytes(32), 9, 1, 0])) + after


class Liar(Pair):
    """A pair whose source offers and sends a manifest of its own making."""

    def offer_bytes(self, manifest: bytes, **changes: object) -> Callable[[], Manifest]:
        """Offer these bytes; returns what opens them."""
        self.request()
        fields = {
            "transfer": exchange_pair.TRANSFER,
            "recipient": self.recipient_key.public,
            "request": self.source._request_digest,
            "ephemeral": self.source._ephemeral.public,
            "manifest": blake3.blake3(manifest).digest(),
            "manifest_bytes": len(manifest),
            "content_root": bytes(32),
            "time": NOW,
            **SMALL.counts._asdict(),
            **changes,
        }
        offer = Offer(**fields)  # type: ignore[arg-type]
        request = self.source.request
        assert request is not None
        self.source._agree(request, offer, request.ephemeral)
        sealer = self.source._require_sealer()
        self.to_recipient(self.source.connection.send(offer))
        events = []
        for index, start in enumerate(range(0, len(manifest), limits.BATCH_BYTES)):
            piece = encoding.encode(manifest[start : start + limits.BATCH_BYTES])
            sealed = sealer.seal(seal.KIND_MANIFEST, index, piece)
            header = self.source.connection.data_header(index, len(sealed))
            events += self.to_recipient(header + sealed)
        assert isinstance(events[-1], ManifestArrived)
        return self.recipient.open_manifest


def test_a_manifest_of_millions_of_tiny_batches_is_refused_with_its_offer() -> None:
    data = tiny_batches(2_200_000)
    assert len(zstandard.compress(data)) < 10_000
    # With its true counts, and with counts that a study may have.
    true = {"series": 1, "instances": 1, "batches": 2_200_000, "bytes": 2_200_000}
    for counts in (true, {**true, "batches": 400_000}, {**true, "batches": 4}):
        with pytest.raises(RemoteProtocolError):
            Liar().offer_bytes(data, **counts)
    with pytest.raises(RemoteProtocolError):
        Manifest.decode_untrusted(tiny_batches(10))


def test_rows_beyond_the_offered_counts_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # 290 MB are as many bytes as 500,000 instances may have; the rows are others.
    data = tiny_batches(1_000_000)
    opens = Liar().offer_bytes(
        data, series=1, instances=300_000, batches=300_000, bytes=300_000 * MIB
    )
    with measured(monkeypatch) as cost, pytest.raises(RemoteProtocolError, match="length"):
        opens()
    assert sum(cost.built) < 1000
    # Its bytes, twice: as they were sent, and put together.
    assert cost.peak < 2.5 * len(data)


@pytest.mark.parametrize("change", ["series", "instances", "batches", "bytes"])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_manifest_has_just_the_offered_counts(change: str, by: int) -> None:
    study = make_study([b"one", b"two" * 200, b"three" * 100, b"4"], batch_bytes=700)
    manifest = study.manifest
    other = manifest.counts._asdict()
    Liar().offer_bytes(manifest.encode(), content_root=manifest.content_root, **other)()
    other[change] += by
    if not other[change]:
        return
    with pytest.raises(RemoteProtocolError):
        Liar().offer_bytes(manifest.encode(), content_root=manifest.content_root, **other)()


def test_a_manifest_larger_than_its_rows_can_be_is_refused_with_its_offer() -> None:
    pair = Liar()
    most = SMALL.counts.manifest_bytes
    assert most == limits.MANIFEST_SPARE_BYTES + 4 * limits.MANIFEST_ROW_BYTES
    with pytest.raises(RemoteProtocolError) as caught:
        pair.offer_bytes(with_unknown(wire.pack(bytes(most))))
    assert caught.value.code is WireCode.TOO_LARGE


COUNTS = {
    "one": (Counts(1, 1, 1, 1), True),
    "a batch for each instance and MiB": (Counts(1, 3, 5, MIB + 1), True),
    "one batch more": (Counts(1, 3, 6, MIB + 1), False),
    "one batch more than a MiB allows": (Counts(1, 3, 5, MIB), False),
    "as much as there may be": (Counts(500_000, 500_000, 500_000, 2**53 - 1), True),
    "an instance too many": (Counts(1, 500_001, 1, 500_001), False),
    "a batch too many": (Counts(1, 500_000, 500_001, 2**53 - 1), False),
    "more series than instances": (Counts(2, 1, 1, 1), False),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_a_study_may_have(name: str) -> None:
    counts, good = COUNTS[name]
    if good:
        counts.check_untrusted()
    else:
        with pytest.raises(RemoteProtocolError):
            counts.check_untrusted()


@given(
    st.lists(
        st.lists(st.integers(1, 3 * limits.BATCH_BYTES), min_size=1, max_size=30),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_the_packing_rule_makes_of_any_number_of_ingests_passes(
    ingests: list[list[int]],
) -> None:
    made = sum(len(list(batches.plan(sizes))) for sizes in ingests)
    sizes = [size for sizes in ingests for size in sizes]
    Counts(1, len(sizes), made, sum(sizes)).check_untrusted()


def large(count: int) -> Manifest:
    """A manifest of so many instances, each of them with the longest row there is."""
    uid = "1." + "2" * 55
    most = 2**31 - 1
    instances = tuple(
        InstanceEntry(
            0, f"{uid}.{n:06}", "1." + "3" * 62, "1." + "4" * 62, 2**20, bytes([n % 256]) * 32,
            n, 0, most - count + n, most, most, most,
        )
        for n in range(count)
    )  # fmt: skip
    entries = tuple(
        BatchEntry(n.to_bytes(32, "big"), limits.ENCODED_BATCH_BYTES, 2**20, Encoding.ZSTD)
        for n in range(count)
    )
    return Manifest("1.2.3", (SeriesEntry(uid, "é" * 16),), instances, entries)


def test_a_large_manifest_is_read_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = large(3 * limits.DECODE_STEP_ROWS + 5)
    with measured(monkeypatch) as cost:
        data = manifest.encode()
        assert Manifest.decode_untrusted(data, manifest.counts) == manifest
    assert max(cost.built) <= STEP_BYTES
    # A row of the longest has its place.
    rows = [wire.pack(list(one)) for one in manifest.instances]
    assert max(map(len, rows)) <= limits.MANIFEST_ROW_BYTES


def test_a_row_may_be_so_long_and_no_longer() -> None:
    row = ["x" * 200, bytes(60)]
    size = len(wire.pack(row))
    for most, good in ((size, True), (size - 1, False)):
        reader = wire.Reader(wire.pack([row]))
        if good:
            assert list(reader.rows(1, 2, most)) == [[row]]
        else:
            with pytest.raises(RemoteProtocolError, match="too long"):
                list(reader.rows(1, 2, most))


@given(st.lists(st.lists(st.text(max_size=3), min_size=2, max_size=2), max_size=40))
def test_arrays_that_are_packed_in_pieces_are_the_same_bytes(rows: list[list[str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "DECODE_STEP_ROWS", 7)
        assert b"".join(wire.pack_array(rows, len(rows))) == wire.pack(rows)
        reader = wire.Reader(wire.pack(rows))
        read = list(reader.rows(len(rows), 2, 100))
        reader.end()
    assert [row for step in read for row in step] == rows
    assert all(len(step) <= 7 for step in read)


@pytest.mark.parametrize("count", [15, 16, 0xFFFF, 0x10000])
def test_the_head_of_an_array_of_any_size(count: int) -> None:
    pieces = wire.pack_array(iter(range(0)), count)
    assert next(pieces) == msgpack.Packer().pack_array_header(count)
