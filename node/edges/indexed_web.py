"""An archive that is indexed by QIDO-RS, and gives studies by WADO-RS (PS3.18 10.4, 10.6)."""

import contextlib
import http.client
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from edges.dicomweb import media
from edges.dicomweb.multipart import BadMultipart, MultipartReader
from edges.dimse import querying as q
from node.catalog.indexed import IndexedStudy
from node.edges.archive_settings import ArchiveSettings
from node.edges.archive_web import WebArchive, first, items
from node.edges.dicomweb_store import Storing, parts_of
from node.edges.indexing import STUDIES_READ, Days, Given, Listed, indexed_study

PAGE = 200

READ_BYTES = 256 * 1024

_INCLUDED = (q.STUDY_DESCRIPTION, q.INSTITUTION, q.ISSUER, q.STUDY_MODALITIES)
_ACCEPT = f'{media.RELATED}; type="{media.DICOM}"; transfer-syntax=*'


class IndexedWeb(WebArchive):
    """One archive.

    Args:
        settings: of it.
        storing: takes the images that it gives.
    """

    def __init__(self, settings: ArchiveSettings, storing: Storing) -> None:
        super().__init__(settings)
        self._storing = storing

    async def studies(self, asked: Sequence[Days]) -> AsyncGenerator[Listed, None]:
        """As `IndexedDimse.studies`."""
        try:
            for days in asked:
                yield await self._of_days(days)
        finally:
            self._close()

    async def _of_days(self, days: Days) -> Listed:
        fields = "".join(f"&includefield={tag:08X}" for tag in _INCLUDED)
        path = f"/studies?StudyDate={days.text}{fields}"
        found: dict[str, IndexedStudy] = {}
        unread = 0
        async with contextlib.aclosing(self._pages(path, PAGE, "studies", (204,))) as pages:
            async for entries in pages:
                before = len(found) + unread
                for entry in entries:
                    one = indexed_study(_text_in(entry), days)
                    if one is None:
                        unread += 1
                    else:
                        found[one.about.study_uid] = one
                if len(found) + unread == before:
                    break
                if len(found) + unread > STUDIES_READ:
                    return Listed(days, tuple(found.values()), is_all=False)
        return Listed(days, tuple(found.values()), is_all=not unread)

    async def give(self, study: str, *, stat: bool) -> Given:
        """As `IndexedDimse.give`; there is no priority in HTTP."""
        del stat
        try:
            response = await self._run(lambda: self._ask_for(study))
            kinds = media.read_media(response.headers.get("Content-Type", ""))
            kind = kinds[0] if kinds else media.MediaRange("")
            try:
                reader = MultipartReader(kind.parameters.get("boundary", ""))
                stored = await self._storing.take(
                    parts_of(reader, self._body(response)), self._settings.brings, study
                )
            except BadMultipart as error:
                raise self._failed(
                    f"answers a request for a study with a body that {error}"
                ) from None
        finally:
            self._close()
        here = sum(one.is_here for one in stored)
        return Given(here, len(stored) - here)

    def _ask_for(self, study: str) -> http.client.HTTPResponse:
        with self._reached():
            response = self._begin("GET", f"/studies/{study}", None, {"Accept": _ACCEPT})
        if response.status != 200:
            raise self._failed(f"answers a request for a study with HTTP status {response.status}")
        return response

    async def _body(self, response: http.client.HTTPResponse) -> AsyncIterator[bytes]:
        def read() -> bytes:
            with self._reached():
                self._moved += 1
                return response.read1(READ_BYTES)

        while data := await self._run(read):
            yield data


def _text_in(entry: Any) -> Callable[[int], str]:
    """Reads the texts of a study in DICOM JSON (PS3.18 annex F); several with `\\` between."""

    def text(tag: int) -> str:
        name = f"{tag:08X}"
        if q.ATTRIBUTES[tag].vr == "PN":
            value = first(entry, name)
            groups = value if isinstance(value, dict) else {}
            kinds = ("Alphabetic", "Ideographic", "Phonetic")
            texts = [str(groups.get(kind, "")) for kind in kinds]
            return "=".join(texts).rstrip("=")
        values = items(entry, name) if isinstance(entry, dict) else []
        return "\\".join(str(one) for one in values if isinstance(one, str | int))

    return text
