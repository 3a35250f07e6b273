"""The code that two admins tell each other to pair their facilities: ten digits and a check digit.

Digits are the same in every language and on every telephone. The check digit (H. M. Damm,
"Total anti-symmetrische Quasigruppen", 2004) finds each single wrong digit and each swap of two
neighbours, as in "zweiundachtzig": such a mistake costs no try.
"""

from collections.abc import Callable

import nacl.utils

from keys.errors import BadCode

DIGITS = 10
"""Random digits of a code: 33 bits, of which an attacker has 20 guesses."""

_QUASIGROUP = (
    "0317598642",
    "7092154863",
    "4206871359",
    "1750983426",
    "6123045978",
    "3674209581",
    "5869720134",
    "8945362017",
    "9438617205",
    "2581436790",
)
_RANDOM_BYTES = 16
"""Enough that no code is likelier than another by more than 2**-94."""


def new_code(random: Callable[[int], bytes] = nacl.utils.random) -> str:
    """A new code, 11 digits with its check digit, from `random(16)`."""
    number = int.from_bytes(random(_RANDOM_BYTES), "big") % 10**DIGITS
    digits = f"{number:0{DIGITS}}"
    return digits + _check_digit(digits)


def shown(code: str) -> str:
    """A code as it is shown and read out: in groups of three."""
    return " ".join(code[start : start + 3] for start in range(0, len(code), 3))


def parse_code_untrusted(text: str) -> str:
    """The code in what a person has typed; spaces, dots and dashes do not count.

    Raises:
        BadCode: it is no code. It was not compared with anything.
    """
    digits = "".join(one for one in text if not one.isspace() and one not in ".-")
    if not (digits.isascii() and digits.isdigit()):
        raise BadCode("the code has only digits")
    if len(digits) != DIGITS + 1:
        raise BadCode(f"the code has {DIGITS + 1} digits, and these are {len(digits)}")
    if _check_digit(digits) != "0":
        raise BadCode("a digit of the code is wrong, or two are swapped; this costs no try")
    return digits


def _check_digit(digits: str) -> str:
    """The digit that makes the check of what it follows come out as 0."""
    state = "0"
    for digit in digits:
        state = _QUASIGROUP[int(state)][int(digit)]
    return state
