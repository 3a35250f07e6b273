"""Why images are discarded, in the codes of DICOM that IHE IOCM uses (PS3.16 CID 7011).

What is discarded because it is wrong is recalled from the peers that were told of it, and
not taken again. What retention removes may come back (docs/protocol.md section 4.3).
"""

QUALITY, PATIENT_SAFETY, WRONG_WORKLIST, RETENTION = "113001", "113037", "113038", "113039"

REASONS = {
    "quality": QUALITY,
    "patient-safety": PATIENT_SAFETY,
    "wrong-patient": WRONG_WORKLIST,
    "retention": RETENTION,
}
"""The words of the command line."""

MEANINGS = {
    QUALITY: "quality",
    PATIENT_SAFETY: "patient safety",
    WRONG_WORKLIST: "wrong patient",
    RETENTION: "retention has ended",
}
"""What the codes say, for people."""

REJECTED = frozenset((QUALITY, PATIENT_SAFETY, WRONG_WORKLIST))
"""Codes of what is wrong, and is not taken again."""


def meaning(code: str) -> str:
    """A code for people; one that a later release made stays as it is."""
    return MEANINGS.get(code, f"code {code}")
