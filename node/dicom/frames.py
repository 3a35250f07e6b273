"""Where the frames of an image are, straight from its original; nothing is decoded.

Native pixels are cut by the size of a frame, encapsulated ones by their offset table, or where a
fragment plainly begins a frame (PS3.5 annex A.4).
"""

import struct
from dataclasses import dataclass, replace

from node.dicom.data_sets import DataSet, read_data_set
from node.dicom.elements import PIXEL_DATA, BadInstance, Read
from node.dicom.json_model import little_endian

EXPLICIT = "1.2.840.10008.1.2.1"
"""What frames of native pixels are given as (PS3.18 section 8.7.3): little endian."""

GE_PRIVATE = "1.2.840.113619.5.2"
"""Implicit little endian with pixels that are big endian: of no use to anyone who does not know."""

RLE = "1.2.840.10008.1.2.5"
_ROWS, _COLUMNS, _FRAMES = 0x00280010, 0x00280011, 0x00280008
_SAMPLES, _BITS = 0x00280002, 0x00280100
_OFFSETS = 0x7FE00001
_FLOATS = {0x7FE00008: 32, 0x7FE00009: 64}
_STARTS = (b"\xff\xd8", b"\xff\x4f")
"""How a frame of JPEG, JPEG-LS or JPEG 2000 begins."""

