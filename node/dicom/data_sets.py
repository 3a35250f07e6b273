"""The elements of a data set with their values, as DICOM JSON and bulk data need them.

Unlike `elements`, which checks a file on its way in, this reads one that was taken, and gives what
can be read: a sequence that is broken is left out, and a broken element ends what is read. Native
pixels are not read, only found. Nothing recurses deeper than `MAX_DEPTH`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from edges.value_representations import LONG_VRS, SHORT_VRS
from node.dicom.dictionary import UNKNOWN, is_creator, is_private, vr_of
from node.dicom.elements import PIXEL_DATA, BadInstance, Read, Window
from node.dicom.inflating import inflated
from node.dicom.part10 import BIG_ENDIAN, DEFLATED, IMPLICIT, read_meta

MAX_DEPTH = 32
"""Deepest nesting of sequences that is read."""

MAX_ELEMENTS = 500_000
"""Most elements, items and fragments of one instance that are read: an enhanced object of 5,000
frames has these. Of one with more the sequence is left out in which they end."""

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_PIXEL_REPRESENTATION = 0x00280103
_TRAILING_PADDING = 0xFFFCFFFC
_VRS = SHORT_VRS | LONG_VRS


class _Broken(Exception):
    """What follows cannot be read as elements."""


class _TooMany(Exception):
    """More than `MAX_ELEMENTS`."""


@dataclass(slots=True)
class Element:
    """One element.

    Attributes:
        tag: its tag.
        vr: its value representation; from the dictionary where the file does not say it.
        at, length: place of its value in the data set, bytes; of a sequence and of encapsulated
            pixels of what they hold, as far as it goes.
        items: the data sets in a sequence; None if it is none.
        fragments: places (offset, length) of encapsulated pixels, the offset table first; None if
            there are none.
    """

    tag: int
    vr: str
    at: int
    length: int
    items: list[list["Element"]] | None = None
    fragments: list[tuple[int, int]] | None = None


@dataclass(slots=True)
class DataSet:
    """A data set that was read.

    Attributes:
        read: reads bytes at an offset of the data set's encoding.
        transfer_syntax: as its file meta says.
        elements: those of the top level, by ascending tag as a rule.
    """

    read: Read
    transfer_syntax: str
    elements: list[Element] = field(default_factory=list)

    @property
    def is_big_endian(self) -> bool:
        """Whether the numbers in it are big endian."""
        return self.transfer_syntax == BIG_ENDIAN

    def value(self, element: Element) -> bytes:
        """The bytes of a value as they are, without padding removed."""
        return self.read(element.at, element.length)

    def find(self, tag: int) -> Element | None:
        """The first element of the top level with a tag."""
        return next((one for one in self.elements if one.tag == tag), None)


def read_data_set(read: Read, size: int, *, until: int | None = None) -> DataSet:
    """Read the elements of a Part 10 file that was taken.

    Args:
        read: reads bytes of the file.
        size: bytes of the file.
        until: stop before the first element of the top level with this tag or a higher one.

    Raises:
        BadInstance: its head cannot be read, or it inflates to too much.
    """
    meta, syntax = read_meta(read)
    start = meta.end
    if syntax in DEFLATED:
        read, size = inflated(read, start)
        start = 0
    found = DataSet(read, syntax)
    reading = _Reading(read, big_endian=syntax == BIG_ENDIAN, implicit=syntax in IMPLICIT)
    for element in reading.top(start, size):
        if until is not None and element.tag >= until:
            break
        found.elements.append(element)
    return found


class _Reading:
    """The state while one data set is read."""

    def __init__(self, read: Read, *, big_endian: bool, implicit: bool) -> None:
        self._window = Window(read)
        order = ">" if big_endian else "<"
        self._explicit = struct.Struct(f"{order}HH2sH")
        self._number, self._half = struct.Struct(f"{order}L"), struct.Struct(f"{order}H")
        self._implicit = implicit
        self._count = 0
        self._signed = False

    def top(self, position: int, end: int) -> Iterator[Element]:
        """The elements of the top level, up to the first that cannot be read."""
        at = self._window.at(position, 8)
        vr = self._window.data[at + 4 : at + 6]
        implicit = self._implicit = vr not in _VRS if len(vr) == 2 else self._implicit
        creators: dict[int, str] = {}
        while position + 8 <= end:
            try:
                element, position = self._element(position, end, implicit, creators, 0)
            except (_Broken, _TooMany):
                return
            if element is not None:
                yield element

    def _element(
        self, position: int, end: int, implicit: bool, creators: dict[int, str], depth: int
    ) -> tuple[Element | None, int]:
        """The element at a place and where the next one begins; None for one that is left out."""
        tag, vr, value, length = self._header(position, implicit)
        if tag >> 16 == 0xFFFE:
            raise _Broken
        resolved = self._resolved(tag, vr, creators)
        is_implicit = implicit or vr in ("", UNKNOWN)
        is_sequence = resolved == "SQ" or (length == _UNDEFINED and tag != PIXEL_DATA)
        if length == _UNDEFINED:
            if tag == PIXEL_DATA:
                fragments, after = self._fragments(value, end)
                return Element(tag, "OB", value, after - value, fragments=fragments), after
            items, after = self._items(value, end, True, is_implicit, depth)
            return self._kept(Element(tag, "SQ", value, after - value, items)), after
        after = value + length
        if after > end:
            raise _Broken
        element = Element(tag, resolved, value, length)
        if is_sequence:
            before = self._count
            try:
                element.items = self._items(value, after, False, is_implicit, depth)[0]
            except (_Broken, _TooMany):
                # Its length says where to go on; what was read of it is not kept.
                self._count = before
                return None, after
        elif is_creator(tag):
            creators[tag & 0xFFFF00FF] = self._text(value, length)
        elif tag == _PIXEL_REPRESENTATION and length >= 2:
            self._signed = self._short(value) == 1
        return self._kept(element), after

    def _kept(self, element: Element) -> Element | None:
        is_left_out = element.tag & 0xFFFF == 0 or element.tag == _TRAILING_PADDING
        return None if is_left_out else element

    def _resolved(self, tag: int, vr: str, creators: dict[int, str]) -> str:
        if vr not in ("", UNKNOWN):
            return vr
        creator = ""
        if is_private(tag):
            creator = creators.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF, "")
        return vr_of(tag, creator, signed=self._signed)

    def _items(
        self, position: int, end: int, is_open: bool, implicit: bool, depth: int
    ) -> tuple[list[list[Element]], int]:
        """The items of a sequence, and where it ends; `is_open`: a delimiter ends it."""
        if depth >= MAX_DEPTH:
            raise _Broken
        items: list[list[Element]] = []
        while position + 8 <= end:
            tag, length = self._tag(position), self._long(position + 4)
            position += 8
            if tag == _SEQUENCE_END:
                if is_open:
                    return items, position
                continue
            if tag == _ITEM_END:
                continue
            if tag != _ITEM:
                raise _Broken
            self._counted()
            is_delimited = length == _UNDEFINED
            item_end = end if is_delimited else position + length
            if item_end > end:
                raise _Broken
            item, position = self._item(position, item_end, is_delimited, implicit, depth + 1)
            items.append(item)
        if is_open:
            raise _Broken
        return items, end

    def _item(
        self, position: int, end: int, is_delimited: bool, implicit: bool, depth: int
    ) -> tuple[list[Element], int]:
        elements: list[Element] = []
        creators: dict[int, str] = {}
        signed = self._signed
        implicit = self._is_implicit(position, end, implicit)
        while position + 8 <= end:
            if self._tag(position) == _ITEM_END:
                position += 8
                if is_delimited:
                    self._signed = signed
                    return elements, position
                continue
            element, position = self._element(position, end, implicit, creators, depth)
            if element is not None:
                elements.append(element)
        self._signed = signed
        if is_delimited:
            raise _Broken
        return elements, end

    def _is_implicit(self, position: int, end: int, expected: bool) -> bool:
        """Whether the elements of an item are in implicit form, by the first of them."""
        if self._implicit:
            return True
        vr = self._bytes(position + 4, 2)
        if vr not in _VRS:
            return True
        # The beginning of a length may look like letters.
        return expected and position + 8 + self._long(position + 4) <= end

    def _fragments(self, position: int, end: int) -> tuple[list[tuple[int, int]], int]:
        found: list[tuple[int, int]] = []
        while position + 8 <= end:
            tag, length = self._tag(position), self._long(position + 4)
            position += 8
            if tag == _SEQUENCE_END:
                return found, position
            if tag != _ITEM or position + length > end:
                raise _Broken
            self._counted()
            found.append((position, length))
            position += length
        raise _Broken

    def _counted(self) -> None:
        """Count something that takes memory."""
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise _TooMany

    # --- bytes ------------------------------------------------------------------------

    def _header(self, position: int, implicit: bool) -> tuple[int, str, int, int]:
        """Tag, VR ("" in implicit form), place and length of the value."""
        self._counted()
        at = self._window.at(position, 12)
        head = self._window.data[at : at + 12]
        if len(head) < 8:
            raise _Broken
        group, element, vr, short = self._explicit.unpack_from(head)
        tag = group << 16 | element
        if implicit or (vr not in _VRS and not (vr.isalpha() and vr.isupper())):
            return tag, "", position + 8, self._number.unpack_from(head, 4)[0]
        name = vr.decode("ascii") if vr in _VRS else UNKNOWN
        if vr not in LONG_VRS and (vr in SHORT_VRS or short):
            return tag, name, position + 8, short
        if len(head) < 12:
            raise _Broken
        return tag, name, position + 12, self._number.unpack_from(head, 8)[0]

    def _bytes(self, position: int, length: int) -> bytes:
        at = self._window.at(position, length)
        found = self._window.data[at : at + length]
        if len(found) < length:
            raise _Broken
        return found

    def _text(self, position: int, length: int) -> str:
        return self._bytes(position, min(length, 64)).decode("latin-1").strip(" \0")

    def _tag(self, position: int) -> int:
        return self._short(position) << 16 | self._short(position + 2)

    def _short(self, position: int) -> int:
        return int(self._half.unpack(self._bytes(position, 2))[0])

    def _long(self, position: int) -> int:
        return int(self._number.unpack(self._bytes(position, 4))[0])


__all__ = ["BadInstance", "DataSet", "Element", "read_data_set"]
