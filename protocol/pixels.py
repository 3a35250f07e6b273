"""Pixel-aware encoding of native 16-bit images, bit-exact (docs/protocol.md section 5.2).

The pixels of a batch are taken out of it, plane by plane; what remains (headers
and tails) stays as it is. Pixels are predicted from their neighbours modulo 2^16,
the signed residuals made unsigned by zigzag, and their low and high bytes laid
apart, since that is what makes them compress. A run of pixels is only a claim
about geometry: a wrong one costs compression, never a bit.

Everything works on whole arrays that fit the cache, with few calls into numpy,
so that threads hold the interpreter's lock for little of the time.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint16]
"""Little-endian samples of shape (planes, rows, columns)."""

Lines = npt.NDArray[np.uint16]
"""The same in two dimensions: (lines, count)."""

Line = npt.NDArray[np.uint16]
"""The same in one dimension."""

SAMPLE = np.dtype("<u2")
_SIGNED = np.dtype("<i2")
_WORD = np.dtype("<u8")
_BAND_ROWS = 16
SCRATCH_SAMPLES = 256 * 1024
"""What is worked on at a time, so that it stays in a core's cache from step to step."""
_FEW_SUMS = 64
_FEW_COLUMNS = 16
_SMALL_PLANE = 1024
"""Planes of fewer samples are summed by one call: a table may claim millions of them."""
_TO_EACH_SAMPLE = 0x0001_0001_0001_0001
"""Times a sample is a word of four such samples."""


class Predictor(enum.IntEnum):
    """What a pixel is predicted from; outside of the plane stands 0."""

    NONE = 0
    LEFT = 1
    """The pixel to the left."""
    UP = 2
    """The pixel above. Undone four times as fast as LEFT, since numpy adds whole rows."""
    GRADIENT = 3
    """Left + above - above left."""
    PREVIOUS = 4
    """The same pixel of the plane before; the first plane of a block by GRADIENT."""


@dataclass(frozen=True, slots=True)
class PixelRun:
    """Where pixels stand in the original bytes of a batch.

    Attributes:
        offset: bytes from the start of the batch.
        columns, rows, planes: at least 1; two bytes a sample, row by row.
    """

    offset: int
    columns: int
    rows: int
    planes: int

    @property
    def size(self) -> int:
        """Bytes that the run covers."""
        return 2 * self.columns * self.rows * self.planes


