"""What is read of studies (WADO-RS): files, metadata, frames, bulk data, pictures; PS3.18 10.4.

All bytes are those of the originals: nothing is converted, and what a client does not take
as it is, it does not get (406).
"""

import contextlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import trio

from edges.dicomweb import media
from edges.dicomweb.media import DICOM, OCTETS, PNG, RELATED, Chosen, MediaRange, Offer, choose
from edges.dicomweb.multipart import end_of, part_head
from edges.dicomweb.paths import PREFIX, Level, Resource, What
from node.blocking import in_thread
from node.catalog.catalog import Catalog
from node.edges.dicomweb_answers import Refused, Threads, new_boundary, not_acceptable, require_json
from node.edges.dicomweb_metadata import Metadata
from node.images.export import InstanceReader
from node.images.store import BatchStore
from node.web_server import Answer
from protocol.manifest import Manifest

if TYPE_CHECKING:
    from node.dicom.frames import Image
    from node.dicom.rendering import Window

THUMBNAIL_PIXELS = 128
MOST_VIEWPORT = 16384

DRAWING = 2
"""Most pictures that are made at one time: one may take some hundred MB."""

_KEPT_IMAGES = 16
_KEPT_ELEMENTS = 10_000
"""Where the frames of the last images are: a viewer asks for each frame of a series by itself."""

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


