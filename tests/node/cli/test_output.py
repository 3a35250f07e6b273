"""How fast the command line starts, and how it words and lays out what it shows."""

import re
import subprocess
import sys
from typing import Any

import pytest
from terminal import Terminal, card_file, images, north, terminal

from node import phrases
from node.cli import main, output
from node.cli.transfers import fetched_lines, transfer_table

__all__ = ["card_file", "images", "north", "terminal"]


TRANSFER = {
    "transfer": "acdfb8b4",
    "study": "1.2.3",
    "started": 0,
    "direction": "out",
    "state": "complete",
    "why": "",
    "stat": False,
    "follow_up": False,
    "still_since": None,
    "bytes": 400,
    "bytes_done": 100,
    "peer": "South Clinic",
}
SLOW_MODULES = "libp2p pydicom numpy rich starlette hypercorn httpx trio.testing"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("--help",), ("studies",), ("card", "show"), ("trust", "list")], ids=" ".join
)
def test_small_commands_import_nothing_slow(north: Terminal, words: tuple[str, ...]) -> None:
    code = (
        "import sys; from node.cli import main; main(sys.argv[2:]); "
        "print([name for name in sys.argv[1].split() if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, SLOW_MODULES, "--home", str(north.home), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"radmesh \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (14_700_000, "14.7 MB"),
        (5 * 10**9, "5.0 GB"),
        (3 * 10**15, "3000.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert phrases.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"),
     (7810, "2 h 10 min")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert phrases.duration(seconds) == text


def test_clean_text() -> None:
    assert phrases.clean("Müller 山田 a\u00a0b") == "Müller 山田 a b"
    for evil in (
        "\x1b",
        "\x07",
        "\x7f",
        "\x9b",
        "\n",
        "\r",
        "\u202e",
        "\u2066",
        "\u200b",
        "\ud800",
    ):
        assert phrases.clean(f"a{evil}b") == "a\ufffdb"


def test_a_table_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "terminal_width", lambda: 20)
    columns = (
        output.Column("NAME", flexible=True),
        output.Column("N", right=True),
    )
    rows = [("a long name that goes on", 5), ("山田太郎山田太郎山田太郎", 12345)]
    assert output.table(columns, rows) == [
        "NAME               N",
        "a long name …      5",
        "山田太郎山田…  12345",
    ]


def test_no_column_of_a_narrow_table_is_lost_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "terminal_width", lambda: 22)
    columns = tuple(output.Column(title, flexible=True) for title in ("AT", "WHAT", "WHO"))
    assert output.table(columns, [("South Clinic", "CT of the whole head", "Doe^A")]) == [
        "AT      WHAT     WHO",
        "South…  CT of …  Doe^A",
    ]


def test_a_source_that_was_interrupted_shows_a_complete_transfer_as_done() -> None:
    assert " complete  100 % " in transfer_table([TRANSFER])[1]
    asked_by_nobody = {**TRANSFER, "stat": True, "follow_up": True}
    assert " complete, stat, follow-up  100 % " in transfer_table([asked_by_nobody])[1]
    sending = {**TRANSFER, "state": "sending"}
    assert " sending  25 % " in transfer_table([sending])[1]
    still = transfer_table([{**sending, "still_since": 1_700_000_000_000}])
    assert "stands still since 2023-11-14" in still[3]


def test_a_transfer_shows_its_receipts_and_what_the_archive_has() -> None:
    transfer = {**TRANSFER, "bytes_done": 400, "peer": "South"}

    def lines(direction: str, **stored: Any) -> list[str]:
        said = {"instances": 3, "proven_by": "query", "proven_at": 1_700_000_000, "noted": 1}
        receipt = {"peer": "So\x1buth", "received": 1_700_000_000_000}
        receipt["stored"] = {**said, **stored} if stored else None
        return transfer_table([{**transfer, "direction": direction, "receipts": [receipt]}])[3:]

    [only] = lines("out")
    assert only.startswith("  received 2023-11-14 ")
    assert only.endswith(" by So\ufffduth, signed by both")
    for way, words in (
        ("commitment", "by storage commitment"),
        ("query", "as a query showed"),
        ("returned", "as it sent it back"),
    ):
        assert lines("out", proven_by=way)[1].endswith(f" in its archive, {words}")
    first, second = lines("in", noted=None)
    assert first.endswith(" from So\ufffduth, signed by both")
    assert second.endswith(" in our archive, as a query showed; So\ufffduth has not noted it yet")
    assert lines("out", proven_at=2**53 - 1)[1].startswith("  stored   in no year of the calendar")


def test_a_fetch_from_several_sources_says_what_came_from_whom() -> None:
    transfer = {
        "peer": "North General",
        "instances": 240,
        "bytes": 126_000_000,
        "held_bytes": 0,
        "wire_bytes": 60_000_000,
        "started": 0,
        "ended": 2000,
        "sources": [
            {"peer": "North General", "wire_bytes": 40_000_000},
            {"peer": "East Hospital", "wire_bytes": 20_000_000},
        ],
    }
    assert fetched_lines(transfer) == [
        "fetched 240 images (126.0 MB) from North General and East Hospital in 2.0 s, "
        "every one verified",
        "sent as 60.0 MB (2.1 times smaller), 63.0 MB of images a second",
        "40.0 MB came from North General",
        "20.0 MB came from East Hospital",
    ]
    alone = fetched_lines({**transfer, "sources": transfer["sources"][1:]})  # type: ignore[index]
    assert alone[0].startswith("fetched 240 images (126.0 MB) from East Hospital in")
    assert len(alone) == 2
