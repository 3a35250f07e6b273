"""Which value representation an element has that does not say it (PS3.6, and what makers publish).

One of two files that import pydicom; `texts` is the other.
"""

import functools

import pydicom.datadict

UNKNOWN = "UN"
_CREATORS = range(0x10, 0x100)
"""Elements of a private group that name the creator of a block (PS3.5 section 7.8.1)."""

_CHOICES = {"OB or OW": "OW", "US or SS or OW": "OW", "US or OW": "OW", "NONE": UNKNOWN}
"""What Implicit VR files hold where the standard leaves a choice (PS3.5 annex A.1)."""


@functools.lru_cache(maxsize=16384)
def vr_of(tag: int, creator: str = "", *, signed: bool = False) -> str:
    """The value representation of an element; `UN` if it is not known.

    Args:
        tag: of the element.
        creator: who has reserved the block of a private element; "" if that is not said.
        signed: whether the pixels are signed numbers (Pixel Representation), and so what may be
            `US` or `SS`.
    """
    if tag & 0xFFFF == 0:
        return "UL"
    if is_private(tag):
        return _of_private(tag, creator)
    try:
        found = pydicom.datadict.dictionary_VR(tag)
    except KeyError:
        return UNKNOWN
    if found == "US or SS":
        return "SS" if signed else "US"
    return _CHOICES.get(found, found)


def is_private(tag: int) -> bool:
    """Whether an element is of a maker."""
    return bool(tag >> 16 & 1)


def is_creator(tag: int) -> bool:
    """Whether a private element names the creator of a block."""
    return is_private(tag) and tag & 0xFFFF in _CREATORS


def _of_private(tag: int, creator: str) -> str:
    if is_creator(tag):
        return "LO"
    if not creator:
        return UNKNOWN
    try:
        found = pydicom.datadict.private_dictionary_VR(tag, creator)
    except KeyError:
        return UNKNOWN
    return _CHOICES.get(found, found) if found != "US or SS" else "US"
