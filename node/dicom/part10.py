"""The structure of a DICOM Part 10 file (PS3.10 section 7): file meta, then a data set.

Knows where the parts of a file are and which instance the file claims to be; the
attributes for the catalog are the task of `node.dicom.studies`.
"""

import re
import struct
from collections.abc import Collection

from edges.value_representations import LONG_VRS, SHORT_VRS
from node.dicom.elements import BadInstance, Read, Walked, walk
from node.dicom.inflating import Inflater
from protocol.fields import is_uid

DICOM_MARK_OFFSET = 128
META_OFFSET = 132
IMPLICIT = ("1.2.840.10008.1.2", "1.2.840.113619.5.2")
"""Implicit VR Little Endian, and GE's private syntax that differs in the pixels only."""
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")

SOP_INSTANCE = 0x00080018
STUDY = 0x0020000D
SERIES = 0x0020000E
UIDS = (SOP_INSTANCE, STUDY, SERIES)
"""In the order of a data set."""
PATIENT_ID = 0x00100020
STUDY_ID = 0x00200010
OF_STUDY = (
    0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080080, 0x00080090, 0x00081030, 0x00100010,
    PATIENT_ID, 0x00100021, 0x00100030, 0x00100040, STUDY_ID,
)  # fmt: skip
"""The patient and study attributes, with their character set; in the order of a data set."""
META_SOP_CLASS = 0x00020002
META_SOP_INSTANCE = 0x00020003
META_TRANSFER_SYNTAX = 0x00020010
_META_WANTED = (META_SOP_CLASS, META_SOP_INSTANCE, META_TRANSFER_SYNTAX)

_ISSUER = re.compile(re.escape(struct.pack("<HH", 0x0010, 0x0021)))
"""A pattern, since it searches any buffer where it is: a copy takes longer than the search."""
_QUICK_BYTES = 16 * 1024
_NOT_QUICK = (BIG_ENDIAN, *DEFLATED)
_UNDEFINED = 0xFFFFFFFF


def reader_of(data: bytes | memoryview) -> Read:
    """A `Read` of bytes in memory, for the walker."""

    def read(offset: int, length: int) -> bytes:
        return bytes(data[offset : offset + length])

    return read


def uid_of(values: dict[int, bytes], tag: int) -> str:
    """A UID without its padding; with bytes beyond ASCII it is not a valid UID."""
    return values.get(tag, b"").rstrip(b"\0 ").decode("latin-1")


def read_meta(read: Read) -> tuple[Walked, str]:
    """The file meta group, always Explicit VR Little Endian (PS3.10 section 7.1).

    Some tools have written the group twice in a row; then the first one counts.
    """
    meta = walk(
        read,
        META_OFFSET,
        None,
        implicit=False,
        wanted=_META_WANTED,
        until=0x00030000,
        complete=False,
    )
    transfer_syntax = uid_of(meta.values, META_TRANSFER_SYNTAX)
    if not transfer_syntax:
        raise BadInstance("has file meta without a Transfer Syntax UID")
    if not is_uid(transfer_syntax):
        raise BadInstance("has a Transfer Syntax UID that is no UID")
    return meta, transfer_syntax


def walk_data_set(
    read: Read,
    start: int,
    size: int,
    transfer_syntax: str,
    *,
    wanted: Collection[int],
    unique: Collection[int],
    noticed: Collection[int] = (),
    until: int | None,
    complete: bool,
) -> Walked:
    """Walk a data set in the encoding of its transfer syntax; as `elements.walk`."""
    if transfer_syntax in DEFLATED:
        inflater = Inflater(read, start, complete=complete)
        walked = walk(
            inflater.read,
            0,
            None,
            implicit=False,
            wanted=wanted,
            unique=unique,
            noticed=noticed,
            until=until,
            complete=complete,
        )
        if complete and inflater.check_end():
            walked.notes.append("a few bytes follow the deflated data")
        return walked
    return walk(
        read,
        start,
        size,
        implicit=transfer_syntax in IMPLICIT,
        big_endian=transfer_syntax == BIG_ENDIAN,
        wanted=wanted,
        unique=unique,
        noticed=noticed,
        until=until,
        complete=complete,
    )


def matches_header(
    original: bytes | memoryview,
    study_uid: str,
    series_uid: str,
    sop_instance_uid: str,
    *,
    size: int | None = None,
) -> bool | None:
    """Whether an instance carries these three UIDs.

    Elements should be in ascending order; then the beginning of the file suffices. But an
    ingest takes files with any order, so a file is read to its end before the answer is no.

    Args:
        original: the file, or its first bytes.
        size: size of the file in bytes, if `original` is only its beginning.

    Returns:
        None if these bytes do not suffice and the rest must be read.
    """
    read = reader_of(original)
    uids = (study_uid, series_uid, sop_instance_uid)
    try:
        # The three tags are below 0020,000F, far before the pixels.
        found = _identity(read, len(original), until=SERIES + 1, complete=False)
        if all(found):
            return found == uids
    except BadInstance:
        pass
    if size is not None and size > len(original):
        return None
    return carries(read, len(original), *uids)


def carries(read: Read, size: int, study_uid: str, series_uid: str, sop_instance_uid: str) -> bool:
    """Whether a whole file carries these three UIDs, at any place."""
    try:
        found = _identity(read, size, until=None, complete=True)
    except BadInstance:
        return False
    return found == (study_uid, series_uid, sop_instance_uid)


