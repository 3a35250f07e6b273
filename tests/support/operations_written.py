"""The table of operations as docs/operations.md writes it, made from the code."""

import json
from typing import Any

from node.operations import Operation
from node.operations.parameters import Kind, defaults, kinds
from node.operations.selecting import Narrowed, Selected
from node.people.persons import PERSON_ROLES


def parameters_of(operation: Operation[Any]) -> str:
    """Parameters as the table has them, but for remarks in brackets."""
    known, given = kinds(operation.parameters), defaults(operation.parameters)
    selection = ""
    if issubclass(operation.parameters, Narrowed):
        selection = "a selection"
        if not issubclass(operation.parameters, Selected):
            selection += " without a patient"
        known = {name: kind for name, kind in known.items() if name not in kinds(Selected)}
    written = ", ".join(_parameter(name, kind, given) for name, kind in known.items())
    return "; ".join(part for part in (written, selection) if part)


def _parameter(name: str, kind: Kind, given: dict[str, Any]) -> str:
    text = f"`{name}` {kind}".replace(" text or", " or").removesuffix(" text")
    if name in given and given[name] is not None:
        value = given[name]
        text += f" = {'none' if value == () else json.dumps(value)}"
    return text


def marks_of(operation: Operation[Any]) -> tuple[str, str, str, str]:
    """The last four columns: what it does, the roles, local only, needs the network."""
    roles = "any" if operation.roles == PERSON_ROLES else ", ".join(operation.roles)
    return (
        "writes" if operation.writes else "reads",
        roles or "owner",
        "yes" if operation.local_only else "no",
        "yes" if operation.needs_network else "no",
    )
