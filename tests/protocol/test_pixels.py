"""The pixel-aware encoding: bit-exact for any geometry, one error for any bad bytes."""

import random
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, pixel_batches, pixels, wire
from protocol.encoding import (
    Encoding,
    compress,
    decode_in_place_untrusted,
    decode_untrusted,
    encode,
    encoding_of,
)
from protocol.errors import RemoteProtocolError, WireCode
from protocol.pixels import PixelRun, Predictor, Workspace


def _block(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype="<u2")


def _image(planes: int, rows: int, columns: int, seed: int = 0) -> bytes:
    """A smooth image with noise, as a scanner makes it."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    smooth = 1000 + 300 * np.sin(x / 40) + 200 * np.cos(y / 30)
    noise = generator.normal(0, 8, (planes, rows, columns))
    return (smooth + noise).clip(0, 4095).astype("<u2").tobytes()


def _batch(images: list[bytes], gap: int = 37) -> tuple[bytes, list[int]]:
    """Images with something else before, between and behind; and where they stand."""
    original, offsets = b"", []
    for number, image in enumerate(images):
        original += b"header %03d" % number + bytes(gap)
        offsets.append(len(original))
        original += image
    return original + b"tail", offsets


# --- arithmetic -----------------------------------------------------------------------


def _obvious_residual(block: np.ndarray, predictor: Predictor, p: int, y: int, x: int) -> int:
    def pixel(plane: int, row: int, column: int) -> int:
        return int(block[plane, row, column]) if row >= 0 and column >= 0 else 0

    if predictor is Predictor.PREVIOUS and p == 0:
        predictor = Predictor.GRADIENT
    guess = {
        Predictor.NONE: 0,
        Predictor.LEFT: pixel(p, y, x - 1),
        Predictor.UP: pixel(p, y - 1, x),
        Predictor.GRADIENT: pixel(p, y, x - 1) + pixel(p, y - 1, x) - pixel(p, y - 1, x - 1),
        Predictor.PREVIOUS: int(block[p - 1, y, x]) if p else 0,
    }[predictor]
    signed = (int(block[p, y, x]) - guess + 32768) % 65536 - 32768
    return (signed << 1) ^ (signed >> 15) if signed >= 0 else -(signed << 1) - 1


@pytest.mark.parametrize("predictor", Predictor)
def test_residuals_are_what_the_definition_says(predictor: Predictor) -> None:
    block = _block((3, 5, 4))
    residuals = block.copy()
    pixels.predict(residuals, np.empty_like(block), predictor)
    for place in np.ndindex(block.shape):
        assert residuals[place] == _obvious_residual(block, predictor, *place)


# Around the band height of 16 rows, and single rows, columns and planes.
SHAPES = [
    (1, 1, 1), (1, 1, 9), (1, 9, 1), (4, 1, 1), (2, 15, 3), (1, 16, 5), (3, 17, 2), (1, 31, 2),
    (1, 32, 3), (2, 33, 4), (1, 50, 7), (5, 64, 64), (3, 17, 16), (2, 33, 20), (4, 15, 30),
    # Rows that are summed by words: of one level, of two and of three.
    (2, 3, 68), (1, 2, 256), (3, 2, 260), (1, 2, 1028), (1, 3, 4096), (1, 2, 65), (2, 3, 1034),
]  # fmt: skip


@pytest.mark.parametrize("predictor", Predictor)
@pytest.mark.parametrize("shape", SHAPES)
def test_predicting_is_undone_exactly(shape: tuple[int, int, int], predictor: Predictor) -> None:
    block = _block(shape)
    changed, scratch = block.copy(), np.empty_like(block)
    pixels.predict(changed, scratch, predictor)
    low, high = pixels.split_bytes(changed)
    for together in (1, 7, 70, block.size):
        joined, some = np.empty(block.size, pixels.SAMPLE), np.empty(together, pixels.SAMPLE)
        pixels.join_bytes(memoryview(low), memoryview(high), joined, some)
        joined = joined.reshape(shape)
        pixels.restore(joined, some, predictor)
        assert (joined == block).all()


@pytest.mark.parametrize("together", [1, 100, 256, 300, 65536])
def test_the_zigzag_of_every_number_is_undone(together: int) -> None:
    # In the pieces at the start no high byte is set, in one of 300 some are.
    signed = [number // 2 if number % 2 == 0 else -(number // 2) - 1 for number in range(65536)]
    stored = np.arange(65536, dtype="<u2")
    low, high = pixels.split_bytes(stored.reshape(1, 256, 256))
    joined = np.empty(65536, pixels.SAMPLE)
    scratch = np.empty(together, pixels.SAMPLE)
    pixels.join_bytes(memoryview(low), memoryview(high), joined, scratch)
    assert joined.view("<i2").tolist() == signed


def test_a_workspace_serves_any_size() -> None:
    workspace = Workspace()
    for count in (6, 2400, 1):
        samples, scratch = workspace.samples(count), workspace.scratch(count)
        assert samples.size == scratch.size == count
        assert not np.shares_memory(samples, scratch)


# --- whole batches -----------------------------------------------------------------------


def test_images_are_predicted_and_come_back() -> None:
    original, offsets = _batch([_image(1, 128, 96, seed) for seed in range(9)])
    runs = [PixelRun(offset, 96, 128, 1) for offset in offsets]
    encoded = encode(original, runs=runs)
    assert encoding_of(encoded) is Encoding.PIXELS
    assert decode_untrusted(encoded) == original
    assert len(encoded) < 0.8 * len(encode(original))
    assert encode(original, runs=runs, workspace=Workspace()) == encoded
    for asked in (Encoding.RAW, Encoding.ZSTD):
        assert encode(original, asked, runs=runs) == encode(original, asked)


def test_images_of_several_sizes_in_one_batch() -> None:
    shapes = [(1, 64, 64), (1, 64, 64), (4, 32, 80), (1, 100, 16), (1, 64, 64)]
    original, offsets = _batch([_image(*shape) for shape in shapes])
    runs = [
        PixelRun(offset, columns, rows, planes)
        for offset, (planes, rows, columns) in zip(offsets, shapes, strict=True)
    ]
    workspace = Workspace()
    encoded = encode(original, runs=runs, workspace=workspace)
    assert encoding_of(encoded) is Encoding.PIXELS
    assert decode_untrusted(encoded) == original


def test_an_image_that_comes_again_is_left_to_zstandard() -> None:
    # The copies say to have other shapes, so that their residuals differ.
    original, offsets = _batch([_image(1, 256, 256)] * 3)
    shapes = ((256, 256), (128, 512), (64, 1024))
    runs = [
        PixelRun(offset, columns, rows, 1)
        for offset, (columns, rows) in zip(offsets, shapes, strict=True)
    ]
    assert encode(original, runs=runs) == encode(original)
    different, _ = _batch([_image(1, 256, 256, seed) for seed in range(3)])
    assert encoding_of(encode(different, runs=runs[:1])) is Encoding.PIXELS


def test_one_workspace_decodes_batch_after_batch() -> None:
    workspace = Workspace()
    for seed, size in ((1, 64), (2, 20), (3, 40)):
        original, [offset] = _batch([_image(1, size, size, seed)])
        for encoded in (encode(original, runs=[PixelRun(offset, size, size, 1)]), encode(original)):
            assert decode_in_place_untrusted(encoded, workspace) == original


def test_a_wrong_geometry_costs_compression_alone() -> None:
    original, [offset] = _batch([_image(1, 128, 96)])
    for columns, rows in ((95, 100), (1, 12288), (12288, 1), (192, 64)):
        encoded = encode(original, runs=[PixelRun(offset + 1, columns, rows - 1 or 1, 1)])
        assert decode_untrusted(encoded) == original


@pytest.mark.parametrize("content", [random.Random(1).randbytes(8192), bytes(8192)])
def test_noise_and_nothing_are_never_worse_than_without_prediction(content: bytes) -> None:
    original, [offset] = _batch([content])
    assert len(encode(original, runs=[PixelRun(offset, 64, 64, 1)])) <= len(encode(original)) + 64


def test_a_full_batch_of_pixels() -> None:
    original = _image(8, 512, 512)[: limits.BATCH_BYTES]
    encoded = encode(original, runs=[PixelRun(0, 512, 512, 8)])
    assert decode_untrusted(encoded) == original
    assert len(encoded) <= limits.ENCODED_BATCH_BYTES


@settings(deadline=None)
@given(st.data())
def test_round_trip_property(data: st.DataObject) -> None:
    original = data.draw(st.binary(max_size=3000))
    runs, position = [], 0
    while data.draw(st.booleans()):
        gap, columns, rows, planes = (data.draw(st.integers(0, 30)) for _ in range(4))
        run = PixelRun(position + gap, columns + 1, rows + 1, planes % 3 + 1)
        if run.offset + run.size > len(original):
            break
        runs.append(run)
        position = run.offset + run.size
    assert decode_untrusted(encode(original, runs=runs)) == original


# --- bad bytes ---------------------------------------------------------------------------


def _payload(table: object, rest: bytes, low: bytes, high: bytes) -> bytes:
    parts = [wire.pack(table), compress(rest, 1), compress(low, 1)]
    packed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return packed + compress(high, 1)


def _encoded(size: int, payload: bytes) -> bytes:
    return b"RMB\x02" + struct.pack(">I", size) + payload


GOOD = _payload([[0, 2, 2, 1, 1]], b"ab", b"\1\2\3\4", b"\0\0\0\0")


def test_the_smallest_batch_by_hand() -> None:
    # Zigzag residuals 1, 2, 3, 4 without prediction are -1, 1, -2, 2.
    pixels_bytes = struct.pack("<4h", -1, 1, -2, 2)
    assert decode_untrusted(_encoded(10, GOOD)) == b"a" + pixels_bytes + b"b"


BAD = {
    "nothing": (10, b""),
    "cut in the table": (10, GOOD[:6]),
    "cut in a length": (10, GOOD[:3]),
    "part longer than the batch": (10, b"\xff\xff\xff\xff" + GOOD[4:]),
    "cut at the end": (10, GOOD[:-1]),
    "more behind": (10, GOOD + b"x"),
    "too large for its pixels": (11, GOOD),
    "too small for its pixels": (9, GOOD),
    "smaller than its pixels": (7, GOOD),
    "table is a map": (10, _payload({}, b"ab", b"1234", b"1234")),
    "table is empty": (2, _payload([], b"ab", b"", b"")),
    "block is a number": (10, _payload([7], b"ab", b"1234", b"1234")),
    "block too short": (10, _payload([[0, 2, 2, 1]], b"ab", b"1234", b"1234")),
    "gap without planes": (10, _payload([[0, 2, 2, 1, 1, 0]], b"ab", b"1234", b"1234")),
    "unknown predictor": (10, _payload([[5, 2, 2, 1, 1]], b"ab", b"1234", b"1234")),
    "no columns": (10, _payload([[0, 0, 2, 1, 1]], b"ab", b"1234", b"1234")),
    "no rows": (10, _payload([[0, 2, 0, 1, 1]], b"ab", b"1234", b"1234")),
    "no planes": (10, _payload([[0, 2, 2, 1, 0]], b"ab", b"1234", b"1234")),
    "negative gap": (10, _payload([[0, 2, 2, -1, 1]], b"ab", b"1234", b"1234")),
    "boolean": (10, _payload([[0, 2, 2, True, 1]], b"ab", b"1234", b"1234")),
    "text": (10, _payload([[0, 2, 2, "1", 1]], b"ab", b"1234", b"1234")),
    "pixels of 2^90 bytes": (
        10,
        _payload([[0, 2**30, 2**30, 0, 2**30]], b"ab", b"1234", b"1234"),
    ),
    "gap beyond the end": (10, _payload([[0, 2, 2, 3, 1]], b"ab", b"1234", b"1234")),
    "low plane too short": (10, _payload([[0, 2, 2, 1, 1]], b"ab", b"123", b"1234")),
    "high plane too long": (10, _payload([[0, 2, 2, 1, 1]], b"ab", b"1234", b"12345")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_batches_are_refused(name: str) -> None:
    size, payload = BAD[name]
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(_encoded(size, payload))


def test_a_part_that_is_longer_than_the_batch_is_no_part() -> None:
    for cut in (1, 3, 4, 5, len(wire.pack([[0, 2, 2, 1, 1]])) + 5):
        with pytest.raises(RemoteProtocolError, match="in the middle of a part"):
            decode_untrusted(_encoded(10, GOOD[:cut]))
    with pytest.raises(RemoteProtocolError, match="in the middle of a part"):
        decode_untrusted(_encoded(10, b"\xff\xff\xff\xff" + GOOD[4:]))


def _many(blocks: int, runs: int) -> bytes:
    """A batch of so many blocks of one sample, the last with more runs than one."""
    table = [[0, 1, 1, 0, 1] for _ in range(blocks)]
    table[-1] += [0, 1] * (runs - blocks)
    return _encoded(2 * runs, _payload(table, b"", bytes(runs), bytes(runs)))


def test_a_table_has_so_many_blocks_and_runs_and_no_more() -> None:
    most_blocks, most_runs = limits.PIXEL_BLOCKS, limits.PIXEL_RUNS
    assert decode_untrusted(_many(most_blocks, most_runs)) == bytes(2 * most_runs)
    for blocks, runs in (
        (most_blocks + 1, most_blocks + 1),
        (1, most_runs + 1),
        (most_blocks, most_runs + 1),
        (10_900, 10_900),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            decode_untrusted(_many(blocks, runs))
        assert caught.value.code is WireCode.TOO_LARGE


def test_images_of_more_sizes_than_there_may_be_blocks_are_encoded_within_the_bound() -> None:
    # Each image has another size than the one before.
    sizes = [(40 + number % 2, 20) for number in range(limits.PIXEL_BLOCKS + 40)]
    runs, images, offset = [], [], 0
    for number, (columns, rows) in enumerate(sizes):
        image = _image(1, rows, columns, number)
        runs.append(PixelRun(offset, columns, rows, 1))
        images.append(image)
        offset += len(image)
    original = b"".join(images)
    encoded = encode(original, runs=runs)
    assert encoding_of(encoded) is Encoding.PIXELS
    assert decode_untrusted(encoded) == original


def test_more_small_images_than_there_may_be_runs_are_encoded_within_the_bound() -> None:
    count, side = limits.PIXEL_RUNS + 500, 8
    original = _image(count, side, side)
    size = len(original) // count
    runs = [PixelRun(number * size, side, side, 1) for number in range(count)]
    encoded = encode(original, runs=runs)
    assert encoding_of(encoded) is Encoding.PIXELS
    assert decode_untrusted(encoded) == original


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = compress(bytes(limits.BATCH_BYTES), 3)
    table = wire.pack([[0, 2, 2, 1, 1]])
    payload = b"".join(len(part).to_bytes(4, "big") + part for part in (table, bomb, bomb)) + bomb
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(_encoded(10, payload))


@pytest.mark.parametrize(
    ("predictor", "columns", "rows"),
    [(Predictor.PREVIOUS, 1, 1), (Predictor.PREVIOUS, 4, 4), (Predictor.GRADIENT, 1, 2**21)],
)
def test_a_table_of_millions_of_planes_costs_no_more_than_its_bytes(
    predictor: Predictor, columns: int, rows: int
) -> None:
    zeros = bytes(limits.BATCH_BYTES // 2)

    def seconds(columns: int, rows: int) -> float:
        table = [[int(predictor), columns, rows, 0, len(zeros) // (columns * rows)]]
        batch = _encoded(limits.BATCH_BYTES, _payload(table, b"", zeros, zeros))
        began = time.thread_time()
        decode_untrusted(batch)
        return time.thread_time() - began

    # One call for each plane or row is hundreds of times as slow.
    assert seconds(columns, rows) < 60 * max(0.01, seconds(512, 512))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_one_changed_byte_property(position: int, value: int) -> None:
    encoded = bytearray(_CHANGED)
    encoded[position % len(encoded)] = value
    try:
        original = decode_untrusted(bytes(encoded), max_original_bytes=65_536)
    except RemoteProtocolError:
        return
    assert len(original) == int.from_bytes(encoded[4:8], "big")


_CHANGED = encode(_image(1, 40, 40), runs=[PixelRun(0, 40, 40, 1)])


@given(st.binary(max_size=200))
def test_any_payload_property(payload: bytes) -> None:
    try:
        assert len(decode_untrusted(_encoded(100, payload))) == 100
    except RemoteProtocolError:
        pass


def test_up_is_taken_where_it_costs_little() -> None:
    assert encoding_of(_CHANGED) is Encoding.PIXELS
    noise = np.random.default_rng(0).integers(0, 4, (1, 64, 64), dtype="<u2")
    rows = np.tile(_block((1, 1, 64)), (1, 64, 1)) + noise
    assert pixel_batches.choose_predictor(rows) is Predictor.UP
    assert pixel_batches.choose_predictor(rows.transpose(0, 2, 1).copy()) is Predictor.LEFT


def test_the_plane_before_is_looked_at_where_there_is_one() -> None:
    """Planes without any pattern within them, each nearly that before."""
    noise = np.random.default_rng(1).integers(0, 3, (4, 64, 64), dtype="<u2")
    planes = _block((1, 64, 64)) // 2 + np.cumsum(noise, axis=0, dtype="<u2")
    assert pixel_batches.choose_predictor(planes) is Predictor.PREVIOUS
    assert pixel_batches.choose_predictor(planes[:1].copy()) is not Predictor.PREVIOUS
