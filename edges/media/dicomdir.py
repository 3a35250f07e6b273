"""A DICOMDIR: the records of a medium, as bytes (PS3.3 annex F, PS3.10 section 8).

Made by ourselves, so that there is a record for each file, whatever its author left out.
"""

import itertools
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from edges import explicit
from edges.explicit import DataSet, Value
from edges.file_head import file_head
from edges.media import record_keys
from edges.media.record_keys import Key
from edges.values import fitting

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
EXPLICIT = "1.2.840.10008.1.2.1"

_PRIVATE_RECORD = "2.25.314159877129842918732640986233017625481"
"""Private Record UID of records of objects that no standard knows; the same in each DICOMDIR."""

_NO_TITLE: DataSet = {
    0x00080100: ("SH", "RM0001"),
    0x00080102: ("SH", "99RADMESH"),
    0x00080104: ("LO", "no title"),
}
_NEXT, _LOWER = 0x00041400, 0x00041420
_FIRST, _LAST = 0x00041200, 0x00041202

Said = Mapping[int, str]
"""What a file says: texts by tag; of several values all, with backslashes."""


@dataclass(slots=True)
class _Record:
    kind: str
    elements: dict[int, tuple[str, Value]]
    below: dict[tuple[str, ...], "_Record"] = field(default_factory=dict)


class Directory:
    """The records of a medium, one file after the other.

    Attributes:
        made_up: how many records have a value that is not in their files, by its name.
    """

    def __init__(self) -> None:
        self.made_up: Counter[str] = Counter()
        self._patients: dict[tuple[str, ...], _Record] = {}

    def add(
        self,
        path: tuple[str, ...],
        *,
        sop_class: str,
        sop_instance: str,
        transfer_syntax: str,
        study: str,
        series: str,
        said: Said,
        title: DataSet | None = None,
    ) -> None:
        """Add a file.

        Args:
            path: its File ID.
            study, series: the UIDs of both.
            said: what it says of `record_keys.WANTED`.
            title: the first item of its Concept Name Code Sequence, if it has one.
        """
        patient_id = said.get(record_keys.PATIENT_ID, "")
        who: tuple[str, ...] = (patient_id, said.get(record_keys.PATIENT_ISSUER, ""))
        if not patient_id:
            # Without a number, people of different names are different people.
            named = said.get(record_keys.PATIENT_NAME, "")
            who = (*who, named, said.get(0x00100030, "") if named else study)
        below = self._patients
        for kind, name, keys, uids in (
            ("PATIENT", who, record_keys.PATIENT_KEYS, ()),
            ("STUDY", (study,), record_keys.STUDY_KEYS, (record_keys.STUDY_UID,)),
            ("SERIES", (series,), record_keys.SERIES_KEYS, (record_keys.SERIES_UID,)),
        ):
            if name not in below:
                elements = self._elements(keys, said, len(below) + 1, None)
                elements |= dict.fromkeys(uids, ("UI", name[0]))
                below[name] = _Record(kind, elements)
            below = below[name].below
        kind = record_keys.type_of(sop_class)
        record = _Record(
            kind, self._elements(record_keys.keys_of(kind), said, len(below) + 1, title)
        )
        record.elements |= {
            0x00041500: ("CS", path),
            0x00041510: ("UI", sop_class),
            0x00041511: ("UI", sop_instance),
            0x00041512: ("UI", transfer_syntax),
        }
        if kind == "PRIVATE":
            record.elements[0x00041432] = ("UI", _PRIVATE_RECORD)
        below[(sop_instance,)] = record

    def _elements(
        self, keys: tuple[Key, ...], said: Said, number: int, title: DataSet | None
    ) -> dict[int, tuple[str, Value]]:
        elements: dict[int, tuple[str, Value]] = {}
        for key in keys:
            if key.vr == "SQ":
                if title is None:
                    self.made_up[key.name] += 1
                elements[key.tag] = ("SQ", (_NO_TITLE if title is None else title,))
                continue
            text = fitting(key.vr, said.get(key.tag, ""))
            made_up = key.made_up
            if key.tag == record_keys.VERIFIED_AT and said.get(record_keys.VERIFIED) == "VERIFIED":
                made_up = record_keys.NO_DATE
            if not text and made_up is None:
                continue
            if not text and made_up:
                self.made_up[key.name] += 1
                text = made_up.replace("#", str(number) if made_up == "#" else f"{number:04}")
            elements[key.tag] = (key.vr, int(text) if key.vr in ("US", "UL") else text)
        return elements

    def encode(self, name: str, sop_instance: str) -> bytes:
        """The file.

        Args:
            name: File-set ID: at most 16 of A-Z, 0-9 and `_`.
            sop_instance: SOP Instance UID of the DICOMDIR itself.
        """
        head = file_head(MEDIA_DIRECTORY, sop_instance, EXPLICIT)
        start = len(head) + len(self._root(name, 0, 0)) + 12
        encoded: list[bytearray] = []
        places: list[int] = []
        end = self._place(self._patients, start, encoded, places)
        roots = self._siblings(self._patients, places, encoded)
        first, last = (roots[0], roots[-1]) if roots else (0, 0)
        sequence = struct.pack("<HH2s2xL", 0x0004, 0x1220, b"SQ", end - start)
        return head + self._root(name, first, last) + sequence + b"".join(encoded)

    def _root(self, name: str, first: int, last: int) -> bytes:
        return explicit.encode(
            {
                0x00041130: ("CS", name),
                _FIRST: ("UL", first),
                _LAST: ("UL", last),
                0x00041212: ("US", 0),
            }
        )

    def _place(
        self,
        records: Mapping[tuple[str, ...], _Record],
        at: int,
        encoded: list[bytearray],
        places: list[int],
    ) -> int:
        """Encode records with those below them, each at its place; returns the end."""
        for record in records.values():
            content = explicit.encode(
                {
                    _NEXT: ("UL", 0),
                    0x00041410: ("US", 0xFFFF),
                    _LOWER: ("UL", 0),
                    0x00041430: ("CS", record.kind),
                    **record.elements,
                }
            )
            places.append(at)
            encoded.append(bytearray(explicit.item(content)))
            at = self._place(record.below, at + len(encoded[-1]), encoded, places)
        return at

    def _siblings(
        self,
        records: Mapping[tuple[str, ...], _Record],
        places: list[int],
        encoded: list[bytearray],
        first: int = 0,
    ) -> list[int]:
        """Write the offsets of next and lower records; returns the places of these records.

        Args:
            first: index of the first of these records among all.
        """
        indexes: list[int] = []
        for record in records.values():
            indexes.append(first)
            lower = self._siblings(record.below, places, encoded, first + 1)
            if lower:
                _write(encoded[first], _LOWER_AT, lower[0])
            first += 1 + _count(record)
        for index, following in itertools.pairwise(indexes):
            _write(encoded[index], _NEXT_AT, places[following])
        return [places[index] for index in indexes]


_ITEM_HEAD = _ELEMENT_HEAD = 8
_NEXT_AT = _ITEM_HEAD + _ELEMENT_HEAD
"""Offset of the value of (0004,1400), the first element, in its item."""
_LOWER_AT = _NEXT_AT + 4 + _ELEMENT_HEAD + 2 + _ELEMENT_HEAD


def _write(record: bytearray, at: int, offset: int) -> None:
    struct.pack_into("<L", record, at, offset)


def _count(record: _Record) -> int:
    return sum(1 + _count(one) for one in record.below.values())
