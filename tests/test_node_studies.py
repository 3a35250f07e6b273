import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
)
from studies_made import make_instance

from node import elements, studies
from node.studies import BadInstance, MediaDirectory, NotDicom, read_header

STUDY = "1.2.826.0.1.3680043.8.498.7"


def _reader(data: bytes) -> elements.Read:
    return lambda offset, length: data[offset : offset + length]


def read(data: bytes, name: str = "") -> studies.InstanceHeader:
    return studies.read_dataset(_reader(data), len(data), name)


def saved(dataset: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = bytes(dataset.PixelData)
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def sample(name: str) -> bytes:
    return Path(pydicom.data.get_testdata_file(name, download=False)).read_bytes()


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + b"\0\0" + struct.pack("<I", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


META = (
    bytes(128)
    + b"DICM"
    + element(0x00020002, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0")
    + element(0x00020003, b"UI", b"1.2.3.4\0")
    + element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
)
IDENTITY = (
    element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0")
    + element(0x00080018, b"UI", b"1.2.3.4\0")
    + element(0x0020000D, b"UI", b"1.2.3.5\0")
    + element(0x0020000E, b"UI", b"1.2.3.6\0")
)
SMALL = META + IDENTITY


def bad(data: bytes, reason: str) -> None:
    with pytest.raises(BadInstance, match=reason):
        read(data)


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
    assert studies.matches_header(data, STUDY, f"{STUDY}.1", f"{STUDY}.1.1")
    assert read_header(data[: len(data) * 3 // 4]) == header


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


def test_bare_data_set_is_bad():
    bad(IDENTITY, "bare data set")
    bad(META[132:] + IDENTITY, "file meta without preamble")


def test_media_directory():
    with pytest.raises(MediaDirectory):
        read(SMALL.replace(b"1.2.840.10008.5.1.4.1.1.7\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0", 1))


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


# --- structure ----------------------------------------------------------------


def _is_taken(data: bytes) -> bool:
    try:
        read(data)
    except (BadInstance, NotDicom):
        return False
    return True


def test_every_cut_of_an_image_is_found():
    data = saved(make_instance(STUDY, 1, rows=4))
    rows = data.index(element(0x00280010, b"US", b"\4\0"))
    taken = [length for length in range(len(data) + 1) if _is_taken(data[:length])]
    # Cut between two elements in front of the first that speaks of an image, a file
    # is a whole one without image: nothing in it tells, so the list is short and known.
    series = data.index(b"\x20\0\x0e\0UI")
    number = data.index(b"\x20\0\x13\0IS")
    samples = data.index(b"\x28\0\x02\0US")
    photometric = data.index(b"\x28\0\x04\0CS")
    assert series < number
    assert taken == [number, samples, photometric, rows, len(data)]


def test_image_whose_pixels_are_elsewhere_by_design_is_taken():
    rows = element(0x00280010, b"US", b"\x10\0")
    bad(SMALL + rows, "no pixel data")
    assert read(SMALL + rows + element(0x00287FE0, b"LT", b"https://pixels")).rows == 16
    assert read(SMALL + rows + element(0x7FE00008, b"OW", bytes(8))).rows == 16


def test_zero_bytes_and_padding_after_the_data_set_are_noted():
    for tail in (bytes(1), bytes(7), bytes(8), bytes(200_000)):
        assert read(SMALL + tail).notes == ("zero bytes follow the data set",)
    padding = element(0xFFFCFFFC, b"OB", bytes(100))
    assert read(SMALL + padding).notes == ("trailing padding follows the data set",)
    bad(SMALL + b"PK\x03\x04", "is cut")
    bad(SMALL + bytes(20) + b"x", "cut|twice|element")


def test_huge_claims_allocate_nothing():
    pixels = struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", 0xFFFFFFFE)
    bad(SMALL + pixels + bytes(100), "should have 4294967294 bytes, 100 are there")
    bad(SMALL + struct.pack("<HH2s2xI", 0x0010, 0x0010, b"UT", 2**31), "is cut|bytes in")


def _open_sequence(tag: int = 0x00081140, vr: bytes = b"SQ") -> bytes:
    return struct.pack("<HH2s2xI", tag >> 16, tag & 0xFFFF, vr, 0xFFFFFFFF)


OPEN_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
END_ITEM = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
END_SEQUENCE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def test_nested_sequences():
    inner = _open_sequence() + OPEN_ITEM + element(0x00080018, b"UI", b"9.9\0")
    closed = inner + END_ITEM + END_SEQUENCE
    body = META + element(0x00080016, b"UI", b"1.2\0") + _open_sequence() + OPEN_ITEM
    body += closed + END_ITEM + OPEN_ITEM + END_ITEM + END_SEQUENCE
    header = read(body + IDENTITY[34:])
    # The UID inside the sequence is not the instance's.
    assert header.sop_instance_uid == "1.2.3.4"
    bad(SMALL + inner, "inside a sequence")
    bad(SMALL + END_ITEM, "misplaced delimiter")
    bad(SMALL + _open_sequence() + END_ITEM, "misplaced delimiter")
    bad(SMALL + _open_sequence() + element(0x00080018, b"UI", b"1.2\0"), "where an item belongs")


def test_unknown_values_of_undefined_length_are_implicit_sequences():
    value = struct.pack("<HHI", 0x0008, 0x0018, 4) + b"9.9\0"
    body = _open_sequence(0x00091001, b"UN") + OPEN_ITEM + value + END_ITEM + END_SEQUENCE
    assert read(SMALL + body).sop_instance_uid == "1.2.3.4"


def test_explicit_data_set_under_an_implicit_transfer_syntax_is_read_as_it_is():
    data = SMALL.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0")
    data = data.replace(b"\x10\x00UI\x14\x00", b"\x10\x00UI\x12\x00", 1)
    assert read(data).transfer_syntax_uid == ImplicitVRLittleEndian


def test_nesting_and_counts_are_bounded(monkeypatch):
    bad(SMALL + (_open_sequence() + OPEN_ITEM) * 10_000, "nested deeper")
    bad(SMALL + OPEN_ITEM, "misplaced delimiter")
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 50)
    bad(SMALL + element(0x00091001, b"LO", b"") * 100, "more than 50 elements")


def deflated(body: bytes, tail: bytes = b"") -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = compress.compress(body) + compress.flush()
    meta = META.replace(
        element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0"),
        element(0x00020010, b"UI", b"1.2.840.10008.1.2.1.99"),
    )
    return meta + packed + tail


def test_deflated_data_sets():
    body = IDENTITY + element(0x7FE00010, b"OW", os.urandom(300_000))
    data = deflated(body)
    assert read(data).sop_instance_uid == "1.2.3.4"
    assert read(data + b"\0").notes == ()
    assert read(data + b"trailer.").notes == ("a few bytes follow the deflated data",)
    bad(data + b"much more than that", "behind its deflated data")
    bad(data[:-1], "the deflated data has no end")
    bad(deflated(body[:-1]), "is not whole")
    bad(deflated(b"")[:-2] + b"\xff" * 100, "cannot be inflated")


def test_deflated_bomb_is_bounded(monkeypatch):
    monkeypatch.setattr(elements, "MAX_INFLATED_BYTES", 1_000_000)
    bad(deflated(IDENTITY + element(0x7FE00010, b"OW", bytes(2_000_000))), "inflates to more than")
    monkeypatch.setattr(elements, "MAX_INFLATED_BYTES", 3_000_000)
    assert read(deflated(IDENTITY + element(0x7FE00010, b"OW", bytes(2_000_000))))


# --- received data ------------------------------------------------------------


def test_matches_header_wants_all_three_uids():
    data = saved(make_instance(STUDY, 1))
    uids = [STUDY, f"{STUDY}.1", f"{STUDY}.1.1"]
    assert studies.matches_header(memoryview(data), *uids)
    assert studies.matches_header(data[:2000], *uids)
    for index in range(3):
        assert not studies.matches_header(data, *uids[:index], "1.2.3", *uids[index + 1 :])
    assert not studies.matches_header(data[:300], *uids)
    assert not studies.matches_header(b"", *uids)
    assert not studies.matches_header(data[132:], *uids)
    # Inside a private element the UIDs are text like any other.
    hidden = element(0x00091001, b"OB", data[132:1000])
    assert not studies.matches_header(META + hidden, *uids)


def test_read_header_takes_the_first_bytes_of_an_instance():
    data = saved(make_instance(STUDY, 1, rows=512))
    assert read_header(memoryview(data)[:4096]) == read(data)
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
    assert studies.matches_header(
        data, header.study.study_uid, header.series.series_uid, header.sop_instance_uid
    )
    assert read_header(data).study == header.study


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
    studies.matches_header(data, "1.2", "1.3", "1.4")
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


SAMPLE = saved(make_instance(STUDY, 1, rows=2)) + _open_sequence() + OPEN_ITEM + END_ITEM
