"""Small data sets against pydicom's, in both forms, and from people who mean no good."""

import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from edges.dimse import limits
from edges.dimse.data_sets import (
    BadDataSet,
    DataSet,
    Value,
    decode_data_set,
    encode_data_set,
    number,
    sequence,
    uid,
)
from edges.dimse.negotiation import BIG_ENDIAN, EXPLICIT, IMPLICIT

# Elements of pydicom's dictionary, and the VRs that it has for them.
NAME, COMMENT, ROWS, STUDY, TEXT, PIXELS = (
    0x00100010, 0x00104000, 0x00280010, 0x0020000D, 0x00081190, 0x00420011
)  # fmt: skip
VRS = {NAME: "PN", COMMENT: "LT", ROWS: "US", STUDY: "UI", TEXT: "UR", PIXELS: "OB"}
SEQUENCES = (0x00081199, 0x00400100)
ALL_VRS = {**VRS, **dict.fromkeys(SEQUENCES, "SQ")}
SYNTAXES = pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])


_DATA = {
    "US": [b"\0\x01", b"\xff\xff"],
    "UI": [b"", b"1.2.3", b"1.2.34"],
    "OB": [b"\0", b"\xfe\xff\0\xe0\0\0\0\0"],
    "PN": [b"", b"Abc^=\xe9", b"*"],
    "LT": [b"a\\b", b"ab"],
    "UR": [b"https://a", b""],
}


_VALUES = st.sampled_from(list(VRS)).flatmap(
    lambda tag: st.tuples(
        st.just(tag), st.sampled_from([Value(VRS[tag], data) for data in _DATA[VRS[tag]]])
    )
)


def _extend(inner: st.SearchStrategy[DataSet]) -> st.SearchStrategy[DataSet]:
    nested = st.tuples(st.sampled_from(SEQUENCES), st.lists(inner, max_size=2).map(sequence))
    return st.lists(_VALUES | nested, max_size=3).map(dict)


DATA_SETS = st.recursive(st.lists(_VALUES, max_size=3).map(dict), _extend, max_leaves=4)


def _padded(values: DataSet) -> DataSet:
    """As it is after it was written and read."""
    found = {}
    for tag in sorted(values):
        one = values[tag]
        pad = b"" if len(one.data) % 2 == 0 else b"\0" if one.vr in ("UI", "OB") else b" "
        found[tag] = Value(one.vr, one.data + pad, tuple(map(_padded, one.items)))
    return found


def _read_by_pydicom(data: bytes, syntax: str) -> DataSet:
    return _raw(read_dataset(BytesIO(data), syntax == IMPLICIT, True))


def _raw(data_set: Dataset) -> DataSet:
    found = {}
    for tag in data_set.keys():  # noqa: SIM118  a Dataset iterates over converted elements
        one = data_set.get_item(tag)
        if int(tag) in SEQUENCES:
            items = data_set[tag].value
            found[int(tag)] = Value("SQ", items=tuple(map(_raw, items)))
        else:
            found[int(tag)] = Value(ALL_VRS[int(tag)], one.value or b"")
    return found


def _written_by_pydicom(data: bytes, syntax: str, *, undefined: bool) -> bytes:
    """The same data set as pydicom writes it, with lengths or with delimiters."""
    read = read_dataset(BytesIO(data), syntax == IMPLICIT, True)
    if undefined:
        _delimit(read)
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == IMPLICIT
    write_dataset(out, read)
    return out.getvalue()


def _delimit(data_set: Dataset) -> None:
    for tag in SEQUENCES:
        if tag in data_set:
            data_set[tag].is_undefined_length = True
            for item in data_set[tag].value:
                item.is_undefined_length_sequence_item = True
                _delimit(item)


@SYNTAXES
@settings(max_examples=40)
@given(values=DATA_SETS)
def test_what_is_written_is_read_by_pydicom_and_by_us(syntax: str, values: DataSet) -> None:
    data = encode_data_set(values, syntax)
    assert _read_by_pydicom(data, syntax) == _padded(values)
    assert decode_data_set(data, syntax, ALL_VRS) == _padded(values)


