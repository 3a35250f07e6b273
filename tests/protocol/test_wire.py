"""Strict MessagePack and frames: one encoding per value, one error for all bad bytes."""

from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, wire
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode
from protocol.frames import FrameKind, FrameReader, frame_header
from protocol.wire import decode_untrusted, pack

VALUES = st.recursive(
    st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner),
    max_leaves=40,
)

BAD = {
    "empty": b"",
    "nil": b"\xc0",
    "float": b"\xca\x3f\x80\x00\x00",
    "extension": b"\xd4\x01\x00",
    "never used": b"\xc1",
    "integer 5 in two bytes": b"\xcc\x05",
    "integer 200 in three bytes": b"\xcd\x00\xc8",
    "integer 200 as signed": b"\xd1\x00\xc8",
    "integer -5 in two bytes": b"\xd0\xfb",
    "string of 3 in long form": b"\xd9\x03abc",
    "binary of 3 in long form": b"\xc5\x00\x03abc",
    "array of 1 in long form": b"\xdc\x00\x01\x01",
    "map of 1 in long form": b"\xde\x00\x01\xa1a\x01",
    "duplicate key": b"\x82\xa1a\x01\xa1a\x02",
    "keys out of order": b"\x82\xa1b\x01\xa1a\x02",
    "integer key": b"\x81\x01\x02",
    "binary key": b"\x81\xc4\x01a\x02",
    "not UTF-8": b"\xa1\xff",
    "UTF-8 surrogate": b"\xa3\xed\xa0\x80",
    "cut in a string": b"\xa3ab",
    "cut in a size": b"\xdb\x00\x00",
    "array that claims more than there is": b"\xdd\xff\xff\xff\xff\x01",
    "map that claims more than there is": b"\xdf\x7f\xff\xff\xff\xa1a\x01",
    "string that claims 4 GiB": b"\xdb\xff\xff\xff\xffa",
    "trailing byte": b"\x01\x01",
    "nested beyond the limit": b"\x91" * (limits.MESSAGE_DEPTH + 1) + b"\x01",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_bytes_are_refused_with_one_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(data)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_values_among_common_ones_are_refused(data: bytes) -> None:
    row = pack([1, "1.2.840", bytes(32), 300])[1:]
    for values in (row + data, data + row, row[:1] + data + row[1:]):
        with pytest.raises(RemoteProtocolError):
            decode_untrusted(b"\x95" + values)


@pytest.mark.slow
@given(st.lists(VALUES, max_size=40), st.data())
def test_lists_that_are_looked_at_in_one_go_are_judged_alike(
    values: list[object], data: st.DataObject
) -> None:
    encoded = bytearray(pack([values, values]))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))

    def judged() -> object:
        try:
            return decode_untrusted(encoded)
        except RemoteProtocolError as error:
            return str(error)

    quick = judged()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_MOST_SCALARS", 0)
        assert judged() == quick


@pytest.mark.parametrize("size", [15, 16, 31, 32, 0xFF, 0x100, 0xFFFF, 0x1_0000, 0x1_0001])
def test_sizes_of_every_width(size: int) -> None:
    for value in ("x" * size, "é" * size, bytes(size)):
        encoded = pack(value)
        assert decode_untrusted(encoded) == value
        assert encoded == msgpack.packb(value)
        with pytest.raises(RemoteProtocolError):
            decode_untrusted(encoded[:-1])
    for values in ([1] * size, {f"{number:06}": number for number in range(size)}):
        encoded = pack(values)
        assert decode_untrusted(encoded, max_items=10**6) == values
        assert encoded == msgpack.packb(values)


def test_a_size_of_more_bytes_than_it_needs_is_refused() -> None:
    for head, size in ((b"\xdb", 0xFFFF), (b"\xc6", 0xFFFF), (b"\xdd", 0xFFFF)):
        filling = (b"x" if head == b"\xdb" else b"\x01") * size
        with pytest.raises(RemoteProtocolError, match="shortest"):
            decode_untrusted(head + size.to_bytes(4, "big") + filling, max_items=10**6)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5), VALUES), st.data())
