"""DICOM JSON by our own walker, beside pydicom's."""

import base64
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from part10_made import META, SMALL, element, implicit_element, meta, saved
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from studies_made import make_instance

from node.dicom.data_sets import BadInstance, read_data_set
from node.dicom.json_model import bulk_pieces, element_at, instance_json
from node.dicom.part10 import reader_of

ITEM = b"\xfe\xff\x00\xe0"


def _json(data: bytes) -> dict[str, Any]:
    found = read_data_set(reader_of(data), len(data))
    text = instance_json(found, lambda place: "bulkdata/" + "/".join(place))
    result: dict[str, Any] = json.loads(text)
    return result


def _bulk(data: bytes, *place: str) -> bytes | None:
    found = read_data_set(reader_of(data), len(data))
    one = element_at(found, place)
    return None if one is None else b"".join(bulk_pieces(found, one))


def _value(vr: bytes, value: bytes, tag: int = 0x00189999) -> Any:
    return _json(SMALL + element(tag, vr, value))[f"{tag:08X}"]


# --- values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vr", "value", "listed"),
    [
        (b"IS", b" 12\\-3\\+4 ", [12, -3, 4]),
        (b"IS", b"1.0", [1]),
        # pydicom 2197 and 1693: they must not raise.
        (b"IS", b"1.5\\abc\\", ["1.5", "abc", None]),
        (b"IS", b"99999999999999999999", ["99999999999999999999"]),
        (b"DS", b"1.50\\-.5\\1e3\\7", [1.5, -0.5, 1000, 7]),
        (b"DS", b"1,5\\nan\\1e999\\\\", ["1,5", "nan", "1e999", None, None]),
        (b"US", struct.pack("<HH", 1, 65535), [1, 65535]),
        (b"SS", struct.pack("<h", -2), [-2]),
        (b"FL", struct.pack("<f", 0.1), [0.1]),
        (b"FD", struct.pack("<ddd", 0.1, float("nan"), float("-inf")), [0.1, "NaN", "-inf"]),
        (b"AT", struct.pack("<HHHH", 0x10, 0x20, 0x7FE0, 0x10), ["00100020", "7FE00010"]),
        (b"UI", b"1.2.3\\1.2.4\0", ["1.2.3", "1.2.4"]),
        (b"CS", b" A\\\\B ", ["A", None, "B"]),
        (b"LT", b" A\\B ", [" A\\B"]),
        (b"DA", b"20200101", ["20200101"]),
        (b"PN", b"A^B=C=D\\\\=E", [
            {"Alphabetic": "A^B", "Ideographic": "C", "Phonetic": "D"}, None, {"Ideographic": "E"},
        ]),
    ],
)  # fmt: skip
def test_a_value(vr: bytes, value: bytes, listed: list[Any]) -> None:
    assert _value(vr, value) == {"vr": vr.decode(), "Value": listed}


@pytest.mark.parametrize(
    ("vr", "value"), [(b"LO", b""), (b"LO", b"  "), (b"IS", b" "), (b"SQ", b"")]
)
def test_an_empty_value_has_no_list(vr: bytes, value: bytes) -> None:
    assert _value(vr, value) == {"vr": vr.decode()}


def test_numbers_beyond_those_of_a_browser_are_texts() -> None:
    numbers = struct.pack("<QQ", 2**63, 5)
    head = b"\x18\x00\x99\x99UV\0\0" + struct.pack("<L", len(numbers))
    assert _json(SMALL + head + numbers)["00189999"] == {"vr": "UV", "Value": [str(2**63), 5]}


def test_bytes_stand_in_it_or_are_bulk_data() -> None:
    short, long = bytes(range(10)), bytes(2000)
    assert base64.b64decode(_value(b"OB", short)["InlineBinary"]) == short
    assert _value(b"OB", long) == {"vr": "OB", "BulkDataURI": "bulkdata/00189999"}
    assert _bulk(SMALL + element(0x00189999, b"OB", long), "00189999") == long
    assert _bulk(SMALL, "00189999") is None
    text = b"x" * 300_000
    assert _value(b"UT", text) == {"vr": "UT", "BulkDataURI": "bulkdata/00189999"}


