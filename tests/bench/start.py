"""Start of commands that need no network: seconds, smallest and median of 15 runs.

python tests/bench/start.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = (["--help"], ["studies"], ["card", "show"], ["trust", "list"], ["status"])
RUNS = 15


def seconds(words: list[str]) -> float:
    """One run."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "node.cli", *words], capture_output=True, check=True)
    return time.monotonic() - began


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory:
        home = ["--home", str(Path(directory) / "home")]
        seconds([*home, "init", "--name", "Bench"])
        print("| command | smallest s | median s |\n|---|---|---|")
        for words in COMMANDS:
            runs = [seconds([*home, *words]) for _ in range(RUNS)]
            print(f"| {' '.join(words)} | {min(runs):.2f} | {statistics.median(runs):.2f} |")


if __name__ == "__main__":
    main()
