"""The tables `folders` of `config.toml`: folders from which files are taken as they come."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.edges.dimse_settings import Door, is_for_offers

DEFAULT_STILL_SECONDS = 5

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_STILL = (1, 600)
_ENTRIES = ("path", "to", "purpose", "stat", "still_seconds", "keep")


class BadFolders(Exception):
    """The tables are wrong; the text completes a sentence that begins with their place."""


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """One watched folder.

    Attributes:
        name: its name; the source of what comes is `folder:NAME`.
        path: the folder.
        door: what becomes of what comes in by it; its AE title is `folder:NAME`.
        still_seconds: a file is taken when it has not changed for so long.
        keep: whether files that were taken stay, in a folder beside; else they are deleted.
    """

    name: str
    path: Path
    door: Door
    still_seconds: int = DEFAULT_STILL_SECONDS
    keep: bool = False


def read_folders(tables: Any) -> dict[str, FolderSettings]:
    """The watched folders by their names.

    Args:
        tables: the tables `[folders."NAME"]`.

    Raises:
        BadFolders: they have another form, or two are the same folder or one in the other.
    """
    if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
        raise BadFolders('must be tables, each written [folders."NAME"]')
    found = {name: _folder(name, entry) for name, entry in tables.items()}
    _require_apart(found)
    return found


def _folder(name: str, entry: dict[str, Any]) -> FolderSettings:
    where = f'have for "{name}"'
    if _NAME.fullmatch(name) is None:
        raise BadFolders(f"{where} a name that is none: up to 32 letters, digits, _ and -")
    unknown = set(entry) - set(_ENTRIES)
    if unknown:
        raise BadFolders(f"{where} {', '.join(sorted(unknown))}: entries are {', '.join(_ENTRIES)}")
    path, still = entry.get("path", ""), entry.get("still_seconds", DEFAULT_STILL_SECONDS)
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise BadFolders(f"{where} no path, or one that is not absolute")
    if type(still) is not int or not _STILL[0] <= still <= _STILL[1]:
        raise BadFolders(f"{where} a still_seconds that is no number from 1 to {_STILL[1]}")
    to, purpose = entry.get("to", ""), entry.get("purpose", "")
    flags = [entry.get(one, False) for one in ("stat", "keep")]
    if not isinstance(to, str) or not all(isinstance(flag, bool) for flag in flags):
        raise BadFolders(f"{where} a `to` that is no name, or a flag that is not true or false")
    if bool(to) != bool(purpose):
        raise BadFolders(f"{where} one of `to` and `purpose` without the other")
    if purpose and not is_for_offers(purpose):
        raise BadFolders(f"{where} a purpose that there is not, or that is not for offers")
    door = Door(ae_title=f"folder:{name}", to=to, purpose=purpose, stat=flags[0])
    return FolderSettings(name=name, path=Path(path), door=door, still_seconds=still, keep=flags[1])


def _require_apart(found: Mapping[str, FolderSettings]) -> None:
    each = list(found.values())
    for one in each:
        for other in each:
            if one is not other and one.path.is_relative_to(other.path):
                raise BadFolders(f'have "{one.name}" in the folder of "{other.name}"')
