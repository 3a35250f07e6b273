"""Small data sets of DIMSE messages: identifiers of queries, references; PS3.5 section 7.

Read and written whole, within bounds, in Implicit and Explicit VR Little Endian. Images never come
this way: they are handed on in pieces.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edges.dimse import limits
from edges.dimse.negotiation import EXPLICIT, IMPLICIT
from edges.value_representations import SHORT_VRS

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_UNKNOWN = "UN"

_TAG = struct.Struct("<HH")
_SHORT = struct.Struct("<H")
_LONG = struct.Struct("<L")
_HEAD = struct.Struct("<HHL")
_HEAD_SHORT = struct.Struct("<HH2sH")
_HEAD_LONG = struct.Struct("<HH2s2xL")

_ZERO_PADDED = frozenset(("UI", "OB", "UN"))


class BadDataSet(ValueError):
    """Bytes that are no data set, or values that cannot be one."""


@dataclass(frozen=True, slots=True)
class Value:
    """The value of an element.

    Attributes:
        vr: its value representation; `UN` where neither the bytes nor the reader tell it.
        data: its bytes, with their padding; empty for a sequence.
        items: the items of a sequence; empty for all else.
    """

    vr: str
    data: bytes = b""
    items: "tuple[DataSet, ...]" = ()

    @property
    def text(self) -> str:
        """A value of ASCII, such as a UID or a code, without its padding."""
        return self.data.decode("ascii", "replace").strip("\0 ")

    @property
    def number(self) -> int | None:
        """A value of VR US; None if it is not one number of 16 bits."""
        return _SHORT.unpack(self.data)[0] if len(self.data) == _SHORT.size else None


DataSet: TypeAlias = Mapping[int, Value]
"""Values by tag, such as 0x0020000D."""


def sequence(items: Iterable[DataSet]) -> Value:
    """The value of a sequence."""
    return Value("SQ", items=tuple(items))


def uid(text: str) -> Value:
    """The value of one UID."""
    return Value("UI", text.encode("ascii", "replace"))


def number(value: int) -> Value:
    """The value of one number of 16 bits (US)."""
    return Value("US", _SHORT.pack(value))


# --- reading ---------------------------------------------------------------------------


def decode_data_set(
    data: bytes, transfer_syntax: str, vrs: Mapping[int, str] | None = None
) -> dict[int, Value]:
    """Read a data set.

    Args:
        data: its bytes.
        transfer_syntax: `IMPLICIT` or `EXPLICIT`.
        vrs: the VRs of elements, by tag, where the bytes do not say them: in implicit form an
            element that is not there is `UN`, and a sequence only if its length is undefined.

    Raises:
        BadDataSet: it is none, or passes the bounds of `limits`: `DATA_SET_BYTES`,
            `DATA_SET_ELEMENTS`, `DATA_SET_DEPTH`.
    """
    if len(data) > limits.DATA_SET_BYTES:
        raise BadDataSet(f"a data set of {len(data)} bytes is too long")
    reader = _Reader(data, vrs or {})
    return reader.elements(len(data), _is_explicit(transfer_syntax), 0)


def _is_explicit(transfer_syntax: str) -> bool:
    if transfer_syntax not in (EXPLICIT, IMPLICIT):
        raise BadDataSet("the data set is in a transfer syntax that is not read here")
    return transfer_syntax == EXPLICIT


class _Reader:
    """Reads on from `place`; each method leaves it behind what it has read."""

    def __init__(self, data: bytes, vrs: Mapping[int, str]) -> None:
        self._data = data
        self._vrs = vrs
        self._place = 0
        self._count = 0

    def elements(self, end: int, is_explicit: bool, depth: int) -> dict[int, Value]:
        """The elements up to `end`; of an item of undefined length, up to its delimiter."""
        if depth > limits.DATA_SET_DEPTH:
            raise BadDataSet("its sequences are too deep within each other")
        is_delimited = end == _UNDEFINED
        stop = len(self._data) if is_delimited else end
        found: dict[int, Value] = {}
        while self._place < stop:
            tag = self._tag(stop)
            if tag == _ITEM_END and is_delimited:
                self._length(stop)
                return found
            self._count_one()
            if tag in found or tag >> 16 == 0xFFFE:
                raise BadDataSet(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) cannot be there")
            found[tag] = self._value(tag, stop, is_explicit, depth)
        if is_delimited:
            raise BadDataSet("it ends within an item")
        return found

    def _value(self, tag: int, stop: int, is_explicit: bool, depth: int) -> Value:
        vr, length = self._vrs.get(tag, _UNKNOWN), 0
        if is_explicit:
            vr, length = self._explicit(stop)
        else:
            length = self._length(stop)
        if vr == "SQ" or length == _UNDEFINED:
            # What is unknown and has no length is a sequence in implicit form, PS3.5 section 6.2.2.
            if vr not in ("SQ", _UNKNOWN):
                raise BadDataSet("an element that is no sequence has no length")
            return Value("SQ", items=self._items(stop, length, is_explicit and vr == "SQ", depth))
        if length > stop - self._place:
            raise BadDataSet("it ends within an element")
        value = self._data[self._place : self._place + length]
        self._place += length
        return Value(vr, value)

    def _explicit(self, stop: int) -> tuple[str, int]:
        """The VR and the length of an element in explicit form."""
        if stop - self._place < 4:
            raise BadDataSet("it ends within an element")
        vr = self._data[self._place : self._place + 2]
        self._place += 2
        if not (vr.isalpha() and vr.isupper()):
            raise BadDataSet("an element has no value representation")
        if vr in SHORT_VRS:
            (length,) = _SHORT.unpack_from(self._data, self._place)
            self._place += 2
            return vr.decode(), length
        self._place += 2
        return vr.decode(), self._length(stop)

    def _items(
        self, stop: int, length: int, is_explicit: bool, depth: int
    ) -> tuple[dict[int, Value], ...]:
        """The items of a sequence of a length, or up to its delimiter."""
        is_delimited = length == _UNDEFINED
        end = stop if is_delimited else self._place + length
        if end > stop:
            raise BadDataSet("it ends within a sequence")
        found: list[dict[int, Value]] = []
        while self._place < end:
            tag = self._tag(end)
            size = self._length(end)
            if tag == _SEQUENCE_END and is_delimited:
                return tuple(found)
            if tag != _ITEM:
                raise BadDataSet("a sequence has something else than items")
            self._count_one()
            if size != _UNDEFINED and size > end - self._place:
                raise BadDataSet("it ends within an item")
            until = _UNDEFINED if size == _UNDEFINED else self._place + size
            found.append(self.elements(until, is_explicit, depth + 1))
            if self._place > end:
                raise BadDataSet("an item is longer than its sequence")
        if is_delimited:
            raise BadDataSet("it ends within a sequence")
        return tuple(found)

    def _tag(self, stop: int) -> int:
        if stop - self._place < _TAG.size:
            raise BadDataSet("it ends within an element")
        group, element = _TAG.unpack_from(self._data, self._place)
        self._place += _TAG.size
        return int(group << 16 | element)

    def _length(self, stop: int) -> int:
        if stop - self._place < _LONG.size:
            raise BadDataSet("it ends within an element")
        (length,) = _LONG.unpack_from(self._data, self._place)
        self._place += _LONG.size
        return int(length)

    def _count_one(self) -> None:
        self._count += 1
        if self._count > limits.DATA_SET_ELEMENTS:
            raise BadDataSet("it has too many elements")


# --- writing ---------------------------------------------------------------------------


def encode_data_set(values: DataSet, transfer_syntax: str) -> bytes:
    """Write a data set: elements in the order of their tags, all lengths defined, values padded.

    Raises:
        BadDataSet: a value is too long for its VR, or the transfer syntax is not written here.
    """
    return _encoded(values, _is_explicit(transfer_syntax))


def _encoded(values: DataSet, is_explicit: bool) -> bytes:
    found: list[bytes] = []
    for tag in sorted(values):
        value = values[tag]
        data = value.data
        if value.vr == "SQ":
            data = b"".join(
                _HEAD.pack(_ITEM >> 16, _ITEM & 0xFFFF, len(item)) + item
                for item in (_encoded(one, is_explicit) for one in value.items)
            )
        elif len(data) % 2:
            data += b"\0" if value.vr in _ZERO_PADDED else b" "
        found += (_head(tag, value.vr, len(data), is_explicit), data)
    return b"".join(found)


def _head(tag: int, vr: str, length: int, is_explicit: bool) -> bytes:
    group, element = tag >> 16, tag & 0xFFFF
    if not is_explicit:
        return _HEAD.pack(group, element, length)
    name = vr.encode("ascii")
    if name not in SHORT_VRS:
        return _HEAD_LONG.pack(group, element, name, length)
    if length > 0xFFFF:
        raise BadDataSet(f"a value of {length} bytes is too long for {vr}")
    return _HEAD_SHORT.pack(group, element, name, length)
