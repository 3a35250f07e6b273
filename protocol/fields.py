"""Field kinds of messages: each checks one value from a peer and names the error.

A message is a frozen dataclass whose fields carry a kind in their metadata;
`protocol.messages` walks the fields in both directions, so a rule is written once.
"""

import dataclasses
import enum
import re
from collections.abc import Callable
from typing import Any

from protocol import limits, wire
from protocol.errors import RemoteProtocolError

Check = Callable[[Any], Any]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(text: object) -> bool:
    """Whether `text` is a DICOM UID: digits and single dots, at most 64 (PS3.5 section 9.1).

    Leading zeros of a component are accepted: the standard forbids them, but real
    scanners write them, and they are harmless.
    """
    return (
        isinstance(text, str)
        and 0 < len(text) <= limits.UID_CHARACTERS
        and _UID.fullmatch(text) is not None
    )


def _field(check: Check, optional: bool) -> Any:
    if optional:
        return dataclasses.field(default=None, metadata={"check": check, "optional": True})
    return dataclasses.field(metadata={"check": check, "optional": False})


def octets(length: int, *, optional: bool = False) -> Any:
    """Binary of exactly `length` bytes."""

    def check(value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) != length:
            raise RemoteProtocolError(f"must be {length} bytes")
        return value

    return _field(check, optional)


def binary(most: int, *, optional: bool = False) -> Any:
    """Binary of at most `most` bytes."""

    def check(value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) > most:
            raise RemoteProtocolError(f"must be at most {most} bytes")
        return value

    return _field(check, optional)


def hashes(most: int) -> Any:
    """List of at most `most` binaries of 32 bytes each."""

    def check(value: Any) -> tuple[bytes, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise RemoteProtocolError(f"must be a list of at most {most}")
        if not all(isinstance(item, bytes) and len(item) == 32 for item in value):
            raise RemoteProtocolError("must hold 32 bytes each")
        return tuple(value)

    return _field(check, False)


def number(most: int = 2**53 - 1, *, least: int = 0, optional: bool = False) -> Any:
    """Integer from `least` to `most`, both included."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise RemoteProtocolError(f"must be an integer from {least} to {most}")
        return value

    return _field(check, optional)


def flag(*, default: bool | None = None, optional: bool = False) -> Any:
    """Boolean; if it has a default, a writer that does not know the field may omit it."""

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise RemoteProtocolError("must be a boolean")
        return value

    if default is None:
        return _field(check, optional)
    return dataclasses.field(default=default, metadata={"check": check, "optional": True})


def text(most: int = limits.TEXT_CHARACTERS, *, optional: bool = False) -> Any:
    """Text of at most `most` characters without control characters."""
    return _field(_check_text(most), optional)


def _check_text(most: int) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise RemoteProtocolError(f"must be text of at most {most} characters")
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in value):
            raise RemoteProtocolError("must not hold control characters")
        return value

    return check


def texts(most: int, characters: int) -> Any:
    """List of at most `most` texts of at most `characters` each."""
    check_one = _check_text(characters)

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise RemoteProtocolError(f"must be a list of at most {most}")
        return tuple(check_one(item) for item in value)

    return _field(check, False)


def numbers(most: int) -> Any:
    """List of at most `most` integers from 0 to 2^31."""

    def check(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise RemoteProtocolError(f"must be a list of at most {most}")
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= 2**31:
                raise RemoteProtocolError("must hold integers from 0 to 2^31")
        return tuple(value)

    return _field(check, False)


def uid() -> Any:
    """DICOM UID."""

    def check(value: Any) -> str:
        if not is_uid(value):
            raise RemoteProtocolError("must be a DICOM UID")
        return str(value)

    return _field(check, False)


def choice(*values: str) -> Any:
    """One of a closed set of words."""

    def check(value: Any) -> str:
        if value not in values:
            raise RemoteProtocolError("is none of the known words")
        return str(value)

    return _field(check, False)


def runs(most: int) -> Any:
    """Ascending, disjoint runs of indices: list of [first, count]."""

    def check(value: Any) -> tuple[tuple[int, int], ...]:
        if not isinstance(value, list) or len(value) > most:
            raise RemoteProtocolError(f"must be a list of at most {most} runs")
        checked = []
        end = 0
        for item in value:
            if not isinstance(item, list) or len(item) != 2:
                raise RemoteProtocolError("a run must be [first, count]")
            first, count = item
            if type(first) is not int or type(count) is not int:
                raise RemoteProtocolError("a run must be two integers")
            if first < end or count < 1 or first + count > 2**31:
                raise RemoteProtocolError("runs must ascend and not touch before their end")
            end = first + count
            checked.append((first, count))
        return tuple(checked)

    return _field(check, False)


def maps(of: type[Any], most: int) -> Any:
    """List of at most `most` maps, each read as the dataclass `of`."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise RemoteProtocolError(f"must be a list of at most {most}")
        return tuple(from_map_untrusted(of, item) for item in value)

    return dataclasses.field(metadata={"check": check, "optional": False, "maps": True})


def to_map(value: Any) -> dict[str, Any]:
    """The map of a dataclass of field kinds, without absent optional fields."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if item is None:
            continue
        if isinstance(item, enum.IntEnum):
            item = int(item)
        elif isinstance(item, tuple):
            item = [
                to_map(one)
                if dataclasses.is_dataclass(one)
                else list(one)
                if isinstance(one, tuple)
                else one
                for one in item
            ]
        result[field.name] = item
    return result


def from_map_untrusted(of: type[Any], value: Any) -> Any:
    """Read a map from a peer as the dataclass `of`; unknown keys are ignored.

    For `wire.Fields`, the values of unknown keys are not built.

    Raises:
        RemoteProtocolError: a field is missing or breaks its kind; the text names
            the field, never its value.
    """
    if not isinstance(value, dict | wire.Fields):
        raise RemoteProtocolError(f"{of.__name__} must be a map")
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(of):
        if field.name not in value:
            if field.metadata["optional"]:
                continue
            raise RemoteProtocolError(f"{of.__name__} lacks {field.name}")
        try:
            if isinstance(value, wire.Fields) and "maps" in field.metadata:
                item: Any = value.maps(field.name)
            else:
                item = value[field.name]
            arguments[field.name] = field.metadata["check"](item)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{of.__name__}.{field.name} {error}") from None
    return of(**arguments)
