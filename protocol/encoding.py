"""Encoded batches: how original bytes are compressed, at rest and on the wire.

An encoded batch is `"RMB" || encoding (u8) || original size (u32, big-endian) ||
payload` (docs/protocol.md section 5.2). A batch is encoded once, when a study
comes in, and is stored, sent and digested in that form.

This file owns the format and its one decoder. Which bytes make a batch is for
`protocol.batches`; digests are for `protocol.manifest`; what is done to pixels is
in `protocol.pixels`.
"""

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol import limits
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.zstd import LEVEL, compress, decompress_untrusted

if TYPE_CHECKING:
    from protocol.pixels import PixelRun, Workspace

MAGIC = b"RMB"

_PROBE_BYTES = 1024
_LEAST_SAVING = 50
"""Compression must save at least 1/50 of the bytes, or the batch stays raw: JPEG
fragments do not shrink, and raw ones cost the reader nothing."""


class Encoding(enum.IntEnum):
    """Fourth byte of an encoded batch."""

    RAW = 0
    """The payload is the original bytes."""
    ZSTD = 1
    """The payload is one Zstandard frame (RFC 8878) that states its content size."""
    PIXELS = 2
    """Pixels apart from the rest, predicted and laid in byte planes."""


def encode(
    original: bytes | bytearray | memoryview,
    encoding: Encoding | None = None,
    *,
    runs: Sequence["PixelRun"] = (),
    workspace: "Workspace | None" = None,
) -> bytes:
    """Encode the original bytes of one batch.

    Args:
        original: at most `limits.BATCH_BYTES` bytes.
        encoding: None compresses and falls back to raw where that saves under 2 %;
            RAW and ZSTD can be asked for.
        runs: where native 16-bit pixels stand, ascending and apart; they are
            predicted where that helps.
        workspace: of the caller, to be quicker with many batches.

    Raises:
        LocalProtocolError: more bytes than a batch may hold.
    """
    size = len(original)
    if size > limits.BATCH_BYTES:
        raise LocalProtocolError(f"a batch of {size} bytes where {limits.BATCH_BYTES} are allowed")
    if encoding is None and runs:
        # Here, since numpy is slow to load.
        from protocol.pixel_batches import encode_pixels
        from protocol.pixels import Workspace

        payload = encode_pixels(memoryview(original), runs, workspace or Workspace())
        if payload is not None and _saves(len(payload), size):
            if _seem_equal(memoryview(original), runs):
                # Zstandard finds an image that comes again; prediction hides it.
                compressed = compress(original, LEVEL)
                if len(compressed) < len(payload):
                    return _header(Encoding.ZSTD, size) + compressed
            return _header(Encoding.PIXELS, size) + payload
    if encoding is not Encoding.RAW:
        compressed = compress(original, LEVEL)
        if encoding is Encoding.ZSTD or _saves(len(compressed), size):
            return _header(Encoding.ZSTD, size) + compressed
    return b"".join((_header(Encoding.RAW, size), original))


def _saves(encoded: int, original: int) -> bool:
    return encoded * _LEAST_SAVING <= original * (_LEAST_SAVING - 1)


def _seem_equal(original: memoryview, runs: Sequence["PixelRun"]) -> bool:
    """Whether two runs have the same bytes in their middle, and more than one value there."""
    seen = set()
    for run in runs:
        middle = run.offset + run.size // 2
        piece = bytes(original[middle : min(middle + _PROBE_BYTES, run.offset + run.size)])
        if piece in seen and len(set(piece)) > 2:
            return True
        seen.add(piece)
    return False


def _header(encoding: Encoding, original_bytes: int) -> bytes:
    return MAGIC + bytes((encoding,)) + original_bytes.to_bytes(4, "big")


def encoding_of(encoded: bytes | bytearray | memoryview) -> Encoding:
    """Which encoding an encoded batch says it has.

    Raises:
        RemoteProtocolError: not an encoded batch, or an encoding we do not know.
    """
    return _read_header(encoded)[0]


def _read_header(encoded: bytes | bytearray | memoryview) -> tuple[Encoding, int]:
    header = bytes(encoded[: limits.BATCH_HEADER_BYTES])
    if len(header) < limits.BATCH_HEADER_BYTES or not header.startswith(MAGIC):
        raise RemoteProtocolError("not an encoded batch")
    try:
        encoding = Encoding(header[3])
    except ValueError:
        raise RemoteProtocolError(f"batch encoding {header[3]} is unknown") from None
    return encoding, int.from_bytes(header[4:], "big")


def decode_untrusted(
    encoded: bytes | bytearray | memoryview, max_original_bytes: int = limits.BATCH_BYTES
) -> bytes:
    """Decode an encoded batch.

    Nothing is allocated before the declared size has been checked; the memory taken
    is bounded by a small multiple of it.

    Args:
        encoded: the whole batch.
        max_original_bytes: largest original size that is taken.

    Returns:
        Exactly as many bytes as the batch declares.

    Raises:
        RemoteProtocolError: not an encoded batch, a size over the limit, or a payload
            that does not decode to exactly the declared size.
    """
    return b"".join(decode_pieces_untrusted(encoded, None, max_original_bytes))


def decode_in_place_untrusted(
    encoded: bytes | bytearray | memoryview,
    workspace: "Workspace",
    max_original_bytes: int = limits.BATCH_BYTES,
) -> memoryview:
    """As `decode_untrusted`, for many batches one after another.

    Returns:
        The original bytes, good until the workspace is used again.
    """
    pieces = decode_pieces_untrusted(encoded, workspace, max_original_bytes)
    if len(pieces) == 1:
        return pieces[0]
    whole = workspace.output(sum(map(len, pieces)))
    position = 0
    for piece in pieces:
        whole[position : position + len(piece)] = piece
        position += len(piece)
    return whole


def decode_pieces_untrusted(
    encoded: bytes | bytearray | memoryview,
    workspace: "Workspace | None",
    max_original_bytes: int = limits.BATCH_BYTES,
) -> list[memoryview]:
    """As `decode_untrusted`, without putting headers and pixels together again.

    Returns:
        The original bytes, cut somewhere, in order; good until the workspace is used
        again.
    """
    encoding, size = _read_header(encoded)
    if size > max_original_bytes:
        raise RemoteProtocolError(
            f"a batch of {size} bytes where {max_original_bytes} are allowed", WireCode.TOO_LARGE
        )
    payload = memoryview(encoded)[limits.BATCH_HEADER_BYTES :]
    if encoding is Encoding.PIXELS:
        # Here, since numpy is slow to load.
        from protocol.pixel_batches import decode_pixels_untrusted
        from protocol.pixels import Workspace

        return decode_pixels_untrusted(payload, size, workspace or Workspace())
    if encoding is Encoding.ZSTD:
        payload = memoryview(decompress_untrusted(payload, size))
    if len(payload) != size:
        raise RemoteProtocolError("a batch is not of its declared size")
    return [payload]
