"""Images that come one by one, beside one ingest of the same files: time, stored bytes, entries.

python tests/bench/arrivals.py --runs 3

The files are copied into memory first. Each way gets a new home in the temporary folder
(`TMPDIR`; on a disk, or the flushes cost nothing), in turns. A time is from the first byte to the
last image in the catalog, without the quiet time for which a group waits. `--each` also runs an
ingest for each file.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import trio
from corpus import SHARED
from tables import table

from node.app import Node
from node.home import Home
from node.images.arrival_groups import Windows
from node.images.arrivals import Arrivals, Association
from node.images.ingest import ingest
from node.images.spool import Spool

SAMPLE = "mr-fmri-ge-private-tags"
COUNT = 450


def _once(node: Node, files: Sequence[Path]) -> list[float]:
    _ingest(node, files)
    return []


def _each(node: Node, files: Sequence[Path]) -> list[float]:
    for path in files:
        _ingest(node, [path])
    return []


def _ingest(node: Node, files: Sequence[Path]) -> None:
    ingest(
        files,
        catalog=node.catalog,
        store=node.store,
        quarantine=node.home.quarantine_path,
        audit=node.audit.append,
        now=node.clock.now,
    )


async def _arrive(node: Node, files: Sequence[Path], at_one_time: int) -> list[float]:
    """Seconds until each was answered."""
    spool = Spool(node.home.arrivals_path, node.store.require_free)
    arrivals = Arrivals(
        spool=spool,
        catalog=node.catalog,
        store=node.store,
        quarantine=node.home.quarantine_path,
        append=node.audit.append,
        require_sound=node.audit.halt.require_none,
        clock=node.clock,
        windows=lambda source: Windows(quiet=0),
    )
    # An edge has them from its socket.
    contents = [path.read_bytes() for path in files]
    answered: list[float] = []
    packed = trio.Event()
    node.catalog.on_change = lambda study: trio.from_thread.run_sync(packed.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals.run)
        async with arrivals.association("bench") as association, trio.open_nursery() as takers:
            left = iter(contents)
            for _ in range(at_one_time):
                takers.start_soon(_take, association, left, answered)
        await packed.wait()
        nursery.cancel_scope.cancel()
    spool.close()
    return answered


async def _take(association: Association, contents: Iterator[bytes], answered: list[float]) -> None:
    for content in contents:
        began = time.monotonic()
        await association.take(_pieces(content))
        answered.append(time.monotonic() - began)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _run(kind: str, files: Sequence[Path]) -> tuple[float, float, int, int]:
    """Seconds, median seconds of an answer, stored bytes, entries."""
    with tempfile.TemporaryDirectory() as directory:
        home = Home.create(Path(directory) / "home", name="Bench")
        with Node.open(home) as node:
            began = time.monotonic()
            if kind == "one ingest":
                answered = _once(node, files)
            elif kind == "an ingest each":
                answered = _each(node, files)
            else:
                answered = trio.run(_arrive, node, files, int(kind.split()[1]))
            seconds = time.monotonic() - began
            instances = sum(row.instance_count for row in node.catalog.studies())
            assert instances == len(files), "not all came into the catalog"
            entries = sum(b'"type":"ingest"' in entry for entry in node.audit.entries())
        return seconds, statistics.median(answered or [0]), _size(home.store_path), entries


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="arrivals.py", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--at-one-time", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--each", action="store_true", help="an ingest for each file, too")
    parser.add_argument("--files", type=Path, default=SHARED / "data" / SAMPLE, metavar="FOLDER")
    arguments = parser.parse_args()
    ways = ["one ingest", *(f"arrivals, {number} at a time" for number in arguments.at_one_time)]
    ways += ["an ingest each"] if arguments.each else []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        found = sorted(path for path in arguments.files.rglob("*.dcm"))[:COUNT]
        if not found:
            raise SystemExit(f"there are no DICOM files in {arguments.files}")
        files = [Path(memory) / f"{number}.dcm" for number in range(len(found))]
        for source, target in zip(found, files, strict=True):
            shutil.copyfile(source, target)
        _run("one ingest", files[:2])
        _run("arrivals, 2 at a time".replace("arrivals, ", "arrivals "), files[:2])
        runs = [
            {way: _run(way.replace(",", ""), files) for way in ways} for _ in range(arguments.runs)
        ]
        print(f"{len(files)} images, {_size(Path(memory))} bytes, {arguments.runs} runs\n")
    rows = []
    for way in ways:
        middle = [statistics.median(run[way][column] for run in runs) for column in range(4)]
        ratios = [statistics.median(run[way][0] / run["one ingest"][0] for run in runs)]
        rows.append(
            [
                way,
                f"{middle[0]:.2f}",
                f"{ratios[0]:.2f}",
                f"{1000 * middle[1]:.1f}" if middle[1] else "",
                f"{middle[2] / 1e6:.2f}",
                f"{middle[3]:.0f}",
            ]
        )
    table(["way", "s", "of one ingest", "ms to an answer", "stored MB", "entries"], rows)


if __name__ == "__main__":
    main()
