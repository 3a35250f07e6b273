"""The list of people: what is taken, what is refused, and what a kill leaves of a change."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killed import killed_at_commit

from node.app import Node
from node.callers import Caller
from node.errors import ExitCode, NodeError
from node.home import Home
from node.operations import OPERATIONS
from node.operations.permission import permitted
from node.people.persons import PERSON_ROLES, Person
from protocol.log.entry import decode_entry_untrusted


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", name="North General")


@pytest.fixture
def node(home: Home) -> Iterator[Node]:
    with Node.open(home) as opened:
        yield opened


def add(node: Node, name: str = "anna", user: str = "anna1", roles: str = "look") -> Person:
    return node.persons.add(name, [user], roles.split(), f"Dr. {name.title()}")


def entries(node: Node) -> list[tuple[str, str, str]]:
    """Type, outcome and person of the newest entries about persons."""
    found = []
    for encoded in node.audit.entries():
        entry = decode_entry_untrusted(encoded)
        if entry.type.startswith("person-"):
            opening = node.audit.opening_of(entry.subjects[0][1])
            found.append((entry.type, entry.outcome, opening.value if opening else ""))
    return found


def test_the_list_is_kept_and_each_change_is_an_entry_that_names_nobody(home: Home) -> None:
    with Node.open(home) as node:
        anna = add(node, roles="send look")
        assert anna.roles == ("look", "send"), "in the order of the roles"
        assert node.persons.change("anna", ["admin"], []).roles == ("look", "send", "admin")
        node.persons.change("anna", [], ["send", "look"])
        add(node, "bert", "bert1")
    with Node.open(home) as node:
        assert [one.name for one in node.persons.all()] == ["anna", "bert"]
        anna = node.persons.find("anna")
        assert (anna.roles, anna.users) == (("admin",), ("anna1",))
        assert node.persons.of_user("anna1") == anna
        assert node.persons.of_user("anna") is None
        node.persons.remove("anna")
        assert node.persons.of_user("anna1") is None
        assert entries(node) == [
            ("person-added", "success", "anna^^^look,send^^^Dr. Anna^^^anna1"),
            ("person-changed", "success", "anna^^^look,send,admin^^^Dr. Anna^^^anna1"),
            ("person-changed", "success", "anna^^^admin^^^Dr. Anna^^^anna1"),
            ("person-added", "success", "bert^^^look^^^Dr. Bert^^^bert1"),
            ("person-removed", "success", "anna^^^admin^^^Dr. Anna^^^anna1"),
        ]
        log = b"".join(node.audit.entries())
        assert b"anna" not in log.lower()
    for file in home.path.glob("node.db*"):
        assert b"anna1" not in file.read_bytes(), "what is removed is overwritten"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "Anna"}, "this name does not fit"),
        ({"name": "a" * 33}, "this name does not fit"),
        ({"name": "a^^^b"}, "this name does not fit"),
        ({"name": ""}, "this name does not fit"),
        ({"display": "Dr. ^^^admin"}, "this display name does not fit"),
        ({"display": "x" * 65}, "this display name does not fit"),
        ({"display": "a\nb"}, "this display name does not fit"),
        ({"users": []}, "a person needs a user"),
        ({"users": [f"u{n}" for n in range(9)]}, "a person needs a user"),
        ({"users": ["a,b"]}, "this user name does not fit"),
        ({"users": [""]}, "this user name does not fit"),
        ({"roles": ["root"]}, "there is no role 'root'"),
        ({"roles": []}, "a person without a role"),
        ({"name": "bert"}, "there is a person bert already"),
        ({"users": ["x", "bert1"]}, "the user bert1 is bert already"),
    ],
)
def test_what_does_not_fit_changes_nothing(node: Node, given: dict[str, object], said: str) -> None:
    add(node, "bert", "bert1")
    size = node.audit.size
    values: dict[str, object] = {"name": "anna", "users": ["anna1"], "roles": ["look"]}
    values |= {"display": "", **given}
    with pytest.raises(NodeError) as caught:
        node.persons.add(**values)  # type: ignore[arg-type]
    assert said in caught.value.message
    assert node.audit.size == size
    assert [one.name for one in node.persons.all()] == ["bert"]


def test_roles_that_change_nothing_and_people_who_are_not_there(node: Node) -> None:
    add(node)
    for change in (
        lambda: node.persons.change("anna", ["look"], []),
        lambda: node.persons.change("anna", [], ["send"]),
        lambda: node.persons.change("anna", [], ["root"]),
        lambda: node.persons.change("bert", ["look"], []),
        lambda: node.persons.remove("bert"),
    ):
        with pytest.raises(NodeError) as caught:
            change()
        assert caught.value.code in (ExitCode.USAGE, ExitCode.NOT_FOUND)
    assert len(entries(node)) == 1


def test_who_gets_the_name_of_a_user_later_is_not_the_person(home: Home) -> None:
    with Node.open(home) as node:
        anna = node.persons.add("anna", ["anna1", "anna2"], ["admin"], "", [1001, 1002])
        older = add(node, "bert", "bert1")
    with Node.open(home) as node:
        for number in (1001, 1002, None):
            assert node.persons.of_user("anna1", number) == anna
        with pytest.raises(NodeError, match="the user anna1 is another one") as caught:
            node.persons.of_user("anna1", 1003)
        assert caught.value.code is ExitCode.REFUSED
        with pytest.raises(NodeError, match="the user anna1 is another one"):
            permitted(node, Caller("person", "anna1", number=1003), OPERATIONS["people.remove"])
        # Of persons of an older release no number is known.
        assert node.persons.of_user("bert1", 1003) == older
        node.persons.remove("anna")
        assert add(node, user="anna1") == node.persons.of_user("anna1", 1003)


def test_one_user_with_two_names_is_not_two_persons(node: Node) -> None:
    node.persons.add("anna", ["anna1"], ["admin"], "", [1001])
    with pytest.raises(NodeError, match="by another name, somebody else already"):
        node.persons.add("bert", ["bert1"], ["approve"], "", [1001])
    assert [one.name for one in node.persons.all()] == ["anna"]


def test_the_list_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.people.persons.MOST_PEOPLE", 1)
    add(node)
    with pytest.raises(NodeError, match="has 1 people already"):
        add(node, "bert", "bert1")


def test_erasing_a_person_takes_every_role_and_no_namesake(node: Node) -> None:
    add(node)
    node.persons.change("anna", ["send"], [])
    add(node, "anna.b", "anna2")
    erasures = node.audit.evidence.erasures
    assert erasures.find("person", "anna", node.audit.size).openings == 2
    assert erasures.find("person", "anna.b", node.audit.size).openings == 1
    assert erasures.find("person", "ann", node.audit.size).openings == 0


CHANGES: dict[str, Callable[[Node], object]] = {
    "take": lambda node: node.persons.change("anna", [], ["admin"]),
    "remove": lambda node: node.persons.remove("anna"),
    "give": lambda node: node.persons.change("anna", ["audit"], []),
    "add": lambda node: add(node, "bert", "bert1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_commit_what_was_taken_stays_taken(tmp_path: Path, change: str) -> None:
    """Entry and list agree after the next start: what takes is never lost."""
    seen = set()
    for when in ("before", "after"):
        for commit in range(1, 40):
            home = Home.create(tmp_path / f"{change}-{when}-{commit}", name="North")
            with Node.open(home) as node:
                add(node, roles="look admin")
                logged = len(entries(node))

            def prepare(home: Home = home) -> Node:
                return Node.open(home)

            killed = killed_at_commit(commit, when, prepare, CHANGES[change])
            with Node.open(home) as node:
                found = {one.name: one.roles for one in node.persons.all()}
                told = entries(node)[logged:]
            whole = {
                "take": {"anna": ("look",)},
                "remove": {},
                "give": {"anna": ("look", "admin", "audit")},
                "add": {"anna": ("look", "admin"), "bert": ("look",)},
            }[change]
            before = {"anna": ("look", "admin")}
            kinds = [outcome for _, outcome, _ in told]
            if not kinds or kinds == ["success", "failed"]:
                assert found == before
            else:
                assert kinds == ["success"]
                assert found == whole
            if change in ("take", "remove"):
                assert "failed" not in kinds
            seen.add(tuple(kinds))
            if not killed:
                break
        else:
            pytest.fail("it never came to its end")
    assert ("success",) in seen
    assert change in ("take", "remove") or ("success", "failed") in seen


def test_a_person_is_data_of_its_own() -> None:
    assert {field.name for field in dataclasses.fields(Person)} == {
        "id", "name", "display", "roles", "users", "added",
    }  # fmt: skip
    assert len(set(PERSON_ROLES)) == 6
