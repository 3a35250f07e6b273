import os
import struct

import pydicom
import pytest
from part10_made import (
    CT_IMAGE,
    END_ITEM,
    END_SEQUENCE,
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
    meta,
    open_sequence,
    read,
    saved,
)
from pydicom.uid import (
    ImplicitVRLittleEndian,
)
from studies_made import make_instance

from node.dicom import elements, inflating
from node.dicom.sop_classes import IMAGE_CLASSES
from node.dicom.studies import BadInstance, NotDicom

# --- structure ----------------------------------------------------------------


def _is_taken(data: bytes) -> bool:
    try:
        read(data)
    except (BadInstance, NotDicom):
        return False
    return True


def test_every_cut_of_an_image_is_found():
    data = saved(make_instance(STUDY, 1, rows=4))
    taken = [length for length in range(len(data) + 1) if _is_taken(data[:length])]
    # Cut between two elements in front of the first that speaks of pixels, a file is a
    # header without image, as some are: the list is short and known, and noted.
    number = data.index(b"\x20\0\x13\0IS")
    samples = data.index(b"\x28\0\x02\0US")
    assert taken == [number, samples, len(data)]
    for length in taken[:-1]:
        assert "it may be cut" in str(read(data[:length]).notes)


def test_every_cut_that_is_filled_with_zeros_in_front_of_the_pixels_is_found():
    data = saved(make_instance(STUDY, 1, rows=4))
    size = data.index(b"\xe0\x7f\x10\0OW") + 8
    for length in range(132, len(data)):
        filled = data[:length].ljust(max(len(data), length + 400), b"\0")
        # Within the pixels, and the zeros of their size, a tail of zeros is black for all
        # that anybody can tell; and "O" is a size of 79 in the implicit form.
        assert _is_taken(filled) == (length > size or length == size - 3), length
    bad(data[: size - 60].ljust(len(data), b"\0"), "is cut")


def _of_class(sop_class: bytes) -> bytes:
    return SMALL.replace(
        element(0x00080016, b"UI", RAW_DATA), element(0x00080016, b"UI", sop_class)
    )


CT = _of_class(CT_IMAGE)
ROWS = element(0x00280010, b"US", b"\x10\0")


def test_an_image_has_its_pixels_in_one_of_their_forms():
    bad(CT + ROWS, "image class.*no pixel data")
    for tag, vr in ((0x7FE00010, b"OW"), (0x7FE00008, b"OW"), (0x7FE00009, b"OW")):
        header = read(CT + ROWS + element(tag, vr, bytes(8)))
        assert (header.rows, header.notes) == (16, ())
    # The pixels are elsewhere by design.
    assert read(CT + ROWS + element(0x00287FE0, b"LT", b"https://pixels")).notes == ()
    assert "it may be cut" in str(read(CT).notes)


@pytest.mark.parametrize(
    "sop_class",
    [
        b"1.2.840.10008.5.1.4.1.1.4.2",  # MR spectroscopy
        b"1.2.840.10008.5.1.4.1.1.66",  # raw data
        b"1.2.840.10008.5.1.4.1.1.481.2",  # dose
        b"1.3.12.2.1107.5.9.1",  # CSA non-image
        b"1.2.3.4.5",  # nobody knows
    ],
)
def test_other_objects_need_no_pixels(sop_class):
    data = _of_class(sop_class) + ROWS + element(0x00280100, b"US", b"\x10\0")
    assert read(data).notes == ()
    # But what describes an image and ends in zeros has lost it.
    bad(data + bytes(100), "is cut: there are only zero bytes from byte")
    padded = ("zero bytes follow the data set",)
    assert read(_of_class(sop_class) + bytes(100)).notes == padded
    assert read(data + element(0x56000020, b"OB", bytes(64)) + bytes(100)).notes == padded


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_zeros_that_begin_within_a_text_are_a_cut_copy_of_any_object(length):
    data = SMALL + element(0x00200010, b"SH", b"STUDY9")
    filled = data[:-length] + bytes(length) + bytes(300)
    if length == 1:
        # One byte of zero may be padding.
        assert read(filled).notes == ("zero bytes follow the data set",)
    else:
        bad(filled, "is cut: zero bytes to the end begin inside of an element")


