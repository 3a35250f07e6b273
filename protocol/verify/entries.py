"""Reading log entries and openings strictly (docs/protocol-log.md sections 2 and 3)."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from protocol.verify.verdict import Code

ENTRY_BYTES = 65_535

OPENING_BYTES = 4096
"""Most bytes of an opening's line: two hashes and a UID or identity."""

_INTEGER_LIMIT = 2**53 - 1
_COMMITMENT_DOMAIN = b"radmesh-commitment-v1\0"

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_HEX_32 = re.compile(r"[0-9a-f]{64}")
_HEX_16 = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TYPE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_TEXTS = ("actor", "outcome", "purpose")

_FIELDS = 10
"""Fields of an entry of version 1; more are let through if they are plain values."""

_DEPTH = 8
"""Deepest nesting of such a value."""


class EntryProblem(Exception):
    """An entry breaks a rule."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


_decode = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse).decode
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def canonical(value: Any) -> bytes:
    """Canonical JSON of a value that has such a form."""
    return _encode(value).encode()


def parse_entry(data: bytes) -> dict[str, Any]:
    """The fields of an entry, all of the right type.

    Raises:
        EntryProblem: ENTRY_PARSE or ENTRY_NOT_CANONICAL.
    """
    entry = parse_object(data)
    _check_fields(entry)
    return entry


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object in canonical form.

    Raises:
        EntryProblem: ENTRY_PARSE or ENTRY_NOT_CANONICAL.
    """
    try:
        value = _decode(data.decode())
    except (ValueError, RecursionError):
        raise EntryProblem(
            Code.ENTRY_PARSE, "is not JSON of integers, strings and booleans"
        ) from None
    if not isinstance(value, dict):
        raise EntryProblem(Code.ENTRY_PARSE, "is not a JSON object")
    try:
        if canonical(value) != data:
            raise EntryProblem(Code.ENTRY_NOT_CANONICAL, "is not in canonical form")
    except UnicodeEncodeError:
        raise EntryProblem(Code.ENTRY_NOT_CANONICAL, "holds half of a character") from None
    return value


def _check_fields(entry: dict[str, Any]) -> None:
    get = entry.get
    if get("v") != 1 or get("v") is True:
        raise EntryProblem(Code.ENTRY_PARSE, "is not of version 1")
    if not all(isinstance(get(name), str) for name in _TEXTS):
        raise EntryProblem(Code.ENTRY_PARSE, "lacks the text of a field")
    if not _is_integer(get("index")):
        raise EntryProblem(Code.ENTRY_PARSE, "has no index")
    time = get("time")
    if not isinstance(time, str) or _TIME.fullmatch(time) is None or not _is_date(time):
        raise EntryProblem(Code.ENTRY_PARSE, "has no time")
    kind = get("type")
    if not isinstance(kind, str) or _TYPE.fullmatch(kind) is None:
        raise EntryProblem(Code.ENTRY_PARSE, "has no type")
    peer = get("peer")
    if not isinstance(peer, str) or (peer and _HEX_32.fullmatch(peer) is None):
        raise EntryProblem(Code.ENTRY_PARSE, "names its peer by something that is no key")
    details = get("details")
    if not isinstance(details, dict) or not all(
        _NAME.fullmatch(name) and (isinstance(value, str) or _is_small(value))
        for name, value in details.items()
    ):
        raise EntryProblem(Code.ENTRY_PARSE, "has malformed details")
    subjects = get("subjects")
    if not isinstance(subjects, list) or not all(_is_subject(each) for each in subjects):
        raise EntryProblem(Code.ENTRY_PARSE, "has malformed subjects")
    if len(entry) > _FIELDS and not all(_is_plain(value, _DEPTH) for value in entry.values()):
        raise EntryProblem(Code.ENTRY_PARSE, "holds a value that entries do not have")


def _is_integer(value: object) -> bool:
    return type(value) is int and 0 <= value <= _INTEGER_LIMIT


def _is_small(value: object) -> bool:
    return isinstance(value, int) and -_INTEGER_LIMIT <= value <= _INTEGER_LIMIT


def _is_date(time: str) -> bool:
    try:
        datetime.fromisoformat(time)
    except ValueError:
        return False
    return True


def _is_subject(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"commitment", "kind"}
        and isinstance(value["kind"], str)
        and isinstance(value["commitment"], str)
        and _HEX_32.fullmatch(value["commitment"]) is not None
    )


def _is_plain(value: object, depth: int) -> bool:
    if depth == 0 or value is None:
        return False
    if isinstance(value, dict):
        return all(_is_plain(each, depth - 1) for each in value.values())
    if isinstance(value, list):
        return all(_is_plain(each, depth - 1) for each in value)
    return isinstance(value, str) or _is_small(value)


@dataclass(frozen=True)
class Opening:
    """One line of openings.jsonl: what a commitment in entry `index` stands for."""

    index: int
    kind: str
    value: str
    salt: bytes
    commitment: str

    @property
    def holds(self) -> bool:
        """Whether the commitment is one to this kind and value."""
        subject = canonical({"kind": self.kind, "value": self.value})
        return hashlib.sha256(_COMMITMENT_DOMAIN + self.salt + subject).hexdigest() == (
            self.commitment
        )


def parse_opening(data: bytes) -> Opening:
    """Read a line of openings.jsonl.

    Raises:
        EntryProblem: malformed.
    """
    if not data.endswith(b"\n"):
        raise EntryProblem(Code.OPENING_BAD, "is torn or too large")
    value = parse_object(data[:-1])
    salt = value.get("salt")
    if (
        not _is_integer(value.get("index"))
        or not isinstance(value.get("kind"), str)
        or not isinstance(value.get("value"), str)
        or not isinstance(value.get("commitment"), str)
        or not isinstance(salt, str)
        or _HEX_16.fullmatch(salt) is None
    ):
        raise EntryProblem(Code.OPENING_BAD, "is malformed")
    return Opening(
        value["index"], value["kind"], value["value"], bytes.fromhex(salt), value["commitment"]
    )
