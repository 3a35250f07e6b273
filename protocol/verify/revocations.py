"""Whether a log records a disclosure to a facility after it recorded that trust was revoked.

A sound log can record that the node went on after `trust-revoked`. The log is then
correct, but the auditor must be told.
"""

from protocol.verify.entries import Entry

_TRACKED = 10_000
"""Most revoked facilities, and most unfinished transfers, that are remembered."""

_ENDING = ("disclosed", "disclosure-failed")
_TELLING = ("announced", "find-answered", "disclosure-begun", *_ENDING)

_FAILED = b'"outcome":"failed"'


_VALUE = 64
"""Characters of a key in hex; a longer text is cut."""


class Revocations:
    """The facilities whose trust is revoked as of the last entry read."""

    def __init__(self) -> None:
        self._revoked: dict[bytes, int] = {}
        self._begun: dict[bytes, int] = {}

    def check(self, entry: Entry, index: int) -> str | None:
        """Take the next entry; returns a reason if it is a forbidden disclosure, else None."""
        kind = entry.type
        if kind == "trust-revoked":
            if _FAILED not in entry.data and len(self._revoked) < _TRACKED:
                self._revoked[_value(entry.data, b"peer")] = index
        elif kind == "trust-added":
            if _FAILED not in entry.data:
                self._revoked.pop(_value(entry.data, b"peer"), None)
        elif kind in _TELLING:
            return self._check_disclosure(entry, index)
        return None

    def _check_disclosure(self, entry: Entry, index: int) -> str | None:
        begun = None
        if entry.type == "disclosure-begun":
            if len(self._begun) >= _TRACKED:
                del self._begun[next(iter(self._begun))]
            self._begun[_value(entry.data, b"transfer")] = index
        elif entry.type in _ENDING:
            begun = self._begun.pop(_value(entry.data, b"transfer"), None)
        since = self._revoked.get(_value(entry.data, b"peer")) if self._revoked else None
        if since is None or entry.type == "disclosure-failed":
            return None
        if begun is not None and begun < since:
            # The disclosure had begun before the trust was revoked; this entry is its end.
            return None
        return (
            f"tells of a disclosure to a facility whose trust entry {since} revoked, and which "
            "was not trusted anew"
        )


def _value(data: bytes, name: bytes) -> bytes:
    """The hex digits after a name. In canonical JSON a quote inside a string has a backslash,
    so the quoted name can only be a member's name."""
    mark = b'"' + name + b'":"'
    start = data.find(mark) + len(mark)
    end = min(data.find(b'"', start), start + _VALUE)
    return data[start:end] if start >= len(mark) else b""