def _identity(read: Read, size: int, *, until: int | None, complete: bool) -> tuple[str, str, str]:
    if read(DICOM_MARK_OFFSET, 4) != b"DICM":
        raise BadInstance("has no DICOM mark")
    meta, transfer_syntax = read_meta(read)
    found = walk_data_set(
        read,
        meta.end,
        size,
        transfer_syntax,
        wanted=UIDS,
        unique=UIDS,
        until=until,
        complete=complete,
    ).values
    return uid_of(found, STUDY), uid_of(found, SERIES), uid_of(found, SOP_INSTANCE)


class HeaderMatcher:
    """As `matches_header`, for many instances, most with the same layout as the one before.

    It runs for each instance that arrives, while the network waits for the interpreter. It
    handles the common files: little endian, not deflated. All other or odd files go to the
    walker.
    """

    def __init__(self) -> None:
        self._layout: _Layout | None = None

    def matches(
        self,
        original: bytes | memoryview,
        study_uid: str,
        series_uid: str,
        sop_instance_uid: str,
        *,
        size: int | None = None,
    ) -> bool | None:
        """Whether an instance carries these three UIDs; see `matches_header`."""
        layout = self._layout
        if layout is None or not layout.is_of(original):
            layout = _Layout.of(bytes(original[:_QUICK_BYTES]))
            if layout is None:
                return matches_header(original, study_uid, series_uid, sop_instance_uid, size=size)
            self._layout = layout
        return layout.match(original, study_uid, series_uid, sop_instance_uid)

    def of_study(self, original: bytes | memoryview) -> tuple[object, ...] | None:
        """The raw patient and study attributes of an instance, for comparison only.

        Returns:
            None if the walker must read the instance.
        """
        layout = self._layout
        return layout.of_study(original) if layout is not None and layout.is_of(original) else None


class _Layout:
    """The places of a file's elements, up to the first one after the Study ID.

    If another file has the same element headers at the same places, only its values can
    differ: one comparison shows that, and no walk is needed.
    """

    def __init__(
        self, headers: list[tuple[int, bytes]], values: dict[int, tuple[int, int]]
    ) -> None:
        self._headers = _pieces([(place, len(header)) for place, header in headers])
        self._expected = tuple(header for _, header in headers)
        self._uids = _pieces([values[tag] for tag in UIDS])
        self._of_study = tuple(tag for tag in OF_STUDY if tag in values)
        self._said = _pieces([values[tag] for tag in self._of_study])

    @classmethod
    def of(cls, head: bytes) -> "_Layout | None":
        """The layout of a file with this beginning; None if the walker must read it."""
        mark = head[DICOM_MARK_OFFSET:META_OFFSET]
        if mark != b"DICM":
            return None
        headers = [(DICOM_MARK_OFFSET, mark)]
        values: dict[int, tuple[int, int]] = {}
        has_syntax = is_implicit = False
        position = META_OFFSET
        last = 0
        try:
            while last <= STUDY_ID:
                group, element, vr, length = _ELEMENT.unpack_from(head, position)
                tag = group << 16 | element
                size = 8
                if is_implicit and group > 2:
                    if vr.isalpha() and vr.isupper():
                        return None
                    length = int.from_bytes(head[position + 4 : position + 8], "little")
                elif vr in LONG_VRS:
                    size = 12
                    length = int.from_bytes(head[position + 8 : position + 12], "little")
                elif vr not in SHORT_VRS:
                    return None
                if tag <= last or length == _UNDEFINED:
                    return None
                if tag == META_TRANSFER_SYNTAX:
                    # The value is part of the layout.
                    value = head[position + 8 : position + 8 + length]
                    syntax = value.rstrip(b"\0 ").decode("latin-1")
                    has_syntax = is_uid(syntax) and syntax not in _NOT_QUICK
                    is_implicit = syntax in IMPLICIT
                    headers.append((position, head[position : position + 8 + length]))
                else:
                    headers.append((position, head[position : position + size]))
                last = tag
                position += size
                if tag in UIDS or tag in OF_STUDY:
                    values[tag] = (position, length)
                position += length
        except struct.error:
            return None
        # A UID that is missing here comes later in the file, out of order.
        has_all = all(tag in values for tag in UIDS)
        return cls(headers, values) if has_syntax and has_all else None

    def is_of(self, original: bytes | memoryview) -> bool:
        """Whether a file has this layout."""
        if len(original) < self._headers.size:
            return False
        return self._headers.unpack_from(original) == self._expected

    def match(
        self, original: bytes | memoryview, study_uid: str, series_uid: str, sop_instance_uid: str
    ) -> bool:
        """Whether a file with this layout carries these UIDs."""
        found = [value.rstrip(b"\0 ") for value in self._uids.unpack_from(original)]
        return found == [uid.encode() for uid in (sop_instance_uid, study_uid, series_uid)]

    def of_study(self, original: bytes | memoryview) -> tuple[object, ...] | None:
        """The raw patient and study attributes of a file with this layout; None if the rest of
        the file may have further ones."""
        if PATIENT_ID not in self._of_study:
            return None
        if _ISSUER.search(original, self._headers.size, _QUICK_BYTES):
            # An issuer follows: out of order, or of another patient in a sequence.
            return None
        return (self._of_study, *self._said.unpack_from(original))


def _pieces(places: list[tuple[int, int]]) -> struct.Struct:
    """A struct that reads pieces of a buffer at (offset, length), ascending and disjoint."""
    parts = ["<"]
    position = 0
    for offset, length in places:
        parts.append(f"{offset - position}x{length}s")
        position = offset + length
    return struct.Struct("".join(parts))


_ELEMENT = struct.Struct("<HH2sH")
