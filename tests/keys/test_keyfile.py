"""Key files, as bytes."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BadKey
from keys.identity import KeyPair
from keys.keyfile import ROLES, decode_key, encode_key

SEED = bytes(range(32))
LINE = b"radmesh-key-v1 node plain " + base64.b64encode(SEED) + b"\n"


def test_form():
    assert encode_key("node", KeyPair.from_seed(SEED)) == LINE
    assert decode_key("node", LINE).seed == SEED


@given(st.sampled_from(ROLES), st.binary(min_size=32, max_size=32))
def test_round_trip(role, seed):
    assert decode_key(role, encode_key(role, KeyPair.from_seed(seed))).seed == seed


def test_unknown_role_is_not_written():
    with pytest.raises(BadKey):
        encode_key("admin", KeyPair.from_seed(SEED))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a radmesh key file"),
        (b"\xff\xfe", "not a radmesh key file"),
        (b"-----BEGIN PRIVATE KEY-----\n", "not a radmesh key file"),
        (LINE.replace(b"v1", b"v2"), "not a radmesh key file"),
        (LINE.replace(b"node", b"log"), "another role"),
        (LINE.replace(b"plain", b"sealed"), "cannot open"),
        (LINE[:-1], "damaged"),
        (LINE + b"\n", "damaged"),
        (LINE.replace(b"\n", b"\r\n"), "damaged"),
        (LINE.replace(b"AAEC", b"AA!C"), "damaged"),
        (LINE.replace(b"AAEC", b"AAE"), "damaged"),
        (b"radmesh-key-v1 node plain AAEC\n", "32 bytes"),
        (LINE + bytes(5000), "damaged"),
    ],
)
def test_bad_files(data, reason):
    with pytest.raises(BadKey, match=reason) as caught:
        decode_key("node", data)
    assert base64.b64encode(SEED).decode()[4:20] not in str(caught.value)


@given(st.binary(max_size=100))
def test_any_bytes_give_a_key_or_bad_key(data):
    with pytest.raises(BadKey):
        decode_key("node", data)
