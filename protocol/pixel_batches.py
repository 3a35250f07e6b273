"""The payload of a pixel-aware batch: which pixels are taken out, how, and all put together.

    table length (u32) || table || rest length (u32) || rest || low length (u32) || low || high

Lengths are big-endian. The table is strict MessagePack: a list of blocks
`[predictor, columns, rows, gap, planes, gap, planes, ...]`, where a gap counts
the bytes that lie before a run and belong to no pixels. Rest, low and high are
Zstandard frames: all bytes outside of runs, and the low and high bytes of all
residuals, block after block (docs/protocol.md section 5.2).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocol import limits, pixels, wire
from protocol.errors import RemoteProtocolError, WireCode
from protocol.pixels import Block, PixelRun, Predictor, Workspace
from protocol.zstd import LEVEL, compress, decompress_untrusted

_RESIDUAL_LEVEL = 1
"""Residuals are noise to a match finder: a higher level costs time and saves nothing."""

_SAMPLE_BYTES = 64 * 1024
_FAST_BIAS = 1.02
"""UP is taken where it costs at most 2 % more than the best: it is undone fastest."""

_LARGEST_SIDE = 2**31 - 1

_TABLE_ITEMS = 1 + 4 * limits.PIXEL_BLOCKS + 2 * limits.PIXEL_RUNS
"""Each block is a list and three numbers, each run two."""


# --- encoding -----------------------------------------------------------------------


def encode_pixels(
    original: memoryview, runs: Sequence[PixelRun], workspace: Workspace
) -> bytes | None:
    """The payload of a batch, or None where predicting its pixels does not help.

    Args:
        original: the batch.
        runs: where pixels stand, ascending and apart.
    """
    blocks = []
    residuals = []
    # What goes beyond the bounds stays in the rest.
    for group in pixels.blocks_of(runs[: limits.PIXEL_RUNS])[: limits.PIXEL_BLOCKS]:
        shape = Block(group, Predictor.NONE).shape
        count = shape[0] * shape[1] * shape[2]
        block = workspace.samples(count).reshape(shape)
        scratch = workspace.scratch(count).reshape(shape)
        pixels.gather(original, group, block)
        predictor = choose_predictor(block)
        if predictor is not None:
            pixels.predict(block, scratch, predictor)
            blocks.append(Block(group, predictor))
            residuals.append(pixels.split_bytes(block))
    if not blocks:
        return None
    table, rest = _table(original, blocks)
    parts = [
        table,
        compress(rest, LEVEL),
        compress(b"".join(low for low, _ in residuals), _RESIDUAL_LEVEL),
    ]
    high = compress(b"".join(high for _, high in residuals), _RESIDUAL_LEVEL)
    return b"".join(part for one in parts for part in (len(one).to_bytes(4, "big"), one)) + high


def _table(original: memoryview, blocks: Sequence[Block]) -> tuple[bytes, bytes]:
    rows: list[list[int]] = []
    rest = []
    position = 0
    for block in blocks:
        row = [int(block.predictor), block.runs[0].columns, block.runs[0].rows]
        for run in block.runs:
            row += [run.offset - position, run.planes]
            rest.append(original[position : run.offset])
            position = run.offset + run.size
        rows.append(row)
    rest.append(original[position:])
    return wire.pack(rows), b"".join(rest)


def choose_predictor(block: pixels.Pixels) -> Predictor | None:
    """The predictor that makes a sample of the block smallest; None where plain zstd does.

    The sample is a band of at most half of the rows, in the middle of some planes in
    the middle of the block.
    """
    planes, rows, columns = block.shape
    height = max(1, min((rows + 1) // 2, _SAMPLE_BYTES // (2 * columns)))
    first = (rows - height) // 2
    count = min(planes, max(1, _SAMPLE_BYTES // (2 * columns * height)))
    start = (planes - count) // 2
    before = max(0, start - 1)
    sample = block[before : start + count, first : first + height]
    kept = sample[start - before :]
    plain = len(compress(kept.tobytes(), LEVEL))
    sizes: dict[Predictor, float] = {}
    for predictor in Predictor:
        if predictor is Predictor.PREVIOUS and planes == 1:
            continue
        # Only PREVIOUS looks at the plane before the sample.
        tried = (sample if predictor is Predictor.PREVIOUS else kept).copy()
        pixels.predict(tried, np.empty_like(tried), predictor)
        low, high = pixels.split_bytes(tried[-len(kept) :])
        sizes[predictor] = sum(len(compress(plane, _RESIDUAL_LEVEL)) for plane in (low, high))
    best = min(sizes, key=lambda predictor: sizes[predictor])
    if plain <= sizes[best]:
        return None
    return Predictor.UP if sizes[Predictor.UP] <= _FAST_BIAS * sizes[best] else best


# --- decoding -----------------------------------------------------------------------


def decode_pixels_untrusted(
    payload: memoryview, size: int, workspace: Workspace
) -> list[memoryview]:
    """The original bytes of a pixel-aware batch, in pieces.

    Args:
        payload: what follows the header of the batch.
        size: its declared size, checked against the limit; memory taken is bounded
            by a small multiple of it.
        workspace: where it is decoded; some of the pieces lie there.

    Raises:
        RemoteProtocolError: the payload does not decode to exactly `size` bytes.
    """
    table, payload = _part_untrusted(payload)
    rest_frame, payload = _part_untrusted(payload)
    low_frame, high_frame = _part_untrusted(payload)
    blocks = _blocks_untrusted(table, size)
    count = sum(run.size for block in blocks for run in block.runs) // 2
    rest = memoryview(decompress_untrusted(rest_frame, size - 2 * count))
    low = memoryview(decompress_untrusted(low_frame, count))
    high = memoryview(decompress_untrusted(high_frame, count))
    samples = workspace.samples(count)
    scratch = workspace.scratch(min(count, pixels.SCRATCH_SAMPLES))
    pixels.join_bytes(low, high, samples, scratch)
    pieces = []
    position = 0
    for block in blocks:
        planes, rows, columns = block.shape
        restored = samples[: planes * rows * columns]
        samples = samples[restored.size :]
        pixels.restore(restored.reshape(block.shape), scratch, block.predictor)
        content = restored.data.cast("B")
        for run in block.runs:
            gap = run.offset - position
            pieces += [rest[:gap], content[: run.size]]
            rest, content = rest[gap:], content[run.size :]
            position = run.offset + run.size
    pieces.append(rest)
    return [piece for piece in pieces if piece]


def _part_untrusted(payload: memoryview) -> tuple[memoryview, memoryview]:
    length = int.from_bytes(payload[:4], "big")
    if length > len(payload) - 4:
        raise RemoteProtocolError("a batch ends in the middle of a part")
    return payload[4 : 4 + length], payload[4 + length :]


def _blocks_untrusted(table: memoryview, size: int) -> list[Block]:
    rows = wire.decode_untrusted(table, max_items=_TABLE_ITEMS)
    if not isinstance(rows, list) or not rows:
        raise RemoteProtocolError("the table of a batch is no list of blocks")
    if len(rows) > limits.PIXEL_BLOCKS:
        raise RemoteProtocolError("a batch has too many blocks of pixels", WireCode.TOO_LARGE)
    blocks = []
    position = count = 0
    for row in rows:
        predictor, columns, lines, places = _row_untrusted(row)
        count += len(places) // 2
        if count > limits.PIXEL_RUNS:
            raise RemoteProtocolError("a batch has too many runs of pixels", WireCode.TOO_LARGE)
        runs = []
        for gap, planes in zip(places[::2], places[1::2], strict=True):
            run = PixelRun(position + gap, columns, lines, planes)
            position = run.offset + run.size
            if position > size:
                raise RemoteProtocolError("pixels beyond the end of their batch")
            runs.append(run)
        blocks.append(Block(tuple(runs), predictor))
    return blocks


def _row_untrusted(row: Any) -> tuple[Predictor, int, int, list[int]]:
    if not isinstance(row, list) or len(row) < 5 or len(row) % 2 == 0:
        raise RemoteProtocolError("a block of a batch is not well formed")
    if any(type(value) is not int or not 0 <= value <= _LARGEST_SIDE for value in row):
        raise RemoteProtocolError("a block of a batch holds something else than counts")
    number, columns, lines, *places = row
    if columns == 0 or lines == 0 or 0 in places[1::2]:
        raise RemoteProtocolError("a block of a batch has no pixels")
    try:
        return Predictor(number), columns, lines, places
    except ValueError:
        raise RemoteProtocolError(f"predictor {number} is unknown") from None
