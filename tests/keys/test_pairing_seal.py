"""Sealed messages of a pairing: in order, each direction with its key."""

import hashlib
import hmac

import nacl.bindings
import pytest

from keys.errors import BadKey, SealBroken
from keys.pairing_seal import PairingSealer, other
from keys.pake import Role

AGREED, SESSION = bytes(range(64)), bytes(range(32))


def both(agreed=AGREED, session=SESSION):
    return (
        PairingSealer(agreed, session, Role.INITIATOR),
        PairingSealer(agreed, session, Role.RESPONDER),
    )


def test_what_one_side_seals_the_other_opens_in_order():
    one, two = both()
    sealed = [one.seal(b"a"), one.seal(b"b"), one.seal(b"")]
    assert [two.open(each) for each in sealed] == [b"a", b"b", b""]
    assert one.open(two.seal(b"c")) == b"c"


def test_out_of_order_twice_altered_or_our_own_does_not_open():
    one, two = both()
    first, second = one.seal(b"same"), one.seal(b"same")
    assert first != second
    for wrong in (second, first[:-1] + bytes([first[-1] ^ 1]), b"", bytes(16)):
        with pytest.raises(SealBroken):
            both()[1].open(wrong)
    assert two.open(first) == b"same"
    with pytest.raises(SealBroken):
        two.open(first)
    with pytest.raises(SealBroken):
        both()[0].open(first)


@pytest.mark.parametrize("what", ["agreed", "session"])
def test_another_key_or_run_does_not_open(what):
    sealed = both()[0].seal(b"a")
    with pytest.raises(SealBroken):
        both(**{what: bytes(64 if what == "agreed" else 32)})[1].open(sealed)


def test_by_the_formula():
    info = SESSION + b"\x01"
    extracted = hmac.digest(b"radmesh-pair-v1", AGREED, hashlib.sha256)
    key = hmac.digest(extracted, info + b"\x01", hashlib.sha256)
    one, _ = both()
    one.seal(b"first")
    opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        one.seal(b"second"), b"radmesh-pair-v1" + SESSION, bytes(23) + b"\x01", key
    )
    assert opened == b"second"


def test_wrong_lengths_are_refused():
    for agreed, session in ((AGREED[1:], SESSION), (AGREED, SESSION[1:])):
        with pytest.raises(BadKey):
            both(agreed, session)


def test_the_other_side():
    assert other(other(Role.INITIATOR)) is Role.INITIATOR
    assert other(Role.INITIATOR) is Role.RESPONDER
