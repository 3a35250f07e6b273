"""Moments and spans of time as an auditor writes them."""

import re
from datetime import UTC, datetime, timedelta

_SIZE = re.compile(r"[0-9]{1,15}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_AGE = re.compile(r"([0-9]{1,6}) ?(min|h|d)")
_SECONDS = {"min": 60, "h": 3600, "d": 86_400}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LATEST = 253_402_300_799
"""The last second of the year 9999, the last that can be shown as a date."""


def parse_since(text: str) -> int | str:
    """Read where judging a log begins: a size, or a moment.

    Returns:
        The size, or the moment in the form of an entry's time.

    Raises:
        ValueError: neither; a moment is a day in UTC, or a time with its zone.
    """
    if _SIZE.fullmatch(text):
        return int(text)
    if _DAY.fullmatch(text):
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    elif _MOMENT.fullmatch(text):
        moment = datetime.fromisoformat(text)
    else:
        raise ValueError(
            "neither a number of entries nor a moment, such as 2026-11-24 or 2026-11-24T09:30Z"
        )
    try:
        # Round up to the millisecond, so that no entry before the moment is included.
        milliseconds = -((_EPOCH - moment) // timedelta(milliseconds=1))
        shown = (_EPOCH + timedelta(milliseconds=milliseconds)).replace(tzinfo=None)
    except OverflowError:
        raise ValueError("not a moment that entries can have") from None
    return shown.isoformat(timespec="milliseconds") + "Z"


def parse_age(text: str) -> int:
    """Read a span of time such as `90min`, `36h` or `7d`; returns seconds.

    Raises:
        ValueError: not a span of time.
    """
    found = _AGE.fullmatch(text)
    if found is None:
        raise ValueError("an age is a number and its unit: 90min, 36h or 7d")
    return int(found[1]) * _SECONDS[found[2]]


def age_words(seconds: int) -> str:
    """A span of time for people: "3 h"."""
    if seconds < 60:
        return "less than a minute"
    if seconds < 2 * 3600:
        return f"{seconds // 60} min"
    if seconds < 2 * 86_400:
        return f"{seconds // 3600} h"
    return f"{seconds // 86_400:,} days"


def moment_words(seconds: int) -> str:
    """Seconds since the epoch for people, UTC."""
    return datetime.fromtimestamp(min(seconds, _LATEST), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def entry_seconds(time: str) -> float:
    """An entry's time in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()
