"""`radmesh share`, `withdraw` and `sharing` as a person at a terminal meets them."""

import io
import json
import sys
from pathlib import Path

import pytest
from studies_made import make_study
from terminal import Terminal

from node.errors import ExitCode


class _Keyboard(io.StringIO):
    """A terminal at which these words are typed."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    made = Terminal(tmp_path / "north", capsys)
    assert made.run("init", "--name", "North").code == 0
    for number in range(3):
        make_study(tmp_path / "in" / str(number), 1, rows=4)
    assert made.run("ingest", str(tmp_path / "in")).code == 0
    return made


def states(terminal: Terminal) -> list[str]:
    found = json.loads(terminal.run("studies", "--json").out)
    return [one["state"] for one in found["studies"]]


def test_a_search_asks_before_anything_is_changed(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", _Keyboard("n\n"))
    ran = terminal.run("withdraw", "--modality", "CT")
    assert (ran.code, states(terminal)) == (ExitCode.INTERRUPTED, ["shared"] * 3)
    assert "3 studies to withdraw" in ran.err
    monkeypatch.setattr(sys, "stdin", _Keyboard("y\n"))
    ran = terminal.run("withdraw", "--modality", "CT")
    assert (ran.code, states(terminal)) == (0, ["withheld"] * 3)
    assert "withdrawn: 3 studies" in ran.out


def test_where_nobody_can_be_asked_nothing_is_changed_without_yes(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    ran = terminal.run("withdraw", "--source", "command")
    assert (ran.code, states(terminal)) == (ExitCode.USAGE, ["shared"] * 3)
    assert "--yes" in ran.err
    dry = terminal.run("withdraw", "--source", "command", "--dry-run", "--json")
    assert (dry.code, json.loads(dry.out)["chosen"]) == (0, 3)
    assert states(terminal) == ["shared"] * 3
    assert terminal.run("withdraw", "--source", "command", "--yes").code == 0
    assert states(terminal) == ["withheld"] * 3
    shared = terminal.run("share", "--source", "comm*", "--yes", "--json")
    assert json.loads(shared.out)["done"] == 3
    assert states(terminal) == ["shared"] * 3
    none = terminal.run("share", "--modality", "MR", "--dry-run")
    assert (none.code, "0 studies to share" in none.err) == (0, True)


@pytest.mark.parametrize(
    "words",
    [("share",), ("withdraw",), ("share", "1.2.3", "--modality", "CT"),
     ("withdraw", "1.2.3", "--yes"), ("share", "--date", "yesterday", "--yes")],
)  # fmt: skip
def test_what_is_meant_must_be_clear(terminal: Terminal, words: tuple[str, ...]) -> None:
    assert terminal.run(*words).code == ExitCode.USAGE
    assert states(terminal) == ["shared"] * 3


def test_rules_are_added_tried_listed_and_removed(terminal: Terminal) -> None:
    ran = terminal.run("sharing", "list")
    assert (ran.out, "all other studies are withheld" in ran.err) == ("", True)
    words = ("share", "source=dimse:CT*", "modality=CT,MR", "max-age=5y")
    tried = terminal.run("sharing", "try", *words)
    assert "3 studies came in the last 90 days" in tried.out
    assert "shared: 3 before, 3 with it" in tried.out
    added = terminal.run("sharing", "add", *words)
    assert added.out == ("sharing rule 1 is: share source=dimse:CT* modality=CT,MR max-age=5y\n")
    assert "share source=dimse:CT*" in terminal.run("sharing", "list").out
    assert terminal.run("sharing", "add", "share", "CT").code == ExitCode.USAGE
    assert terminal.run("sharing", "remove", "1").code == 0
    assert terminal.run("sharing", "remove", "1").code == ExitCode.NOT_FOUND
    assert "source=" in terminal.run("sharing", "conditions").out


def test_for_one_facility(terminal: Terminal, tmp_path: Path) -> None:
    other = Terminal(tmp_path / "south", terminal.capsys)
    assert other.run("init", "--name", "South").code == 0
    card = tmp_path / "south.card"
    assert other.run("card", "export", str(card)).code == 0
    fingerprint = json.loads(other.run("card", "show", "--json").out)["fingerprint"]
    assert (
        terminal.run(
            "trust", "add", str(card), "--fingerprint", fingerprint, "--grant", "see,fetch"
        ).code
        == 0
    )
    study = json.loads(terminal.run("studies", "--json").out)["studies"][0]["study"]
    ran = terminal.run("withdraw", study, "--from", "South")
    assert ran.out == f"study {study} is not shared with South any more\n"
    assert "withdrawn from South" in terminal.run("studies").out
    assert "the study is withdrawn from this peer" in terminal.run("trust", "who", study).out
    terminal.run("withdraw", study)
    assert "it stays withdrawn from South" in terminal.run("share", study).err
    assert terminal.run("share", study, "--to", "South").code == 0
    assert "withdrawn from South" not in terminal.run("studies").out
    assert terminal.run("share", study, "--to", "Nobody").code == ExitCode.NOT_FOUND
