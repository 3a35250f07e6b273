"""Studies whose every text is a marker, and the search for markers in anything that got out.

A marker holds the letter of its study and the tag of its element, so a find names what leaked.
"""

import base64
import re
import string
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import DicomDictionary, dictionary_keyword, tag_for_keyword
from pydicom.dataset import Dataset
from studies_made import make_instance

MAGIC = "zqxjwkvq"
"""Begins every marker, then come the letter of the study and the tag; nothing else holds it."""
_TEXT_VRS = frozenset({"LO", "SH", "PN", "ST", "LT", "UT", "UC"})
_GROUPS = frozenset({0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040, 0x4000})
_CODES = ("BodyPartExamined", "RequestedProcedureComments", "AdmittingDiagnosesDescription")
_ROOT = "1.2.826.0.1.3680043.8.498"
FILE_NAME = 0xFFFF0001
"""Stands in a marker for the name of the file from which an image came."""
PRIVATE = 0x00111001
REASON = 0xFFFF0002
"""Stands in a marker for what a person wrote with a request."""


@dataclass(frozen=True)
class Marked:
    """One study of markers; `letter` is one of A to Z."""

    letter: str

    @property
    def _number(self) -> int:
        return ord(self.letter) - ord("A") + 1

    @property
    def uid(self) -> str:
        """Its Study Instance UID."""
        return f"{_ROOT}.77100{self._number:02}"

    @property
    def series_uid(self) -> str:
        """The UID of its one series; tells nothing of the study's."""
        return f"{_ROOT}.77200{self._number:02}"

    @property
    def instance_uid(self) -> str:
        """What the UIDs of its instances begin with."""
        return f"{_ROOT}.77300{self._number:02}"

    @property
    def birth_date(self) -> str:
        """YYYYMMDD."""
        return f"193107{self._number:02}"

    @property
    def study_date(self) -> str:
        """YYYYMMDD."""
        return f"202607{self._number:02}"

    def text(self, keyword: str | int) -> str:
        """The marker of an element, by its keyword or tag."""
        tag = keyword if isinstance(keyword, int) else _tag(keyword)
        return f"{MAGIC}{self.letter}{_in_base_36(tag)}".upper()

    def name(self) -> str:
        """The patient's name: family and given name."""
        return f"{self.text('PatientName')}F^{self.text('PatientName')}G"

    def instance(self, number: int, *, seed: int = 0) -> Dataset:
        """One image, with all texts that the dictionary knows in the usual groups."""
        made = make_instance(self.uid, number, rows=16, series=self.series_uid, seed=seed)
        made.SOPInstanceUID = f"{self.instance_uid}.{number}"
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
            if vr not in _TEXT_VRS or tag >> 16 not in _GROUPS or retired or not keyword:
                continue
            made.add_new(tag, vr, self.name() if keyword == "PatientName" else self.text(tag))
        for keyword in _CODES:
            setattr(made, keyword, self.text(keyword))
        made.PatientBirthDate, made.StudyDate = self.birth_date, self.study_date
        made.PatientSex = "F"
        block = made.private_block(0x0011, self.text(0x00110010), create=True)
        block.add_new(0x01, "LO", self.text(PRIVATE))
        inner = Dataset()
        inner.CodeMeaning = self.text("CodeMeaning")
        inner.RequestedProcedureDescription = self.text("RequestedProcedureDescription")
        made.RequestAttributesSequence = [inner]
        return made

    def write(self, directory: Path, count: int = 2, *, seed: int = 0) -> list[Path]:
        """Write `count` images below names that are markers, too."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = []
        for number in range(1, count + 1):
            path = directory / f"{self.text(FILE_NAME)}-{number}.dcm"
            self.instance(number, seed=seed).save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def _in_base_36(tag: int) -> str:
    """Seven digits: a marker must not have more than 16 characters (SH)."""
    digits = ""
    for _ in range(7):
        tag, digit = divmod(tag, 36)
        digits = string.printable[digit] + digits
    return digits


# --- searching -------------------------------------------------------------------------


def forms(text: str) -> dict[str, bytes]:
    """How a text may be written; all but base64 are to be compared without case."""
    plain = text.encode()
    found = {
        "plain": plain,
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
    }
    for case in (text.upper(), text.lower()):
        found[f"hex {case[:1]}"] = case.encode().hex().encode()
        for shift in range(3):
            # What does not depend on the bytes before and after it.
            encoded = base64.b64encode(bytes(shift) + case.encode())
            stable = encoded[4 if shift else 0 : (shift + len(case)) // 3 * 4]
            found[f"base64 {shift} {case[:1]}"] = stable
    return found


def _pattern(text: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    found = forms(text)
    folded = [re.escape(one.lower()) for name, one in found.items() if "base64" not in name]
    exact = [re.escape(one) for name, one in found.items() if "base64" in name]
    return re.compile(b"|".join(folded)), re.compile(b"|".join(exact))


_MAGIC = _pattern(MAGIC)
_AFTER = re.compile(MAGIC.encode() + b"([a-z])([0-9a-z]{7})")
_KINDS = ("uid", "series_uid", "instance_uid", "birth_date", "study_date")


def _dashed(day: str) -> str:
    return f"{day[:4]}-{day[4:6]}-{day[6:]}"


def _values(study: Marked) -> dict[str, list[str]]:
    values = {kind: [getattr(study, kind)] for kind in _KINDS}
    for kind in ("birth_date", "study_date"):
        values[kind].append(_dashed(values[kind][0]))
    return values


class Search:
    """Looks for everything that these studies say."""

    def __init__(self, *studies: Marked) -> None:
        self._values = [
            (f"{study.letter}:{kind}", _pattern(value))
            for study in studies
            for kind, values in _values(study).items()
            for value in values
        ]

    def find(self, blob: bytes) -> set[str]:
        """What of the studies stands in these bytes: `LETTER:KEYWORD`, `LETTER:uid` ..."""
        lowered = blob.lower()
        found = {name for name, one in self._values if _has(one, blob, lowered)}
        named = set(_AFTER.findall(lowered))
        for letter, tag in named:
            found.add(f"{letter.decode().upper()}:{_keyword(int(tag, 36))}")
        plain = len(re.findall(MAGIC.encode(), lowered))
        if len(_AFTER.findall(lowered)) < plain:
            found.add("a part of a marker")
        coded = lowered.replace(MAGIC.encode(), b"")
        if _MAGIC[0].search(coded) or _MAGIC[1].search(blob):
            found.add("a marker in another encoding")
        return found


def _has(one: tuple[re.Pattern[bytes], re.Pattern[bytes]], blob: bytes, lowered: bytes) -> bool:
    return bool(one[0].search(lowered) or one[1].search(blob))


def _keyword(tag: int) -> str:
    known = {FILE_NAME: "file", PRIVATE: "private", REASON: "reason"}
    return dictionary_keyword(tag) if tag in DicomDictionary else known.get(tag, f"{tag:08x}")
