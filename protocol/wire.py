"""Frames and strict MessagePack: the only place that turns untrusted bytes into values.

MessagePack alone accepts duplicate keys, overlong integers, extension types and
nesting bombs. What `decode_untrusted` accepts is a subset in which every value
has exactly one encoding, so that accepted bytes re-encode to themselves:
integers, booleans, UTF-8 strings, binary, arrays, and maps whose keys are
strings in strictly ascending order of their UTF-8 bytes; all in shortest form.

A frame is one byte of kind, four bytes of big-endian payload length, and the
payload (docs/protocol.md section 3.1).
"""

import enum
import functools
import re
from dataclasses import dataclass
from typing import Any

import msgpack

from protocol import limits
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode

_UNPACK_ERRORS = (
    ValueError,
    UnicodeDecodeError,
    msgpack.exceptions.UnpackException,
)

_SCALARS = frozenset((int, bool, str, bytes))
_MOST_SCALARS = 32


def pack(value: Any) -> bytes:
    """Encode a value in the strict form; map keys are put in order.

    Raises:
        LocalProtocolError: the value holds a type that the protocol does not have.
    """
    try:
        encoded: bytes = msgpack.packb(_ordered(value), use_bin_type=True, strict_types=True)
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"value cannot be encoded: {error}") from error
    return encoded


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise LocalProtocolError("map keys must be strings")
        return {key: _ordered(value[key]) for key in sorted(value, key=lambda k: k.encode())}
    if isinstance(value, list):
        if _SCALARS.issuperset(map(type, value)):
            return value
        return [_ordered(item) for item in value]
    if value is None or isinstance(value, float):
        raise LocalProtocolError(f"the protocol has no {type(value).__name__}")
    return value


def decode_untrusted(
    data: bytes | bytearray | memoryview,
    *,
    max_items: int = limits.MESSAGE_ITEMS,
    max_depth: int = limits.MESSAGE_DEPTH,
) -> Any:
    """Decode exactly one strict value that fills `data`.

    Structure and counts are checked before anything is allocated, so the cost is
    bounded by the length of `data`.

    Args:
        data: the bytes; bounding their length is up to the caller.
        max_items: most values, map keys included.
        max_depth: deepest nesting of arrays and maps.

    Raises:
        RemoteProtocolError: anything else than one strict value.
    """
    encoded = bytes(data)
    try:
        _check_structure(encoded, max_items, max_depth)
    except IndexError:
        raise RemoteProtocolError("message ends in the middle of a value") from None
    try:
        return msgpack.unpackb(encoded, raw=False, strict_map_key=True)
    except _UNPACK_ERRORS:
        raise RemoteProtocolError("message is not strict MessagePack") from None


def _check_structure(data: bytes, max_items: int, max_depth: int) -> None:
    """Walk the headers: types, shortest forms, depth, counts, key order, exact length.

    An index beyond the end raises IndexError, which the caller translates; a
    payload length beyond the end is refused here.
    """
    length = len(data)
    position = 0
    items = 0
    # One entry per open array or map: [values left, is map, previous key].
    open_containers: list[list[Any]] = []
    while True:
        items += 1
        if items > max_items:
            raise RemoteProtocolError("message holds too many values", WireCode.TOO_LARGE)
        head = data[position]
        position += 1
        payload = 0
        count = -1
        is_map = False
        is_string = False
        if head < 0x80 or head >= 0xE0 or head in (0xC2, 0xC3):
            pass
        elif head < 0x90:
            count, is_map = head & 0x0F, True
        elif head < 0xA0:
            count = head & 0x0F
        elif head < 0xC0:
            payload, is_string = head & 0x1F, True
        elif head in _SIZED:
            width, smallest, shape = _SIZED[head]
            value = int.from_bytes(data[position : position + width], "big")
            if position + width > length:
                raise RemoteProtocolError("message ends in the middle of a value")
            position += width
            if shape == "signed":
                value -= (value >> (8 * width - 1)) << (8 * width)
                if value > smallest:
                    raise RemoteProtocolError("integer is not in its shortest form")
            elif value < smallest:
                raise RemoteProtocolError("value is not in its shortest form")
            elif shape == "string":
                payload, is_string = value, True
            elif shape == "binary":
                payload = value
            elif shape in ("array", "map"):
                count, is_map = value, shape == "map"
        else:
            raise RemoteProtocolError("message holds a type that the protocol does not have")

        if payload > length - position:
            raise RemoteProtocolError("message ends in the middle of a value")
        if open_containers:
            container = open_containers[-1]
            if container[1] and container[0] % 2 == 0:
                if not is_string:
                    raise RemoteProtocolError("a map key is not a string")
                key = data[position : position + payload]
                if container[2] is not None and key <= container[2]:
                    raise RemoteProtocolError("map keys are not in ascending order")
                container[2] = key
            container[0] -= 1
        position += payload
        if count >= 0:
            left = 2 * count if is_map else count
            if left > length - position:
                raise RemoteProtocolError("message ends in the middle of a value")
            if left:
                if len(open_containers) >= max_depth:
                    raise RemoteProtocolError("message is nested too deep", WireCode.TOO_LARGE)
                plain = None
                if count <= _MOST_SCALARS and not is_map and items + count <= max_items:
                    plain = _scalars(count).match(data, position)
                if plain is None:
                    open_containers.append([left, is_map, None])
                else:
                    items += count
                    position = plain.end()
        while open_containers and open_containers[-1][0] == 0:
            open_containers.pop()
        if not open_containers:
            break
    if position != length:
        raise RemoteProtocolError("bytes follow the message")


