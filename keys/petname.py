"""Petnames: our own names for peers, which people must be able to tell apart.

Two names look alike when they are equal after: NFKC (Unicode standard annex 15), the
table below, the case folded, marks that cannot be seen dropped, and 0, 1, i and | read
as o and l. The table has the Cyrillic, Greek and Latin letters that many fonts draw like
another letter. It follows the skeletons of Unicode technical standard 39, but is far
shorter, since hospitals have names in few scripts.
"""

import unicodedata

from keys.card_fields import is_name

_ALIKE = str.maketrans(
    # Cyrillic, capitals and small letters; then Greek; then Latin.
    "АВЕЅІЈКМНОРСТУҮХԌԚԜЁЇ" "авеѕіјкмнорстуүхԁԛԝһӏгпьёї"
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" "αβγεηικνορστυχω" "ıɑɡɩǀ",
    "ABESIJKMHOPCTYYXGQWËÏ" "abesijkmhopctyyxdqwhlrnbëï"
    "ABEZHIKMNOPTYX" "abyenikvopotuxw" "iagil",
)  # fmt: skip
_ALIKE_FOLDED = str.maketrans("01i|", "olll")

_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
"""Hangul fillers: letters to Unicode, but nothing is drawn."""


_INVISIBLE = frozenset(
    chr(code)
    for first, last in (
        (0x034F, 0x034F),  # combining grapheme joiner
        (0x17B4, 0x17B5),  # Khmer inherent vowels
        (0x180B, 0x180D),  # Mongolian variation selectors
        (0x180F, 0x180F),
        (0x2800, 0x2800),  # the Braille pattern without dots
        (0xFE00, 0xFE0F),  # variation selectors
        (0xE0100, 0xE01EF),
    )
    for code in range(first, last + 1)
)
"""Printable to Unicode, but nothing is drawn."""


def is_petname(text: str) -> bool:
    """Whether the text can be a petname: a name (`is_name`) with a visible letter or digit."""
    shown = (letter for letter in text if letter not in _BLANK_LETTERS)
    return is_name(text) and any(unicodedata.category(letter)[0] in "LN" for letter in shown)


def folded(name: str) -> str:
    """The form in which petnames are compared and looked up: without case and double spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def look_alike(name: str, other: str) -> bool:
    """Whether people might take one name for the other."""
    return _skeleton(name) == _skeleton(other)


def _skeleton(name: str) -> str:
    seen = unicodedata.normalize("NFKC", name).translate(_ALIKE)
    return folded("".join(filter(_is_drawn, folded(seen)))).translate(_ALIKE_FOLDED)


def _is_drawn(letter: str) -> bool:
    return letter not in _INVISIBLE and letter not in _BLANK_LETTERS
