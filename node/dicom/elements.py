"""Walks the elements of a DICOM data set without reading their values.

Finds, in one forward pass with bounded memory: whether the data set is whole up
to the end of the file, the values of a few wanted elements of the top level, and
the place of the pixel data (PS3.5 section 7). It allocates nothing by a length that
the file claims, does not recurse, and reports every failure by one exception.

The meaning of the values is the task of `node.dicom.studies`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from edges.value_representations import LONG_VRS, SHORT_VRS

PIXEL_DATA = 0x7FE00010
"""Pixel Data; Float and Double Float Pixel Data come before it in the same group."""

_PADDING = 0xFFFCFFFC
_FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF

_TEXT_VRS = frozenset(
    (
        b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST",
        b"TM", b"UC", b"UI", b"UR", b"UT",
    )
)  # fmt: skip
"""Value representations whose values end in at most one zero byte."""

_ITEM_VR = b"item"
_ANY_VR = b"any"
"""Used in place of a VR for the part that ended last: an item, or an implicit element."""

WINDOW_BYTES = 64 * 1024
"""Bytes read at once from a large file; a header of 8 to 60 KiB is one read."""

WANTED_VALUE_BYTES = 64 * 1024
"""Longest value that is returned; a longer wanted element is a defect."""

MAX_ELEMENTS = 10_000_000
"""Most elements of a file that are walked: an enhanced object of 20,000 frames has
2 million; ten million take about ten seconds."""

MAX_DEPTH = 256
"""Deepest nesting of undefined-length sequences and items."""

MAX_PLACED = 100_000
"""Most elements of the top level that are listed; real files have some hundreds."""

_DELIMITER_BYTES = 8
_STRAY_DELIMITERS = 64
"""Most delimiters at the end of a file that close nothing; writers in use leave one or two."""

Read = Callable[[int, int], bytes]
"""(offset, length) -> at most `length` bytes; fewer only at the end of the data.
If the size is not known, offsets never go back by more than one window."""


class BadInstance(Exception):
    """A file that may have been meant as DICOM and cannot be taken.

    Attributes:
        reason: why, as the end of a sentence about the file; no patient data.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Placed:
    """One element of the top level, and where it is.

    Attributes:
        tag: its tag.
        vr: its value representation; b"" where it is not written.
        begin: offset of its header.
        value: offset of its value.
        length: of its value in bytes; None if it is not stated.
        close: where the length is not stated, offset of the delimiter that ends it; else 0.
    """

    tag: int
    vr: bytes
    begin: int
    value: int
    length: int | None
    close: int = 0


@dataclass(slots=True)
class Walked:
    """The result of a walk.

    Attributes:
        values: the raw values of the wanted elements that were found.
        noticed: which of the tags to be noticed were found and not empty.
        pixel_data: whether the top level has pixel data that is not empty.
        pixels_at: offset and length of native Pixel Data; None if it is encapsulated or
            missing.
        zeros_at: offset from which on there are only zero bytes; None if the data set
            goes on to the end.
        is_filled: whether those zeros plainly begin inside of the last element.
        last: tag of the last element before those zeros.
        notes: oddities that do not make the data set unusable.
        end: offset after the last element.
        implicit: whether the elements of the top level are in implicit form.
        placed: the elements of the top level in their order, if they were to be listed.
    """

    values: dict[int, bytes] = field(default_factory=dict)
    noticed: set[int] = field(default_factory=set)
    pixel_data: bool = False
    pixels_at: tuple[int, int] | None = None
    zeros_at: int | None = None
    is_filled: bool = False
    last: int = 0
    notes: list[str] = field(default_factory=list)
    end: int = 0
    implicit: bool = False
    placed: list[Placed] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add an oddity, once."""
        if text not in self.notes:
            self.notes.append(text)


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
        """Load `length` bytes at `position` into `data`, as far as the data goes.

        Returns:
            The index of `position` in `data`.
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
    unique: Collection[int] = (),
    noticed: Collection[int] = (),
    until: int | None = None,
    complete: bool = True,
    listed: bool = False,
) -> Walked:
    """Walk a data set from `start` to its end.

    Args:
        read: reads the bytes.
        start: offset of the first element.
        size: offset of the end of the data; None if only reading can show it.
        implicit: Implicit VR is expected; a data set that plainly has the other
            form is read as that, as every reader in use does.
        wanted: tags of the top level whose values are returned.
        unique: those of them that must not occur twice; of the others the first counts.
        noticed: tags of the top level whose presence alone is returned.
        until: stop before the first element of the top level with this tag or a
            higher one.
        complete: False for the first bytes of a larger file: running out of bytes
            ends the walk and is no defect.
        listed: return where each element of the top level is.

    Raises:
        BadInstance: the data set is cut, or these bytes are no data set.
    """
    walk = _Walk(read, size, big_endian, wanted, until, complete)
    walk.listed = listed
    walk.unique, walk.noticed = unique, noticed
    return walk.run(start, implicit)


