"""How long arrivals of a source wait to be packed: the table `arrivals` of `config.toml`."""

from collections.abc import Callable, Mapping
from typing import Any

from node.images.arrival_groups import Windows

EVERY_SOURCE = "*"

_MOST = {"quiet_seconds": 3600, "longest_seconds": 24 * 3600}


class BadWindows(Exception):
    """The table is wrong; the text completes a sentence that begins with the place of the error."""


def read_windows(table: Any) -> dict[str, Windows]:
    """By source, how long its arrivals wait.

    Args:
        table: a source (`dimse:CT1`), an edge (`dimse`) or "*", each to a table of
            `quiet_seconds` and `longest_seconds`.

    Raises:
        BadWindows: the table has another form.
    """
    if not isinstance(table, dict):
        raise BadWindows('must be tables, each written [arrivals."SOURCE"]')
    return {source: _windows(source, entry) for source, entry in table.items()}


def _windows(source: str, entry: Any) -> Windows:
    if not isinstance(entry, dict) or not entry.keys() <= _MOST.keys():
        raise BadWindows(f'has for "{source}" no table of {" and ".join(_MOST)}')
    for name, value in entry.items():
        if type(value) is not int or not 1 <= value <= _MOST[name]:
            raise BadWindows(
                f'has for "{source}" a {name} that is no number from 1 to {_MOST[name]}'
            )
    standard = Windows()
    quiet = entry.get("quiet_seconds", standard.quiet)
    longest = entry.get("longest_seconds", max(standard.longest, quiet))
    if longest < quiet:
        raise BadWindows(f'has for "{source}" a longest_seconds below its quiet_seconds')
    return Windows(float(quiet), float(longest))


def windows_by(read: Mapping[str, Windows]) -> Callable[[str], Windows]:
    """The windows of a source: its own entry, else that of its edge, that of "*", the default."""

    def of(source: str) -> Windows:
        for name in (source, source.partition(":")[0], EVERY_SOURCE):
            if name in read:
                return read[name]
        return Windows()

    return of
