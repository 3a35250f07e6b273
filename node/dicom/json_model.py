"""An instance as DICOM JSON (PS3.18 annex F), with bulk data by reference.

Whatever a file says, it gives JSON: what is no number stays a text, and what cannot be read is left
out. One instance with a bad value must not take its series from a viewer.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from node.dicom.data_sets import DataSet, Element
from node.dicom.elements import PIXEL_DATA
from node.dicom.texts import decoded, encodings_of

INLINE_BYTES = 1024
"""Longest value of bytes that stands in the JSON; longer ones are bulk data."""

TEXT_BYTES = 256 * 1024
"""Longest text that stands in the JSON."""

WHOLE_BYTES = 8 * 1024 * 1024
"""Most bytes of values longer than `_SHORT_BYTES` that stand in the JSON of one instance; those
after them are bulk data, whatever their length."""

_SHORT_BYTES = 64

_PIECE_BYTES = 1024 * 1024
"""Bytes of bulk data that are read at a time: whole words of any size."""

_CHARACTER_SET = 0x00080005
_BYTES = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_BULK = frozenset((PIXEL_DATA, 0x7FE00008, 0x7FE00009))
_LOCALIZED = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_WHOLE_TEXTS = frozenset(("LT", "ST", "UT", "UR"))
"""Texts of one value, in which a backslash is a backslash."""

_NUMBERS = {"FD": "d", "FL": "f", "SL": "l", "SS": "h", "SV": "q", "UL": "L", "US": "H", "UV": "Q"}
_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
"""Bytes of one number in values that differ with the byte order."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?")
_SINGLE = struct.Struct("<f")
_MOST_FLOAT = 3.4e38
_EXACT = 2**53
"""Beyond this, a number of JavaScript is not exact: it is given as a text."""

Place = tuple[str, ...]
"""Where an element is: tags, and between them the numbers of items, from 0."""


def instance_json(data: DataSet, uri_of: Callable[[Place], str]) -> bytes:
    """The JSON object of one instance, UTF-8.

    Args:
        data: its data set.
        uri_of: gives the URI of the bulk data at a place.
    """
    found = _Writing(data, uri_of).object(data.elements, ("iso8859",), ())
    text = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def element_at(data: DataSet, place: Place) -> Element | None:
    """The element at a place; None where there is none."""
    elements = data.elements
    for number in range(0, len(place), 2):
        one = next((each for each in elements if f"{each.tag:08X}" == place[number]), None)
        if one is None or number == len(place) - 1:
            return one
        index = int(place[number + 1])
        if one.items is None or index >= len(one.items):
            return None
        elements = one.items[index]
    return None


def bulk_pieces(data: DataSet, one: Element) -> Iterator[bytes]:
    """The bytes of a value in pieces, numbers little endian; for values that are no sequences."""
    for start in range(0, one.length, _PIECE_BYTES):
        piece = data.read(one.at + start, min(_PIECE_BYTES, one.length - start))
        yield little_endian(data, one.vr, piece)


def little_endian(data: DataSet, vr: str, value: bytes) -> bytes:
    """A value of bytes with its numbers little endian, as it goes over the web."""
    size = _WORDS.get(vr, 1)
    if not data.is_big_endian or size == 1:
        return value
    whole = len(value) - len(value) % size
    swapped = bytearray(whole)
    for byte in range(size):
        swapped[byte::size] = value[size - 1 - byte : whole : size]
    return bytes(swapped) + value[whole:]


