"""Native pixels as an 8-bit PNG for people to look at, not to report from (PS3.18 section 8.7.4).

Grey pixels go through rescale and window (PS3.3 section C.11.2), colour ones are taken as they are.
Pixels that are compressed are not decoded here.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.dicom.frames import FRAME_GROUPS, SHARED_GROUPS, Image, NoFrames

MAX_PIXELS = 64 * 1024 * 1024
"""Most numbers (pixels times samples) of a frame that is rendered."""

_STRIP_ROWS = 256
"""Rows that become shades together: floating-point numbers take four times as much memory."""

_PHOTOMETRIC, _PLANAR = 0x00280004, 0x00280006
_STORED, _SIGNED = 0x00280101, 0x00280103
_CENTER, _WIDTH, _FUNCTION = 0x00281050, 0x00281051, 0x00281056
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053

Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Window:
    """Which values become which shades: centre, width, and `linear`, `linear-exact`, `sigmoid`."""

    center: float
    width: float
    function: str = "linear"


def render(image: Image, index: int, window: Window | None, most: tuple[int, int] | None) -> bytes:
    """A frame as a PNG file.

    Args:
        image: a native image.
        index: its frame, from 0.
        window: in place of its own.
        most: columns and rows into which it must fit; it is made smaller, not larger.

    Raises:
        NoFrames: it cannot be shown; the text says why.
    """
    if window is not None and index > 0 and _is_rescaled_by_frame(image):
        raise NoFrames("each of its frames has a rescale of its own, so the window has no meaning")
    if image.native is None:
        raise NoFrames("its pixels are compressed, and are not decoded here")
    if image.rows * image.columns * image.samples > MAX_PIXELS:
        raise NoFrames("it is too large")
    photometric = _text(image, _PHOTOMETRIC)
    pixels = _pixels(image, index)
    if photometric in ("MONOCHROME1", "MONOCHROME2", ""):
        shades = _shades(image, index, pixels[:, :, 0], window)
        if photometric == "MONOCHROME1":
            shades = 255 - shades
        return _png(_smaller(shades[:, :, None], most))
    if photometric == "RGB" and image.samples == 3 and image.bits == 8:
        return _png(_smaller(_stored(image, pixels).astype(np.uint8), most))
    raise NoFrames(f"its colours ({photometric[:16]}) are not shown here")


def _pixels(image: Image, index: int) -> NDArray[Any]:
    """The numbers of a frame, as rows, columns, samples."""
    data = image.frame(index)
    shape = (image.rows, image.columns, image.samples)
    if image.bits == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[: math.prod(shape)].reshape(shape)
    if image.vr in ("OF", "OD"):
        kind = f"<f{image.bits // 8}"
    else:
        kind = f"<{'i' if image.number(_SIGNED) else 'u'}{image.bits // 8}"
    flat = np.frombuffer(data, kind)
    if image.samples > 1 and image.number(_PLANAR):
        return np.moveaxis(flat.reshape(image.samples, image.rows, image.columns), 0, 2)
    return flat.reshape(shape)


def _stored(image: Image, numbers: NDArray[Any]) -> NDArray[Any]:
    """Numbers without the bits that are not theirs."""
    stored = image.number(_STORED, image.bits)
    if not 0 < stored < image.bits or numbers.dtype.kind == "f" or image.bits == 1:
        return numbers
    # Bits beyond those stored may hold overlays (PS3.5 section 8.1.2).
    shift = image.bits - stored
    return (numbers << shift) >> shift


def _shades(image: Image, index: int, numbers: NDArray[Any], window: Window | None) -> Grey:
    if image.bits == 1:
        return np.asarray(numbers * 255, np.uint8)
    slope = _real(image, _SLOPE, index) or 1.0
    intercept = _real(image, _INTERCEPT, index) or 0.0

    def values(start: int) -> NDArray[np.float32]:
        stored = _stored(image, numbers[start : start + _STRIP_ROWS])
        found = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        return np.asarray(np.nan_to_num(found, copy=False, nan=0.0, posinf=0.0, neginf=0.0))

    strips = range(0, len(numbers), _STRIP_ROWS)
    chosen = window or _own_window(image, index)
    if chosen is None:
        ends = [(float(strip.min()), float(strip.max())) for strip in map(values, strips)]
        low, high = min(one for one, _ in ends), max(one for _, one in ends)
        chosen = Window((low + high) / 2, max(high - low, 1e-6), "linear-exact")
    shades = np.empty(numbers.shape, np.uint8)
    for start in strips:
        shades[start : start + _STRIP_ROWS] = _windowed(values(start), chosen)
    return shades


def _windowed(values: NDArray[np.float32], window: Window) -> Grey:
    center, width = window.center, max(window.width, 1e-6)
    if window.function == "sigmoid":
        power = np.clip(-4 * (values - center) / width, -80, 80)
        part = 1 / (1 + np.exp(power))
    elif window.function == "linear-exact" or width <= 1:
        part = (values - center) / width + 0.5
    else:
        part = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.asarray(np.clip(part, 0, 1) * 255 + 0.5, dtype=np.uint8)


def _is_rescaled_by_frame(image: Image) -> bool:
    """Whether frames may have a rescale each: that of the first alone is kept (see `Image`)."""
    return image.data.find(FRAME_GROUPS) is not None and _real(image, _SLOPE, 1) is None


def _own_window(image: Image, index: int) -> Window | None:
    if index > 0 and _is_rescaled_by_frame(image):
        # A window is in values after the rescale.
        return None
    center, width = _real(image, _CENTER, index), _real(image, _WIDTH, index)
    if center is None or width is None or width <= 0:
        return None
    function = _text(image, _FUNCTION, index).lower().replace("_", "-")
    return Window(center, width, function if function in ("sigmoid", "linear-exact") else "linear")


def _real(image: Image, tag: int, index: int) -> float | None:
    """The first decimal number of the top level, of what all frames share, or of the frame."""
    text = _text(image, tag, index)
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(image: Image, tag: int, index: int = 0) -> str:
    data = image.data
    found = data.find(tag)
    if found is None:
        found = next(
            (
                one
                for group in ((SHARED_GROUPS,) if index else (SHARED_GROUPS, FRAME_GROUPS))
                if (shared := data.find(group)) is not None
                for part in (shared.items or [[]])[0]
                for item in (part.items or [])[:1]
                for one in item
                if one.tag == tag
            ),
            None,
        )
    if found is None or found.length > 1024:
        return ""
    return data.value(found).split(b"\\")[0].decode("latin-1").strip(" \0")


def _smaller(pixels: Grey, most: tuple[int, int] | None) -> Grey:
    """The pixels, averaged into a box of at most so many columns and rows."""
    rows, columns = pixels.shape[:2]
    if most is None or (columns <= most[0] and rows <= most[1]):
        return pixels
    factor = min(most[0] / columns, most[1] / rows)
    high, wide = max(1, round(rows * factor)), max(1, round(columns * factor))
    lines = np.linspace(0, rows, high + 1).astype(int)
    posts = np.linspace(0, columns, wide + 1).astype(int)
    sums = np.add.reduceat(pixels, lines[:-1], axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, posts[:-1], axis=1)
    counts = np.outer(np.diff(lines), np.diff(posts))[:, :, None]
    return np.asarray(sums // counts, np.uint8)


def _png(pixels: Grey) -> bytes:
    """A PNG file (RFC 2083) of shades or of red, green and blue."""
    rows, columns, samples = pixels.shape
    head = struct.pack(">LLBBBBB", columns, rows, 8, 2 if samples == 3 else 0, 0, 0, 0)
    lines = np.zeros((rows, 1 + columns * samples), np.uint8)
    lines[:, 1:] = pixels.reshape(rows, columns * samples)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", head),
            (b"IDAT", zlib.compress(lines.tobytes(), 4)),
            (b"IEND", b""),
        )
    )
