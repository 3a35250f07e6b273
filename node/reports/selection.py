"""A selection of entries of the log, and how people write it."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from node.errors import ExitCode, NodeError

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ZONED = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A part of the log; an attribute that is empty or None excludes nothing.

    Attributes:
        since: first moment, milliseconds since the epoch, UTC.
        until: first moment that is too late, milliseconds since the epoch, UTC.
        peer: facility key (hex) of the other side.
        study: Study Instance UID.
        patient: identity, or a Patient ID that stands for it with any issuer.
        person: name of the person who asked.
        types: entry types.
    """

    since: int | None = None
    until: int | None = None
    peer: str = ""
    study: str = ""
    patient: str = ""
    person: str = ""
    types: frozenset[str] = frozenset()


def parse_moment(text: str, *, end: bool) -> int:
    """Read a moment that a person wrote, as milliseconds since the epoch.

    Args:
        text: `2026-11-24` is a day of UTC; `2026-11-24T09:30Z` and
            `2026-11-24T10:30:00+01:00` are moments.
        end: a day means its end, which is the beginning of the next.

    Raises:
        NodeError: the text is neither a day nor a moment.
    """
    wanted = text.strip()
    try:
        if _DATE.fullmatch(wanted):
            moment = datetime.fromisoformat(wanted).replace(tzinfo=UTC) + timedelta(days=int(end))
        elif _ZONED.fullmatch(wanted):
            moment = datetime.fromisoformat(wanted)
        else:
            raise ValueError
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise NodeError(
            f"{text!r} is no date or time",
            hint="write a day of UTC, 2026-11-24, or a time with its zone, "
            "2026-11-24T09:30Z or 2026-11-24T10:30+01:00",
            code=ExitCode.USAGE,
        ) from None
