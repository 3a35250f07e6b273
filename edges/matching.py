"""Whether a value matches a key of a query; PS3.4 section C.2.2.2.

Single values, lists of UIDs, wildcards, ranges of dates and times, and universal matching. A
person's name is compared without case and accents, as the standard lets us. A key with several
values, of whatever kind, matches any of them: many workstations send `CT\\MR`.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

Matcher = Callable[[Sequence[str]], bool]
"""Takes the values of an attribute, none if it is empty."""

_WILD = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
"""Value representations in whose keys `*` and `?` are wildcards, section C.2.2.2.4."""

_TIME = re.compile(r"(\d{2})(\d{2})?(\d{2})?(?:\.(\d{1,6}))?")


def is_universal(key: str) -> bool:
    """Whether a key asks for any value, none included."""
    return not key.strip("* ")


def has_wildcard(key: str) -> bool:
    """Whether a key may stand for several values."""
    return any(mark in key for mark in "*?\\")


def matcher(vr: str, key: str) -> Matcher:
    """A function that tells whether values match a key of a value representation."""
    if is_universal(key):
        return lambda values: True
    if vr in ("DA", "TM"):
        return _dated(vr, key)
    wanted = [one.strip() for one in key.split("\\")]
    if vr == "PN":
        names = [_groups(one) for one in wanted]
        return lambda values: any(_is_named(one, value) for one in names for value in values)
    if vr in ("IS", "US"):
        numbers = {_number(one) for one in wanted} - {None}
        return lambda values: any(_number(value) in numbers for value in values)
    if vr in _WILD:
        return lambda values: any(is_like(value.strip(), one) for one in wanted for value in values)
    # A list of UIDs may be long.
    listed = frozenset(wanted)
    return lambda values: any(value.strip() in listed for value in values)


def is_like(text: str, pattern: str) -> bool:
    """Whether a text is as a pattern says: `*` is any characters, `?` is one.

    Takes time in proportion to both lengths at most, whatever the pattern.
    """
    place = at = 0
    star, after = -1, 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, after = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            place, at = place + 1, at + 1
        elif star >= 0:
            # The last `*` takes one character more.
            after += 1
            place, at = after, star + 1
        else:
            return False
    return not pattern[at:].strip("*")


# --- dates and times -------------------------------------------------------------------


def range_of(vr: str, key: str) -> tuple[str, str] | None:
    """The first and the last value that a key of VR DA or TM names, "" for no bound.

    Dates are YYYYMMDD; times HHMMSS.FFFFFF. None if the key is no date, time or range.
    """
    first, dash, last = key.strip().partition("-")
    read = _date if vr == "DA" else _time
    low, high = read(first.strip(), False), read(last.strip() if dash else first.strip(), True)
    if low is None or high is None or not (low or high):
        return None
    return low, high


def _dated(vr: str, key: str) -> Matcher:
    found = range_of(vr, key)
    read = _date if vr == "DA" else _time

    def fits(value: str) -> bool:
        assert found is not None
        text = read(value.strip(), False)
        return bool(text) and found[0] <= str(text) and (not found[1] or str(text) <= found[1])

    if found is None:
        return lambda values: False
    return lambda values: any(map(fits, values))


def _date(text: str, is_end: bool) -> str | None:
    # With the points of ACR-NEMA, too.
    digits = text.replace(".", "")
    return digits if not digits or (len(digits) == 8 and digits.isdigit()) else None


def _time(text: str, is_end: bool) -> str | None:
    """A time in full; what it leaves open is filled up to its first or last moment."""
    if not text:
        return ""
    found = _TIME.fullmatch(text.replace(":", ""))
    if found is None:
        return None
    fill = ("59", "59", "999999") if is_end else ("00", "00", "000000")
    hours, minutes, seconds, fraction = found.groups()
    filled = (fraction or "").ljust(6, "9" if is_end else "0") if fraction else fill[2]
    return f"{hours}{minutes or fill[0]}{seconds or fill[1]}.{filled}"


def _number(text: str) -> int | None:
    try:
        return int(text.strip())
    except ValueError:
        return None


# --- names -----------------------------------------------------------------------------


def _is_named(wanted: tuple[str, ...], value: str) -> bool:
    groups = _groups(value)
    if len(wanted) == 1:
        return any(is_like(group, wanted[0]) for group in groups)
    # Group by group: alphabetic, ideographic, phonetic.
    filled = (*groups, "", "", "")
    return all(is_universal(one) or is_like(filled[at], one) for at, one in enumerate(wanted[:3]))


@lru_cache(maxsize=4096)
def _groups(name: str) -> tuple[str, ...]:
    return tuple(_folded(group).rstrip("^ ") for group in name.split("="))


def _folded(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(one for one in letters if not unicodedata.combining(one)).casefold()
