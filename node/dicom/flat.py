"""The elements of a sequence, or of any run of elements, however deep they are nested.

For questions to small parts of a data set, whose order and values are known to be whole; the walker
(`elements`) reads files, and skips what is nested in a stated length.
"""

from collections.abc import Iterator
from typing import Literal

from edges.value_representations import LONG_VRS, SHORT_VRS
from node.dicom.elements import BadInstance

_UNDEFINED = 0xFFFFFFFF
_DELIMITERS = 0xFFFE


def flat(data: bytes, *, implicit: bool, big_endian: bool) -> Iterator[tuple[int, bytes, bytes]]:
    """Tag, value representation (b"" in implicit form) and value of each element without items.

    Raises:
        BadInstance: the bytes are not elements in this form alone.
    """
    order: Literal["big", "little"] = "big" if big_endian else "little"
    item = b"\xff\xfe\xe0\x00" if big_endian else b"\xfe\xff\x00\xe0"
    position = 0
    while position < len(data):
        head = data[position : position + 12]
        if len(head) < 8:
            raise BadInstance("is cut within a sequence")
        group = int.from_bytes(head[:2], order)
        tag = group << 16 | int.from_bytes(head[2:4], order)
        vr, value = b"", position + 8
        length = int.from_bytes(head[4:8], order)
        if group == _DELIMITERS:
            position = value
            continue
        if not implicit:
            vr = head[4:6]
            if vr in SHORT_VRS:
                length = int.from_bytes(head[6:8], order)
            elif vr in LONG_VRS and len(head) == 12:
                value, length = position + 12, int.from_bytes(head[8:12], order)
            else:
                raise BadInstance("has an unknown value representation within a sequence")
        is_open = length == _UNDEFINED
        if is_open and vr == b"UN":
            raise BadInstance("has items of another form within a sequence")
        if is_open or vr == b"SQ" or (implicit and data[value : value + 4] == item):
            position = value
            continue
        position = value + length
        if position > len(data):
            raise BadInstance("is cut within a sequence")
        yield tag, vr, data[value:position]
