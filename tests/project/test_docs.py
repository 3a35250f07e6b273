"""The documents agree with the code: tables, commands, names of tests, links."""

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from places import ROOT

from node.cli.main import radmesh
from node.errors import ExitCode
from node.failures import HTTP_STATUS
from node.fsck.findings import MENDS
from node.home import ROLES, Home
from node.transfer.transfers import TransferState
from protocol import (
    audit_messages,
    encoding,
    find_messages,
    granted,
    limits,
    messages,
    offers,
    pairing_messages,
    receipt,
    receipt_messages,
    reconcile_messages,
    stored,
)
from protocol.errors import WireCode
from protocol.states import TRANSITIONS, Role, State

DOCS = ROOT / "docs"
DOCUMENTS = [
    *sorted(path for path in ROOT.glob("*.md") if path.name[0].isupper()),
    *sorted(DOCS.rglob("*.md")),
]
WITH_COMMANDS = [
    ROOT / "README.md",
    DOCS / "operations.md",
    DOCS / "install.md",
    DOCS / "recovery.md",
    DOCS / "auditing.md",
    DOCS / "data-protection.md",
    ROOT / "CHANGELOG.md",
]


def _section(path: Path, heading: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    text = path.read_text()
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{path.name} has no heading {heading!r}"
    return found[1]


def _tables(text: str) -> list[list[list[str]]]:
    """All tables as rows of cells, without their titles; code marks are taken off."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
        if not inside:
            tables.append([])
            inside = True
        tables[-1].append([cell.strip().strip("`") for cell in cells])
    return [table[2:] for table in tables]


def _table_of(path: Path, heading: str, first: str) -> list[list[str]]:
    """The table of a section whose first column has this title."""
    text = _section(path, heading)
    return _tables(text[text.index(f"| {first} |") :])[0]


def _table(path: Path, heading: str) -> list[list[str]]:
    tables = _tables(_section(path, heading))
    assert tables, f"{path.name}, {heading}: no table"
    return tables[0]


# --- protocol.md ---------------------------------------------------------------------


def test_wire_codes() -> None:
    rows = _table(DOCS / "protocol.md", "3.4 Wire codes")
    assert {row[1]: int(row[0]) for row in rows} == {code.name: code.value for code in WireCode}


def test_limits() -> None:
    documented = {row[0]: float(row[1]) for row in _table(DOCS / "protocol.md", "3.5 Limits")}
    in_code = {
        name: float(value)
        for name, value in vars(limits).items()
        if name.isupper() and name != "BUDGETS"
    }
    assert documented == in_code


def test_budgets() -> None:
    rows = _table(DOCS / "protocol.md", "3.6 Budgets of a peer")
    documented = {row[0]: (float(row[1]), float(row[2]), row[3].strip("`")) for row in rows}
    assert documented == {
        kind: (one.per_hour, one.burst, one.over) for kind, one in limits.BUDGETS.items()
    }


def test_states_of_a_transfer() -> None:
    rows = _table(DOCS / "protocol.md", "4.14 States of a transfer")
    documented = {
        (State[state], Role(sender), what.partition(",")[0].strip("`")): State[following]
        for state, sender, what, following in rows
    }
    assert documented == TRANSITIONS
    assert len(rows) == len(TRANSITIONS)


MESSAGES = [
    message
    for message in messages.Message.__subclasses__()
    if message.__module__.startswith("protocol.")
]


MAPS: dict[str, type] = {
    "record": messages.Record,
    "receipt body": receipt.Receipt,
    "proven entry": reconcile_messages.ProvenEntry,
    "result body": reconcile_messages.Result,
    "stored body": stored.Stored,
}


def _documented_types() -> dict[str, tuple[Path, str]]:
    """Message type to the document and the heading of its section."""
    return {
        found[2]: (document, found[1])
        for document in (DOCS / "protocol.md", DOCS / "protocol-audit.md")
        for found in re.finditer(
            r"^#+ ((?:[0-9.]+ )?(?:Message|Map) `([a-z -]+)`)$", document.read_text(), re.MULTILINE
        )
    }


def test_every_message_has_its_section() -> None:
    types = {message.TYPE for message in MESSAGES}
    others = {audit_messages.Cosigned, receipt_messages.AskReceipt, pairing_messages.PairHello}
    assert others | {granted.Grants, find_messages.Find, offers.StudyOffer} <= set(MESSAGES)
    assert set(_documented_types()) == types | set(MAPS)


@pytest.mark.parametrize(
    ("name", "described"),
    [(message.TYPE, message) for message in MESSAGES] + list(MAPS.items()),
)
def test_fields_of_a_message(name: str, described: type) -> None:
    tables = _tables(_section(*_documented_types()[name]))
    documented = {row[0]: "optional" in row[1] for row in tables[0]} if tables else {}
    in_code = {
        field.name: field.metadata["optional"]
        for field in dataclasses.fields(described)  # type: ignore[arg-type]
    }
    if name in ("receipt body", "result body", "stored body"):
        in_code["version"] = False
    assert documented == in_code


def test_encodings() -> None:
    rows = _table(DOCS / "protocol.md", "5.2 Encoded batches")
    documented = {row[1]: int(row[0]) for row in rows if row[0].isdigit()}
    assert documented == {one.name.lower(): one.value for one in encoding.Encoding}


def test_protocol_ids() -> None:
    documented = {row[0] for row in _table(DOCS / "protocol.md", "2.3 Streams")}
    assert documented == {
        value for name, value in vars(messages).items() if name.endswith("_PROTOCOL")
    }


def test_sections_that_the_code_names_exist() -> None:
    headings = {
        document.name: set(
            re.findall(r"^#+ ([0-9]+(?:\.[0-9]+)*)\.? ", document.read_text(), re.MULTILINE)
        )
        for document in DOCS.glob("protocol*.md")
    }
    named = set()
    for package in ("keys", "protocol", "node"):
        for path in (ROOT / package).rglob("*.py"):
            for name, numbers in re.findall(
                r"(protocol[-a-z]*\.md)\s+sections?\s+([0-9][0-9.]*(?:\s*(?:,|and)\s*[0-9][0-9.]*)*)",
                path.read_text(),
            ):
                for number in re.findall(r"[0-9]+(?:\.[0-9]+)*", numbers):
                    named.add((name, number))
    assert len(named) > 5
    assert [one for one in sorted(named) if one[1] not in headings[one[0]]] == []


# --- operations.md ---------------------------------------------------------------------


def test_exit_codes() -> None:
    rows = _table(DOCS / "operations.md", "13. Exit codes")
    assert {row[1]: int(row[0]) for row in rows} == {code.name: code.value for code in ExitCode}


def test_files_of_the_home() -> None:
    rows = _table(DOCS / "operations.md", "3. The home")
    home = Home(Path("/home"))
    paths = {
        value.name
        for name, value in vars(home).items()
        if isinstance(value, Path) and name not in ("path",)
    }
    assert {row[0].rstrip("/") for row in rows} == paths | {home.socket_path.name}
    [keys] = [row[1] for row in rows if row[0] == "keys/"]
    assert [role for role in ROLES if role not in keys] == []


def test_findings_of_a_check() -> None:
    rows = _table_of(DOCS / "operations.md", "10. Backup, restore, check", "finding")
    assert {kind for row in rows for kind in re.findall(r"[a-z]+-[a-z-]+", row[0])} == MENDS.keys()


def test_statuses_of_the_local_api() -> None:
    rows = _table_of(DOCS / "operations.md", "14. The local API", "status")
    documented = {name: int(row[0]) for row in rows for name in re.findall(r"[A-Z_]+", row[1])}
    assert documented == {code.name: status for code, status in HTTP_STATUS.items()}


def test_states_of_a_transfer_for_people() -> None:
    text = _section(DOCS / "operations.md", "14. The local API")
    [listed] = re.findall(r"\*\*A transfer\*\*.*?`state`\s*\(([^)]*)\)", text, re.DOTALL)
    assert set(re.findall(r"`([a-z]+)`", listed)) == {state.value for state in TransferState}


# --- commands ----------------------------------------------------------------------------


def _commands(path: Path) -> Iterator[str]:
    """Lines and inline code that are calls of radmesh."""
    text = path.read_text()
    for line in re.findall(r"^    (.*)$", text, re.MULTILINE):
        found = re.search(r"(?:^|/)radmesh ((?:--home|[a-z]).*)$", line)
        if found:
            yield found[1]
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    without_blocks = re.sub(r"```.*?```", "", "\n".join(lines), flags=re.DOTALL)
    for code in re.findall(r"`([^`]+)`", without_blocks):
        found = re.match(r"radmesh ([a-z-].*)$", " ".join(code.split()))
        if found:
            yield found[1]


def _check_command(words: list[str]) -> None:
    """Walk the words of a call through the command tree."""
    command: click.Command = radmesh
    context = click.Context(radmesh, info_name="radmesh")
    given = 0
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if re.fullmatch(r"[0-9]*[<>]|&|\|", word):
            break
        if word.startswith("-"):
            options = {
                name: parameter
                for parameter in command.get_params(context)
                if isinstance(parameter, click.Option)
                for name in parameter.opts
            }
            assert word in options, f"{command.name} has no option {word}"
            if not options[word].is_flag and remaining:
                remaining.pop(0)
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            assert found is not None, f"{command.name} has no command {word}"
            command = found
            context = click.Context(found, info_name=word, parent=context)
        else:
            given += 1
    arguments = [one for one in command.get_params(context) if isinstance(one, click.Argument)]
    if not any(one.nargs == -1 for one in arguments):
        assert given <= len(arguments), f"{command.name} takes {len(arguments)} words"


def test_commands_exist() -> None:
    wrong = []
    count = 0
    for path in WITH_COMMANDS:
        for line in _commands(path):
            count += 1
            try:
                _check_command(shlex.split(line))
            except AssertionError as error:
                wrong.append(f"{path.name}: radmesh {line}: {error}")
    assert wrong == []
    assert count > 25


@pytest.mark.parametrize("line", ["fetched X", "fetch X --form Y", "audit check B", "share A B"])
def test_commands_that_do_not_exist_are_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        _check_command(shlex.split(line))


def test_every_command_is_in_the_readme_or_operations() -> None:
    text = (ROOT / "README.md").read_text() + (DOCS / "operations.md").read_text()
    assert [name for name in radmesh.commands if f"radmesh {name}" not in text] == []


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join(path.read_text() for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"))
    named = set(re.findall(r"^    make ([a-z-]+)|`make ([a-z-]+)`", text, re.MULTILINE))
    assert {first or second for first, second in named} <= targets


# --- all documents -------------------------------------------------------------------------


def test_links_lead_somewhere() -> None:
    broken = []
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def test_tests_that_documents_name_exist() -> None:
    functions = {
        (path.relative_to(ROOT / "tests").with_suffix("").as_posix(), name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    files = {stem for stem, _ in functions}
    missing = []
    for path in DOCUMENTS:
        text = path.read_text()
        for stem, name in re.findall(r"([\w/]*\btest_\w+)::(test_\w+)", text):
            if (stem, name) not in functions:
                missing.append(f"{path.name}: {stem}::{name}")
        for stem in re.findall(r"`(?:tests/)?((?:[\w/]+/)?test_\w+)(?:\.py)?`", text):
            if stem not in files:
                missing.append(f"{path.name}: {stem}")
    assert missing == []


def test_files_of_the_code_that_documents_name_exist() -> None:
    forbidden = {"tests/protocol/__init__.py"}  # decision 0001 says why it must not exist
    missing = []
    for path in DOCUMENTS:
        pattern = r"(?<![\w/.])((?:keys|protocol|node|tests|docs)/[\w/.-]+\.(?:py|md))\b"
        for name in re.findall(pattern, path.read_text()):
            if not (ROOT / name).exists() and name not in forbidden:
                missing.append(f"{path.name}: {name}")
    assert missing == []


UNTOLD = ("__init__.py", "errors.py")


def test_the_tour_names_every_file() -> None:
    """Each module stands in the tables of docs/architecture.md, in the row of its folder."""
    text = (DOCS / "architecture.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z/]+)/` \| (.*)$", text, re.MULTILINE))
    missing = [
        f"{package}/{path.name}"
        for package in ("keys", "protocol")
        for path in sorted((ROOT / package).glob("*.py"))
        if f"{path.name}`" not in text and path.name not in UNTOLD
    ]
    for folder in sorted(path.parent for path in (ROOT / "node").rglob("__init__.py")):
        name = folder.relative_to(ROOT / "node").name or "node"
        if name not in ("api", "cli", "operations", "reports"):
            missing += [
                f"{name}/{path.name}"
                for path in sorted(folder.glob("*.py"))
                if f"`{path.name}`" not in rows[name] and path.name not in UNTOLD
            ]
    assert missing == []


@pytest.mark.slow
def test_the_tests_that_look_at_the_clock_of_the_machine_are_listed():
    """And no test sleeps for a time of the machine; helpers that poll do."""
    looking = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                words = {ast.unparse(one) for one in ast.walk(node) if isinstance(one, ast.Call)}
                if node.name.startswith("test_") and any(
                    word.startswith(("time.sleep(", "time.monotonic(")) for word in words
                ):
                    place = path.relative_to(ROOT / "tests").with_suffix("").as_posix()
                    looking.add(f"{place}::{node.name}")
                    marks = [ast.unparse(one) for one in node.decorator_list]
                    assert "pytest.mark.alone" in marks, f"{node.name} measures beside other tests"
    table = (DOCS / "testing.md").read_text().partition("| test | why |")[2].partition("\n\n")[0]
    assert looking == set(re.findall(r"^\| `(\S+)` \|", table, re.M))
