"""What an image from elsewhere becomes on its way to our archive, with pydicom as the oracle."""

import io
import shutil
import struct
import subprocess
import time
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part10_made import (
    END_ITEM,
    END_SEQUENCE,
    META,
    OPEN_ITEM,
    RAW_DATA,
    SMALL,
    deflated,
    element,
    implicit_element,
    meta,
    open_sequence,
    read,
    sample,
)
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.dicom import coercion
from node.dicom.coercion import CannotCoerce, coerced, edits_of
from node.dicom.elements import BadInstance
from node.dicom.identity import UNCHANGED, Code, Identity, Maps
from node.dicom.part10 import reader_of
from node.dicom.unmarked import NotDicom

NOW = 1_800_000_000
LOCAL = Identity(
    patient_id="H-77",
    issuer="HOSP-A",
    name="Local^Anna",
    birth_date="19700131",
    sex="F",
    prefix="S-",
    source="South Clinic",
)

SET = {0x00100010: "name", 0x00100020: "patient_id", 0x00100021: "issuer",
       0x00100030: "birth_date", 0x00100040: "sex"}  # fmt: skip
NUMBERS = {0x00080050: 16, 0x00200010: 16, 0x00380010: 64, 0x00380060: 64, 0x00401001: 16,
           0x00402016: 64, 0x00402017: 64}  # fmt: skip
GONE = (0x00080051, 0x00100024, 0x00101000, 0x00101002, 0x00101090, 0x00380011, 0x00380014,
        0x00380061, 0x00380064, 0x00400026, 0x00400027, 0x00400275, 0x0040A370)  # fmt: skip
ORIGINALS = 0x04000561
"""The elements that change, written down again."""

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def parsed(data: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data), force=True)


