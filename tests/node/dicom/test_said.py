"""Single elements of a file as texts, in each encoding that pydicom writes."""

from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from studies_made import make_instance

from node.dicom.part10 import reader_of
from node.dicom.said import CODE, first_item, said_of

NAME, KINDS, NUMBER, ROWS, TITLE = 0x00100010, 0x00080008, 0x00200013, 0x00280010, 0x0040A043
TAGS = (NAME, KINDS, NUMBER, ROWS)
SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]  # fmt: skip


def _file(
    syntax: pydicom.uid.UID, *, undefined: bool = False, charset: str = "ISO_IR 192"
) -> bytes:
    ds = make_instance("1.2.3", 7)
    del ds.PixelData
    ds.SpecificCharacterSet = charset
    ds.PatientName = "Müller^Änne"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "18748-4", "LN", "Größe"
    ds.ConceptNameCodeSequence = [code]
    ds["ConceptNameCodeSequence"].is_undefined_length = undefined
    code.is_undefined_length_sequence_item = undefined
    ds.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100"])
def test_elements_and_codes(syntax: pydicom.uid.UID, charset: str) -> None:
    for undefined in (False, True):
        content = _file(syntax, undefined=undefined, charset=charset)
        read = reader_of(content)
        assert said_of(read, len(content), TAGS) == {
            NAME: "Müller^Änne", KINDS: "ORIGINAL\\PRIMARY", NUMBER: "7", ROWS: "64",
        }  # fmt: skip
        code = first_item(read, len(content), TITLE, CODE)
        if syntax == DeflatedExplicitVRLittleEndian:
            # It cannot be read in place, and is then made up.
            assert code == {}
        else:
            assert code == {
                0x00080100: ("SH", "18748-4"),
                0x00080102: ("SH", "LN"),
                0x00080104: ("LO", "Größe"),
            }


def test_what_is_not_there() -> None:
    content = _file(ExplicitVRLittleEndian)
    read = reader_of(content)
    assert said_of(read, len(content), (0x00400001,)) == {}
    assert first_item(read, len(content), 0x0040A073, CODE) == {}
    assert said_of(reader_of(b""), 0, TAGS) == first_item(reader_of(b""), 0, TITLE, CODE) == {}


WHOLE = _file(ExplicitVRLittleEndian)


CHANGE = st.tuples(st.integers(132, len(WHOLE) - 1), st.integers(0, 255))


@given(st.integers(0, len(WHOLE)), st.lists(CHANGE, max_size=6))
def test_any_beginning_of_a_file_gives_texts(end: int, changes: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for at, value in changes:
        content[at] = value
    read = reader_of(bytes(content[:end]))
    assert all(isinstance(text, str) for text in said_of(read, end, TAGS).values())
    assert len(first_item(read, end, TITLE, CODE)) <= len(CODE)
