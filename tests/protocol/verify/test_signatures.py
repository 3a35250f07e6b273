"""The rule by which signatures hold (docs/protocol-log.md section 1.1): signatures that other
libraries take, or that RFC 8032 leaves open, made from the numbers themselves."""

import hashlib

import nacl.bindings
import pytest

from keys.errors import BadSignature
from keys.identity import KeyPair, verify
from protocol.verify.note import verifies

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, PRIME) % PRIME
KEY = KeyPair.from_seed(bytes([7]) * 32)
TEXT = b"text"
DOMAIN = b"domain"
SIGNED = DOMAIN + b"\0" + TEXT


def number(data):
    return int.from_bytes(data, "little")


def encode(value):
    return value.to_bytes(32, "little")


SECRET = number(hashlib.sha512(KEY.seed).digest()[:32]) & ((1 << 254) - 8) | 1 << 254


def times_base(value):
    return nacl.bindings.crypto_scalarmult_ed25519_base_noclamp(encode(value % ORDER))


def decode(point):
    """x and y (RFC 8032 section 5.1.3)."""
    y = number(point) & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    return (PRIME - x if x & 1 != point[31] >> 7 else x), y


def add(one, other):
    (x1, y1), (x2, y2) = decode(one), decode(other)
    k = D * x1 * x2 * y1 * y2 % PRIME
    x = (x1 * y2 + x2 * y1) * pow(1 + k, -1, PRIME) % PRIME
    y = (y1 * y2 + x1 * x2) * pow(1 - k, -1, PRIME) % PRIME
    return encode(y | (x & 1) << 255)


EIGHTH = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
"""A point of order 8."""

SMALL = [encode(1), encode(PRIME - 1), EIGHTH, add(EIGHTH, EIGHTH)]


def sign(nonce=5, *, key=KEY.public, extra=b"", s_plus=0):
    """A signature whose R is the nonce's, or that with a point `extra` added."""
    r = add(times_base(nonce), extra) if extra else times_base(nonce)
    challenge = number(hashlib.sha512(r + key + SIGNED).digest()) % ORDER
    return r + encode((nonce + challenge * SECRET) % ORDER + s_plus)


def holds(signature, key=KEY.public):
    """By the verifier, and by the node and the cards."""
    ours = verifies(key, SIGNED, signature)
    try:
        verify(key, DOMAIN, TEXT, signature)
    except BadSignature:
        assert not ours
    else:
        assert ours
    return ours


def test_any_nonce_of_the_signer_makes_a_signature_that_holds():
    assert holds(KEY.sign(DOMAIN, TEXT))
    assert all(holds(sign(nonce)) for nonce in range(1, 9))
    assert len({sign(nonce) for nonce in range(1, 9)}) == 8


def test_a_number_that_is_not_reduced_is_refused():
    assert not holds(sign(s_plus=ORDER))


def test_there_is_no_cofactor():
    """With one, each of these would hold."""
    assert not holds(sign(extra=EIGHTH))
    mixed = add(KEY.public, EIGHTH)
    held = {}
    for nonce in range(1, 65):
        signature = sign(nonce, key=mixed)
        challenge = number(hashlib.sha512(signature[:32] + mixed + SIGNED).digest())
        held[nonce] = holds(signature, mixed) == (challenge % ORDER % 8 == 0)
    assert all(held.values())


@pytest.mark.parametrize("point", SMALL)
def test_points_of_small_order_are_refused(point):
    # S B = R + k A for any k where A is neutral, and for the right S where R is.
    assert not holds(times_base(5) + encode(5), point)
    challenge = number(hashlib.sha512(point + KEY.public + SIGNED).digest()) % ORDER
    assert not holds(point + encode(challenge * SECRET % ORDER))


def test_keys_that_are_not_encoded_canonically_are_refused():
    for value in (PRIME, PRIME + 1, PRIME + 3):
        assert not holds(sign(), encode(value))
    assert not holds(sign(), b"\xff" * 32)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_signatures_of_another_length_are_refused(length):
    assert not verifies(KEY.public, SIGNED, (sign() + b"\0")[:length])
    assert not verifies(KEY.public[:31], SIGNED, sign())
