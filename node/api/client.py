"""The client's side: run an operation in the running node, or on the home itself.

Imports no slow modules, since every command starts here.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from node.api import endpoint
from node.errors import ExitCode, NodeError
from node.failures import error_from
from node.home import Home

CONNECT_SECONDS = 5.0

LOCK_SECONDS = 3.0
"""How long a command waits for a home that is locked by another short command."""

LOCK_POLL_SECONDS = 0.1

START_SECONDS = 120.0
"""How long a command waits for a node that is starting: it reads its whole log first,
about 5 s for a million entries, and gives peers a moment."""

SILENCE_SECONDS = 20.0
"""After so long without a line the node counts as stuck; it sends one at least every 5 s."""

OnProgress = Callable[[dict[str, Any]], None]


def call(
    home: Home,
    operation: str,
    parameters: dict[str, Any],
    on_progress: OnProgress | None = None,
    on_wait: Callable[[str], None] = lambda text: None,
    *,
    listed: str = "",
) -> dict[str, Any]:
    """Run one operation: in the node of this home when it runs, else on the home itself.

    Args:
        home: the node's home.
        operation: name of the operation.
        parameters: its parameters, as JSON values.
        on_progress: called in this thread with each progress event.
        on_wait: called once with a sentence when the command waits for the node to start.
        listed: name of a list that comes in pages; all pages are gathered.

    Returns:
        The result of the operation; with `listed`, as if it had come in one page.

    Raises:
        NodeError: the operation failed, or it needs a running node and none runs.
        KeyboardInterrupt: Ctrl-C, after work on the home itself has stopped cleanly.
    """

    def ask(asked: dict[str, Any], gather: str) -> dict[str, Any]:
        return _ask(home, operation, asked, on_progress, on_wait, gather)

    return whole(ask, parameters, listed) if listed else ask(parameters, "")


def whole(
    ask: Callable[[dict[str, Any], str], dict[str, Any]], parameters: dict[str, Any], listed: str
) -> dict[str, Any]:
    """All pages of an answer as one.

    Args:
        ask: gets one or more pages, for the given parameters.
        parameters: parameters of the first page.
        listed: name of the list in the answer.
    """
    found = ask(parameters, listed)
    following = found.pop("next", None)
    while following is not None:
        page = ask({**parameters, "after": following}, listed)
        found[listed] += page[listed]
        following = page.get("next")
    return found


def _ask(
    home: Home,
    operation: str,
    parameters: dict[str, Any],
    on_progress: OnProgress | None,
    on_wait: Callable[[str], None],
    listed: str,
) -> dict[str, Any]:
    home.require()
    began = time.monotonic()
    is_told = False
    while True:
        connection = endpoint.connect(home.socket_path, CONNECT_SECONDS)
        if connection is not None:
            connection.settimeout(SILENCE_SECONDS)
            return _call_node(_Connection(connection), operation, parameters, on_progress)

        from node.api.offline import HomeBusy, run_offline

        try:
            return run_offline(home, operation, parameters, on_progress, listed)
        except HomeBusy:
            # The home is locked by another short command, or by a node that starts or stops.
            is_node = home.is_locked_by_node()
            if time.monotonic() > began + (START_SECONDS if is_node else LOCK_SECONDS):
                raise
            if is_node and not is_told and time.monotonic() > began + LOCK_SECONDS:
                is_told = True
                on_wait("the node of this home is starting; waiting for it")
            time.sleep(LOCK_POLL_SECONDS)


def call_people(
    socket_path: Path,
    operation: str,
    parameters: dict[str, Any],
    on_progress: OnProgress | None = None,
    *,
    listed: str = "",
) -> dict[str, Any]:
    """Run one operation as a person, over the people's socket of a running node.

    Args:
        socket_path: path of the people's socket.
        operation, parameters, on_progress, listed: as in `call`.

    Raises:
        NodeError: the operation failed, or no node listens there.
    """
    if listed:
        return whole(
            lambda asked, _: call_people(socket_path, operation, asked, on_progress),
            parameters,
            listed,
        )
    from node.api.people import check_folder_of_node

    connection = endpoint.connect(socket_path, CONNECT_SECONDS, check_folder_of_node)
    if connection is None:
        raise NodeError(
            f"no node listens at {socket_path}",
            hint="its owner starts it with `radmesh serve`, and opens the socket with the table "
            "[people] in config.toml",
            code=ExitCode.BUSY,
        )
    connection.settimeout(SILENCE_SECONDS)
    return _call_node(_Connection(connection), operation, parameters, on_progress)


def is_running(socket_path: Path) -> bool:
    """Whether a node listens on this socket."""
    connection = endpoint.connect(socket_path, CONNECT_SECONDS)
    if connection is None:
        return False
    connection.close()
    return True


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket that is connected already."""

    def __init__(self, connected: Any) -> None:
        super().__init__("localhost")
        self.sock = connected


def _call_node(
    connection: _Connection,
    operation: str,
    parameters: dict[str, Any],
    on_progress: OnProgress | None,
) -> dict[str, Any]:
    try:
        for message in _messages(connection, operation, parameters):
            if "result" in message:
                result: dict[str, Any] = message["result"]
                return result
            if "error" in message:
                raise error_from(message["error"])
            if on_progress is not None and "progress" in message:
                on_progress(message["progress"])
    finally:
        connection.close()
    raise NodeError(
        "the node stopped before it answered",
        hint="see the log of `radmesh serve`; the command can be run again",
        code=ExitCode.BUSY,
    )


def _messages(
    connection: _Connection, operation: str, parameters: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The lines of the answer; they end early if the node stops."""
    try:
        connection.request(
            "POST",
            f"/v1/{operation}",
            json.dumps(parameters),
            {"content-type": "application/json", "connection": "close"},
        )
        answer = connection.getresponse()
        while line := answer.readline():
            yield json.loads(line)
    except TimeoutError:
        raise NodeError(
            f"the running node does not answer: it gave no sign for {SILENCE_SECONDS:g} s",
            hint="see the log of `radmesh serve`; if it stays so, stop the node and start it again",
            code=ExitCode.BUSY,
        ) from None
    except (OSError, http.client.HTTPException, ValueError):
        return
