import io
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from part10_made import (
    END_ITEM,
    IDENTITY,
    META,
    OPEN_ITEM,
    RAW_DATA,
    SMALL,
    STUDY,
    bad,
    deflated,
    element,
    implicit_element,
    open_sequence,
    read,
    sample,
    saved,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
)
from studies_made import make_instance

from node.dicom import part10
from node.dicom.part10 import HeaderMatcher, matches_header
from node.dicom.studies import BadInstance, MediaDirectory, NotDicom, read_header

# --- attributes -------------------------------------------------------------


def test_attributes():
    header = read(saved(make_instance(STUDY, 3)))
    assert header.study.study_uid == STUDY
    assert header.study.patient_name == "Marker^Patient"
    assert header.study.patient_id == "MARKER-PATIENT-ID"
    assert header.study.study_date == "20260301"
    assert header.study.study_description == "MADE FOR A TEST"
    assert header.series.series_uid == f"{STUDY}.1"
    assert header.series.modality == "CT"
    assert header.sop_instance_uid == f"{STUDY}.1.3"
    assert header.transfer_syntax_uid == ExplicitVRLittleEndian
    assert (header.number, header.rows, header.columns, header.frames) == (3, 64, 64, 1)
    assert header.notes == ()


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian,
     DeflatedExplicitVRLittleEndian],
)  # fmt: skip
def test_every_data_set_encoding_reads_the_same(syntax):
    data = saved(make_instance(STUDY, 1), syntax)
    header = read(data)
    assert header.transfer_syntax_uid == syntax
    assert header.study == read(saved(make_instance(STUDY, 1))).study
    assert (header.rows, header.number) == (64, 1)
    assert matches_header(data, STUDY, f"{STUDY}.1", f"{STUDY}.1.1")
    assert read_header(data) == header
    first = read_header(data[: len(data) * 3 // 4], len(data))
    assert first == (None if syntax == DeflatedExplicitVRLittleEndian else header)


def test_encapsulated_pixel_data():
    instance = make_instance(STUDY, 1)
    instance.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(5000)])
    instance["PixelData"].VR = "OB"
    data = saved(instance, JPEGLosslessSV1)
    assert read(data).transfer_syntax_uid == JPEGLosslessSV1
    for cut in (1, 8, 9, 2000):
        bad(data[:-cut], "is cut")


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        ("", b"Plain", "Plain"),
        ("", "Müller".encode(), "Müller"),
        ("ISO_IR 100", "Müller".encode("latin-1"), "Müller"),
        ("ISO_IR 192", "王^小東".encode(), "王^小東"),
        ("ISO_IR 144", "Люк".encode("iso8859-5"), "Люк"),
        ("GB18030", "王".encode("gb18030"), "王"),
        ("\\ISO 2022 IR 87", b"Yamada=\x1b$B;3ED\x1b(B", "Yamada=山田"),
        ("ISO_IR 192", b"\xff\xfeName", "\ufffd\ufffdName"),
        ("NO SUCH SET", b"A\xe4", "Aä"),
        ("ISO-IR 144", "Люк".encode("iso8859-5"), "Люк"),
        ("iso_ir 144", "Люк".encode("iso8859-5"), "Люк"),
        ("ISO IR 101", "Łuk".encode("iso8859-2"), "Łuk"),
        ("ISO_IR_192", "王".encode(), "王"),
        ("utf-8", "王".encode(), "王"),
        ("ISO 8859-5", "Люк".encode("iso8859-5"), "Люк"),
        ("gb 18030", "王".encode("gb18030"), "王"),
        ("\\ISO-2022-IR 87", b"Yamada=\x1b$B;3ED\x1b(B", "Yamada=山田"),
        ("\\ISO 2022 IR 58", b"Z=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "Z=张^小东"),
        ("ISO_IR 999", b"A\xe4", "Aä"),
        ("ISO_IR 100", b"evil\x1b[2J\nname", "evil [2J name"),
        ("ISO_IR 192", "a\u202eb\u2028c".encode(), "a b c"),
        ("", b"Doe^John^^^ ", "Doe^John"),
    ],
)
def test_texts_decode_to_one_printable_line(charset, raw, text):
    data = SMALL.replace(IDENTITY, element(0x00080005, b"CS", charset.encode()) + IDENTITY)
    assert read(data + element(0x00100010, b"PN", raw)).study.patient_name == text


