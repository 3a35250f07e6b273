import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.encoding import Encoding, decode_untrusted, encode, encoding_of
from protocol.errors import LocalProtocolError, RemoteProtocolError, WireCode

# Empty, one byte, below and above what compression saves 2 % of, a full batch.
SIZES = [0, 1, 100, 65_536, limits.BATCH_BYTES]


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _header(encoding: int, size: int) -> bytes:
    return b"RMB" + bytes((encoding,)) + size.to_bytes(4, "big")


def _frame(content: bytes, **kwargs: object) -> bytes:
    return zstandard.ZstdCompressor(**kwargs).compress(content)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [_noise, lambda size: b"a" * size, bytes])
def test_round_trip_cases(size, make):
    original = make(size)
    encoded = encode(original)
    assert decode_untrusted(encoded) == original
    assert len(encoded) <= limits.ENCODED_BATCH_BYTES
    assert encode(original) == encoded


@given(st.binary(max_size=4096), st.sampled_from([None, Encoding.RAW, Encoding.ZSTD]))
def test_round_trip_property(original, encoding):
    encoded = encode(memoryview(original), encoding)
    assert decode_untrusted(memoryview(encoded)) == original
    if encoding is not None:
        assert encoding_of(encoded) is encoding


def test_noise_stays_raw_and_text_is_compressed():
    assert encoding_of(encode(_noise(100_000))) is Encoding.RAW
    assert encoding_of(encode(b"radiology " * 1000)) is Encoding.ZSTD


def test_saving_of_less_than_two_percent_stays_raw():
    assert encoding_of(encode(_noise(99_000) + bytes(1_000))) is Encoding.RAW
    assert encoding_of(encode(_noise(95_000) + bytes(5_000))) is Encoding.ZSTD


def test_documented_bytes():
    assert encode(b"abc") == bytes.fromhex("524d4200 00000003 616263")
    assert decode_untrusted(bytes.fromhex("524d4200 00000003 616263")) == b"abc"


def test_more_than_a_batch_is_our_mistake():
    with pytest.raises(LocalProtocolError):
        encode(bytes(limits.BATCH_BYTES + 1))


BAD = {
    "empty": b"",
    "short header": b"RMB\x00\x00\x00\x00",
    "other magic": b"RMC" + encode(b"abc")[3:],
    "unknown encoding": _header(3, 3) + b"abc",
    "raw too short": _header(0, 4) + b"abc",
    "raw too long": _header(0, 2) + b"abc",
    "no frame": _header(1, 3),
    "not a frame": _header(1, 3) + b"abcdefgh",
    "frame of other size": _header(1, 4) + _frame(b"abc"),
    "frame without content size": _header(1, 3) + _frame(b"abc", write_content_size=False),
    "cut frame": (_header(1, 1000) + _frame(bytes(1000)))[:-1],
    "bytes behind the frame": _header(1, 1000) + _frame(bytes(1000)) + b"x",
    "two frames": _header(1, 1000) + _frame(bytes(1000)) + _frame(b""),
    "skippable frame with nothing in it": _header(1, 0) + b"\x50\x2a\x4d\x18" + bytes(4),
    "skippable frame": _header(1, 3) + b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + _frame(b"abc"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_batches_are_refused(name):
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(BAD[name])


def test_dictionary_is_refused():
    samples = [b"sample %d of the dictionary of the test" % number for number in range(1000)]
    dictionary = zstandard.train_dictionary(1024, samples)
    frame = _frame(samples[0], dict_data=dictionary)
    with pytest.raises(RemoteProtocolError, match="dictionary"):
        decode_untrusted(_header(1, len(samples[0])) + frame)


def test_declared_size_is_checked_before_anything_else():
    bomb = _header(1, 2**32 - 1) + _frame(b"abc")
    with pytest.raises(RemoteProtocolError) as caught:
        decode_untrusted(bomb)
    assert caught.value.code is WireCode.TOO_LARGE
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(encode(bytes(1000)), max_original_bytes=999)
    assert decode_untrusted(encode(bytes(1000)), max_original_bytes=1000) == bytes(1000)


def test_frame_that_asks_for_a_large_window_is_refused():
    # Frame header: no single segment, content size of 4 bytes; window exponent 21 is 2 GiB.
    content = b"words " * 100
    header = b"\x28\xb5\x2f\xfd" + bytes((0x80, 21 << 3)) + len(content).to_bytes(4, "little")
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    with pytest.raises(RemoteProtocolError, match="window"):
        decode_untrusted(_header(1, len(content)) + header + block)
    small = header[:5] + b"\x00" + header[6:]
    assert decode_untrusted(_header(1, len(content)) + small + block) == content


def test_frame_that_lies_about_its_content_is_refused():
    # The header of a small frame in front of the blocks of a large one.
    small, large = _frame(b"a" * 1000), _frame(b"b" * 4000)
    parameters = zstandard.get_frame_parameters(small)
    assert parameters.content_size == 1000
    header = zstandard.frame_header_size(small)
    forged = small[:header] + large[zstandard.frame_header_size(large) :]
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(_header(1, 1000) + forged)


def _check_untrusted(data: bytes) -> None:
    try:
        original = decode_untrusted(data, max_original_bytes=65_536)
    except RemoteProtocolError:
        return
    assert len(original) == int.from_bytes(data[4:8], "big")


@given(st.binary(max_size=300))
def test_any_bytes_property(data):
    _check_untrusted(data)
    _check_untrusted(_header(1, 100) + data)
    _check_untrusted(_header(1, 100) + b"\x28\xb5\x2f\xfd" + data)


@given(st.integers(0, 200), st.integers(0, 255))
def test_one_changed_byte_property(position, value):
    encoded = bytearray(encode(b"the same words again, " * 40, Encoding.ZSTD))
    encoded[position % len(encoded)] = value
    _check_untrusted(bytes(encoded))


@pytest.mark.parametrize("encoding", [Encoding.RAW, Encoding.ZSTD])
@pytest.mark.parametrize("content", [bytes(1000), _noise(1000)])
def test_an_encoding_that_is_asked_for_is_taken(content, encoding):
    """Whether it saves anything or not."""
    encoded = encode(content, encoding=encoding)
    assert encoding_of(encoded) is encoding
    assert decode_untrusted(encoded) == content
