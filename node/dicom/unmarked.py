"""Files without the DICOM mark: which of them were meant as DICOM, and why they are not taken.

On media, files of images have names without suffix. If such a file is empty, holds zeros,
or has too few or too many bytes before its mark, it is a lost image, and must not be passed
over as if it were something else.
"""

import re
import struct

from edges.value_representations import LONG_VRS, SHORT_VRS
from node.dicom.elements import WINDOW_BYTES, BadInstance, Read

_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9_-]*$")
"""A suffix of another kind of file; a name that is a UID has no such suffix."""

_APPLE_DOUBLE = b"\0\x05\x16\x07"
"""First bytes of a file that a Mac keeps beside each file on foreign disks, as `._` + name."""

_HEAD_BYTES = 4096
_META_BEGIN = re.compile(rb"DICM\x02\0[\0-\x1f]\0")
_FEWEST_ELEMENTS = 3
_LONGEST_VALUE_BYTES = 4096


class NotDicom(Exception):
    """A file that plainly is something else; it is counted and left alone."""


class MediaDirectory(NotDicom):
    """A DICOMDIR: it lists instances and is no instance itself."""


def why_not_taken(read: Read, size: int, name: str) -> Exception:
    """The reason why a file without the DICOM mark in its place is not taken.

    Args:
        read: (offset, length) -> bytes of the file.
        size: bytes of the file.
        name: name of the file.

    Returns:
        `BadInstance` if it was meant as DICOM, else `NotDicom`.
    """
    head = read(0, _HEAD_BYTES)
    if head[:4] == _APPLE_DOUBLE:
        return NotDicom("is what a Mac keeps beside a file")
    if head[:4] == b"DICM":
        return BadInstance("has its DICOM mark at byte 0: the preamble of 128 bytes is missing")
    mark = _META_BEGIN.search(head)
    if mark is not None:
        return BadInstance(
            f"has its DICOM mark at byte {mark.start()}, where byte 128 is its place"
        )
    if _is_meta(head):
        return BadInstance("has its file meta without preamble and DICOM mark in front")
    if _is_bare(head):
        return BadInstance("is a bare data set without file meta: its encoding is not stated")
    is_named = name.lower().endswith(_DICOM_SUFFIXES)
    has_suffix = _SUFFIX.search(name) is not None or name.startswith(".")
    if not head:
        if is_named:
            return BadInstance("is named as DICOM and is empty")
        return NotDicom("empty") if has_suffix else BadInstance("is empty")
    if (is_named or not has_suffix) and _is_zero(read, size):
        return BadInstance("holds nothing but zero bytes")
    if is_named:
        return BadInstance("is named as DICOM and is none")
    return NotDicom("has no DICOM mark")


def _is_zero(read: Read, size: int) -> bool:
    for start in range(0, size, WINDOW_BYTES):
        data = read(start, WINDOW_BYTES)
        if data.count(0) != len(data):
            return False
    return True


def _is_meta(head: bytes) -> bool:
    """Whether the bytes begin with elements of the file meta, explicit or implicit."""
    if len(head) < 8 or head[:2] != b"\2\0" or head[3]:
        return False
    if head[4:6] in (b"UL", b"OB", b"UI"):
        return True
    return head[2:8] == b"\0\0\4\0\0\0"


_FIRST_ELEMENTS = frozenset(
    (0x0008, element) for element in (0x0000, 0x0001, 0x0005, 0x0006, 0x0008, 0x0012, 0x0016)
)
"""First elements of a data set: group length, character set, image type, SOP class, ..."""


def _is_bare(head: bytes) -> bool:
    """Whether the bytes begin like a data set."""
    if len(head) < 8:
        return False
    if struct.unpack_from("<HH", head) in _FIRST_ELEMENTS:
        return True
    if struct.unpack_from(">HH", head) in _FIRST_ELEMENTS:
        return True
    return any(
        _elements(head, order, explicit) for order in ("<", ">") for explicit in (True, False)
    )


def _elements(head: bytes, order: str, explicit: bool) -> bool:
    """Whether several elements follow one another in ascending order, as in a data set."""
    position = last = count = 0
    while count < _FEWEST_ELEMENTS:
        if position + 12 > len(head):
            return False
        group, element, vr = struct.unpack_from(f"{order}HH2s", head, position)
        tag = group << 16 | element
        if tag <= last or not 0x0008 <= group <= 0x7FE0 or (last == 0 and group > 0x0020):
            return False
        if not explicit:
            (length,) = struct.unpack_from(f"{order}I", head, position + 4)
            position += 8
        elif vr in SHORT_VRS:
            (length,) = struct.unpack_from(f"{order}H", head, position + 6)
            position += 8
        elif vr in LONG_VRS:
            (length,) = struct.unpack_from(f"{order}I", head, position + 8)
            position += 12
        else:
            return False
        if length > _LONGEST_VALUE_BYTES or length % 2:
            return False
        position += length
        last = tag
        count += 1
    return True
