"""The output of an ingest: progress while it runs, and a report at the end."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from node.catalog.rows import StudyRow
from node.images.sources import Source
from protocol import limits
from protocol.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestProgress:
    """How far an ingest is.

    Attributes:
        phase: "read" (finding and checking files) or "store".
        files: files seen so far.
        bytes, bytes_total: original bytes done in this phase, and in total; `bytes_total` is 0
            while it is unknown.
        encoded_bytes: encoded size of `bytes`, in phase "store".
        instances: instances published so far.
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
        reason: completes a sentence that begins with the file.
        kept_at: folder in the quarantine that holds a copy, or "".
    """

    file: str
    reason: str
    kept_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyIngested:
    """What an ingest added to one study; bytes count its new instances."""

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
        original_bytes, encoded_bytes: size of the new instances, and of their batches.
        skipped_not_dicom, skipped_media_directories, skipped_links: counted and left alone.
        not_chosen: images that were left alone, since only others were chosen.
        missing: files that a DICOMDIR lists and that do not exist.
        quarantined: bad input, kept in the quarantine.
        conflicts: other bytes under a known SOP Instance UID, kept in the quarantine.
        unreadable: files that could not be read, or changed meanwhile.
        notes: findings that a person should look at, although the images were taken.
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
    not_chosen: int = 0
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


def notes_of(row: StudyRow, was: StudyRow | None) -> list[str]:
    """What a person should look at in a study that an ingest changed.

    Args:
        row: the study.
        was: the study before, None if it was not here; findings of that time are not repeated.
    """
    study = f"study {row.study_uid}"
    notes = []
    if len(row.modalities) > limits.MODALITIES:
        notes.append(
            f"{study}: it has {len(row.modalities)} modalities, of which peers are"
            f" told the first {limits.MODALITIES}; look at what wrote it"
        )
    if row.to_check and (was is None or row.to_check != was.to_check):
        notes.append(
            f"{study}: {row.to_check}; it is not shared until somebody has looked"
            f" at it: `radmesh share {row.study_uid}` shares it, `radmesh withdraw` settles that"
            " it is not"
        )
    if row.note and (was is None or row.note != was.note):
        notes.append(f"{study}: {row.note}")
    return notes


def overtaken(
    manifest: Manifest, held: Mapping[str, bytes], sources: Iterable[Source]
) -> list[Problem]:
    """Files that were set aside because another ingest, a fetch or a discard came first.

    Args:
        manifest: of the instances that were to be published.
        held: by SOP Instance UID, the digests that its study has now.
        sources: the files that the manifest was made of, and others.
    """
    aside = {one.digest for one in manifest.instances} - set(held.values())
    return [
        Problem(
            source.shown,
            f"is of study {manifest.study_instance_uid}, in which another instance with its SOP"
            " Instance UID came meanwhile, or was discarded; it is kept aside",
        )
        for source in sources
        if source.digest in aside
    ]
