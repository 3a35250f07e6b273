"""The benches start, and the one that has a verdict gives it. What they measure is not tested."""

import subprocess
import sys
from pathlib import Path

import pytest
from places import TESTS
from studies_made import make_study

BENCH = TESTS / "bench"


def _run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / script), *words],
        capture_output=True,
        text=True,
        cwd=BENCH.parents[1],
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "transfer.py",
        "wan.py",
        "beside.py",
        "ratios.py",
        "scale.py",
        "arrivals.py",
        "dimse.py",
        "audit.py",
        "hostile_bundles.py",
        "greedy_peer.py",
    ],
)
def test_a_bench_starts(script: str) -> None:
    done = _run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script}")


@pytest.mark.slow
def test_a_bench_without_what_the_sites_share_says_so(tmp_path: Path) -> None:
    for script in ("wan.py", "ratios.py"):
        done = _run(script, "--shared", str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("skipped: ")


@pytest.mark.slow
def test_ratios_of_a_study(tmp_path: Path) -> None:
    make_study(tmp_path / "made", 3)
    done = _run("ratios.py", str(tmp_path / "made"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| made | CT | 0.03 |" in done.stdout
    assert "0 of 1 batches are larger than plain Zstandard makes them" in done.stdout
