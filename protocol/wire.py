"""Strict MessagePack: the only place that turns untrusted bytes into values.

MessagePack alone accepts duplicate keys, overlong integers, extension types and
nesting bombs. `decode_untrusted` accepts a subset in which every value has exactly
one encoding, so that accepted bytes re-encode to themselves:
integers, booleans, UTF-8 strings, binary, arrays, and maps whose keys are
strings in strictly ascending order of their UTF-8 bytes; all in shortest form.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

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
    """Encode a value in the strict form; sorts map keys.

    Raises:
        LocalProtocolError: the value holds a type that is not in the protocol.
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


def pack_array(rows: Iterable[Any], count: int) -> Iterator[bytes]:
    """Like `pack(list(rows))`, in pieces of at most `limits.DECODE_STEP_ROWS` values.

    One call for millions of values would block every other thread for seconds.
    """
    yield _array_header(count)
    iterator = iter(rows)
    while some := list(itertools.islice(iterator, limits.DECODE_STEP_ROWS)):
        yield pack(some)[len(_array_header(len(some))) :]


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
        data: the bytes; the caller limits their length.
        max_items: most values, map keys included.
        max_depth: deepest nesting of arrays and maps.

    Raises:
        RemoteProtocolError: `data` is not exactly one strict value.
    """
    reader = Reader(data, max_items=max_items, max_depth=max_depth)
    value = reader.value()
    reader.end()
    return value


def map_untrusted(data: bytes | bytearray | memoryview) -> "Fields":
    """Check exactly one strict map that fills `data`; its values are built on access.

    Raises:
        RemoteProtocolError: `data` is not such a map, or holds more than a message may.
    """
    reader = Reader(data)
    fields = reader.fields()
    reader.end()
    return fields


class Fields:
    """The values of one checked map, by name. A value is built only on access."""

    def __init__(self, data: bytes, spans: dict[str, tuple[int, int]]) -> None:
        self._data = data
        self._spans = spans

    def __contains__(self, name: str) -> bool:
        return name in self._spans

    def __getitem__(self, name: str) -> Any:
        start, end = self._spans[name]
        return _build(self._data[start:end])

    def get(self, name: str) -> Any:
        """The value, or None if it is absent."""
        return self[name] if name in self._spans else None

    def maps(self, name: str) -> list["Fields"]:
        """A value that must be a list of maps.

        Raises:
            RemoteProtocolError: it is something else.
        """
        start, end = self._spans[name]
        reader = Reader(self._data[start:end])
        return [reader.fields() for _ in range(reader.array())]


class Reader:
    """Reads one strict value, builds the requested parts, and skips the rest.

    Everything read or skipped is checked. Each call except `array` and `entries` consumes
    one value.

    Args:
        data: the bytes; the caller limits their length.
        max_items: most values, including map keys but not the rows that `rows` yields.
        max_depth: deepest nesting of arrays and maps.
    """

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        *,
        max_items: int = limits.MESSAGE_ITEMS,
        max_depth: int = limits.MESSAGE_DEPTH,
    ) -> None:
        self._data = bytes(data)
        self._position = 0
        self._left = max_items
        self._max_depth = max_depth

    def value(self) -> Any:
        """Build one value.

        Raises:
            RemoteProtocolError: it is not strict, has too many values or is too deep.
        """
        start, end = self.skip()
        return _build(self._data[start:end])

    def skip(self) -> tuple[int, int]:
        """Skip one value without building it; returns where it begins and ends.

        Raises:
            RemoteProtocolError: as in `value`.
        """
        start = self._position
        self._position, items = _walk(self._data, start, self._left, self._max_depth)
        self._left -= items
        return start, self._position

    def array(self) -> int:
        """Enter an array; returns how many values follow.

        Raises:
            RemoteProtocolError: it is not an array, or claims more values than there are bytes.
        """
        return self._container(_ARRAYS)

    def entries(self) -> Iterator[str]:
        """Enter a map; yields each key, after which the caller reads or skips its value.

        Raises:
            RemoteProtocolError: it is not a map, or its keys are not strict.
        """
        previous = None
        # Values inside the map are one level deeper.
        self._max_depth -= 1
        for _ in range(self._container(_MAPS)):
            start, end = self.skip()
            key = _build(self._data[start:end])
            if not isinstance(key, str):
                raise RemoteProtocolError("a map key is not a string")
            encoded = key.encode()
            if previous is not None and encoded <= previous:
                raise RemoteProtocolError("map keys are not in ascending order")
            previous = encoded
            yield key
        self._max_depth += 1

    def fields(self) -> Fields:
        """One map; builds no values yet.

        Raises:
            RemoteProtocolError: it is not a map, or not strict.
        """
        return Fields(self._data, {key: self.skip() for key in self.entries()})

    def scalar(self) -> Any:
        """Build one value that is neither array nor map, of at most a message's bytes.

        Raises:
            RemoteProtocolError: it is something else.
        """
        start = self._position
        end, _ = _walk(self._data, start, 1, 0)
        if end - start > limits.MESSAGE_BYTES:
            raise RemoteProtocolError("a value is too long", WireCode.TOO_LARGE)
        self._position = end
        return _build(self._data[start:end])

    def rows(self, count: int | None, width: int, row_bytes: int) -> Iterator[list[list[Any]]]:
        """An array of `count` rows, each an array of `width` scalars, step by step.

        A step has at most `limits.DECODE_STEP_ROWS` rows of at most `row_bytes` bytes, which
        limits what one step builds. If `count` is None, any number of rows is accepted.

        Raises:
            RemoteProtocolError: the count differs, or a row has another form.
        """
        found = self._container(_ARRAYS)
        if count is None:
            count = found
        if found != count:
            raise RemoteProtocolError("a list has another length than was announced")
        data, head, quick = self._data, 0x90 | width, _scalars(width)
        while count:
            start = position = self._position
            step = min(count, limits.DECODE_STEP_ROWS)
            for _ in range(step):
                row = position
                if row >= len(data) or data[row] != head:
                    raise RemoteProtocolError("a row has another width")
                plain = quick.match(data, row + 1)
                position = plain.end() if plain else _walk(data, row, 1 + width, 1)[0]
                if position - row > row_bytes:
                    raise RemoteProtocolError("a row is too long", WireCode.TOO_LARGE)
            yield _build(_array_header(step) + data[start:position])
            self._position = position
            count -= step

    def end(self) -> None:
        """Check that nothing follows.

        Raises:
            RemoteProtocolError: bytes follow.
        """
        if self._position != len(self._data):
            raise RemoteProtocolError("bytes follow the message")

    def _container(self, heads: "_Heads") -> int:
        position, head = self._position + 1, self._data[self._position : self._position + 1]
        self._left -= 1
        if self._left < 0:
            raise RemoteProtocolError("message holds too many values", WireCode.TOO_LARGE)
        if not head:
            raise RemoteProtocolError("message ends in the middle of a value")
        if head[0] & 0xF0 == heads.short:
            count = head[0] & 0x0F
        elif head[0] in heads.widths:
            width = heads.widths[head[0]]
            count = int.from_bytes(self._data[position : position + width], "big")
            position += width
            if count < _SIZED[head[0]][1]:
                raise RemoteProtocolError("value is not in its shortest form")
        else:
            raise RemoteProtocolError(f"a value is no {heads.name}")
        if count * heads.values_each > len(self._data) - position:
            raise RemoteProtocolError("message ends in the middle of a value")
        self._position = position
        return count


def _array_header(count: int) -> bytes:
    if count < 0x10:
        return bytes((0x90 | count,))
    return (
        b"\xdc" + count.to_bytes(2, "big")
        if count <= 0xFFFF
        else b"\xdd" + count.to_bytes(4, "big")
    )


def _build(encoded: bytes) -> Any:
    """Build the value of bytes that were checked."""
    try:
        return msgpack.unpackb(encoded, raw=False, strict_map_key=True)
    except _UNPACK_ERRORS:
        raise RemoteProtocolError("message is not strict MessagePack") from None


def _walk(data: bytes, start: int, max_items: int, max_depth: int) -> tuple[int, int]:
    """Check one value: types, shortest forms, text, depth, counts, key order.

    Returns:
        Where it ends, and the number of its values.
    """
    try:
        return _walk_unbounded(data, start, max_items, max_depth)
    except IndexError:
        raise RemoteProtocolError("message ends in the middle of a value") from None
    except UnicodeDecodeError:
        raise RemoteProtocolError("text is not UTF-8") from None


def _walk_unbounded(data: bytes, position: int, max_items: int, max_depth: int) -> tuple[int, int]:
    """Like `_walk`, but an index beyond the end raises IndexError.

    A payload length beyond the end is refused here.
    """
    length = len(data)
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
        if is_string:
            if payload > limits.MESSAGE_BYTES:
                raise RemoteProtocolError("a text is too long", WireCode.TOO_LARGE)
            data[position : position + payload].decode()
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
            return position, items


def prepare_rows(*widths: int) -> None:
    """Make the patterns of rows of these widths now, 1 ms each, and not at their first use."""
    for width in widths:
        _scalars(width)


@functools.cache
def _scalars(count: int) -> re.Pattern[bytes]:
    """A pattern for that many common scalars in strict form, one after another.

    It matches the rows of a manifest, at a sixth of the cost of walking a row's values.
    """
    text = rb"%b[\x00-\x7f]{%d}"
    texts = b"|".join(text % (re.escape(bytes((0xA0 + size,))), size) for size in range(32))
    # The longest common scalar is a UID for text, a digest for binary.
    long = b"|".join(text % (re.escape(bytes((size,))), size) for size in range(32, 65))
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


class _Heads(NamedTuple):
    """The heads of a kind of container: the short one, and those with a size of 2 or 4 bytes."""

    name: str
    short: int
    widths: dict[int, int]
    values_each: int


_ARRAYS = _Heads("list", 0x90, {0xDC: 2, 0xDD: 4}, 1)
_MAPS = _Heads("map", 0x80, {0xDE: 2, 0xDF: 4}, 2)
