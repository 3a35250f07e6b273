"""Fingerprints: published device IDs as vectors, and what people do to them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BadFingerprint
from keys.fingerprint import fingerprint, format_hash, matches, parse_fingerprint

# Device IDs in Syncthing's documentation and tests: the same construction.
PUBLISHED = [
    "P56IOI7-MZJNU2Y-IQGDREY-DM2MGTI-MGL3BXN-PQ6W5BM-TBBZ4TJ-XZWICQ2",
    "MFZWI3D-BONSGYC-YLTMRWG-C43ENR5-QXGZDMM-FZWI3DP-BONSGYY-LTMRWAD",
]
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
KEY = bytes(range(32))
TEXT = fingerprint(KEY)


def _slow_check(part):
    """Luhn mod 32, written with base-32 digits and lists."""
    total = 0
    for factor, character in zip([1, 2] * 7, part, strict=False):
        tens, ones = divmod(factor * ALPHABET.index(character), 32)
        total += tens + ones
    return next(c for c in ALPHABET if (total + ALPHABET.index(c)) % 32 == 0)


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_ids(text):
    digest = parse_fingerprint(text)
    assert len(digest) == 32
    assert format_hash(digest) == text


def test_form():
    assert [len(group) for group in TEXT.split("-")] == [7] * 8
    assert parse_fingerprint(TEXT) == hashlib.sha256(KEY).digest()


@given(st.binary(min_size=32, max_size=32))
def test_round_trip_and_check_characters(key):
    text = fingerprint(key)
    assert matches(key, text)
    letters = text.replace("-", "")
    for at in range(0, 56, 14):
        assert letters[at + 13] == _slow_check(letters[at : at + 13])


@pytest.mark.parametrize(
    "change",
    [
        str.lower,
        lambda text: text.replace("-", ""),
        lambda text: text.replace("-", " "),
        lambda text: text.replace("-", "\N{EN DASH}"),
        lambda text: f"  {text[:20]}\n{text[20:]}\n",
        lambda text: text.replace("O", "0").replace("I", "1").replace("B", "8"),
    ],
)
def test_forms_that_people_type(change):
    for text in [*PUBLISHED, TEXT]:
        assert parse_fingerprint(change(text)) == parse_fingerprint(text)


@given(st.integers(0, 55), st.sampled_from(ALPHABET))
def test_each_single_slip_is_caught(position, character):
    letters = list(TEXT.replace("-", ""))
    if letters[position] == character:
        return
    letters[position] = character
    part = position // 14
    with pytest.raises(BadFingerprint) as caught:
        parse_fingerprint("".join(letters))
    assert f"group {2 * part + 1} or {2 * part + 2} " in str(caught.value)


@pytest.mark.parametrize("text", ["", TEXT[:-1], TEXT + "A", TEXT.split("-")[0], TEXT + TEXT])
def test_wrong_length(text):
    with pytest.raises(BadFingerprint, match="8 groups of 7"):
        parse_fingerprint(text)


@pytest.mark.parametrize("character", ["9", "!", "Ä", "\N{CYRILLIC CAPITAL LETTER A}", "="])
def test_characters_that_are_in_no_fingerprint(character):
    with pytest.raises(BadFingerprint, match="letters"):
        parse_fingerprint(character + TEXT[1:])


def test_unused_bits_of_the_last_character_must_be_zero():
    letters = TEXT.replace("-", "")
    last = letters[42:55]
    other = last[:12] + ALPHABET[ALPHABET.index(last[12]) | 1]
    with pytest.raises(BadFingerprint, match="last group"):
        parse_fingerprint(letters[:42] + other + _slow_check(other))


def test_another_key_does_not_match():
    assert not matches(bytes(32), TEXT)
    with pytest.raises(BadFingerprint):
        matches(KEY, "North General")


@given(st.text(max_size=80))
def test_any_text_is_a_fingerprint_or_bad(text):
    try:
        digest = parse_fingerprint(text)
    except BadFingerprint:
        return
    assert len(digest) == 32
