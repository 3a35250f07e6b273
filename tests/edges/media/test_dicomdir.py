"""A DICOMDIR as pydicom reads it, and what fits into its records."""

import re
from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.fileset import _FOUR_LEVEL_SOP_CLASSES
from pydicom.uid import UID_dictionary

from edges.media.dicomdir import Directory
from edges.media.record_keys import keys_of, type_of
from edges.values import fitting

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

PATIENT_NAME, PATIENT_ID, BORN = 0x00100010, 0x00100020, 0x00100030
STUDY_ID, STUDY_DATE, NUMBER = 0x00200010, 0x00080020, 0x00200013


def read(directory: Directory) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(directory.encode("DICOM", "1.2.3")))


def add(directory: Directory, number: int, **changes: object) -> None:
    about: dict[str, object] = {
        "sop_class": CT,
        "sop_instance": f"1.2.{number}",
        "transfer_syntax": EXPLICIT,
        "study": "1.2",
        "series": "1.2.3",
        "said": {},
    }
    directory.add(("IMAGES", f"IM{number:06}"), **(about | changes))


def tree(found: pydicom.Dataset) -> list[object]:
    """The records as the offsets lead to them: type, and what is below."""
    by_offset = {one.seq_item_tell: one for one in found.DirectoryRecordSequence}

    def at(offset: int) -> list[object]:
        records = []
        while offset:
            one = by_offset[offset]
            lower = at(one.OffsetOfReferencedLowerLevelDirectoryEntity)
            records.append((one.DirectoryRecordType, lower) if lower else one.DirectoryRecordType)
            offset = one.OffsetOfTheNextDirectoryRecord
        return records

    records = at(found.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity)
    last = found.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity
    assert (not last and not records) or by_offset[last].DirectoryRecordType == "PATIENT"
    return records


def test_the_records_are_where_the_offsets_say() -> None:
    directory = Directory()
    for number in range(6):
        said = {PATIENT_ID: f"P{number // 4}", NUMBER: str(number)}
        add(directory, number, study=f"1.{number // 2}", series=f"1.{number // 2}.1", said=said)
    found = read(directory)
    study = ("STUDY", [("SERIES", ["IMAGE", "IMAGE"])])
    assert tree(found) == [("PATIENT", [study, study]), ("PATIENT", [study])]
    assert found.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert found.FileSetID == "DICOM"
    files = [
        one.ReferencedFileID for one in found.DirectoryRecordSequence if "ReferencedFileID" in one
    ]
    assert files == [["IMAGES", f"IM{number:06}"] for number in range(6)]
    assert not directory.made_up.keys() & {"Patient ID", "Instance Number"}


def test_an_empty_medium() -> None:
    assert tree(read(Directory())) == []


def test_what_a_file_lacks_is_made_up_in_the_record_and_counted() -> None:
    directory = Directory()
    add(directory, 1)
    add(directory, 2, said={STUDY_DATE: "2004.01.19", NUMBER: "abc"})
    patient, study, series, *images = read(directory).DirectoryRecordSequence
    assert (patient.PatientID, patient.PatientName) == ("RM0001", "")
    assert (study.StudyDate, study.StudyTime, study.StudyID) == ("19000101", "000000", "RM0001")
    assert study.AccessionNumber == study.StudyDescription == ""
    assert (series.Modality, series.SeriesNumber) == ("OT", 1)
    assert [one.InstanceNumber for one in images] == [1, 2]
    assert directory.made_up == {
        "Patient ID": 1, "Study Date": 1, "Study Time": 1, "Study ID": 1, "Modality": 1,
        "Series Number": 1, "Instance Number": 2,
    }  # fmt: skip


def test_people_without_a_number_are_not_one_person() -> None:
    directory = Directory()
    for number, said in enumerate(
        [
            {PATIENT_NAME: "A^A"},
            {PATIENT_NAME: "B^B"},
            {PATIENT_NAME: "A^A", BORN: "19700101"},
            {},
            {},
        ]
    ):
        add(directory, number, study=f"1.{number}", said=said)
    records = read(directory).DirectoryRecordSequence
    patients = [one for one in records if one.DirectoryRecordType == "PATIENT"]
    assert [one.PatientID for one in patients] == [f"RM{number:04}" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("name", "charset"),
    [
        ("Muller^Anna", None),
        ("Müller^Änna", "ISO_IR 100"),
        ("Yamada^Tarou=山田^太郎", "ISO_IR 192"),
    ],
)
def test_a_name_is_in_a_character_set_that_says_so(name: str, charset: str | None) -> None:
    directory = Directory()
    add(directory, 1, said={PATIENT_NAME: name, PATIENT_ID: "1"})
    patient = read(directory).DirectoryRecordSequence[0]
    assert patient.PatientName == name
    assert patient.get("SpecificCharacterSet") == charset


