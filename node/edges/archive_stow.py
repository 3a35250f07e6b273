"""An archive that takes images by STOW-RS and is asked by QIDO-RS (PS3.18 sections 10.5, 10.6).

Requests block, so each runs in a thread, with an end: `_watch` closes the connection when nothing
has moved on it for a while, or when the node ends.
"""

import contextlib
import http.client
import json
import secrets
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

from node.blocking import in_thread
from node.dicom.elements import BadInstance
from node.edges.archive_dimse import ArchiveFull, Begin, OnAnswer, why_of
from node.edges.archive_settings import ArchiveSettings
from node.edges.outgoing import HELD_BYTES, Answered, Originals, Outgoing, OutgoingFile
from node.errors import ExitCode, NodeError

CONNECT_SECONDS = 15.0

STILL_SECONDS = 120.0
"""Time in which nothing moves after which a request is given up: archives index what they got."""

LOT_BYTES = 8 * 1024 * 1024
LOT_IMAGES = 32
"""So much goes in one request, and a larger image in one of its own."""

ANSWER_BYTES = 8 * 1024 * 1024
PAGE = 1000

_DICOM_JSON = "application/dicom+json"
_FULL = (429, 503, 507)
_REFERENCED, _FAILED = "00081199", "00081198"
_SOP_INSTANCE, _REFERENCED_SOP, _REASON, _WARNING = "00080018", "00081155", "00081197", "00081196"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


