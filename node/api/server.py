"""The server's side of the local API, on both its sockets: Starlette on hypercorn.

A request runs one operation. A client that disconnects cancels its operation, and
nothing else: work that must outlive a command (a fetch) belongs to the node, and the
operation only follows it.
"""

import contextlib
import functools
import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from node.api import people
from node.api.endpoint import listening
from node.app import Node
from node.blocking import in_thread
from node.callers import SERVICE, Caller, asked_by
from node.edges.dimse_settings import Address
from node.errors import ExitCode, NodeError
from node.failures import HTTP_STATUS, describe_error, describe_unexpected, single_node_error
from node.metrics import Metrics
from node.operations import OPERATIONS
from node.operations.base import Call, Report
from node.operations.permission import permitted

if TYPE_CHECKING:
    from node.serving import Serving

log = logging.getLogger("radmesh.api")

REQUEST_BYTES = 1024 * 1024
"""Most bytes of a request: a facility card (64 KiB) or a list of some thousand paths."""

PEOPLE_CONNECTIONS = 64
PERSON_CONNECTIONS = 16
"""Most connections of all people together, and of one person: a command needs one."""

METRICS_CONNECTIONS = 8
"""Most connections that read metrics at one time."""

METRICS_SECONDS = 30.0
"""Longest time for one of them; each gets one answer."""

PROGRESS_SECONDS = 0.1
"""Least time between two progress lines; of the events in between, only the last is sent."""

ALIVE_SECONDS = 5.0
"""After so long without progress, a line shows that the node is at work."""


async def serve_api(
    node: Node, serving: "Serving | None", socket_path: Path, ready: Callable[[], None]
) -> None:
    """Serve the local API until cancelled: to the owner; to people and metrics as settings say.

    Args:
        node: the node.
        serving: its network parts; None if it has none.
        socket_path: path of the owner's socket.
        ready: called once, when clients can connect.

    Raises:
        NodeError: a socket cannot be made.
    """
    with contextlib.ExitStack() as held:
        listener = held.enter_context(listening(socket_path))
        config = _config()
        # hypercorn takes over the descriptor and closes it.
        config.bind = [f"fd://{listener.detach()}"]
        # hypercorn and Starlette type the same ASGI messages differently.
        asgi: Any = application(node, serving, SERVICE)
        async with trio.open_nursery() as nursery:
            if node.settings.people.group:
                folder = node.settings.people.folder or f"{node.home.path}-people"
                second = held.enter_context(
                    people.listening_for_people(Path(folder), node.settings.people.group)
                )
                nursery.start_soon(_serve_people, node, serving, second)
            if node.settings.metrics is not None and serving is not None:
                listeners = await _metrics_listeners(node.settings.metrics)
                nursery.start_soon(_serve_metrics, Metrics(node, serving), listeners)
            await nursery.start(functools.partial(hypercorn.trio.serve, asgi, config, mode="asgi"))
            ready()


def _config() -> Config:
    logger = logging.getLogger("radmesh.api.http")
    logger.setLevel(logging.WARNING)
    config = Config()
    config.accesslog = None
    config.errorlog = logger
    config.graceful_timeout = 0.5
    return config


async def _serve_people(node: Node, serving: "Serving | None", listener: socket.socket) -> None:
    """Serve the people's socket until cancelled.

    The user is known from the connection, but hypercorn's own `serve` does not pass that to
    an application; so each connection gets an application of its own.
    """
    served: Counter[int] = Counter()

    async def serve(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await serve_user(stream, people.uid_of(stream.socket))  # type: ignore[arg-type]
        except Exception as error:
            log.error("a connection of a person ended: %s", describe_unexpected(error))

    async def serve_user(stream: trio.SocketStream, uid: int) -> None:
        if served[uid] >= PERSON_CONNECTIONS or served.total() >= PEOPLE_CONNECTIONS:
            log.warning("a user has too many connections to the people's socket")
            return
        served[uid] += 1
        try:
            caller = await in_thread(people.caller_of, uid)
            await _serve_connection(application(node, serving, caller), config, stream)
        finally:
            served[uid] -= 1
            if not served[uid]:
                del served[uid]

    config = _config()
    # The caller closes the socket that it made; trio works on a duplicate.
    async with trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup())) as own:
        await trio.serve_listeners(serve, [own])


async def _serve_connection(asgi: Any, config: Config, stream: trio.SocketStream) -> None:
    await TCPServer(
        wrap_app(asgi, config.wsgi_max_body_size, "asgi"),
        config,
        WorkerContext(None),
        ConnectionState({}),
        stream,  # type: ignore[arg-type]
    )