@SYNTAXES
@pytest.mark.parametrize("undefined", [False, True])
@settings(max_examples=40)
@given(values=DATA_SETS)
def test_what_pydicom_writes_is_read(undefined: bool, syntax: str, values: DataSet) -> None:
    theirs = _written_by_pydicom(encode_data_set(values, syntax), syntax, undefined=undefined)
    assert decode_data_set(theirs, syntax, ALL_VRS) == _padded(values)
    if not undefined:
        assert theirs == encode_data_set(values, syntax)


def test_a_report_as_pydicom_writes_it_is_read_and_written_to_the_byte() -> None:
    theirs = Dataset()
    theirs.TransactionUID = "1.2.3"
    ok, failed = Dataset(), Dataset()
    for one, last in ((ok, "4"), (failed, "55")):
        one.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        one.ReferencedSOPInstanceUID = f"1.2.3.{last}"
    failed.FailureReason = 0x0112
    theirs.ReferencedSOPSequence = [ok]
    theirs.FailedSOPSequence = [failed]
    ours = {
        0x00081199: sequence([_reference("4")]),
        0x00081195: uid("1.2.3"),
        0x00081198: sequence([{**_reference("55"), 0x00081197: number(0x0112)}]),
    }
    for syntax in (IMPLICIT, EXPLICIT):
        out = DicomBytesIO()
        out.is_little_endian, out.is_implicit_VR = True, syntax == IMPLICIT
        write_dataset(out, theirs)
        assert encode_data_set(ours, syntax) == out.getvalue()
    read = decode_data_set(encode_data_set(ours, EXPLICIT), EXPLICIT)
    assert read[0x00081195].text == "1.2.3"
    (lost,) = read[0x00081198].items
    assert (lost[0x00081197].number, lost[0x00081155].text) == (0x0112, "1.2.3.55")
    assert lost[0x00081155].number is None


def _reference(last: str) -> DataSet:
    return {0x00081150: uid("1.2.840.10008.5.1.4.1.1.2"), 0x00081155: uid(f"1.2.3.{last}")}


def test_in_implicit_form_a_vr_is_known_to_who_reads_and_un_if_not() -> None:
    data = encode_data_set({0x00081195: uid("1.2"), 0x00081199: sequence([{}])}, IMPLICIT)
    assert decode_data_set(data, IMPLICIT) == {
        0x00081195: Value("UN", b"1.2\0"),
        0x00081199: Value("UN", bytes.fromhex("feff00e000000000")),
    }
    assert decode_data_set(data, IMPLICIT, {0x00081199: "SQ"})[0x00081199].items == ({},)


def test_an_unknown_sequence_without_a_length_is_in_implicit_form() -> None:
    inner = encode_data_set({STUDY: uid("1.2.3")}, IMPLICIT)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    data = struct.pack("<HH2s2xL", 9, 0x1010, b"UN", 0xFFFFFFFF) + item + _delimiter(0xE0DD)
    (found,) = decode_data_set(data, EXPLICIT)[0x00091010].items
    assert found[STUDY].text == "1.2.3"


def _delimiter(element: int) -> bytes:
    return struct.pack("<HHL", 0xFFFE, element, 0)


# --- people who mean no good -----------------------------------------------------------


@SYNTAXES
@settings(max_examples=40)
@given(values=DATA_SETS, cut=st.integers(min_value=1))
def test_a_cut_data_set_is_whole_elements_or_is_refused(
    syntax: str, values: DataSet, cut: int
) -> None:
    data = encode_data_set(values, syntax)
    part = data[: max(0, len(data) - cut)]
    try:
        found = decode_data_set(part, syntax, ALL_VRS)
    except BadDataSet:
        return
    assert found.items() <= _padded(values).items()
    assert encode_data_set(found, syntax) == part


@SYNTAXES
@given(data=st.binary(max_size=200))
def test_bytes_of_any_kind_are_read_or_refused(syntax: str, data: bytes) -> None:
    try:
        decode_data_set(data, syntax, ALL_VRS)
    except BadDataSet:
        return


