"""Deflated data sets, read forward as the walker reads (PS3.5 section A.5)."""

import zlib

from node.dicom.elements import WINDOW_BYTES, BadInstance, Read

MAX_INFLATED_BYTES = 256 * 1024 * 1024
"""Most bytes that a deflated data set may grow to. They are walked, not kept; the limit is
for the time, since a zip bomb grows by a factor of a thousand."""

MAX_WHOLE_BYTES = 64 * 1024 * 1024
"""Most bytes of a deflated data set that is held in memory as a whole."""

_TRAILER_BYTES = 8
"""A gzip trailer: CRC-32 and size."""


class Inflater:
    """Reads a deflated data set forward, keeping one window (PS3.5 section A.5)."""

    def __init__(self, read: Read, start: int, *, complete: bool) -> None:
        self._read = read
        self._complete = complete
        self._source = start
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._data = bytearray()
        self._base = 0
        self._pending = b""

    def read(self, position: int, length: int) -> bytes:
        """Bytes of the inflated data; forward only.

        Raises:
            BadInstance: the data is cut, not deflated, or grows beyond the limit.
        """
        if position < self._base:
            raise BadInstance("cannot be read backwards")
        while self._base + len(self._data) < position + length:
            drop = min(position - self._base, len(self._data))
            if drop > 0:
                del self._data[:drop]
                self._base += drop
            if not self._more():
                break
        begin = position - self._base
        return bytes(self._data[begin : begin + length])

    def _more(self) -> bool:
        if self._inflate.eof:
            return False
        if not self._pending:
            self._pending = self._read(self._source, WINDOW_BYTES)
            self._source += len(self._pending)
            if not self._pending:
                if not self._complete:
                    return False
                raise BadInstance("is cut: the deflated data has no end")
        try:
            self._data += self._inflate.decompress(self._pending, WINDOW_BYTES)
        except zlib.error:
            raise BadInstance("has deflated data that cannot be inflated") from None
        self._pending = self._inflate.unconsumed_tail
        if self._base + len(self._data) > MAX_INFLATED_BYTES:
            raise BadInstance(f"inflates to more than {MAX_INFLATED_BYTES} bytes")
        return True

    def check_end(self) -> int:
        """Inflate to the end of the deflated data and count the bytes after it.

        Returns:
            The number of bytes that follow, other than zero bytes. Writers in use leave
            a gzip trailer there, which readers skip.

        Raises:
            BadInstance: the data has no end, or more than a trailer follows.
        """
        while not self._inflate.eof:
            self._base += len(self._data)
            self._data.clear()
            self._more()
        rest = self._inflate.unused_data
        count = 0
        while rest:
            count += len(rest) - rest.count(0)
            if count > _TRAILER_BYTES:
                raise BadInstance("has bytes behind its deflated data")
            rest = self._read(self._source, WINDOW_BYTES)
            self._source += len(rest)
        return count


def inflated(read: Read, start: int) -> tuple[Read, int]:
    """A whole deflated data set in memory: a function that reads it, and its size in bytes.

    Raises:
        BadInstance: it is not deflated, or grows beyond `MAX_WHOLE_BYTES`.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    data = bytearray()
    while not engine.eof:
        piece = read(start, WINDOW_BYTES)
        start += len(piece)
        if not piece:
            break
        try:
            data += engine.decompress(piece, MAX_WHOLE_BYTES - len(data) + 1)
        except zlib.error:
            raise BadInstance("has deflated data that cannot be inflated") from None
        if len(data) > MAX_WHOLE_BYTES:
            raise BadInstance(f"inflates to more than {MAX_WHOLE_BYTES} bytes")
    whole = bytes(data)
    return lambda offset, length: whole[offset : offset + length], len(whole)
