"""What people see on the terminal: results, errors and tables."""

import json
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from node.errors import NodeError
from node.phrases import clean

_DEFAULT_WIDTH = 80


def say(text: str = "") -> None:
    """Print a line of the result."""
    click.echo(text)


def note(text: str) -> None:
    """Print a line that is no result, to stderr."""
    click.echo(f"radmesh: {text}", err=True)


def emit_json(value: Any) -> None:
    """Print a result as JSON; all that is not ASCII is escaped."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def failure(error: NodeError, *, as_json: bool) -> None:
    """Print an error to stderr: what happened, and what to do next."""
    if as_json:
        described = {"message": error.message, "hint": error.hint, "code": int(error.code)}
        click.echo(json.dumps({"error": described}), err=True)
        return
    click.echo(f"radmesh: error: {clean(error.message)}", err=True)
    if error.hint:
        click.echo(f"radmesh: hint: {clean(error.hint)}", err=True)


@dataclass(frozen=True)
class Column:
    """One column of a table. A flexible one is cut where the terminal is narrow."""

    title: str
    right: bool = False
    flexible: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table with its titles; all values are cleaned."""
    cells = [[clean(value) for value in row] for row in rows]
    widths = [
        max([_width(column.title), *(_width(row[index]) for row in cells)])
        for index, column in enumerate(columns)
    ]
    spare = terminal_width() - sum(widths) - 2 * (len(widths) - 1)
    flexible = [index for index, column in enumerate(columns) if column.flexible]
    for _ in range(-spare):
        # Narrow the widest column, so that no column vanishes while another is whole.
        wide = [index for index in flexible if widths[index] > _width(columns[index].title)]
        if not wide:
            break
        widths[max(wide, key=lambda index: widths[index])] -= 1
    titles = [column.title for column in columns]
    return [
        "  ".join(
            _fit(value, width, right=column.right)
            for value, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in (titles, *cells)
    ]


def fields(pairs: Sequence[tuple[str, object]]) -> list[str]:
    """Lines of names and values, the values in one column; all values are cleaned."""
    width = max(len(name) for name, _ in pairs)
    return [f"{name:{width}}  {clean(value)}".rstrip() for name, value in pairs]


def terminal_width() -> int:
    """Columns of the terminal; without one there is no limit."""
    if not sys.stdout.isatty():
        return sys.maxsize
    return shutil.get_terminal_size((_DEFAULT_WIDTH, 24)).columns


def _width(text: str) -> int:
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fit(text: str, width: int, *, right: bool) -> str:
    """The text in exactly `width` columns, cut with an ellipsis where it is longer."""
    if _width(text) > width:
        kept, used = "", 1
        for character in text:
            used += _character_width(character)
            if used > width:
                break
            kept += character
        text = kept + "…"
    padding = " " * (width - _width(text))
    return padding + text if right else text + padding
