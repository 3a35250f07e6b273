"""Studies on a disc, as IHE PDI has it: images under names of ISO 9660, DICOMDIR, README, INDEX.

The files are byte for byte as they came, and each is compared with its digest. Names say nothing of
a patient. `log` is called before the first byte lies on the medium.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import blake3

from edges.media.dicomdir import Directory
from edges.media.iso9660 import MOST_FILES
from edges.media.record_keys import CONCEPT, VERIFIED, VERIFIED_AT, VERIFIERS, WANTED
from node.catalog.catalog import Catalog
from node.catalog.rows import StudyRow
from node.dicom.part10 import reader_of
from node.dicom.said import CODE, first_item, said_of
from node.durable import disk_error
from node.errors import ExitCode, NodeError
from node.images.disc_texts import Contents, OnDisc, index, readme
from node.images.export import ExportProgress, InstanceReader, damaged
from node.images.media_forms import DICOMDIR, IMAGES, INDEX, README, Medium, medium, require_free
from node.images.store import BatchStore
from protocol.manifest import InstanceEntry, Manifest

_LABEL = "DICOM"

_HEADER_BYTES = 1024 * 1024
"""What a DICOMDIR says of a file is looked for in its first piece, and in more up to this size."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A disc that was written.

    Attributes:
        files: images on it.
        bytes: of them.
        syntaxes: how many images have each transfer syntax.
        made_up: how many records of the DICOMDIR have a made-up value, by its name.
    """

    files: int
    bytes: int
    syntaxes: dict[str, int] = field(default_factory=dict)
    made_up: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Disc:
    """A disc to be written.

    Attributes:
        target: the folder or file.
        form: `folder`, `zip` or `iso`.
        facility: who writes it, for people.
        sop_instance: UID of its DICOMDIR.
        now: UTC.
        mode: permissions of its files.
    """

    target: Path
    form: str
    facility: str
    sop_instance: str
    now: datetime
    mode: int


def write_disc(
    catalog: Catalog,
    store: BatchStore,
    studies: Sequence[StudyRow],
    disc: Disc,
    log: Callable[[Sequence[Manifest]], None],
    progress: Callable[[ExportProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Written:
    """Write a disc; blocks until done, so run it in a thread. It is there whole, or not at all.

    Args:
        studies: each once.
        log: writes the entries for what is going to be on the disc.
        progress: called after each image.
        cancelled: called between images; tells whether to stop.

    Raises:
        NodeError: the target exists; a study is gone; there are more images than a disc holds;
            the store is damaged; the disk is full; it was stopped.
    """
    manifests = [catalog.manifest(row.study_uid) for row in studies]
    if sum(len(one.instances) for one in manifests) > MOST_FILES:
        raise NodeError(
            f"a disc holds at most {MOST_FILES} images",
            hint="write several discs",
            code=ExitCode.USAGE,
        )
    try:
        require_free(disc.target, disc.form)
        log(manifests)
        with medium(disc.target, disc.form, mode=disc.mode, label=_LABEL, now=disc.now) as made:
            return _Writing(store, disc, made, progress, cancelled).write(studies, manifests)
    except OSError as error:
        raise disk_error("the disc cannot be written", error) from error


class _Writing:
    def __init__(
        self,
        store: BatchStore,
        disc: Disc,
        made: Medium,
        progress: Callable[[ExportProgress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._store, self._disc, self._medium = store, disc, made
        self._progress, self._cancelled = progress, cancelled
        self._directory = Directory()
        self._syntaxes: Counter[str] = Counter()
        self._done = self._bytes = 0

    def write(self, studies: Sequence[StudyRow], manifests: Sequence[Manifest]) -> Written:
        total = sum(len(one.instances) for one in manifests)
        total_bytes = sum(one.total_original_bytes for one in manifests)
        on_disc = []
        for number, (row, manifest) in enumerate(zip(studies, manifests, strict=True), start=1):
            folder = f"ST{number:06}"
            self._write_study(folder, row, manifest, total, total_bytes)
            on_disc.append(
                OnDisc(
                    row.patient_name,
                    row.patient_id,
                    row.patient_birth_date,
                    row.study_date,
                    row.description,
                    row.modalities,
                    len(manifest.instances),
                    f"{IMAGES}/{folder}",
                )
            )
        contents = Contents(
            self._disc.facility,
            self._disc.now,
            on_disc,
            self._syntaxes,
            self._directory.made_up,
        )
        self._medium.add((README,), [readme(contents)])
        self._medium.add((INDEX,), [index(contents)])
        directory = self._directory.encode(_LABEL, self._disc.sop_instance)
        self._medium.add((DICOMDIR,), [directory])
        return Written(
            files=total,
            bytes=total_bytes,
            syntaxes=dict(self._syntaxes),
            made_up=dict(self._directory.made_up),
        )

    def _write_study(
        self, folder: str, row: StudyRow, manifest: Manifest, total: int, total_bytes: int
    ) -> None:
        reader = InstanceReader(manifest, self._store)
        places: Counter[int] = Counter()
        paths = []
        for entry in manifest.instances:
            series = entry.series_index
            places[series] += 1
            paths.append((IMAGES, folder, f"SE{series + 1:06}", f"IM{places[series]:06}"))
        # In batch order, so that each batch is decoded once.
        order = sorted(
            range(len(paths)),
            key=lambda at: (manifest.instances[at].first_batch, manifest.instances[at].offset),
        )
        for at in order:
            if self._cancelled():
                raise NodeError(
                    "the disc is not written: it was stopped", code=ExitCode.INTERRUPTED
                )
            entry, path = manifest.instances[at], paths[at]
            pieces = _Compared(entry, reader.pieces(at))
            self._medium.add(path, pieces)
            self._record(path, row, manifest, entry, pieces.first)
            self._done += 1
            self._bytes += entry.size
            self._progress(
                ExportProgress(
                    instances=self._done,
                    instances_total=total,
                    bytes=self._bytes,
                    bytes_total=total_bytes,
                )
            )

    def _record(
        self,
        path: tuple[str, ...],
        row: StudyRow,
        manifest: Manifest,
        entry: InstanceEntry,
        head: bytes,
    ) -> None:
        read = reader_of(head)
        said = said_of(read, len(head), WANTED)
        if said.get(VERIFIED) == "VERIFIED":
            verified = first_item(read, len(head), VERIFIERS, {VERIFIED_AT: "DT"})
            said |= {tag: text for tag, (_, text) in verified.items()}
        self._directory.add(
            path,
            sop_class=entry.sop_class_uid,
            sop_instance=entry.sop_instance_uid,
            transfer_syntax=entry.transfer_syntax_uid,
            study=row.study_uid,
            series=manifest.series[entry.series_index].series_instance_uid,
            said=said,
            title=first_item(read, len(head), CONCEPT, CODE) or None,
        )
        self._syntaxes[entry.transfer_syntax_uid] += 1


class _Compared:
    """The pieces of an instance, compared with its digest at their end; keeps its beginning."""

    def __init__(self, entry: InstanceEntry, pieces: Iterator[memoryview]) -> None:
        self._entry, self._pieces = entry, pieces
        self.first = b""

    def __iter__(self) -> Iterator[memoryview]:
        hasher = blake3.blake3()
        for piece in self._pieces:
            if len(self.first) < _HEADER_BYTES:
                self.first += piece
            hasher.update(piece)
            yield piece
        if hasher.digest() != self._entry.digest:
            raise damaged(self._entry)
