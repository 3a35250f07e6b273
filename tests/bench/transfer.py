"""Node to node over loopback: MB/s of original bytes, ratio, CPU and memory per side.

    python tests/bench/transfer.py [--runs N] [--studies DIR]

Each study is ingested at one node and fetched by the other, both real processes
with their logs and flushed disks; a bare stream of the node's network layer moves
as many bytes as the study has on the wire, in the same run, for comparison.
Studies come from ../shared/tools/make_studies.py and are kept in --studies.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from facilities import Facility, two_facilities, wait_until

MAKER = Path(__file__).resolve().parents[3] / "shared" / "tools" / "make_studies.py"
STUDIES = {
    "ct500": ["--kind", "ct", "--n", "500", "--seed", "1"],
    "mr2000": ["--kind", "mr", "--n", "2000", "--rows", "128", "--cols", "128", "--seed", "2"],
    "mg4": ["--kind", "mg", "--n", "4", "--rows", "4096", "--cols", "3328", "--seed", "3"],
}
MB = 1e6
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """CPU seconds so far, and peak memory in MB, of one process."""

    cpu: float
    peak: float

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Read from /proc."""
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        status = Path(f"/proc/{pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return cls((int(fields[11]) + int(fields[12])) / _TICKS, int(peak.split()[1]) / 1000)


def studies(directory: Path, names: list[str]) -> Iterator[tuple[str, Path]]:
    """The studies, made when they are not there yet."""
    for name in names:
        path = directory / name
        if not path.exists():
            subprocess.run([sys.executable, str(MAKER), str(path), *STUDIES[name]], check=True)
        yield name, path


@contextmanager
def bare_stream() -> Iterator["subprocess.Popen[str]"]:
    """A process that answers one stream with as many bytes as it is asked for."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("bare_stream.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def bare_seconds(count: int) -> float:
    """Seconds in which a bare stream moves `count` bytes."""
    with bare_stream() as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("bare_stream.py")), address, str(count)],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)


def fetch_once(north: Facility, south: Facility, study: str) -> dict[str, float]:
    """One fetch by a new node; figures of it."""
    assert north.process is not None
    assert south.process is not None
    pids = {"source": north.process.pid, "recipient": south.process.pid}
    before = {side: Usage.of(pid) for side, pid in pids.items()}
    began = time.monotonic()
    result = south.call("fetch", study=study)
    seconds = time.monotonic() - began
    assert result["state"] == "complete"
    after = {side: Usage.of(pid) for side, pid in pids.items()}
    figures = {
        "seconds": seconds,
        "rate": result["bytes"] / MB / seconds,
        "ratio": result["bytes"] / result["wire_bytes"],
        "original": result["bytes"],
        "wire": result["wire_bytes"],
    }
    for side in pids:
        figures[f"{side} cpu"] = after[side].cpu - before[side].cpu
        figures[f"{side} peak"] = after[side].peak
    return figures


def run(name: str, path: Path, runs: int) -> list[str]:
    """One row of the table."""
    results: list[dict[str, float]] = []
    bare: list[float] = []
    ingest = 0.0
    for _ in range(runs):
        with (
            tempfile.TemporaryDirectory(prefix="radmesh-bench-") as directory,
            two_facilities(Path(directory)) as (north, south),
        ):
            report = north.call("ingest", paths=[str(path)])
            ingest = report["original_bytes"] / MB / report["seconds"]
            north.stop()
            north.start()
            study = report["studies"][0]["study"]
            wait_until(lambda: study in south.announced(north))  # noqa: B023
            wait_until(lambda: south.peer(north)["connected"])
            results.append(fetch_once(north, south, study))
        bare.append(bare_seconds(int(results[-1]["wire"])))
    middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
    return [
        name,
        f"{middle['original'] / MB:.0f}",
        f"{ingest:.0f}",
        f"{middle['rate']:.0f}",
        f"{middle['ratio']:.2f}",
        f"{middle['wire'] / MB / middle['seconds']:.0f}",
        f"{middle['wire'] / MB / statistics.median(bare):.0f}",
        f"{middle['source cpu']:.2f}",
        f"{middle['recipient cpu']:.2f}",
        f"{middle['source peak']:.0f}",
        f"{middle['recipient peak']:.0f}",
    ]


HEADINGS = [
    "study",
    "MB",
    "ingest MB/s",
    "fetch MB/s",
    "ratio",
    "wire MB/s",
    "bare stream MB/s",
    "source CPU s",
    "recipient CPU s",
    "source peak MB",
    "recipient peak MB",
]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--studies", type=Path, default=Path(tempfile.gettempdir()) / "studies")
    parser.add_argument("--only", nargs="*", default=list(STUDIES), choices=list(STUDIES))
    arguments = parser.parse_args()
    if not MAKER.exists():
        raise SystemExit(f"the maker of test studies is not here: {MAKER}")
    print("| " + " | ".join(HEADINGS) + " |")
    print("|" + "---|" * len(HEADINGS))
    for name, path in studies(arguments.studies, arguments.only):
        print("| " + " | ".join(run(name, path, arguments.runs)) + " |", flush=True)


if __name__ == "__main__":
    main()
