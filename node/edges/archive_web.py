"""The connection to an archive that speaks DICOMweb; PS3.18.

Requests block, so each runs in a thread, with an end: `_watch` closes the connection when nothing
has moved on it for a while, or when the node ends.
"""

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

from node.blocking import in_thread
from node.edges.archive_settings import ArchiveSettings
from node.errors import ExitCode, NodeError

CONNECT_SECONDS = 15.0

STILL_SECONDS = 120.0
"""Time in which nothing moves after which a request is given up: archives index what they got."""

ANSWER_BYTES = 8 * 1024 * 1024

DICOM_JSON = "application/dicom+json"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """An answer: its status, and all of its body."""

    status: int
    body: bytes


class WebArchive:
    """The connection to one archive; each subclass asks one kind of question.

    Args:
        settings: of the archive.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.stow)
        self._base = parts.path.rstrip("/")
        self._host, self._port = parts.hostname or "", parts.port
        self._connection: http.client.HTTPConnection | None = None
        self._moved = 0

    async def _pages(
        self, path: str, page: int, what: str, none: Sequence[int]
    ) -> AsyncGenerator[list[Any], None]:
        """The pages of an answer by QIDO-RS, until one is empty; whoever learns nothing more stops.

        Servers limit their pages as they like, and one may not know offsets.

        Args:
            path: with its query, which has a parameter already.
            page: most entries that are asked for at once.
            what: is asked for, for people.
            none: statuses that say that there is nothing.
        """
        offset = 0
        while True:
            asked = f"{path}&limit={page}&offset={offset}"
            answer = await self._run(partial(self._get, asked))
            if answer.status in none:
                return
            self._require_answer(answer, (200,))
            entries = parsed(answer.body)
            if not isinstance(entries, list):
                raise self._failed(f"answers a question for {what} with what is no DICOM JSON")
            if not entries:
                return
            yield entries
            offset += len(entries)

    # --- in a thread ---------------------------------------------------------------------

    def _get(self, path: str) -> WebAnswer:
        return self._request("GET", path, None, {})

    def _request(
        self, method: str, path: str, body: Iterator[bytes] | None, headers: dict[str, str]
    ) -> WebAnswer:
        with self._reached():
            response = self._begin(method, path, body, {"Accept": DICOM_JSON, **headers})
            content = response.read(ANSWER_BYTES + 1)
            if len(content) > ANSWER_BYTES:
                raise self._failed("sends an answer that is too long")
            return WebAnswer(response.status, content)

    def _begin(
        self, method: str, path: str, body: Iterator[bytes] | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Send a request; gives its answer, of which the body is still to be read.

        Inside `_reached`.
        """
        connection = self._connection or self._open()
        connection.request(
            method, self._base + path, body=body, headers={**headers, **self._authorization()}
        )
        self._moved += 1
        return connection.getresponse()

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Around what needs the connection: an error of it as a sentence."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            self._close()
            raise self._away(f"its certificate is not accepted ({error.verify_message})") from None
        except (OSError, http.client.HTTPException) as error:
            self._close()
            why = error.strerror if isinstance(error, OSError) else None
            raise self._away(why or "the connection was lost") from None

    def _connect(self) -> None:
        with self._reached():
            self._open()

    def _open(self) -> http.client.HTTPConnection:
        tls = self._settings.tls()
        if tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_SECONDS)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECT_SECONDS, context=tls
            )
        connection.connect()
        connection.sock.settimeout(STILL_SECONDS)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        return connection

    def _authorization(self) -> dict[str, str]:
        if not self._settings.token:
            return {}
        try:
            token = Path(self._settings.token).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            token = ""
            why = error.strerror if isinstance(error, OSError) else "it is no text"
        else:
            why = "it is no token"
        if not token or not token.isprintable():
            raise NodeError(
                f"the token of the archive {self._settings.name} cannot be read: {why}",
                hint="see `token` in config.toml: a file with one line",
                code=ExitCode.USAGE,
            )
        return {"Authorization": token if " " in token else f"Bearer {token}"}

    # --- from the loop --------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        """Run requests in a thread; broken off when nothing moves, or the node ends."""
        found: list[T] = []
        failure: NodeError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, lambda: bool(found or failure))
            try:
                found.append(await in_thread(work))
            except NodeError as error:
                # Out of the nursery as it is, not in a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return found[0]

    async def _watch(self, is_over: Callable[[], bool]) -> None:
        try:
            before = -1
            while before != self._moved:
                before = self._moved
                await trio.sleep(STILL_SECONDS)
        finally:
            connection = self._connection
            if not is_over() and connection is not None and connection.sock is not None:
                # The thread that waits on it goes on with an error.
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _require_answer(self, answer: WebAnswer, fine: Sequence[int]) -> None:
        if answer.status in fine:
            return
        why = {401: "it does not accept our token", 403: "it does not let us in"}.get(
            answer.status, f"it answers with HTTP status {answer.status}"
        )
        raise self._failed(f"cannot be used: {why}")

    def _failed(self, what: str) -> NodeError:
        return NodeError(
            f"the archive {self._settings.name} {what}",
            hint="see `stow` and `token` in config.toml, and the archive's own log",
            code=ExitCode.UNREACHABLE,
        )

    def _away(self, why: str) -> NodeError:
        return NodeError(
            f"the archive {self._settings.name} cannot be reached: {why}",
            hint="is it running, and is `stow` in config.toml right?",
            code=ExitCode.UNREACHABLE,
        )


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def items(told: dict[str, Any], tag: str) -> list[Any]:
    element = told.get(tag)
    value = element.get("Value") if isinstance(element, dict) else None
    return value if isinstance(value, list) else []


def first(entry: Any, tag: str) -> Any:
    values = items(entry, tag) if isinstance(entry, dict) else []
    return values[0] if values else None


def text_of(entry: Any, tag: str) -> str:
    value = first(entry, tag)
    return value if isinstance(value, str) else ""


def number_of(entry: Any, tag: str) -> int:
    value = first(entry, tag)
    return value if type(value) is int and 0 <= value <= 0xFFFF else 0
