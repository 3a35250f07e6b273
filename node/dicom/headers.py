"""The attributes of an instance from its header; filled by `node.dicom.studies`."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StudyAttributes:
    """The attributes of a study in the catalog; "" where the file has none.

    Dates are YYYYMMDD, the time as in the file.
    """

    study_uid: str
    patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_id: str
    study_date: str
    study_time: str
    study_description: str
    referring_physician: str
    institution: str
    patient_id_issuer: str = ""

    @property
    def patient(self) -> str:
        """The patient's identity, as the log commits to it; "" where the file has none."""
        return patient_identity(self.patient_id, self.patient_id_issuer)


def patient_identity(patient_id: str, issuer: str) -> str:
    """Patient ID and, where known, its issuer: `ID` or `ID^^^ISSUER`, as in HL7 v2.

    Two facilities may use one Patient ID for two people; the issuer tells them apart.
    """
    return f"{patient_id}^^^{issuer}" if patient_id and issuer else patient_id


def named_identity(name: str, birth_date: str, sex: str) -> str:
    """A patient without a Patient ID, as the log commits to it: `NAME^^^YYYYMMDD SEX`."""
    return f"{name}^^^{birth_date} {sex}"


@dataclass(frozen=True, slots=True)
class SeriesAttributes:
    """The attributes of a series in the catalog; "" where the file has none."""

    series_uid: str
    series_number: int | None
    modality: str
    series_description: str
    body_part: str
    series_date: str
    manufacturer: str
    station: str


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The place of native 16-bit pixels of one sample in a file.

    Attributes:
        offset: offset of the first pixel, bytes from the start of the file.
        columns, rows: size of one frame, at least 1.
        frames: number of complete frames, at least 1.
    """

    offset: int
    columns: int
    rows: int
    frames: int


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """One instance: its identity, its attributes, and oddities of the file.

    `pixels` is None if the pixels are not native 16-bit ones, or not known.
    """

    study: StudyAttributes
    series: SeriesAttributes
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    number: int | None
    rows: int
    columns: int
    frames: int
    notes: tuple[str, ...] = ()
    pixels: PixelLayout | None = field(default=None, compare=False)
