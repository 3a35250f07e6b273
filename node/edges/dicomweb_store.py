"""Images that are sent by DICOMweb (STOW-RS): taken as those of a DICOM association are.

Each is durable before the answer says so; all that was sent is in the answer, also what failed.
PS3.18 section 10.5.
"""

import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field

import trio

from edges.dicomweb import media
from edges.dicomweb.multipart import (
    BadMultipart,
    MultipartReader,
    PartBegan,
    PartData,
    PartEnded,
)
from edges.dicomweb.stored import NOT_OF_STUDY, Stored, answer, http_status
from node.edges import statuses
from node.edges.dicomweb_answers import Refused, json_answer
from node.edges.dicomweb_settings import WebCaller
from node.errors import NodeError
from node.images.arrivals import Arrivals, Association
from node.images.spool import SMALL_BYTES
from node.web_server import Answer, Asked, Gone

log = logging.getLogger("radmesh.dicomweb")

PENDING = 16
"""Most images of one request that wait for the disk, while the next are read."""

STORING = 32
"""Most images of one caller that are taken in at one time; its others wait, and nobody else's."""

MOST_INSTANCES = 100_000
"""Most images of one request: its answer lists each."""


@dataclass(slots=True)
class _Part:
    """A part that comes: its first bytes, and then a channel for the rest of a large one."""

    number: int
    held: bytearray = field(default_factory=bytearray)
    channel: trio.MemorySendChannel[bytes] | None = None
    is_whole: bool = False


class _Cut(Exception):
    """A part ended before it was whole."""


