"""Large DICOM studies, made cheaply: one instance from pydicom, the others by patching it."""

import io
from pathlib import Path

import numpy as np
from studies_made import make_instance

STUDY = "1.2.826.0.1.3680043.8.498.424242"
_NUMBER_DIGITS = 6


def many_instances(directory: Path, count: int, *, rows: int = 64, study: str = STUDY) -> str:
    """A study of `count` small CT instances with pixels of their own; its UID."""
    directory.mkdir(parents=True, exist_ok=True)
    first = 10**_NUMBER_DIGITS
    template = io.BytesIO()
    make_instance(study, first, rows=rows).save_as(template, enforce_file_format=True)
    head = template.getvalue()[: -2 * rows * rows]
    uid, number = f"{study}.1.{first}".encode(), str(first).encode()
    generator = np.random.default_rng(count)
    smooth = np.add.outer(np.arange(rows), np.arange(rows)).astype("<u2")
    for index in range(1, count + 1):
        own = str(first + index).encode()
        assert len(own) == len(number)
        patched = head.replace(uid, f"{study}.1.{first + index}".encode())
        pixels = smooth + generator.integers(0, 64, (rows, rows), dtype="<u2") + index % 1000
        (directory / f"IM{index:06}.dcm").write_bytes(
            patched.replace(number, own) + pixels.astype("<u2").tobytes()
        )
    return study


def one_instance(path: Path, *, rows: int, frames: int, study: str = STUDY) -> str:
    """A study of one multi-frame instance of `2 * rows * rows * frames` bytes; its UID.

    Frames repeat some noisy patterns, each with its number in it: written as fast as
    the disk takes it, and no two batches are alike.
    """
    header = make_instance(study, 1, rows=rows, frames=2)
    header.NumberOfFrames = frames
    template = io.BytesIO()
    header.save_as(template, enforce_file_format=True)
    data = bytearray(template.getvalue()[: -2 * 2 * rows * rows])
    frame_bytes = 2 * rows * rows
    data[-4:] = (frames * frame_bytes).to_bytes(4, "little")
    generator = np.random.default_rng(1)
    smooth = np.add.outer(np.arange(rows), np.arange(rows)).astype("<u2")
    patterns = [
        (smooth + generator.integers(0, 64, (rows, rows), dtype="<u2")).astype("<u2").tobytes()
        for _ in range(8)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        for number in range(frames):
            pattern = patterns[number % len(patterns)]
            file.write(number.to_bytes(8, "little") + pattern[8:])
    return study
