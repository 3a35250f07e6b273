"""Every error that the command line makes: its words, its hint, its exit code."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import SOUTH_FINGERPRINT, Ran, Terminal, card_file, images, north, terminal

from node.cli import main
from node.errors import ExitCode

__all__ = ["card_file", "images", "north", "terminal"]


@pytest.mark.parametrize(
    "words",
    [
        ("card", "show"),
        ("trust", "list"),
        ("studies",),
        ("status",),
        ("serve",),
        ("audit", "show"),
        ("ingest", "."),
        ("fetch", "1.2.3"),
    ],
    ids=" ".join,
)
def test_without_a_home(terminal: Terminal, words: tuple[str, ...]) -> None:
    ran = terminal.run(*words)
    assert ran.code == ExitCode.NO_HOME
    assert ran.err == (
        f"radmesh: error: there is no radmesh home at {terminal.home}\n"
        'radmesh: hint: make one with `radmesh init --name "Your Facility"`, '
        "or name it with --home\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("init --name Again", 3, "{home} exists already and is not empty"),
        ("card show missing.card", 5, "there is no file missing.card"),
        ("trust add missing.card", 5, "there is no file missing.card"),
        ("trust show Nobody", 5, "there is no peer of this name"),
        ("trust grant Nobody see", 5, "there is no peer of this name"),
        ("studies --peer Nobody", 5, "there is no peer of this name"),
        ("studies --peer Nobody --all", 2, "--peer, --all and --to-check exclude each other"),
        ("ingest /no/such/folder", 5, "there is no file or folder /no/such/folder"),
        ("share 1.2.3.4.5.6.7", 5, "there is no study"),
        ("withdraw 1.2.3.4.5.6.7", 5, "there is no study"),
        ("export 1.2.3.4.5.6.7 out", 5, "there is no study"),
        ("fetch 1.2.3.4", 4, "the node of this home is not running"),
        ("cancel abcd", 4, "the node of this home is not running"),
        ("nonsense", 2, "No such command 'nonsense'."),
        ("init", 2, "Missing option '--name'."),
        ("init --name X --listen 127.0.0.1:4101", 2, "cannot listen: '127.0.0.1:4101' is not"),
        ("audit show --type disclose", 2, "there is no entry type disclose"),
        ("audit show --since 2026-11-24 --until 2026-11-23", 2, "2026-11-23 is before 2026-11-24"),
        ("trust grant Nobody", 2, "Missing argument 'GRANTS...'."),
        ("audit show --last 0", 2, "Invalid value for '--last'"),
        ("audit verify none.zip --facility F", 2, "F is neither a card file nor a fingerprint"),
        ("demo /no/such/folder", 5, "there is no file or folder /no/such/folder"),
    ],
)
def test_errors(north: Terminal, words: str, code: int, error: str) -> None:
    ran = north.run(*words.split())
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(f"radmesh: error: {error.format(home=north.home)}")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("words", [(), ("trust",), ("audit",)], ids=" ".join)
def test_a_group_without_a_command_shows_its_help(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(words) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[0].startswith(f"Usage: {' '.join(('radmesh', *words))} [OPTIONS]")
    assert "Commands:" in shown.err.splitlines()


def test_errors_as_json(north: Terminal) -> None:
    ran = north.run("fetch", "1.2.3.4", "--json")
    assert ran.code == ExitCode.BUSY
    assert json.loads(ran.err) == {
        "error": {
            "message": "the node of this home is not running",
            "hint": "start it with `radmesh serve`",
            "code": 4,
        }
    }


def test_usage_errors_name_the_help(north: Terminal) -> None:
    assert north.run("trust", "add").err.splitlines() == [
        "radmesh: error: Missing argument 'CARD'.",
        "radmesh: hint: see `radmesh trust add --help`",
    ]


def test_a_wrong_fingerprint_is_refused(north: Terminal, card_file: Callable[..., Path]) -> None:
    own = json.loads(north.run("card", "show", "--json").out)["fingerprint"]
    for wrong in (own, SOUTH_FINGERPRINT[:7]):
        ran = north.run("trust", "add", str(card_file()), "--fingerprint", wrong)
        assert ran.code == ExitCode.INTEGRITY
    assert json.loads(north.run("trust", "list", "--json").out)["peers"] == []


def test_a_slip_in_a_fingerprint_is_located(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    slip = ("B" if SOUTH_FINGERPRINT[0] == "A" else "A") + SOUTH_FINGERPRINT[1:]
    ran = north.run("trust", "add", str(card_file()), "--fingerprint", slip)
    assert ran.code == ExitCode.INTEGRITY
    assert "group" in ran.err


def test_forged_expired_and_older_cards_are_refused(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    good = ("--fingerprint", SOUTH_FINGERPRINT)
    assert north.run("trust", "add", str(card_file(serial=5)), *good).code == 0
    older = north.run("trust", "add", str(card_file(serial=4)), *good)
    assert older.code == ExitCode.INTEGRITY
    assert "serial 5" in older.err
    expired = north.run("trust", "add", str(card_file(serial=6, expires_in=-1)), *good)
    assert expired.code == ExitCode.INTEGRITY
    assert "has expired" in expired.err
    forged = card_file(serial=7)
    forged.write_bytes(forged.read_bytes().replace(b"South", b"North"))
    for words in (("trust", "add", str(forged), *good), ("card", "show", str(forged))):
        ran = north.run(*words)
        assert ran.code == ExitCode.INTEGRITY
        assert "it was altered" in ran.err


def test_an_expired_card_is_shown_with_a_warning(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    ran = north.run("card", "show", str(card_file(expires_in=-1)))
    assert ran.code == 0
    assert ran.err == "radmesh: warning: the card of South Clinic (serial 1) has expired\n"


def test_our_own_card_and_unknown_grants_are_refused(
    north: Terminal, card_file: Callable[..., Path]
) -> None:
    own = json.loads(north.run("card", "show", "--json").out)
    path = north.home.parent / "own.card"
    path.write_text(own["card"])
    ran = north.run("trust", "add", str(path), "--fingerprint", own["fingerprint"])
    assert ran.code == ExitCode.REFUSED
    ran = north.run(
        "trust", "add", str(card_file()), "--fingerprint", SOUTH_FINGERPRINT, "--grant", "all"
    )
    assert ran.code == ExitCode.USAGE
    assert "the grants are see, find, fetch, send, witness" in ran.err


def test_nobody_at_the_terminal(
    north: Terminal, card_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        ran = north.run("trust", "add", str(card_file()))
    assert ran.code == ExitCode.USAGE
    assert ran.err.splitlines() == [
        "radmesh: error: nobody is at a terminal who could compare the fingerprint",
        "radmesh: hint: give the one that the other admin read to you: --fingerprint ABCDEFG-...",
    ]


def test_what_cannot_be_verified_is_no_verdict(north: Terminal, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.zip"
    garbage.write_bytes(b"PK no")
    for words in (
        (str(tmp_path / "none.zip"), "--facility", SOUTH_FINGERPRINT),
        (str(garbage), "--facility", SOUTH_FINGERPRINT),
        (str(garbage), "--facility", SOUTH_FINGERPRINT, "--pin", "5"),
        (str(garbage), "--facility", SOUTH_FINGERPRINT, "--receipt", "none"),
    ):
        assert north.run("audit", "verify", *words).code == 2


def test_the_demonstration_replaces_only_its_own_folder(north: Terminal, tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.mkdir()
    (other / "file").write_text("keep me")
    ran = north.run("demo", "--home", str(other))
    assert ran.code == ExitCode.NO_HOME
    assert ran.err.startswith(f"radmesh: error: {other} exists and was not made by the demo")
    assert (other / "file").read_text() == "keep me"


def test_an_unexpected_error_shows_no_traceback_and_no_text(
    north: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("Doe^John")

    monkeypatch.setattr("node.cli.session.Session.call", fail)
    ran = north.run("studies")
    assert ran.code == ExitCode.FAILED
    assert re.match(r"radmesh: error: .*\(KeyError in test_errors\.py:\d+\)\n", ran.err)
    assert "Doe" not in ran.err
    assert "Traceback" not in ran.err


def test_ctrl_c_is_130(north: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("node.cli.session.Session.call", interrupt)
    assert north.run("studies") == Ran(130, "", "\nradmesh: stopped\n")