class StowArchive:
    """One archive.

    Args:
        settings: of it.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.stow)
        self._base = parts.path.rstrip("/")
        self._host, self._port = parts.hostname or "", parts.port
        self._connection: http.client.HTTPConnection | None = None
        self._moved = 0
        self._is_full = False

    async def check(self) -> None:
        """Ask whether it is there.

        Raises:
            NodeError: it is not, or refuses.
        """
        try:
            answer = await self._run(lambda: self._get("/studies?limit=1"))
        finally:
            self._close()
        self._require_answer(answer, (200, 204))

    async def send(
        self,
        images: Sequence[Outgoing],
        originals: Originals,
        begin: Begin,
        answered: OnAnswer,
        *,
        stat: bool,
    ) -> None:
        """As `DimseArchive.send`; there is no priority in HTTP."""
        place = 0
        try:
            # Nothing has begun where it is not there.
            await self._run(self._connect)
            while place < len(images):
                # At each lot: the match may have been undone since.
                await begin()
                lot, found = await self._run(lambda at=place: self._send_lot(images, at, originals))  # type: ignore[misc]
                place += lot
                for one in found:
                    await answered(one)
                if self._is_full:
                    raise self._full("out of resources")
        finally:
            self._close()

    async def held(self, study_uid: str, series: Sequence[str], most: int) -> set[str]:
        """As `DimseArchive.held`."""
        found: set[str] = set()
        try:
            for one in series:
                await self._page_through(study_uid, one, most, found)
        finally:
            self._close()
        return found - {""}

    async def _page_through(self, study: str, series: str, most: int, found: set[str]) -> None:
        """Ask for the images of a series until nothing new comes: servers limit their pages."""
        path = f"/studies/{study}/series/{series}/instances?includefield={_SOP_INSTANCE}"
        before, offset = -1, 0
        while before < len(found) <= most:
            before = len(found)
            page = f"{path}&limit={PAGE}&offset={offset}"
            answer = await self._run(lambda at=page: self._get(at))  # type: ignore[misc]
            if answer.status in (204, 404):
                return
            self._require_answer(answer, (200,))
            entries = _parsed(answer.body)
            if not isinstance(entries, list):
                raise self._failed("answers a question for images with what is no DICOM JSON")
            found |= {_value(entry, _SOP_INSTANCE) for entry in entries}
            offset += len(entries)

    # --- in a thread ---------------------------------------------------------------------

    def _send_lot(
        self, images: Sequence[Outgoing], place: int, originals: Originals
    ) -> tuple[int, list[Answered]]:
        """Send some images; returns how many, and what became of them."""
        found: list[Answered] = []
        lot: list[tuple[Outgoing, OutgoingFile]] = []
        count = size = 0
        for one in images[place : place + LOT_IMAGES]:
            if lot and (one.size > HELD_BYTES or size + one.size > LOT_BYTES):
                break
            count += 1
            try:
                file = originals.read(one)
            except BadInstance as error:
                found.append(Answered(one.sop_uid, False, 0, f"it {error.reason}"))
                continue
            lot.append((one, file))
            size += file.size
            if file.size > HELD_BYTES:
                break
        return count, [*found, *(self._post(lot) if lot else [])]

    def _post(self, lot: Sequence[tuple[Outgoing, OutgoingFile]]) -> list[Answered]:
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        end = f"--{boundary}--\r\n".encode()
        size = sum(len(head) + file.size + 2 for _, file in lot) + len(end)

        def body() -> Iterator[bytes]:
            for _, file in lot:
                yield head + file.head()
                for piece in file.data_set():
                    self._moved += 1
                    yield piece
                yield b"\r\n"
            yield end

        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        answer = self._request(
            "POST", "/studies", body(), {"Content-Type": kind, "Content-Length": str(size)}
        )
        if answer.status in _FULL:
            raise self._full(f"HTTP status {answer.status}")
        if answer.status not in (200, 202, 409):
            self._require_answer(answer, (400, 406, 411, 413, 415, 422, 500, 501))
            if len(lot) > 1:
                # One image may be the reason, so that the others are not.
                return [one for each in lot for one in self._post([each])]
            why = f"HTTP status {answer.status}"
            return [Answered(image.sop_uid, False, 0, why) for image, _ in lot]
        return self._read_answer(lot, answer)

    def _read_answer(
        self, lot: Sequence[tuple[Outgoing, OutgoingFile]], answer: _Answer
    ) -> list[Answered]:
        told = _parsed(answer.body)
        told = told[0] if isinstance(told, list) and told else told
        if not isinstance(told, dict) or not {_REFERENCED, _FAILED} & set(told):
            if answer.status != 200:
                raise self._failed(f"answers with HTTP status {answer.status}, and no word why")
            return [Answered(image.sop_uid, True, 0, "", file.digest) for image, file in lot]
        taken = {
            _value(one, _REFERENCED_SOP): _number(one, _WARNING)
            for one in _items(told, _REFERENCED)
        }
        refused = {
            _value(one, _REFERENCED_SOP): _number(one, _REASON) for one in _items(told, _FAILED)
        }
        self._is_full = any(0xA700 <= reason <= 0xA7FF for reason in refused.values())
        found = []
        for image, file in lot:
            if image.sop_uid in taken:
                status = taken[image.sop_uid]
                found.append(Answered(image.sop_uid, True, status, "", file.digest))
                continue
            reason = refused.get(image.sop_uid, 0x0110)
            # It has nothing against this image if it is full.
            if not 0xA700 <= reason <= 0xA7FF:
                found.append(Answered(image.sop_uid, False, reason, why_of(reason)))
        return found

    def _get(self, path: str) -> _Answer:
        return self._request("GET", path, None, {})

    def _request(
        self, method: str, path: str, body: Iterator[bytes] | None, headers: dict[str, str]
    ) -> _Answer:
        with self._reached():
            connection = self._connection or self._open()
            connection.request(
                method, self._base + path, body=body,
                headers={"Accept": _DICOM_JSON, **headers, **self._authorization()},
            )  # fmt: skip
            self._moved += 1
            response = connection.getresponse()
            content = response.read(ANSWER_BYTES + 1)
            if len(content) > ANSWER_BYTES:
                raise self._failed("sends an answer that is too long")
            return _Answer(response.status, content)

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

    def _require_answer(self, answer: _Answer, fine: Sequence[int]) -> None:
        if answer.status in fine:
            return
        why = {401: "it does not accept our token", 403: "it does not let us in"}.get(
            answer.status, f"it answers with HTTP status {answer.status}"
        )
        raise self._failed(f"cannot be used: {why}")

    def _full(self, why: str) -> ArchiveFull:
        return ArchiveFull(
            f"the archive {self._settings.name} takes no images now: {why}",
            hint="is its disk full?",
            code=ExitCode.BUSY,
        )

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


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _items(told: dict[str, Any], tag: str) -> list[Any]:
    element = told.get(tag)
    value = element.get("Value") if isinstance(element, dict) else None
    return value if isinstance(value, list) else []


def _first(entry: Any, tag: str) -> Any:
    values = _items(entry, tag) if isinstance(entry, dict) else []
    return values[0] if values else None


def _value(entry: Any, tag: str) -> str:
    value = _first(entry, tag)
    return value if isinstance(value, str) else ""


def _number(entry: Any, tag: str) -> int:
    value = _first(entry, tag)
    return value if type(value) is int and 0 <= value <= 0xFFFF else 0
