"""Key files, as bytes."""

import base64

import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BadKey, KeySealed, KeysError, WrongPassphrase
from keys.identity import KeyPair
from keys.keyfile import ROLES, decode_key, encode_key, read_key_file, seal_key
from keys.passphrase import Cost, Wrapping

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


# --- sealed ------------------------------------------------------------------------------

COST = Cost(bytes(range(16)), 1, 8192)
WRAPPING = Wrapping(COST, bytes(range(100, 132)))
NONCE = bytes(range(200, 224))
SEALED = seal_key("node", KeyPair.from_seed(SEED), WRAPPING, NONCE)


def _body(line):
    return base64.b64decode(line.split(b" ")[3])


def _line(body, role=b"node"):
    return b"radmesh-key-v1 %b argon2id-xchacha20 %b\n" % (role, base64.b64encode(body))


def test_the_form_of_a_sealed_key():
    body = _body(SEALED)
    assert _line(body) == SEALED
    assert len(body) == 128
    public = KeyPair.from_seed(SEED).public
    assert body[:80] == bytes.fromhex("00000001 00000008") + COST.salt + NONCE + public
    # The text of the module, by libsodium alone.
    bound = b"radmesh-key-v1\0node\0" + body[:80]
    seed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        body[80:], bound, NONCE, WRAPPING.key
    )
    assert seed == SEED


@given(st.sampled_from(ROLES), st.binary(min_size=32, max_size=32))
def test_a_sealed_key_opens_and_its_public_half_needs_no_passphrase(role, seed):
    pair = KeyPair.from_seed(seed)
    data = seal_key(role, pair, WRAPPING, NONCE)
    file = read_key_file(role, data)
    assert (file.public, file.cost) == (pair.public, COST)
    assert decode_key(role, data, WRAPPING).seed == seed
    assert seed not in _body(data)


@given(st.integers(min_value=0, max_value=len(SEALED) - 1), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_of_a_sealed_key_is_noticed(at, change):
    data = bytearray(SEALED)
    data[at] ^= change
    with pytest.raises(KeysError):
        decode_key("node", bytes(data), WRAPPING)


def test_only_its_own_passphrase_opens_a_sealed_key():
    with pytest.raises(KeySealed):
        decode_key("node", SEALED)
    other_salt = Wrapping(Cost(bytes(16), 1, 8192), WRAPPING.key)
    with pytest.raises(KeySealed):
        decode_key("node", SEALED, other_salt)
    with pytest.raises(WrongPassphrase) as caught:
        decode_key("node", SEALED, Wrapping(COST, bytes(32)))
    assert WRAPPING.key.hex() not in str(caught.value)


def test_a_sealed_key_of_one_role_is_none_of_another():
    with pytest.raises(WrongPassphrase):
        decode_key("log", _line(_body(SEALED), b"log"), WRAPPING)


def test_a_file_that_names_another_public_key_than_it_holds_does_not_open():
    pair = KeyPair.from_seed(SEED)
    pair.public = bytes(32)  # as a faulty writer would
    with pytest.raises(WrongPassphrase, match="not the one that its file names"):
        decode_key("node", seal_key("node", pair, WRAPPING, NONCE), WRAPPING)


@pytest.mark.parametrize(
    ("passes", "kib"), [(0, 8), (11, 8), (2**32 - 1, 8), (1, 7), (1, 2**21 + 1), (1, 2**32 - 1)]
)
def test_a_planted_file_cannot_ask_for_more_than_the_bounds(passes, kib):
    body = passes.to_bytes(4) + kib.to_bytes(4) + _body(SEALED)[8:]
    with pytest.raises(BadKey, match="more work"):
        read_key_file("node", _line(body))


def test_the_bounds_themselves_are_allowed():
    for passes, kib in ((10, 2**21), (1, 8)):
        body = passes.to_bytes(4) + kib.to_bytes(4) + _body(SEALED)[8:]
        assert read_key_file("node", _line(body)).cost == Cost(COST.salt, passes, kib * 1024)


@pytest.mark.parametrize("body", [_body(SEALED)[:-1], _body(SEALED) + b"x", SEED])
def test_a_sealed_file_of_another_length(body):
    with pytest.raises(BadKey, match="damaged"):
        read_key_file("node", _line(body))


def test_no_repr_shows_a_secret():
    shown = repr((read_key_file("node", LINE), read_key_file("node", SEALED), WRAPPING))
    for secret in (SEED, WRAPPING.key):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
        assert base64.b64encode(secret).decode() not in shown


def test_a_pair_without_its_private_half_signs_nothing():
    public = KeyPair.from_seed(SEED).public
    pair = KeyPair.sealed(public)
    assert pair.is_sealed
    assert not KeyPair.from_seed(SEED).is_sealed
    assert pair.public == public
    for act in (
        lambda: pair.seed,
        lambda: pair.sign(b"d", b"m"),
        lambda: encode_key("node", pair),
        lambda: seal_key("node", pair, WRAPPING, NONCE),
    ):
        with pytest.raises(KeySealed):
            act()
