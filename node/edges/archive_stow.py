"""An archive that takes images by STOW-RS and is asked by QIDO-RS (PS3.18 sections 10.5, 10.6)."""

import contextlib
import secrets
from collections.abc import Iterator, Sequence

from node.dicom.elements import BadInstance
from node.edges.archive_dimse import ArchiveFull, Begin, OnAnswer, why_of
from node.edges.archive_settings import ArchiveSettings
from node.edges.archive_web import WebAnswer, WebArchive, items, number_of, parsed, text_of
from node.edges.outgoing import HELD_BYTES, Answered, Originals, Outgoing, OutgoingFile
from node.errors import ExitCode

LOT_BYTES = 8 * 1024 * 1024
LOT_IMAGES = 32
"""So much goes in one request, and a larger image in one of its own."""

PAGE = 1000

_FULL = (429, 503, 507)
_REFERENCED, _FAILED = "00081199", "00081198"
_SOP_INSTANCE, _REFERENCED_SOP, _REASON, _WARNING = "00080018", "00081155", "00081197", "00081196"


class StowArchive(WebArchive):
    """One archive.

    Args:
        settings: of it.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        super().__init__(settings)
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
                if len(found) <= most:
                    await self._page_through(study_uid, one, most, found)
        finally:
            self._close()
        return found - {""}

    async def _page_through(self, study: str, series: str, most: int, found: set[str]) -> None:
        """Ask for the images of a series until nothing new comes: servers limit their pages."""
        path = f"/studies/{study}/series/{series}/instances?includefield={_SOP_INSTANCE}"
        async with contextlib.aclosing(self._pages(path, PAGE, "images", (204, 404))) as pages:
            async for entries in pages:
                before = len(found)
                found |= {text_of(entry, _SOP_INSTANCE) for entry in entries}
                if not before < len(found) <= most:
                    return

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
        self, lot: Sequence[tuple[Outgoing, OutgoingFile]], answer: WebAnswer
    ) -> list[Answered]:
        told = parsed(answer.body)
        told = told[0] if isinstance(told, list) and told else told
        if not isinstance(told, dict) or not {_REFERENCED, _FAILED} & set(told):
            if answer.status != 200:
                raise self._failed(f"answers with HTTP status {answer.status}, and no word why")
            return [Answered(image.sop_uid, True, 0, "", file.digest) for image, file in lot]
        taken = {
            text_of(one, _REFERENCED_SOP): number_of(one, _WARNING)
            for one in items(told, _REFERENCED)
        }
        refused = {
            text_of(one, _REFERENCED_SOP): number_of(one, _REASON) for one in items(told, _FAILED)
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

    def _full(self, why: str) -> ArchiveFull:
        return ArchiveFull(
            f"the archive {self._settings.name} takes no images now: {why}",
            hint="is its disk full?",
            code=ExitCode.BUSY,
        )
