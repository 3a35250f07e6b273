"""Small DICOM studies made for tests: valid files with chosen pixels, no patient."""

import random
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian


def make_instance(
    study: str, number: int, *, rows: int = 64, series: str = "", seed: int = 0, frames: int = 1
) -> Dataset:
    """One CT instance of a study; the same arguments give the same bytes."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CTImageStorage
    ds.StudyInstanceUID = study
    ds.SeriesInstanceUID = series or f"{study}.1"
    ds.SOPInstanceUID = f"{ds.SeriesInstanceUID}.{number}"
    ds.StudyDate = "20260301"
    ds.Modality = "CT"
    ds.PatientName = "Marker^Patient"
    ds.PatientID = "MARKER-PATIENT-ID"
    ds.StudyDescription = "MADE FOR A TEST"
    ds.InstanceNumber = number
    ds.Rows = ds.Columns = rows
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation, ds.SamplesPerPixel = 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    generator = np.random.default_rng([seed, number])
    pixels = generator.integers(0, 4096, (frames, rows, rows), dtype="<u2")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    ds.file_meta = meta
    return ds


def make_study(
    directory: Path,
    count: int,
    *,
    study: str = "",
    rows: int = 64,
    first: int = 1,
    seed: int = 0,
    frames: int = 1,
) -> str:
    """Write a study of `count` instances; its Study Instance UID."""
    study = study or f"1.2.826.0.1.3680043.8.498.{random.Random(str(directory)).getrandbits(60)}"
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        make_instance(study, number, rows=rows, seed=seed, frames=frames).save_as(
            directory / f"IM{number:05}.dcm", enforce_file_format=True
        )
    return study


def contents(directory: Path) -> set[bytes]:
    """The bytes of all files below a directory, as a set."""
    return {path.read_bytes() for path in directory.rglob("*") if path.is_file()}
