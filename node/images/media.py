"""Files that a DICOMDIR lists but its medium lacks (PS3.3 annex F, PS3.10 section 8)."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.images import archives
from node.images.reading import FileChanged, open_file
from node.images.sources import Found

_MOST_BYTES = 64 * 1024 * 1024
"""Most bytes of a DICOMDIR that are searched: over 100,000 instances of 500 bytes each."""

_MOST_NAMED = 100_000

MOST_IN_ARCHIVE = 100
"""DICOMDIRs of one archive that are read: for each of them the archive is listed again."""

_FILE_ID = re.compile(
    rb"\x04\0\0\x15(?:CS(?P<explicit>..)|(?P<implicit>..)\0\0)|\0\x04\x15\0CS(?P<big>..)", re.DOTALL
)
"""Referenced File ID (0004,1500) in each of the encodings, up to its value."""

_COMPONENT = re.compile(rb"[A-Za-z0-9_.;-]{1,64}")
_MOST_COMPONENTS = 8


@dataclass(frozen=True, slots=True)
class Listing:
    """What a DICOMDIR lists.

    Attributes:
        listed: how many files.
        missing: those of them that do not exist.
    """

    listed: int
    missing: list[Path]


def listing_of(directory: Found) -> Listing:
    """What a DICOMDIR in a folder or an archive lists, and what of it is missing.

    Names are compared without regard to case, and without a version such as `;1`, since file
    systems of media show them in different ways. A DICOMDIR that is gone or cannot be read lists
    nothing.
    """
    try:
        content = _read(directory)
    except (FileChanged, OSError):
        return Listing(0, [])
    folder = directory.path.parent
    listed = list(_file_ids(content))
    if directory.member is None:
        names: dict[Path, dict[str, str]] = {}
        missing = [each for each in listed if not _is_there(folder, each, names)]
    else:
        there = _names_of(directory)
        above = tuple(map(_folded, folder.relative_to(directory.root).parts))
        missing = [each for each in listed if above + tuple(map(_folded, each)) not in there]
    return Listing(len(listed), [folder.joinpath(*each) for each in missing])


def _read(directory: Found) -> bytes:
    member = directory.member
    if member is not None:
        with member.opened() as read:
            return read(0, min(member.size, _MOST_BYTES))
    descriptor = open_file(directory.path)
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST_BYTES)
    finally:
        os.close(descriptor)


def _names_of(directory: Found) -> set[tuple[str, ...]]:
    """The folded paths of all files of the archive in which a DICOMDIR is."""
    names: set[tuple[str, ...]] = set()
    try:
        for one in archives.members(directory.root, archives.form_of(directory.root)):
            names.add(tuple(map(_folded, one.name.strip("/").split("/"))))
    except (archives.BadArchive, OSError):
        pass  # The walk of the archive says so.
    return names


def _file_ids(content: bytes) -> Iterator[tuple[str, ...]]:
    seen: set[tuple[str, ...]] = set()
    for found in _FILE_ID.finditer(content):
        if found["big"] is not None:
            length = int.from_bytes(found["big"], "big")
        else:
            length = int.from_bytes(found["explicit"] or found["implicit"], "little")
        value = content[found.end() : found.end() + length].rstrip(b" \0")
        parts = [part.strip(b" ") for part in value.split(b"\\")]
        if len(parts) > _MOST_COMPONENTS or not all(map(_COMPONENT.fullmatch, parts)):
            continue
        components = tuple(part.decode("ascii") for part in parts)
        if ".." not in components and components not in seen and len(seen) < _MOST_NAMED:
            seen.add(components)
            yield components


def _is_there(folder: Path, components: tuple[str, ...], names: dict[Path, dict[str, str]]) -> bool:
    """Whether a path below a folder exists; `names` caches the content of folders."""
    for component in components:
        if folder not in names:
            try:
                names[folder] = {_folded(path.name): path.name for path in folder.iterdir()}
            except OSError:
                names[folder] = {}
        found = names[folder].get(_folded(component))
        if found is None:
            return False
        folder = folder / found
    return True


def _folded(name: str) -> str:
    return name.split(";")[0].rstrip(".").lower()
