"""Names an image from elsewhere as the archive of this facility has to know it.

Pure functions on the bytes of one Part 10 file. A few elements of the top level are replaced,
emptied or removed; what they were goes into Original Attributes Sequence (PS3.3 section
C.12.1.1.9), behind what stands there already. All other elements keep their bytes, pixel data above
all. The SOP Instance UID stays, as for any coercion of a Storage SCP (PS3.4 section B.4.1).
"""

import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from edges.value_representations import SHORT_VRS
from keys.written import folded
from node.dicom.elements import BadInstance, Placed, Read, Walked, tag_text, walk
from node.dicom.flat import flat
from node.dicom.headers import StudyAttributes
from node.dicom.identity import Code, Identity, is_among
from node.dicom.inflating import MAX_INFLATED_BYTES
from node.dicom.part10 import BIG_ENDIAN, DEFLATED, IMPLICIT, read_meta, reader_of
from node.dicom.studies import header_of
from node.dicom.texts import decoded, encoded, encodings_of

_CHARACTER_SET = 0x00080005
_LENGTH_TO_END = 0x00080001
_ACCESSION = 0x00080050
_DESCRIPTION = 0x00081030
_PATIENT_NAME, _PATIENT_ID, _ISSUER = 0x00100010, 0x00100020, 0x00100021
_ISSUER_QUALIFIERS = 0x00100024
_BIRTH_DATE, _SEX = 0x00100030, 0x00100040
_BODY_PART = 0x00180015
_PROCEDURES = (0x00081032, 0x00321064)
"""Procedure Code Sequence, Requested Procedure Code Sequence."""
_ORIGINALS = 0x04000561

_NUMBERS = {
    _ACCESSION: (b"SH", 16),
    0x00200010: (b"SH", 16),  # Study ID
    0x00380010: (b"LO", 64),  # Admission ID
    0x00380060: (b"LO", 64),  # Service Episode ID
    0x00401001: (b"SH", 16),  # Requested Procedure ID
    0x00402016: (b"LO", 64),  # Placer Order Number / Imaging Service Request
    0x00402017: (b"LO", 64),  # Filler Order Number / Imaging Service Request
}
"""Numbers that the other facility gave, with VR and most characters: each prefixed or emptied."""

_GONE = (
    0x00080051,  # Issuer of Accession Number Sequence
    0x00101000,  # Other Patient IDs: archives find patients by them
    0x00101002,  # Other Patient IDs Sequence
    0x00101090,  # Medical Record Locator
    0x00380011,  # Issuer of Admission ID
    0x00380014,  # Issuer of Admission ID Sequence
    0x00380061,  # Issuer of Service Episode ID
    0x00380064,  # Issuer of Service Episode ID Sequence
    0x00400026,  # Order Placer Identifier Sequence
    0x00400027,  # Order Filler Identifier Sequence
    0x00400275,  # Request Attributes Sequence: accession number, IDs of the request
    0x0040A370,  # Referenced Request Sequence: the same, of a report
)
"""Elements that say whose those numbers are, or repeat them in a sequence."""

_TEXTS = {
    _PATIENT_NAME: b"PN", _PATIENT_ID: b"LO", _ISSUER: b"LO", _BIRTH_DATE: b"DA", _SEX: b"CS",
    _BODY_PART: b"CS", _DESCRIPTION: b"LO", _CHARACTER_SET: b"CS",
    **{tag: vr for tag, (vr, _) in _NUMBERS.items()},
}  # fmt: skip

_CODE_VALUE, _CODE_SCHEME = 0x00080100, 0x00080102
_CODE = {_CODE_VALUE: b"SH", _CODE_SCHEME: b"SH", 0x00080104: b"LO"}
"""Value, scheme and meaning of a code, in the order of `Code`."""

_BINARY_VRS = frozenset(
    (b"AT", b"FD", b"FL", b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SL", b"SS", b"SV", b"UL",
     b"US", b"UV")
)  # fmt: skip
_UTF_8 = b"ISO_IR 192"
_IMAGE_GROUP = 0x0028
"""Numbers that describe the pixels, and in implicit form do not say so."""
_BULK = 0x50000000
"""From here on come curves, overlays, spectra and pixels."""

