"""Modalities as sent to peers: the same rule for ingest, source and recipient.

Ingest brings modalities into this form, a source sends no other, and a recipient derives
the same from the same bytes. So a recipient never refuses an instance that the source took
in. The decoders of manifests and announcements accept at least this form.
"""

import re
from collections.abc import Iterable

from protocol import limits

_NOT_CODE = re.compile(r"[^\x21-\x7e]+")


def clean(text: str) -> str:
    """A Modality (0008,0060) as it may be sent: printable ASCII of limited length.

    A Code String has capitals, digits, blanks and underscores. Other printable ASCII is
    accepted, since real files have it. Characters beyond ASCII are not: whether one is
    printable depends on the Unicode version, which may differ between two nodes.
    """
    return _NOT_CODE.sub(" ", text).strip()[: limits.MODALITY_CHARACTERS].rstrip()


def of_study(found: Iterable[str]) -> tuple[str, ...]:
    """The modalities of a study for its record, in alphabetical order."""
    told = sorted({clean(text) for text in found} - {""})
    return tuple(told[: limits.MODALITIES])
