import os
import struct

from part10_made import (
    END_ITEM,
    END_SEQUENCE,
    IDENTITY,
    META,
    OPEN_ITEM,
    SMALL,
    STUDY,
    bad,
    deflated,
    element,
    open_sequence,
    read,
    saved,
)
from pydicom.uid import (
    ImplicitVRLittleEndian,
)
from studies_made import make_instance

from node.dicom import elements
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


def test_nested_sequences():
    inner = open_sequence() + OPEN_ITEM + element(0x00080018, b"UI", b"9.9\0")
    closed = inner + END_ITEM + END_SEQUENCE
    body = META + element(0x00080016, b"UI", b"1.2\0") + open_sequence() + OPEN_ITEM
    body += closed + END_ITEM + OPEN_ITEM + END_ITEM + END_SEQUENCE
    header = read(body + IDENTITY[34:])
    # The UID inside the sequence is not the instance's.
    assert header.sop_instance_uid == "1.2.3.4"
    bad(SMALL + inner, "inside a sequence")
    bad(SMALL + END_ITEM, "misplaced delimiter")
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
    monkeypatch.setattr(elements, "MAX_INFLATED_BYTES", 1_000_000)
    bad(deflated(IDENTITY + element(0x7FE00010, b"OW", bytes(2_000_000))), "inflates to more than")
    monkeypatch.setattr(elements, "MAX_INFLATED_BYTES", 3_000_000)
    assert read(deflated(IDENTITY + element(0x7FE00010, b"OW", bytes(2_000_000))))
