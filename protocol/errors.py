"""Errors of the protocol package.

Two kinds matter to a caller: `LocalProtocolError` is our own misuse,
`RemoteProtocolError` is a peer (or a file that came from one) breaking a rule.
A `RemoteProtocolError` carries a `WireCode`, the only thing about it that may
be sent to the peer: never its text, which may name local state.
"""

import enum


class WireCode(enum.IntEnum):
    """Reasons that cross the wire, the closed table of docs/protocol.md section 3.4.

    A code that we do not know is read as `OTHER`.
    """

    OTHER = 0
    MALFORMED = 1
    UNEXPECTED = 2
    TOO_LARGE = 3
    BAD_SIGNATURE = 4
    BAD_DIGEST = 5
    BAD_PROOF = 6
    NOT_GRANTED = 10
    NOT_AVAILABLE = 11
    PURPOSE_NOT_ALLOWED = 12
    BUSY = 13
    SHUTTING_DOWN = 14
    CLOCK_SKEW = 15
    STORAGE_FULL = 16
    SOURCE_DISK = 17
    NOT_NEEDED = 18
    LOG_IN_DOUBT = 19
    WAITING = 20
    RETRIEVING = 21
    NOT_RETRIEVED = 22

    @classmethod
    def from_wire(cls, value: int) -> "WireCode":
        """Map an integer from a peer to a code; an unknown one becomes `OTHER`."""
        try:
            return cls(value)
        except ValueError:
            return cls.OTHER


class ProtocolError(Exception):
    """Root of this package's errors."""


class LocalProtocolError(ProtocolError):
    """We, or our caller, tried an action that the protocol does not allow now."""


class RemoteProtocolError(ProtocolError):
    """The peer, or bytes that came from one, broke a rule.

    Attributes:
        code: the reason that may be sent to the peer.
    """

    def __init__(self, message: str, code: WireCode = WireCode.MALFORMED) -> None:
        super().__init__(message)
        self.code = code


class DigestMismatch(RemoteProtocolError):
    """Content does not have its promised digest."""

    def __init__(self, message: str) -> None:
        super().__init__(message, WireCode.BAD_DIGEST)