class _Writing:
    """Makes the JSON of one data set."""

    def __init__(self, data: DataSet, uri_of: Callable[[Place], str]) -> None:
        self._data = data
        self._uri_of = uri_of
        self._order = ">" if data.is_big_endian else "<"
        self._left = WHOLE_BYTES

    def object(
        self, elements: list[Element], encodings: tuple[str, ...], place: Place
    ) -> dict[str, Any]:
        """The JSON object of the elements of a data set or an item."""
        found: dict[str, Any] = {}
        for one in elements:
            name = f"{one.tag:08X}"
            if name in found:
                continue
            if one.tag == _CHARACTER_SET and one.length <= INLINE_BYTES:
                encodings = encodings_of(self._data.value(one))
            found[name] = self._attribute(one, encodings, (*place, name))
        if list(found) != sorted(found):
            found = dict(sorted(found.items()))
        return found

    def _attribute(self, one: Element, encodings: tuple[str, ...], place: Place) -> dict[str, Any]:
        vr = one.vr
        if one.items is not None:
            values = [
                self.object(item, encodings, (*place, str(number)))
                for number, item in enumerate(one.items)
            ]
            return {"vr": vr, "Value": values} if values else {"vr": vr}
        if not one.length or (one.fragments is not None and len(place) > 1):
            # Compressed pixels of an icon: nobody asks for their fragments.
            return {"vr": vr}
        if one.tag in _BULK or one.fragments is not None or one.length > _most(vr):
            return {"vr": vr, "BulkDataURI": self._uri_of(place)}
        if one.length > _SHORT_BYTES:
            if one.length > self._left:
                return {"vr": vr, "BulkDataURI": self._uri_of(place)}
            self._left -= one.length
        value = self._data.value(one)
        if vr in _BYTES:
            inline = base64.b64encode(little_endian(self._data, vr, value)).decode("ascii")
            return {"vr": vr, "InlineBinary": inline}
        values = self._values(one, vr, value, encodings)
        if all(each is None for each in values):
            return {"vr": vr}
        return {"vr": vr, "Value": values}

    def _values(self, one: Element, vr: str, value: bytes, encodings: tuple[str, ...]) -> list[Any]:
        if vr in _NUMBERS:
            return self._numbers(vr, value)
        if vr == "AT":
            halves = self._numbers("US", value)
            return [f"{a:04X}{b:04X}" for a, b in zip(halves[::2], halves[1::2], strict=False)]
        if vr in _LOCALIZED:
            text = decoded(value, encodings, is_name=vr == "PN")
        elif one.tag == _CHARACTER_SET:
            # What follows is UTF-8, whatever it was in the file.
            return ["ISO_IR 192"]
        else:
            text = value.decode("latin-1")
        if vr in _WHOLE_TEXTS:
            return [text.rstrip(" \0") or None]
        parts = [
            part.rstrip(" \0") if vr == "UC" else part.strip(" \0") for part in text.split("\\")
        ]
        if vr == "PN":
            return [_name(part) for part in parts]
        if vr == "IS":
            return [_integer(part) for part in parts]
        if vr == "DS":
            return [_decimal(part) for part in parts]
        return [part or None for part in parts]

    def _numbers(self, vr: str, value: bytes) -> list[Any]:
        form = _NUMBERS[vr]
        size = struct.calcsize(f"<{form}")
        count = len(value) // size
        found = struct.unpack_from(f"{self._order}{count}{form}", value)
        if form in "df":
            return [_real(one, form) for one in found]
        return [one if -_EXACT <= one <= _EXACT else str(one) for one in found]


def _most(vr: str) -> int:
    return INLINE_BYTES if vr in _BYTES else TEXT_BYTES


def _real(number: float, form: str) -> float | str:
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    if form == "d":
        return number
    # The shortest text that is the same number with 32 bits.
    for digits in range(6, 9):
        short = float(f"{number:.{digits}g}")
        if abs(short) < _MOST_FLOAT and _SINGLE.unpack(_SINGLE.pack(short))[0] == number:
            return short
    return float(f"{number:.9g}")


def _integer(text: str) -> int | str | None:
    if not text:
        return None
    if _INTEGER.fullmatch(text) is None:
        return text
    number = int(text.partition(".")[0])
    return number if -_EXACT <= number <= _EXACT else text


def _decimal(text: str) -> float | int | str | None:
    if not text:
        return None
    if _DECIMAL.fullmatch(text) is None:
        return text
    number = float(text)
    if math.isinf(number):
        return text
    return int(number) if number.is_integer() and abs(number) <= _EXACT else number


def _name(text: str) -> dict[str, str] | None:
    groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False))
    return {kind: group.strip() for kind, group in groups.items() if group.strip()} or None
