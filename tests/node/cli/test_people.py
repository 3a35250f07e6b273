"""`radmesh people`, as people type it."""

import json
import os
import pwd
from pathlib import Path

import pytest

from node.cli import main
from node.errors import ExitCode
from node.home import Home

USER = next(one.pw_name for one in pwd.getpwall() if one.pw_uid != os.getuid())


@pytest.fixture
def home(tmp_path: Path) -> str:
    Home.create(tmp_path / "home", name="North General")
    return str(tmp_path / "home")


def test_a_person_is_added_changed_listed_and_removed(
    home: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> str:
        assert main(["--home", home, *words]) == ExitCode.OK
        return capsys.readouterr().out

    added = ["people", "add", "anna", "--user", USER, "--role", "send", "--role", "look"]
    assert run(*added, "--display", "Dr. A. Beispiel") == (
        f"anna is in the list, as {USER}\nmay: look,send\n"
    )
    assert run("people", "role", "anna", "--give", "approve").endswith("may: look,send,approve\n")
    assert run("people", "role", "anna", "--take", "look").endswith("may: send,approve\n")
    table = run("people", "list")
    assert [part for part in table.splitlines()[1].split("  ") if part] == [
        "anna", "Dr. A. Beispiel", USER, "send,approve",
    ]  # fmt: skip
    assert table.endswith("members of the group who are not in the list: nothing\n")
    [person] = json.loads(run("people", "list", "--json"))["people"]
    assert person["roles"] == ["send", "approve"]
    assert run("people", "remove", "anna") == "anna is not in the list any more\n"
    assert "anna" not in run("people", "list")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["add", "anna", "--user", "no-such-user", "--role", "look"], ExitCode.NOT_FOUND),
        (["add", "anna", "--user", USER, "--role", "root"], ExitCode.USAGE),
        (["add", "anna", "--user", USER], ExitCode.USAGE),
        (["role", "anna", "--give", "look"], ExitCode.NOT_FOUND),
        (["role", "anna"], ExitCode.USAGE),
        (["remove", "anna"], ExitCode.NOT_FOUND),
    ],
)
def test_what_is_wrong_is_a_sentence_with_its_code(
    home: str, capsys: pytest.CaptureFixture[str], words: list[str], code: ExitCode
) -> None:
    assert main(["--home", home, "people", *words]) == code
    said = capsys.readouterr().err
    assert "radmesh: error: " in said
    assert "radmesh: hint: " in said
