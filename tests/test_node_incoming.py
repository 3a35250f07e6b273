"""Batches on their way in: checked against the manifest, kept, swept."""

import os
from io import BytesIO
from pathlib import Path

import exchange_pair
import pytest
from exchange_pair import SmallStudy
from studies_made import make_instance

from node.errors import NodeError
from node.incoming import KEEP_SECONDS, Incoming, LargeInstances, check_batch, is_split
from node.store import BatchStore
from protocol import encoding
from protocol.errors import DigestMismatch, RemoteProtocolError

STUDY = exchange_pair.STUDY


def _part10(number: int, rows: int) -> bytes:
    buffer = BytesIO()
    instance = make_instance(STUDY, number, rows=rows)
    instance.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def study() -> SmallStudy:
    contents = [_part10(number + 1, rows) for number, rows in enumerate((8, 8, 64, 8))]
    return exchange_pair.make_study(contents, batch_bytes=3000)


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "store").mkdir()
    return Incoming(tmp_path / "incoming", BatchStore(tmp_path / "store"))


def test_a_batch_of_whole_instances_is_checked_and_not_returned(study: SmallStudy) -> None:
    assert not is_split(study.manifest, 0)
    assert check_batch(study.manifest, 0, study.encoded[0]) is None


def test_parts_of_a_large_instance_are_hashed_in_order(study: SmallStudy) -> None:
    [large_index] = [
        index for index in range(len(study.manifest.instances)) if is_split(study.manifest, index)
    ]
    large = LargeInstances(study.manifest)
    for index, encoded in enumerate(study.encoded):
        original = check_batch(study.manifest, index, encoded)
        if original is not None:
            large.add(index, original)
    assert large.unverified({large_index}) == []


def test_parts_out_of_order_are_verified_from_disk(study: SmallStudy, incoming: Incoming) -> None:
    large = LargeInstances(study.manifest)
    for index in reversed(range(len(study.encoded))):
        original = check_batch(study.manifest, index, study.encoded[index])
        incoming.write(study.manifest.batches[index].digest, study.encoded[index])
        if original is not None:
            large.add(index, original)
    [unverified] = large.unverified(set(range(4)))
    large.verify_from_disk(unverified, incoming)
    assert large.unverified(set(range(4))) == []


def test_other_bytes_in_an_instance_are_found(study: SmallStudy) -> None:
    original = bytearray(encoding.decode_untrusted(study.encoded[0]))
    original[-1] ^= 1
    with pytest.raises(DigestMismatch):
        check_batch(study.manifest, 0, encoding.encode(original))


def test_other_uids_in_an_instance_are_found(study: SmallStudy) -> None:
    original = encoding.decode_untrusted(study.encoded[0])
    other = original.replace(STUDY.encode(), STUDY[:-1].encode() + b"2")
    with pytest.raises(RemoteProtocolError, match="other UIDs"):
        check_batch(study.manifest, 0, encoding.encode(other))


def test_other_bytes_in_a_large_instance_are_found(study: SmallStudy) -> None:
    large = LargeInstances(study.manifest)
    parts = [
        (index, bytearray(original))
        for index, encoded in enumerate(study.encoded)
        if (original := check_batch(study.manifest, index, encoded)) is not None
    ]
    parts[1][1][5] ^= 1
    *others, (last, end) = parts
    for index, original in others:
        large.add(index, bytes(original))
    with pytest.raises(DigestMismatch):
        large.add(last, bytes(end))


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
    incoming.adopt(study.manifest)
    assert list((tmp_path / "incoming").iterdir()) == []
    for batch, encoded in zip(study.manifest.batches, study.encoded, strict=True):
        assert incoming.read(batch.digest) == encoded


def test_a_disk_that_cannot_be_written_is_told(study: SmallStudy, tmp_path: Path) -> None:
    nowhere = Incoming(tmp_path / "gone", BatchStore(tmp_path))
    with pytest.raises(NodeError, match="cannot be written"):
        nowhere.write(study.manifest.batches[0].digest, study.encoded[0])


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
    incoming.adopt(study.manifest)
    [path] = (tmp_path / "store").glob("??/*")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(DigestMismatch):
        incoming.read(digest)
    incoming.write(digest, study.encoded[0])
    incoming.adopt(study.manifest)
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
