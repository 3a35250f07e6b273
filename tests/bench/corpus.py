"""The made studies that are measured: where they are, and what they are."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
STUDIES = {
    "ct500": ["--kind", "ct", "--n", "500", "--seed", "1"],
    "mr2000": ["--kind", "mr", "--n", "2000", "--rows", "128", "--cols", "128", "--seed", "2"],
    "mg4": ["--kind", "mg", "--n", "4", "--rows", "4096", "--cols", "3328", "--seed", "3"],
    "ct100": ["--kind", "ct", "--n", "100", "--seed", "4"],
}


def add_arguments(parser: argparse.ArgumentParser, only: list[str]) -> None:
    """Options of every bench over studies; `only` are the ones it measures."""
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--studies", type=Path, default=Path(tempfile.gettempdir()) / "studies")
    parser.add_argument("--only", nargs="+", default=only, choices=list(STUDIES))
    parser.add_argument("--shared", type=Path, default=SHARED, help="what the sites share")


def studies(shared: Path, directory: Path, names: list[str]) -> Iterator[tuple[str, Path]]:
    """The studies, made when they are not there yet."""
    maker = shared / "tools" / "make_studies.py"
    for name in names:
        path = directory / name
        if not path.exists():
            if not maker.exists():
                raise SystemExit(f"the maker of test studies is not here: {maker}")
            subprocess.run([sys.executable, str(maker), str(path), *STUDIES[name]], check=True)
        yield name, path


def content(directory: Path) -> tuple[int, int]:
    """How many files a directory holds, and their bytes."""
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)