def written(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A Part 10 file of a data set."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def small(**values: object) -> Dataset:
    """A data set of no image, with these attributes."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RAW_DATA.decode(), "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.5", "1.2.3.6"
    dataset.PatientID = "P1"
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def items(one: RawDataElement | DataElement) -> object:
    """An element as it can be compared: bytes as they are, sequences item by item."""
    if isinstance(one, RawDataElement):
        return one.VR, one.value
    if one.VR == "SQ":
        return one.VR, [{each.tag: items(each) for each in raw(item)} for item in one.value]
    return one.VR, one.value


def raw(dataset: Dataset) -> list[RawDataElement | DataElement]:
    return [dataset.get_item(tag) for tag in sorted(dataset.keys())]


def text_of(dataset: Dataset, tag: int) -> str:
    return "" if tag not in dataset else str(dataset[tag].value or "").strip(" \0")


def check(before: bytes, after: bytes, identity: Identity) -> None:
    """What has to hold of a coerced file, by pydicom's reading of both."""
    assert read(after)
    was, now = parsed(before), parsed(after)
    assert before[: before.index(b"DICM") + 4] == after[: after.index(b"DICM") + 4]
    assert items_of(was.file_meta) == items_of(now.file_meta)
    named = {*SET, *NUMBERS, *GONE, ORIGINALS}
    lengths = {tag for tag in was.keys() if tag & 0xFFFF == 0}  # noqa: SIM118
    others = {tag: one for tag, one in items_of(was).items() if tag not in named | lengths}
    assert others == {tag: one for tag, one in items_of(now).items() if tag not in named | lengths}
    for tag, name in SET.items():
        assert text_of(now, tag) == getattr(identity, name)
    for tag, most in NUMBERS.items():
        there = text_of(was, tag)
        fits = there.isascii() and there and len(there) + len(identity.prefix) <= most
        fits = fits and "\\" not in there
        assert text_of(now, tag) == (identity.prefix + there if identity.prefix and fits else "")
        assert (tag in was) == (tag in now)
    assert not any(has_value(now, tag) for tag in GONE)
    *older, newest = now[ORIGINALS].value
    assert [items_of(one) for one in older] == [
        items_of(one) for one in (was[ORIGINALS].value if ORIGINALS in was else ())
    ]
    assert newest.AttributeModificationDateTime == "20270115080000+0000"
    assert newest.ModifyingSystem == "RADMESH"
    assert newest.SourceOfPreviousValues == identity.source
    assert newest.ReasonForTheAttributeModification == "COERCE"
    [former] = newest.ModifiedAttributesSequence
    changed = {
        tag
        for tag in {*SET, *NUMBERS, *GONE}
        if tag in was
        and (has_value(was, tag) if tag in GONE else text_of(was, tag) != text_of(now, tag))
    }
    assert set(former.keys()) == changed
    for tag in changed:
        assert items(former[tag]) == items(was[tag])


def has_value(dataset: Dataset, tag: int) -> bool:
    return tag in dataset and not dataset[tag].is_empty


def items_of(dataset: Dataset) -> dict[int, object]:
    return {one.tag: items(one) for one in raw(dataset)}


def taken(path: Path) -> bytes | None:
    """The bytes of a file that a node takes in; None for others."""
    data = path.read_bytes()
    try:
        read(data, path.name)
    except (BadInstance, NotDicom):
        return None
    return data


def files_of_pydicom() -> list[Path]:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return sorted(path for path in folder.rglob("*") if path.is_file())


OF_A_FOLDER = 10
"""Files of a folder that are tried: the slices of a stack are alike."""


@pytest.mark.slow
def test_every_shared_study_keeps_all_but_the_named_elements(shared):
    folders: dict[Path, list[Path]] = {}
    for path in sorted((shared / "data").rglob("*")):
        if path.is_file():
            folders.setdefault(path.parent, []).append(path)
    seen = 0
    for paths in folders.values():
        for path in paths[:: max(1, len(paths) // OF_A_FOLDER)]:
            before = taken(path)
            if before is not None:
                after = coerced(before, LOCAL, NOW)
                check(before, after, LOCAL)
                assert pixels_of(before) == pixels_of(after), path.name
                seen += 1
    assert seen > 250


def pixels_of(data: bytes) -> bytes:
    """Pixel data as they stand in a file, with all that follows them; b"" if there are none."""
    dataset = parsed(data)
    return bytes(dataset.PixelData) if "PixelData" in dataset else b""


@pytest.mark.slow
def test_files_of_pydicom_keep_all_but_the_named_elements():
    seen = 0
    for path in files_of_pydicom():
        before = taken(path)
        if before is not None:
            check(before, coerced(before, LOCAL, NOW), LOCAL)
            seen += 1
    assert seen > 60


REQUEST = Dataset()
REQUEST.AccessionNumber, REQUEST.RequestedProcedureID = "ACC1", "RP1"
REQUEST.ScheduledProcedureStepID = "SPS1"
OTHER_ID = Dataset()
OTHER_ID.PatientID, OTHER_ID.IssuerOfPatientID = "X9", "SOUTH"
EVERYTHING = small(
    SpecificCharacterSet="ISO_IR 100",
    PatientName="Müller^Jörg",
    IssuerOfPatientID="SOUTH",
    PatientBirthDate="19500101",
    PatientSex="M",
    AccessionNumber="ACC1",
    StudyID="ST1",
    AdmissionID="AD1",
    ServiceEpisodeID="SE1",
    RequestedProcedureID="RP1",
    PlacerOrderNumberImagingServiceRequest="PL1",
    FillerOrderNumberImagingServiceRequest="FI1",
    InstitutionName="South Clinic",
    OtherPatientIDsSequence=[OTHER_ID],
    RequestAttributesSequence=[REQUEST, REQUEST],
    StudyDescription="CT Thorax nativ",
    Rows=16,
)
EVERYTHING.add_new(0x00101000, "LO", ["X9", "X10"])
for _tag in (0x00101090, 0x00380011, 0x00380061):
    EVERYTHING.add_new(_tag, "LO", "ANY")
for _tag in (0x00080051, 0x00100024, 0x00380014, 0x00380064, 0x00400026, 0x00400027, 0x0040A370):
    EVERYTHING.add_new(_tag, "SQ", [OTHER_ID])
EVERYTHING.add_new(0x00091001, "UN", b"\x01\x02")
EVERYTHING.add_new(0x00090010, "LO", "A MAKER")


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("is_open", [False, True])
def test_all_encodings(syntax, is_open):
    dataset = pydicom.Dataset(EVERYTHING)
    for tag in (0x00101002, 0x00400275):
        dataset[tag].is_undefined_length = is_open
        for item in dataset[tag].value:
            item.is_undefined_length_sequence_item = is_open
    before = written(dataset, syntax)
    after = coerced(before, LOCAL, NOW)
    check(before, after, LOCAL)
    now = parsed(after)
    assert (now.AccessionNumber, now.StudyID, now.AdmissionID) == ("S-ACC1", "S-ST1", "S-AD1")
    assert now.InstitutionName == "South Clinic"
    [former] = now.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert (former.PatientID, former.IssuerOfPatientID) == ("P1", "SOUTH")
    assert str(former.PatientName) == "Müller^Jörg"
    assert [one.AccessionNumber for one in former.RequestAttributesSequence] == ["ACC1", "ACC1"]
    assert list(former[0x00101000].value) == ["X9", "X10"]
    # A second time the first originals stay, and those in between come behind them.
    other = replace(LOCAL, patient_id="H-78", name="", prefix="")
    again = parsed(coerced(after, other, NOW))
    first, second = again.OriginalAttributesSequence
    assert first == now.OriginalAttributesSequence[0]
    [former] = second.ModifiedAttributesSequence
    assert (former.PatientID, former.AccessionNumber) == ("H-77", "S-ACC1")
    assert (again.PatientID, again.AccessionNumber) == ("H-78", "")


def test_no_byte_outside_of_the_named_elements_moves_within_its_element():
    before = written(pydicom.Dataset(EVERYTHING))
    edits = edits_of(reader_of(before), len(before), LOCAL, NOW)
    assert [edit.begin for edit in edits] == sorted(edit.begin for edit in edits)
    assert all(one.end <= other.begin for one, other in pairwise(edits))
    named = {*SET, *NUMBERS, *GONE, ORIGINALS}
    for edit in edits:
        for data in (before[edit.begin : edit.end], edit.data):
            if data:
                group, number = struct.unpack_from("<HH", data)
                assert group << 16 | number in named


def test_without_a_prefix_the_numbers_of_the_other_facility_are_emptied():
    now = parsed(
        coerced(written(small(AccessionNumber="A1", StudyID="S1")), replace(LOCAL, prefix=""), NOW)
    )
    assert (now.AccessionNumber, now.StudyID) == ("", "")


@pytest.mark.parametrize("tag", NUMBERS)
def test_each_number_has_the_length_that_it_may_have(tag):
    for short, becomes in ((0, "S-" + "1" * (NUMBERS[tag] - 2)), (1, "")):
        dataset = small()
        vr = "SH" if NUMBERS[tag] == 16 else "LO"
        dataset.add_new(tag, vr, "1" * (NUMBERS[tag] - 2 + short))
        assert text_of(parsed(coerced(written(dataset), LOCAL, NOW)), tag) == becomes


def test_everything_has_all_that_changes():
    assert {*SET, *NUMBERS, *GONE} <= {int(tag) for tag in EVERYTHING.keys()}  # noqa: SIM118


def test_the_accession_number_of_a_local_order_is_set_in_place_of_the_other():
    identity = replace(LOCAL, accession_number="L-1")
    for dataset in (small(AccessionNumber="A1"), small(AccessionNumber=""), small()):
        assert parsed(coerced(written(dataset), identity, NOW)).AccessionNumber == "L-1"


def test_a_study_made_here_goes_byte_for_byte():
    before = written(small(AccessionNumber="A1"))
    assert coerced(before, UNCHANGED, NOW) is before


def test_what_has_the_local_values_already_is_not_touched():
    before = written(small(IssuerOfPatientID="HOSP-A", PatientName="Any^Body", InstanceNumber=1))
    identity = Identity(patient_id="P1", issuer="HOSP-A", prefix="S-")
    assert coerced(before, identity, NOW) == before


def test_a_foreign_issuer_does_not_stay_with_a_local_patient_id():
    qualifiers = Dataset()
    qualifiers.UniversalEntityID, qualifiers.UniversalEntityIDType = "1.2.3", "ISO"
    before = written(
        small(IssuerOfPatientID="SOUTH", IssuerOfPatientIDQualifiersSequence=[qualifiers])
    )
    now = parsed(coerced(before, Identity(patient_id="P1"), NOW))
    assert "IssuerOfPatientID" not in now
    assert "IssuerOfPatientIDQualifiersSequence" not in now
    [former] = now.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert former.IssuerOfPatientID == "SOUTH"


# --- patients -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patients", "is_taken"),
    [
        ({("P1", "SOUTH")}, True),
        ({("P1", "")}, True),
        ({("P1", "EAST")}, False),
        ({("P2", "SOUTH")}, False),
        (set(), False),
        (None, True),
    ],
)
def test_an_image_of_another_patient_than_was_matched_is_refused(patients, is_taken):
    before = written(small(IssuerOfPatientID="SOUTH"))
    known = None if patients is None else frozenset(patients)
    identity = replace(LOCAL, patients=known)
    if is_taken:
        assert parsed(coerced(before, identity, NOW)).PatientID == "H-77"
    else:
        with pytest.raises(CannotCoerce, match="of another patient"):
            coerced(before, identity, NOW)


def test_an_image_without_a_patient_is_of_that_of_its_study():
    before = written(small(PatientID=""))
    identity = replace(LOCAL, patients=frozenset({("P1", "SOUTH")}))
    assert parsed(coerced(before, identity, NOW)).PatientID == "H-77"


# --- words of ours -----------------------------------------------------------------------------


def code(value: str, scheme: str, meaning: str) -> Dataset:
    dataset = Dataset()
    dataset.CodeValue, dataset.CodingSchemeDesignator = value, scheme
    dataset.CodeMeaning = meaning
    return dataset


MAPS = Maps(
    descriptions={"ct thorax nativ": "CT Chest"},
    body_parts={"THORAX": "CHEST"},
    procedures={("99SOUTH", "CT77"): Code("CTCHEST", "99HOSPA", "CT Chest")},
)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("is_open", [False, True])
def test_descriptions_body_parts_and_procedure_codes_are_mapped(syntax, is_open):
    context = code("CT77", "99SOUTH", "Thorax")
    context.add_new(0x0040A730, "SQ", [code("INNER", "99X", "inner")])
    dataset = small(
        StudyDescription="CT  Thorax nativ",
        BodyPartExamined="THORAX",
        ProcedureCodeSequence=[context, code("OTHER", "99SOUTH", "Other")],
        RequestedProcedureCodeSequence=[code("OTHER", "99SOUTH", "Other")],
    )
    dataset[0x00081032].is_undefined_length = is_open
    for item in dataset.ProcedureCodeSequence:
        item.is_undefined_length_sequence_item = is_open
    before = written(dataset, syntax)
    now = parsed(coerced(before, replace(LOCAL, maps=MAPS), NOW))
    assert (now.StudyDescription, now.BodyPartExamined) == ("CT Chest", "CHEST")
    [ours] = now.ProcedureCodeSequence
    assert (ours.CodeValue, ours.CodingSchemeDesignator) == ("CTCHEST", "99HOSPA")
    assert now.RequestedProcedureCodeSequence == dataset.RequestedProcedureCodeSequence
    [former] = now.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert former.StudyDescription == "CT  Thorax nativ"
    assert former.ProcedureCodeSequence == dataset.ProcedureCodeSequence
    again = coerced(written(now, syntax), replace(LOCAL, maps=MAPS), NOW)
    assert parsed(again).ProcedureCodeSequence == now.ProcedureCodeSequence


def test_a_code_in_a_sequence_that_cannot_be_read_is_left_alone():
    odd = element(0x00081032, b"SQ", b"\xfe\xff\x00\xe0\x04\0\0\0\x08\0\0\1")
    before = META + odd + SMALL[len(META) :] + element(0x00100020, b"LO", b"P1")
    after = coerced(before, replace(LOCAL, maps=MAPS), NOW)
    assert odd in after


# --- character sets ------------------------------------------------------------------------------

UMLAUT = replace(LOCAL, name="Müller^Jörg")


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Müller^Jörg"),
        ("ISO_IR 192", "山田^太郎"),
        ("ISO_IR 144", "Иванов^Пётр"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 100", "ISO 2022 IR 144"], "Müller^Иван"),
    ],
)
def test_a_local_name_is_written_in_the_character_set_of_the_image(character_set, name):
    before = written(small(SpecificCharacterSet=character_set, PatientName="A^B"))
    now = parsed(coerced(before, replace(LOCAL, name=name), NOW))
    assert now.SpecificCharacterSet == character_set
    assert str(now.PatientName) == name


@pytest.mark.parametrize("character_set", ["ISO_IR 144", ["", "ISO 2022 IR 87"], "ODD_SET"])
def test_a_name_that_the_character_set_cannot_hold_is_refused(character_set):
    before = written(small(SpecificCharacterSet="ISO_IR 100", PatientName="A^B"))
    term = "\\".join(character_set) if isinstance(character_set, list) else character_set
    old = element(0x00080005, b"CS", b"ISO_IR 100")
    before = before.replace(
        old, element(0x00080005, b"CS", (term + " " * (len(term) % 2)).encode())
    )
    with pytest.raises(CannotCoerce, match=r"cannot hold the element \(0010,0010\)") as failed:
        coerced(before, UMLAUT, NOW)
    assert "ller" not in failed.value.reason


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_image_of_ascii_alone_becomes_utf_8_for_a_name_of_other_letters(syntax):
    nested = code("A", "B", "C")
    nested.add_new(0x00189087, "FD", -1.5)
    dataset = small(PatientName="A^B", StudyDescription="CT", ProcedureCodeSequence=[nested])
    dataset.add_new(0x00090010, "LO", "A MAKER")
    dataset.add_new(0x00091001, "OB", b"\xff\xfe")
    dataset.add_new(0x00280120, "US", 0xF8F8)
    if syntax == ImplicitVRLittleEndian:
        # There a double cannot be told from a text.
        del nested[0x00189087]
    before = written(dataset, syntax)
    now = parsed(coerced(before, UMLAUT, NOW))
    assert now.SpecificCharacterSet == "ISO_IR 192"
    assert str(now.PatientName) == "Müller^Jörg"
    assert (now.StudyDescription, now.ProcedureCodeSequence[0].CodeMeaning) == ("CT", "C")
    [former] = now.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert str(former.PatientName) == "A^B"


@pytest.mark.parametrize(
    "text",
    [
        element(0x00081030, b"LO", b"Sch\xe4del "),
        element(
            0x00081032, b"SQ", OPEN_ITEM + element(0x00080104, b"LO", b"Sch\xe4del ") + END_ITEM
        ),
        element(0x00081030, b"LO", b"\x1b$B;3ED "),
    ],
)
def test_letters_beyond_ascii_under_no_character_set_are_never_given_one(text):
    at = SMALL.index(b"\x20\x00\x0d\x00")
    before = SMALL[:at] + text + SMALL[at:]
    assert coerced(before, LOCAL, NOW)
    with pytest.raises(CannotCoerce, match="cannot hold"):
        coerced(before, UMLAUT, NOW)


def test_words_of_ours_that_the_character_set_cannot_hold_are_left_out():
    maps = Maps(
        descriptions={"skull": "Schädel"},
        procedures={("99SOUTH", "S1"): Code("S", "99HOSPA", "Schädel")},
    )
    said = {"StudyDescription": "Skull", "ProcedureCodeSequence": [code("S1", "99SOUTH", "Skull")]}
    identity = replace(LOCAL, maps=maps)
    now = parsed(coerced(written(small(SpecificCharacterSet="ISO_IR 144", **said)), identity, NOW))
    assert (now.PatientID, now.StudyDescription) == ("H-77", "Skull")
    assert now.ProcedureCodeSequence[0].CodeValue == "S1"
    for character_set in ("ISO_IR 100", None):
        more = {} if character_set is None else {"SpecificCharacterSet": character_set}
        now = parsed(coerced(written(small(**more, **said)), identity, NOW))
        assert now.SpecificCharacterSet == (character_set or "ISO_IR 192")
        assert now.StudyDescription == now.ProcedureCodeSequence[0].CodeMeaning == "Schädel"


def test_a_number_of_other_letters_is_emptied():
    before = written(small(SpecificCharacterSet="ISO_IR 100", AccessionNumber="Ä1"))
    assert parsed(coerced(before, LOCAL, NOW)).AccessionNumber == ""


# --- odd files ---------------------------------------------------------------------


def test_group_lengths_and_the_length_to_the_end_go_with_the_changes():
    body = SMALL[len(META) :]
    eight = body[: body.index(b"\x20\x00\x0d\x00")]
    rest = body[len(eight) :]
    ten = element(0x00100020, b"LO", b"P1")
    end = element(0x00080001, b"UL", struct.pack("<I", len(eight) + 12 + len(ten) + 24 + len(rest)))
    before = (
        META
        + element(0x00080000, b"UL", struct.pack("<I", len(end) + len(eight)))
        + end
        + eight
        + element(0x00100000, b"UL", struct.pack("<I", len(ten)))
        + ten
        + element(0x00180000, b"UL", struct.pack("<I", 0))
        + rest
    )
    after = coerced(before, LOCAL, NOW)
    now = parsed(after)
    assert now[0x00080000].value == len(end) + len(eight)
    begin = after.index(b"\x10\x00\x10\x00")
    assert now[0x00100000].value == after.index(b"\x18\x00\x00\x00") - begin
    assert now[0x00180000].value == 0
    grown = len(after) - len(before)
    assert now[0x00080001].value == len(eight) + 12 + len(ten) + 24 + len(rest) + grown


def test_of_an_element_that_stands_twice_none_keeps_the_number():
    twice = element(0x00080050, b"SH", b"") + element(0x00080050, b"SH", b"ACC1")
    before = META + twice + SMALL[len(META) :] + element(0x00401001, b"SH", b"R1") * 2
    after = coerced(before, LOCAL, NOW)
    head, _, originals = after.partition(b"\0\4\x61\5")
    assert b"ACC1" not in head
    assert head.count(b"\x08\0\x50\0") == head.count(b"\x40\0\x01\x10") == 1
    assert b"R1" in originals
    assert b"ACC1" in originals


def test_of_many_elements_that_stand_often_it_takes_no_time():
    many = element(0x00080000, b"UL", bytes(4)) + element(0x00080050, b"SH", b"A1")
    before = META + many * 40_000 + SMALL[len(META) :]
    began = time.process_time()
    assert coerced(before, LOCAL, NOW).count(b"A1") == 2
    assert time.process_time() - began < 20


def test_an_empty_element_is_left_as_it_is():
    before = written(small(PatientID="H-77", IssuerOfPatientID="HOSP-A"))
    at = before.index(b"\x20\x00\x0d\x00")
    before = before[:at] + element(0x00101000, b"LO", b"") + before[at:]
    identity = Identity(patient_id="H-77", issuer="HOSP-A")
    assert coerced(before, identity, NOW) == before


def test_a_second_sequence_of_originals_is_not_lost():
    item = b"\xfe\xff\0\xe0" + struct.pack("<I", 12) + element(0x04000565, b"CS", b"WHY ")
    old = element(0x04000561, b"SQ", item)
    after = coerced(SMALL + old + old, LOCAL, NOW)
    assert after.count(b"WHY ") == 2


def test_originals_of_a_form_to_which_nothing_can_be_added_stay_as_a_former_value():
    old = element(
        0x04000561, b"UN", b"\xfe\xff\0\xe0\x0c\0\0\0" + implicit_element(0x04000565, b"WHY ")
    )
    before = SMALL + old
    [one] = parsed(coerced(before, LOCAL, NOW)).OriginalAttributesSequence
    [former] = one.ModifiedAttributesSequence
    assert former[ORIGINALS].value[0].ReasonForTheAttributeModification == "WHY"


@pytest.mark.parametrize("is_open", [False, True])
def test_delimiters_too_many_do_not_hide_what_comes_behind(is_open):
    item = OPEN_ITEM + element(0x00080050, b"SH", b"ACC1") + END_ITEM
    if is_open:
        request = open_sequence(0x00400275) + item + END_SEQUENCE
    else:
        request = element(0x00400275, b"SQ", item) + END_SEQUENCE
    before = SMALL + request + element(0x00880130, b"SH", b"SET1")
    after = coerced(before, LOCAL, NOW)
    now = parsed(after)
    assert now.StorageMediaFileSetID == "SET1"
    [former] = now.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert former.RequestAttributesSequence[0].AccessionNumber == "ACC1"


def test_explicit_elements_under_an_implicit_syntax_stay_explicit():
    before = meta(b"1.2.840.10008.1.2\0") + SMALL[len(META) :] + element(0x00200010, b"SH", b"S1")
    now = parsed(coerced(before, LOCAL, NOW))
    assert (now.PatientID, now.StudyID) == ("H-77", "S-S1")


def test_elements_in_any_order_and_what_follows_the_data_set():
    body = SMALL[len(META) :]
    before = (
        META
        + element(0x00200010, b"SH", b"S1")
        + body
        + element(0x00080050, b"SH", b"A1")
        + bytes(64)
    )
    after = coerced(before, LOCAL, NOW)
    assert after.endswith(bytes(64))
    assert element(0x00200010, b"SH", b"S-S1") in after
    assert element(0x00080050, b"SH", b"S-A1") in after


def test_encapsulated_pixels_are_not_touched():
    before = sample("JPEG2000.dcm")
    at = before.index(b"\xe0\x7f\x10\0OB")
    after = coerced(before, LOCAL, NOW)
    assert after.endswith(before[at:])


def test_a_deflated_file_with_a_trailer_is_deflated_anew():
    before = deflated(
        SMALL[len(META) :] + element(0x00200010, b"SH", b"S1"), tail=b"\1\2\3\4\5\6\7\0"
    )
    after = coerced(before, LOCAL, NOW)
    assert len(after) % 2 == 0
    assert parsed(after).StudyID == "S-S1"
    assert not [note for note in read(after).notes if "deflated" in note]


def test_a_file_that_is_cut_is_refused():
    before = written(pydicom.Dataset(EVERYTHING))
    for end in range(132, len(before), 7):
        try:
            after = coerced(before[:end], LOCAL, NOW)
        except BadInstance:
            continue
        # It ended between two elements.
        assert read(after)


def test_what_is_too_long_to_be_kept_is_refused(monkeypatch):
    before = written(pydicom.Dataset(EVERYTHING))
    monkeypatch.setattr(coercion, "MAX_ORIGINAL_BYTES", 10)
    with pytest.raises(CannotCoerce, match="to be kept as an original"):
        coerced(before, LOCAL, NOW)


texts = st.text("ABC 123-", max_size=20).map(str.strip)
data_sets = st.dictionaries(
    st.sampled_from(
        [
            (0x00080050, "SH"), (0x00081030, "LO"), (0x00100010, "PN"), (0x00100021, "LO"),
            (0x00101000, "LO"), (0x00200010, "SH"), (0x00380010, "LO"), (0x00380011, "LO"),
            (0x00400275, "SQ"), (0x0040A370, "SQ"), (0x00080051, "SQ"), (0x00091001, "LO"),
            (0x00281052, "SH"), (0x04000561, "SQ"), (0x7FE10010, "LO"),
        ]
    ),
    texts,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data_sets, st.sampled_from(SYNTAXES), st.booleans(), texts, st.sampled_from(["", "S-"]))
def test_any_data_set_property(values, syntax, is_open, patient_id, prefix):
    dataset = small(PatientID=patient_id)
    for (tag, vr), text in values.items():
        if vr == "SQ":
            item = Dataset()
            item.AccessionNumber = text[:16]
            item.is_undefined_length_sequence_item = is_open
            one = DataElement(tag, "SQ", Sequence([item, item] if text else []))
            one.is_undefined_length = is_open
            dataset.add(one)
        else:
            dataset.add_new(tag, vr, text[:16])
    identity = replace(LOCAL, prefix=prefix)
    before = written(dataset, syntax)
    check(before, coerced(before, identity, NOW), identity)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_bytes_property(data):
    """Whatever bytes there are: it is refused, or comes out as a file that reads."""
    before = bytearray(written(pydicom.Dataset(EVERYTHING)))
    for place in data.draw(st.lists(st.integers(132, len(before) - 1), max_size=4)):
        before[place] = data.draw(st.integers(0, 255))
    try:
        read(bytes(before))
        after = coerced(bytes(before), LOCAL, NOW)
    except (BadInstance, NotDicom):
        return
    header = read(after)
    assert header.study.patient_id == "H-77"
    assert header.study.patient_id_issuer == "HOSP-A"


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="needs Debian's dcmtk")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_dcmtk_reads_what_comes_out(tmp_path, syntax):
    path = tmp_path / "one.dcm"
    path.write_bytes(coerced(written(pydicom.Dataset(EVERYTHING), syntax), LOCAL, NOW))
    told = subprocess.run(
        ["dcmdump", "-q", "+P", "0010,0020", "+P", "0400,0563", str(path)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "[H-77]" in told
    assert "[P1]" in told
    assert "[RADMESH]" in told
