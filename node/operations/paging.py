"""Long lists come in pages: `next` of an answer is passed back as `after`, until it is null.

A cursor holds the place of the last row, not a number of rows: rows added or deleted
meanwhile move no other row to another page. The node keeps nothing between two pages.
"""

import base64
import json
from typing import Any

from node.errors import ExitCode, NodeError

CURSOR_CHARACTERS = 2000


def cursor(*place: str | int) -> str:
    """A place in a list, as opaque text."""
    encoded = json.dumps(place, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(encoded).decode()


def place_of(given: str, *kinds: type) -> list[Any]:
    """The place in a text from `cursor`.

    Args:
        given: the cursor.
        kinds: types of the parts of the place.

    Raises:
        NodeError: the text is no cursor, or one of another list.
    """
    try:
        if len(given) > CURSOR_CHARACTERS:
            raise ValueError
        place = json.loads(base64.urlsafe_b64decode(given.encode()))
        if type(place) is not list or [type(part) for part in place] != list(kinds):
            raise ValueError
        if any(type(part) is int and not 0 <= part < 2**63 for part in place):
            raise ValueError
    except (ValueError, RecursionError):
        raise wrong_cursor() from None
    return place


def bytes_of(part: str) -> bytes:
    """Bytes from a part of a cursor in hex.

    Raises:
        NodeError: the part is not in hex.
    """
    try:
        return bytes.fromhex(part)
    except ValueError:
        raise wrong_cursor() from None


def wrong_cursor() -> NodeError:
    """The error that a text is no cursor of this list."""
    return NodeError(
        "the parameter after must be what next of an answer of this list was",
        code=ExitCode.USAGE,
    )
