"""Reading log entries strictly (docs/protocol-log.md section 2).

Most entries are plain: ten fields, ASCII without escapes. One regular expression
recognizes these at a fraction of the cost of decoding JSON. Other entries are decoded,
encoded again and compared. For an entry that the expression matches, decoding gives the
same values.
"""

import functools
import json
import re
from datetime import date
from typing import Any, NamedTuple, NoReturn

from protocol.verify.verdict import Code

ENTRY_BYTES = 65_535

_INTEGER_LIMIT = 2**53 - 1

_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z"
_TIME = re.compile(_DAY + _CLOCK)
_HEX_32 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TYPE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_ACTOR = r"(?:node|operator|[A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})"
_OUTCOME = r"(?:success|refused|failed)"
KIND = r"(?:study|patient|instance|person|facts|asker|message|note)"
"""Pattern of a field that has a closed list of values."""

_CLOSED = {"actor": re.compile(_ACTOR), "outcome": re.compile(_OUTCOME)}
_KINDS = re.compile(KIND)

_FIELDS = 10
"""Number of fields in an entry of version 1; further fields are accepted if they are plain."""

_DEPTH = 8
"""Deepest nesting, the entry itself included: seven arrays around a number."""

PLAIN = r"[ !#-\[\]-~]*"
"""Pattern of text without escapes."""

NUMBER = r"(?:0|[1-9][0-9]{0,14})"
"""Pattern of integers with so few digits that they are always in range."""

_DETAIL = rf'"[a-z][a-z0-9_]{{0,63}}":(?:"{PLAIN}"|{NUMBER}|-[1-9][0-9]{{0,14}}|true|false)'
_SUBJECT = rf'\{{"commitment":"[0-9a-f]{{64}}","kind":"{KIND}"\}}'
_PLAIN_ENTRY = re.compile(
    (
        rf'\{{"actor":"{_ACTOR}","details":\{{((?:{_DETAIL}(?:,{_DETAIL})*)?)\}},'
        rf'"index":({NUMBER}),"outcome":"{_OUTCOME}","peer":"(?:[0-9a-f]{{64}})?",'
        rf'"purpose":"{PLAIN}","subjects":\[((?:{_SUBJECT}(?:,{_SUBJECT})*)?)\],'
        rf'"time":"(({_DAY}){_CLOCK})","type":"([a-z][a-z0-9-]{{0,63}})","v":1\}}'
    ).encode()
)
_SUBJECT_START = b'{"commitment":"'
_DETAIL_NAME = re.compile(rb'"([a-z][a-z0-9_]*)":')


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
    """Canonical JSON of a value that has a canonical form."""
    return _encode(value).encode()


class Entry(NamedTuple):
    """The fields that are checked in every entry; others are decoded where they are needed.

    Attributes:
        place: the index that the entry claims.
        time: its time as text, which sorts like the times.
        type: what happened.
        subjects: its subjects, as encoded; see `commitments` and `has_subject`.
        names_receipt: whether its details may name a receipt.
        names_stored: likewise a statement that a study is stored.
        data: the bytes of the entry.
    """

    place: int
    time: str
    type: str
    subjects: bytes
    names_receipt: bool
    names_stored: bool
    data: bytes

    @property
    def commitments(self) -> int:
        """The number of its subjects."""
        return self.subjects.count(_SUBJECT_START)

    def has_subject(self, subject: bytes) -> bool:
        """Whether an object, in canonical JSON, is one of its subjects.

        A substring search is enough: subjects contain no nested objects, and inside a
        string every quote has a backslash before it.
        """
        return subject in self.subjects

    @property
    def fields(self) -> dict[str, Any]:
        """All its fields; each call decodes them anew."""
        value: dict[str, Any] = _decode(self.data.decode())
        return value


def parse_entry(data: bytes) -> Entry:
    """Read an entry; every field must have the right type.

    Raises:
        EntryProblem: ENTRY_PARSE or ENTRY_NOT_CANONICAL.
    """
    if len(data) > ENTRY_BYTES:
        raise EntryProblem(Code.ENTRY_PARSE, f"is larger than {ENTRY_BYTES} bytes")
    return parse_plain_entry(data) or parse_any_entry(data)


def parse_plain_entry(data: bytes) -> Entry | None:
    """`parse_entry` for plain entries; None for all others, including bad entries."""
    found = _PLAIN_ENTRY.fullmatch(data)
    if found is None:
        return None
    details, index, subjects, time, day, kind = found.groups()
    if not _ascends(details) or not _is_day(day):
        return None
    return Entry(
        int(index),
        time.decode(),
        kind.decode(),
        subjects,
        b'"receipt":' in details,
        b'"stored":' in details,
        data,
    )


def parse_any_entry(data: bytes) -> Entry:
    """`parse_entry` for entries that need not be plain.

    Raises:
        EntryProblem: ENTRY_PARSE or ENTRY_NOT_CANONICAL.
    """
    entry = parse_object(data)
    _check_fields(entry)
    return Entry(
        entry["index"],
        entry["time"],
        entry["type"],
        canonical(entry["subjects"])[1:-1],
        "receipt" in entry["details"],
        "stored" in entry["details"],
        data,
    )


def _ascends(details: bytes) -> bool:
    """Whether the names of plain details are sorted and unique."""
    names = _DETAIL_NAME.findall(details)
    return len(names) < 2 or all(map(bytes.__lt__, names, names[1:]))


@functools.lru_cache(maxsize=64)
def _is_day(day: bytes) -> bool:
    try:
        date.fromisoformat(day.decode())
    except ValueError:
        return False
    return True


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
    except RecursionError:
        # Encoding takes a little more of the stack than decoding.
        raise EntryProblem(Code.ENTRY_PARSE, "is nested too deep") from None
    return value


def _check_fields(entry: dict[str, Any]) -> None:
    get = entry.get
    if get("v") != 1 or get("v") is True:
        raise EntryProblem(Code.ENTRY_PARSE, "is not of version 1")
    if not isinstance(get("purpose"), str):
        raise EntryProblem(Code.ENTRY_PARSE, "lacks the text of its purpose")
    for name, closed in _CLOSED.items():
        if not _is_one(get(name), closed):
            raise EntryProblem(Code.ENTRY_PARSE, f"has an {name} that entries do not have")
    if not is_count(get("index")):
        raise EntryProblem(Code.ENTRY_PARSE, "has no index")
    time = get("time")
    if not isinstance(time, str) or _TIME.fullmatch(time) is None:
        raise EntryProblem(Code.ENTRY_PARSE, "has no time")
    if not _is_day(time[:10].encode()):
        raise EntryProblem(Code.ENTRY_PARSE, "is dated to a day that does not exist")
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


def is_count(value: object) -> bool:
    """Whether a decoded value is an integer from 0 to 2^53-1."""
    return type(value) is int and 0 <= value <= _INTEGER_LIMIT


def _is_small(value: object) -> bool:
    return isinstance(value, int) and -_INTEGER_LIMIT <= value <= _INTEGER_LIMIT


def _is_one(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_subject(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"commitment", "kind"}
        and _is_one(value["kind"], _KINDS)
        and _is_one(value["commitment"], _HEX_32)
    )


def _is_plain(value: object, depth: int) -> bool:
    if depth == 0 or value is None:
        return False
    if isinstance(value, dict):
        return all(_is_plain(each, depth - 1) for each in value.values())
    if isinstance(value, list):
        return all(_is_plain(each, depth - 1) for each in value)
    return isinstance(value, str) or _is_small(value)
