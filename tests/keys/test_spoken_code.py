"""The spoken code: what a person mistypes is found before it costs a try."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keys.errors import BadCode
from keys.spoken_code import DIGITS, new_code, parse_code_untrusted, shown

CODES = st.binary(min_size=16, max_size=16).map(lambda drawn: new_code(lambda _: drawn))


def test_published_check_digit():
    # Damm's thesis, and every text that explains it: 572 has the check digit 4.
    code = new_code(lambda count: (572).to_bytes(count, "big"))
    assert code == "0000000572" + "4"


@given(CODES)
def test_what_is_shown_is_taken(code):
    assert len(code) == DIGITS + 1
    assert parse_code_untrusted(shown(code)) == code
    assert parse_code_untrusted(f" {code[:4]}-{code[4:]}.\n") == code


@given(CODES, st.integers(0, DIGITS), st.integers(1, 9))
def test_each_wrong_digit_is_found(code, place, by):
    wrong = code[:place] + str((int(code[place]) + by) % 10) + code[place + 1 :]
    with pytest.raises(BadCode, match="costs no try"):
        parse_code_untrusted(wrong)


@given(CODES, st.integers(0, DIGITS - 1))
def test_each_swap_of_neighbours_is_found(code, place):
    assume(code[place] != code[place + 1])
    swapped = code[:place] + code[place + 1] + code[place] + code[place + 2 :]
    with pytest.raises(BadCode, match="costs no try"):
        parse_code_untrusted(swapped)


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("", "only digits"),
        ("four", "only digits"),
        ("٤٨٢٩١٥٧٠٦٣٧", "only digits"),
        ("4829157063", "11 digits, and these are 10"),
        ("482915706370", "11 digits, and these are 12"),
    ],
)
def test_what_is_no_code_is_said(typed, why):
    with pytest.raises(BadCode, match=why):
        parse_code_untrusted(typed)


def test_codes_are_random():
    assert len({new_code() for _ in range(50)}) == 50