@pytest.mark.parametrize(
    ("value", "date"),
    [(b"20260301", "20260301"), (b"2026.03.01", "20260301"), (b"March", ""), (b"", ""),
     (b"202603011200", "")],
)  # fmt: skip
def test_dates_are_eight_digits_or_nothing(value, date):
    assert read(SMALL + element(0x00080020, b"DA", value)).study.study_date == date


@pytest.mark.parametrize(
    ("value", "number"),
    [(b"7", 7), (b" -3 ", -3), (b"1A", None), (b"", None), (b"4\\5", 4), (b"99999999999", None)],
)
def test_numbers_that_are_none_read_as_none(value, number):
    assert read(SMALL + element(0x00200013, b"IS", value)).number == number


def test_long_texts_are_cut():
    header = read(
        SMALL + element(0x00081030, b"LO", b"x" * 5000) + element(0x00080060, b"CS", b"M" * 40)
    )
    assert len(header.study.study_description) == 1024
    assert header.series.modality == "M" * 16


# --- what is not taken --------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x1f\x8b\x08" + bytes(500), b'{"00080016": {}}' * 40, bytes(5000)]
)
def test_plainly_something_else_is_not_dicom(data):
    with pytest.raises(NotDicom):
        read(data, "notes.txt")


def test_no_mark_but_named_as_dicom_is_bad():
    with pytest.raises(BadInstance, match="named as DICOM and is empty"):
        read(b"", "IM1.DCM")
    with pytest.raises(BadInstance, match="named as DICOM and is none"):
        read(b"words", "IM1.dcm")


NAMES = ["IM000001", "1.2.840.113619.2.5.1", "IM1.dcm"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (bytes(1), "nothing but zero bytes"),
        (bytes(300_000), "nothing but zero bytes"),
        (SMALL[128:], "DICOM mark at byte 0: the preamble of 128 bytes is missing"),
        (bytes(128) + SMALL, "DICOM mark at byte 256, where byte 128"),
        (b"\r\n--part\r\n\r\n" + SMALL, "DICOM mark at byte 140, where"),
        (META[132:] + IDENTITY, "file meta without preamble"),
        (struct.pack("<HHII", 2, 0, 4, 90) + bytes(90), "file meta without preamble"),
        (IDENTITY, "bare data set"),
        (element(0x00080020, b"DA", b"20240101") + IDENTITY[50:], "bare data set"),
        (element(0x00080060, b"CS", b"CT") + IDENTITY[50:], "bare data set"),
        (b"".join(implicit_element(0x00080020 + n, b"ab") for n in range(9)), "bare data set"),
        (b"".join(struct.pack(">HHI", 8, n, 2) + b"ab" for n in range(32, 41)), "bare data set"),
    ],
)
def test_lost_images_are_not_passed_over(name, data, reason):
    with pytest.raises(BadInstance, match=reason):
        read(data, name)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("notes.txt", b""),
        (".nomedia", b""),
        ("swap.img", bytes(3000)),
        ("README", b"Open the viewer to see the images. \n" * 20),
        ("AUTORUN.INF", b"[autorun]\r\nopen=viewer.exe\r\n"),
        ("viewer", b"\x7fELF\2\1\1" + bytes(9) + b"\3\0\x3e\0\1\0\0\0" + bytes(4000)),
        ("image.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(4000)),
        ("table", struct.pack("<12I", *range(1, 13)) * 20),
    ],
)
def test_what_was_never_dicom_is_left_alone(name, data):
    with pytest.raises(NotDicom):
        read(data, name)


