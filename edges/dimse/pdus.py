"""Protocol data units: their heads, the short ones, and P-DATA-TF; PS3.8 section 9.3."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from edges.dimse import limits

HEAD_BYTES = 6
"""Bytes of a PDU before its variable field: type, a reserved byte, length."""


class Type(IntEnum):
    """PDU types."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class BadPdu(ValueError):
    """Bytes that are no PDU that may come here.

    Attributes:
        reason: of an A-ABORT by the service provider, PS3.8 section 9.3.8.
    """

    def __init__(self, sentence: str, reason: int) -> None:
        super().__init__(sentence)
        self.reason = reason


UNRECOGNIZED, UNEXPECTED, INVALID_VALUE = 1, 2, 6
"""Reasons of an A-ABORT by the service provider."""

_HEAD = struct.Struct(">BxL")
_ITEM = struct.Struct(">LBB")

_LONGEST = {
    Type.ASSOCIATE_RQ: limits.REQUEST_BYTES,
    Type.ASSOCIATE_AC: limits.REQUEST_BYTES,
    Type.ASSOCIATE_RJ: 4,
    Type.P_DATA_TF: limits.PDU_BYTES,
    Type.RELEASE_RQ: 4,
    Type.RELEASE_RP: 4,
    Type.ABORT: 4,
}

RELEASE_RQ = _HEAD.pack(Type.RELEASE_RQ, 4) + bytes(4)
RELEASE_RP = _HEAD.pack(Type.RELEASE_RP, 4) + bytes(4)


def read_head(data: bytes | bytearray) -> tuple[Type, int]:
    """The type of a PDU and the length of what follows, from its first six bytes.

    Raises:
        BadPdu: there is no such type, or it is too long to be taken.
    """
    kind, length = _HEAD.unpack_from(data)
    try:
        known = Type(kind)
    except ValueError:
        raise BadPdu(f"there is no PDU of type {kind}", UNRECOGNIZED) from None
    longest = _LONGEST[known]
    if length > longest or (longest == 4 and length != 4):
        raise BadPdu(f"a PDU of type {kind} claims {length} bytes", INVALID_VALUE)
    return known, length


@dataclass(frozen=True, slots=True)
class Item:
    """One presentation data value item."""

    context_id: int
    is_command: bool
    is_last: bool
    fragment: memoryview


def items(body: bytes) -> Iterator[Item]:
    """The items of a P-DATA-TF, from its variable field.

    Raises:
        BadPdu: they do not fill it.
    """
    view, place, end = memoryview(body), 0, len(body)
    if not end:
        raise BadPdu("a P-DATA-TF holds nothing", INVALID_VALUE)
    while place < end:
        if end - place < _ITEM.size:
            raise BadPdu("a P-DATA-TF ends within an item", INVALID_VALUE)
        length, context_id, flags = _ITEM.unpack_from(body, place)
        stop = place + 4 + length
        if length < 2 or stop > end:
            raise BadPdu("an item of a P-DATA-TF is longer than it", INVALID_VALUE)
        yield Item(context_id, bool(flags & 1), bool(flags & 2), view[place + _ITEM.size : stop])
        place = stop


def p_data(
    context_id: int, data: bytes, *, is_command: bool, most: int, is_last: bool = True
) -> bytes:
    """The P-DATA-TF PDUs for one command set or data set, or for a piece of a data set.

    Args:
        context_id: of the presentation context.
        data: the whole set, or the piece.
        is_command: whether it is a command set.
        is_last: whether the set ends with it.
        most: bytes of a variable field that the other side takes; 0 for any number.
    """
    bound = min(most or limits.SENT_PDU_BYTES, limits.SENT_PDU_BYTES)
    step = max(1, bound - _ITEM.size)
    found = []
    for start in range(0, max(1, len(data)), step):
        part = data[start : start + step]
        flags = int(is_command) | (2 if is_last and start + step >= len(data) else 0)
        found.append(_HEAD.pack(Type.P_DATA_TF, len(part) + _ITEM.size))
        found.append(_ITEM.pack(len(part) + 2, context_id, flags))
        found.append(part)
    return b"".join(found)


def abort(source: int, reason: int) -> bytes:
    """An A-ABORT: source 0 for the user, 2 for the service provider, with its reason."""
    return _HEAD.pack(Type.ABORT, 4) + bytes((0, 0, source, reason))


def reject(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ, PS3.8 section 9.3.4."""
    return _HEAD.pack(Type.ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))