@pytest.mark.parametrize("block", [0x10, 0x11])
def test_pixels_in_a_private_block_are_taken_with_a_note(block):
    creator = element(0x07A10000 | block, b"LO", b"ELSCINT1")
    pixels = element(0x07A1000A | block << 8, b"OB", bytes(64))
    (note,) = read(CT + ROWS + creator + pixels).notes
    assert "private block of ELSCINT1" in note
    bad(CT + ROWS + pixels, "no pixel data")
    bad(CT + ROWS + creator, "no pixel data")
    bad(CT + ROWS + creator + element(0x07A1000A | block << 8, b"OB", b""), "no pixel data")
    bad(CT + ROWS + element(0x07A10000 | block, b"LO", b"SOMEBODY") + pixels, "no pixel data")


def test_image_classes_are_those_of_the_standard():
    """Against pydicom's dictionary: each class that is called an image, and nothing else."""
    named = {
        uid: pydicom.uid.UID(uid).name
        for uid, (_, kind, *_) in pydicom.uid.UID_dictionary.items()
        if kind == "SOP Class"
    }
    images = {uid for uid, name in named.items() if "Image Storage" in name}
    others = {uid: named.get(uid, "newer") for uid in IMAGE_CLASSES - images}
    assert set(others.values()) == {
        "Enhanced US Volume Storage",
        "Segmentation Storage",
        "Parametric Map Storage",
        "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis Storage",
        "Ophthalmic Thickness Map Storage",
        "Corneal Topography Map Storage",
        "newer",  # label map and height map segmentations
    }
    assert images - IMAGE_CLASSES == set()
    assert "1.2.840.10008.5.1.4.1.1.4.2" not in IMAGE_CLASSES


# --- what other readers take -----------------------------------------------------------


PIXELS = element(0x7FE00010, b"OW", bytes(range(32)))
WHOLE = CT + ROWS + PIXELS


def test_stray_delimiters_at_the_end_are_noted():
    for tail in (END_ITEM, END_SEQUENCE, END_ITEM + END_SEQUENCE * 5, END_ITEM + bytes(40)):
        assert read(WHOLE + tail).notes == ("stray delimiters follow the data set",)
    bad(CT + END_ITEM + ROWS + PIXELS, "misplaced delimiter")
    bad(WHOLE + END_ITEM * 1000, "misplaced delimiter")
    bad(WHOLE + END_ITEM + b"\r\n", "misplaced delimiter")


def test_delimiters_of_what_has_a_stated_length_are_noted():
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 10) + element(0x00080100, b"SH", b"A ")
    stated = element(0x00081140, b"SQ", item)
    note = ("a delimiter follows a sequence or item of stated length",)
    assert read(CT + stated + END_SEQUENCE + ROWS + PIXELS).notes == note
    inner = open_sequence() + item + END_ITEM + END_SEQUENCE
    assert read(CT + inner + ROWS + PIXELS).notes == note
    bad(CT + stated + END_SEQUENCE * 2 + ROWS + PIXELS, "misplaced delimiter")
    bad(CT + stated + END_ITEM + ROWS + PIXELS, "misplaced delimiter")


def test_file_meta_that_is_repeated_is_noted_and_the_first_counts():
    again = element(0x00020002, b"UI", RAW_DATA) + element(
        0x00020010, b"UI", b"1.2.840.10008.1.2\0"
    )
    for repeated in (again, META[132:], again[34:]):
        header = read(META + repeated + IDENTITY)
        assert header.transfer_syntax_uid == "1.2.840.10008.1.2.1"
        assert header.notes
        assert all("stands twice; the first counts" in note for note in header.notes)


