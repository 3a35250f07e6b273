"""Reasons for discarding images: the DICOM codes that IHE IOCM uses (PS3.16 CID 7011).

Images that are discarded because of an error are recalled from the peers that were told of
them, and are not accepted again. Images removed by retention may come back
(docs/protocol.md section 4.3).
"""

QUALITY, PATIENT_SAFETY, WRONG_WORKLIST, RETENTION = "113001", "113037", "113038", "113039"

REASONS = {
    "quality": QUALITY,
    "patient-safety": PATIENT_SAFETY,
    "wrong-patient": WRONG_WORKLIST,
    "retention": RETENTION,
}
"""The words on the command line for the codes."""

MEANINGS = {
    QUALITY: "quality",
    PATIENT_SAFETY: "patient safety",
    WRONG_WORKLIST: "wrong patient",
    RETENTION: "retention has ended",
}
"""The meanings of the codes, for people."""

REJECTED = frozenset((QUALITY, PATIENT_SAFETY, WRONG_WORKLIST))
"""Codes for images that are wrong and are not accepted again."""


def meaning(code: str) -> str:
    """The meaning of a code for people; a code of a later release is returned unchanged."""
    return MEANINGS.get(code, f"code {code}")
