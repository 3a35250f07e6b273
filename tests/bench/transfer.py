"""Studies over loopback: Radmesh from node to node, and the tools in use today.

    python tests/bench/transfer.py [--runs N] [--only ct500 ...] [--defaults] [--alone]

Radmesh ingests each study at one node and the other fetches it, both real processes
with their logs and flushed disks; a bare stream of the node's network layer moves
as many bytes as the study has on the wire. The other tools send the same files to
a receiver whose disk is flushed. All take turns in each run; numbers are medians.
Bytes on the wire are counted by a relay in one more run, which is not timed.
Studies come from ../shared/tools/make_studies.py and are kept in --studies.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from corpus import add_arguments, content, studies
from line_relay import relay_program
from over_dicom import Dcmtk
from over_http import OrthancPeers
from over_ssh import Rsync
from processes import end_on_signal
from rivals import Line, Tool, installed
from sites import direct, far_apart
from tables import medians, shortened, table

MB = 1e6
RADMESH = "Radmesh"
NODE_HEADINGS = [
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


def bare_seconds(count: int) -> float:
    """Seconds in which a bare stream of the network layer moves `count` bytes."""
    words = [sys.executable, str(Path(__file__).with_name("bare_stream.py"))]
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        done = subprocess.run(
            [*words, address, str(count)], capture_output=True, text=True, check=True
        )
        return float(done.stdout)
    finally:
        server.kill()
        server.communicate()


def fetch_once(study: Path) -> dict[str, float]:
    """One fetch by a new node; figures of it."""
    with direct(study) as sites:
        report = sites.ingest
        figures = sites.fetch()
    figures["ingest"] = report["original_bytes"] / MB / report["seconds"]
    figures["bare"] = bare_seconds(int(figures["batches"]))
    return figures


class Measured:
    """What was measured of one study.

    Attributes:
        name, original: of the study; bytes.
        node: medians of Radmesh's figures.
        rates: MB/s of original bytes by tool.
        wire: bytes on the wire for each original byte, by tool.
    """

    def __init__(self, name: str, study: Path, tools: list[Tool], runs: int, shared: Path) -> None:
        self.name = name
        self.original = content(study)[1]
        results: list[dict[str, float]] = []
        seconds: dict[str, list[float]] = {tool.name: [] for tool in tools}
        for number in range(runs):
            results.append(fetch_once(study))
            for tool in tools:
                if number == 0 or not tool.slow:
                    seconds[tool.name].append(tool.measure(study).seconds)
        self.node = medians(results)
        self.rates = {RADMESH: self.original / MB / self.node["seconds"]}
        for tool in tools:
            self.rates[tool.name] = self.original / MB / statistics.median(seconds[tool.name])
        self.wire: dict[str, float] = {}
        if tools and relay_program(shared).exists():
            line = Line(shared)
            with far_apart(study, line) as sites:
                self.wire[RADMESH] = sites.fetch()["wire"] / self.original
            for tool in tools:
                if not tool.slow:
                    counted = tool.measure(study, line).wire_bytes
                    self.wire[tool.name] = (counted or 0) / self.original

    def node_row(self) -> list[str]:
        """Of the table of Radmesh alone."""
        node = self.node
        return [
            self.name,
            f"{node['original'] / MB:.0f}",
            f"{node['ingest']:.0f}",
            f"{self.rates[RADMESH]:.0f}",
            f"{node['original'] / node['batches']:.2f}",
            f"{node['batches'] / MB / node['seconds']:.0f}",
            f"{node['batches'] / MB / node['bare']:.0f}",
            f"{node['source cpu']:.2f}",
            f"{node['recipient cpu']:.2f}",
            f"{node['source peak']:.0f}",
            f"{node['recipient peak']:.0f}",
        ]


def comparison(measured: list[Measured], tools: list[Tool]) -> None:
    """Print MB/s and bytes on the wire of every tool, and how much faster Radmesh is."""
    names = [each.name for each in measured]
    rows = []
    for name, encrypted in [(RADMESH, True), *((tool.name, tool.encrypted) for tool in tools)]:
        rates = [shortened(each.rates[name]) for each in measured]
        wire = [f"{each.wire[name]:.2f}" if name in each.wire else "-" for each in measured]
        rows.append([name, "yes" if encrypted else "no", *rates, *wire])
    table(
        ["MB/s of original bytes", "encrypted", *names, *(f"wire {name}" for name in names)], rows
    )
    ratios = []
    for tool in tools:
        faster = [each.rates[RADMESH] / each.rates[tool.name] for each in measured]
        ratios.append([tool.name, *(f"{ratio:.2f}" for ratio in faster)])
    table(["Radmesh's speed : that of", *names], ratios)


def main() -> None:
    """Print the tables."""
    end_on_signal()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_arguments(parser, ["ct500", "mr2000", "mg4"])
    parser.add_argument("--defaults", action="store_true", help="dcmtk's too: minutes, one run")
    parser.add_argument("--alone", action="store_true", help="Radmesh without the other tools")
    arguments = parser.parse_args()
    every: list[Tool] = [Dcmtk(tuned=True), OrthancPeers(), Rsync("-a"), Rsync("-az")]
    if arguments.defaults:
        every.append(Dcmtk(tuned=False))
    tools = [] if arguments.alone else list(installed(every))
    print(f"{arguments.runs} runs, load {os.getloadavg()[0]:.1f} at the start", file=sys.stderr)
    measured = [
        Measured(name, path, tools, arguments.runs, arguments.shared)
        for name, path in studies(arguments.shared, arguments.studies, arguments.only)
    ]
    table(NODE_HEADINGS, [each.node_row() for each in measured])
    if tools:
        comparison(measured, tools)


if __name__ == "__main__":
    main()
