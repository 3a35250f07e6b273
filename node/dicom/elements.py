"""Walks the elements of a DICOM data set without reading their values.

Finds, in one forward pass with bounded memory: whether the data set is whole up
to the end of the file, the values of a few wanted elements of the top level, and
where the pixel data stands (PS3.5 section 7). Nothing is allocated by a length
that the file claims, nothing recurses, and every failure is one exception.

What the values mean is for `node.dicom.studies`.
"""

import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

PIXEL_DATA = 0x7FE00010
"""Pixel Data; Float and Double Float Pixel Data stand before it in the same group."""

_PADDING = 0xFFFCFFFC
_FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF

_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)

WINDOW_BYTES = 64 * 1024
"""Read at once from a large file; a header of 8 to 60 KiB is one read."""

WANTED_VALUE_BYTES = 64 * 1024
"""Longest value that is handed out; a wanted element beyond that is a defect."""

MAX_ELEMENTS = 10_000_000
"""Elements walked before a file is given up: an enhanced object of 20,000 frames
has 2 million; ten million take about ten seconds."""

MAX_DEPTH = 256
"""Deepest nesting of undefined-length sequences and items."""

MAX_INFLATED_BYTES = 256 * 1024 * 1024
"""Most bytes that a deflated data set may grow to. They are walked, not kept; the
bound is on time, since a zip bomb grows by a thousand."""

_TRAILER_BYTES = 8
"""A gzip trailer: CRC-32 and size."""

Read = Callable[[int, int], bytes]
"""(offset, length) -> at most `length` bytes; fewer only at the end of the data.
Offsets never go back by more than one window."""


class BadInstance(Exception):
    """A file that may have been meant as DICOM and cannot be taken.

    Attributes:
        reason: why, as the end of a sentence about the file; no patient data.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Walked:
    """What a walk found.

    Attributes:
        values: the raw values of the wanted elements that are there.
        pixel_data: whether the top level has pixel data.
        pixels_at: offset and length of native Pixel Data, None where it is
            encapsulated or not there.
        notes: oddities that do not make the data set unusable.
        end: offset behind the last element.
    """

    values: dict[int, bytes] = field(default_factory=dict)
    pixel_data: bool = False
    pixels_at: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)
    end: int = 0


def tag_text(tag: int) -> str:
    """A tag as people write it, such as (0020,000D)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