def test_a_map_whose_values_are_built_on_demand_is_judged_as_one_that_is_built(
    value: dict[str, object], data: st.DataObject
) -> None:
    encoded = bytearray(pack(value))
    if data.draw(st.booleans()):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))

    def judged(read: Callable[[bytes], object]) -> object:
        try:
            return read(bytes(encoded))
        except RemoteProtocolError:
            return None

    def on_demand(encoded: bytes) -> object:
        fields = wire.map_untrusted(encoded)
        names = decode_untrusted(encoded)
        assert isinstance(names, dict)
        assert "no such name" not in fields
        assert fields.get("no such name") is None
        return {name: fields[name] for name in names if name in fields}

    whole = judged(decode_untrusted)
    assert judged(on_demand) == (whole if isinstance(whole, dict) else None)


def test_the_smallest_maps_are_maps() -> None:
    for value in ({}, {"": 0}, {"": 0, "a": 1}):
        fields = wire.map_untrusted(pack(value))
        assert {name: fields[name] for name in value} == value


def test_deepest_allowed_nesting_is_taken() -> None:
    deepest = b"\x91" * limits.MESSAGE_DEPTH + b"\x01"
    assert decode_untrusted(deepest) is not None
    # A map counts, whether its values are built or not.
    assert "a" in wire.map_untrusted(b"\x81\xa1a" + deepest[1:])
    with pytest.raises(RemoteProtocolError, match="deep"):
        wire.map_untrusted(b"\x81\xa1a" + deepest)


def test_too_many_values_are_refused_as_too_large() -> None:
    data = pack([0] * 100)
    assert decode_untrusted(data, max_items=101) == [0] * 100
    with pytest.raises(RemoteProtocolError) as caught:
        decode_untrusted(data, max_items=100)
    assert caught.value.code is WireCode.TOO_LARGE


@given(VALUES)
def test_every_value_comes_back(value: object) -> None:
    assert decode_untrusted(pack(value), max_items=10**6, max_depth=64) == value


@given(st.binary(max_size=200))
def test_accepted_bytes_encode_to_themselves(data: bytes) -> None:
    try:
        value = decode_untrusted(data)
    except RemoteProtocolError:
        return
    assert pack(value) == data


@given(VALUES, st.data())
def test_a_changed_byte_is_refused_or_another_value(value: object, data: st.DataObject) -> None:
    encoded = bytearray(pack(value))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = decode_untrusted(encoded, max_items=10**6, max_depth=64)
    except RemoteProtocolError:
        return
    assert pack(changed) == bytes(encoded)
    assert pack(changed) != pack(value)


@given(st.binary(max_size=100))
def test_nothing_is_accepted_that_a_plain_decoder_reads_otherwise(data: bytes) -> None:
    try:
        value = decode_untrusted(data)
    except RemoteProtocolError:
        return
    assert msgpack.unpackb(data, strict_map_key=False) == value


@pytest.mark.parametrize("value", [None, 1.5, {1: 2}, {"a": None}, object(), 2**64, [1, 2.0]])
def test_values_that_the_protocol_lacks_cannot_be_packed(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        pack(value)


def _frames(reader: FrameReader, data: bytes) -> list[tuple[FrameKind, bytes]]:
    found = []
    while data:
        frame, used = reader.receive_untrusted(data)
        data = data[used:]
        if frame is not None:
            found.append((frame.kind, bytes(frame.payload)))
    return found


@given(
    st.lists(st.tuples(st.sampled_from(list(FrameKind)), st.binary(max_size=50)), max_size=6),
    st.integers(1, 20),
)
def test_any_split_gives_the_same_frames(frames: list[tuple[FrameKind, bytes]], step: int) -> None:
    stream = b"".join(frame_header(kind, len(payload)) + payload for kind, payload in frames)
    reader = FrameReader()
    reader.max_data_bytes = 100
    found = []
    for start in range(0, len(stream), step):
        found += _frames(reader, stream[start : start + step])
    assert found == frames
    assert not reader.in_frame


def test_a_frame_over_its_limit_is_refused_before_its_payload() -> None:
    reader = FrameReader()
    with pytest.raises(RemoteProtocolError) as caught:
        reader.receive_untrusted(frame_header(FrameKind.MESSAGE, limits.MESSAGE_BYTES + 1))
    assert caught.value.code is WireCode.TOO_LARGE


def test_data_is_refused_where_none_is_expected() -> None:
    with pytest.raises(RemoteProtocolError):
        FrameReader().receive_untrusted(frame_header(FrameKind.DATA, 1))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        FrameReader().receive_untrusted(b"\x07\x00\x00\x00\x00")
