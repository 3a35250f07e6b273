"""Seconds and memory of the verifier over bundles that were made to keep it busy.

    python tests/bench/hostile_bundles.py

Run from the top of the repository. Each bundle is verified in a process of its own, so that
its peak memory is its own. The aim: a second for a megabyte (a bundle below one megabyte
counts as one), and 100 MB of memory.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from bundles_hostile import MADE
from bundles_made import FINGERPRINT

from protocol.verify import verify_bundle


def _measure(path: Path) -> None:
    data = path.read_bytes()
    began = time.perf_counter()
    verdict = verify_bundle(io.BytesIO(data), facility_fingerprint=FINGERPRINT)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    each = seconds / max(len(data) / 1e6, 1)
    sizes = f"{len(data) / 1e6:.3f} | {seconds:.2f} | {each:.2f} | {peak:.0f}"
    print(f"| {path.stem} | {sizes} | {verdict.code} |", flush=True)


def main() -> None:
    """Make all bundles, verify each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="hostile_bundles.py")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        Path(given.make[1]).write_bytes(MADE[given.make[0]]())
    elif given.measure:
        _measure(given.measure)
    else:
        print("| bundle | MB | s | s for a MB | MB of memory | code |", flush=True)
        print("|---|---|---|---|---|---|", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for name in MADE:
                path = str(Path(folder, f"{name}.zip"))
                for words in (["--make", name, path], ["--measure", path]):
                    subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
