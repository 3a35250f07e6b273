"""The table of operations: its parameters, read strictly, and what documents and commands say."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operations_written import marks_of, parameters_of
from places import ROOT

from node.errors import ExitCode, NodeError
from node.operations import OPERATIONS, TABLE, Operation
from node.operations import parameters as of_machine
from node.operations.parameters import MOST, From, defaults, kinds, read, required
from node.operations.transfer import Fetch


@dataclass(frozen=True)
class Inner:
    key: str


@dataclass(frozen=True)
class Asked:
    study: str
    names: tuple[str, ...]
    path: of_machine.Path
    peer: str | None = None
    stat: bool = False
    limit: Annotated[int, From(1)] | None = None
    inner: Inner | None = None


GOOD: dict[str, Any] = {"study": "1.2", "names": ["a", "b"], "path": "/x"}


def test_parameters_become_fields_and_what_is_missing_has_its_default() -> None:
    assert read(Asked, GOOD) == Asked("1.2", ("a", "b"), "/x")
    whole = {**GOOD, "peer": None, "stat": True, "limit": 1, "inner": {"key": "k"}}
    assert read(Asked, whole) == Asked("1.2", ("a", "b"), "/x", None, True, 1, Inner("k"))
    assert read(Fetch, {"study": "1.2"}) == Fetch("1.2", None, "treatment", False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"study": None}, "the parameter study must be a text"),
        ({"study": 1}, "the parameter study must be a text"),
        ({"names": "a"}, "the parameter names must be a list of texts"),
        ({"names": ["a", 1]}, "the parameter names must be a list of texts"),
        ({"names": None}, "the parameter names must be a list of texts"),
        ({"path": "x"}, "the parameter path must be an absolute path"),
        ({"peer": 1}, "the parameter peer must be a text or null"),
        ({"stat": 1}, "the parameter stat must be true or false"),
        ({"stat": None}, "the parameter stat must be true or false"),
        ({"limit": 0}, "the parameter limit must be a number from 1 or null"),
        ({"limit": True}, "the parameter limit must be a number from 1 or null"),
        ({"limit": 1.0}, "the parameter limit must be a number from 1 or null"),
        ({"limit": MOST + 1}, "the parameter limit must be a number from 1 or null"),
        ({"inner": "k"}, "the parameter inner must be an object or null"),
        ({"inner": {}}, "the parameter key is missing"),
        ({"inner": {"key": "k", "more": 1}}, "there is no parameter more"),
        ({"other": 1}, "there is no parameter other"),
    ],
)
def test_a_wrong_parameter_is_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NodeError) as caught:
        read(Asked, {**GOOD, **wrong})
    assert caught.value.message == sentence
    assert caught.value.code is ExitCode.USAGE


def test_a_missing_parameter_is_a_sentence() -> None:
    with pytest.raises(NodeError, match="the parameter study is missing"):
        read(Asked, {})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.sampled_from(TABLE), st.data())
def test_whatever_is_given_is_read_or_refused_and_never_repeated(
    operation: Operation[Any], data: st.DataObject
) -> None:
    names = st.sampled_from([*kinds(operation.parameters), "else"])
    given_ = data.draw(st.dictionaries(names, _JSON | st.just("PAT-4711"), max_size=6))
    try:
        asked = read(operation.parameters, given_)
    except NodeError as error:
        said = error
    else:
        said = None
    if said is not None:
        assert said.code is ExitCode.USAGE
        assert "PAT-4711" not in said.message + said.hint
        return
    assert set(given_) <= set(kinds(operation.parameters))
    assert required(operation.parameters) <= set(given_)
    for name, value in defaults(operation.parameters).items():
        if name not in given_:
            assert getattr(asked, name) == value


@pytest.mark.parametrize("operation", TABLE, ids=lambda one: one.name)
def test_a_row_of_the_table(operation: Operation[Any]) -> None:
    parameters = operation.parameters
    assert OPERATIONS[operation.name] is operation
    assert parameters.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert parameters.__doc__
    # What takes a path or a secret of the machine is not for everybody who may ask.
    found = kinds(parameters)
    assert operation.local_only or not any(kind.is_path for kind in found.values())
    assert operation.local_only or "facility_key" not in found
    # What only reads is asked again at will: it takes no file to write.
    assert operation.writes or not operation.local_only
    for field in dataclasses.fields(parameters):
        if kinds(parameters)[field.name].nullable:
            assert field.default is None


# --- documents and commands -------------------------------------------------------------


def _rows() -> dict[str, list[str]]:
    text = (ROOT / "docs/operations.md").read_text()
    section = text[text.index("## 14. The local API") : text.index("## 15.")]
    table = section[section.index("| operation | parameters |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines()[2:]]
    return {row[0].strip("| `"): [cell.strip("| ") for cell in row[1:]] for row in rows}


def test_the_documented_operations_are_those_of_the_table_in_its_order() -> None:
    assert list(_rows()) == sorted(_rows(), key=list(_rows()).index)
    assert set(_rows()) == set(OPERATIONS)


@pytest.mark.parametrize("operation", TABLE, ids=lambda one: one.name)
def test_the_document_of_an_operation(operation: Operation[Any]) -> None:
    parameters, result, *marks = _rows()[operation.name]
    assert re.sub(r" \([^()]*\)", "", parameters) == parameters_of(operation)
    assert result
    assert tuple(marks) == marks_of(operation)


@dataclass(frozen=True)
class Called:
    """A call in the commands: its operation, the names given, and whether these are all."""

    place: str
    operation: str
    names: frozenset[str]
    selects: bool
    whole: bool


def _calls() -> Iterator[Called]:
    for path in sorted((ROOT / "node/cli").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if (
                        isinstance(node, ast.Call)
                        and isinstance(node.func, ast.Attribute)
                        and ast.unparse(node.func) == "session.call"
                    ):
                        yield _called(f"{path.name}:{node.lineno}", node, function)


def _called(place: str, node: ast.Call, function: ast.FunctionDef) -> Called:
    operation = ast.literal_eval(node.args[0])
    given_: ast.expr = node.args[1] if len(node.args) > 1 else ast.Dict([], [])
    names, selects, whole = _names(given_, function)
    return Called(place, operation, frozenset(names), selects, whole)


def _names(value: ast.expr, function: ast.FunctionDef) -> tuple[set[str], bool, bool]:
    if isinstance(value, ast.Name):
        if value.id == "selected":
            return set(), True, True
        assigned = [
            one.value
            for one in ast.walk(function)
            if isinstance(one, ast.Assign | ast.AnnAssign)
            and ast.unparse(one.targets[0] if isinstance(one, ast.Assign) else one.target)
            == value.id
        ]
        added = any(
            isinstance(one, ast.Subscript) and ast.unparse(one.value) == value.id
            for one in ast.walk(function)
        )
        [found] = assigned
        assert found is not None
        names, selects, whole = _names(found, function)
        return names, selects, whole and not added
    if not isinstance(value, ast.Dict):
        return set(), False, False  # what a function gives
    names, selects, whole = set[str](), False, True
    for key, inner in zip(value.keys, value.values, strict=True):
        if key is None:
            more, also, all_of_it = _names(inner, function)
            names, selects, whole = names | more, selects or also, whole and all_of_it
        else:
            names.add(ast.literal_eval(key))
    return names, selects, whole


CALLS = list(_calls())


@pytest.mark.parametrize("called", CALLS, ids=lambda one: f"{one.place}-{one.operation}")
def test_a_command_gives_what_its_operation_takes(called: Called) -> None:
    parameters = OPERATIONS[called.operation].parameters
    known = set(kinds(parameters))
    assert called.names <= known
    if called.selects:
        assert {"since", "until", "peer", "study"} <= known
    if called.whole:
        assert required(parameters) <= called.names


def test_each_operation_has_its_command() -> None:
    assert {called.operation for called in CALLS} == set(OPERATIONS)