_MOST_FRAMES = 1_000_000

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Largest frame that is given by itself: it is held in memory."""

SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
"""What describes all frames of an enhanced object, and each of them."""


class NoFrames(Exception):
    """There are no frames, or where they begin cannot be told; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image and the places of its pixels.

    Attributes:
        data: its data set.
        transfer_syntax: of its frames as they are given.
        rows, columns, samples, bits: of one frame.
        frames: how many there are.
        native: place (offset, length) of native pixels; None if they are encapsulated.
        vr: value representation of native pixels.
        fragments: of encapsulated pixels, for each frame its fragments (offset, length).
    """

    data: DataSet
    transfer_syntax: str
    rows: int
    columns: int
    samples: int
    bits: int
    frames: int
    native: tuple[int, int] | None
    vr: str
    fragments: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame."""
        return self.rows * self.columns * self.samples * self.bits

    def number(self, tag: int, default: int = 0) -> int:
        """A number (`US`, `SS`, `IS`) of the top level; the default where there is none."""
        return _number(self.data, tag, default)

    def frame(self, index: int) -> bytes:
        """The bytes of a frame, from 0: native ones little endian, others as they are.

        Raises:
            NoFrames: there is no such frame, or it is cut.
        """
        if not 0 <= index < self.frames:
            raise NoFrames(f"it has {self.frames} frames")
        is_large = self.native is not None and self.frame_bits > 8 * MAX_FRAME_BYTES
        if self.native is None:
            is_large = sum(length for _, length in self.fragments[index]) > MAX_FRAME_BYTES
        if is_large:
            raise NoFrames("its frames are too large to be given one by one")
        if self.native is None:
            return b"".join(self.data.read(*place) for place in self.fragments[index])
        start, length = self.native
        first, last = index * self.frame_bits, (index + 1) * self.frame_bits
        begin, end = first // 8, -(-last // 8)
        if end > length:
            raise NoFrames("its pixels are fewer than it says")
        if self.data.is_big_endian and self.bits == 8 and self.vr == "OW":
            # Two pixels are one word: take whole words.
            begin, end = begin - begin % 2, min(length, end + end % 2)
            words = little_endian(self.data, "OW", self.data.read(start + begin, end - begin))
            return words[first // 8 - begin : last // 8 - begin]
        found = self.data.read(start + begin, end - begin)
        if first % 8 or last % 8:
            return _shifted(found, first % 8, self.frame_bits)
        return little_endian(self.data, "OV" if self.bits == 64 else self._word, found)

    @property
    def _word(self) -> str:
        return {8: "OB", 1: "OB", 32: "OL"}.get(self.bits, "OW")


def _shifted(data: bytes, skipped: int, count: int) -> bytes:
    """`count` bits of packed pixels, the first in the lowest bit, without the `skipped` first."""
    bits = int.from_bytes(data, "little") >> skipped & ((1 << count) - 1)
    return bits.to_bytes(-(-count // 8), "little")


def read_image(read: Read, size: int) -> Image:
    """The image in a file.

    Raises:
        NoFrames: it has no pixels, or where its frames are cannot be told.
        BadInstance: it cannot be read.
    """
    data = read_data_set(read, size)
    if data.transfer_syntax == GE_PRIVATE:
        raise NoFrames("its pixels are in a private byte order")
    rows, columns = _number(data, _ROWS), _number(data, _COLUMNS)
    pixels = data.find(PIXEL_DATA)
    bits = _number(data, _BITS)
    for tag, width in _FLOATS.items():
        if pixels is None and (pixels := data.find(tag)) is not None:
            bits = width
    if pixels is None or not (rows and columns):
        raise NoFrames("it has no pixels")
    samples = _number(data, _SAMPLES, 1) or 1
    frames = min(max(1, _number(data, _FRAMES, 1)), _MOST_FRAMES)
    native, syntax = (pixels.at, pixels.length), EXPLICIT
    fragments: tuple[tuple[tuple[int, int], ...], ...] = ()
    if pixels.fragments is not None:
        fragments = _frames_of(data, pixels.fragments, frames)
        syntax = data.transfer_syntax
    elif bits not in (1, 8, 16, 32, 64):
        raise NoFrames(f"its pixels have {bits} bits")
    return Image(
        data=_trimmed(data),
        transfer_syntax=syntax,
        rows=rows,
        columns=columns,
        samples=samples,
        bits=bits,
        frames=len(fragments) if fragments else frames,
        native=None if fragments else native,
        vr=pixels.vr,
        fragments=fragments,
    )


def _trimmed(data: DataSet) -> DataSet:
    """A data set without what describes thousands of frames, to be kept for the next request."""
    kept = []
    for one in data.elements:
        most = 1 if one.tag in (SHARED_GROUPS, FRAME_GROUPS) else 0
        kept.append(one if one.items is None else replace(one, items=one.items[:most]))
    return DataSet(data.read, data.transfer_syntax, kept)


def _frames_of(
    data: DataSet, fragments: list[tuple[int, int]], frames: int
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The fragments of each frame."""
    if not fragments or len(fragments) == 1:
        raise NoFrames("it has no pixels")
    table, rest = data.read(*fragments[0]), fragments[1:]
    if frames == 1:
        return (tuple(rest),)
    if len(rest) == frames:
        return tuple((one,) for one in rest)
    starts = _starts(data, table)
    # Offsets count from the first item after the table; an item has a tag and a length.
    places = [at - 8 - (rest[0][0] - 8) for at, _ in rest]
    if not starts:
        starts = [
            place
            for place, one in zip(places, rest, strict=True)
            if data.read(one[0], 2) in _STARTS
        ]
    if len(starts) != frames or starts != sorted(set(starts)) or not set(starts) <= set(places):
        raise NoFrames("where its frames begin cannot be told")
    found: list[list[tuple[int, int]]] = []
    beginnings = set(starts)
    for place, one in zip(places, rest, strict=True):
        if place in beginnings:
            found.append([])
        if found:
            found[-1].append(one)
    return tuple(tuple(each) for each in found)


def _starts(data: DataSet, table: bytes) -> list[int]:
    extended = data.find(_OFFSETS)
    if extended is not None:
        value = data.value(extended)
        return list(struct.unpack(f"<{len(value) // 8}Q", value[: len(value) // 8 * 8]))
    return list(struct.unpack(f"<{len(table) // 4}L", table[: len(table) // 4 * 4]))


def _number(data: DataSet, tag: int, default: int = 0) -> int:
    one = data.find(tag)
    if one is None or not one.length or one.length > 64:
        return default
    value = data.value(one)
    if one.vr in ("US", "SS"):
        order: str = "big" if data.is_big_endian else "little"
        return int.from_bytes(value[:2], order, signed=one.vr == "SS")  # type: ignore[arg-type]
    try:
        return int(float(value.split(b"\\")[0].strip(b" \0").decode("ascii")))
    except (ValueError, OverflowError):
        return default


__all__ = ["EXPLICIT", "RLE", "BadInstance", "Image", "NoFrames", "read_image"]