@pytest.mark.parametrize(
    "odd",
    [
        struct.pack("<HH2sHI8s", 0x0072, 0x0090, b"XV", 0, 8, b"12345678"),
        struct.pack("<HH2sHI", 0x0072, 0x0090, b"ZZ", 0, 0),
        struct.pack("<HH2sH8s", 0x0028, 0x0120, b"XX", 8, b"12345678"),
        struct.pack("<HH2sH2s", 0x0028, 0x0120, b"  ", 2, b"\0\0"),
        struct.pack("<HH2sH2s", 0x0028, 0x0120, b"\0\0", 2, b"\1\0"),
        struct.pack("<HH2sH2s", 0x0028, 0x0120, b"??", 2, b"\1\0"),
        struct.pack("<HH2sHI4s", 0x0028, 0x0120, b"  ", 0, 4, b"\1\0\0\0"),
        struct.pack("<HH2sH2s", 0x0028, 0x0120, b"ob", 2, b"\1\0"),
        struct.pack(
            "<HH2sH2sHH2sH2s", 0x0028, 0x0120, b"  ", 2, b"ab", 0x28, 0x121, b"  ", 2, b"cd"
        ),
    ],
)
def test_unknown_and_blank_value_representations(odd):
    header = read(CT + ROWS + odd + PIXELS)
    assert header.notes == ("a value representation is unknown or blank",)
    assert header.sop_instance_uid == "1.2.3.4"
    # Also as the last element, and within a sequence, and where it is not known how long
    # the data is.
    assert read(SMALL + odd).notes == header.notes
    nested = open_sequence() + OPEN_ITEM + odd + END_ITEM + END_SEQUENCE
    assert read(CT + nested + ROWS + PIXELS).notes == header.notes
    assert read(deflated(IDENTITY + odd + PIXELS)).notes == header.notes


def test_implicit_elements_among_explicit_ones_are_read_as_before():
    mixed = implicit_element(0x00280120, b"ab") + implicit_element(0x00280121, bytes(300))
    assert read(CT + ROWS + mixed + PIXELS).notes == ()


def test_unknown_values_with_items_in_explicit_form():
    inner = element(0x00100020, b"LO", b"A ") + element(0x00102202, b"UL", b"\1\0\0\0")
    body = open_sequence(0x00091001, b"UN") + OPEN_ITEM + inner + END_ITEM + END_SEQUENCE
    assert read(WHOLE + body).notes == ("an unknown value has items in explicit form",)
    # The standard form, also where a length looks like a value representation.
    inner = implicit_element(0x00080018, b"9.9\0") + implicit_element(0x00080100, bytes(0x4F4C))
    body = open_sequence(0x00091001, b"UN") + OPEN_ITEM + inner + END_ITEM + END_SEQUENCE
    header = read(WHOLE + body)
    assert (header.sop_instance_uid, header.notes) == ("1.2.3.4", ())


def test_what_stands_twice_and_is_no_identity_is_noted():
    first, second = (element(0x00081030, b"LO", text) for text in (b"FIRST ", b"SECOND"))
    for repeated in (first, second):
        header = read(SMALL + first + repeated)
        assert header.study.study_description == "FIRST"
        assert header.notes == ("the element (0008,1030) stands twice; the first counts",)
    for tag, vr in ((0x00100020, b"LO"), (0x00100021, b"LO"), (0x00100010, b"PN"),
                    (0x00080016, b"UI"), (0x0020000E, b"UI"), (0x00280010, b"US")):  # fmt: skip
        one = element(tag, vr, b"12")
        bad(SMALL + one + one, "twice")