def test_bulk_data_in_a_sequence_has_its_place() -> None:
    inner = element(0x54001010, b"OW", bytes(4000))
    items = b"".join(ITEM + struct.pack("<L", len(one)) + one for one in (b"", inner))
    data = SMALL + element(0x54000100, b"SQ", items)
    found = _json(data)["54000100"]["Value"]
    assert found[0] == {}
    assert found[1]["54001010"]["BulkDataURI"] == "bulkdata/54000100/1/54001010"
    assert _bulk(data, "54000100", "1", "54001010") == bytes(4000)
    assert _bulk(data, "54000100", "0", "54001010") is None
    assert _bulk(data, "54000100", "7", "54001010") is None


def test_a_sequence_that_is_broken_is_left_out_and_the_rest_is_there() -> None:
    broken = element(0x00400275, b"SQ", ITEM + struct.pack("<L", 1000) + b"x")
    found = _json(SMALL + broken + element(0x00404000, b"LO", b"after"))
    assert "00400275" not in found
    assert found["00404000"]["Value"] == ["after"]


def test_a_file_that_ends_early_gives_what_is_there() -> None:
    assert "00080018" in _json(SMALL + element(0x00404000, b"LO", b"after")[:-3])
    assert "00404000" not in _json(SMALL + element(0x00404000, b"LO", b"after")[:-3])


def test_unknown_values_are_read_by_the_dictionary() -> None:
    number = element(0x00200013, b"UN", b"7 ")
    assert _json(SMALL + number)["00200013"] == {"vr": "IS", "Value": [7]}
    inner = implicit_element(0x00100020, b"ID")
    sequence = b"\x40\x00\x75\x02UN\0\0\xff\xff\xff\xff" + ITEM + struct.pack("<L", len(inner))
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    found = _json(SMALL + sequence + inner + end)["00400275"]
    assert found == {"vr": "SQ", "Value": [{"00100020": {"vr": "LO", "Value": ["ID"]}}]}


def test_private_elements_by_their_creator() -> None:
    implicit = meta(b"1.2.840.10008.1.2\0")
    data = (
        implicit
        + implicit_element(0x00080018, b"1.2.3.4\0")
        + implicit_element(0x00190010, b"SIEMENS MR HEADER ")
        + implicit_element(0x00191008, b"IMAGE NUM 4 ")
        + implicit_element(0x00191099, b"\1\2")
    )
    found = _json(data)
    assert found["00190010"] == {"vr": "LO", "Value": ["SIEMENS MR HEADER"]}
    assert found["00191008"] == {"vr": "CS", "Value": ["IMAGE NUM 4"]}
    assert found["00191099"] == {"vr": "UN", "InlineBinary": "AQI="}


def test_texts_are_utf_8_whatever_they_were() -> None:
    charset = element(0x00080005, b"CS", b"ISO_IR 100")
    inner = element(0x00080005, b"CS", b"ISO_IR 192") + element(0x0008103E, b"LO", "ö".encode())
    sequence = element(0x00400275, b"SQ", ITEM + struct.pack("<L", len(inner)) + inner)
    data = META + charset + element(0x00100010, b"PN", "M\xfcller".encode("latin-1"))
    found = _json(data + sequence)
    assert found["00080005"]["Value"] == ["ISO_IR 192"]
    assert found["00100010"]["Value"] == [{"Alphabetic": "Müller"}]
    assert found["00400275"]["Value"][0]["0008103E"]["Value"] == ["ö"]


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_other_transfer_syntaxes_say_the_same(syntax: str) -> None:
    plain = make_instance("1.2.3", 1, rows=4)
    plain.RescaleSlope = "1.5"
    plain.SmallestImagePixelValue = 7
    plain.ReferencedStudySequence = [pydicom.Dataset()]
    plain.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.2.9"
    expected, data = _json(saved(plain)), saved(plain, syntax)
    assert _json(data) == expected
    # pydicom writes pixels as they are, so a file that is big endian has them in the wrong order.
    raw = bytes(plain.PixelData)
    right = b"".join(raw[at : at + 2][::-1] for at in range(0, len(raw), 2))
    expected_pixels = right if syntax == ExplicitVRBigEndian else raw
    assert _bulk(data, "7FE00010") == expected_pixels


