"""What is on discs and in folders, shown before anything is taken: patients, studies, and the rest.

The files count, not the DICOMDIR: of that only what it lists and what is missing is told. Nothing
is kept, logged or put aside.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from node.catalog.catalog import Catalog
from node.dicom.headers import InstanceHeader
from node.dicom.studies import BadInstance, MediaDirectory, NotDicom
from node.errors import ExitCode, NodeError
from node.images.ingest_report import IngestProgress, Problem
from node.images.media import MOST_IN_ARCHIVE, listing_of
from node.images.reading import FileChanged, shown
from node.images.sources import Found, archive_form, find_files, read_header_found

MOST_IMAGES = 1_000_000
"""Images that one look counts: their UIDs take some 150 MB."""

_MOST_PROBLEMS = 1000
_PROGRESS_SECONDS = 0.1


@dataclass(slots=True)
class SeenStudy:
    """A study of one patient, as its files say it.

    Attributes:
        instances: by SOP Instance UID; the same one twice counts once.
        here: how many of them this node has under their UID.
    """

    study: str
    date: str
    description: str
    accession_number: str
    modalities: set[str] = field(default_factory=set)
    series: set[str] = field(default_factory=set)
    instances: set[str] = field(default_factory=set)
    bytes: int = 0
    here: int = 0


@dataclass(frozen=True, slots=True)
class SeenPatient:
    """A patient, as the files name them."""

    patient_id: str
    issuer: str
    name: str
    birth_date: str
    sex: str
    studies: dict[str, SeenStudy] = field(default_factory=dict, compare=False)


@dataclass(slots=True)
class SeenDisc:
    """What one given path holds.

    Attributes:
        path: as it was given, for people.
        form: `folder`, `file`, `zip` or `iso`.
        directories: how many DICOMDIRs there are.
        listed: how many files they list.
        missing, missing_count: those of them that do not exist, the first thousand by name.
        other: how many files are something else than DICOM.
        problems: what cannot be read, or not as an image.
    """

    path: str
    form: str
    patients: dict[tuple[str, ...], SeenPatient] = field(default_factory=dict)
    directories: int = 0
    listed: int = 0
    missing: list[str] = field(default_factory=list)
    missing_count: int = 0
    files: int = 0
    other: int = 0
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0

    def add_problem(self, found: Found, reason: str) -> None:
        """Count a file that cannot be taken; the first thousand are named."""
        self.problem_count += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(shown(found.path), reason))


def look(
    paths: Iterable[Path],
    *,
    catalog: Catalog,
    exclude: Path,
    progress: Callable[[IngestProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[SeenDisc]:
    """Look through folders, ZIP files and ISO images; blocks until done, so run it in a thread.

    Args:
        paths: what to look through, one disc each.
        exclude: the node's home, which is left out.
        progress: called about every 0.1 s, in this thread.
        cancelled: called between files; tells whether to stop.

    Raises:
        NodeError: a path does not exist, or there are more images than can be shown.
    """
    discs = []
    counted = files = seen_bytes = 0
    last = 0.0
    for path in paths:
        found_files = find_files([path], exclude=exclude)
        form = archive_form(path.resolve()) or ("folder" if path.is_dir() else "file")
        disc = SeenDisc(shown(path), form)
        discs.append(disc)
        for found in found_files:
            if cancelled():
                return discs
            disc.files += 1
            files += 1
            size = _see(disc, found)
            counted += size > 0
            seen_bytes += size
            if counted > MOST_IMAGES:
                raise NodeError(
                    f"there are more than {MOST_IMAGES} images",
                    hint="look at fewer discs at one time",
                    code=ExitCode.USAGE,
                )
            if time.monotonic() - last >= _PROGRESS_SECONDS:
                last = time.monotonic()
                progress(
                    IngestProgress(
                        phase="look",
                        files=files,
                        bytes=seen_bytes,
                        bytes_total=0,
                        encoded_bytes=0,
                        instances=counted,
                    )
                )
        for patient in disc.patients.values():
            for study in patient.studies.values():
                study.here = len(study.instances & catalog.held_instances(study.study).keys())
    return discs


def _see(disc: SeenDisc, found: Found) -> int:
    """Add one file; returns the bytes of the image that it adds, 0 if it adds none."""
    if found.is_link:
        disc.other += 1
        return 0
    if found.problem:
        disc.add_problem(found, found.problem)
        return 0
    try:
        header, size = read_header_found(found)
    except MediaDirectory:
        disc.directories += 1
        if found.member is None or disc.directories <= MOST_IN_ARCHIVE:
            listing = listing_of(found)
            disc.listed += listing.listed
            disc.missing_count += len(listing.missing)
            left = max(0, _MOST_PROBLEMS - len(disc.missing))
            disc.missing += [shown(each) for each in listing.missing[:left]]
    except NotDicom:
        disc.other += 1
    except BadInstance as error:
        disc.add_problem(found, error.reason)
    except FileChanged:
        disc.add_problem(found, "changed while it was read")
    except OSError as error:
        disc.add_problem(found, f"cannot be read: {error.strerror}")
    else:
        return _add(disc, header, size)
    return 0


def _add(disc: SeenDisc, header: InstanceHeader, size: int) -> int:
    said = header.study
    who = (said.patient_id, said.patient_id_issuer)
    # Without a number, people of different names are different people.
    key = who if said.patient_id else (*who, said.patient_name, said.patient_birth_date)
    patient = disc.patients.setdefault(
        key, SeenPatient(*who, said.patient_name, said.patient_birth_date, said.patient_sex)
    )
    study = patient.studies.setdefault(
        said.study_uid,
        SeenStudy(said.study_uid, said.study_date, said.study_description, said.accession_number),
    )
    if header.sop_instance_uid in study.instances:
        return 0
    study.instances.add(header.sop_instance_uid)
    study.series.add(header.series.series_uid)
    if header.series.modality:
        study.modalities.add(header.series.modality)
    study.bytes += size
    return size
