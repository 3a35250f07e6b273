"""Work on a disk that fails or loses power at each call in turn."""

import contextlib
import errno
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk

from node.catalog.catalog import Catalog
from node.errors import ExitCode, NodeError
from node.images.store import BatchStore
from node.transfer.incoming import Incoming
from protocol.errors import DigestMismatch

KILLED = errno.EIO
"""The failing call also ends the process; the disk itself keeps working."""


class Run:
    """One run of work on a disk with a fault.

    Attributes:
        at: the call that failed.
        disk: the disk as the fault left it.
        path: the root of the disk.
        kept: digest to content of each acknowledged batch.
        is_whole: whether the work was completed.
    """

    def __init__(self, at: int, disk: FaultyDisk, path: Path) -> None:
        self.at, self.disk, self.path = at, disk, path
        self.kept: dict[bytes, bytes] = {}
        self.is_whole = False

    def survivors(self, directory: Path) -> Iterator[tuple[str, Path]]:
        """The possible contents of the disk afterwards, each with a name."""
        for kind, left in self.disk.survivors(directory / "left", seed=self.at):
            yield f"fault at call {self.at}, {kind}", left

    def require_kept(self, directory: Path) -> None:
        """Check that all acknowledged batches are in the store or `incoming/` in each case."""
        for what, left in self.survivors(directory):
            store = BatchStore(left / "store", reserve_bytes=0)
            (left / "incoming").mkdir(exist_ok=True)
            incoming = Incoming(left / "incoming", store)
            for digest, content in self.kept.items():
                try:
                    with contextlib.suppress(DigestMismatch):
                        # Reading removes a newer, unflushed copy in `incoming/`.
                        incoming.read(digest)
                    assert incoming.read(digest) == content
                except DigestMismatch as error:
                    pytest.fail(f"{what}: an acknowledged batch is lost: {error}")


Work = Callable[[Run], None]


def sweep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: Work,
    error: int = 0,
    *,
    least: int,
    parts: tuple[str, ...] = ("incoming",),
) -> Iterator[Run]:
    """Do the work in an empty home once for each of its calls, which fails.

    Args:
        work: the work; ends with a NodeError of the disk if a call fails.
        error: errno of the failing call; 0 for a power cut.
        least: the number of calls that it makes at least.
        parts: folders that the home already has, durably.
    """
    for at in itertools.count():
        home = tmp_path / f"run-{at}"
        for part in parts:
            (home / part).mkdir(parents=True)
        with monkeypatch.context() as patch:
            run = Run(at, FaultyDisk(home, patch), home)
            run.disk.fail(at, error)
            try:
                work(run)
                run.is_whole = True
            except NodeError as failure:
                if failure.code is not ExitCode.DISK:
                    raise
            reached = run.disk.calls > at
            assert run.is_whole or reached
            if error:
                run.disk.fail(None)
            yield run
        shutil.rmtree(home)
        if not reached:
            assert at > least
            return


def require_studies_kept(catalog: Catalog, store: BatchStore, what: str) -> int:
    """Check that a store has every batch of the catalog's studies; returns their number."""
    uids = [row.study_uid for row in catalog.studies()]
    for uid in uids:
        for batch in catalog.manifest(uid).batches:
            try:
                store.read(batch.digest)
            except NodeError as error:
                pytest.fail(f"{what}: a study of the catalog has lost a batch: {error.message}")
    return len(uids)