class _Window:
    """Bytes of the data around the position, read on demand."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.data = b""
        self.base = 0

    def at(self, position: int, length: int) -> int:
        """Make `length` bytes at `position` present as far as the data goes.

        Returns:
            Where `position` stands in `data`.
        """
        start = position - self.base
        if start < 0 or start + length > len(self.data):
            self.data = self._read(position, max(length, WINDOW_BYTES))
            self.base = position
            return 0
        return start


def walk(
    read: Read,
    start: int,
    size: int | None,
    *,
    implicit: bool,
    big_endian: bool = False,
    wanted: Collection[int],
    until: int | None = None,
    complete: bool = True,
) -> Walked:
    """Walk a data set from `start` to its end.

    Args:
        read: where the bytes come from.
        start: offset of the first element.
        size: offset of the end of the data; None if only reading tells.
        implicit: Implicit VR is expected; a data set that plainly has the other
            form is read as that, as every reader in use does.
        wanted: tags of the top level whose values are handed out.
        until: stop before the first element of the top level with this tag or a
            higher one.
        complete: False for the first bytes of a larger file: running out of bytes
            ends the walk and is no defect.

    Raises:
        BadInstance: the data set is cut, or is not one.
    """
    return _Walk(read, size, big_endian, wanted, until, complete).run(start, implicit)


class _Walk:
    """The state of one walk; `stack` holds what is open below the top level."""

    def __init__(
        self,
        read: Read,
        size: int | None,
        big_endian: bool,
        wanted: Collection[int],
        until: int | None,
        complete: bool,
    ) -> None:
        self._window = _Window(read)
        self._size = size
        self._big_endian = big_endian
        self._wanted = wanted
        self._until = until
        self._complete = complete
        self._found = Walked()

    def run(self, position: int, implicit: bool) -> Walked:
        found = self._found
        window = self._window
        big = self._big_endian
        # (is an item and not a sequence, how its elements are written)
        stack: list[tuple[bool, bool]] = []
        implicit = top_implicit = self._is_implicit(position, implicit, nested=False)
        elements = 0
        while True:
            elements += 1
            if elements > MAX_ELEMENTS:
                raise BadInstance(f"has more than {MAX_ELEMENTS} elements")
            at = window.at(position, 12)
            data = window.data
            left = len(data) - at
            if left < 8:
                return self._ended(position, left, stack)
            if big:
                tag = int.from_bytes(data[at : at + 4], "big")
            else:
                tag = data[at] << 16 | data[at + 1] << 24 | data[at + 2] | data[at + 3] << 8
            in_item = not stack or stack[-1][0]
            if tag >> 16 == 0xFFFE:
                length = self._length(data[at + 4 : at + 8])
                position += 8
                if tag == _ITEM and not in_item:
                    if length != _UNDEFINED:
                        position = self._skip(position, length, tag)
                    else:
                        if len(stack) >= MAX_DEPTH:
                            raise BadInstance(f"is nested deeper than {MAX_DEPTH}")
                        nested = self._is_implicit(position, stack[-1][1], nested=True)
                        stack.append((True, nested))
                        implicit = nested
                    continue
                closes = (tag == _SEQUENCE_END and not in_item) or (
                    tag == _ITEM_END and in_item and bool(stack)
                )
                if not closes:
                    raise BadInstance(f"has a misplaced delimiter at byte {position - 8}")
                stack.pop()
                implicit = stack[-1][1] if stack else top_implicit
                continue
            if not in_item:
                raise BadInstance(f"has an element where an item belongs, at byte {position}")
            if not stack:
                if self._until is not None and tag >= self._until:
                    found.end = position
                    return found
                if tag == 0 and self._is_padding(position):
                    found.notes.append("zero bytes follow the data set")
                    found.end = position
                    return found
            vr = data[at + 4 : at + 6]
            value = position + 8
            if implicit or not (0x41 <= vr[0] <= 0x5A and 0x41 <= vr[1] <= 0x5A):
                vr = b""
                length = self._length(data[at + 4 : at + 8])
            elif vr in _LONG_VRS:
                if left < 12:
                    return self._ended(position, left, stack)
                length = self._length(data[at + 8 : at + 12])
                value = position + 12
            elif big:
                length = data[at + 6] << 8 | data[at + 7]
            else:
                length = data[at + 6] | data[at + 7] << 8
            if length == _UNDEFINED:
                if len(stack) >= MAX_DEPTH:
                    raise BadInstance(f"is nested deeper than {MAX_DEPTH}")
                if not stack and tag == PIXEL_DATA:
                    found.pixel_data = True
                # PS3.5 section 6.2.2 note 2: unknown values of undefined length
                # are sequences in implicit form.
                stack.append((False, implicit or vr in (b"UN", b"")))
                position = value
                continue
            if not stack:
                if tag == PIXEL_DATA:
                    found.pixel_data = True
                    found.pixels_at = (value, length)
                elif tag in _FLOAT_PIXEL_DATA:
                    found.pixel_data = True
                elif tag == _PADDING:
                    found.notes.append("trailing padding follows the data set")
                elif tag in self._wanted:
                    self._keep(tag, value, length)
            position = self._skip(value, length, tag)
            if not self._complete and self._beyond(position):
                found.end = position
                return found

    def _length(self, four: bytes) -> int:
        return int.from_bytes(four, "big" if self._big_endian else "little")

    def _is_implicit(self, position: int, expected: bool, *, nested: bool) -> bool:
        """How the elements from `position` are really written, by the first one's VR."""
        if not (nested and expected):
            at = self._window.at(position, 8)
            vr = self._window.data[at + 4 : at + 6]
            if len(vr) == 2:
                expected = not (0x41 <= vr[0] <= 0x5A and 0x41 <= vr[1] <= 0x5A)
        return expected

    def _keep(self, tag: int, position: int, length: int) -> None:
        if tag in self._found.values:
            raise BadInstance(f"has the element {tag_text(tag)} twice")
        if length > WANTED_VALUE_BYTES:
            raise BadInstance(f"has {length} bytes in the element {tag_text(tag)}")
        at = self._window.at(position, length)
        self._found.values[tag] = self._window.data[at : at + length]

    def _beyond(self, position: int) -> bool:
        """Whether the bytes that there are end before `position`."""
        if self._size is not None:
            return position >= self._size
        at = self._window.at(position, 1)
        return len(self._window.data) - at < 1

    def _skip(self, position: int, length: int, tag: int) -> int:
        """The offset behind a value, which must be there."""
        end = position + length
        if not self._complete:
            return end
        if self._size is not None:
            if end > self._size:
                raise BadInstance(
                    f"is cut: the element {tag_text(tag)} should have {length} bytes,"
                    f" {self._size - position} are there"
                )
            return end
        at = self._window.at(end - 1, 1) if length else 0
        if length and len(self._window.data) - at < 1:
            raise BadInstance(f"is cut: the element {tag_text(tag)} is not whole")
        return end

    def _is_padding(self, position: int) -> bool:
        """Whether only zero bytes follow; group 0000 has no place in a file."""
        while True:
            data = self._window.data[self._window.at(position, 1) :]
            if not data:
                return True
            if data.count(0) != len(data):
                return False
            position += len(data)

    def _ended(self, position: int, left: int, stack: list[tuple[bool, bool]]) -> Walked:
        self._found.end = position
        if not self._complete:
            return self._found
        if stack:
            raise BadInstance("is cut: it ends inside a sequence")
        if left:
            at = self._window.at(position, left)
            if self._window.data[at:].count(0) != left:
                raise BadInstance("is cut: it ends inside the header of an element")
            self._found.notes.append("zero bytes follow the data set")
        return self._found


