"""multistream-select 1.0 on a new stream: which protocol it is for.

Who opens a stream sends the header, the one protocol that it wants and its first
request in one flight, and looks at the answers when it first reads (what go- and
js-libp2p call lazy negotiation); each answer by itself is as in the specification, so
that a peer may also take it step by step. Bytes in, bytes out; waiting and deadlines
belong to `node/network/streams.py` and `node/network/connection.py`.
"""

from collections.abc import Container

HEADER = "/multistream/1.0.0"
NOT_HERE = "na"
LINE_BYTES = 1024
"""Most bytes of one line; the longest protocol name of ours has 20."""

Bytes = bytes | bytearray | memoryview


class BadLine(Exception):
    """What came is not a line of multistream-select, or not the one that must come."""


class Declined(Exception):
    """The peer does not take the protocol."""


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
    """The first bytes of a stream of one protocol."""
    return encode_line(HEADER) + encode_line(protocol_id)


class LineReader:
    """Cuts lines out of a stream and takes no byte of what follows them.

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
            BadLine: too long, empty, no newline at its end, or not UTF-8.
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
    """What the peer must answer to a `proposal`, at the side that opened the stream.

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
            Declined: it does not take the protocol.
            BadLine: it answers something else.
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
    """Which of our protocols a peer asks for, at the side that the stream is opened to.

    Attributes:
        chosen: the protocol, once it is known.
    """

    def __init__(self, protocols: Container[str]) -> None:
        self.chosen: str | None = None
        self._protocols = protocols
        self._lines = LineReader()
        self._greeted = False

    @property
    def missing(self) -> int:
        """How many bytes it can take now."""
        return self._lines.missing

    def receive_untrusted(self, data: Bytes) -> bytes:
        """Take up to `missing` bytes; returns what to answer.

        Raises:
            BadLine: the peer does not speak multistream-select 1.0.
        """
        line = self._lines.receive_untrusted(data)
        if line is None:
            return b""
        if not self._greeted:
            if line != HEADER:
                raise BadLine("the peer does not speak multistream-select")
            self._greeted = True
            return encode_line(HEADER)
        if line not in self._protocols:
            return encode_line(NOT_HERE)
        self.chosen = line
        return encode_line(line)
