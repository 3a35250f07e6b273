"""The tables `folders` of `config.toml`: folders from which files are taken as they come."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.edges.door_settings import ENTRIES, BadEdge, Door, read_door, require_known

DEFAULT_STILL_SECONDS = 5

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_STILL = (1, 600)
_ENTRIES = ("path", *ENTRIES, "still_seconds", "keep")


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """One watched folder.

    Attributes:
        name: its name; the source of what comes is `folder:NAME`.
        path: the folder.
        door: what becomes of what comes in by it; its name is `folder:NAME`.
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
        BadEdge: they have another form, or two are the same folder or one in the other.
    """
    if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
        raise BadEdge('must be tables, each written [folders."NAME"]')
    found = {name: _folder(name, entry) for name, entry in tables.items()}
    _require_apart(found)
    return found


def _folder(name: str, entry: dict[str, Any]) -> FolderSettings:
    where = f'have for "{name}"'
    if _NAME.fullmatch(name) is None:
        raise BadEdge(f"{where} a name that is none: up to 32 letters, digits, _ and -")
    require_known(where, entry, _ENTRIES)
    path, still = entry.get("path", ""), entry.get("still_seconds", DEFAULT_STILL_SECONDS)
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise BadEdge(f"{where} no path, or one that is not absolute")
    if type(still) is not int or not _STILL[0] <= still <= _STILL[1]:
        raise BadEdge(f"{where} a still_seconds that is no number from 1 to {_STILL[1]}")
    keep = entry.get("keep", False)
    if not isinstance(keep, bool):
        raise BadEdge(f"{where} a `keep` that is not true or false")
    return FolderSettings(
        name=name,
        path=Path(path),
        door=read_door(where, f"folder:{name}", entry),
        still_seconds=still,
        keep=keep,
    )


def _require_apart(found: Mapping[str, FolderSettings]) -> None:
    each = list(found.values())
    for one in each:
        for other in each:
            if one is not other and one.path.is_relative_to(other.path):
                raise BadEdge(f'have "{one.name}" in the folder of "{other.name}"')
