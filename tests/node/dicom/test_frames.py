"""Frames straight from originals, and pictures of native ones."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pydicom.encaps
import pytest
from part10_made import saved
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from studies_made import make_instance

from node.dicom import frames
from node.dicom.frames import EXPLICIT, Image, NoFrames, read_image
from node.dicom.part10 import reader_of
from node.dicom.rendering import Window, render


def _image(data: bytes) -> Image:
    return read_image(reader_of(data), len(data))


def _encapsulated(
    contents: list[list[bytes]], *, offsets: bool, said: int | None = None
) -> pydicom.Dataset:
    """An image whose frames have these fragments."""
    made = make_instance("1.2.3", 1, rows=8)
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    if (said or len(contents)) > 1:
        made.NumberOfFrames = said or len(contents)
    table, place = b"", 0
    for one in contents:
        table += struct.pack("<L", place)
        place += sum(8 + len(fragment) for fragment in one)
    body = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(table) if offsets else 0)
    body += table if offsets else b""
    for fragment in (each for one in contents for each in one):
        body += b"\xfe\xff\x00\xe0" + struct.pack("<L", len(fragment)) + fragment
    made.PixelData = body
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return made


def _written(made: pydicom.Dataset) -> bytes:
    return saved(made, made.file_meta.TransferSyntaxUID)


A, B, C = b"\xff\xd8aaaa", b"bbbbbb", b"\xff\xd8cc"


@pytest.mark.parametrize(
    ("contents", "offsets"),
    [
        ([[A, B]], False),
        ([[A], [C]], False),
        ([[A, B], [C]], True),
        ([[b"no", B], [b"mark"]], True),
        # No table, and more fragments than frames: a frame of JPEG begins with its mark.
        ([[A, B], [C, B]], False),
    ],
)
def test_the_fragments_of_a_frame(contents: list[list[bytes]], offsets: bool) -> None:
    image = _image(_written(_encapsulated(contents, offsets=offsets)))
    assert image.transfer_syntax == JPEGBaseline8Bit
    assert [image.frame(n) for n in range(image.frames)] == [b"".join(one) for one in contents]


def test_frames_by_an_extended_offset_table() -> None:
    made = _encapsulated([[b"no", B], [b"mark"]], offsets=False)
    made.ExtendedOffsetTable = struct.pack("<QQ", 0, 2 + len(B) + 16)
    made.ExtendedOffsetTableLengths = struct.pack("<QQ", 8, 4)
    image = _image(_written(made))
    assert [image.frame(n) for n in range(2)] == [b"no" + B, b"mark"]


def test_frames_of_which_nobody_can_tell_where_they_begin() -> None:
    with pytest.raises(NoFrames, match="cannot be told"):
        _image(_written(_encapsulated([[b"no", B], [b"mark"]], offsets=False)))
    with pytest.raises(NoFrames, match="no pixels"):
        _image(_written(_encapsulated([[]], offsets=False)))


def test_native_frames_are_slices() -> None:
    made = make_instance("1.2.3", 1, rows=16, frames=3)
    image = _image(_written(made))
    assert (image.frames, image.transfer_syntax) == (3, EXPLICIT)
    assert b"".join(image.frame(n) for n in range(3)) == made.PixelData
    for number in (-1, 3):
        with pytest.raises(NoFrames, match="3 frames"):
            image.frame(number)


def test_native_frames_are_little_endian() -> None:
    made = make_instance("1.2.3", 1, rows=8)
    pixels = np.frombuffer(made.PixelData, "<u2")
    made.PixelData = pixels.astype(">u2").tobytes()
    assert _image(saved(made, ExplicitVRBigEndian)).frame(0) == pixels.tobytes()


@pytest.mark.parametrize("frames_made", [1, 3])
def test_packed_bits_are_cut_where_a_frame_begins(frames_made: int) -> None:
    made = make_instance("1.2.3", 1, rows=5)
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = 0
    made.NumberOfFrames = frames_made
    bits = np.random.default_rng(1).integers(0, 2, frames_made * 25, dtype=np.uint8)
    made.PixelData = np.packbits(bits, bitorder="little").tobytes() + b"\0" * (frames_made % 2)
    image = _image(_written(made))
    for number in range(frames_made):
        got = np.unpackbits(np.frombuffer(image.frame(number), np.uint8), bitorder="little")
        assert got[:25].tolist() == bits[number * 25 : number * 25 + 25].tolist()


def test_pixels_that_are_fewer_than_said_are_refused() -> None:
    made = make_instance("1.2.3", 1, rows=16)
    made.Rows = 17
    with pytest.raises(NoFrames, match="fewer"):
        _image(_written(made)).frame(0)


def test_a_frame_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(_written(make_instance("1.2.3", 1, rows=16)))
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 511)
    with pytest.raises(NoFrames, match="too large"):
        image.frame(0)


def test_what_has_no_pixels_has_no_frames() -> None:
    made = make_instance("1.2.3", 1)
    del made.PixelData
    with pytest.raises(NoFrames, match="no pixels"):
        _image(_written(made))


@pytest.mark.slow
def test_the_frames_of_all_sample_files_as_pydicom_cuts_them(shared: Path) -> None:
    encapsulated = native = 0
    for path in sorted(path for path in (shared / "data").rglob("*") if path.is_file()):
        data = path.read_bytes()
        if data[128:132] != b"DICM" or "broken" in path.parts:
            continue
        try:
            image = _image(data)
        except NoFrames:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
        got = [image.frame(number) for number in range(image.frames)]
        if image.native is None:
            cut = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=image.frames)
            assert got == list(cut), path
            encapsulated += 1
        elif dataset.BitsAllocated > 1 and not dataset.get("PlanarConfiguration"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = dataset.pixel_array
            whole = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
            assert b"".join(got) == whole[: len(b"".join(got))], path
            native += 1
    assert encapsulated > 20
    assert native > 500


# --- pictures ---------------------------------------------------------------------------


def _pixels(png: bytes) -> np.ndarray:  # type: ignore[type-arg]
    """The pixels of a PNG of ours, which has no filters."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    columns, rows, depth, colour = struct.unpack(">LLBB", png[16:26])
    assert depth == 8
    samples = {0: 1, 2: 3}[colour]
    at, body = 8, b""
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert int.from_bytes(png[at + 8 + length : at + 12 + length], "big") == zlib.crc32(
            kind + content
        )
        body += content if kind == b"IDAT" else b""
        at += 12 + length
    lines = np.frombuffer(zlib.decompress(body), np.uint8).reshape(rows, 1 + columns * samples)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(rows, columns, samples)


