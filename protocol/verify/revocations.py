"""Whether a log tells of a disclosure to a facility whose trust it says was revoked.

A sound log can tell of a node that went on after `trust-revoked`. That is no fault of the
log, and the first thing that an auditor wants to hear.
"""

from protocol.verify.entries import Entry

_TRACKED = 10_000
"""Most revoked facilities, and most transfers without an end, that are kept in mind."""

_FAILED = b'"outcome":"failed"'


_VALUE = 64
"""Characters of a key; a text that is longer is not kept."""


class Revocations:
    """What is revoked at the place that has been read."""

    def __init__(self) -> None:
        self._revoked: dict[bytes, int] = {}
        self._begun: dict[bytes, int] = {}

    def check(self, entry: Entry, index: int) -> str | None:
        """Take the next entry; the reason when it is a disclosure that must not be, or None."""
        kind = entry.type
        if kind == "trust-revoked":
            if _FAILED not in entry.data and len(self._revoked) < _TRACKED:
                self._revoked[_value(entry.data, b"peer")] = index
        elif kind == "trust-added":
            if _FAILED not in entry.data:
                self._revoked.pop(_value(entry.data, b"peer"), None)
        elif kind in ("announced", "disclosure-begun", "disclosed", "disclosure-failed"):
            return self._check_disclosure(entry, index)
        return None

    def _check_disclosure(self, entry: Entry, index: int) -> str | None:
        begun = None
        if entry.type == "disclosure-begun":
            if len(self._begun) >= _TRACKED:
                del self._begun[next(iter(self._begun))]
            self._begun[_value(entry.data, b"transfer")] = index
        elif entry.type != "announced":
            begun = self._begun.pop(_value(entry.data, b"transfer"), None)
        since = self._revoked.get(_value(entry.data, b"peer")) if self._revoked else None
        if since is None or entry.type == "disclosure-failed":
            return None
        if begun is not None and begun < since:
            # It was under way when the trust was revoked; this is its end.
            return None
        return (
            f"tells of a disclosure to a facility whose trust entry {since} revoked, and which "
            "was not trusted anew"
        )


def _value(data: bytes, name: bytes) -> bytes:
    """The hex digits behind a name; in canonical JSON no string holds a quote without a
    backslash, so the name with its quotes is a name."""
    mark = b'"' + name + b'":"'
    start = data.find(mark) + len(mark)
    end = min(data.find(b'"', start), start + _VALUE)
    return data[start:end] if start >= len(mark) else b""
