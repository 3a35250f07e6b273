"""multistream-select 1.0 on a new stream: agreeing on its protocol.

The side that opens a stream sends the header, the one protocol that it wants and its first request
in one flight, and looks at the answers when it first reads (go- and js-libp2p call this lazy
negotiation). Each answer by itself follows the specification, so that a peer may also negotiate
step by step. Bytes in, bytes out; waiting and deadlines belong to `node/network/streams.py` and
`node/network/connection.py`.
"""

from collections.abc import Container

HEADER = "/multistream/1.0.0"
NOT_HERE = "na"
LINE_BYTES = 1024
"""Most bytes of one line; our longest protocol name has 20."""

PROPOSALS = 16
"""Most protocols that may be asked for on a stream; we ask for one."""

Bytes = bytes | bytearray | memoryview


class BadLine(Exception):
    """The bytes are not a line of multistream-select, or not the expected line."""


class Declined(Exception):
    """The peer does not accept the protocol."""


def encode_line(text: str) -> bytes:
    """A line on the wire: its length as a varint, the text, a newline.

    Raises:
        ValueError: the line is longer than `LINE_BYTES`.
    """
    line = text.encode() + b"\n"
    if len(line) > LINE_BYTES:
        raise ValueError("a protocol name is too long")
    if len(line) < 0x80:
        return bytes((len(line),)) + line
    return bytes((len(line) & 0x7F | 0x80, len(line) >> 7)) + line


def proposal(protocol_id: str) -> bytes:
    """The first bytes of a stream that is opened for a protocol."""
    return encode_line(HEADER) + encode_line(protocol_id)


class LineReader:
    """Cuts lines out of a stream, without taking a byte of the data that follows them.

    Attributes:
        missing: how many bytes it can take now.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.missing = 1
        self._length: int | None = None
        self._prefix = b""
        self._line = bytearray()

    def receive_untrusted(self, data: Bytes) -> str | None:
        """Take up to `missing` bytes; returns the line once it is whole.

        Raises:
            BadLine: the line is too long, empty, without a newline at its end, or not UTF-8.
        """
        if self._length is None:
            self._prefix += data
            last = self._prefix[-1]
            if last & 0x80:
                if len(self._prefix) == 2:
                    raise BadLine("a line is too long")
                return None
            self._length = sum((byte & 0x7F) << 7 * at for at, byte in enumerate(self._prefix))
            if not 1 <= self._length <= LINE_BYTES:
                raise BadLine("a line is empty or too long")
            self.missing = self._length
            return None
        self._line += data
        self.missing -= len(data)
        if self.missing:
            return None
        line = bytes(self._line)
        self._begin()
        if not line.endswith(b"\n"):
            raise BadLine("a line has no end")
        try:
            return line[:-1].decode()
        except UnicodeDecodeError:
            raise BadLine("a line is not text") from None


class Answers:
    """Checks the peer's answers to a `proposal`, at the side that opened the stream.

    Attributes:
        missing: how many bytes it can take now.
    """

    def __init__(self, protocol_id: str) -> None:
        self._expected = [HEADER, protocol_id]
        self._lines = LineReader()

    @property
    def missing(self) -> int:
        """How many bytes it can take now."""
        return self._lines.missing

    def receive_untrusted(self, data: Bytes) -> bool:
        """Take up to `missing` bytes; returns whether the peer has agreed.

        Raises:
            Declined: the peer does not accept the protocol.
            BadLine: the peer answers something else.
        """
        line = self._lines.receive_untrusted(data)
        if line is None:
            return False
        if line == NOT_HERE and len(self._expected) == 1:
            raise Declined("the peer does not take the protocol")
        if line != self._expected.pop(0):
            raise BadLine("an answer is not the one that must come")
        return not self._expected


class Choice:
    """Finds out which of our protocols a peer asks for, at the side that did not open the stream.

    Attributes:
        chosen: the protocol, once it is known.
    """

    def __init__(self, protocols: Container[str]) -> None:
        self.chosen: str | None = None
        self._protocols = protocols
        self._lines = LineReader()
        self._greeted = False
        self._proposals = 0

    @property
    def missing(self) -> int:
        """How many bytes it can take now."""
        return self._lines.missing

    def receive_untrusted(self, data: Bytes) -> bytes:
        """Take up to `missing` bytes; returns the bytes to answer.

        Raises:
            BadLine: the peer does not speak multistream-select 1.0, or asks without end.
        """
        line = self._lines.receive_untrusted(data)
        if line is None:
            return b""
        if not self._greeted:
            if line != HEADER:
                raise BadLine("the peer does not speak multistream-select")
            self._greeted = True
            return encode_line(HEADER)
        self._proposals += 1
        if self._proposals > PROPOSALS:
            raise BadLine("the peer asks for too many protocols")
        if line not in self._protocols:
            return encode_line(NOT_HERE)
        self.chosen = line
        return encode_line(line)