def _ramp(**changes: object) -> pydicom.Dataset:
    made = make_instance("1.2.3", 1, rows=16)
    made.PixelData = np.arange(256, dtype="<u2").tobytes()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_window_makes_values_shades() -> None:
    # PS3.3 C.11.2.1.2.1: centre 128, width 256 takes 0 to 0 and 255 to 255.
    image = _image(_written(_ramp(WindowCenter="128", WindowWidth="256")))
    shown = _pixels(render(image, 0, None, None))[:, :, 0]
    assert shown.ravel().tolist() == list(range(256))
    narrow = _pixels(render(image, 0, Window(100, 2), None))[:, :, 0].ravel()
    assert (narrow[:99] == 0).all()
    assert (narrow[101:] == 255).all()
    smooth = _pixels(render(image, 0, Window(128, 64, "sigmoid"), None))[:, :, 0].ravel()
    assert smooth[128] == 128
    assert (np.diff(smooth.astype(int)) >= 0).all()


def test_without_a_window_all_values_are_shown() -> None:
    shown = _pixels(render(_image(_written(_ramp())), 0, None, None)).ravel()
    assert (shown[0], shown[-1]) == (0, 255)


def test_values_are_rescaled_and_inverted() -> None:
    changes = {"RescaleSlope": "2", "RescaleIntercept": "-100", "WindowCenter": "156",
               "WindowWidth": "512"}  # fmt: skip
    shown = _pixels(render(_image(_written(_ramp(**changes))), 0, None, None)).ravel()
    assert shown[128] == 128
    inverted = _ramp(**changes, PhotometricInterpretation="MONOCHROME1")
    assert (_pixels(render(_image(_written(inverted)), 0, None, None)).ravel() == 255 - shown).all()