@functools.cache
def _scalars(count: int) -> re.Pattern[bytes]:
    """Matches that many common scalars in strict form, one after another.

    The rows of a manifest are such: this looks at one at a sixth of the cost of
    walking its values.
    """
    texts = b"|".join(b"%b.{%d}" % (re.escape(bytes((0xA0 + size,))), size) for size in range(32))
    # The longest common one is a UID; in binary it is a digest.
    long = b"|".join(b"%b.{%d}" % (re.escape(bytes((size,))), size) for size in range(32, 65))
    scalar = (
        rb"[\x00-\x7f\xc2\xc3\xe0-\xff]|\xcc[\x80-\xff]|\xcd[^\x00].|\xce(?!\x00\x00).{4}"
        rb"|\xc4\x20.{32}|\xd9(?:" + long + rb")|" + texts
    )
    return re.compile(rb"(?:%b){%d}+" % (scalar, count), re.DOTALL)


# head: (bytes of the size or integer, smallest value this form may carry, shape);
# for signed integers the "smallest" is the largest, since they are negative.
_SIZED = {
    0xC4: (1, 0, "binary"),
    0xC5: (2, 0x100, "binary"),
    0xC6: (4, 0x1_0000, "binary"),
    0xCC: (1, 0x80, "unsigned"),
    0xCD: (2, 0x100, "unsigned"),
    0xCE: (4, 0x1_0000, "unsigned"),
    0xCF: (8, 0x1_0000_0000, "unsigned"),
    0xD0: (1, -0x21, "signed"),
    0xD1: (2, -0x81, "signed"),
    0xD2: (4, -0x8001, "signed"),
    0xD3: (8, -0x8000_0001, "signed"),
    0xD9: (1, 0x20, "string"),
    0xDA: (2, 0x100, "string"),
    0xDB: (4, 0x1_0000, "string"),
    0xDC: (2, 0x10, "array"),
    0xDD: (4, 0x1_0000, "array"),
    0xDE: (2, 0x10, "map"),
    0xDF: (4, 0x1_0000, "map"),
}


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
    """The five bytes in front of a payload of `payload_bytes`."""
    return bytes((kind,)) + payload_bytes.to_bytes(4, "big")


class FrameReader:
    """Cuts a byte stream into frames; never holds more than one unfinished frame.

    Attributes:
        max_data_bytes: most bytes of a DATA payload now; 0 refuses them. The
            owner sets it as its state allows.
    """

    def __init__(self) -> None:
        self.max_data_bytes = 0
        self._header = bytearray()
        self._payload: bytearray | None = None
        self._filled = 0

    @property
    def in_frame(self) -> bool:
        """Whether the stream stands in the middle of a frame."""
        return bool(self._header)

    def receive_untrusted(self, data: bytes | memoryview) -> tuple[Frame | None, int]:
        """Take bytes up to the end of one frame.

        Returns:
            The frame if it is complete, and how many bytes of `data` were used.
            Call again with the rest while it returns a frame.

        Raises:
            RemoteProtocolError: unknown kind, or a length over what is allowed now.
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
            allowed = limits.MESSAGE_BYTES
        elif kind == FrameKind.DATA:
            allowed = self.max_data_bytes
        else:
            raise RemoteProtocolError(f"frame kind {kind} is unknown")
        if payload_bytes > allowed:
            raise RemoteProtocolError(
                f"frame of {payload_bytes} bytes where {allowed} are allowed", WireCode.TOO_LARGE
            )
        return payload_bytes
