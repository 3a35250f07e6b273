"""The settings as text: the file of a new home, and the table of docs/operations.md section 4."""

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from node.setting import Setting
from node.setting_rows import SETTINGS, TABLES, rows_of


def template(values: Mapping[str, Any]) -> str:
    """Text of a new `config.toml`.

    Args:
        values: values that differ from the defaults, by name.
    """
    lines = ["# Settings of this Radmesh node; read at start. docs/operations.md explains each."]
    for row in rows_of("").values():
        value = json.dumps(values.get(row.name, row.default), ensure_ascii=False)
        written = f"# {row.key} = {row.example}" if row.example else f"{row.key} = {value}"
        lines += ["", *_comment(row), written]
    for table, title in TABLES.items():
        lines += ["", f"# {title}"]
        for row in rows_of(table).values():
            # A key that is a name has its own name in the example.
            is_named = table == "limits" or row.key.startswith('"')
            example = row.example if is_named else f"{row.key} = {row.example}"
            lines += [*_comment(row), f"# {example}"]
    return "\n".join(lines) + "\n"


def _comment(row: Setting) -> list[str]:
    text = row.sentence.replace("`", "")
    return textwrap.wrap(
        f"{text[0].upper()}{text[1:]}.",
        90,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
    )


def document() -> str:
    """The table of docs/operations.md section 4."""
    lines = ["| entry | what | default | meaning |", "|---|---|---|---|"]
    for row in SETTINGS:
        default = "none" if row.default is None else f"`{json.dumps(row.default)}`"
        lines.append(f"| `{row.name}` | {_what(row)} | {default} | {row.sentence} |")
    return "\n".join(lines)


def _what(row: Setting) -> str:
    if row.least is not None:
        return f"{row.least:g} to {row.most:g}"
    if row.kind == "choice":
        return ", ".join(f"`{choice}`" for choice in row.choices)
    return {"own": "below", "flag": "true or false"}.get(row.kind, row.kind)