# --- true reasons ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk",
    [b"\r\n", b"\n", b"    ", b"\x0c", b"\r\n--boundary--\r\n", b"\xff\x0f" * 8, b"junk" * 99],
)
def test_bytes_too_many_are_not_called_too_few(junk):
    whole = meta() + IDENTITY + ROWS + PIXELS
    bad(whole + junk, f"bytes that are no DICOM behind the pixel data, from byte {len(whole)}$")
    implicit = implicit_element(0x7FE00010, bytes(32))
    whole = meta(b"1.2.840.10008.1.2\0") + b"".join(
        implicit_element(tag, value)
        for tag, value in ((0x00080016, RAW_DATA), (0x00080018, b"1.2.3.4\0"),
                           (0x0020000D, b"1.2.3.5\0"), (0x0020000E, b"1.2.3.6\0"))
    ) + implicit  # fmt: skip
    assert read(whole)
    bad(whole + junk, f"bytes that are no DICOM behind the pixel data, from byte {len(whole)}$")


def test_bytes_that_are_no_dicom_behind_a_report():
    bad(SMALL + b"\r\n--boundary", r"no DICOM behind element \(0020,000E\), from byte")
    bad(SMALL + b"PK\x03\x04", "is cut")
    # Cut within the header, or the value, of an element that belongs there.
    bad(SMALL + PIXELS[:6], "is cut")
    bad(SMALL + PIXELS[:20], "is cut")


def test_encapsulated_pixels_without_their_end():
    fragment = struct.pack("<HHI", 0xFFFE, 0xE000, 8) + bytes(8)
    pixels = open_sequence(0x7FE00010, b"OB") + fragment * 2
    assert read(CT + pixels + END_SEQUENCE)
    bad(CT + pixels, "lacks the end of its pixel data")
    bad(CT + pixels[:-1], "is cut")


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


def test_nested_sequences():
    inner = open_sequence() + OPEN_ITEM + element(0x00080018, b"UI", b"9.9\0")
    closed = inner + END_ITEM + END_SEQUENCE
    body = META + element(0x00080016, b"UI", b"1.2\0") + open_sequence() + OPEN_ITEM
    body += closed + END_ITEM + OPEN_ITEM + END_ITEM + END_SEQUENCE
    header = read(body + IDENTITY[34:])
    # The UID inside the sequence is not the instance's.
    assert header.sop_instance_uid == "1.2.3.4"
    bad(SMALL + inner, "inside a sequence")
    bad(SMALL + open_sequence() + END_ITEM, "misplaced delimiter")
    bad(SMALL + open_sequence() + element(0x00080018, b"UI", b"1.2\0"), "where an item belongs")


def test_unknown_values_of_undefined_length_are_implicit_sequences():
    value = struct.pack("<HHI", 0x0008, 0x0018, 4) + b"9.9\0"
    body = open_sequence(0x00091001, b"UN") + OPEN_ITEM + value + END_ITEM + END_SEQUENCE
    assert read(SMALL + body).sop_instance_uid == "1.2.3.4"


def test_explicit_data_set_under_an_implicit_transfer_syntax_is_read_as_it_is():
    data = SMALL.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0")
    data = data.replace(b"\x10\x00UI\x14\x00", b"\x10\x00UI\x12\x00", 1)
    assert read(data).transfer_syntax_uid == ImplicitVRLittleEndian


def test_nesting_and_counts_are_bounded(monkeypatch):
    bad(SMALL + (open_sequence() + OPEN_ITEM) * 10_000, "nested deeper")
    bad(SMALL + OPEN_ITEM, "misplaced delimiter")
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 50)
    bad(SMALL + element(0x00091001, b"LO", b"") * 100, "more than 50 elements")


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
    monkeypatch.setattr(inflating, "MAX_INFLATED_BYTES", 1_000_000)
    bad(deflated(IDENTITY + element(0x7FE00010, b"OW", bytes(2_000_000))), "inflates to more than")
    monkeypatch.setattr(inflating, "MAX_INFLATED_BYTES", 3_000_000)
    assert read(deflated(IDENTITY + element(0x7FE00010, b"OW", bytes(2_000_000))))