class _Walk:
    """The state of one walk; `stack` holds the open sequences and items."""

    unique: Collection[int] = ()
    noticed: Collection[int] = ()
    listed = False

    def __init__(
        self,
        read: Read,
        size: int | None,
        big_endian: bool,
        wanted: Collection[int],
        until: int | None,
        complete: bool,
    ) -> None:
        self._read = read
        self._window = _Window(read)
        self._size = size
        self._big_endian = big_endian
        self._wanted = wanted
        self._until = until
        self._complete = complete
        self._found = Walked()
        self._implicit = False
        self._last_tag = 0
        self._last_value = (b"", 0, 0)
        self._pixels_end = 0

    def run(self, position: int, implicit: bool) -> Walked:
        found = self._found
        window = self._window
        big = self._big_endian
        # (is an item and not a sequence, whether its elements are in implicit form)
        stack: list[tuple[bool, bool]] = []
        implicit = top_implicit = self._implicit = self._is_implicit(position, implicit)
        found.implicit = implicit
        elements = 0
        ended = b""
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
                        ended = _ITEM_VR
                    else:
                        if len(stack) >= MAX_DEPTH:
                            raise BadInstance(f"is nested deeper than {MAX_DEPTH}")
                        nested = self._is_nested_implicit(position, stack[-1][1])
                        stack.append((True, nested))
                        implicit = nested
                        ended = b""
                    continue
                closes = (tag == _SEQUENCE_END and not in_item) or (
                    tag == _ITEM_END and in_item and bool(stack)
                )
                if not closes:
                    if self._is_redundant(tag, ended):
                        found.note("a delimiter follows a sequence or item of stated length")
                        ended = b""
                        continue
                    if not stack and self._only_delimiters(position - 8):
                        found.note("stray delimiters follow the data set")
                        found.end = position - 8
                        return found
                    raise BadInstance(f"has a misplaced delimiter at byte {position - 8}")
                stack.pop()
                implicit = stack[-1][1] if stack else top_implicit
                ended = b""
                if not stack and self._last_tag == PIXEL_DATA:
                    self._pixels_end = position
                if not stack and self.listed:
                    found.placed[-1].close = position - _DELIMITER_BYTES
                continue
            if not in_item:
                raise BadInstance(f"has an element where an item belongs, at byte {position}")
            if not stack:
                if self._until is not None and tag >= self._until:
                    found.end = position
                    return found
                if tag == 0 and self._is_padding(position):
                    return self._zeros(position)
            vr = data[at + 4 : at + 6]
            value = position + 8
            if implicit:
                vr = b""
                length = self._length(data[at + 4 : at + 8])
            elif vr in SHORT_VRS:
                length = (
                    data[at + 6] << 8 | data[at + 7] if big else data[at + 6] | data[at + 7] << 8
                )
            elif vr in LONG_VRS:
                if left < 12:
                    return self._ended(position, left, stack)
                length = self._length(data[at + 8 : at + 12])
                value = position + 12
            else:
                vr, value, length = self._odd_form(position, tag)
            if length == _UNDEFINED:
                if len(stack) >= MAX_DEPTH:
                    raise BadInstance(f"is nested deeper than {MAX_DEPTH}")
                if not stack:
                    self._last_tag = tag
                    if tag == PIXEL_DATA:
                        found.pixel_data = True
                    if self.listed:
                        self._place(Placed(tag, vr, position, value, None))
                # PS3.5 section 6.2.2 note 2: unknown values of undefined length
                # are sequences in implicit form.
                stack.append((False, implicit or vr in (b"UN", b"")))
                position = value
                ended = b""
                continue
            if not stack:
                if self.listed:
                    self._place(Placed(tag, vr, position, value, length))
                if tag == PIXEL_DATA or tag in _FLOAT_PIXEL_DATA:
                    found.pixel_data = found.pixel_data or length > 0
                    if tag == PIXEL_DATA:
                        found.pixels_at = (value, length)
                elif tag == _PADDING:
                    found.note("trailing padding follows the data set")
                elif tag in self._wanted:
                    self._keep(tag, value, length)
                elif length and tag in self.noticed:
                    found.noticed.add(tag)
                position = self._skip(value, length, tag, header=position)
                self._last_tag = tag
                self._last_value = (vr, value, length)
                if tag == PIXEL_DATA:
                    self._pixels_end = position
            else:
                position = self._skip(value, length, tag)
            ended = vr or _ANY_VR
            if not self._complete and self._beyond(position):
                found.end = position
                return found

    def _length(self, four: bytes) -> int:
        return int.from_bytes(four, "big" if self._big_endian else "little")

    def _tag(self, four: bytes) -> int:
        if self._big_endian:
            return int.from_bytes(four, "big")
        return four[0] << 16 | four[1] << 24 | four[2] | four[3] << 8

    # --- how an element is written ---------------------------------------------

    def _is_implicit(self, position: int, expected: bool) -> bool:
        """Whether the elements from `position` are in implicit form, by the VR of the first."""
        at = self._window.at(position, 8)
        vr = self._window.data[at + 4 : at + 6]
        return not _is_capital(vr) if len(vr) == 2 else expected

    def _is_nested_implicit(self, position: int, expected: bool) -> bool:
        """The same for the elements of an item of undefined length."""
        if self._implicit:
            return True
        if not expected:
            first = self._peek(position, position, 8) or b""
            if len(first) < 8 or _is_capital(first[4:6]):
                return False
            length = self._length(first[4:8])
            return self._leads_on(position, 8, length, self._tag(first[:4]))
        # In a value of unknown kind, items should be in implicit form, but some writers
        # leave them in explicit form. The form that leads to a next element is right.
        header = self._peek(position, position, 12)
        if header is None or len(header) < 12 or header[4:6] not in SHORT_VRS | LONG_VRS:
            return True
        tag, vr = self._tag(header[:4]), header[4:6]
        if self._leads_on(position, 8, self._length(header[4:8]), tag):
            return True
        if vr in LONG_VRS:
            value, length = 12, self._length(header[8:12])
        else:
            value, length = 8, int.from_bytes(header[6:8], "big" if self._big_endian else "little")
        if length != _UNDEFINED and not self._leads_on(position, value, length, tag):
            return True
        self._found.note("an unknown value has items in explicit form")
        return False

    def _odd_form(self, position: int, tag: int) -> tuple[bytes, int, int]:
        """VR, offset and length of the value of an element with an unknown or blank VR.

        A VR of later editions has a length of 32 bits (PS3.5 section 7.1.2); older
        writers gave unknown VRs 16 bits. Bytes that are no VR may belong to an element in
        implicit form, or be blanks. The first reading that leads to another element, or
        to the end, is taken.
        """
        header = self._peek(position, position, 12) or b""
        vr = header[4:6]
        short = (8, int.from_bytes(header[6:8], "big" if self._big_endian else "little"))
        long = [(12, self._length(header[8:12]))] if header[6:8] == b"\0\0" else []
        implicit = (8, self._length(header[4:8]))
        is_capital = _is_capital(vr)
        forms = [*long, short] if is_capital else [implicit, short, *long]
        for form in forms:
            if self._leads_on(position, *form, tag, vr):
                if form is not implicit or is_capital:
                    self._found.note("a value representation is unknown or blank")
                break
        else:
            form = short if is_capital else implicit
        kept = vr if is_capital else b""
        return kept, position + form[0], form[1]

    def _leads_on(
        self, position: int, header_bytes: int, length: int, tag: int, odd_vr: bytes = b""
    ) -> bool:
        """Whether an element at `position` is followed by another one, or by the end."""
        value = position + header_bytes
        if length == _UNDEFINED:
            begin = self._peek(position, value, 4) or b""
            return len(begin) == 4 and self._tag(begin) in (_ITEM, _SEQUENCE_END)
        end = value + length
        if self._size is not None and end >= self._size:
            if not self._complete:
                raise BadInstance("has an element whose form its first bytes do not tell")
            return end == self._size
        # Read from one byte before `end`: no byte at all means that `end` is beyond the data.
        header = self._peek(position, end - 1, 9)
        if not header:
            return False
        header = header[1:]
        if header.count(0) == len(header):
            return True
        if len(header) < 8:
            return False
        following = self._tag(header[:4])
        if following >> 16 == 0xFFFE:
            return True
        vr = header[4:6]
        is_vr = vr in SHORT_VRS or vr in LONG_VRS or vr == odd_vr
        return following > tag and (is_vr or (not odd_vr and not _is_capital(vr)))

    def _peek(self, position: int, there: int, length: int) -> bytes | None:
        """Bytes further on; None if reading them would drop those at `position`."""
        if self._size is not None:
            return self._read(there, length)
        needed = there + length - position
        if needed > WINDOW_BYTES:
            return None
        at = self._window.at(position, needed)
        return self._window.data[at + there - position : at + needed]

    # --- values ------------------------------------------------------------------

    def _keep(self, tag: int, position: int, length: int) -> None:
        if tag in self._found.values:
            if tag in self.unique:
                raise BadInstance(f"has the element {tag_text(tag)} twice")
            self._found.note(f"the element {tag_text(tag)} stands twice; the first counts")
            return
        if length > WANTED_VALUE_BYTES:
            self._check_whole(position, length, tag)
            raise BadInstance(f"has {length} bytes in the element {tag_text(tag)}")
        at = self._window.at(position, length)
        value = self._window.data[at : at + length]
        # The first bytes of a larger file may end within the value.
        if self._complete or len(value) == length:
            self._found.values[tag] = value

    def _place(self, one: Placed) -> None:
        if len(self._found.placed) >= MAX_PLACED:
            raise BadInstance(f"has more than {MAX_PLACED} elements beside each other")
        self._found.placed.append(one)

    def _beyond(self, position: int) -> bool:
        """Whether the available bytes end before `position`."""
        if self._size is not None:
            return position >= self._size
        at = self._window.at(position, 1)
        return len(self._window.data) - at < 1

    def _skip(self, position: int, length: int, tag: int, header: int | None = None) -> int:
        """The offset after a value, which must be complete.

        Args:
            position, length: offset and length of the value.
            tag: tag of the element or item.
            header: offset of the element, if it is one of the top level.
        """
        end = position + length
        if not self._complete:
            return end
        if self._size is not None:
            if end > self._size:
                if header is not None:
                    self._check_dicom(header)
                self._check_whole(position, length, tag)
            return end
        at = self._window.at(end - 1, 1) if length else 0
        if length and len(self._window.data) - at < 1:
            raise BadInstance(f"is cut: the element {tag_text(tag)} is not whole")
        return end

    def _check_whole(self, position: int, length: int, tag: int) -> None:
        if self._complete and self._size is not None and position + length > self._size:
            raise BadInstance(
                f"is cut: the element {tag_text(tag)} should have {length} bytes,"
                f" {max(0, self._size - position)} are there"
            )

    # --- the end -------------------------------------------------------------------

    def _is_redundant(self, tag: int, ended: bytes) -> bool:
        """Whether a delimiter repeats the end of a part that its stated length has closed."""
        if tag == _ITEM_END:
            return ended == _ITEM_VR
        return tag == _SEQUENCE_END and ended in (b"SQ", b"UN", _ANY_VR)

    def _only_delimiters(self, position: int) -> bool:
        """Whether only a few delimiters follow up to the end of the data."""
        there = position
        for _ in range(_STRAY_DELIMITERS):
            one = self._peek(position, there, _DELIMITER_BYTES)
            if not one:
                return one is not None
            if one.count(0) == len(one):
                return self._is_padding(there)
            if len(one) < _DELIMITER_BYTES or any(one[4:]):
                return False
            if self._tag(one[:4]) not in (_ITEM_END, _SEQUENCE_END):
                return False
            there += _DELIMITER_BYTES
        return False

    def _is_padding(self, position: int) -> bool:
        """Whether only zero bytes follow; group 0000 has no place in a file."""
        while True:
            at = self._window.at(position, 1)
            data = self._window.data[at:]
            if not data:
                return True
            if data.count(0) != len(data):
                return False
            position += len(data)

    def _zeros(self, position: int) -> Walked:
        """End the walk at `position`, from where on all bytes are zero."""
        found = self._found
        found.note("zero bytes follow the data set")
        found.end = found.zeros_at = position
        found.last = self._last_tag
        vr, value, length = self._last_value
        if length >= 2 and vr in _TEXT_VRS and self._size is not None:
            found.is_filled = not any(self._read(value + length - 2, 2))
        return found

    def _check_dicom(self, position: int) -> None:
        """Raise if the bytes at `position`, or after the pixels, are no element.

        Called when an element is not whole: a file with bytes too many is not a cut file.
        """
        last = self._last_tag
        for place, behind in ((self._pixels_end, PIXEL_DATA), (position, last)):
            if place and behind and not self._is_element(place, behind):
                what = "the pixel data" if behind == PIXEL_DATA else f"element {tag_text(behind)}"
                raise BadInstance(f"has bytes that are no DICOM behind {what}, from byte {place}")

    def _is_element(self, position: int, last: int) -> bool:
        """Whether an element may begin here, after the tag `last`, as far as bytes show it."""
        header = self._peek(position, position, 8) or b""
        if len(header) < 4:
            group = int.from_bytes(header[:2], "big" if self._big_endian else "little")
            return group >= last >> 16 if len(header) >= 2 else last < PIXEL_DATA
        if self._tag(header[:4]) <= last:
            return False
        vr = header[4:6]
        return self._implicit or len(vr) < 2 or vr in SHORT_VRS or vr in LONG_VRS

    def _ended(self, position: int, left: int, stack: list[tuple[bool, bool]]) -> Walked:
        self._found.end = position
        if not self._complete:
            return self._found
        if stack:
            if self._last_tag == PIXEL_DATA and not left:
                raise BadInstance(
                    "is cut, or lacks the end of its pixel data: it ends behind a fragment"
                )
            raise BadInstance("is cut: it ends inside a sequence")
        if left:
            at = self._window.at(position, left)
            if self._window.data[at:].count(0) != left:
                self._check_dicom(position)
                raise BadInstance("is cut: it ends inside the header of an element")
            return self._zeros(position)
        return self._found


def _is_capital(vr: bytes) -> bool:
    """Whether two bytes may be a value representation."""
    return len(vr) == 2 and 0x41 <= vr[0] <= 0x5A and 0x41 <= vr[1] <= 0x5A
