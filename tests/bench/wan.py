"""Studies over a hospital's line: seconds, bytes on the wire, and share of the line.

    python tests/bench/wan.py [--runs N] [--only ct100 mr2000] [--with-dcmtk]

The line is the relay of ../shared/tools: 20 ms each way, 12.5 MB/s each way shared
by all connections. Radmesh's nodes are connected before, as nodes always are; the
other tools connect within their time, as they always do. What connecting costs
there is measured beside it, by sending an empty folder.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from corpus import add_arguments, content, studies
from line_relay import relay_program
from over_dicom import Dcmtk
from over_ssh import Rsync, TarZstd
from processes import end_on_signal
from rivals import Line, Tool, installed
from sites import far_apart
from tables import medians, table

DELAY_SECONDS = 0.020
BYTES_PER_SECOND = 12.5e6
RADMESH = "Radmesh"
HEADINGS = ["study", "tool", "s", "MB on the wire", "share of the line", "Radmesh takes"]


def radmesh(study: Path, line: Line) -> dict[str, float]:
    """One fetch between two new nodes."""
    with far_apart(study, line) as sites:
        figures = sites.fetch()
    return {"seconds": figures["seconds"], "wire": figures["wire"]}


def other(tool: Tool, study: Path, line: Line) -> dict[str, float]:
    """One run of another tool."""
    sent = tool.measure(study, line)
    assert sent.wire_bytes is not None
    return {"seconds": sent.seconds, "wire": float(sent.wire_bytes)}


def compare(name: str, study: Path, tools: list[Tool], line: Line, runs: int) -> list[list[str]]:
    """The rows of one study; the tools take turns, so that all see the same machine."""
    results: dict[str, list[dict[str, float]]] = {}
    for _ in range(runs):
        results.setdefault(RADMESH, []).append(radmesh(study, line))
        for tool in tools:
            results.setdefault(tool.name, []).append(other(tool, study, line))
    middle = {each: medians(result) for each, result in results.items()}
    ours = middle[RADMESH]["seconds"]
    print(f"{name}: {content(study)[1] / 1e6:.0f} MB, {runs} runs", file=sys.stderr)
    return [
        [
            name,
            each,
            f"{figures['seconds']:.2f}",
            f"{figures['wire'] / 1e6:.1f}",
            f"{figures['wire'] / figures['seconds'] / BYTES_PER_SECOND:.0%}",
            "" if each == RADMESH else f"{ours / figures['seconds']:.0%}",
        ]
        for each, figures in middle.items()
    ]


def main() -> None:
    """Print the tables."""
    end_on_signal()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_arguments(parser, ["ct100", "mr2000"])
    parser.add_argument("--with-dcmtk", action="store_true", help="minutes for small images")
    arguments = parser.parse_args()
    if not relay_program(arguments.shared).exists():
        print(f"skipped: the relay is not here: {relay_program(arguments.shared)}")
        return
    line = Line(arguments.shared, DELAY_SECONDS, BYTES_PER_SECOND)
    every: list[Tool] = [TarZstd(), Rsync("-az")]
    if arguments.with_dcmtk:
        every.append(Dcmtk(tuned=True))
    tools = list(installed(every))
    rows: list[list[str]] = []
    for name, path in studies(arguments.shared, arguments.studies, arguments.only):
        rows += compare(name, path, tools, line, arguments.runs)
    table(HEADINGS, rows)
    with tempfile.TemporaryDirectory(prefix="empty-") as empty:
        for tool in tools:
            runs = [other(tool, Path(empty), line) for _ in range(arguments.runs)]
            print(f"{tool.name}: {medians(runs)['seconds']:.2f} s for an empty folder")


if __name__ == "__main__":
    main()
