"""The head of a Part 10 file around a data set that came over the network; PS3.10 section 7.1.

Nothing in it differs from one transfer to the next: the same data set gives the same file, so that
what is sent twice is known. By hand, since pydicom's writer takes a millisecond for each.
"""

import struct

from edges.dimse.negotiation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION


def file_head(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Preamble, prefix and file meta information; the data set follows it as it came."""
    meta = b"".join(
        (
            struct.pack("<HH2sxxL", 2, 0x0001, b"OB", 2) + b"\0\1",
            _element(0x0002, b"UI", sop_class),
            _element(0x0003, b"UI", sop_instance),
            _element(0x0010, b"UI", transfer_syntax),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta


def _element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
