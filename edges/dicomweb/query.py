"""The parameters of a search (PS3.18 section 8.3.4 and 10.6.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from edges.dicomweb.attributes import ATTRIBUTES, Attribute, attribute
from edges.dicomweb.paths import Level

LIMIT = 1000
"""Most rows of one answer, and as many as there are without a wish."""

MOST_OFFSET = 100_000
"""Most rows that are left out: they have to be found, too."""

MOST_PARAMETERS = 100
MOST_CHARACTERS = 256 * 64
"""Longest value: a list of UIDs."""


class BadQuery(Exception):
    """The parameters cannot be understood; the text is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is searched.

    Attributes:
        wishes: by attribute, what its value shall be; empty ones are left out.
        included: attributes that shall be listed beside the usual ones.
        is_all: whether all that is known shall be listed.
        limit, offset: how many rows, and how many are left out before them.
        fuzzy: whether names are found by the beginnings of their words.
        unknown: names of parameters that cannot be searched by, as the client wrote them.
    """

    wishes: Mapping[Attribute, str] = field(default_factory=dict)
    included: tuple[Attribute, ...] = ()
    is_all: bool = False
    limit: int = LIMIT
    offset: int = 0
    fuzzy: bool = False
    unknown: tuple[str, ...] = ()

    def wish(self, keyword: str) -> str:
        """What an attribute shall be; "" for anything."""
        return next((text for one, text in self.wishes.items() if one.keyword == keyword), "")

    def columns(self, level: Level, *, above: bool) -> list[Attribute]:
        """What is listed of each row.

        Args:
            level: what is listed.
            above: whether what belongs to the study or series above is listed with it.
        """
        return [
            one
            for one in ATTRIBUTES
            if one.level <= level
            and (
                one in self.included
                or one in self.wishes
                or one.keyword in ("StudyInstanceUID", "SeriesInstanceUID", "RetrieveURL")
                or (
                    (one.by_default or self.is_all) and (one.level == level or above or self.is_all)
                )
            )
        ]


def read_query(text: str) -> Query:
    """The parameters after the `?` of a request.

    Raises:
        BadQuery: they cannot be understood.
    """
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, max_num_fields=MOST_PARAMETERS, errors="strict"
        )
    except ValueError:
        raise BadQuery("the parameters are too many, or no UTF-8") from None
    wishes: dict[Attribute, str] = {}
    included: list[Attribute] = []
    unknown: list[str] = []
    numbers = {"limit": LIMIT, "offset": 0}
    flags = {"fuzzymatching": False}
    is_all = False
    for name, value in pairs:
        if len(value) > MOST_CHARACTERS:
            raise BadQuery("a parameter is too long")
        known = attribute(name)
        if known is not None:
            if known in wishes and wishes[known] != value:
                raise BadQuery(f"{known.keyword} is asked for twice")
            wishes[known] = value
        elif name == "includefield":
            for field_name in value.split(","):
                found = attribute(field_name.strip())
                is_all = is_all or field_name.strip().lower() == "all"
                if found is not None:
                    included.append(found)
        elif name in numbers:
            if not value.isascii() or not value.isdigit() or len(value) > 9:
                raise BadQuery(f"{name} is no number")
            numbers[name] = int(value)
        elif name.lower() in flags:
            flags[name.lower()] = value.lower() == "true"
        elif name not in ("accept", "charset"):
            unknown.append(name)
    if numbers["offset"] > MOST_OFFSET:
        raise BadQuery(f"offset is at most {MOST_OFFSET}")
    return Query(
        wishes={one: wish for one, wish in wishes.items() if wish.strip()},
        included=(*included, *wishes),
        is_all=is_all,
        limit=min(numbers["limit"], LIMIT),
        offset=numbers["offset"],
        fuzzy=flags["fuzzymatching"],
        unknown=tuple(unknown),
    )


def accept_of(text: str) -> str:
    """The parameter `accept`, which stands for the header of that name (PS3.18 section 8.3.3.1)."""
    try:
        pairs = parse_qsl(text, max_num_fields=MOST_PARAMETERS)
    except ValueError:
        return ""
    return next((value for name, value in pairs if name == "accept"), "")
