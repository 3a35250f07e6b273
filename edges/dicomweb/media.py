"""Media types and what a client takes of them (RFC 9110 section 12.5.1, PS3.18 section 8.7).

Clients in use write `type=` with and without quotation marks, and `transfer-syntax=*`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DICOM = "application/dicom"
JSON = "application/dicom+json"
OCTETS = "application/octet-stream"
PNG = "image/png"
RELATED = "multipart/related"

_OF_SYNTAX = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), "image/jls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)), "image/jphc"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)), "image/jxl"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (100, 101)), "video/mpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in range(102, 107)), "video/mp4"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (107, 108)), "video/H265"),
}
"""The media type of frames of a compressed transfer syntax (PS3.18 table 8.7.3-2 and on)."""

_MOST_RANGES = 64
_PART = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^;,"]*))')
_NAME = re.compile(r"\s*([^=;,\s\"]+)\s*=")


@dataclass(frozen=True, slots=True)
class MediaRange:
    """A media type, or a range of them.

    Attributes:
        kind: type and subtype, lower case; either may be `*`.
        parameters: by name, lower case, without quotation marks.
    """

    kind: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        """How much it is liked, 0 to 1; 0 is not taken."""
        try:
            return min(1.0, max(0.0, float(self.parameters.get("q", "1"))))
        except ValueError:
            return 1.0


@dataclass(frozen=True, slots=True)
class Offer:
    """What a resource can be given as.

    Attributes:
        kind: the media type.
        syntax: UID of its transfer syntax; "" where there is none.
        named_only: whether it is only given to whom names a transfer syntax, or `*`.
    """

    kind: str
    syntax: str = ""
    named_only: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """An offer that the client takes, in a multipart body or by itself."""

    offer: Offer
    is_multipart: bool


def read_media(text: str) -> list[MediaRange]:
    """The ranges of an `Accept` header, or the one type of a `Content-Type`, in order."""
    found: list[MediaRange] = []
    position = 0
    while position < len(text) and len(found) < _MOST_RANGES:
        kind, position = _value(text, position)
        parameters: dict[str, str] = {}
        while position < len(text) and text[position] == ";":
            position += 1
            named = _NAME.match(text, position)
            if named is None:
                _, position = _value(text, position)
                continue
            value, position = _value(text, named.end())
            parameters.setdefault(named[1].lower(), value)
        if kind:
            found.append(MediaRange(kind.lower(), parameters))
        # What stands before the next comma cannot be read.
        while position < len(text) and text[position] != ",":
            position += 1
        position += 1
    return found


def _value(text: str, position: int) -> tuple[str, int]:
    match = _PART.match(text, position)
    assert match is not None
    if match[1] is not None:
        end = match.end()
        while end < len(text) and text[end] in " \t":
            end += 1
        return re.sub(r"\\(.)", r"\1", match[1]), end
    return match[2].strip(), match.end()


def choose(
    accepted: Sequence[MediaRange], offers: Sequence[Offer], *, single: bool, multipart: bool = True
) -> Chosen | None:
    """The first offer that fits what the client likes most; None if it takes none.

    Args:
        accepted: what it takes; nothing means anything.
        offers: in the order of our liking.
        single: whether an answer can be without parts.
        multipart: whether it can be in parts, which then is our choice for who takes anything.
    """
    ranges = sorted(accepted, key=lambda one: -one.quality) or [MediaRange("*/*")]
    for one in ranges:
        if one.quality == 0:
            continue
        for offer in offers:
            if one.kind == RELATED:
                if multipart and _fits(one.parameters.get("type", "*/*"), one, offer):
                    return Chosen(offer, True)
            elif one.kind == "*/*" and _fits("*/*", one, offer):
                return Chosen(offer, multipart)
            elif single and _fits(one.kind, one, offer):
                return Chosen(offer, False)
    return None


def _fits(kind: str, one: MediaRange, offer: Offer) -> bool:
    kind = kind.lower()
    main, _, sub = offer.kind.partition("/")
    wanted_main, _, wanted_sub = kind.partition("/")
    is_kind = wanted_main in ("*", main) and wanted_sub in ("*", sub.lower())
    syntax = one.parameters.get("transfer-syntax", "")
    if not syntax:
        # Who takes anything does not read numbers as pixels by mistake.
        return is_kind and (not offer.named_only or kind == "*/*")
    return is_kind and (syntax == "*" or not offer.syntax or syntax == offer.syntax)


def frame_offers(syntax: str, *, is_native: bool) -> list[Offer]:
    """What frames of a transfer syntax can be given as."""
    if is_native:
        return [Offer(OCTETS, syntax)]
    kind = _OF_SYNTAX.get(syntax)
    own = [Offer(kind, syntax)] if kind else []
    return [*own, Offer(OCTETS, syntax, named_only=True)]