class Storing:
    """Takes images.

    Args:
        arrivals: takes them in.

    Attributes:
        images: how many were taken, and failed, since the start, by kind.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._storing: defaultdict[str, trio.CapacityLimiter] = defaultdict(
            lambda: trio.CapacityLimiter(STORING)
        )
        self.images: Counter[str] = Counter()

    async def store(self, asked: Asked, caller: WebCaller, study: str) -> Answer:
        """Take what a request brings.

        Args:
            asked: the request.
            caller: who sends.
            study: UID of the study that all has to be of; "" for any.

        Raises:
            Refused: the body is not of DICOM files in parts.
            NodeError: nothing can be taken now.
        """
        try:
            stored = await self.take(_parts(asked), f"dicomweb:{caller.name}", study)
        except BadMultipart as error:
            raise Refused(400, f"the body {error}") from None
        if not stored:
            raise Refused(400, "the body has no images")
        prefix = "" if study else "studies/"
        return json_answer(answer(stored, prefix), status=http_status(stored))

    async def take(
        self,
        parts: AsyncGenerator[PartBegan | PartData | PartEnded, None],
        source: str,
        study: str,
    ) -> list[Stored]:
        """Take images as the parts of a body come; each is durable, or it says why it is not here.

        Args:
            parts: of the body.
            source: who brings them.
            study: UID of the study that all has to be of; "" for any.

        Raises:
            BadMultipart: the body has no parts at all.
            NodeError: nothing can be taken now.
        """
        async with self._arrivals.association(source) as association:
            request = _Request(self, association, self._storing[source], study)
            try:
                async with contextlib.aclosing(parts):
                    await request.run(parts)
            except BadMultipart as error:
                if not request.stored:
                    raise
                log.warning("a body of %s %s", source, error)
                request.failed(statuses.CANNOT_UNDERSTAND)
        return [request.stored[number] for number in sorted(request.stored)]


class _Request:
    """What one request brings."""

    def __init__(
        self, storing: Storing, association: Association, limiter: trio.CapacityLimiter, study: str
    ) -> None:
        self._storing = storing
        self._association = association
        self._limiter = limiter
        self._study = study
        self._pending = trio.CapacityLimiter(PENDING)
        self.stored: dict[int, Stored] = {}

    async def run(self, parts: AsyncIterator[PartBegan | PartData | PartEnded]) -> None:
        """Take the parts as they come; all are settled on return."""
        part: _Part | None = None
        number = 0
        failure: BadMultipart | Gone | None = None
        async with trio.open_nursery() as nursery:
            try:
                async for event in parts:
                    match event:
                        case PartBegan(headers):
                            part = self._begin(headers, number)
                            number += 1
                            if number > MOST_INSTANCES:
                                raise BadMultipart("has too many parts")
                        case PartData(data) if part is not None:
                            await self._more(part, data, nursery)
                        case PartEnded() if part is not None:
                            await self._end(part, nursery)
                            part = None
            except (BadMultipart, Gone) as error:
                failure = error
            # What has not come whole is not taken for whole.
            if part is not None and part.channel is not None:
                part.channel.close()
        if failure is not None:
            raise failure

    def _begin(self, headers: Mapping[str, str], number: int) -> _Part | None:
        kinds = media.read_media(headers.get("content-type", media.DICOM))
        if kinds and kinds[0].kind == media.DICOM:
            return _Part(number)
        self.stored[number] = Stored("", "", "", "", statuses.CANNOT_UNDERSTAND)
        return None

    async def _more(self, part: _Part, data: bytes, nursery: trio.Nursery) -> None:
        if part.channel is not None:
            await part.channel.send(data)
            return
        part.held += data
        if len(part.held) > SMALL_BYTES:
            part.channel, receive = trio.open_memory_channel[bytes](0)
            await self._start(part, _rest(part, bytes(part.held), receive), nursery)
            part.held.clear()

    async def _end(self, part: _Part, nursery: trio.Nursery) -> None:
        part.is_whole = True
        if part.channel is not None:
            part.channel.close()
        else:
            await self._start(part, _whole(bytes(part.held)), nursery)

    async def _start(
        self, part: _Part, pieces: AsyncGenerator[bytes, None], nursery: trio.Nursery
    ) -> None:
        borrower = object()
        await self._pending.acquire_on_behalf_of(borrower)
        head = bytes(part.held)
        nursery.start_soon(self._take, part.number, head, pieces, borrower)

    async def _take(
        self, number: int, head: bytes, pieces: AsyncGenerator[bytes, None], borrower: object
    ) -> None:
        from node.dicom.part10 import names_of

        try:
            async with contextlib.aclosing(pieces):
                sop_class, sop, study, series = names_of(head)
                status = NOT_OF_STUDY
                if self._study in ("", study):
                    try:
                        async with self._limiter:
                            became = await self._association.take(pieces, named=sop)
                        status = statuses.status_of(became).status
                    except NodeError as error:
                        log.error("an image that was sent is not taken: %s", error.message)
                        status = statuses.status_of(error).status
                    except _Cut:
                        status = statuses.CANNOT_UNDERSTAND
                # What still comes of an image that is not taken has to be read.
                with contextlib.suppress(_Cut):
                    async for _ in pieces:
                        pass
            self.stored[number] = Stored(sop_class, sop, study, series, status)
            self._storing.images["taken" if self.stored[number].is_here else "failed"] += 1
        finally:
            self._pending.release_on_behalf_of(borrower)

    def failed(self, status: int) -> None:
        """What was cut off is a failure, too."""
        self.stored[max(self.stored) + 1] = Stored("", "", "", "", status)


def _parts(asked: Asked) -> AsyncGenerator[PartBegan | PartData | PartEnded, None]:
    """The parts of a body; a body that is one file is one part.

    Raises:
        Refused: it is neither.
    """
    kinds = media.read_media(asked.headers.get("content-type", ""))
    kind = kinds[0] if kinds else media.MediaRange("")
    if kind.kind == media.DICOM:
        return _one(asked.body)
    if kind.kind == media.RELATED and kind.parameters.get("type", media.DICOM) == media.DICOM:
        try:
            reader = MultipartReader(kind.parameters.get("boundary", ""))
        except BadMultipart as error:
            raise Refused(400, f"the body {error}") from None
        return parts_of(reader, asked.body)
    raise Refused(415, f"images are sent as {media.RELATED} of {media.DICOM}")


async def _one(
    body: AsyncIterator[bytes],
) -> AsyncGenerator[PartBegan | PartData | PartEnded, None]:
    yield PartBegan({})
    async for data in body:
        yield PartData(data)
    yield PartEnded()


async def parts_of(
    reader: MultipartReader, body: AsyncIterator[bytes]
) -> AsyncGenerator[PartBegan | PartData | PartEnded, None]:
    """The parts of a body as it comes.

    Raises:
        BadMultipart: it is no such body, or ends too early.
    """
    async for data in body:
        for event in reader.receive(data):
            yield event
    if not reader.is_over:
        raise BadMultipart("ends before its last part does")


async def _rest(
    part: _Part, begin: bytes, receive: trio.MemoryReceiveChannel[bytes]
) -> AsyncGenerator[bytes, None]:
    async with receive:
        yield begin
        async for piece in receive:
            yield piece
    if not part.is_whole:
        raise _Cut


async def _whole(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