MODIFYING_SYSTEM = "RADMESH"

MAX_ORIGINAL_BYTES = 1024 * 1024
"""Most bytes of one element that is moved to the originals."""

_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000


class CannotCoerce(BadInstance):
    """An image cannot be named for the archive; `reason` is as for `BadInstance`."""


@dataclass(frozen=True)
class Edit:
    """Bytes from `begin` up to `end` of a file are replaced."""

    begin: int
    end: int
    data: bytes


def coerced(data: bytes, identity: Identity, now: int) -> bytes:
    """One image as it goes to the archive.

    Args:
        data: the whole Part 10 file.
        identity: how its study goes.
        now: the time, seconds since the epoch, UTC.

    Raises:
        CannotCoerce: it names another patient than its study was matched for, or its character
            set cannot hold the local patient.
        BadInstance: it cannot be read.
    """
    edits = edits_of(reader_of(data), len(data), identity, now)
    return _edited(data, edits) if edits else data


def _edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    parts: list[bytes | memoryview] = []
    view, position = memoryview(data), 0
    for edit in edits:
        parts += [view[position : edit.begin], edit.data]
        position = edit.end
    return b"".join([*parts, view[position:]])


def edits_of(read: Read, size: int, identity: Identity, now: int) -> list[Edit]:
    """What `coerced` changes in a file, in the order of the file; for a large one that is streamed.

    Args:
        read: (offset, length) -> bytes of the file.
        size: bytes of the file.
        identity, now: as for `coerced`.

    Raises:
        BadInstance: as for `coerced`.
    """
    if identity.unchanged:
        return []
    study = header_of(read, size).study
    _require_patient(study, identity)
    meta, syntax = read_meta(read)
    if syntax not in DEFLATED:
        return _DataSet(read, meta.end, size, syntax).edits(study, identity, now)
    packed = read(meta.end, size - meta.end)
    body = _inflated(packed)
    edits = _DataSet(reader_of(body), 0, len(body), syntax).edits(study, identity, now)
    if not edits:
        return []
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    again = deflate.compress(_edited(body, edits)) + deflate.flush()
    # Of even length (PS3.5 section A.5). A trailer, if there was one, would be wrong now.
    return [Edit(meta.end, size, again + b"\0" * (len(again) % 2))]


def _inflated(packed: bytes) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflate.decompress(packed, MAX_INFLATED_BYTES + 1)
    except zlib.error:
        raise BadInstance("has deflated data that cannot be inflated") from None
    if len(body) > MAX_INFLATED_BYTES:
        raise BadInstance(f"inflates to more than {MAX_INFLATED_BYTES} bytes")
    return body


def _require_patient(study: StudyAttributes, identity: Identity) -> None:
    named, issuer = study.patient_id, study.patient_id_issuer
    if named and identity.patients is not None and not is_among(named, issuer, identity.patients):
        raise CannotCoerce("is of another patient than its study was matched for")


