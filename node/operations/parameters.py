"""The parameters of operations: frozen dataclasses, read from JSON in this one place.

A field is a text, a number, true or false, a list of texts, or another such class; with
`| None` it may be null. A field with a default may be missing. Unknown parameters are
refused: they are a mistake of the caller, and may have been meant to narrow the operation.
"""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from node.errors import ExitCode, NodeError

P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class From:
    """The least value of a number: `Annotated[int, From(1)]`."""

    least: int


@dataclasses.dataclass(frozen=True)
class OfMachine:
    """Marks a text as an absolute path on the node's machine."""


Path = typing.Annotated[str, OfMachine()]
Paths = typing.Annotated[tuple[str, ...], OfMachine()]

MOST = 2**53
"""The largest number: larger ones are not exact in the JSON of other programs."""


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The parameters of an operation that takes none."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """The kind of a parameter.

    Attributes:
        base: str, int, bool, tuple (of texts), or a class of parameters.
        nullable: whether it may be null.
        least: least value of a number.
        is_path: whether it is a path on the node's machine.
    """

    base: type
    nullable: bool = False
    least: int | None = None
    is_path: bool = False

    def __str__(self) -> str:
        names = {str: "text", bool: "true or false", tuple: "texts"}
        name = names.get(self.base, "object")
        if self.base is int:
            name = "number" if self.least is None else f"number from {self.least}"
        if self.is_path:
            name = "path" if self.base is str else "paths"
        return f"{name} or null" if self.nullable else name


def kinds(parameters: type) -> dict[str, Kind]:
    """The kind of each parameter of a class, by name."""
    hints = typing.get_type_hints(parameters, include_extras=True)
    return {field.name: _kind(hints[field.name]) for field in _fields(parameters)}


def required(parameters: type) -> frozenset[str]:
    """Names of the parameters that may not be missing."""
    return frozenset(
        field.name for field in _fields(parameters) if field.default is dataclasses.MISSING
    )


def defaults(parameters: type) -> dict[str, Any]:
    """The values of the parameters that may be missing."""
    return {
        field.name: field.default
        for field in _fields(parameters)
        if field.default is not dataclasses.MISSING
    }


def _fields(parameters: type) -> tuple["dataclasses.Field[Any]", ...]:
    return dataclasses.fields(parameters)


def _kind(hint: Any) -> Kind:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        [inner] = [one for one in typing.get_args(hint) if one is not types.NoneType]
        return dataclasses.replace(_kind(inner), nullable=True)
    if typing.get_origin(hint) is typing.Annotated:
        base, *marks = typing.get_args(hint)
        kind = _kind(base)
        for mark in marks:
            if isinstance(mark, From):
                kind = dataclasses.replace(kind, least=mark.least)
            elif isinstance(mark, OfMachine):
                kind = dataclasses.replace(kind, is_path=True)
        return kind
    if hint == tuple[str, ...]:
        return Kind(tuple)
    if hint not in (str, int, bool) and not dataclasses.is_dataclass(hint):
        raise TypeError(f"no parameter can be a {hint}")
    return Kind(hint)


def read(parameters: type[P], given: dict[str, Any]) -> P:
    """Read the parameters of an operation.

    Args:
        parameters: the class of the parameters.
        given: the parameters as JSON values.

    Raises:
        NodeError: a parameter is unknown, missing or of the wrong kind. The text names the
            parameter but never repeats a value, which may be secret or name a patient.
    """
    known = kinds(parameters)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise _wrong(
            f"there is no parameter {unknown[0][:40]}",
            f"the parameters are {', '.join(known)}" if known else "it takes no parameters",
        )
    needed = required(parameters) - set(given)
    for name in known:
        if name in needed:
            raise _wrong(
                f"the parameter {name} is missing", f"it must be {_described(known[name])}"
            )
    return parameters(**{name: _value(known[name], name, value) for name, value in given.items()})


def _value(kind: Kind, name: str, value: Any) -> Any:
    if value is None and kind.nullable:
        return None
    if kind.base is tuple:
        if type(value) is list and all(_is_text(kind, item) for item in value):
            return tuple(value)
    elif kind.base is int:
        # True and 1.0 do not count as numbers here.
        if type(value) is int and (kind.least is None or kind.least <= value) and value <= MOST:
            return value
    elif dataclasses.is_dataclass(kind.base):
        if type(value) is dict:
            return read(kind.base, value)
    elif kind.base is str:
        if _is_text(kind, value):
            return value
    elif type(value) is bool:
        return value
    raise _wrong(f"the parameter {name} must be {_described(kind)}")


def _is_text(kind: Kind, value: Any) -> bool:
    # A relative path would depend on the folder in which the node was started.
    return type(value) is str and (not kind.is_path or value.startswith("/"))


def _described(kind: Kind) -> str:
    if kind.base is bool:
        return str(kind)
    if kind.base is tuple:
        return "a list of absolute paths" if kind.is_path else "a list of texts"
    if kind.is_path:
        return "an absolute path" + (" or null" if kind.nullable else "")
    return f"{'an' if str(kind).startswith('o') else 'a'} {kind}"


def _wrong(message: str, hint: str = "") -> NodeError:
    return NodeError(message, hint=hint, code=ExitCode.USAGE)
