"""`radmesh people`, as people type it."""

import json
import os
import pwd
from pathlib import Path

import pytest
from people_made import ask, list_people, proposed

from node.app import Node
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


@pytest.mark.slow
def test_rules_and_proposals_as_people_type_them(
    home: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node.open(Home(Path(home))) as node:
        list_people(node)

    def run(code: ExitCode, *words: str) -> str:
        assert main(["--home", home, *words]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    said = run(ExitCode.OK, "people", "rule", "trust", "2")
    assert said == "trust: one person proposes, another one confirms\n"
    assert "two people are needed for: trust\n" in run(ExitCode.OK, "people", "list")
    assert "nothing waits" in run(ExitCode.OK, "proposals")
    with Node.open(Home(Path(home))) as node:
        added = {"name": "eve", "users": ["#4000000002"], "roles": ["look"]}
        number = proposed(ask(node, "anna", "people.add", **added))
        other = proposed(ask(node, "anna", "people.role", name="carl", give=["audit"]))
    said = run(ExitCode.OK, "proposals")
    assert f"{number}  put eve into the list of people, as #4000000002" in said
    assert "by Dr. Anna, " in said
    assert "only a person of the list" in run(ExitCode.REFUSED, "confirm", str(number))
    said = run(ExitCode.OK, "decline", str(number), "--reason", "not here")
    assert said.startswith("declined: put eve")
    assert f"{number}  people.add of Dr. Anna" in run(ExitCode.OK, "proposals")
    assert "declined: not here" in run(ExitCode.OK, "proposals")
    assert run(ExitCode.OK, "people", "rule", "trust", "1") == "trust: one person is enough\n"

    # A person's command, which another person has to confirm.
    waiting = {"waits_for_second": {"number": other, "until": 1_800_000_000_000}}
    monkeypatch.setattr("node.api.client.call", lambda *_, **__: waiting)
    said = run(ExitCode.WAITING, "people", "role", "carl", "--give", "audit")
    assert f"nothing is done yet: this waits for a second person, as proposal {other}" in said
    assert f"`radmesh confirm {other}`" in said
