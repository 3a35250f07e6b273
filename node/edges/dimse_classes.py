"""Which SOP classes are taken, and in which transfer syntaxes."""

VERIFICATION = "1.2.840.10008.1.1"

_STANDARD = "1.2.840.10008."
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_OTHER_STORAGE = frozenset(
    f"{_STANDARD}5.1.{suffix}"
    for suffix in ("1.27", "1.29", "1.30", "4.34.7", "4.34.10", "4.38.1", "4.39.1", "4.43.1",
                   "4.44.1", "4.45.1")
)  # fmt: skip
"""Storage classes of PS3.4 annexes B and GG that have another root than most."""

_NO_STORAGE = frozenset(
    f"{_STORAGE_ROOT}{suffix}"
    for suffix in ("200.4", "200.5", "200.6", "201.2", "201.3", "201.4", "201.5", "201.6")
)
"""Classes with that root to query, retrieve and create protocols and inventories."""


def is_storage(sop_class: str) -> bool:
    """Whether a SOP class is one to store: of the standard, or one of a vendor."""
    if not sop_class.startswith(_STANDARD):
        # What vendors propose to whoever stores images are classes of images of theirs.
        return True
    if sop_class.startswith(_STORAGE_ROOT):
        return sop_class not in _NO_STORAGE
    return sop_class in _OTHER_STORAGE


def supported(sop_class: str, transfer_syntax: str) -> bool:
    """Whether a SOP class is taken: an image in any syntax, as its bytes are not looked into."""
    return sop_class == VERIFICATION or is_storage(sop_class)