def test_deflated_data_that_grows_too_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(make_instance("1.2.3", 1, rows=64), DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr("node.dicom.inflating.MAX_WHOLE_BYTES", 5000)
    with pytest.raises(BadInstance, match="inflates to more"):
        _json(data)


def test_more_elements_than_are_read_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    many = b"".join(element(0x00400275 + n, b"LO", b"x") for n in range(50))
    monkeypatch.setattr("node.dicom.data_sets.MAX_ELEMENTS", 20)
    sequence = element(0x00380500, b"SQ", ITEM + struct.pack("<L", len(many)) + many)
    found = _json(SMALL + sequence + element(0x00400555, b"LO", b"after"))
    assert "00380500" not in found
    assert found["00400555"]["Value"] == ["after"]


def test_items_without_elements_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.dicom.data_sets.MAX_ELEMENTS", 20)
    empty = (ITEM + bytes(4)) * 50
    found = _json(SMALL + element(0x00380500, b"SQ", empty) + element(0x00400555, b"LO", b"after"))
    assert "00380500" not in found
    assert found["00400555"]["Value"] == ["after"]
    # Nor does a sequence that is left out give room to the next ones.
    some = element(0x00380500, b"SQ", (ITEM + bytes(4)) * 8)
    found = _json(
        SMALL + some + element(0x00380501, b"SQ", empty) + some.replace(b"8\0", b"9\0", 1)
    )
    assert set(found) & {"00380500", "00380501", "00390500"} == {"00380500"}


def test_fragments_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.dicom.data_sets.MAX_ELEMENTS", 20)
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    end = b"\xfe\xff\xdd\xe0" + bytes(4)
    assert "7FE00010" in _json(SMALL + pixels + (ITEM + bytes(4)) * 5 + end)
    assert "7FE00010" not in _json(SMALL + pixels + (ITEM + bytes(4)) * 50 + end)


def test_values_that_are_together_too_long_are_bulk_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.dicom.json_model.WHOLE_BYTES", 250)
    texts = b"".join(element(0x00400275 + n, b"LO", b"x" * 100) for n in range(4))
    data = SMALL + texts + element(0x00400555, b"LO", b"short")
    found = _json(data)
    kept = ["Value" in found[f"{0x00400275 + n:08X}"] for n in range(4)]
    assert kept == [True, True, False, False]
    assert found["00400277"]["BulkDataURI"] == "bulkdata/00400277"
    assert _bulk(data, "00400277") == b"x" * 100
    assert found["00400555"]["Value"] == ["short"]


# --- beside pydicom ---------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_behind_a_head_give_json_or_one_error(tail: bytes) -> None:
    for head in (SMALL, meta(b"1.2.840.10008.1.2\0"), meta(b"1.2.840.10008.1.2.1.99\0")):
        try:
            _json(head + tail)
        except BadInstance:
            pass


@pytest.mark.slow
def test_all_sample_files_as_pydicom_reads_them(shared: Path) -> None:
    count = 0
    for path in sorted(path for path in (shared / "data").rglob("*") if path.is_file()):
        data = path.read_bytes()
        is_odd = "broken" in path.parts or "dicomdir" in str(path)
        if data[128:132] != b"DICM" or is_odd:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = pydicom.dcmread(path).to_json_dict(
                bulk_data_threshold=1 << 40,
                bulk_data_element_handler=lambda _: "x",
                suppress_invalid_tags=True,
            )
        _compare(_json(data), theirs, path.name)
        count += 1
    assert count > 600


_LEFT_OUT = {"00080005", "7FE00010", "FFFCFFFC", "300C0002"}
"""Our texts are UTF-8, pixels are bulk data, padding is none; and one that pydicom cannot read."""


def _compare(mine: dict[str, Any], theirs: dict[str, Any], where: str) -> None:
    names = {name for name in mine.keys() | theirs.keys() if not name.endswith("0000")}
    for name in names - _LEFT_OUT:
        one, other = mine[name], theirs[name]
        assert one["vr"] == other["vr"], (where, name)
        if "BulkDataURI" in one:
            continue
        if one["vr"] == "SQ":
            items = zip(one.get("Value", []), other.get("Value", []), strict=True)
            for item, its in items:
                _compare(item, its, where)
            continue
        assert _plain(one) == _plain(other), (where, name)


def _plain(attribute: dict[str, Any]) -> Any:
    values = attribute.get("Value", [])
    if attribute["vr"] == "FL":
        return [pytest.approx(value, rel=1e-6) for value in values]
    # Ours gives null for what is empty, pydicom an empty text.
    return [value or None for value in values], attribute.get("InlineBinary")
