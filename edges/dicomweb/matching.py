"""Whether a value is one that a search asks for (PS3.4 section C.2.2.2)."""

import re
from collections.abc import Callable, Sequence

from edges.dicomweb.attributes import Kind

_SEVERAL = re.compile(r"[,\\]")
_WILD = re.compile(r"[*?]")


def fits(kind: Kind, wanted: str, values: Sequence[str]) -> bool:
    """Whether one of the values is wanted; an empty wish, or `*`, takes all, also none.

    Args:
        kind: how they are compared.
        wanted: what the client wrote.
        values: what an attribute says.
    """
    if wanted.strip() in ("", "*") or kind is Kind.NONE:
        return True
    match kind:
        case Kind.UID:
            return any(one in several(wanted) for one in values)
        case Kind.DATE:
            return any(_is_within(wanted, one, _date) for one in values)
        case Kind.TIME:
            return any(_is_within(wanted, one, _time) for one in values)
        case Kind.NUMBER:
            return any(_number(one) == _number(wanted) for one in values)
    folds = str.casefold if kind in (Kind.NAME, Kind.TEXT) else str
    patterns = several(wanted) if kind is Kind.CODE else (wanted,)
    return any(
        _is_like(folds(one.strip()), folds(_bare(value, kind)))
        for one in patterns
        for value in values
    )


def several(wanted: str) -> tuple[str, ...]:
    """The values of a list; clients in use separate them by commas or backslashes."""
    return tuple(part.strip() for part in _SEVERAL.split(wanted) if part.strip())


def date_range(wanted: str) -> tuple[str, str] | None:
    """First and last date of a wish, YYYYMMDD, "" for open; None if it is no date."""
    first, dash, last = (part.strip() for part in wanted.partition("-"))
    if not dash:
        last = first
    first, last = _date(first), _date(last)
    return (first, last) if first or last else None


def literal_beginning(wanted: str) -> str:
    """What a wish with wildcards surely begins with."""
    return _WILD.split(wanted, maxsplit=1)[0]


def has_wildcards(wanted: str) -> bool:
    """Whether a wish has `*` or `?`."""
    return _WILD.search(wanted) is not None


def _is_like(pattern: str, value: str) -> bool:
    """Whether a value is of a pattern with `*` and `?`.

    Not by a regular expression: with many stars that could take years.
    """
    at = place = after_star = 0
    star = -1
    while at < len(value):
        if place < len(pattern) and pattern[place] == "*":
            star, after_star = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in ("?", value[at]):
            at += 1
            place += 1
        elif star >= 0:
            # Let the last star take one character more.
            after_star += 1
            at, place = after_star, star + 1
        else:
            return False
    return not pattern[place:].strip("*")


def _bare(value: str, kind: Kind) -> str:
    value = value.strip()
    # Trailing empty components of a name say nothing (PS3.5 section 6.2.1.1).
    return value.rstrip("^") if kind is Kind.NAME else value


def _is_within(wanted: str, value: str, normal: Callable[[str], str]) -> bool:
    first, dash, last = (part.strip() for part in wanted.partition("-"))
    found = normal(value)
    if not found:
        return False
    begin, end = normal(first), normal(last if dash else first)
    if not dash:
        return bool(begin) and found.startswith(begin)
    # A shorter time is a whole minute or hour: 0930 ends at 093059.
    return found >= begin and (not end or found <= end + "~")


def _date(text: str) -> str:
    digits = text.replace(".", "").replace("/", "")
    return digits if len(digits) == 8 and digits.isascii() and digits.isdigit() else ""


def _time(text: str) -> str:
    digits = text.strip().replace(":", "")
    return digits if re.fullmatch(r"[0-9]{2,6}(\.[0-9]{1,6})?", digits) else ""


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
