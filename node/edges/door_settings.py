"""What becomes of what comes in, as `config.toml` says it for AE titles of ours and for folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keys.purposes import BREAK_GLASS, is_purpose

ENTRIES = ("to", "purpose", "stat")
"""The entries of a door."""


class BadEdge(Exception):
    """A table is wrong; the text completes a sentence that begins with the place of the error."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """A way by which images come in.

    Attributes:
        name: the AE title by which we are called, or `folder:NAME`.
        to: petname or fingerprint of the facility to which what comes is offered; "" for none.
        purpose: for which it is offered.
        stat: whether what comes is urgent.
        partners: whether queries are also answered from what other facilities have; by a door with
            `to` they are answered from that facility alone.
    """

    name: str
    to: str = ""
    purpose: str = ""
    stat: bool = False
    partners: bool = False


def read_door(where: str, name: str, entry: Mapping[str, Any]) -> Door:
    """A door from its entries in a table.

    Args:
        where: begins the sentence of an error.
        name: of the door.
        entry: the table, which may have other entries as well.

    Raises:
        BadEdge: a value is wrong, or lacks another one.
    """
    to, purpose, stat = entry.get("to", ""), entry.get("purpose", ""), entry.get("stat", False)
    if not isinstance(to, str) or not isinstance(stat, bool):
        raise BadEdge(f"{where} a `to` that is no name, or a `stat` that is not true or false")
    if bool(to) != bool(purpose):
        raise BadEdge(f"{where} one of `to` and `purpose` without the other")
    if purpose and (not is_purpose(purpose) or purpose == BREAK_GLASS):
        raise BadEdge(f"{where} a purpose that there is not, or that is not for offers")
    return Door(name=name, to=to, purpose=purpose, stat=stat)


def require_known(where: str, entry: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse entries of other names.

    Raises:
        BadEdge: there is one.
    """
    unknown = set(entry) - set(names)
    if unknown:
        raise BadEdge(f"{where} {', '.join(sorted(unknown))}: its entries are {', '.join(names)}")
