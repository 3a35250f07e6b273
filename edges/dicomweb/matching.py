"""Whether a value is one that a search asks for, as clients of DICOMweb write it; PS3.18 8.3.4."""

import re
from collections.abc import Sequence

from edges.dicomweb.attributes import Kind
from edges.matching import matcher, range_of

_SEVERAL = re.compile(r"[,\\]")
_WILD = re.compile(r"[*?]")

_VRS = {
    Kind.UID: "UI",
    Kind.DATE: "DA",
    Kind.TIME: "TM",
    Kind.NAME: "PN",
    Kind.TEXT: "LO",
    Kind.CODE: "CS",
    Kind.NUMBER: "IS",
}


def fits(kind: Kind, wanted: str, values: Sequence[str]) -> bool:
    """Whether one of the values is wanted; an empty wish, or `*`, takes all, also none.

    Args:
        kind: how they are compared.
        wanted: what the client wrote.
        values: what an attribute says.
    """
    if kind is Kind.NONE:
        return True
    key = wanted.strip()
    if kind in (Kind.UID, Kind.CODE):
        key = "\\".join(several(key))
    elif kind is Kind.DATE:
        key = key.replace("/", "")
    elif kind is Kind.TEXT:
        key, values = key.casefold(), [one.casefold() for one in values]
    return matcher(_VRS[kind], key)(values)


def several(wanted: str) -> tuple[str, ...]:
    """The values of a list; clients in use separate them by commas or backslashes."""
    return tuple(part.strip() for part in _SEVERAL.split(wanted) if part.strip())


def date_range(wanted: str) -> tuple[str, str] | None:
    """First and last date of a wish, YYYYMMDD, "" for open; None if it is no date."""
    return range_of("DA", wanted.replace("/", ""))


def literal_beginning(wanted: str) -> str:
    """What a wish with wildcards surely begins with."""
    return _WILD.split(wanted, maxsplit=1)[0]


def has_wildcards(wanted: str) -> bool:
    """Whether a wish has `*` or `?`."""
    return _WILD.search(wanted) is not None
