"""Sealing: agreement, binding, and every way in which a chunk must not open."""

import threading
from concurrent.futures import ThreadPoolExecutor

import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import seal
from keys.errors import BadKey, SealBroken

SOURCE_NODE, RECIPIENT_NODE = b"s" * 32, b"r" * 32
TRANSFER = b"t" * 16
MANIFEST = b"m" * 32
KEY = bytes(range(32))


def agreed(ours, theirs, source, recipient, **changes):
    bound = {
        "source_node": SOURCE_NODE,
        "recipient_node": RECIPIENT_NODE,
        "source_ephemeral": source.public,
        "recipient_ephemeral": recipient.public,
        "transfer_id": TRANSFER,
    }
    return seal.transfer_key(ours, theirs.public, **(bound | changes))


def test_rfc_7748_vector():
    # Section 6.1.
    alice_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    bob = seal.EphemeralKey(
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    )
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared_secret = bob.agree(bytes.fromhex(alice_public))
    assert shared_secret.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_rfc_5869_vector():
    # Appendix A.1; the first of its two blocks.
    key = seal.hkdf_sha256(
        b"\x0b" * 22,
        salt=bytes(range(13)),
        info=bytes(range(0xF0, 0xFA)),
    )
    assert key.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_both_sides_agree_and_every_input_counts():
    source, recipient = seal.EphemeralKey.generate(), seal.EphemeralKey.generate()
    key = agreed(source, recipient, source, recipient)
    assert len(key) == 32
    assert agreed(recipient, source, source, recipient) == key
    others = [
        agreed(source, recipient, source, recipient, source_node=b"x" * 32),
        agreed(source, recipient, source, recipient, recipient_node=b"x" * 32),
        agreed(source, recipient, source, recipient, source_ephemeral=b"x" * 32),
        agreed(source, recipient, source, recipient, recipient_ephemeral=b"x" * 32),
        agreed(source, recipient, source, recipient, transfer_id=b"x" * 16),
        agreed(seal.EphemeralKey.generate(), recipient, source, recipient),
    ]
    assert len({key, *others}) == 7


# Points of small order (RFC 7748 section 6.1 and libsodium's list).
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("public", [*SMALL_ORDER, b"", bytes(31), b"x" * 33])
def test_unusable_ephemeral_keys_are_refused(public):
    ours = seal.EphemeralKey.generate()
    with pytest.raises(BadKey):
        ours.agree(public)


def test_lengths_are_checked():
    ours, theirs = seal.EphemeralKey.generate(), seal.EphemeralKey.generate()
    with pytest.raises(BadKey):
        agreed(ours, theirs, ours, theirs, source_node=b"x" * 31)
    with pytest.raises(BadKey):
        agreed(ours, theirs, ours, theirs, transfer_id=b"x" * 15)
    with pytest.raises(BadKey):
        seal.EphemeralKey(bytes(31))
    for lengths in ((31, 16, 32), (32, 15, 32), (32, 16, 31)):
        with pytest.raises(BadKey):
            seal.Sealer(*(bytes(length) for length in lengths))


def test_generate_takes_the_secret_from_random():
    assert seal.EphemeralKey.generate(bytes).public == seal.EphemeralKey(bytes(32)).public


def test_sealed_bytes_are_what_the_specification_says():
    sealed = seal.Sealer(KEY, TRANSFER, MANIFEST).seal(seal.KIND_BATCH, 258, b"pixels")
    place = b"\0\0\0\x02" + b"\0\0\0\0\0\0\x01\x02"
    assert sealed == nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        b"pixels", b"radmesh-chunk-v1" + TRANSFER + MANIFEST + place, bytes(12) + place, KEY
    )


@given(st.sampled_from([1, 2]), st.integers(0, 2**64 - 1), st.binary(max_size=300))
def test_round_trip(kind, index, data):
    sealer = seal.Sealer(KEY, TRANSFER, MANIFEST)
    sealed = sealer.seal(kind, index, memoryview(data))
    assert len(sealed) == len(data) + seal.TAG_BYTES
    assert sealer.open(kind, index, sealed) == data
    assert sealer.open(kind, index, memoryview(bytearray(sealed))) == data


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 4096, 300_000])
def test_any_size_is_sealed_as_pynacl_does_it(size):
    data, sealer = b"A" * size, seal.Sealer(KEY, TRANSFER, MANIFEST)
    place = b"\0\0\0\x02" + bytes(8)
    expected = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        data, b"radmesh-chunk-v1" + TRANSFER + MANIFEST + place, bytes(12) + place, KEY
    )
    for form in (data, bytearray(data), memoryview(b"." + data + b".")[1 : 1 + size]):
        assert sealer.seal(2, 0, form) == expected
    for form in (expected, bytearray(expected), memoryview(b"." + expected)[1:]):
        assert sealer.open(2, 0, form) == data


def test_draft_xchacha_vector():
    # draft-irtf-cfrg-xchacha-03 section 2.2.1.
    subkey = seal.hchacha20(KEY, bytes.fromhex("000000090000004a0000000031415927"))
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


def test_threads_may_share_a_sealer():
    """The first use makes the cipher: several threads do so at once."""
    data = [bytes([number]) * 100_000 for number in range(40)]
    lone = seal.Sealer(KEY, TRANSFER, MANIFEST)
    expected = [lone.seal(2, index, each) for index, each in enumerate(data)]
    shared = seal.Sealer(KEY, TRANSFER, MANIFEST)
    begin = threading.Barrier(4)

    def both(index):
        if index < 4:
            begin.wait(10)
        sealed = shared.seal(2, index, data[index])
        return sealed, shared.open(2, index, sealed)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(both, range(40)))
    assert done == list(zip(expected, data, strict=True))


@pytest.mark.parametrize(
    ("sealer", "kind", "index"),
    [
        (seal.Sealer(b"x" * 32, TRANSFER, MANIFEST), 2, 7),
        (seal.Sealer(KEY, b"x" * 16, MANIFEST), 2, 7),
        (seal.Sealer(KEY, TRANSFER, b"x" * 32), 2, 7),
        (seal.Sealer(KEY, TRANSFER, MANIFEST), 1, 7),
        (seal.Sealer(KEY, TRANSFER, MANIFEST), 2, 8),
    ],
)
def test_a_chunk_out_of_place_does_not_open(sealer, kind, index):
    sealed = seal.Sealer(KEY, TRANSFER, MANIFEST).seal(2, 7, b"pixels")
    with pytest.raises(SealBroken):
        sealer.open(kind, index, sealed)


def test_each_altered_or_cut_byte_is_noticed():
    sealer = seal.Sealer(KEY, TRANSFER, MANIFEST)
    sealed = sealer.seal(2, 0, b"pixels")
    for at in range(len(sealed)):
        altered = bytearray(sealed)
        altered[at] ^= 0x80
        with pytest.raises(SealBroken):
            sealer.open(2, 0, altered)
        with pytest.raises(SealBroken):
            sealer.open(2, 0, sealed[:at])
    with pytest.raises(SealBroken):
        sealer.open(2, 0, sealed + b"\0")
