"""The key that a passphrase gives."""

import nacl.exceptions
import nacl.pwhash
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keys import passphrase
from keys.errors import BadKey
from keys.passphrase import Cost, derive, usual_cost

SALT = bytes(range(16))
CHEAP = Cost(SALT, 2, 64 * 1024)
WORDS = "correct horse battery st\u00e4ple"


def test_it_is_argon2id_with_one_lane():
    try:
        other = Argon2id(salt=SALT, length=32, iterations=2, lanes=1, memory_cost=64)
        expected = other.derive(WORDS.encode())
    except UnsupportedAlgorithm as error:
        pytest.skip(f"needs an OpenSSL with Argon2id: {error}")
    assert derive(WORDS, CHEAP).key == expected


def test_another_keyboard_gives_the_same_key():
    assert derive(WORDS.replace("\u00e4", "a\u0308"), CHEAP) == derive(WORDS, CHEAP)
    assert derive(WORDS + "!", CHEAP).key != derive(WORDS, CHEAP).key


def test_the_usual_cost_is_libsodiums_moderate():
    assert usual_cost(SALT) == Cost(
        SALT,
        nacl.pwhash.argon2id.OPSLIMIT_MODERATE,
        nacl.pwhash.argon2id.MEMLIMIT_MODERATE,
    )


@pytest.mark.parametrize(
    "cost",
    [
        Cost(SALT[:-1], 1, 8192),
        Cost(SALT, 0, 8192),
        Cost(SALT, 11, 8192),
        Cost(SALT, 1, 8191),
        Cost(SALT, 1, 8193),
        Cost(SALT, 1, 2**31 + 1024),
    ],
)
def test_nothing_is_derived_beyond_the_bounds(cost, monkeypatch):
    monkeypatch.setattr(passphrase.nacl.pwhash.argon2id, "kdf", None)
    with pytest.raises(BadKey, match="more work"):
        derive(WORDS, cost)


def test_too_little_memory_is_said_and_the_passphrase_is_not(monkeypatch):
    def fail(*_, **__):
        raise nacl.exceptions.RuntimeError("Key derivation failed")

    monkeypatch.setattr(passphrase.nacl.pwhash.argon2id, "kdf", fail)
    with pytest.raises(BadKey, match="lacks the 256 MiB") as caught:
        derive(WORDS, usual_cost(SALT))
    assert "horse" not in str(caught.value)
