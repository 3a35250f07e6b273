"""Batches on their way in: kept, flushed, moved, swept."""

import errno
import os
from pathlib import Path

import exchange_pair
import pytest
from download_made import part10
from exchange_pair import SmallStudy

from node.errors import ExitCode, NodeError
from node.images.store import BatchStore
from node.transfer.incoming import KEEP_SECONDS, Incoming
from protocol.errors import DigestMismatch

STUDY = exchange_pair.STUDY


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    contents = [part10(number + 1, rows) for number, rows in enumerate((8, 8, 64, 8))]
    return exchange_pair.make_study(contents, batch_bytes=3000)


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "store").mkdir()
    return Incoming(tmp_path / "incoming", BatchStore(tmp_path / "store"))


def test_a_batch_damaged_on_disk_is_removed_and_told(
    study: SmallStudy, incoming: Incoming, tmp_path: Path
) -> None:
    digest = study.manifest.batches[0].digest
    incoming.write(digest, study.encoded[0])
    path = tmp_path / "incoming" / digest.hex()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DigestMismatch):
        incoming.read(digest)
    assert not incoming.has(digest)


def test_adopted_batches_are_in_the_store_alone(
    study: SmallStudy, incoming: Incoming, tmp_path: Path
) -> None:
    for batch, encoded in zip(study.manifest.batches, study.encoded, strict=True):
        incoming.write(batch.digest, encoded)
    incoming.adopt(batch.digest for batch in study.manifest.batches)
    assert list((tmp_path / "incoming").iterdir()) == []
    for batch, encoded in zip(study.manifest.batches, study.encoded, strict=True):
        assert incoming.read(batch.digest) == encoded


def test_what_is_neither_here_nor_in_the_store_cannot_be_adopted(
    study: SmallStudy, incoming: Incoming
) -> None:
    first, second = (batch.digest for batch in study.manifest.batches[:2])
    incoming.write(first, study.encoded[0])
    incoming.flush(first)
    with pytest.raises(NodeError, match="cannot be stored"):
        incoming.adopt([first, second])
    # What was there is in the store, and no catalog says so: nothing is lost.
    assert incoming.read(first) == study.encoded[0]
    incoming.adopt([first, first])


def test_a_flush_finds_what_moved_to_the_store_and_tells_what_is_gone(
    study: SmallStudy, incoming: Incoming
) -> None:
    digest = study.manifest.batches[0].digest
    incoming.write(digest, study.encoded[0])
    incoming.adopt([digest])
    incoming.flush(digest)
    with pytest.raises(NodeError, match="cannot be written"):
        incoming.flush(study.manifest.batches[1].digest)


def test_a_batch_from_a_second_source_leaves_the_first_one_alone(
    study: SmallStudy, incoming: Incoming, tmp_path: Path
) -> None:
    digest = study.manifest.batches[0].digest
    incoming.write(digest, study.encoded[0])
    [path] = (tmp_path / "incoming").iterdir()
    before = path.stat().st_ino
    incoming.write(digest, study.encoded[0])
    assert [path.stat().st_ino for path in (tmp_path / "incoming").iterdir()] == [before]


def test_a_disk_that_cannot_be_written_is_told(study: SmallStudy, tmp_path: Path) -> None:
    nowhere = Incoming(tmp_path / "gone", BatchStore(tmp_path))
    (tmp_path / "gone").rmdir()
    with pytest.raises(NodeError, match="cannot be written"):
        nowhere.write(study.manifest.batches[0].digest, study.encoded[0])


def test_the_folder_is_made_where_a_backup_did_not_have_it(
    study: SmallStudy, tmp_path: Path
) -> None:
    incoming = Incoming(tmp_path / "incoming", BatchStore(tmp_path / "store"))
    assert incoming.is_empty()
    assert incoming.sweep(unfinished=False, now=0.0) == 0
    assert (tmp_path / "incoming").stat().st_mode & 0o777 == 0o700
    incoming.write(study.manifest.batches[0].digest, study.encoded[0])
    assert not incoming.is_empty()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NodeError, match="cannot be made"):
        Incoming(tmp_path / "file" / "incoming", BatchStore(tmp_path / "store"))


def test_what_the_log_and_the_database_need_is_left_free(study: SmallStudy, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    incoming = Incoming(tmp_path / "in", BatchStore(tmp_path / "st", reserve_bytes=1 << 62))
    with pytest.raises(NodeError, match="beside a reserve"):
        incoming.write(study.manifest.batches[0].digest, study.encoded[0])
    assert not list((tmp_path / "in").iterdir())


def test_a_batch_damaged_in_the_store_is_told_as_one_to_receive_again(
    study: SmallStudy, incoming: Incoming, tmp_path: Path
) -> None:
    digest = study.manifest.batches[0].digest
    incoming.write(digest, study.encoded[0])
    incoming.adopt([digest])
    [path] = (tmp_path / "store").glob("??/*")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(DigestMismatch):
        incoming.read(digest)
    incoming.write(digest, study.encoded[0])
    incoming.adopt([digest])
    assert incoming.read(digest) == study.encoded[0]


def test_sweeping_spares_what_a_transfer_may_use(
    study: SmallStudy, incoming: Incoming, tmp_path: Path
) -> None:
    root = tmp_path / "incoming"
    digest = study.manifest.batches[0].digest
    incoming.write(digest, study.encoded[0])
    (root / ".half.tmp").write_bytes(b"x")
    now = (root / digest.hex()).stat().st_mtime
    assert incoming.sweep(unfinished=False, now=now) == 1
    os.utime(root / digest.hex(), (now - KEEP_SECONDS - 1, now - KEEP_SECONDS - 1))
    assert incoming.sweep(unfinished=True, now=now) == 0
    assert incoming.sweep(unfinished=False, now=now) == 1
    assert not incoming.has(digest)


def test_a_damaged_batch_that_cannot_be_removed_is_told(
    study: SmallStudy, incoming: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = study.manifest.batches[0].digest
    incoming.write(digest, b"damaged")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", fail)
    with pytest.raises(NodeError, match="Read-only") as caught:
        incoming.read(digest)
    assert caught.value.code is ExitCode.DISK
