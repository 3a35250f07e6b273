"""Large catalogs, many peers, large studies: what they cost one node.

    python tests/bench/scale.py [catalog] [feeds] [peers] [study] [large] [--directory DIR]

Without a name all parts run. `large` writes about 15 GB and removes them again.
Catalogs are made of manifests without images, through the catalog's own functions.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import catalogs_made
from facilities import Facility, two_facilities, wait_until
from large_made import many_instances, one_instance
from peers_simulated import card, crowd
from sight_made import SightMade
from sites import Usage
from studies_made import make_study

from node.app import Node
from node.catalog.words import Search
from node.operations.images import PAGE_STUDIES

MB = 1e6
STUDIES, INSTANCES = 5000, 200
LARGE_STUDY = 10_000
FED_PEERS, CONNECTED_PEERS = 50, 200
IDLE_SECONDS = 30.0
RUNS = 5
SEARCHES = {
    "by a name of all": Search(name="made pat"),
    "by a name of one": Search(name="MADE^123"),
    "by Patient ID": Search(patient_id="PID0001234"),
    "by a birth date of all": Search(birth_date="19600101"),
    "by modality": Search(modality="CT"),
    "by a modality of none": Search(modality="MR"),
    "by study dates": Search(first_date="20200101", last_date="20200630"),
    "by name, modality and dates": Search(name="pat", modality="CT", first_date="20200101"),
}


def table(*headings: str) -> Callable[..., None]:
    """Print the head of a table; the function prints a row."""
    print("\n| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
    return lambda *cells: print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def milliseconds(action: Callable[[], Any], runs: int = RUNS) -> str:
    """Median and largest time of some runs, in milliseconds."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    return f"{statistics.median(times):.1f} | {max(times):.1f}"


def usage(facility: Facility) -> Usage:
    """CPU and peak memory of a node's process."""
    assert facility.process is not None
    return Usage.of(facility.process.pid)


