"""How much work a bundle may make, so that a small file cannot keep its reader busy.

One unit is about what one byte of a plain entry costs: unpacking, matching and hashing it,
some 16 ns. What is dearer is counted as so many bytes. The numbers were measured
(`tests/bench/hostile.py` prints seconds), and what our nodes write stays far below:
each entry brings 32 bytes of `leaves` that do not compress, each receipt 128 bytes of
signatures, each opening a salt and a hash.
"""

WORK_BASE = 32_000_000
"""Units that any bundle may make, whatever its size: half a second."""

WORK_PER_BYTE = 64
"""Units for each byte of the bundle: about a second for a megabyte."""

SIGNATURE = 4_000
"""Units of one check of a signature over a short text: 60 us."""

_OBJECT = 600
_VALUE = 20
"""Units of decoding JSON and encoding it again: for an object, and each value in it."""

_SIGNATURE_LINE = b"\n\xe2\x80\x94 "
_HASHED_BYTES = 4
"""Bytes of a signed text that are hashed for one unit."""


class Work:
    """What is left of the work that a bundle may make.

    Args:
        file_bytes: size of the bundle.
    """

    def __init__(self, file_bytes: int) -> None:
        self._left = WORK_BASE + WORK_PER_BYTE * file_bytes

    def spend(self, units: int) -> bool:
        """Count so many units; returns whether they were left."""
        self._left -= units
        return self._left >= 0


def json_work(data: bytes) -> int:
    """Units of reading a JSON text that is not plain."""
    return _OBJECT + _VALUE * (data.count(b",") + data.count(b"["))


def note_work(data: bytes) -> int:
    """Units of checking what a small file holds: JSON, or a note with its signatures."""
    signatures = 1 + data.count(_SIGNATURE_LINE)
    return json_work(data) + signatures * (SIGNATURE + len(data) // _HASHED_BYTES)