def test_signed_pixels_and_bits_beyond_those_stored() -> None:
    values = np.array([-2048, 0, 2047] + [0] * 253, dtype="<i2")
    made = _ramp(PixelRepresentation=1)
    # An overlay in the upper bits (PS3.5 section 8.1.2).
    made.PixelData = ((values.view("<u2") & 0x0FFF) | 0x5000).astype("<u2").tobytes()
    shown = _pixels(render(_image(_written(made)), 0, Window(0, 4096), None)).ravel()
    assert shown[:3].tolist() == [0, 128, 255]


def test_a_window_of_an_enhanced_object() -> None:
    shared_groups, voi = pydicom.Dataset(), pydicom.Dataset()
    voi.WindowCenter, voi.WindowWidth = "128", "256"
    shared_groups.FrameVOILUTSequence = [voi]
    made = _ramp(SharedFunctionalGroupsSequence=[shared_groups])
    shown = _pixels(render(_image(_written(made)), 0, None, None)).ravel()
    assert shown.tolist() == list(range(256))


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_and_a_smaller_picture(planar: int) -> None:
    made = make_instance("1.2.3", 1, rows=4)
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.SamplesPerPixel = 7, 3
    made.PhotometricInterpretation, made.PlanarConfiguration = "RGB", planar
    colours = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    made.PixelData = (np.moveaxis(colours, 2, 0) if planar else colours).tobytes()
    image = _image(_written(made))
    assert (_pixels(render(image, 0, None, None)) == colours).all()
    small = _pixels(render(image, 0, None, (2, 2)))
    mean = colours.astype(int).reshape(2, 2, 2, 2, 3).sum(axis=(1, 3)) // 4
    assert (small == mean).all()
    assert _pixels(render(image, 0, None, (100, 100))).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"PhotometricInterpretation": "PALETTE COLOR"}, "colours"), ({"Rows": 0}, "no pixels")],
)
def test_what_is_not_shown(changes: dict[str, object], why: str) -> None:
    with pytest.raises(NoFrames, match=why):
        render(_image(_written(_ramp(**changes))), 0, None, None)


def test_compressed_pixels_are_not_decoded() -> None:
    with pytest.raises(NoFrames, match="compressed"):
        render(_image(_written(_encapsulated([[A]], offsets=False))), 0, None, None)


def _by_frame(slopes: list[str]) -> pydicom.Dataset:
    """An enhanced object whose frames have a rescale each."""
    groups = []
    for slope in slopes:
        rescale, voi, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, "0"
        voi.WindowCenter, voi.WindowWidth = "64", "128"
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [voi]
        groups.append(group)
    made = _ramp(NumberOfFrames=len(slopes), PerFrameFunctionalGroupsSequence=groups)
    made.PixelData = bytes(made.PixelData) * len(slopes)
    return made


def test_the_first_frame_says_nothing_of_the_others() -> None:
    image = _image(_written(_by_frame(["0.5", "100"])))
    first = _pixels(render(image, 0, None, None)).ravel()
    assert (first[0], first[128], first[-1]) == (0, 129, 255)
    render(image, 0, Window(64, 2), None)
    second = _pixels(render(image, 1, None, None)).ravel()
    assert second.tolist() == list(range(256))
    with pytest.raises(NoFrames, match="rescale of its own"):
        render(image, 1, Window(64, 2), None)


def test_shades_are_the_same_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(_written(_ramp()))
    whole = render(image, 0, None, None)
    monkeypatch.setattr("node.dicom.rendering._STRIP_ROWS", 3)
    assert render(image, 0, None, None) == whole


def test_the_samples_of_pixels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.dicom.rendering.MAX_PIXELS", 500)
    assert render(_image(_written(_ramp())), 0, None, None)
    with pytest.raises(NoFrames, match="too large"):
        render(_image(_written(_ramp(SamplesPerPixel=3))), 0, None, None)


def test_encapsulated_frames_have_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(_written(_encapsulated([[A, B], [C]], offsets=True)))
    monkeypatch.setattr("node.dicom.frames.MAX_FRAME_BYTES", 10)
    assert image.frame(1) == C
    with pytest.raises(NoFrames, match="too large"):
        image.frame(0)


def test_pixels_in_a_private_byte_order_are_not_given() -> None:
    data = saved(_ramp(), ImplicitVRLittleEndian)
    private = data.replace(b"UI\x12\x001.2.840.10008.1.2\0", b"UI\x12\x001.2.840.113619.5.2", 1)
    assert private != data
    with pytest.raises(NoFrames, match="private byte order"):
        _image(private)
