"""Disks that are full, lose what was written last, or flip a bit, at either side of a transfer."""

import contextlib
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import wait_until
from relay import Fault, Point
from relayed import INSTANCES, Between, Fetch, find_points, relayed

from node.errors import ExitCode, NodeError

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SEED = int(os.environ.get("RADMESH_TEST_SEED", "0")) or random.SystemRandom().getrandbits(32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Between]:
    with relayed(tmp_path_factory.mktemp("disk")) as [one]:
        yield one


@pytest.fixture(scope="module")
def points(pair: Between) -> dict[str, Point]:
    return find_points(pair)


@pytest.fixture
def choose() -> random.Random:
    print("seed", SEED)
    return random.Random(SEED)


def flip_a_bit(path: Path, choose: random.Random) -> None:
    """Flip one bit somewhere in a file."""
    content = bytearray(path.read_bytes())
    content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    path.write_bytes(content)


def fails(fetch: Fetch) -> NodeError:
    """The error that a fetch ends with."""
    with pytest.raises(NodeError) as caught:
        fetch.result()
    assert caught.value.hint
    return caught.value


# --- bits that flip ----------------------------------------------------------------


def test_a_flipped_bit_between_two_attempts_costs_that_batch_alone(
    pair: Between, points: dict[str, Point], choose: random.Random
) -> None:
    study, fetch = pair.interrupt(points["last-batch"])
    kept = pair.received(study)
    damaged = choose.choice(kept)
    flip_a_bit(damaged, choose)
    whole = pair.kept(study) - damaged.stat().st_size
    pair.relay.lift()
    pair.call_again()
    pair.check_whole(study, fetch.result(), whole)


def test_a_damaged_batch_in_the_store_of_the_recipient_is_fetched_again(
    pair: Between, points: dict[str, Point], choose: random.Random
) -> None:
    """As after a crash between the move to the store and the catalog, on a bad disk."""
    study, fetch = pair.interrupt(points["last-batch"])
    kept = pair.received(study)
    damaged = choose.choice(kept)
    place = pair.south.home.store_path / damaged.name[:2] / damaged.name
    place.parent.mkdir(exist_ok=True)
    whole = pair.kept(study) - damaged.stat().st_size
    damaged.rename(place)
    flip_a_bit(place, choose)
    pair.relay.lift()
    pair.call_again()
    pair.check_whole(study, fetch.result(), whole)


def test_a_flipped_bit_in_the_store_of_the_source_is_told_to_both(
    pair: Between, choose: random.Random
) -> None:
    pair.relay.lift()
    pair.wait_connected()
    study = pair.announced_study()
    name = choose.choice(sorted(study.batches))
    damaged = pair.north.home.store_path / name[:2] / name
    undamaged = damaged.read_bytes()
    flip_a_bit(damaged, choose)

    error = fails(pair.fetch(study))
    assert error.code == ExitCode.REFUSED
    assert "damaged" in error.message
    assert pair.north.name in error.message
    assert study.uid not in {row["study"] for row in pair.south.call("studies")["studies"]}
    wait_until(lambda: not pair.is_sending(), 10.0, "North ends the transfer")
    told = pair.north.entries("disclosure-failed")[-1]["details"]["why"]
    assert "damaged on disk" in told

    kept = pair.kept(study)
    damaged.write_bytes(undamaged)
    pair.check_whole(study, pair.fetch(study).result(), kept)


# --- power cuts --------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["nothing", "some"])
def test_what_a_power_cut_took_of_the_last_batch_is_fetched_again(
    pair: Between, points: dict[str, Point], choose: random.Random, keep: str
) -> None:
    study, fetch = pair.interrupt(points["last-batch"])
    kept = pair.received(study)
    whole = pair.kept(study)
    pair.south.kill()
    with pytest.raises(NodeError):
        fetch.result()
    last = kept[-1]
    size = last.stat().st_size
    os.truncate(last, 0 if keep == "nothing" else choose.randrange(1, size))
    (last.parent / f".{'0' * 16}.tmp").write_bytes(bytes(choose.randrange(size)))
    pair.relay.lift()
    pair.south.start()
    fetch = pair.fetch(study)
    pair.check_whole(study, fetch.result(), whole - size)


# --- full disks ----------------------------------------------------------------------


def test_a_batch_that_cannot_be_written_ends_the_fetch_and_nothing_is_lost(
    pair: Between, points: dict[str, Point]
) -> None:
    pair.relay.lift()
    pair.wait_connected()
    study = pair.announced_study()
    pair.relay.arm(Fault.FREEZE, points["last-batch"])
    fetch = pair.fetch(study)
    assert pair.relay.struck.wait(20)
    wait_until(lambda: len(pair.received(study)) == INSTANCES - 1, 10.0, "batches kept")
    kept = pair.kept(study)
    assert pair.south.process is not None
    limit = resource.RLIMIT_FSIZE
    before = resource.prlimit(pair.south.process.pid, limit)
    resource.prlimit(pair.south.process.pid, limit, (1_000_000, before[1]))
    pair.relay.lift()
    error = fails(fetch)
    assert error.code == ExitCode.DISK
    assert "cannot be written" in error.message
    assert pair.kept(study) == kept
    wait_until(lambda: not pair.is_sending(), 10.0, "North ends the transfer")
    assert "storage_full" in pair.north.entries("disclosure-failed")[-1]["details"]["why"]

    resource.prlimit(pair.south.process.pid, limit, before)
    pair.check_whole(study, pair.fetch(study).result(), kept)


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in memory; the test is skipped where that is not allowed."""
    directory.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk: Path) -> Path:
    """Take all space that is left on a disk; remove the file to give it back."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 20)):
            pass
        while file.write(bytes(4096)):
            pass
    return filler


def test_a_disk_that_fills_up_while_receiving_stops_the_fetch_and_not_the_node(
    tmp_path: Path, points: dict[str, Point]
) -> None:
    """Nothing at all can be written: not the batch, not the log, not the database."""
    with small_disk(tmp_path / "disk", 320) as disk, relayed(tmp_path, south_at=disk) as [pair]:
        study = pair.announced_study()
        pair.relay.arm(Fault.FREEZE, points["last-batch"])
        fetch = pair.fetch(study)
        assert pair.relay.struck.wait(20)
        wait_until(lambda: len(pair.received(study)) == INSTANCES - 1, 10.0, "batches kept")
        kept = pair.kept(study)
        filler = fill(disk)
        pair.relay.lift()
        assert fails(fetch).code == ExitCode.DISK
        assert fails(pair.fetch(study)).code == ExitCode.DISK
        assert pair.kept(study) == kept
        filler.unlink()

        assert pair.south.answers()
        pair.wait_connected()
        pair.check_whole(study, pair.fetch(study).result(), kept)


def test_a_source_whose_disk_is_full_discloses_nothing_and_says_so(
    tmp_path: Path, points: dict[str, Point]
) -> None:
    with small_disk(tmp_path / "disk", 320) as disk, relayed(tmp_path, north_at=disk) as [pair]:
        study = pair.announced_study()
        filler = fill(disk)
        error = fails(pair.fetch(study))
        assert error.code == ExitCode.REFUSED
        assert "or the disk is full" in error.message
        assert not pair.kept(study)
        wait_until(lambda: not pair.is_sending(), 10.0, "North ends the transfer")
        filler.unlink()

        assert pair.north.answers()
        assert not pair.north.entries("disclosure-begun")
        pair.wait_connected()
        pair.check_whole(study, pair.fetch(study).result(), None)