def test_the_types_of_records_are_those_of_the_standard() -> None:
    wrong = {uid: kind for uid, kind in _FOUR_LEVEL_SOP_CLASSES.items() if type_of(uid) != kind}
    assert wrong == {}
    assert type_of("1.2.840.10008.5.1.4.1.1.481.5") == "RT PLAN"
    assert type_of("1.2.840.10008.5.1.4.1.1.104.1") == "ENCAP DOC"
    assert type_of(CT) == type_of("1.2.840.10008.5.1.4.1.1.66.4") == "IMAGE"
    assert type_of("1.3.12.2.1107.5.9.1") == "PRIVATE"


def test_a_record_of_each_class_can_be_read() -> None:
    directory = Directory()
    classes = [uid for uid, about in UID_dictionary.items() if about[1] == "SOP Class"]
    for number, sop_class in enumerate([*classes, "1.3.12.2.1107.5.9.1"]):
        add(directory, number, sop_class=sop_class)
    records = read(directory).DirectoryRecordSequence[3:]
    assert [one.ReferencedSOPClassUIDInFile for one in records[:-1]] == classes
    assert records[-1].DirectoryRecordType == "PRIVATE"
    assert records[-1].PrivateRecordUID
    for one in records:
        assert all(
            key.tag in one for key in keys_of(one.DirectoryRecordType) if key.made_up is not None
        )


def test_a_verified_report_has_the_time() -> None:
    directory = Directory()
    report = "1.2.840.10008.5.1.4.1.1.88.11"
    for number, said in enumerate(
        [{0x0040A493: "VERIFIED", 0x0040A030: "20260101"}, {0x0040A493: "VERIFIED"}, {}]
    ):
        add(directory, number, sop_class=report, said=said)
    reports = read(directory).DirectoryRecordSequence[3:]
    assert [one.get("VerificationDateTime") for one in reports] == ["20260101", "19000101", None]


@pytest.mark.parametrize(
    ("vr", "text", "value"),
    [
        ("DA", "20260228", "20260228"),
        ("DA", "20261301", ""),
        ("DA", "", ""),
        ("TM", "10:20:30", "102030"),
        ("TM", "102030.123456 ", "102030.123456"),
        ("TM", "250000", ""),
        ("CS", "MR", "MR"),
        ("CS", "mr", ""),
        ("CS", "ORIGINAL\\PRIMARY", "ORIGINAL\\PRIMARY"),
        ("IS", " +5 ", "5"),
        ("IS", "1.5", ""),
        ("IS", "99999999999", ""),
        ("US", "-1", ""),
        ("US", "65536", ""),
        ("UL", "65536", "65536"),
        ("LO", "a\\b\x1b[2J", "a/b [2J"),
        ("SH", "x" * 20, "x" * 16),
        ("PN", "A^B" + "x" * 99, "A^B" + "x" * 61),
        ("DT", "20260101123000.5+0100", "20260101123000.5+0100"),
        ("DT", "yesterday", ""),
    ],
)
def test_what_fits(vr: str, text: str, value: str) -> None:
    assert fitting(vr, text) == value


# pydicom counts the blank that pads 16 letters to an even number of bytes as a 17th.
@pytest.mark.filterwarnings("ignore:The value length")
@given(st.dictionaries(st.sampled_from([PATIENT_NAME, PATIENT_ID, STUDY_ID, STUDY_DATE, NUMBER]),
                       st.text(max_size=80)))  # fmt: skip
def test_whatever_a_file_says_the_records_can_be_read(said: dict[int, str]) -> None:
    directory = Directory()
    add(directory, 1, said=said)
    found = read(directory)
    assert tree(found) == [("PATIENT", [("STUDY", [("SERIES", ["IMAGE"])])])]
    patient, study, _, image = found.DirectoryRecordSequence
    assert 0 < len(patient.PatientID) <= 64
    assert 0 < len(study.StudyID) <= 16
    assert re.fullmatch("[0-9]{8}", study.StudyDate)
    assert image.InstanceNumber is not None