@pytest.mark.parametrize("name", ["._IM0.dcm", "._IM0", "IM0.dcm"])
def test_what_a_mac_keeps_beside_a_file_is_left_alone(name):
    with pytest.raises(NotDicom, match="Mac"):
        read(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000), name)
    # But not a file with a mark, whatever its preamble is.
    assert read(b"\0\5\x16\7" + SMALL[4:], name)


def test_media_directory():
    with pytest.raises(MediaDirectory):
        read(SMALL.replace(RAW_DATA, b"1.2.840.10008.1.3.10\0\0\0\0\0\0", 1))


@pytest.mark.parametrize(
    ("tag", "what"),
    [(0x00080016, "SOP Class UID"), (0x00080018, "SOP Instance UID"),
     (0x0020000D, "Study Instance UID"), (0x0020000E, "Series Instance UID")],
)  # fmt: skip
def test_required_uids(tag, what):
    def with_uid(value: bytes) -> bytes:
        body = b""
        position = 0
        while position < len(IDENTITY):
            group, number = struct.unpack_from("<HH", IDENTITY, position)
            (length,) = struct.unpack_from("<H", IDENTITY, position + 6)
            one = IDENTITY[position : position + 8 + length]
            body += element(tag, b"UI", value) if group << 16 | number == tag else one
            position += 8 + length
        return META + body

    assert read(with_uid(b"1.2.3 \0"))
    bad(with_uid(b""), f"has no {what}")
    for value in (b"../../etc", b"1..2", b"1.2\0.3", b"1.2\\1.3", b"\xff.1", b"1." * 33, b"1.2\n"):
        bad(with_uid(value), f"{what} that is no UID")


def test_transfer_syntax_is_required():
    bad(SMALL.replace(b"1.2.840.10008.1.2.1\0", bytes(20)), "without a Transfer Syntax UID")
    bad(SMALL.replace(b"1.2.840.10008.1.2.1\0", b"x" * 20), "Transfer Syntax UID that is no UID")
    bad(SMALL[:132], "without a Transfer Syntax UID")


def test_identity_that_stands_twice_is_ambiguous():
    bad(SMALL + element(0x0020000D, b"UI", b"1.2.3.9\0"), r"\(0020,000D\) twice")


def test_other_sop_instance_in_the_file_meta_is_noted():
    header = read(SMALL.replace(b"1.2.3.4\0", b"1.2.3.8\0", 1))
    assert header.sop_instance_uid == "1.2.3.4"
    assert len(header.notes) == 1


# --- received data ------------------------------------------------------------


def test_matches_header_wants_all_three_uids():
    data = saved(make_instance(STUDY, 1))
    uids = [STUDY, f"{STUDY}.1", f"{STUDY}.1.1"]
    assert matches_header(memoryview(data), *uids)
    assert matches_header(data[:2000], *uids)
    for index in range(3):
        assert not matches_header(data, *uids[:index], "1.2.3", *uids[index + 1 :])
    assert not matches_header(data[:300], *uids)
    assert not matches_header(b"", *uids)
    assert not matches_header(data[132:], *uids)
    # Inside a private element the UIDs are text like any other.
    hidden = element(0x00091001, b"OB", data[132:1000])
    assert not matches_header(META + hidden, *uids)


def test_read_header_takes_the_first_bytes_of_an_instance():
    data = saved(make_instance(STUDY, 1, rows=512))
    assert read_header(memoryview(data)[:4096], len(data)) == read(data)
    # Behind what is there may be more of the header.
    assert read_header(data[:4096], len(data) + 1) is None
    assert read_header(data[:200], len(data)) is None
    with pytest.raises(BadInstance):
        read_header(data[:200])
    with pytest.raises(BadInstance):
        read_header(b"nothing")


# --- against pydicom ------------------------------------------------------------


