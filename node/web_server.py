"""HTTP on one connection, for listeners of the node: hypercorn, behind an interface without it.

A request is `Asked`, what it gets is an `Answer`. Bounds and timeouts are here: who is slow,
or says nothing, holds a connection for a while and nobody else's time.
"""

import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from node.failures import describe_unexpected

log = logging.getLogger("radmesh.web")

STALL_SECONDS = 60.0
"""Longest wait for the next bytes of a body, and for the other side to take `PIECE_BYTES`."""

HEAD_SECONDS = 15.0
"""Longest wait for the whole head of a request, and between two requests."""

HANDSHAKE_SECONDS = 15.0

PIECE_BYTES = 256 * 1024
"""Bytes that are sent at a time."""

UNREAD_BYTES = 4 * 1024 * 1024
UNREAD_SECONDS = 5.0
"""How much of a body that nobody wants is read, so that its sender sees the answer."""


class Gone(Exception):
    """The other side has closed its connection, or says nothing any more."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request.

    Attributes:
        method: such as `GET`.
        path, query: as they were sent, percent-encoded; what is not ASCII is refused before.
        headers: by lower-case name; several of one name are joined by commas.
        body: its bytes in pieces, once; raises `Gone`.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered.

    Attributes:
        status: of HTTP.
        headers: names and values, ASCII.
        body: all of it, or its pieces as they come; an error in between ends the connection, so
            that the other side knows that something is missing.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | AsyncGenerator[bytes | memoryview, None] = b""


Respond = Callable[[Asked], Awaitable[Answer]]


class PatientStream(trio.abc.Stream):
    """A connection whose other side has to take what is sent to it, in time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        # hypercorn asks it for the addresses.
        self.socket = stream.socket

    async def send_all(self, data: bytes | memoryview) -> None:
        with trio.move_on_after(STALL_SECONDS):
            await self._stream.send_all(data)
            return
        raise trio.BrokenResourceError("the other side takes nothing any more")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def server_config(name: str) -> Config:
    """How hypercorn works here; it logs errors by a logger with this name."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)
    config = Config()
    config.accesslog = None
    config.errorlog = logger
    config.graceful_timeout = 0.5
    return config


async def serve_application(application: Any, config: Config, stream: Any) -> None:
    """Serve an ASGI application on one connection until it is over."""
    await TCPServer(
        wrap_app(application, config.wsgi_max_body_size, "asgi"),
        config,
        WorkerContext(None),
        ConnectionState({}),
        stream,
    )


async def serve_requests(
    stream: PatientStream | trio.SSLStream, respond: Respond, hang_up: Callable[[], None]
) -> None:
    """Answer the requests of one connection until it is over.

    Args:
        stream: the connection.
        respond: answers one request; raises nothing.
        hang_up: ends the connection at once.
    """
    config = server_config("radmesh.web.http")
    config.keep_alive_timeout = HEAD_SECONDS
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    config.include_server_header = False
    config.h2_max_concurrent_streams = 8

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        await _Exchange(scope, receive, send, hang_up).run(respond)

    await serve_application(application, config, stream)


@dataclass
class _Exchange:
    """One request and its answer."""

    scope: Any
    receive: Any
    send: Any
    hang_up: Callable[[], None]
    is_read: bool = False
    unread: int = field(default=0)

    async def run(self, respond: Respond) -> None:
        asked = self._asked()
        if asked is None:
            await self._send(Answer(status=400))
            return
        async with trio.open_nursery() as nursery:
            has_body = asked.method not in ("GET", "HEAD", "OPTIONS")
            if not has_body:
                nursery.start_soon(self._wait_gone, nursery.cancel_scope)
            try:
                answer = await respond(asked)
            except Gone:
                answer = Answer(status=408, headers=(("connection", "close"),))
            if has_body:
                nursery.start_soon(self._wait_gone, nursery.cancel_scope)
            try:
                await self._send(answer)
            except Exception as error:
                # The connection ends without the end of the answer.
                log.error("an answer was cut off: %s", describe_unexpected(error))
                self.hang_up()
            if not self.is_read:
                await trio.sleep(UNREAD_SECONDS)
                self.hang_up()
            nursery.cancel_scope.cancel()

    def _asked(self) -> Asked | None:
        headers: dict[str, str] = {}
        for name, value in self.scope["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        try:
            path = self.scope["raw_path"].decode("ascii")
            query = self.scope["query_string"].decode("ascii")
        except UnicodeDecodeError:
            return None
        return Asked(
            method=self.scope["method"],
            path=path,
            query=query,
            headers=headers,
            body=self._body(),
        )

    async def _body(self) -> AsyncIterator[bytes]:
        while not self.is_read:
            message = None
            with trio.move_on_after(STALL_SECONDS):
                message = await self.receive()
            if message is None or message["type"] != "http.request":
                self.is_read = True
                raise Gone
            self.is_read = not message.get("more_body", False)
            if message["body"]:
                yield message["body"]

    async def _wait_gone(self, scope: trio.CancelScope) -> None:
        """Read what nobody wants, and end what is under way when the other side goes."""
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                self.is_read = True
                scope.cancel()
                return
            self.is_read = self.is_read or not message.get("more_body", False)
            self.unread += len(message["body"])
            if self.unread > UNREAD_BYTES:
                self.hang_up()

    async def _send(self, answer: Answer) -> None:
        headers = list(answer.headers)
        if isinstance(answer.body, bytes):
            headers.append(("content-length", str(len(answer.body))))
        await self.send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [(name.encode("ascii"), text.encode("ascii")) for name, text in headers],
            }
        )
        if isinstance(answer.body, bytes):
            await self._send_piece(answer.body)
        elif self.scope["method"] == "HEAD":
            # Nothing of it is sent, so nothing is read for it.
            await answer.body.aclose()
        else:
            async with contextlib.aclosing(answer.body) as pieces:
                async for piece in pieces:
                    await self._send_piece(piece)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_piece(self, data: bytes | memoryview) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            body = data[start : start + PIECE_BYTES]
            await self.send({"type": "http.response.body", "body": body, "more_body": True})


def quickly(stream: trio.SocketStream) -> None:
    """Send small answers at once."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
