"""One setting: its kind, and which values are allowed."""

import json
import re
from dataclasses import dataclass
from typing import Any

from node.edges.dimse_settings import is_local, is_place
from node.notices.settings import RECIPIENTS, is_address, is_relay, is_url
from protocol.fields import is_uid

_CHECKS = {
    "local": is_local,
    "url": is_url,
    "relay": is_relay,
    "address": is_address,
    "uid": is_uid,
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row.

    Attributes:
        name: with its table in front, as in `audit.witness_quorum`.
        kind: `number`, `text`, `texts`, `places` (to listen at), `flag`, `choice`, `permissions`,
            `path` (absolute), `local` (to listen at, on the loopback), `url`, `relay`, `address`,
            `uid` (each of which may be empty), `addresses`, or `own`: then a reader (`limits`,
            `bandwidth`) checks it.
        default: value if it is missing; None if it is required, or has no default.
        sentence: its meaning, without a full stop.
        least, most: limits of a number.
        choices: allowed values of a choice.
        example: its value in the file of a new home, as a comment; with "", the file has the
            default, not as a comment.
    """

    name: str
    kind: str
    default: Any
    sentence: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    example: str = ""

    @property
    def table(self) -> str:
        """The table that contains it; "" for none."""
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        """Its name in its table."""
        return self.name.rpartition(".")[2]

    @property
    def expected(self) -> str:
        """The allowed values, for an error."""
        if self.kind == "number":
            return f"a number from {self.least:g} to {self.most:g}"
        if self.kind == "choice":
            return f"one of {', '.join(map(json.dumps, self.choices))}"
        return {
            "text": "a text",
            "texts": "a list of texts",
            "places": 'a list of IP addresses and ports, such as "10.1.2.3:11112"',
            "flag": "true or false",
            "permissions": 'permissions as a text, such as "0640"',
            "path": "an absolute path",
            "local": 'an address of this machine alone, and a port, such as "127.0.0.1:9464"',
            "url": "a URL that begins with https:// and has no user",
            "relay": 'a host and a port, such as "mail.hospital.example:25"',
            "address": "a mail address",
            "addresses": f"a list of at most {RECIPIENTS} mail addresses",
            "uid": "a UID, such as 1.2.3.4",
        }[self.kind]

    def is_fit(self, value: Any) -> bool:
        """Whether a value from a file is allowed."""
        if self.kind == "number":
            assert self.least is not None
            assert self.most is not None
            return type(value) is int and self.least <= value <= self.most
        if self.kind == "texts":
            return type(value) is list and all(type(item) is str for item in value)
        if self.kind == "places":
            return type(value) is list and all(type(one) is str and is_place(one) for one in value)
        if self.kind == "addresses":
            return (
                type(value) is list
                and len(value) <= RECIPIENTS
                and all(type(one) is str and is_address(one) for one in value)
            )
        if self.kind == "flag":
            return type(value) is bool
        if type(value) is not str:
            return False
        if self.kind == "choice":
            return value in self.choices
        if self.kind == "permissions":
            return _is_mode(value)
        if self.kind in _CHECKS:
            return value == "" or _CHECKS[self.kind](value)
        return self.kind != "path" or value == "" or value.startswith("/")


def parse_mode(text: str) -> int:
    """Permissions of a file from octal digits, such as 0640.

    Raises:
        ValueError: the text is malformed, or the owner could not read and write the file.
    """
    if re.fullmatch("0?[0-7]{3}", text) is None:
        raise ValueError("permissions are three octal digits, such as 0640")
    mode = int(text, 8)
    if mode & 0o111 or mode & 0o600 != 0o600:
        raise ValueError("permissions of a file are 0600, and 4 or 6 for others: 0640")
    return mode


def _is_mode(text: str) -> bool:
    try:
        parse_mode(text)
    except ValueError:
        return False
    return True