def resident(facility: Facility) -> float:
    """Memory of a node's process now, MB."""
    assert facility.process is not None
    pages = Path(f"/proc/{facility.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096 / MB


def catalog(directory: Path) -> None:
    """A catalog of a million instances: opening, listing, searching."""
    north = Facility(directory, "North General")
    with Node.open(north.home) as node:
        catalogs_made.fill(node, STUDIES, INSTANCES)
        began = time.perf_counter()
        catalogs_made.publish(node.catalog, STUDIES, LARGE_STUDY)
        publishing = (time.perf_counter() - began) * 1000
        uid = catalogs_made.study_uid(1234)
        ambiguous = uid[:-3]
        large = catalogs_made.study_uid(STUDIES)
        row = table(f"{STUDIES:,} studies, {node.catalog.totals().instances:,} instances",
                    "median ms", "largest ms")  # fmt: skip
        row("publish a study of 10,000 instances", f"{publishing:.1f} | {publishing:.1f}")
        row("its manifest", milliseconds(lambda: node.catalog._build_manifest(large)))
        row("the manifest of 200", milliseconds(lambda: node.catalog._build_manifest(uid)))
        row("find a study by its UID", milliseconds(lambda: node.catalog.find_study(uid)))
        number = "ACC0001234"
        row("by accession number", milliseconds(lambda: node.catalog.find_study(number)))
        row("by a beginning of several", milliseconds(lambda: _refused(node, ambiguous)))
        for what, search in SEARCHES.items():
            page = functools.partial(node.catalog.studies, search=search, limit=PAGE_STUDIES + 1)
            found = len(page())
            row(f"search {what}: a page, {found} found", milliseconds(page))
            row(f"search {what}: how many", milliseconds(
                lambda search=search: node.catalog.study_count(search=search)))  # fmt: skip
    opening = milliseconds(lambda: Node.open(north.home).close())
    row("open the home", opening)
    began = time.perf_counter()
    north.start()
    started = (time.perf_counter() - began) * 1000
    row("`radmesh serve`, to its first answer", f"{started:.0f} | {started:.0f}")
    row("API: `studies`, the newest 200", milliseconds(lambda: north.call("studies", limit=200)))
    row("API: `studies`, all", milliseconds(lambda: north.call("studies")))
    row("API: `status`", milliseconds(lambda: north.call("status")))
    row("command: `radmesh studies`", milliseconds(lambda: north.cli("studies")))
    row("command: `radmesh --help`", milliseconds(lambda: north.cli("--help")))
    print(f"\nmemory of the node: {resident(north):.0f} MB, database "
          f"{north.home.database_path.stat().st_size / MB:.0f} MB")  # fmt: skip
    north.stop()


def _refused(node: Node, text: str) -> None:
    try:
        node.catalog.find_study(text)
    except Exception:
        return
    raise AssertionError(f"{text} is not ambiguous")


def feeds(directory: Path) -> None:
    """Announcing to 50 peers, from a small and from a large catalog."""
    row = table("announcing", "studies in the catalog", "median ms", "largest ms")
    for studies in (50, STUDIES):
        home = Facility(directory, f"N{studies} General").home
        with Node.open(home) as node:
            catalogs_made.fill(node, studies, 2)
            peers = [bytes([number]) * 32 for number in range(FED_PEERS)]
            granting = iter(peers)
            node.feeds.sight = SightMade(peers)
            node.catalog.in_change = lambda study: None
            granted = milliseconds(
                lambda node=node, granting=granting: node.feeds.peer_changed(next(granting)),
                FED_PEERS,
            )
            row("a peer gets the grant `see`", f"{studies:,}", granted)
            numbers = iter(range(studies, studies + 20))
            changes = []
            for number in numbers:
                node.catalog.on_change = changes.append
                catalogs_made.publish(node.catalog, number, 2)
            told = iter(changes)
            row(
                "one new study, the feeds of 50 peers", f"{studies:,}",
                milliseconds(
                    lambda node=node, told=told: node.feeds.study_changed(next(told)),
                    len(changes),
                ),
            )  # fmt: skip
            start = node.feeds.pending(peers[7], bytes(16), 0)
            end = start.cursor + 10**9
            while start.more:
                start = node.feeds.pending(peers[7], start.epoch, start.cursor)
            end = start.cursor
            for what, cursor in (("256 records from the start", 0), ("the newest 10", end - 10),
                                 ("nothing new", end)):  # fmt: skip
                row(
                    f"what a peer has not been told: {what}", f"{studies:,}",
                    milliseconds(
                        lambda node=node, at=cursor, epoch=start.epoch, peer=peers[7]:
                        node.feeds.pending(peer, epoch, at)
                    ),
                )  # fmt: skip


def peers(directory: Path) -> None:
    """Connected peers: memory and CPU of the node, idle and when a study is announced."""
    row = table("connected peers", "memory MB", "CPU idle %", "a study announced to all s",
                "CPU for it s", "peak MB")  # fmt: skip
    for count in (0, 50, CONNECTED_PEERS):
        north = Facility(directory, f"N{count} General")
        for number in range(count):
            one = card(number)
            north.call(
                "trust.add", card=one.encoded.decode(), fingerprint=one.fingerprint,
                grants=["see"], petname="",
            )  # fmt: skip
        north.start()
        node_key = north.home.read_keys().node.public
        with crowd(north.address, node_key, count) as simulated:
            if count:
                simulated.wait("connected")
            time.sleep(5)
            before = usage(north)
            time.sleep(IDLE_SECONDS)
            idle = (usage(north).cpu - before.cpu) / IDLE_SECONDS * 100
            memory = resident(north)
            seconds, cpu = [], []
            for number in range(RUNS):
                make_study(directory / f"in{count}-{number}", 1, rows=8)
                before, began = usage(north), time.monotonic()
                north.call("ingest", paths=[str(directory / f"in{count}-{number}")])
                if count:
                    simulated.wait(f"told {number + 1}")
                seconds.append(time.monotonic() - began)
                cpu.append(usage(north).cpu - before.cpu)
            row(count, f"{memory:.0f}", f"{idle:.1f}", f"{statistics.median(seconds):.2f}",
                f"{statistics.median(cpu):.2f}", f"{usage(north).peak:.0f}")  # fmt: skip
        north.kill()


def _move(directory: Path, source: Path, what: str, row: Callable[..., None]) -> None:
    """Ingest at one node, fetch by another, and print a row."""
    with two_facilities(directory) as (north, south):
        report = north.call("ingest", paths=[str(source)])
        ingest_peak = usage(north).peak
        study = report["studies"][0]["study"]
        north.stop()
        north.start()
        wait_until(lambda: study in south.announced(north))
        wait_until(lambda: south.peer(north)["connected"])
        result = south.call("fetch", study=study)
        seconds = (result["ended"] - result["started"]) / 1000
        row(what, result["instances"], f"{result['bytes'] / MB:.0f}",
            f"{result['bytes'] / result['wire_bytes']:.2f}", f"{report['seconds']:.1f}",
            f"{seconds:.1f}", f"{result['bytes'] / MB / seconds:.0f}", f"{ingest_peak:.0f}",
            f"{usage(north).peak:.0f}", f"{usage(south).peak:.0f}")  # fmt: skip


def _moving() -> Callable[..., None]:
    return table("study", "instances", "MB", "ratio", "ingest s", "fetch s", "fetch MB/s",
                 "ingest peak MB", "source peak MB", "recipient peak MB")  # fmt: skip


def study(directory: Path) -> None:
    """A study of 10,000 instances, from node to node."""
    many_instances(directory / "in", LARGE_STUDY, rows=128)
    _move(directory, directory / "in", "CT 128x128", _moving())


def large(directory: Path) -> None:
    """One instance of just under 4 GiB, the most that DICOM's length field can say."""
    one_instance(directory / "in" / "large.dcm", rows=1024, frames=2047)
    _move(directory, directory / "in", "2,047 frames of 1024x1024", _moving())


PARTS = {"catalog": catalog, "feeds": feeds, "peers": peers, "study": study, "large": large}


def main() -> None:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--directory", type=Path, help="where temporary files go")
    arguments = parser.parse_args()
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="radmesh-", dir=arguments.directory) as directory:
            PARTS[name](Path(directory))


if __name__ == "__main__":
    main()
