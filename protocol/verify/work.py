"""A limit on the work that a bundle may cause, so that a small file cannot keep its reader busy.

One unit is about the cost of one byte of a plain entry: unpacking, matching and hashing it,
some 16 ns. Dearer steps count as several units. The numbers were measured
(`tests/bench/hostile.py` prints seconds). Bundles from our nodes stay far below the limit,
because much of them does not compress: 32 bytes of `leaves` for each entry, 128 bytes of
signatures for each receipt, a salt and a hash for each opening.
"""

WORK_BASE = 32_000_000
"""Units that a bundle of any size may cause: half a second."""

WORK_PER_BYTE = 64
"""Further units for each byte of the bundle: about a second for a megabyte."""

SIGNATURE = 4_000
"""Units for checking one signature over a short text: 60 us."""

_OBJECT = 600
_VALUE = 20
"""Units for decoding JSON and encoding it again: for an object, and for each value in it."""

_SIGNATURE_LINE = b"\n\xe2\x80\x94 "
_HASHED_BYTES = 4
"""How many bytes of a signed text are hashed for one unit."""


class Work:
    """The work that a bundle may still cause.

    Args:
        file_bytes: size of the bundle.
    """

    def __init__(self, file_bytes: int) -> None:
        self._left = WORK_BASE + WORK_PER_BYTE * file_bytes

    def spend(self, units: int) -> bool:
        """Spend units; returns whether enough were left."""
        self._left -= units
        return self._left >= 0


def json_work(data: bytes) -> int:
    """Units for reading a JSON text that is not plain."""
    return _OBJECT + _VALUE * (data.count(b",") + data.count(b"["))


def note_work(data: bytes) -> int:
    """Units for checking the content of a small file: JSON, or a note with its signatures."""
    signatures = 1 + data.count(_SIGNATURE_LINE)
    return json_work(data) + signatures * (SIGNATURE + len(data) // _HASHED_BYTES)
