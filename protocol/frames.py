"""Frames: how a stream is cut into payloads, before their content is read.

A frame is one byte of kind, four bytes of big-endian payload length, and the
payload (docs/protocol.md section 3.1).
"""

import enum
from dataclasses import dataclass

from protocol import limits
from protocol.errors import RemoteProtocolError, WireCode


class FrameKind(enum.IntEnum):
    """First byte of a frame."""

    MESSAGE = 1
    """Payload is one strict MessagePack map."""
    DATA = 2
    """Payload is a big-endian u32 index and sealed bytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received; `payload` is not yet checked."""

    kind: FrameKind
    payload: bytearray


def frame_header(kind: FrameKind, payload_bytes: int) -> bytes:
    """The five bytes before a payload of `payload_bytes`."""
    return bytes((kind,)) + payload_bytes.to_bytes(4, "big")


class FrameReader:
    """Cuts a byte stream into frames; never holds more than one unfinished frame.

    Attributes:
        max_data_bytes: most bytes of a DATA payload now; 0 refuses DATA frames. The
            owner sets it according to its state.
        max_message_bytes: most bytes of a MESSAGE payload now.
    """

    def __init__(self) -> None:
        self.max_data_bytes = 0
        self.max_message_bytes = limits.MESSAGE_BYTES
        self._header = bytearray()
        self._payload: bytearray | None = None
        self._filled = 0

    @property
    def in_frame(self) -> bool:
        """Whether the stream is in the middle of a frame."""
        return bool(self._header)

    def receive_untrusted(self, data: bytes | memoryview) -> tuple[Frame | None, int]:
        """Take bytes up to the end of one frame.

        Returns:
            The frame if it is complete, and how many bytes of `data` were used.
            Call again with the rest while it returns a frame.

        Raises:
            RemoteProtocolError: unknown kind, or a length over the current limit.
        """
        used = 0
        if len(self._header) < limits.FRAME_HEADER_BYTES:
            used = min(limits.FRAME_HEADER_BYTES - len(self._header), len(data))
            self._header += data[:used]
            if len(self._header) < limits.FRAME_HEADER_BYTES:
                return None, used
            self._payload = bytearray(self._checked_length())
            self._filled = 0
        payload = self._payload
        assert payload is not None
        step = min(len(payload) - self._filled, len(data) - used)
        payload[self._filled : self._filled + step] = data[used : used + step]
        self._filled += step
        used += step
        if self._filled < len(payload):
            return None, used
        frame = Frame(FrameKind(self._header[0]), payload)
        self._header = bytearray()
        self._payload = None
        return frame, used

    def _checked_length(self) -> int:
        kind = self._header[0]
        payload_bytes = int.from_bytes(self._header[1:5], "big")
        if kind == FrameKind.MESSAGE:
            allowed = self.max_message_bytes
        elif kind == FrameKind.DATA:
            allowed = self.max_data_bytes
        else:
            raise RemoteProtocolError(f"frame kind {kind} is unknown")
        if payload_bytes > allowed:
            raise RemoteProtocolError(
                f"frame of {payload_bytes} bytes where {allowed} are allowed", WireCode.TOO_LARGE
            )
        return payload_bytes
