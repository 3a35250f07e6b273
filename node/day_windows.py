"""Times of day between which something holds, as the settings have them."""

import re
from collections.abc import Mapping
from typing import Any

_DAY_MINUTES = 24 * 60


class BadWindow(ValueError):
    """An invalid one; the text completes a sentence that begins with the entry."""


def in_window(from_minute: int, to_minute: int, minute: int) -> bool:
    """Whether a time of day is in a window, the end not in it; all in minutes since midnight.

    A window may go over midnight; one that begins and ends at the same time is the whole day.
    """
    if from_minute == to_minute:
        return True
    if from_minute < to_minute:
        return from_minute <= minute < to_minute
    return minute >= from_minute or minute < to_minute


def read_window(entry: Mapping[str, Any]) -> tuple[int, int]:
    """The times `from` and `to` of an entry, as for `in_window`; the whole day without them.

    Raises:
        BadWindow: there is one without the other, or one is no time of day.
    """
    if ("from" in entry) != ("to" in entry):
        raise BadWindow("needs both from and to, or neither for the whole day")
    begin, end = _minute(entry, "from"), _minute(entry, "to")
    if "from" in entry and begin == end:
        raise BadWindow("begins and ends at the same time; leave from and to out for the whole day")
    return begin, end % _DAY_MINUTES


def _minute(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name, "00:00")
    found = re.fullmatch(r"([01][0-9]|2[0-4]):([0-5][0-9])", value) if type(value) is str else None
    minute = int(found[1]) * 60 + int(found[2]) if found else _DAY_MINUTES + 1
    if minute > (_DAY_MINUTES if name == "to" else _DAY_MINUTES - 1):
        raise BadWindow(f'has a {name} that is no time of day like "07:00"')
    return minute
