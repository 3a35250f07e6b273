"""A TLS client over a trio socket that knows whether the other side has read everything.

The standard classes end a connection normally after any final message of the other side,
even a fatal alert. This class distinguishes the ends: `end_confirmed` is true only after
the other side's close_notify. Many collectors omit that, so an equivalent TCP end counts,
too: our bytes are acknowledged and the connection is not reset. (A socket that is closed
with bytes unread, or gets bytes when it is closed, answers with a reset: RFC 1122 section
4.2.2.13, RFC 2525 section 2.17.)
"""

import fcntl
import functools
import socket
import ssl
import struct
import sys
import termios
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

_READ_BYTES = 16 * 1024
_POLL_SECONDS = 0.02
_CLOSE_WAIT = 8
"""State of a TCP connection in Linux: the other side has closed it without a reset."""


class TlsClient:
    """The client's end of one connection.

    Args:
        transport: a connected socket.
        context: the trusted authorities, and our certificate.
        host: the name that the other side's certificate must have.
    """

    def __init__(self, transport: trio.SocketStream, context: ssl.SSLContext, host: str) -> None:
        self._transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def handshake(self) -> None:
        """Agree on keys and check the certificate.

        Raises:
            ssl.SSLError: the certificate is not valid, or the handshake fails otherwise.
            trio.BrokenResourceError: the connection is lost.
        """
        await self._run(self._tls.do_handshake)

    async def send_all(self, data: bytes) -> None:
        """Send data.

        Raises:
            ssl.SSLError, trio.BrokenResourceError: the connection is lost.
        """
        view = memoryview(data)
        while view:
            view = view[await self._run(functools.partial(self._tls.write, view)) :]

    async def end_confirmed(self) -> bool:
        """End our side and wait for the other; returns whether it has read all that was sent.

        Raises:
            ssl.SSLError, trio.BrokenResourceError: the other side broke off.
        """
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        else:
            return False  # The other side had ended before we did.
        await self._flush()
        while True:
            try:
                self._tls.read(_READ_BYTES)
            except ssl.SSLZeroReturnError:
                return True
            except ssl.SSLWantReadError:
                data = await self._transport.receive_some(_READ_BYTES)
                if not data:
                    return await self._ended_by_tcp()
                self._incoming.write(data)

    async def _ended_by_tcp(self) -> bool:
        if sys.platform != "linux":
            return False
        connected = self._transport.socket
        while _unacknowledged_bytes(connected):  # noqa: ASYNC110 (the kernel tells nobody)
            await trio.sleep(_POLL_SECONDS)
        return _state(connected) == _CLOSE_WAIT

    async def _run(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._transport.receive_some(_READ_BYTES)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
                continue
            await self._flush()
            return result

    async def _flush(self) -> None:
        while self._outgoing.pending:
            await self._transport.send_all(self._outgoing.read())


def _unacknowledged_bytes(connected: trio.socket.SocketType) -> int:
    buffer = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", buffer)[0])


def _state(connected: trio.socket.SocketType) -> int:
    return connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
