"""Answers of DICOMweb, and requests that are refused with a sentence."""

import json
import secrets
from collections.abc import AsyncGenerator, Iterator
from typing import Any, TypeVar

import trio

from edges.dicomweb import media
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.failures import HTTP_STATUS
from node.web_server import Answer

T = TypeVar("T")

RETRY_SECONDS = 5
"""When a client should ask again for what is on its way, or cannot be given now."""

PIECE_BYTES = 1024 * 1024
"""Bytes that a thread makes before they are sent."""

WORKING = 8
"""Most threads that work for DICOMweb at one time."""


class Refused(Exception):
    """A request is not answered as it was meant; `sentence` says why, without patient data."""

    def __init__(self, status: int, sentence: str, *headers: tuple[str, str]) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers


def not_acceptable(what: str) -> Refused:
    """The client takes nothing that this can be given as."""
    return Refused(406, f"this can only be given as {what}, as images are never converted here")


def later(sentence: str) -> Refused:
    """The client should ask again."""
    return Refused(503, sentence, ("retry-after", str(RETRY_SECONDS)))


def refusal(error: Refused | NodeError) -> Answer:
    """The answer to a request that is refused."""
    if isinstance(error, NodeError):
        status = HTTP_STATUS[error.code]
        if error.code in (ExitCode.DISK, ExitCode.BUSY, ExitCode.INTEGRITY) or status >= 500:
            error = later(error.message)
        else:
            error = Refused(status, error.message)
    headers = (("content-type", "text/plain; charset=utf-8"), *error.headers)
    return Answer(status=error.status, headers=headers, body=f"{error.sentence}\n".encode())


def json_answer(value: Any, *headers: tuple[str, str], status: int = 200) -> Answer:
    """An answer in DICOM JSON."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Answer(status=status, headers=(("content-type", media.JSON), *headers), body=body)


def require_json(accepted: list[media.MediaRange]) -> None:
    """Refuse a client that does not take JSON.

    Raises:
        Refused: it does not.
    """
    offers = [media.Offer(media.JSON), media.Offer("application/json")]
    if media.choose(accepted, offers, single=True, multipart=False) is None:
        raise not_acceptable(media.JSON)


def new_boundary() -> str:
    """A boundary that stands in no image."""
    return f"radmesh-{secrets.token_hex(16)}"


class Threads:
    """The threads that work for DICOMweb, so many at a time."""

    def __init__(self) -> None:
        self._limiter: trio.CapacityLimiter | None = None

    @property
    def limiter(self) -> trio.CapacityLimiter:
        """Made where a loop runs."""
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(WORKING)
        return self._limiter

    async def streamed(self, pieces: Iterator[bytes | memoryview]) -> AsyncGenerator[bytes, None]:
        """What an iterator that blocks gives, joined to pieces of about `PIECE_BYTES`."""
        while data := await in_thread(_taken, pieces, limiter=self.limiter):
            yield data


def _taken(pieces: Iterator[bytes | memoryview]) -> bytes:
    found: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            break
    return b"".join(found)
