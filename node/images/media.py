"""Files that a DICOMDIR lists but its medium lacks (PS3.3 annex F, PS3.10 section 8)."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from node.images.reading import open_file

_MOST_BYTES = 64 * 1024 * 1024
"""Most bytes of a DICOMDIR that are searched: over 100,000 instances of 500 bytes each."""

_MOST_NAMED = 100_000

_FILE_ID = re.compile(
    rb"\x04\0\0\x15(?:CS(?P<explicit>..)|(?P<implicit>..)\0\0)|\0\x04\x15\0CS(?P<big>..)", re.DOTALL
)
"""Referenced File ID (0004,1500) in each of the encodings, up to its value."""

_COMPONENT = re.compile(rb"[A-Za-z0-9_.;-]{1,64}")
_MOST_COMPONENTS = 8


def missing_members(directory: Path) -> list[Path]:
    """The files that a DICOMDIR lists and that do not exist.

    Names are compared without regard to case, and without a version such as `;1`, since file
    systems of media show them in different ways. A DICOMDIR that is gone or cannot be read lists
    nothing.
    """
    try:
        content = _read(directory)
    except OSError:
        return []
    names: dict[Path, dict[str, str]] = {}
    missing = []
    for components in _file_ids(content):
        if not _is_there(directory.parent, components, names):
            missing.append(directory.parent.joinpath(*components))
    return missing


def _read(directory: Path) -> bytes:
    descriptor = open_file(directory)
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST_BYTES)
    finally:
        os.close(descriptor)


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
