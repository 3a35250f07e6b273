"""Zstandard frames (RFC 8878), written and read strictly.

The only place that calls the library.
"""

import zstandard

from protocol.errors import RemoteProtocolError

LEVEL = 3
"""What is compressed for the store and the wire, unless its kind says otherwise."""

_MAGIC = b"\x28\xb5\x2f\xfd"


def compress(data: bytes | bytearray | memoryview, level: int) -> bytes:
    """One Zstandard frame that states its content size."""
    # One compressor a call: it is not thread-safe, and 4 MiB outweigh its making.
    return zstandard.ZstdCompressor(
        level=level, write_content_size=True, write_checksum=False
    ).compress(data)


def decompress_untrusted(payload: memoryview, size: int) -> bytes:
    """The content of one Zstandard frame, which must state that it has `size` bytes.

    Raises:
        RemoteProtocolError: it is no such frame.
    """
    # Skippable frames carry other magic numbers; they would be hidden payload.
    if bytes(payload[:4]) != _MAGIC:
        raise RemoteProtocolError("a batch is not a Zstandard frame")
    try:
        frame = zstandard.get_frame_parameters(payload)
        if frame.content_size != size:
            raise RemoteProtocolError("a batch does not state its declared size")
        if frame.dict_id != 0:
            raise RemoteProtocolError("a batch asks for a dictionary")
        # A frame may ask for a window beside its output. No encoder needs one larger
        # than the content, rounded up to a power of two; 1 KiB is the smallest there
        # is (RFC 8878 section 3.1.1.1.2).
        if frame.window_size > max(1024, 2 * size):
            raise RemoteProtocolError("a batch asks for a window larger than its content")
        return zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError, MemoryError):
        raise RemoteProtocolError("a batch cannot be decompressed") from None
