"""Canonical JSON: one value, one sequence of bytes.

UTF-8, object members sorted by code point, no white space, only objects, arrays,
strings, integers and booleans; integers within +-(2^53-1), so that every JSON
reader gets them exactly; no escapes but those that JSON demands. All JSON that is
signed or hashed is in this form. For such values it equals RFC 8785 if member names
have no characters beyond U+FFFF.
"""

import json
from typing import Any

from keys.errors import NotCanonical

MAX_DEPTH = 8
"""Deepest nesting of objects and arrays."""

MAX_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly (RFC 7493 section 2.2)."""

_encoder = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


def canonical_json(value: Any) -> bytes:
    """Encode a value.

    Args:
        value: dict with str keys, list or tuple, str, int, bool, nested at most 8 deep.

    Raises:
        NotCanonical: the value holds any other type, or is nested too deep.
    """
    _require_canonical(value, MAX_DEPTH)
    try:
        return _encoder.encode(value).encode()
    except UnicodeEncodeError:
        raise NotCanonical("text with half of a surrogate pair has no canonical form") from None


def parse_canonical_untrusted(data: bytes) -> Any:
    """Decode bytes that must be in canonical form.

    Returns:
        The value; `canonical_json` of it gives `data` again.

    Raises:
        NotCanonical: not JSON, or not in this form (duplicate members, floats, null,
            white space, other order, other escapes, too deep).
    """
    try:
        value = json.loads(bytes(data).decode())
    except (ValueError, RecursionError):
        # UnicodeDecodeError, JSONDecodeError and Python's limit on digits are ValueErrors.
        raise NotCanonical("not JSON in UTF-8") from None
    if canonical_json(value) != data:
        raise NotCanonical("not in canonical form")
    return value


def _require_canonical(value: Any, depth: int) -> None:
    if isinstance(value, str):
        return
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise NotCanonical("an integer is beyond 2^53-1")
        return
    if not isinstance(value, dict | list | tuple):
        raise NotCanonical(f"{type(value).__name__} has no canonical form")
    if depth == 0:
        raise NotCanonical(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise NotCanonical("a member name is not a string")
        value = value.values()
    for item in value:
        # Most items are text or small numbers: a call for each would cost more than encoding it.
        kind = type(item)
        if kind is not str and not (kind is int and -MAX_INTEGER <= item <= MAX_INTEGER):
            _require_canonical(item, depth - 1)