def _element(group: int, element: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack("<HHL", group, element, length) + data


NESTED = 0x00081199


def _nested(depth: int, *, delimited: bool) -> bytes:
    data = b""
    for _ in range(depth):
        item = _element(0xFFFE, 0xE000, len(data), data)
        size = len(item)
        if delimited:
            item = _element(0xFFFE, 0xE000, 0xFFFFFFFF, data) + _delimiter(0xE00D)
            item, size = item + _delimiter(0xE0DD), 0xFFFFFFFF
        data = _element(8, 0x1199, size, item)
    return data


@pytest.mark.parametrize("delimited", [False, True])
def test_depth_is_bounded(delimited: bool) -> None:
    vrs = {NESTED: "SQ"}
    deepest = limits.DATA_SET_DEPTH
    assert decode_data_set(_nested(deepest, delimited=delimited), IMPLICIT, vrs)
    for depth in (deepest + 1, 5_000):
        with pytest.raises(BadDataSet, match="too deep"):
            decode_data_set(_nested(depth, delimited=delimited), IMPLICIT, vrs)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (bytes(limits.DATA_SET_BYTES + 1), "too long"),
        (_element(8, 0x1195, 0xFFFFFFFE), "within an element"),
        (_element(8, 0x1195, 0) * 2, "cannot be there"),
        (_element(0xFFFE, 0xE00D, 0), "cannot be there"),
        (_element(0xFFFE, 0xE000, 0), "cannot be there"),
        (_element(8, 0x1195, 0xFFFFFFFF), "no sequence has no length"),
        (_element(8, 0x1199, 9), "within a sequence"),
        (_element(8, 0x1199, 8, _element(8, 0x1195, 0)), "something else"),
        (_element(8, 0x1199, 8, _delimiter(0xE0DD)), "something else"),
        (_element(8, 0x1199, 8, _element(0xFFFE, 0xE000, 4)), "within an item"),
        (_element(8, 0x1199, 0xFFFFFFFF, _element(0xFFFE, 0xE000, 0)), "within a sequence"),
        (_element(8, 0x1199, 0xFFFFFFFF, _element(0xFFFE, 0xE000, 0xFFFFFFFF)), "within an item"),
        (
            _element(8, 0x1199, 8, _element(0xFFFE, 0xE000, 0xFFFFFFFF)) + _delimiter(0xE00D),
            "longer than its sequence",
        ),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadDataSet, match=why):
        decode_data_set(data, IMPLICIT, {0x00081195: "UI", NESTED: "SQ"})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack("<HH2sH", 8, 0x1195, b"u1", 0), "no value representation"),
        (struct.pack("<HH2sH", 8, 0x1195, b"UI", 2), "within an element"),
        (struct.pack("<HH2s2x", 8, 0x1195, b"UN"), "within an element"),
        (struct.pack("<HHB", 8, 0x1195, 85), "within an element"),
        (b"\x08\0\x95", "within an element"),
    ],
)
def test_what_is_no_data_set_in_explicit_form_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadDataSet, match=why):
        decode_data_set(data, EXPLICIT)


@pytest.mark.slow
def test_elements_and_items_are_counted() -> None:
    items = _element(0xFFFE, 0xE000, 0) * (limits.DATA_SET_ELEMENTS - 1)
    whole: Any = decode_data_set(_element(8, 0x1199, len(items), items), IMPLICIT, {NESTED: "SQ"})
    assert len(whole[NESTED].items) == limits.DATA_SET_ELEMENTS - 1
    items += _element(0xFFFE, 0xE000, 0)
    with pytest.raises(BadDataSet, match="too many"):
        decode_data_set(_element(8, 0x1199, len(items), items), IMPLICIT, {NESTED: "SQ"})


def test_a_value_that_is_too_long_for_its_vr_is_not_written() -> None:
    with pytest.raises(BadDataSet, match="too long for LO"):
        encode_data_set({0x00104000: Value("LO", bytes(70_000))}, EXPLICIT)
    long = {0x00104000: Value("UT", b"a" * 70_000)}
    assert decode_data_set(encode_data_set(long, EXPLICIT), EXPLICIT) == long


def test_big_endian_is_neither_read_nor_written() -> None:
    with pytest.raises(BadDataSet, match="transfer syntax"):
        decode_data_set(b"", BIG_ENDIAN)
    with pytest.raises(BadDataSet, match="transfer syntax"):
        encode_data_set({}, BIG_ENDIAN)
