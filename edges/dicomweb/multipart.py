"""Bodies of several parts (RFC 2046 section 5.1, RFC 2387), written and read piece by piece."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

HEADER_BYTES = 8 * 1024
"""Longest headers of one part."""

PREAMBLE_BYTES = 64 * 1024
"""Most bytes before the first part."""

BOUNDARY_CHARACTERS = 70


class BadMultipart(Exception):
    """A body that is not of several parts; the text completes a sentence that begins with it."""


def part_head(boundary: str, headers: Iterable[tuple[str, str]], *, is_first: bool) -> bytes:
    """What stands before the content of a part; the content follows it as it is."""
    lines = [f"--{boundary}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return (b"" if is_first else b"\r\n") + "\r\n".join(lines).encode("ascii")


def end_of(boundary: str, *, is_empty: bool = False) -> bytes:
    """What stands behind the last part."""
    return (b"" if is_empty else b"\r\n") + f"--{boundary}--\r\n".encode("ascii")


@dataclass(frozen=True, slots=True)
class PartBegan:
    """A part begins; headers by lower-case name."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """Bytes of the part at hand."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part at hand is whole."""


Happened = PartBegan | PartData | PartEnded


class MultipartReader:
    """Reads a body as it comes.

    Args:
        boundary: as the Content-Type says.

    Raises:
        BadMultipart: the boundary cannot be one.
    """

    def __init__(self, boundary: str) -> None:
        if not 0 < len(boundary) <= BOUNDARY_CHARACTERS or not boundary.isascii():
            raise BadMultipart("has no boundary")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The first delimiter may stand at the very beginning.
        self._held = bytearray(b"\r\n")
        self._state = "preamble"
        self._skipped = 0

    @property
    def is_over(self) -> bool:
        """Whether the last part has ended."""
        return self._state == "over"

    def receive(self, data: bytes) -> Iterator[Happened]:
        """Take bytes; gives what they bring, and must be read to its end.

        Raises:
            BadMultipart: what comes is no such body.
        """
        self._held += data
        while True:
            if self._state in ("preamble", "content"):
                if not (yield from self._until_delimiter()):
                    return
            elif self._state == "headers":
                end = self._held.find(b"\r\n\r\n")
                if end > HEADER_BYTES or (end < 0 and len(self._held) > HEADER_BYTES):
                    raise BadMultipart("has a part with too long headers")
                if end < 0:
                    return
                headers = _headers(bytes(self._held[:end]))
                del self._held[: end + 4]
                self._state = "content"
                yield PartBegan(headers)
            else:
                # What follows the last part is to be ignored.
                self._held.clear()
                return

    def _until_delimiter(self) -> Generator[Happened, None, bool]:
        """Give content up to the next delimiter; returns whether that was found."""
        in_content = self._state == "content"
        at = self._held.find(self._delimiter)
        end = at + len(self._delimiter)
        kept = len(self._held) - len(self._delimiter) + 1 if at < 0 else at
        if at >= 0 and len(self._held) >= end + 2:
            following = bytes(self._held[end : end + 2])
            if following not in (b"--", b"\r\n") and following[:1] not in (b" ", b"\t"):
                # Content that looks like a delimiter and goes on.
                kept = end
                at = -2
        if kept > 0:
            data = bytes(self._held[:kept])
            del self._held[:kept]
            if in_content:
                yield PartData(data)
            else:
                self._skipped += kept
                if self._skipped > PREAMBLE_BYTES:
                    raise BadMultipart("does not begin with its boundary")
        if at == -2:
            return True
        if at < 0 or len(self._held) < len(self._delimiter) + 2:
            return False
        del self._held[: len(self._delimiter)]
        # The end of the delimiter's line stays: it is also that before the headers.
        self._state = "over" if self._held.startswith(b"--") else "headers"
        if in_content:
            yield PartEnded()
        return True


def _headers(block: bytes) -> dict[str, str]:
    found = {}
    # The first line is the rest of the delimiter: blanks.
    for line in block.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if line.strip() and not colon:
            raise BadMultipart("has a part with a header that is none")
        if colon:
            found[name.strip().lower()] = value.strip()
    return found
