"""What an ingest tells: progress while it runs, and a report at the end."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestProgress:
    """How far an ingest is.

    Attributes:
        phase: "read" (finding and checking files) or "store".
        files: files seen so far.
        bytes, bytes_total: original bytes done in this phase, and of all of it;
            `bytes_total` is 0 while nobody knows it.
        encoded_bytes: what `bytes` became, in phase "store".
        instances: published so far.
    """

    phase: str
    files: int
    bytes: int
    bytes_total: int
    encoded_bytes: int
    instances: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that was not taken.

    Attributes:
        file: its path, readable on any terminal.
        reason: end of a sentence that begins with the file.
        kept_at: folder in the quarantine that holds a copy, or "".
    """

    file: str
    reason: str
    kept_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyIngested:
    """What an ingest brought to one study; bytes are of its new instances."""

    study: str
    new: int
    known: int
    conflicting: int
    original_bytes: int
    encoded_bytes: int


@dataclass(slots=True, kw_only=True)
class IngestReport:
    """The result of an ingest.

    Attributes:
        files: all files seen.
        instances_new, instances_known: added, and those that were here already.
        original_bytes, encoded_bytes: of the new instances, and of their batches.
        skipped_not_dicom, skipped_media_directories, skipped_links: counted, left alone.
        missing: files that a DICOMDIR lists and that are not there.
        quarantined: bad input, kept in the quarantine.
        conflicts: other bytes under a known SOP Instance UID, kept in the quarantine.
        unreadable: files that could not be read, or changed meanwhile.
        notes: what somebody should look at though it was taken.
        cancelled: whether it was stopped; finished studies are kept.
    """

    files: int = 0
    instances_new: int = 0
    instances_known: int = 0
    original_bytes: int = 0
    encoded_bytes: int = 0
    skipped_not_dicom: int = 0
    skipped_media_directories: int = 0
    skipped_links: int = 0
    studies: list[StudyIngested] = field(default_factory=list)
    quarantined: list[Problem] = field(default_factory=list)
    conflicts: list[Problem] = field(default_factory=list)
    unreadable: list[Problem] = field(default_factory=list)
    missing: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cancelled: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every DICOM file that was found, or listed, is in the catalog now."""
        return not (
            self.quarantined or self.conflicts or self.unreadable or self.missing or self.cancelled
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)
