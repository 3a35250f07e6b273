"""The files of a disc that people read: README.TXT and INDEX.HTM (IHE PDI).

Their lines end as Windows wants them, since nobody knows where a disc is opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape

from node.phrases import clean, count

NATIVE = "1.2.840.10008.1.2.1"
"""Explicit VR Little Endian: all that the general purpose profiles of PS3.11 annex D allow."""

_SYNTAXES = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.4.50": "JPEG, lossy",
    "1.2.840.10008.1.2.4.51": "JPEG, lossy, 12 bits",
    "1.2.840.10008.1.2.4.57": "JPEG, lossless",
    "1.2.840.10008.1.2.4.70": "JPEG, lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS, lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS, lossy",
    "1.2.840.10008.1.2.4.90": "JPEG 2000, lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}


@dataclass(frozen=True, slots=True)
class OnDisc:
    """A study on a disc: what INDEX.HTM says of it, and the folder of its images."""

    patient: str
    patient_id: str
    birth_date: str
    date: str
    description: str
    modalities: Sequence[str]
    images: int
    folder: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a disc holds.

    Attributes:
        facility: the facility that wrote it.
        now: when, UTC.
        syntaxes: how many images have each transfer syntax.
        made_up: how many records of the DICOMDIR have a made-up value, by its name.
    """

    facility: str
    now: datetime
    studies: Sequence[OnDisc]
    syntaxes: Mapping[str, int]
    made_up: Mapping[str, int] = field(default_factory=dict)


def beyond_profile(syntaxes: Mapping[str, int]) -> dict[str, int]:
    """Of transfer syntaxes, by name, those that the general purpose profiles do not allow."""
    found: dict[str, int] = {}
    for uid, number in syntaxes.items():
        if uid != NATIVE:
            name = _SYNTAXES.get(uid, uid)
            found[name] = found.get(name, 0) + number
    return dict(sorted(found.items()))


def readme(contents: Contents) -> bytes:
    """README.TXT: who made the disc, and what readers of it should know. Names no patient."""
    images = sum(contents.syntaxes.values())
    lines = [
        "DICOM images on a disc of IHE Portable Data for Imaging",
        "",
        f"Written by: {clean(contents.facility)}",
        f"Written at: {contents.now:%Y-%m-%d %H:%M} UTC, with Radmesh",
        f"Holds:      {count(len(contents.studies), 'study', 'studies')}, {count(images, 'image')}",
        "",
        "These images are medical records of patients: keep them as such. Ask the facility above",
        "if anything is missing or cannot be opened. There is no viewer on this disc: open the",
        "file DICOMDIR with a DICOM viewer, or import the folder IMAGES into a PACS. INDEX.HTM",
        "lists the studies.",
        "",
        "Each file is byte for byte as it came to the facility.",
    ]
    beyond = beyond_profile(contents.syntaxes)
    if beyond:
        lines += [
            "",
            "The general purpose profiles of DICOM (PS3.11, STD-GEN) want all images as Explicit",
            "VR Little Endian. On this disc others are as they were made, and not all viewers open",
            "them:",
            *(f"  {count(number, 'image')}: {name}" for name, number in beyond.items()),
        ]
    if contents.made_up:
        lines += [
            "",
            "The DICOMDIR must say more than some of the images do. This is made up there, and is",
            "not in the images (numbers, RM0001 and the like; 1900-01-01 for an unknown date):",
            *(
                f"  {name}: {count(number, 'record')}"
                for name, number in sorted(contents.made_up.items())
            ),
        ]
    return _lines(lines)


def index(contents: Contents) -> bytes:
    """INDEX.HTM: the studies on the disc."""
    rows = [
        "<tr>"
        + "".join(
            f"<td>{escape(clean(value))}</td>"
            for value in (
                one.patient,
                one.patient_id,
                _day(one.birth_date),
                _day(one.date),
                one.description,
                " ".join(one.modalities),
                one.images,
                one.folder,
            )
        )
        + "</tr>"
        for one in contents.studies
    ]
    titles = (
        "Patient", "Patient ID", "Born", "Study date", "Description", "Kind", "Images", "Folder"
    )  # fmt: skip
    return _lines(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>DICOM images from {escape(clean(contents.facility))}</title></head><body>",
            f"<h1>DICOM images from {escape(clean(contents.facility))}</h1>",
            f"<p>Written at {contents.now:%Y-%m-%d %H:%M} UTC. There is no viewer on this disc:"
            " open the file DICOMDIR with a DICOM viewer."
            ' <a href="README.TXT">README.TXT</a> says more.</p>',
            "<table border=1><tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>",
            *rows,
            "</table></body></html>",
        ]
    )


def _day(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdigit() else date


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()