def _check_like_pydicom(data: bytes) -> None:
    header = read(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        assert header.study.study_uid == dataset.StudyInstanceUID
        assert header.series.series_uid == dataset.SeriesInstanceUID
        assert header.sop_instance_uid == dataset.SOPInstanceUID
        assert header.sop_class_uid == dataset.SOPClassUID
        assert header.transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID
        assert header.number == dataset.get("InstanceNumber")
        assert header.rows == (dataset.get("Rows") or 0)
        assert header.columns == (dataset.get("Columns") or 0)
        assert header.study.patient_id == (dataset.get("PatientID") or "")
        name = str(dataset.get("PatientName") or "")
        assert header.study.patient_name == name.strip().rstrip("^=")
        assert header.study.study_description == (dataset.get("StudyDescription") or "").strip()
    assert matches_header(
        data, header.study.study_uid, header.series.series_uid, header.sop_instance_uid
    )
    assert read_header(data) == replace(header, notes=read_header(data).notes)


def test_reads_like_pydicom_its_own_files():
    for name in ("CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm"):
        _check_like_pydicom(sample(name))


@pytest.mark.slow
def test_reads_like_pydicom_every_shared_file(shared):
    taken = 0
    for path in sorted((shared / "data").rglob("*")):
        if path.is_file():
            try:
                read(path.read_bytes(), path.name)
            except (NotDicom, BadInstance):
                continue
            _check_like_pydicom(path.read_bytes())
            taken += 1
    assert taken > 750


# --- any bytes ------------------------------------------------------------------


def _check_untrusted(data: bytes) -> None:
    try:
        read(data)
    except (NotDicom, BadInstance):
        pass
    matches_header(data, "1.2", "1.3", "1.4")
    try:
        read_header(data)
    except (NotDicom, BadInstance):
        pass


@given(st.binary(max_size=400))
def test_any_bytes_property(data):
    _check_untrusted(data)
    _check_untrusted(META + data)
    _check_untrusted(SMALL + data)
    _check_untrusted(deflated(IDENTITY, data))


@given(st.integers(0), st.binary(min_size=1, max_size=4))
def test_changed_bytes_property(position, change):
    data = bytearray(SAMPLE)
    position = 128 + position % (len(data) - 132)
    data[position : position + len(change)] = change
    _check_untrusted(bytes(data))


SAMPLE = saved(make_instance(STUDY, 1, rows=2)) + open_sequence() + OPEN_ITEM + END_ITEM


PYDICOM_FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))


@pytest.mark.parametrize("path", PYDICOM_FILES, ids=lambda path: path.name)
def test_the_quick_match_never_contradicts_the_walker(path):
    data = path.read_bytes()
    try:
        header = read_header(data)
    except BadInstance:
        return
    assert header is not None
    uids = (header.study.study_uid, header.series.series_uid, header.sop_instance_uid)
    matcher = HeaderMatcher()
    for _ in range(2):
        assert matcher.matches(data, *uids)
        for index in range(3):
            assert not matcher.matches(data, *uids[:index], "1.2.3", *uids[index + 1 :])
    assert matches_header(data, *uids)


def test_files_laid_out_alike_are_not_walked_again(monkeypatch):
    matcher = HeaderMatcher()
    first, second = (saved(make_instance(STUDY, number)) for number in (1, 2))
    assert matcher.matches(first, STUDY, f"{STUDY}.1", f"{STUDY}.1.1")
    monkeypatch.setattr(part10, "walk", None)
    monkeypatch.setattr(part10._Layout, "of", None)
    assert matcher.matches(second, STUDY, f"{STUDY}.1", f"{STUDY}.1.2")
    assert not matcher.matches(second, STUDY, f"{STUDY}.1", f"{STUDY}.1.1")


@given(st.integers(0), st.binary(min_size=1, max_size=4))
def test_the_quick_match_of_changed_bytes_is_what_the_walker_says(position, change):
    sample = saved(make_instance(STUDY, 1, rows=2))
    data = bytearray(sample)
    # As far as the Series Instance UID, and what follows it.
    position = 128 + position % (data.index(f"{STUDY}.1\0".encode()) - 90)
    data[position : position + len(change)] = change
    uids = (STUDY, f"{STUDY}.1", f"{STUDY}.1.1")
    matcher = HeaderMatcher()
    assert matcher.matches(sample, *uids)
    assert matcher.matches(bytes(data), *uids) == matches_header(bytes(data), *uids)
