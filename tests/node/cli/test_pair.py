"""`radmesh pair` before anybody is on the phone: words, codes, pictures."""

import io
import sys
from pathlib import Path

import pytest
import segno
from terminal import Terminal, north, terminal  # noqa: F401 (fixtures)

from node.cli import pair
from node.errors import ExitCode, NodeError

CODE = "482 915 706 39"
TEXT = (
    "RADMESH:663WO3E-U357I7H-WMZRY4P-T77QJWZ-CYRMAND-AAXMTRU-7DB32H7-VOIR3Q3"
    "/RADMESH.NORTH.EXAMPLE:4102"
)


@pytest.mark.parametrize("word", ["48291570639", CODE, "12"])
def test_a_code_as_a_word_of_the_command_is_refused_and_not_repeated(
    north: Terminal,  # noqa: F811
    word: str,
) -> None:
    ran = north.run("pair", word)
    assert ran.code == ExitCode.USAGE
    assert "never a word of the command" in ran.err
    assert word not in ran.out + ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--qr", "north.gif"], "a QR code is written as .png or .svg, not as north.gif"),
        (["--until", "tomorrow"], "'tomorrow' is no date or time"),
        (["not an address"], "is no address of a node"),
        (["RADMESH:ABC/north.example"], "is no address of a node"),
    ],
)
def test_wrong_words(north: Terminal, words: list[str], sentence: str) -> None:  # noqa: F811
    ran = north.run("pair", *words)
    assert ran.code == ExitCode.USAGE
    assert sentence in ran.err


def test_a_node_that_does_not_run_pairs_with_nobody(
    north: Terminal,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = north.run("pair")
    assert ran.code == ExitCode.BUSY
    assert "start it with `radmesh serve`" in ran.err
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{CODE}\n"))
    assert north.run("pair", "north.example").code == ExitCode.BUSY


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("482 915 706 38", "two are swapped; this costs no try"),
        ("482 915 076 39", "two are swapped; this costs no try"),
        ("482 915 706", "these are 9"),
        ("four eight", "only digits"),
        ("", "these are 0"),
    ],
)
def test_a_code_that_cannot_be_right_is_refused_here(
    north: Terminal,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    why: str,
) -> None:
    """The node is not even asked: it does not run."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{typed}\n"))
    ran = north.run("pair", "north.example")
    assert ran.code == ExitCode.USAGE
    if typed:
        assert typed not in ran.out + ran.err
    assert why in ran.err or "only digits" in ran.err


def test_at_a_terminal_the_code_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["482 915 706 38", CODE])
    asked: list[bool] = []

    def prompt(text: str, hide_input: bool, err: bool) -> str:
        asked.append(hide_input)
        return next(answers)

    monkeypatch.setattr(pair.click, "prompt", prompt)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert pair._read_code() == CODE.replace(" ", "")
    assert asked == [True, True]
    assert "482" not in "".join(capsys.readouterr())


def test_the_picture_fits_on_a_terminal_and_holds_no_code(tmp_path: Path) -> None:
    lines = pair._qr_lines(TEXT)
    assert (len(lines), len(lines[0])) == (21, 41)
    for name in ("north.png", "north.svg"):
        pair._write_qr(tmp_path / name, TEXT)
        drawn = io.BytesIO()
        segno.make(TEXT, error="m", micro=False).save(drawn, kind=name[-3:], scale=8)
        # Made of this text, which has fingerprint and address alone.
        assert (tmp_path / name).read_bytes() == drawn.getvalue()
    with pytest.raises(NodeError, match="cannot be written") as caught:
        pair._write_qr(tmp_path / "none" / "north.png", TEXT)
    assert caught.value.code is ExitCode.DISK


def test_a_picture_that_is_wider_than_the_terminal_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pair.output, "terminal_width", lambda: 40)
    assert pair._qr_lines(TEXT) == []


def test_what_a_person_may_answer_about_grants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["see,fly", "see, fetch", "nothing"])
    monkeypatch.setattr(pair.click, "prompt", lambda *_, **__: next(answers))
    assert pair._ask_grants() == ("see", "fetch")
    assert "there is no grant fly" in capsys.readouterr().err
    assert pair._ask_grants() == ()