class Retrieving:
    """Gives what is asked of studies that are here.

    Args:
        catalog: our studies.
        store: the batches.
        metadata: makes DICOM JSON.
        threads: where it works.
    """

    def __init__(
        self, catalog: Catalog, store: BatchStore, metadata: Metadata, threads: Threads
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._metadata = metadata
        self._threads = threads
        self._drawing = trio.CapacityLimiter(DRAWING)
        self._images: OrderedDict[bytes, Image] = OrderedDict()

    async def answer(self, asked: Resource, query: str, accepted: list[MediaRange]) -> Answer:
        """The answer to a request.

        Raises:
            Refused: there is no such thing, or the client does not take what there is.
            NodeError: the store is damaged or cannot be read.
        """
        manifest = await in_thread(self._catalog.manifest, asked.study)
        chosen = _chosen(manifest, asked)
        if not chosen:
            raise Refused(404, "there is no such series or instance here")
        match asked.what:
            case What.OBJECTS:
                return self._objects(manifest, chosen, accepted)
            case What.METADATA:
                require_json(accepted)
                pieces = self._metadata.pieces(
                    manifest,
                    chosen,
                    series_in_uri=asked.level is Level.STUDY,
                    sop_in_uri=asked.level is not Level.INSTANCE,
                )
                return Answer(status=200, headers=(("content-type", media.JSON),), body=pieces)
            case What.FRAMES:
                return await self._frames(manifest, chosen[0], asked, accepted)
            case What.BULK:
                return await self._bulk(manifest, chosen[0], asked, accepted)
        return await self._picture(manifest, chosen, asked, query, accepted)

    # --- whole files ----------------------------------------------------------------------

    def _objects(
        self, manifest: Manifest, chosen: Sequence[int], accepted: list[MediaRange]
    ) -> Answer:
        taken: dict[str, Chosen | None] = {}
        for index in chosen:
            syntax = manifest.instances[index].transfer_syntax_uid
            if syntax not in taken:
                taken[syntax] = choose(accepted, [Offer(DICOM, syntax)], single=len(chosen) == 1)
        given = [i for i in chosen if taken[manifest.instances[i].transfer_syntax_uid] is not None]
        if not given:
            kinds = " or ".join(f'{DICOM}; transfer-syntax="{one}"' for one in sorted(taken))
            raise not_acceptable(kinds)
        first = taken[manifest.instances[given[0]].transfer_syntax_uid]
        reader = InstanceReader(manifest, self._store)
        if first is not None and not first.is_multipart:
            syntax = f"{DICOM}; transfer-syntax={first.offer.syntax}"
            body = self._threads.streamed(reader.pieces(given[0]))
            return Answer(status=200, headers=(("content-type", syntax),), body=body)
        # In the order of the batches, so that each is decoded once.
        given.sort(
            key=lambda at: (manifest.instances[at].first_batch, manifest.instances[at].offset)
        )
        status = 200 if len(given) == len(chosen) else 206
        return self._related(DICOM, _files(manifest, reader, given), status)

    def _related(self, kind: str, parts: "Iterator[_Part]", status: int = 200) -> Answer:
        boundary = new_boundary()
        return Answer(
            status=status,
            headers=(("content-type", f'{RELATED}; type="{kind}"; boundary={boundary}'),),
            body=self._threads.streamed(_joined(boundary, parts)),
        )

    # --- frames ---------------------------------------------------------------------------

    async def _frames(
        self, manifest: Manifest, index: int, asked: Resource, accepted: list[MediaRange]
    ) -> Answer:
        image = await in_thread(self._image, manifest, index, limiter=self._threads.limiter)
        offers = media.frame_offers(image.transfer_syntax, is_native=image.native is not None)
        chosen = choose(accepted, offers, single=len(asked.frames) == 1)
        if chosen is None:
            kinds = [f'{one.kind}; transfer-syntax="{one.syntax}"' for one in offers]
            raise not_acceptable(" or ".join(kinds))
        if max(asked.frames) > image.frames:
            raise Refused(404, f"the instance has {image.frames} frames")
        kind = f"{chosen.offer.kind}; transfer-syntax={chosen.offer.syntax}"
        url = _url(manifest, index)
        if not chosen.is_multipart:
            number = asked.frames[0]
            body = await self._made(lambda: image.frame(number - 1))
            headers = (("content-type", kind), ("content-location", f"{url}/frames/{number}"))
            return Answer(status=200, headers=headers, body=body)
        # The first is made at once: a client is told of a fault by the status.
        first = await self._made(lambda: image.frame(asked.frames[0] - 1))

        def parts() -> "Iterator[_Part]":
            for place, number in enumerate(asked.frames):
                frame = image.frame(number - 1) if place else first
                yield kind, f"{url}/frames/{number}", len(frame), iter((frame,))

        return self._related(chosen.offer.kind, parts())

    def _image(self, manifest: Manifest, index: int) -> "Image":
        """The image in an instance, with a reader of its own."""
        from node.dicom.frames import BadInstance, NoFrames, read_image
        from node.dicom.part10 import DEFLATED

        entry = manifest.instances[index]
        read = partial(InstanceReader(manifest, self._store).read, index)
        kept = self._images.get(entry.digest)
        if kept is not None:
            return replace(kept, data=replace(kept.data, read=read))
        try:
            image = read_image(read, entry.size)
        except NoFrames as error:
            raise Refused(404, f"there are no frames to give: {error}") from None
        except BadInstance as error:
            raise Refused(404, f"there are no frames to give: it {error.reason}") from None
        if entry.transfer_syntax_uid not in DEFLATED and len(image.data.elements) < _KEPT_ELEMENTS:
            # Without its reader, which holds a batch.
            self._images[entry.digest] = replace(image, data=replace(image.data, read=_nothing))
            with contextlib.suppress(KeyError):
                while len(self._images) > _KEPT_IMAGES:
                    self._images.popitem(last=False)
        return image

    async def _made(
        self, make: "Callable[[], bytes]", limiter: trio.CapacityLimiter | None = None
    ) -> bytes:
        """What a function makes in a thread."""
        from node.dicom.frames import NoFrames

        try:
            return await in_thread(make, limiter=limiter or self._threads.limiter)
        except NoFrames as error:
            raise Refused(406, f"this cannot be given: {error}") from None

    # --- bulk data ------------------------------------------------------------------------

    async def _bulk(
        self, manifest: Manifest, index: int, asked: Resource, accepted: list[MediaRange]
    ) -> Answer:
        from node.dicom.data_sets import BadInstance, Element, read_data_set
        from node.dicom.elements import PIXEL_DATA
        from node.dicom.frames import GE_PRIVATE
        from node.dicom.json_model import bulk_pieces, element_at

        entry = manifest.instances[index]
        read = partial(InstanceReader(manifest, self._store).read, index)

        def find() -> tuple[Element | None, Iterator[bytes]]:
            try:
                data = read_data_set(read, entry.size)
            except BadInstance as error:
                raise Refused(404, f"there is no such value: it {error.reason}") from None
            found = element_at(data, asked.place)
            is_odd = data.transfer_syntax == GE_PRIVATE
            if found is not None and found.tag == PIXEL_DATA and is_odd:
                raise Refused(404, "this cannot be given: its pixels are in a private byte order")
            return found, iter(()) if found is None else bulk_pieces(data, found)

        found, pieces = await in_thread(find, limiter=self._threads.limiter)
        if found is None or found.items is not None:
            raise Refused(404, "there is no such value")
        if found.fragments is not None:
            if len(asked.place) > 1:
                raise Refused(404, "there is no such value")
            image = await in_thread(self._image, manifest, index, limiter=self._threads.limiter)
            every = replace(asked, frames=tuple(range(1, image.frames + 1)))
            return await self._frames(manifest, index, every, accepted)
        chosen = choose(accepted, [Offer(OCTETS)], single=True)
        if chosen is None:
            raise not_acceptable(OCTETS)
        url = f"{_url(manifest, index)}/bulkdata/{'/'.join(asked.place)}"
        if chosen.is_multipart:
            return self._related(OCTETS, iter([(OCTETS, url, found.length, pieces)]))
        headers = (("content-type", OCTETS), ("content-location", url))
        return Answer(status=200, headers=headers, body=self._threads.streamed(pieces))

    # --- pictures -------------------------------------------------------------------------

    async def _picture(
        self,
        manifest: Manifest,
        chosen: list[int],
        asked: Resource,
        query: str,
        accepted: list[MediaRange],
    ) -> Answer:
        from node.dicom.rendering import render

        is_small = asked.what is What.THUMBNAIL
        if choose(accepted, [Offer(PNG)], single=True, multipart=False) is None:
            raise not_acceptable(PNG)
        if asked.level is not Level.INSTANCE and not is_small:
            raise Refused(406, "pictures are given of single instances and frames")
        window, most = _wishes(query)
        if is_small:
            most = most or (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
        index = _shown(manifest, chosen)
        image = await in_thread(self._image, manifest, index, limiter=self._threads.limiter)
        usual = (image.frames + 1) // 2 if is_small else 1
        number = asked.frames[0] if asked.frames else usual
        if number > image.frames:
            raise Refused(404, f"the instance has {image.frames} frames")
        body = await self._made(lambda: render(image, number - 1, window, most), self._drawing)
        return Answer(status=200, headers=(("content-type", PNG),), body=body)


_Part = tuple[str, str, int, Iterator[bytes | memoryview]]
"""Content type, Content-Location, bytes, and the content of a part."""


def _chosen(manifest: Manifest, asked: Resource) -> list[int]:
    """The instances (indices) that a request names."""
    return [
        index
        for index, one in enumerate(manifest.instances)
        if asked.series in ("", manifest.series[one.series_index].series_instance_uid)
        and asked.instance in ("", one.sop_instance_uid)
    ]


def _shown(manifest: Manifest, chosen: list[int]) -> int:
    """The instance that stands for all: the one in the middle of those that can be shown."""
    images = [index for index in chosen if manifest.instances[index].rows]
    if not images:
        raise Refused(404, "there is no image")
    native = [one for one in images if manifest.instances[one].transfer_syntax_uid in _NATIVE]
    if not native:
        raise Refused(406, "the images are compressed, and are not decoded here")
    return native[len(native) // 2]


def _files(manifest: Manifest, reader: InstanceReader, given: Sequence[int]) -> "Iterator[_Part]":
    for index in given:
        entry = manifest.instances[index]
        kind = f"{DICOM}; transfer-syntax={entry.transfer_syntax_uid}"
        yield kind, _url(manifest, index), entry.size, reader.pieces(index)


def _joined(boundary: str, parts: "Iterator[_Part]") -> Iterator[bytes | memoryview]:
    is_first = True
    for kind, url, size, pieces in parts:
        headers = (
            ("Content-Type", kind),
            ("Content-Location", url),
            ("Content-Length", str(size)),
        )
        yield part_head(boundary, headers, is_first=is_first)
        is_first = False
        yield from pieces
    yield end_of(boundary, is_empty=is_first)


def _nothing(offset: int, length: int) -> bytes:
    return b""


def _url(manifest: Manifest, index: int) -> str:
    one = manifest.instances[index]
    series = manifest.series[one.series_index].series_instance_uid
    study = manifest.study_instance_uid
    return f"{PREFIX}/studies/{study}/series/{series}/instances/{one.sop_instance_uid}"


def _wishes(query: str) -> "tuple[Window | None, tuple[int, int] | None]":
    """The parameters `window` and `viewport` (PS3.18 section 8.3.5)."""
    from node.dicom.rendering import Window

    try:
        found = parse_qs(query, max_num_fields=32)
    except ValueError:
        raise Refused(400, "the parameters are too many") from None
    window, most = None, None
    try:
        if "window" in found:
            center, width, *function = found["window"][0].split(",")
            if not (math.isfinite(float(center)) and math.isfinite(float(width))):
                raise ValueError
            window = Window(float(center), float(width), function[0] if function else "linear")
        if "viewport" in found:
            columns, rows, *_ = (int(part) for part in found["viewport"][0].split(",") if part)
            if not (0 < columns <= MOST_VIEWPORT and 0 < rows <= MOST_VIEWPORT):
                raise ValueError
            most = columns, rows
    except ValueError:
        raise Refused(400, "window is CENTER,WIDTH,FUNCTION and viewport COLUMNS,ROWS") from None
    return window, most