@dataclass(frozen=True, slots=True)
class Block:
    """Runs of equal geometry, one after another, under one predictor."""

    runs: tuple[PixelRun, ...]
    predictor: Predictor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(planes, rows, columns) of all runs together."""
        first = self.runs[0]
        return sum(run.planes for run in self.runs), first.rows, first.columns


def blocks_of(runs: Sequence[PixelRun]) -> list[tuple[PixelRun, ...]]:
    """Runs in order, cut where the geometry changes."""
    return [tuple(group) for _, group in groupby(runs, key=lambda run: (run.columns, run.rows))]


class Workspace:
    """Arrays that are used again; for one thread at a time.

    Arrays of megabytes come fresh from the system each time and go back at once,
    and touching fresh memory costs more than the arithmetic done in it.
    """

    def __init__(self) -> None:
        self._samples: Line = np.empty(0, SAMPLE)
        self._scratch: Line = np.empty(0, SAMPLE)
        self._output = bytearray()

    def samples(self, count: int) -> "Line":
        """So many samples, good until the next call."""
        if count > self._samples.size:
            self._samples = np.empty(count, SAMPLE)
        return self._samples[:count]

    def scratch(self, count: int) -> "Line":
        """So many others, good until the next call."""
        if count > self._scratch.size:
            self._scratch = np.empty(count, SAMPLE)
        return self._scratch[:count]

    def output(self, size: int) -> memoryview:
        """`size` bytes to put pieces together in, good until the next call."""
        if size > len(self._output):
            self._output = bytearray(size)
        return memoryview(self._output)[:size]


def gather(original: memoryview, runs: Sequence[PixelRun], block: Pixels) -> None:
    """Copy the pixels of runs of equal geometry out of a batch."""
    first = 0
    for run in runs:
        samples = np.frombuffer(original, SAMPLE, run.size // 2, run.offset)
        block[first : first + run.planes] = samples.reshape(run.planes, run.rows, run.columns)
        first += run.planes


def predict(block: Pixels, scratch: Pixels, predictor: Predictor) -> None:
    """Replace pixels by zigzag residuals, in place; `scratch` has the same shape."""
    if predictor is Predictor.PREVIOUS:
        np.subtract(block[1:], block[:-1], out=scratch[1:])
        block[1:] = scratch[1:]
        _subtract_left(block[:1], scratch[:1])
        _subtract_above(block[:1], scratch[:1])
    if predictor in (Predictor.LEFT, Predictor.GRADIENT):
        _subtract_left(block, scratch)
    if predictor in (Predictor.UP, Predictor.GRADIENT):
        _subtract_above(block, scratch)
    signed, sign = block.view(_SIGNED), scratch.view(_SIGNED)
    np.right_shift(signed, 15, out=sign)
    np.left_shift(block, 1, out=block)
    np.bitwise_xor(block, scratch, out=block)


def _subtract_left(block: Pixels, scratch: Pixels) -> None:
    np.subtract(block[:, :, 1:], block[:, :, :-1], out=scratch[:, :, 1:])
    block[:, :, 1:] = scratch[:, :, 1:]


def _subtract_above(block: Pixels, scratch: Pixels) -> None:
    np.subtract(block[:, 1:], block[:, :-1], out=scratch[:, 1:])
    block[:, 1:] = scratch[:, 1:]


def restore(block: Pixels, scratch: Line, predictor: Predictor) -> None:
    """Replace residuals, their zigzag undone, by pixels, in place.

    Args:
        block: contiguous.
        scratch: of any size.
        predictor: what the residuals were made with.
    """
    if predictor is Predictor.PREVIOUS:
        _sum_rows(block[:1], scratch)
        _sum_columns(block[:1])
        if block[0].size < _SMALL_PLANE:
            np.add.accumulate(block, axis=0, dtype=SAMPLE, out=block)
        else:
            for plane in range(1, len(block)):
                np.add(block[plane], block[plane - 1], out=block[plane])
    if predictor in (Predictor.UP, Predictor.GRADIENT):
        _sum_columns(block)
    if predictor in (Predictor.LEFT, Predictor.GRADIENT):
        _sum_rows(block, scratch)


def _sum_rows(block: Pixels, scratch: Line) -> None:
    """Running sums along each row."""
    columns = block.shape[2]
    lines = block.reshape(-1, columns)
    together = max(1, scratch.size // columns)
    for first in range(0, len(lines), together):
        some = lines[first : first + together]
        _sum_lines(some, scratch)


def _sum_lines(lines: Lines, scratch: Line) -> None:
    """Running sums along each line, in place; contiguous, of shape (lines, count).

    numpy's own has to have one sum before it begins the next. Here the four samples
    of a word are summed by shifting it, which is done to many words at once; then
    each word gets the sum of all words before it, a line of a quarter of the length.
    """
    count = lines.shape[1]
    if count < _FEW_SUMS or lines.size > scratch.size:
        np.add.accumulate(lines, axis=1, dtype=SAMPLE, out=lines)
        return
    if count % 4:
        whole = np.zeros((len(lines), count + -count % 4), SAMPLE)
        whole[:, :count] = lines
        _sum_lines(whole, np.empty(whole.size, SAMPLE))
        lines[:] = whole[:, :count]
        return
    shifted = scratch[: lines.size].reshape(lines.shape)
    words, others = lines.view(_WORD), shifted.view(_WORD)
    for bits in (16, 32):
        np.left_shift(words, bits, out=others)
        np.add(lines, shifted, out=lines)
    before = np.zeros((len(lines), -(-count // 16) * 4), SAMPLE)
    before[:, 1 : count // 4] = lines[:, 3:-1:4]
    _sum_lines(before, np.empty(before.size, SAMPLE))
    others[:] = before[:, : count // 4]
    np.multiply(others, _TO_EACH_SAMPLE, out=others)
    np.add(lines, shifted, out=lines)


def _sum_columns(block: Pixels) -> None:
    """Running sums down each column.

    numpy's own goes down one column at a time. Here bands of rows are summed side
    by side, then each band gets the last row of the one above: long vector
    additions, and few of them.
    """
    planes, rows, columns = block.shape
    if columns < _FEW_COLUMNS:
        np.add.accumulate(block, axis=1, dtype=SAMPLE, out=block)
        return
    bands = rows // _BAND_ROWS
    if bands:
        banded = block[:, : bands * _BAND_ROWS].reshape(planes, bands, _BAND_ROWS, columns)
        for row in range(1, _BAND_ROWS):
            np.add(banded[:, :, row], banded[:, :, row - 1], out=banded[:, :, row])
    if bands > 1:
        above = np.empty((planes, bands - 1, columns), SAMPLE)
        above[:, 0] = banded[:, 0, -1]
        for band in range(1, bands - 1):
            np.add(above[:, band - 1], banded[:, band, -1], out=above[:, band])
        below = banded[:, 1:]
        np.add(below, above[:, :, None, :], out=below)
    for row in range(max(1, bands * _BAND_ROWS), rows):
        np.add(block[:, row], block[:, row - 1], out=block[:, row])


def split_bytes(block: Pixels) -> tuple[bytes, bytes]:
    """The low and the high bytes of all samples."""
    pairs = block.reshape(-1).view(np.uint8)
    return pairs[0::2].tobytes(), pairs[1::2].tobytes()


def join_bytes(low: memoryview, high: memoryview, samples: Line, scratch: Line) -> None:
    """Fill `samples` from their low and high bytes, and undo the zigzag.

    The sign, and the residual but for its upper bits, are in the low byte: that is worked
    on while it is a byte, and the high bytes are looked at where there are any but 0.
    `scratch` has any size but 0; so many samples are made at a time.
    """
    lows, highs = np.frombuffer(low, np.uint8), np.frombuffer(high, np.uint8)
    halves, together = scratch.view(np.uint8), scratch.size
    for first in range(0, samples.size, together):
        some = samples[first : first + together]
        count = some.size
        small, upper = lows[first : first + count], highs[first : first + count]
        sign, rest = halves[:count], halves[together : together + count]
        np.bitwise_and(small, 1, out=sign)
        np.negative(sign, out=sign)
        # numpy is quicker to divide bytes than to shift them.
        np.floor_divide(small, 2, out=rest)
        np.bitwise_xor(sign, rest, out=sign)
        some.view(_SIGNED)[:] = sign.view(np.int8)
        if upper.max():
            other = scratch[:count]
            other[:] = upper
            np.multiply(other, 128, out=other)
            np.bitwise_xor(some, other, out=some)