async def _metrics_listeners(place: Address) -> Sequence[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(place.port, host=place.host)
    except OSError as error:
        raise NodeError(
            f"the node cannot listen for metrics at {place.host} port {place.port}:"
            f" {error.strerror}",
            hint="see `metrics` in config.toml; is another program using the port?",
            code=ExitCode.BUSY,
        ) from error


async def _serve_metrics(metrics: Metrics, listeners: Sequence[trio.SocketListener]) -> None:
    """Serve the metrics until cancelled, to whoever is on this machine."""
    config, connections = _config(), 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        try:
            async with stream:
                if connections <= METRICS_CONNECTIONS:
                    with trio.move_on_after(METRICS_SECONDS):
                        await _serve_connection(metrics, config, stream)
        except Exception as error:
            log.error("a reader of metrics was left alone: %s", describe_unexpected(error))
        finally:
            connections -= 1

    await trio.serve_listeners(serve, listeners)


def application(node: Node, serving: "Serving | None", caller: Caller) -> Starlette:
    """The local API of a node as an ASGI application, for one caller."""
    return Starlette(
        routes=[
            Route("/v1/health", _health, methods=["GET"]),
            Route("/v1/{operation}", _Endpoint(node, serving, caller), methods=["POST"]),
        ]
    )


async def _health(_: Request) -> Response:
    return JSONResponse({"ok": True, "pid": os.getpid()})


class _Endpoint:
    """Answers `POST /v1/<operation>`."""

    def __init__(self, node: Node, serving: "Serving | None", caller: Caller) -> None:
        self._node = node
        self._serving = serving
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            parameters = await _read_parameters(Request(scope, receive))
            operation = scope["path_params"]["operation"]
            if operation not in OPERATIONS:
                raise NodeError(
                    f"the node has no operation {operation}",
                    hint="the command and the running node are of different versions: "
                    "start the node again",
                    code=ExitCode.USAGE,
                )
        except NodeError as error:
            status = HTTP_STATUS[error.code]
            await JSONResponse({"error": describe_error(error)}, status)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        await self._answer(operation, parameters, receive, send)

    async def _answer(
        self, operation: str, parameters: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        answer = _Answer(send)
        progress = _Progress()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
            async with trio.open_nursery() as sending:
                sending.start_soon(progress.forward, answer.send)
                answer.status, outcome = await self._outcome(operation, parameters, progress.report)
                progress.end()
            await answer.send({"type": "http.response.body", "body": outcome})
            nursery.cancel_scope.cancel()

    async def _outcome(
        self, operation: str, parameters: dict[str, Any], report: Report
    ) -> tuple[int, bytes]:
        try:
            asked = OPERATIONS[operation]
            caller = await in_thread(permitted, self._node, self._caller, asked)
            with asked_by(caller):
                call = Call(self._node, self._serving, caller, report)
                result = await asked.answer(call, parameters)
            return HTTP_STATUS[ExitCode.OK], _line({"result": result})
        except Exception as error:
            known = single_node_error(error)
            if known is None:
                what = describe_unexpected(error)
                log.error("the operation %s failed: %s", operation, what)
                known = NodeError(
                    f"the node met an error that it did not expect ({what})",
                    hint="see the log of `radmesh serve`; the node goes on",
                )
            return HTTP_STATUS[known.code], _line({"error": describe_error(known)})


class _Answer:
    """An answer with the status of its outcome, unless a line was sent before.

    The status comes before all lines: once an operation has reported progress, its status
    is 200, and its outcome is in the last line.
    """

    def __init__(self, send: Send) -> None:
        self.status = HTTP_STATUS[ExitCode.OK]
        self._send = send
        self._has_begun = False

    async def send(self, message: Message) -> None:
        """Send a part of the body; before the first part, send status and headers."""
        if not self._has_begun:
            self._has_begun = True
            await self._send(
                {
                    "type": "http.response.start",
                    "status": self.status,
                    "headers": [(b"content-type", b"application/x-ndjson")],
                }
            )
        await self._send(message)


class _Progress:
    """The newest progress event of an operation, sent at a bounded rate."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] = {}
        self._ended = trio.Event()
        self._changed = trio.Event()

    def report(self, event: dict[str, Any]) -> None:
        self._latest = event
        self._changed.set()

    def end(self) -> None:
        self._ended.set()
        self._changed.set()

    async def forward(self, send: Send) -> None:
        """Send until `end`. A line under way is finished, never cut."""
        while True:
            with trio.move_on_after(ALIVE_SECONDS) as waited:
                await self._changed.wait()
            if self._ended.is_set():
                return
            self._changed = trio.Event()
            # By this line a client can distinguish long work from a stuck node.
            body = _line({"alive": True} if waited.cancelled_caught else {"progress": self._latest})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            # Do not delay the end until the next line is due: the caller waits for it.
            with trio.move_on_after(PROGRESS_SECONDS):
                await self._ended.wait()


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _read_parameters(request: Request) -> dict[str, Any]:
    body = bytearray()
    async with contextlib.aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > REQUEST_BYTES:
                raise NodeError("the request is too large", code=ExitCode.USAGE)
    try:
        parameters = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise NodeError("the request is not a JSON object", code=ExitCode.USAGE)
    return parameters


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
