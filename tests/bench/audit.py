"""Speed and memory of the audit log: appending, opening, proving, exporting, verifying.

    python tests/bench/audit.py [--sizes N,N,...] [--directory DIR]

Run from the top of the repository. Every phase runs in a process of its own, so that
its peak memory is its own. Appends are durable each, on the disk of DIR (by default
the working folder); how fast that disk flushes a write is measured beside them.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from keys.card import issue_card
from keys.fingerprint import fingerprint, parse_fingerprint
from keys.identity import KeyPair
from node.audit.log import AuditLog
from node.clock import SYSTEM_CLOCK
from protocol.log.entry import Event
from protocol.log.tree import check_consistency, check_inclusion, leaf_hash
from protocol.verify import verify_bundle

FACILITY, NODE, LOG, WITNESS = (KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 5))
ORIGIN = f"radmesh.log/{fingerprint(FACILITY.public)}"
SIZES = "1000,100000,1000000"
SINGLE = 5000
THREADS = 4
BATCH = 1000
PROOFS = 1000
FLUSH_BYTES = 512


def _event(number: int, *, opened: bool = False) -> Event:
    subjects = (("study", f"1.2.840.113619.2.55.{number}"),) if opened else ()
    details = {"transfer": f"{number:032x}", "bytes": 263_000_000, "instances": 500}
    return Event(type="disclosed", peer=NODE.public, subjects=subjects, details=details)


def _create(directory: Path) -> AuditLog:
    details = {"facility_key": FACILITY.public.hex(), "log_key": LOG.public.hex(), "origin": ORIGIN}
    first = Event(type="init", actor="operator", details=details)
    clock_ms = SYSTEM_CLOCK.now_ms
    return AuditLog.create(directory, log_key=LOG, origin=ORIGIN, clock_ms=clock_ms, first=first)


def _open(directory: Path) -> AuditLog:
    return AuditLog.open(directory, log_key=LOG, origin=ORIGIN, clock_ms=SYSTEM_CLOCK.now_ms)


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


# --- phases: each prints one row of figures as JSON ------------------------------------


def appends(directory: Path, _: int) -> Iterator[tuple[str, str]]:
    """Durable appends a second."""
    path = directory.with_name("flushes")
    with path.open("w+b", buffering=0) as file:
        file.write(bytes(FLUSH_BYTES * SINGLE))
        os.fsync(file.fileno())

        def flushes() -> None:
            for number in range(SINGLE):
                os.pwrite(file.fileno(), b"x" * FLUSH_BYTES, number * FLUSH_BYTES)
                os.fdatasync(file.fileno())

        flushed = _seconds(flushes)
    yield "a write of 512 bytes and its flush, nothing else", f"{SINGLE / flushed:,.0f}"
    log = _create(directory)
    for name, opened in (("one at a time", False), ("one at a time, each with an opening", True)):

        def single(opened: bool = opened) -> None:
            for number in range(SINGLE):
                log.append(_event(number, opened=opened))

        yield name, f"{SINGLE / _seconds(single):,.0f}"

    def threads() -> None:
        def work() -> None:
            for number in range(SINGLE):
                log.append(_event(number))

        started = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    yield f"one at a time in {THREADS} threads", f"{THREADS * SINGLE / _seconds(threads):,.0f}"

    def batches() -> None:
        for start in range(0, 100 * BATCH, BATCH):
            log.append_many([_event(start + number) for number in range(BATCH)])

    yield f"{BATCH} at once", f"{100 * BATCH / _seconds(batches):,.0f}"
    log.close()


def make(directory: Path, size: int) -> Iterator[tuple[str, str]]:
    """A log of a size, for the phases that follow."""
    log = _create(directory)
    while log.size < size:
        start = log.size
        log.append_many([_event(start + number) for number in range(min(BATCH, size - start))])
    log.close()
    yield "entries", f"{size:,}"
    yield "log, MB", f"{(directory / 'log').stat().st_size / 1e6:,.1f}"


def opening(directory: Path, _: int) -> Iterator[tuple[str, str]]:
    """Reading all of it."""
    began = time.perf_counter()
    log = _open(directory)
    yield "open, s", f"{time.perf_counter() - began:.2f}"
    log.close()


def proving(directory: Path, size: int) -> Iterator[tuple[str, str]]:
    """Proofs of entries and of growth, made and checked."""
    log = _open(directory)
    chance = random.Random(1)
    places = [chance.randrange(size) for _ in range(PROOFS)]
    made: list[tuple[bytes, ...]] = []
    grown: list[tuple[bytes, ...]] = []
    root = log.root()

    def prove() -> None:
        made.extend(log.inclusion_proof(index, size) for index in places)

    def grow() -> None:
        grown.extend(log.consistency_proof(index + 1, size) for index in places)

    yield "proof of an entry, us", f"{_seconds(prove) / PROOFS * 1e6:.0f}"
    yield "proof of growth, us", f"{_seconds(grow) / PROOFS * 1e6:.0f}"
    leaves = [leaf_hash(next(log.entries(index, index + 1))) for index in places]
    roots = [log.root_at(index + 1) for index in places]

    def check() -> None:
        for index, leaf, proof in zip(places, leaves, made, strict=True):
            check_inclusion(leaf, index, size, proof, root)

    for index, old_root, proof in zip(places, roots, grown, strict=True):
        check_consistency(index + 1, size, old_root, root, proof)
    yield "check of an entry, us", f"{_seconds(check) / PROOFS * 1e6:.0f}"
    log.close()


def export(directory: Path, _: int) -> Iterator[tuple[str, str]]:
    """The bundle for an auditor."""
    now = SYSTEM_CLOCK.now()
    card = issue_card(
        FACILITY,
        name="Bench",
        node_key=NODE.public,
        log_key=LOG.public,
        witness_key=WITNESS.public,
        addresses=(),
        serial=1,
        issued=now,
        expires=now + 1000,
    )
    log = _open(directory)
    target = directory / "bundle.zip"
    yield "export, s", f"{_seconds(lambda: log.export(target, card=card.encoded)):.2f}"
    yield "bundle, MB", f"{target.stat().st_size / 1e6:,.1f}"
    log.close()


def verify(directory: Path, _: int) -> Iterator[tuple[str, str]]:
    """What the auditor does."""
    digest = parse_fingerprint(fingerprint(FACILITY.public))
    began = time.perf_counter()
    with (directory / "bundle.zip").open("rb") as file:
        verdict = verify_bundle(file, facility_fingerprint=digest)
    yield "verify, s", f"{time.perf_counter() - began:.2f}"
    assert verdict.sound, verdict


PHASES = {each.__name__: each for each in (appends, make, opening, proving, export, verify)}
WITH_MEMORY = {"make", "opening", "export", "verify"}


def _run(phase: str, directory: Path, size: int) -> dict[str, str]:
    command = [sys.executable, __file__, "--phase", phase, str(directory), str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, str] = json.loads(done.stdout)
    return figures


def _phase(name: str, directory: Path, size: int) -> None:
    figures = dict(PHASES[name](directory, size))
    if name in WITH_MEMORY:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        figures[f"{name}, MB memory"] = f"{peak * 1024 / 1e6:.0f}"
    print(json.dumps(figures))


def _table(headings: list[str], rows: list[list[str]]) -> None:
    print("\n| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main(sizes: list[int], parent: Path) -> None:
    """Run all phases and print the tables."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        figures = _run("appends", Path(folder, "appends"), 0)
        _table(["durable appends", "a second"], [list(each) for each in figures.items()])
        columns = []
        for size in sizes:
            column: dict[str, str] = {}
            for phase in ("make", "opening", "proving", "export", "verify"):
                column |= _run(phase, Path(folder, str(size)), size)
            columns.append(column)
        first, *rest = list(columns[0])
        _table(
            [first, *(column[first] for column in columns)],
            [[name, *(column[name] for column in columns)] for name in rest],
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="audit.py")
    parser.add_argument("--sizes", default=SIZES, help=f"entries of the logs; {SIZES}")
    parser.add_argument("--directory", type=Path, default=Path(), help="on which disk")
    parser.add_argument("--phase", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase:
        _phase(given.phase[0], Path(given.phase[1]), int(given.phase[2]))
    else:
        main([int(size) for size in given.sizes.split(",")], given.directory)
