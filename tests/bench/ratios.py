"""How small real studies become: Radmesh's encoding beside Zstandard and zlib.

    python tests/bench/ratios.py [FOLDER ...]

Each folder (those of ../shared/data when none is named) is ingested into a home of
its own, exactly as a hospital would; then every batch in the store is decoded and
the same bytes are given to Zstandard level 3 and zlib level 6. Ratios are original
bytes by encoded bytes. Every batch must be at most as large as plain Zstandard
makes it, or, where that saves under 2 %, as the bytes themselves: a batch that is
larger is named, and the exit code is 1. Nothing here depends on time.
"""

import argparse
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import zstandard
from corpus import SHARED
from tables import table

from node.api.client import call
from node.app import Node
from node.home import Home
from protocol import encoding
from protocol.limits import BATCH_HEADER_BYTES

HEADINGS = ["folder", "modality", "MB", "Radmesh", "zstd-3", "zlib-6", "batches by encoding"]


@dataclass
class Sizes:
    """Bytes of some batches, original and encoded in each way."""

    original: int = 0
    radmesh: int = 0
    zstd: int = 0
    zlib: int = 0
    encodings: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Sizes") -> None:
        """Count other batches too."""
        self.original += other.original
        self.radmesh += other.radmesh
        self.zstd += other.zstd
        self.zlib += other.zlib
        self.encodings += other.encodings

    def cells(self) -> list[str]:
        """Of a row of the table."""
        named = (f"{count} {name}" for name, count in sorted(self.encodings.items()))
        return [
            f"{self.original / 1e6:.2f}",
            *(f"{self.original / size:.2f}" for size in (self.radmesh, self.zstd, self.zlib)),
            ", ".join(named),
        ]

    @property
    def allowed(self) -> int:
        """The most that one batch may take: the rule of docs/protocol.md for plain batches."""
        saves = self.zstd * 50 <= self.original * 49
        return BATCH_HEADER_BYTES + (self.zstd if saves else self.original)


def measure(encoded: bytes) -> Sizes:
    """One batch of a store."""
    original = encoding.decode_untrusted(encoded)
    return Sizes(
        original=len(original),
        radmesh=len(encoded),
        zstd=len(zstandard.ZstdCompressor(level=3).compress(original)),
        zlib=len(zlib.compress(original, 6)),
        encodings=Counter([encoding.encoding_of(encoded).name.lower()]),
    )


def batches(folder: Path) -> Iterator[tuple[str, Sizes]]:
    """Modality and sizes of every batch that an ingest of the folder makes."""
    with tempfile.TemporaryDirectory(prefix="radmesh-ratios-") as directory:
        home = Home.create(Path(directory) / "home", name="Ratios")
        call(home, "ingest", {"paths": [str(folder)]}, lambda _: None)
        with Node.open(home) as node:
            for study in node.catalog.studies():
                manifest = node.catalog.manifest(study.study_uid)
                for index, batch in enumerate(manifest.batches):
                    instance = manifest.instances[manifest.segments(index)[0][0]]
                    modality = manifest.series[instance.series_index].modality or "-"
                    yield modality, measure(node.store.read(batch.digest))


def main() -> int:
    """Print the tables; 1 when a batch is larger than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--shared", type=Path, default=SHARED, help="what the sites share")
    arguments = parser.parse_args()
    data = arguments.shared / "data"
    if not arguments.folders and not data.is_dir():
        print(f"skipped: the real studies are not here: {data}")
        return 0
    folders = arguments.folders or sorted(path for path in data.iterdir() if path.is_dir())
    rows: list[list[str]] = []
    totals: dict[str, Sizes] = {}
    worse: list[str] = []
    count = 0
    for folder in folders:
        found: dict[str, Sizes] = {}
        for modality, sizes in batches(folder):
            count += 1
            found.setdefault(modality, Sizes()).add(sizes)
            totals.setdefault(modality, Sizes()).add(sizes)
            if sizes.radmesh > sizes.allowed:
                worse.append(
                    f"{folder.name}, {modality}: {sizes.radmesh} bytes where {sizes.allowed}"
                    f" are allowed, {sizes.cells()[-1]}"
                )
        rows += [[folder.name, each, *found[each].cells()] for each in sorted(found)]
    table(HEADINGS, rows)
    table(HEADINGS[1:], ([each, *totals[each].cells()] for each in sorted(totals)))
    print(f"{len(worse)} of {count} batches are larger than plain Zstandard makes them")
    for line in worse:
        print(line)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
