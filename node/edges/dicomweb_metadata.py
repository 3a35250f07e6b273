"""DICOM JSON of studies, series and instances: made at the first request, then kept.

An instance that cannot be read has what the catalog knows of it: a series is never refused for it.
"""

import json
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import trio

from node.blocking import in_thread
from node.catalog.catalog import Catalog
from node.edges.dicomweb_answers import Threads
from node.edges.dicomweb_cache import MAX_SERIES_BYTES, MetadataCache
from node.errors import NodeError
from node.failures import describe_unexpected
from node.images.export import InstanceReader
from node.images.store import BatchStore
from protocol.manifest import NO_NUMBER, InstanceEntry, Manifest

log = logging.getLogger("radmesh.dicomweb")

AT_ONCE = 16
"""Instances that a thread reads before others have their turn."""

GIVING = 16
"""Most requests whose metadata is given at one time: each may hold a series of kept JSON. A client
that takes nothing for long is cut off, so the others come to it."""

_URI = b'"BulkDataURI":"bulkdata/'


class Metadata:
    """Makes DICOM JSON.

    Args:
        catalog: our studies.
        store: the batches.
        cache: keeps what was made.
        threads: where it is made.
    """

    def __init__(
        self, catalog: Catalog, store: BatchStore, cache: MetadataCache, threads: Threads
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._cache = cache
        self._threads = threads
        self._giving = trio.CapacityLimiter(GIVING)

    async def pieces(
        self, manifest: Manifest, chosen: Sequence[int], *, series_in_uri: bool, sop_in_uri: bool
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """The JSON array of some instances of a study, in pieces.

        Args:
            manifest: of the study.
            chosen: which instances; a series that is asked for as a whole is kept.
            series_in_uri, sop_in_uri: whether URIs of bulk data, which are relative to that of the
                request, name the series and the instance.
        """
        # The task that closes a generator may be another one than that which began it.
        giving = object()
        await self._giving.acquire_on_behalf_of(giving)
        try:
            async for piece in self._pieces(manifest, chosen, series_in_uri, sop_in_uri):
                yield piece
        finally:
            self._giving.release_on_behalf_of(giving)

    async def _pieces(
        self, manifest: Manifest, chosen: Sequence[int], series_in_uri: bool, sop_in_uri: bool
    ) -> AsyncGenerator[bytes | memoryview, None]:
        separator = b"["
        wanted = set(chosen)
        for series in sorted({manifest.instances[index].series_index for index in chosen}):
            members = [
                index for index, one in enumerate(manifest.instances) if one.series_index == series
            ]
            uid = manifest.series[series].series_instance_uid
            async for index, line in self._lines(manifest, uid, members, wanted):
                sop = manifest.instances[index].sop_instance_uid
                prefix = f"series/{uid}/" if series_in_uri else ""
                prefix += f"instances/{sop}/" if sop_in_uri else ""
                # Within a text, the quotation marks would be escaped.
                yield separator + line.replace(
                    _URI, b'"BulkDataURI":"' + prefix.encode("ascii") + b"bulkdata/"
                )
                separator = b","
        yield b"[]" if separator == b"[" else b"]"

    async def _lines(
        self, manifest: Manifest, series: str, members: list[int], wanted: set[int]
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        study = manifest.study_instance_uid
        digests = [manifest.instances[index].digest for index in members]
        limiter = self._threads.limiter
        kept = await in_thread(self._cache.read, study, series, digests, limiter=limiter)
        if kept is not None:
            for index, line in zip(members, kept, strict=True):
                if index in wanted:
                    yield index, line
            return
        reader = InstanceReader(manifest, self._store)
        # In the order of the batches, so that each is decoded once.
        order = sorted(
            wanted.intersection(members),
            key=lambda at: (manifest.instances[at].first_batch, manifest.instances[at].offset),
        )
        made: dict[int, bytes] = {}
        size = 0
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            lines = await in_thread(self._make, manifest, series, reader, some, limiter=limiter)
            for index, line in zip(some, lines, strict=True):
                yield index, line
                size += len(line)
                if size <= MAX_SERIES_BYTES:
                    made[index] = line
        if len(made) == len(members):
            lines = [made[index] for index in members]
            await in_thread(self._cache.keep, study, series, digests, lines, limiter=limiter)

    def _make(
        self, manifest: Manifest, series: str, reader: InstanceReader, some: Sequence[int]
    ) -> list[bytes]:
        return [self._json(manifest, series, reader, index) for index in some]

    def _json(self, manifest: Manifest, series: str, reader: InstanceReader, index: int) -> bytes:
        from node.dicom.data_sets import read_data_set
        from node.dicom.json_model import Place, instance_json

        entry = manifest.instances[index]

        def read(offset: int, length: int) -> bytes:
            return reader.read(index, offset, length)

        def uri_of(place: Place) -> str:
            return "bulkdata/" + "/".join(place)

        try:
            return instance_json(read_data_set(read, entry.size), uri_of)
        except Exception as error:
            # Whatever a file says, the others of its series can be shown.
            why = error.message if isinstance(error, NodeError) else describe_unexpected(error)
            log.warning("the metadata of an instance is that of the catalog: %s", why)
            return _known(manifest.study_instance_uid, series, entry)


def _known(study: str, series: str, entry: InstanceEntry) -> bytes:
    """The JSON of an instance that cannot be read, from the catalog."""
    found: dict[str, Any] = {
        "00080016": {"vr": "UI", "Value": [entry.sop_class_uid]},
        "00080018": {"vr": "UI", "Value": [entry.sop_instance_uid]},
        "0020000D": {"vr": "UI", "Value": [study]},
        "0020000E": {"vr": "UI", "Value": [series]},
    }
    if entry.number != NO_NUMBER:
        found["00200013"] = {"vr": "IS", "Value": [entry.number]}
    return json.dumps(found, separators=(",", ":")).encode("ascii")
