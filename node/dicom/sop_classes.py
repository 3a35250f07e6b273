"""Which objects must have pixel data to be whole (PS3.4 section B.5, PS3.3 annex A).

An object of an image storage class has its pixels in one of the forms of the standard,
names a URL for them, or keeps them in a private block of its maker. Other objects may have
Rows and Columns and no pixels: a dose without a grid, a spectrum, raw data. Classes that
are not listed have no requirement.
"""

from collections.abc import Collection

_ROOT = "1.2.840.10008.5.1.4.1.1."

IMAGE_CLASSES = frozenset(
    {"1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.1.30"}  # hardcopy images (retired)
    | {
        _ROOT + suffix
        for suffix in (
            # Radiography, mammography, intra-oral
            "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1",
            # CT, MR, PET
            "2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130",
            # Ultrasound, photoacoustic
            "3", "3.1", "6", "6.1", "6.2", "6.3",
            # Nuclear medicine, secondary capture
            "5", "20", "7", "7.1", "7.2", "7.3", "7.4",
            # Angiography, fluoroscopy, three-dimensional X-ray, tomosynthesis
            "12.1", "12.1.1", "12.2", "12.2.1", "12.3",
            "13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5",
            # Intravascular OCT
            "14.1", "14.2",
            # Parametric maps and segmentations made of pixels
            "30", "66.4", "66.7", "66.8",
            # Visible light, microscopy, ophthalmology
            "77.1", "77.2", "77.1.1", "77.1.1.1", "77.1.2", "77.1.2.1", "77.1.3", "77.1.4",
            "77.1.4.1", "77.1.5.1", "77.1.5.2", "77.1.5.4", "77.1.5.5", "77.1.5.6",
            "77.1.5.7", "77.1.5.8", "77.1.6", "77.1.7", "77.1.8", "77.1.9", "81.1", "82.1",
            # Radiotherapy images, industrial and security imaging
            "481.1", "481.23", "481.24",
            "501.1", "501.2.1", "501.2.2", "601.1", "601.2",
        )
    }
)  # fmt: skip
"""Storage SOP classes whose objects are images, including retired classes."""

_PRIVATE_PIXELS = (
    # Creator, group, element within the block.
    (b"ELSCINT1", 0x07A1, 0x0A),
    (b"SIEMENS CSA NON-IMAGE", 0x7FE1, 0x10),
    (b"GEMS_Ultrasound_MovieGroup_001", 0x7FE1, 0x01),
)
"""Private elements that makers have used in place of Pixel Data."""

_BLOCKS = range(0x10, 0x20)
"""Blocks in which a creator is looked for (PS3.5 section 7.8.1); writers begin with the first."""

PRIVATE_CREATORS = frozenset(
    group << 16 | block for _, group, _ in _PRIVATE_PIXELS for block in _BLOCKS
)
"""Elements that name the creator of a block."""

PRIVATE_PIXEL_TAGS = frozenset(
    group << 16 | block << 8 | element for _, group, element in _PRIVATE_PIXELS for block in _BLOCKS
)
"""Elements that may replace Pixel Data."""


def private_pixels(creators: dict[int, bytes], there: Collection[int]) -> str:
    """The creator of the private block that replaces the pixels; "" where there is none.

    Args:
        creators: values of the elements `PRIVATE_CREATORS`.
        there: those of `PRIVATE_PIXEL_TAGS` that are present and not empty.
    """
    for creator, group, element in _PRIVATE_PIXELS:
        for block in _BLOCKS:
            named = creators.get(group << 16 | block, b"").rstrip(b" \0")
            if named == creator and (group << 16 | block << 8 | element) in there:
                return creator.decode("ascii")
    return ""
