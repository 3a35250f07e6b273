"""What a node keeps of its memory after work: a high-water mark, or a leak.

    python tests/bench/soak.py [--rounds 12] [--directory DIR]

In each round North takes in a study of 100 MB, South fetches, exports and discards it, and
both rest. A leak grows with each round; a high-water mark does not.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from facilities import Facility, two_facilities, wait_until
from studies_made import make_study

from node.memory import QUIET_SECONDS

INSTANCES, ROWS = 200, 512
MB = 1e6


def resident(facility: Facility) -> float:
    """Memory of a node's process now, MB."""
    assert facility.process is not None
    pages = int(Path(f"/proc/{facility.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / MB


def work(north: Facility, south: Facility, folder: Path, number: int) -> None:
    """One round: a study goes in, over, out, and away."""
    study = make_study(folder / "in", INSTANCES, rows=ROWS, study=f"1.2.826.0.1.7.{number + 1}")
    north.call("ingest", paths=[str(folder / "in")])
    wait_until(lambda: study in south.announced(north), 60)
    south.call("fetch", study=study)
    south.call("export", study=study, directory=str(folder / "out"))
    for facility in (south, north):
        facility.call("discard", what=study, reason="retention")
    for name in ("in", "out"):
        shutil.rmtree(folder / name)


def main() -> None:
    """Run it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        folder = Path(name)
        with two_facilities(folder) as (north, south):
            print(f"at the start: North {resident(north):.0f} MB, South {resident(south):.0f} MB")
            print("\n| round | North after work | at rest | South after work | at rest |")
            print("|---|---|---|---|---|")
            rests: list[tuple[float, float]] = []
            for number in range(options.rounds):
                work(north, south, folder, number)
                after = resident(north), resident(south)
                time.sleep(2.2 * QUIET_SECONDS)
                rest = resident(north), resident(south)
                rests.append(rest)
                cells = (number + 1, after[0], rest[0], after[1], rest[1])
                print("| " + " | ".join(f"{cell:.0f}" for cell in cells) + " |", flush=True)
    half = len(rests) // 2
    for index, who in enumerate(("North", "South")):
        early = statistics.median(rest[index] for rest in rests[:half])
        late = statistics.median(rest[index] for rest in rests[half:])
        print(f"{who}: {early:.0f} MB at rest in the first half, {late:.0f} MB in the second")


if __name__ == "__main__":
    main()
