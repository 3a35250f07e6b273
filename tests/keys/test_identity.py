"""Signatures, domain separation and PeerIDs."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.peer.id import ID

from keys.errors import BadKey, BadSignature
from keys.identity import KeyPair, node_public_of, peer_id, verify, verify_raw

# RFC 8032 section 7.1, test 2.
RFC8032_SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
RFC8032_PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
RFC8032_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
keys = st.binary(min_size=32, max_size=32)


def test_rfc_8032_vector():
    pair = KeyPair.from_seed(RFC8032_SEED)
    assert pair.public == RFC8032_PUBLIC
    assert pair.sign_raw(b"\x72") == RFC8032_SIGNATURE
    verify_raw(RFC8032_PUBLIC, b"\x72", RFC8032_SIGNATURE)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_seed_of_another_length_is_refused(length):
    with pytest.raises(BadKey):
        KeyPair.from_seed(bytes(length))


def test_generate_takes_the_seed_from_random():
    assert KeyPair.generate(lambda count: b"\x07" * count).seed == b"\x07" * 32
    assert KeyPair.generate().seed != KeyPair.generate().seed


def test_repr_does_not_show_the_seed():
    pair = KeyPair.from_seed(RFC8032_SEED)
    assert RFC8032_SEED.hex() not in repr(pair)
    assert RFC8032_PUBLIC.hex() in repr(pair)


@given(keys, st.binary(max_size=200))
def test_signature_holds_for_its_domain_and_message_only(seed, message):
    pair = KeyPair.from_seed(seed)
    signature = pair.sign(b"one", message)
    assert len(signature) == 64
    verify(pair.public, b"one", message, signature)
    for domain, other in ((b"two", message), (b"one", message + b"x"), (b"one\0", message)):
        with pytest.raises(BadSignature):
            verify(pair.public, domain, other, signature)
    with pytest.raises(BadSignature):
        verify(KeyPair.from_seed(hashlib.sha256(seed).digest()).public, b"one", message, signature)


@pytest.mark.parametrize("bit", [0, 255, 256, 511])
def test_altered_signature_is_refused(bit):
    pair = KeyPair.from_seed(RFC8032_SEED)
    signature = bytearray(pair.sign(b"d", b"m"))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadSignature):
        verify(pair.public, b"d", b"m", bytes(signature))


@pytest.mark.parametrize(
    ("key_length", "signature_length"), [(31, 64), (33, 64), (32, 63), (32, 65)]
)
def test_wrong_lengths_are_bad_signatures(key_length, signature_length):
    with pytest.raises(BadSignature):
        verify_raw(bytes(key_length), b"m", bytes(signature_length))


def test_small_order_key_signs_nothing():
    # The neutral element as key, under which a plain equation check accepts any message.
    neutral = b"\x01" + bytes(31)
    with pytest.raises(BadSignature):
        verify_raw(neutral, b"m", neutral + bytes(32))


def test_peer_id_of_a_published_key():
    # The Ed25519 test vector of libp2p's peer-ids specification.
    public = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
    text = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
    assert peer_id(public) == text
    assert node_public_of(text) == public


@given(keys)
def test_peer_id_round_trip_and_agrees_with_libp2p(public):
    text = peer_id(public)
    assert text.startswith("12D3KooW")
    assert len(text) == 52
    assert text == str(ID.from_pubkey(Ed25519PublicKey.from_bytes(public)))
    assert node_public_of(text) == public


def test_peer_id_needs_32_bytes():
    with pytest.raises(BadKey):
        peer_id(bytes(31))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12D3KooW",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        peer_id(bytes(32))[:-1],
        peer_id(bytes(32)) + "1",
        peer_id(bytes(32))[:-1] + "0",
        "1" * 52,
        "z" * 52,
        peer_id(bytes(32)) + " ",
    ],
)
def test_text_that_is_no_peer_id(text):
    with pytest.raises(BadKey):
        node_public_of(text)
