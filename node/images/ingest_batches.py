"""The second pass of an ingest: the new instances of one study become batches in the store.

One thread reads and hashes in order; others encode, decode again, compare, and
write. Before anything is published, each batch is decoded and compared with the bytes whose digests
the catalog will hold.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby

from node.catalog.patients import Described
from node.dicom.headers import InstanceHeader
from node.errors import ExitCode, NodeError
from node.images.reading import FileChanged
from node.images.sources import Source
from node.images.store import BatchStore
from node.images.workspaces import Workspaces
from protocol import batches, encoding
from protocol.manifest import NO_NUMBER, BatchEntry, InstanceEntry, Manifest, SeriesEntry
from protocol.pixels import PixelRun

_BATCHES_AT_WORK = 4
"""Two in the encoders and two ready for them: 16 MiB of original bytes."""


class Cancelled(Exception):
    """The caller asked to stop."""


@dataclass(slots=True)
class Written:
    """Instances of one study that are in the store.

    Attributes:
        manifest: of what was written; None when nothing could be.
        headers: by series index of the manifest, the header of one instance.
        described: what all these instances say of the study.
        lost: instances that changed or could not be read meanwhile, and why.
    """

    manifest: Manifest | None = None
    headers: dict[int, InstanceHeader] = field(default_factory=dict)
    described: Described = field(default_factory=Described)
    lost: list[tuple[Source, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Placed:
    source: Source
    first_batch: int
    offset: int


class BatchWriter:
    """Writes batches into the store, encoding in the threads of `pool`.

    Args:
        cancelled: called before each batch; tells whether to stop.
    """

    def __init__(self, store: BatchStore, pool: Executor, cancelled: Callable[[], bool]) -> None:
        self._store = store
        self._pins = store.pins()
        self._pool = pool
        self._cancelled = cancelled
        self._workspaces = Workspaces()
        self._at_work: deque[Future[BatchEntry]] = deque()
        self._on_batch: Callable[[BatchEntry], None] = lambda _: None

    def write(
        self,
        study_uid: str,
        sources: Sequence[Source],
        on_batch: Callable[[BatchEntry], None] = lambda _: None,
    ) -> Written:
        """Store the instances of one study; durable on return, not yet published.

        Args:
            sources: instances of this study, each SOP Instance UID once.
            on_batch: called for each batch once it is in the store.

        The batches are pinned until the next call, or `end`.

        Raises:
            Cancelled: the caller asked to stop.
            NodeError: the disk is full or broken.
        """
        written = Written()
        # The batches of the previous study are published.
        self._pins.clear()
        self._on_batch = on_batch
        futures: list[Future[BatchEntry]] = []
        placed: list[_Placed] = []
        ordered = sorted(sources, key=_order)
        for _, group in groupby(ordered, key=lambda one: one.header.series.series_uid):
            self._write_series(list(group), futures, placed, written)
        self._wait_until_at_most(0)
        entries = tuple(future.result() for future in futures)
        if placed:
            written.manifest, written.headers = _manifest(study_uid, placed, entries)
            # Equal attributes are the same object in many instances.
            each = {id(one.source.header.study): one.source.header.study for one in placed}
            written.described = Described(each.values())
        return written

    def end(self) -> None:
        """The written batches are published or given up: unpin them, and let go of the memory."""
        self._pins.clear()
        self._workspaces.clear()
        # It belongs to the owner of this writer: a circle would keep both for a long time.
        self._on_batch = lambda _: None

    def _write_series(
        self,
        series: list[Source],
        futures: list[Future[BatchEntry]],
        placed: list[_Placed],
        written: Written,
    ) -> None:
        for segments in batches.plan(source.size for source in series):
            first = segments[0]
            source = series[first.instance]
            if first.length == source.size:
                whole = [series[one.instance] for one in segments]
                self._write_whole(whole, futures, placed, written)
            elif first.start == 0:
                self._write_split(source, futures, placed, written)

    def _write_whole(
        self,
        sources: list[Source],
        futures: list[Future[BatchEntry]],
        placed: list[_Placed],
        written: Written,
    ) -> None:
        pieces = []
        runs: list[PixelRun] = []
        offset = 0
        for source in sources:
            try:
                with source.reader() as reader:
                    pieces.append(reader.read(0, source.size))
            except (FileChanged, OSError) as error:
                written.lost.append((source, _why(error)))
                continue
            placed.append(_Placed(source, len(futures), offset))
            runs += _runs(source, 0, source.size, offset)
            offset += source.size
        if pieces:
            futures.append(self._submit(b"".join(pieces), runs))

    def _write_split(
        self,
        source: Source,
        futures: list[Future[BatchEntry]],
        placed: list[_Placed],
        written: Written,
    ) -> None:
        first_batch = len(futures)
        try:
            with ExitStack() as stack:
                reader = stack.enter_context(source.reader())
                for (segment,) in batches.plan([source.size]):
                    runs = _runs(source, segment.start, segment.length, 0)
                    original = reader.read(segment.start, segment.length)
                    futures.append(self._submit(original, runs))
        except (FileChanged, OSError) as error:
            # Nothing claims those of its batches that are stored already.
            del futures[first_batch:]
            written.lost.append((source, _why(error)))
            return
        placed.append(_Placed(source, first_batch, 0))

    def _submit(self, original: bytes, runs: Sequence[PixelRun]) -> Future[BatchEntry]:
        if self._cancelled():
            raise Cancelled
        self._wait_until_at_most(_BATCHES_AT_WORK - 1)
        future = self._pool.submit(self._encode_and_store, original, runs)
        self._at_work.append(future)
        return future

    def _wait_until_at_most(self, count: int) -> None:
        while len(self._at_work) > count:
            self._on_batch(self._at_work.popleft().result())

    def _encode_and_store(self, original: bytes, runs: Sequence[PixelRun]) -> BatchEntry:
        with self._workspaces.borrowed() as workspace:
            encoded = encoding.encode(original, runs=runs, workspace=workspace)
            is_exact = encoding.decode_in_place_untrusted(encoded, workspace) == original
        if not is_exact:
            raise NodeError(
                "a batch does not decode to what was encoded",
                hint="nothing was stored; check the memory of this machine and report this",
                code=ExitCode.INTEGRITY,
            )
        digest = self._store.put(encoded, self._pins)
        return BatchEntry(digest, len(encoded), len(original), encoding.encoding_of(encoded))


def _runs(source: Source, start: int, length: int, offset: int) -> list[PixelRun]:
    """The pixels in a segment of an instance, as runs of whole rows.

    Args:
        source: the instance.
        start, length: the segment.
        offset: offset of the segment in its batch.
    """
    pixels = source.header.pixels
    if pixels is None:
        return []
    if length == source.size:
        return [PixelRun(offset + pixels.offset, pixels.columns, pixels.rows, pixels.frames)]
    row = 2 * pixels.columns
    first = max(0, -(-(start - pixels.offset) // row))
    last = min(pixels.rows * pixels.frames, (start + length - pixels.offset) // row)
    if last <= first:
        return []
    begin = offset + pixels.offset + first * row - start
    return [PixelRun(begin, pixels.columns, last - first, 1)]


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return "changed while it was being ingested"


def _number(header: InstanceHeader) -> int:
    return NO_NUMBER if header.number is None else header.number


def _order(source: Source) -> tuple[str, int, str]:
    """Sort key for the canonical order of a manifest."""
    header = source.header
    return header.series.series_uid, _number(header), header.sop_instance_uid


def _manifest(
    study_uid: str, placed: list[_Placed], entries: tuple[BatchEntry, ...]
) -> tuple[Manifest, dict[int, InstanceHeader]]:
    series: list[SeriesEntry] = []
    headers: dict[int, InstanceHeader] = {}
    instances: list[InstanceEntry] = []
    for one in placed:
        header = one.source.header
        if not series or series[-1].series_instance_uid != header.series.series_uid:
            headers[len(series)] = header
            series.append(SeriesEntry(header.series.series_uid, header.series.modality))
        instances.append(
            InstanceEntry(
                series_index=len(series) - 1,
                sop_instance_uid=header.sop_instance_uid,
                sop_class_uid=header.sop_class_uid,
                transfer_syntax_uid=header.transfer_syntax_uid,
                size=one.source.size,
                digest=one.source.digest,
                first_batch=one.first_batch,
                offset=one.offset,
                number=_number(header),
                rows=header.rows,
                columns=header.columns,
                frames=header.frames,
            )
        )
    return Manifest(study_uid, tuple(series), tuple(instances), entries), headers
