"""Key files under a passphrase."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import BadKey
from keys.passphrase import KEY_BYTES, MEMORY_BYTES, PASSES
from keys.sealed_files import derive_key, open_files_untrusted, seal_files

SALT, NONCE = bytes(range(16)), bytes(range(24))
WORDS = "correct horse battery st\u00e4ple"
FILES = {"node": "radmesh-key-v1 node plain AAAA\n", "log": "x\n"}


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal_files(derive_key(WORDS, SALT), SALT, NONCE, FILES)


@pytest.mark.slow
def test_what_was_sealed_opens_with_its_passphrase_alone(sealed: bytes) -> None:
    assert open_files_untrusted(sealed, WORDS) == FILES
    # As another keyboard writes it.
    assert open_files_untrusted(sealed, WORDS.replace("\u00e4", "a\u0308")) == FILES
    with pytest.raises(BadKey, match="passphrase"):
        open_files_untrusted(sealed, WORDS + "!")


@pytest.mark.slow
def test_nothing_of_the_keys_stands_in_the_open(sealed: bytes) -> None:
    assert b"radmesh-key" not in sealed
    assert b"AAAA" not in sealed
    value = json.loads(sealed)
    assert (value["kdf"], value["passes"], value["memory"]) == ("argon2id", PASSES, MEMORY_BYTES)
    other = seal_files(bytes(KEY_BYTES), SALT, bytes(24), FILES)
    assert json.loads(other)["sealed"] != value["sealed"]


@pytest.mark.slow
@given(st.data())
@settings(max_examples=8)
def test_a_changed_byte_is_told(sealed: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sealed) - 2))
    changed = bytearray(sealed)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadKey):
        open_files_untrusted(bytes(changed), WORDS)


@given(
    st.binary(max_size=200) | st.dictionaries(st.text(), st.text()).map(json.dumps).map(str.encode)
)
def test_garbage_is_told(data: bytes) -> None:
    with pytest.raises(BadKey):
        open_files_untrusted(data, WORDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("memory", 1 << 40), ("passes", 10_000), ("kdf", "scrypt"), ("v", 2), ("salt", "00"),
     ("nonce", "00"), ("sealed", "%"), ("salt", 5), ("sealed", None)],
)  # fmt: skip
def test_a_file_cannot_choose_what_opening_costs(name: str, value: object) -> None:
    sealed = seal_files(bytes(KEY_BYTES), SALT, NONCE, FILES)
    changed = json.dumps({**json.loads(sealed), name: value}).encode()
    with pytest.raises(BadKey):
        open_files_untrusted(changed, WORDS)