class _DataSet:
    """The data set of one image, and what is written into it."""

    def __init__(self, read: Read, start: int, size: int, syntax: str) -> None:
        self._read = read
        self._big = syntax == BIG_ENDIAN
        self._walked: Walked = walk(
            read,
            start,
            size,
            implicit=syntax in IMPLICIT,
            big_endian=self._big,
            wanted=tuple(_TEXTS),
            listed=True,
        )
        self._placed = self._walked.placed
        ends = [one.begin for one in self._placed[1:]] + [self._walked.end]
        self._ends = dict(zip((one.begin for one in self._placed), ends, strict=True))
        self._tag_at = {one.begin: one.tag for one in self._placed}
        self._by_tag: dict[int, Placed] = {}
        for one in self._placed:
            self._by_tag.setdefault(one.tag, one)
        self._character_set = self._walked.values.get(_CHARACTER_SET, b"").strip(b" \0")

    # --- what changes --------------------------------------------------------------------

    def edits(self, study: StudyAttributes, identity: Identity, now: int) -> list[Edit]:
        """The edits for an identity, in their order."""
        changes = self._changes(study, identity)
        if not changes:
            return []
        item = self._item_of_originals(changes, identity.source, now)
        changes[_ORIGINALS] = self._with_item(item)
        edits = []
        for one in self._placed:
            is_first = one is self._by_tag[one.tag]
            if one.tag in changes and (is_first or one.tag != _ORIGINALS):
                # Of an element that stands twice all copies change, and one stays.
                written = changes[one.tag] if is_first else None
                edits.append(Edit(one.begin, self._ends[one.begin], written or b""))
        edits += [
            Edit(self._place_for(tag), self._place_for(tag), written)
            for tag, written in sorted(changes.items())
            if written is not None and tag not in self._by_tag
        ]
        edits.sort(key=lambda edit: (edit.begin, edit.end))
        return sorted([*edits, *self._lengths(edits)], key=lambda edit: edit.begin)

    def _changes(self, study: StudyAttributes, identity: Identity) -> dict[int, bytes | None]:
        """The elements that change, whole; None for one that is removed."""
        texts: dict[int, str] = {}
        gone = [one.tag for one in self._placed if one.tag in _GONE and not _is_empty(one)]
        is_same = (study.patient_id, study.patient_id_issuer) == (
            identity.patient_id,
            identity.issuer,
        )
        if not is_same:
            texts[_PATIENT_ID] = identity.patient_id
            if identity.issuer:
                texts[_ISSUER] = identity.issuer
            gone += [
                tag
                for tag in (_ISSUER, _ISSUER_QUALIFIERS)
                if tag in self._by_tag and tag not in texts
            ]
        for tag, text in (
            (_PATIENT_NAME, identity.name),
            (_BIRTH_DATE, identity.birth_date),
            (_SEX, identity.sex),
        ):
            if text:
                texts[tag] = text
        for tag, (_, most) in _NUMBERS.items():
            there = self._text(tag)
            if tag == _ACCESSION and identity.accession_number:
                texts[tag] = identity.accession_number
            elif there or self._stands_twice(tag):
                texts[tag] = _number(there, identity.prefix, most)
        texts = self._differing(texts)
        words = self._differing(
            {
                _DESCRIPTION: identity.maps.descriptions.get(folded(study.study_description), ""),
                _BODY_PART: identity.maps.body_parts.get(self._text(_BODY_PART).upper(), ""),
            }
        )
        codes = {tag: self._mapped(tag, identity.maps.procedures) for tag in _PROCEDURES}
        needed = {**texts, **words}
        is_utf_8 = self._needs_utf_8([*needed.items(), *_texts_of(codes.values())])
        if is_utf_8:
            self._character_set = _UTF_8
        changes: dict[int, bytes | None] = dict.fromkeys(gone)
        for tag, text in needed.items():
            value = self._encoded(tag, text)
            if value is not None:
                changes[tag] = self._element(tag, _TEXTS[tag], value)
            elif tag in texts:
                raise CannotCoerce(
                    f"has a character set that cannot hold the element {tag_text(tag)} of the"
                    " local patient"
                )
        for tag, code in codes.items():
            written = None if code is None else self._coded(code)
            if written is not None:
                changes[tag] = self._element(tag, b"SQ", written)
        if is_utf_8:
            changes[_CHARACTER_SET] = self._element(_CHARACTER_SET, b"CS", _UTF_8)
        return changes

    def _differing(self, texts: Mapping[int, str]) -> dict[int, str]:
        """Those of these texts that do not stand there already; a word of ours is not empty."""
        return {
            tag: text
            for tag, text in texts.items()
            if (text != self._text(tag) or self._stands_twice(tag))
            and (text or tag not in (_DESCRIPTION, _BODY_PART))
        }

    def _text(self, tag: int) -> str:
        value = self._walked.values.get(tag, b"")
        text = decoded(value, encodings_of(self._character_set), is_name=_TEXTS.get(tag) == b"PN")
        return text.strip(" \0")

    def _stands_twice(self, tag: int) -> bool:
        return sum(one.tag == tag for one in self._placed) > 1

    # --- character sets --------------------------------------------------------------------

    def _needs_utf_8(self, texts: Iterable[tuple[int, str]]) -> bool:
        """Whether the image gets another character set, as its own cannot hold these texts.

        That is done if its own is the default one, in which only ASCII may stand, and only ASCII
        does stand there: as UTF-8 no byte means anything else. Any other set stays: to write all
        texts anew, also of private elements that nobody can read, would be a guess.
        """
        cannot = [tag for tag, text in texts if self._encoded(tag, text) is None]
        return bool(cannot) and self._is_all_ascii()

    def _encoded(self, tag: int, text: str) -> bytes | None:
        return encoded(text, self._character_set, is_name=_TEXTS.get(tag) == b"PN")

    def _is_all_ascii(self) -> bool:
        """Whether no text of the image has any other sign than those of ASCII.

        A value whose form is not known counts as text, but for those of private elements.
        """
        if self._character_set not in (b"", b"ISO_IR 6") or not self._placed:
            return False
        begin = self._placed[0].begin
        end = next((one.begin for one in self._placed if one.tag >= _BULK), self._walked.end)
        if end - begin > MAX_ORIGINAL_BYTES:
            return False
        try:
            return all(
                value.isascii() and b"\x1b" not in value
                for tag, vr, value in self._flat(self._read(begin, end - begin))
                if not (vr in _BINARY_VRS or tag >> 16 == _IMAGE_GROUP or tag >> 16 & 1)
            )
        except BadInstance:
            return False

    def _flat(self, data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        return flat(data, implicit=self._walked.implicit, big_endian=self._big)

    # --- procedure codes ---------------------------------------------------------------------

    def _mapped(self, tag: int, procedures: Mapping[tuple[str, str], Code]) -> Code | None:
        """Our code for the first one of a sequence; None if there is none, or ours stands there."""
        one = self._by_tag.get(tag)
        if one is None or not procedures or self._end_of(one) - one.begin > MAX_ORIGINAL_BYTES:
            return None
        found: dict[int, str] = {}
        try:
            for inner, _, raw in self._flat(self._read(one.begin, self._end_of(one) - one.begin)):
                found.setdefault(inner, raw.decode("latin-1").strip(" \0"))
        except BadInstance:
            return None
        named = (found.get(_CODE_SCHEME, ""), found.get(_CODE_VALUE, ""))
        code = procedures.get(named)
        return None if code is None or (code.scheme, code.value) == named else code

    def _coded(self, code: Code) -> bytes | None:
        """The item of a code; None if the character set cannot hold it."""
        elements = []
        for tag, text in _texts_of([code]):
            value = self._encoded(tag, text)
            if value is None:
                return None
            elements.append(self._element(tag, _CODE[tag], value))
        return self._item(b"".join(elements))

    # --- the originals --------------------------------------------------------------------------

    def _item_of_originals(
        self, changes: Mapping[int, bytes | None], source: str, now: int
    ) -> bytes:
        moved = {tag: self._original(tag) for tag in changes if tag in self._by_tag}
        there = self._by_tag.get(_ORIGINALS)
        if there is not None and not self._can_grow(there):
            # As a former value it stays whole.
            moved[_ORIGINALS] = self._original(_ORIGINALS)
        modified = self._item(b"".join(moved[tag] for tag in sorted(moved)))
        when = time.strftime("%Y%m%d%H%M%S+0000", time.gmtime(now))
        named = encoded(source[:64].replace("\\", "/"), self._character_set, is_name=False)
        return self._item(
            self._element(0x04000550, b"SQ", modified)
            + self._element(0x04000562, b"DT", when.encode())
            + self._element(0x04000563, b"LO", MODIFYING_SYSTEM.encode())
            + self._element(0x04000564, b"LO", named or b"")
            + self._element(0x04000565, b"CS", b"COERCE")
        )

    def _original(self, tag: int) -> bytes:
        """An element as it is, or in the usual form where its own is odd.

        Of one that stands twice it is the first that is not empty.
        """
        every = [one for one in self._placed if one.tag == tag]
        one = next((each for each in every if not _is_empty(each)), every[0])
        end = self._end_of(one)
        if end - one.begin > MAX_ORIGINAL_BYTES:
            raise CannotCoerce(
                f"has more than {MAX_ORIGINAL_BYTES} bytes in the element {tag_text(one.tag)},"
                " which is to be kept as an original"
            )
        vr = _TEXTS.get(one.tag)
        if vr is None or one.length is None:
            return self._read(one.begin, end - one.begin)
        return self._element(one.tag, vr, self._read(one.value, one.length))

    def _with_item(self, item: bytes) -> bytes:
        """The sequence of originals with one item more."""
        there = self._by_tag.get(_ORIGINALS)
        if there is None or not self._can_grow(there):
            return self._element(_ORIGINALS, b"SQ", item)
        length = there.close - there.value if there.length is None else there.length
        if length > 16 * MAX_ORIGINAL_BYTES:
            raise CannotCoerce("has too long a history of changes")
        return self._element(_ORIGINALS, b"SQ", self._read(there.value, length) + item)

    def _can_grow(self, one: Placed) -> bool:
        """Whether an item can be added: items within an unknown value have another form."""
        return one.vr == b"SQ" or self._walked.implicit

    # --- bytes ------------------------------------------------------------------------------------

    def _end_of(self, one: Placed) -> int:
        """The end of an element, without delimiters too many that follow it."""
        return one.close + 8 if one.length is None else one.value + one.length

    def _place_for(self, tag: int) -> int:
        """Where an element is put in: before the first with a higher tag."""
        return next((one.begin for one in self._placed if one.tag > tag), self._walked.end)

    def _lengths(self, edits: list[Edit]) -> list[Edit]:
        """Group lengths (retired), which go with the changes of their groups."""
        grown: Counter[int] = Counter()
        for edit in edits:
            grown[self._group_at(edit)] += len(edit.data) - (edit.end - edit.begin)
        found = []
        for one in self._placed:
            is_group = one.tag & 0xFFFF == 0 and one.tag >> 16 in grown
            if one.length != 4 or not (is_group or one.tag == _LENGTH_TO_END):
                continue
            delta = grown.total() if one.tag == _LENGTH_TO_END else grown[one.tag >> 16]
            length = self._number(self._read(one.value, 4)) + delta
            if 0 <= length < _UNDEFINED:
                found.append(Edit(one.value, one.value + 4, self._four(length)))
        return found

    def _group_at(self, edit: Edit) -> int:
        replaced = self._tag_at.get(edit.begin) if edit.end > edit.begin else None
        return (self._tag(edit.data[:4]) if replaced is None else replaced) >> 16

    def _element(self, tag: int, vr: bytes, value: bytes) -> bytes:
        if len(value) % 2:
            value += b" "
        order = ">" if self._big else "<"
        head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
        if self._walked.implicit:
            return head + self._four(len(value)) + value
        if vr in SHORT_VRS:
            if len(value) > 0xFFFE:
                raise CannotCoerce(f"has too long a value in the element {tag_text(tag)}")
            return head + vr + struct.pack(f"{order}H", len(value)) + value
        return head + vr + b"\0\0" + self._four(len(value)) + value

    def _item(self, value: bytes) -> bytes:
        order = ">" if self._big else "<"
        return struct.pack(f"{order}HHI", _ITEM >> 16, _ITEM & 0xFFFF, len(value)) + value

    def _four(self, number: int) -> bytes:
        return number.to_bytes(4, "big" if self._big else "little")

    def _number(self, four: bytes) -> int:
        return int.from_bytes(four, "big" if self._big else "little")

    def _tag(self, four: bytes) -> int:
        order = ">" if self._big else "<"
        group, element = struct.unpack(f"{order}HH", four)
        return int(group) << 16 | int(element)


def _is_empty(one: Placed) -> bool:
    return one.close == one.value if one.length is None else one.length == 0


def _texts_of(codes: Iterable[Code | None]) -> list[tuple[int, str]]:
    """The texts of codes, each with its tag."""
    return [pair for code in codes if code is not None for pair in zip(_CODE, code, strict=True)]


def _number(there: str, prefix: str, most: int) -> str:
    """A number of the other facility as it goes to our archive."""
    ours = prefix + there
    is_fit = len(ours) <= most and ours.isascii() and "\\" not in ours
    return ours if prefix and there and is_fit else ""
