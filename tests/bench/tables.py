"""Tables as docs/performance.md shows them."""

import statistics
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, row by row as they come."""
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def medians(results: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over several runs."""
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def shortened(number: float) -> str:
    """A number with two or three digits that mean something."""
    return f"{number:.0f}" if number >= 20 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"
