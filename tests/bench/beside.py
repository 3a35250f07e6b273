"""Fetches of this checkout beside those of another one, in turns.

    python tests/bench/beside.py OTHER [--runs N] [--only ct500 ...]

Each fetch is between two new nodes in a process of its own, whose code is that checkout's; which
one begins changes with each run. Both use the packages of the Python that runs this. Numbers are
medians, with the quickest quarter behind them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from corpus import add_arguments, studies
from tables import table

_ONE = """
import json, sys
from sites import direct
with direct(__import__("pathlib").Path(sys.argv[1])) as sites:
    figures = sites.fetch()
    print(json.dumps({**figures, "ingest": sites.ingest["seconds"]}))
"""
_SHOWN = ("seconds", "source cpu", "recipient cpu", "ingest")


def fetch_once(checkout: Path, study: Path) -> dict[str, float]:
    """One fetch by a new node of a checkout; figures of it, in seconds."""
    # At commit 8dfb4af the helpers of tests lay in tests/ itself.
    folders = [checkout, *(checkout / "tests" / name for name in ("support", "bench", ""))]
    path = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        [sys.executable, "-c", _ONE, str(study)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"a fetch in {checkout} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="a checkout of another commit")
    add_arguments(parser, ["ct500", "mr2000", "mg4"])
    chosen = parser.parse_args()
    if not (chosen.other / "tests" / "bench" / "sites.py").exists():
        raise SystemExit(f"{chosen.other} is no checkout of this project")
    checkouts = [chosen.other.resolve(), ROOT]
    made = list(studies(chosen.shared, chosen.studies, chosen.only))
    print(f"{chosen.runs} runs, load {os.getloadavg()[0]:.1f} at the start")
    rows = []
    for name, study in made:
        found: dict[Path, list[dict[str, float]]] = {one: [] for one in checkouts}
        for number in range(chosen.runs):
            for one in checkouts if number % 2 else checkouts[::-1]:
                found[one].append(fetch_once(one, study))
        for one, what in zip(checkouts, ("other", "this"), strict=True):
            rows.append([name, what, *(_shown(found[one], key) for key in _SHOWN)])
    table(["study", "checkout", "fetch s", "source CPU s", "recipient CPU s", "ingest s"], rows)


def _shown(figures: list[dict[str, float]], key: str) -> str:
    values = sorted(one[key] for one in figures)
    return f"{statistics.median(values):.3f} ({values[len(values) // 4]:.3f})"


if __name__ == "__main__":
    main()
