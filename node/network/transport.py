"""The transport of a connection's bytes: TCP, unless a node is given another one.

A transport knows nothing of peers and keys. It makes lines; a line carries bytes in order to one
other node, or reports that it has ended. Noise runs on top. So a test can run whole nodes in one
process on lines that it cuts and delays (`tests/simulator/simulator.py`), and another way to reach
a peer would be added here.
"""

import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import trio

from node.network.sockets import bound_address, dial, open_listeners, remote_host

Bytes = bytes | bytearray | memoryview


class Line(trio.abc.AsyncResource):
    """One connection below Noise."""

    @property
    @abstractmethod
    def host(self) -> str:
        """The caller's host, as limits count it; "" when the caller was gone already."""

    @property
    @abstractmethod
    def address(self) -> tuple[str, int] | None:
        """Host and port of the other end, if it is still connected."""

    @abstractmethod
    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; returns how many came, 0 at the end.

        Raises:
            OSError, trio.ClosedResourceError: the line has ended.
        """

    @abstractmethod
    async def send_some(self, parts: Sequence[Bytes]) -> int:
        """Send as much as the line accepts; returns how many bytes.

        Raises:
            OSError, trio.ClosedResourceError: the line has ended.
        """

    @abstractmethod
    def send_now(self, data: Bytes) -> None:
        """Send as much as the line accepts without waiting.

        Raises:
            OSError: the line accepts nothing.
        """

    @abstractmethod
    def close(self) -> None:
        """End the line now; waiting readers and writers wake up."""

    async def aclose(self) -> None:
        """As `close`."""
        self.close()
        await trio.lowlevel.checkpoint()


class Listener(trio.abc.Listener[Line]):
    """Accepts lines."""

    @property
    @abstractmethod
    def address(self) -> str:
        """The multiaddr that it is bound to."""

    @abstractmethod
    def close(self) -> None:
        """Accept no more callers."""

    async def aclose(self) -> None:
        """As `close`."""
        self.close()
        await trio.lowlevel.checkpoint()


class Transport(Protocol):
    """Makes lines."""

    async def dial(self, address: str, *, timeout_seconds: float) -> Line:
        """Open a line to a multiaddr.

        Raises:
            Unreachable: with the reason.
        """

    async def listen(self, addresses: Sequence[str]) -> list[Listener]:
        """Accept callers at every address, or at none.

        Raises:
            NodeError: one of them cannot be listened on.
        """


class TcpLine(Line):
    """A line over a TCP connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._socket = stream.socket

    @property
    def host(self) -> str:
        return remote_host(self._stream)

    @property
    def address(self) -> tuple[str, int] | None:
        try:
            host, port = self._socket.getpeername()[:2]
        except OSError:
            return None
        return host, port

    async def receive_into(self, buffer: memoryview) -> int:
        return await self._socket.recv_into(buffer)

    async def send_some(self, parts: Sequence[Bytes]) -> int:
        return await self._socket.sendmsg(parts)

    def send_now(self, data: Bytes) -> None:
        os.write(self._socket.fileno(), data)

    def close(self) -> None:
        self._socket.close()


class TcpListener(Listener):
    """Accepts TCP connections."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._address = bound_address(listener)

    @property
    def address(self) -> str:
        return self._address

    async def accept(self) -> TcpLine:
        return TcpLine(await self._listener.accept())

    def close(self) -> None:
        self._listener.socket.close()


class TcpTransport:
    """Lines over TCP."""

    async def dial(self, address: str, *, timeout_seconds: float) -> Line:
        """See `Transport`."""
        return TcpLine(await dial(address, timeout_seconds=timeout_seconds))

    async def listen(self, addresses: Sequence[str]) -> list[Listener]:
        """See `Transport`."""
        return [TcpListener(listener) for listener in await open_listeners(addresses)]


TCP = TcpTransport()
"""The transport of a node that is not given another."""