class Inflater:
    """Reads a deflated data set forward, keeping one window (PS3.5 section A.5)."""

    def __init__(self, read: Read, start: int, *, complete: bool) -> None:
        self._read = read
        self._complete = complete
        self._source = start
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._data = bytearray()
        self._base = 0
        self._pending = b""

    def read(self, position: int, length: int) -> bytes:
        """Bytes of the inflated data; forward only.

        Raises:
            BadInstance: it is cut, is no deflated data, or grows beyond the bound.
        """
        if position < self._base:
            raise BadInstance("cannot be read backwards")
        while self._base + len(self._data) < position + length:
            drop = min(position - self._base, len(self._data))
            if drop > 0:
                del self._data[:drop]
                self._base += drop
            if not self._more():
                break
        begin = position - self._base
        return bytes(self._data[begin : begin + length])

    def _more(self) -> bool:
        if self._inflate.eof:
            return False
        if not self._pending:
            self._pending = self._read(self._source, WINDOW_BYTES)
            self._source += len(self._pending)
            if not self._pending:
                if not self._complete:
                    return False
                raise BadInstance("is cut: the deflated data has no end")
        try:
            self._data += self._inflate.decompress(self._pending, WINDOW_BYTES)
        except zlib.error:
            raise BadInstance("has deflated data that cannot be inflated") from None
        self._pending = self._inflate.unconsumed_tail
        if self._base + len(self._data) > MAX_INFLATED_BYTES:
            raise BadInstance(f"inflates to more than {MAX_INFLATED_BYTES} bytes")
        return True

    def check_end(self) -> int:
        """Inflate to the end of the deflated data and count what follows it.

        Returns:
            How many bytes other than zero follow. Writers in use leave a gzip
            trailer there, which readers skip.

        Raises:
            BadInstance: the data has no end, or more than a trailer follows.
        """
        while not self._inflate.eof:
            self._base += len(self._data)
            self._data.clear()
            self._more()
        rest = self._inflate.unused_data
        count = 0
        while rest:
            count += len(rest) - rest.count(0)
            if count > _TRAILER_BYTES:
                raise BadInstance("has bytes behind its deflated data")
            rest = self._read(self._source, WINDOW_BYTES)
            self._source += len(rest)
        return count
