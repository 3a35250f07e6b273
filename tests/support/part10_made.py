"""DICOM files built byte by byte for tests, and the reading of them."""

import io
import struct
import zlib
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from node.dicom import elements, studies
from node.dicom.studies import BadInstance

STUDY = "1.2.826.0.1.3680043.8.498.7"


def _reader(data: bytes) -> elements.Read:
    return lambda offset, length: data[offset : offset + length]


def read(data: bytes, name: str = "") -> studies.InstanceHeader:
    return studies.read_dataset(_reader(data), len(data), name)


def saved(dataset: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = bytes(dataset.PixelData)
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def sample(name: str) -> bytes:
    return Path(pydicom.data.get_testdata_file(name, download=False)).read_bytes()


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + b"\0\0" + struct.pack("<I", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


RAW_DATA = b"1.2.840.10008.5.1.4.1.1.66"
"""A storage class of which no pixels are asked (PS3.4 section B.5)."""
CT_IMAGE = b"1.2.840.10008.5.1.4.1.1.2\0"


def implicit_element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def meta(syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    return (
        bytes(128)
        + b"DICM"
        + element(0x00020002, b"UI", RAW_DATA)
        + element(0x00020003, b"UI", b"1.2.3.4\0")
        + element(0x00020010, b"UI", syntax)
    )


META = meta()
IDENTITY = (
    element(0x00080016, b"UI", RAW_DATA)
    + element(0x00080018, b"UI", b"1.2.3.4\0")
    + element(0x0020000D, b"UI", b"1.2.3.5\0")
    + element(0x0020000E, b"UI", b"1.2.3.6\0")
)
SMALL = META + IDENTITY


def bad(data: bytes, reason: str) -> None:
    with pytest.raises(BadInstance, match=reason):
        read(data)


def open_sequence(tag: int = 0x00081140, vr: bytes = b"SQ") -> bytes:
    return struct.pack("<HH2s2xI", tag >> 16, tag & 0xFFFF, vr, 0xFFFFFFFF)


OPEN_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
END_ITEM = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
END_SEQUENCE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def deflated(body: bytes, tail: bytes = b"") -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = compress.compress(body) + compress.flush()
    return meta(b"1.2.840.10008.1.2.1.99") + packed + tail
