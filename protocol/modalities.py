"""Modalities as they go to peers: one rule for who takes images in and who fetches them.

An ingest brings them into this form, a source says nothing else, and what a recipient
reads of the same bytes is the same, so that nothing that was taken can be refused. The
decoders of manifests and announcements take at least this.
"""

import re
from collections.abc import Iterable

from protocol import limits

_NOT_CODE = re.compile(r"[^\x21-\x7e]+")


def clean(text: str) -> str:
    """A Modality (0008,0060) as it may be told: printable ASCII, bounded.

    A Code String has capitals, digits, blanks and underscores. What else is printable in
    ASCII is let through, since real files have it; what is printable beyond ASCII differs
    among the editions of Unicode that two nodes may know.
    """
    return _NOT_CODE.sub(" ", text).strip()[: limits.MODALITY_CHARACTERS].rstrip()


def of_study(found: Iterable[str]) -> tuple[str, ...]:
    """The modalities of a study as a record names them, in alphabetical order."""
    told = sorted({clean(text) for text in found} - {""})
    return tuple(told[: limits.MODALITIES])
