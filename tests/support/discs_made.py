"""Discs made for tests: folders as ZIP files and ISO images."""

from datetime import UTC, datetime
from pathlib import Path

from studies_made import make_instance

from node.images.media_forms import medium

NOW = datetime(2026, 12, 1, 9, 30, tzinfo=UTC)


def make_disc_study(folder: Path, count: int, *, study: str = "1.2.3", **changes: str) -> str:
    """Write a study under names of discs (`IM000001`); changes are attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        instance = make_instance(study, number)
        for name, value in changes.items():
            setattr(instance, name, value)
        instance.save_as(folder / f"IM{number:06}", enforce_file_format=True)
    return study


def archive(folder: Path, target: Path) -> Path:
    """A ZIP file or an ISO image, by the ending of its name, of a folder of a disc."""
    with medium(target, target.suffix[1:], mode=0o600, label="DICOM", now=NOW) as made:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            made.add(path.relative_to(folder).parts, [path.read_bytes()])
    return target
