"""Persons' names as people write and search them: one folding for all comparisons.

A name in DICOM has up to three groups (alphabetic, ideographic, phonetic), separated by `=`, and
each group has up to five components separated by `^`: family name, given name, middle name, prefix
and suffix (PS3.5 section 6.2.1). Only the alphabetic group is compared, without prefix and suffix.
Folded, a word has no case, no accents and no marks. An umlaut is written in two ways (`Muller` and
`Mueller` for `Müller`), so a word has one or two forms, and two words are the same if they share
one.
"""

import functools
import unicodedata

FAMILY, GIVEN = "family", "given"

Word = frozenset[str]
"""The forms of one word."""

_SHORT = str.maketrans(
    {"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)
_LONG = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_APOSTROPHES = str.maketrans(dict.fromkeys("'`´ʹʻʼ‘’′", ""))
"""An apostrophe belongs to its word: O'Brien is OBrien."""


def folded(name: str) -> str:
    """A person's whole name for comparison: its words, of each the form without `e`."""
    return " ".join(_fold(name.partition("=")[0]))


def parts(name: str) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """The words of the family name, and those of given and middle name.

    A name without components (`Anna Muller`) has all of its words in both; a comma separates the
    two as `^` does.
    """
    alphabetic = name.partition("=")[0]
    if "^" in alphabetic:
        family, given, middle = [*alphabetic.split("^"), "", ""][:3]
        return words(family), words(f"{given} {middle}")
    family, comma, given = alphabetic.partition(",")
    if comma:
        return words(family), words(given)
    return words(alphabetic), words(alphabetic)


@functools.lru_cache(maxsize=4096)
def words(text: str) -> tuple[Word, ...]:
    """The words of a text, in their order."""
    pairs = zip(_fold(text), _fold(_composed(text).translate(_LONG)), strict=True)
    return tuple(frozenset(pair) for pair in pairs)


def is_whole(name: str) -> bool:
    """Whether a name has a family name and a given name."""
    alphabetic = name.partition("=")[0]
    return ("^" in alphabetic or "," in alphabetic) and all(parts(name))


def same(one: str, other: str) -> bool:
    """Whether two names are the same, word by word: all of family, given and middle name."""
    return all(
        len(mine) == len(theirs) and all(a & b for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(parts(one), parts(other), strict=True)
    )


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _fold(text: str) -> tuple[str, ...]:
    plain = _composed(text.translate(_APOSTROPHES))
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", plain).casefold())
    bare = "".join(one for one in letters if not unicodedata.combining(one)).translate(_SHORT)
    return tuple("".join(one if one.isalnum() else " " for one in bare).split())
