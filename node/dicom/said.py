"""What a file says in single elements, as texts: for the records of a DICOMDIR.

Only the beginning of a file is needed. What is odd or missing is left out, never guessed.
"""

from collections.abc import Collection, Mapping
from typing import Literal

from edges.value_representations import LONG_VRS
from node.dicom.elements import BadInstance, Read
from node.dicom.part10 import BIG_ENDIAN, DEFLATED, IMPLICIT, read_meta, walk_data_set
from node.dicom.texts import decoded, encodings_of
from node.dicom.unmarked import NotDicom

_CHARACTER_SET = 0x00080005
_NUMBERS = {0x00280010: 2, 0x00280011: 2, 0x00289001: 4, 0x00289002: 4}
"""Elements of binary numbers, with their bytes: Rows, Columns, Data Point Rows and Columns."""
_NAMES = frozenset((0x00100010, 0x00700084))

_ITEM = 0xFFFEE000
_MOST_ELEMENTS = 8
_MOST_VALUE_BYTES = 1024


def _order(syntax: str) -> Literal["big", "little"]:
    return "big" if syntax == BIG_ENDIAN else "little"


def said_of(read: Read, size: int, tags: Collection[int]) -> dict[int, str]:
    """The values of these elements of the top level; of several in one element all, with `\\`.

    Args:
        read: reads the file, or its first bytes.
        size: bytes that can be read.
        tags: of text elements, or of the binary ones that are known here.
    """
    try:
        meta, syntax = read_meta(read)
        walked = walk_data_set(
            read,
            meta.end,
            size,
            syntax,
            wanted={*tags, _CHARACTER_SET},
            unique=(),
            until=max(tags) + 1,
            complete=False,
        )
    except (BadInstance, NotDicom):
        return {}
    encodings = encodings_of(walked.values.get(_CHARACTER_SET, b""))
    order = _order(syntax)
    said = {}
    for tag in walked.values.keys() & set(tags):
        value = walked.values[tag]
        count = _NUMBERS.get(tag)
        if count is not None:
            said[tag] = str(int.from_bytes(value[:count], order))
        else:
            said[tag] = decoded(value, encodings, is_name=tag in _NAMES).strip(" \0")
    return said


CODE = {0x00080100: "SH", 0x00080102: "SH", 0x00080103: "SH", 0x00080104: "LO"}
"""The elements of a code, with their VRs."""


def first_item(
    read: Read, size: int, tag: int, wanted: Mapping[int, str]
) -> dict[int, tuple[str, str]]:
    """Texts in the first item of a sequence of the top level, as far as they can be read in place.

    Args:
        read, size: as for `said_of`.
        tag: of the sequence.
        wanted: the elements of its item that are read, with their VRs.

    Returns:
        VR and value of those that are there and not empty.
    """
    try:
        meta, syntax = read_meta(read)
        if syntax in DEFLATED:
            return {}
        at = walk_data_set(
            read, meta.end, size, syntax, wanted=(_CHARACTER_SET,), unique=(), until=tag,
            complete=False,
        )  # fmt: skip
    except (BadInstance, NotDicom):
        return {}
    order = _order(syntax)
    encodings = encodings_of(at.values.get(_CHARACTER_SET, b""))

    def tag_at(position: int) -> int:
        head = read(position, 4)
        return int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)

    position = at.end
    if tag_at(position) != tag:
        return {}
    position += 8 if syntax in IMPLICIT else 12
    if tag_at(position) != _ITEM:
        return {}
    position += 8
    found: dict[int, tuple[str, str]] = {}
    for _ in range(_MOST_ELEMENTS):
        this = tag_at(position)
        vr = read(position + 4, 2)
        if syntax in IMPLICIT:
            head, length = 8, int.from_bytes(read(position + 4, 4), order)
        elif vr in LONG_VRS:
            head, length = 12, int.from_bytes(read(position + 8, 4), order)
        else:
            head, length = 8, int.from_bytes(read(position + 6, 2), order)
        if this > max(wanted) or length > _MOST_VALUE_BYTES:
            break
        if this in wanted:
            value = read(position + head, length)
            text = decoded(value, encodings, is_name=False).strip(" \0")
            if text:
                found[this] = (wanted[this], text)
        position += head + length
    return found
