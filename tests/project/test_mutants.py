"""The mutation runner: what it changes, what it leaves alone, and that its verdicts are true."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from places import ROOT

HERE = ROOT / "tests" / "mutants"
sys.path.insert(0, str(HERE))

import mutate  # noqa: E402
import run  # noqa: E402

SOURCE = b'''"""A module, a < b."""
from __future__ import annotations

LIMIT = 3 * 1024  # \xc3\xa4
IS_OLD = "kind = 'x' AND age = 3"


def decide(size: "int | None" = None, name: str = "x") -> bool:
    """Whether it fits: size < LIMIT."""
    if size is None or not name:
        raise ValueError(f"no size below {LIMIT + 1}")
    assert size != 7
    log.warning("size %d", size + 1)
    return 0 <= size < LIMIT


def total(rows: list[int]) -> int:
    found = [row for row in rows if row > 0]
    spent = 0
    for row in found:
        if row == 5:
            break
        spent += row
    database.execute("DELETE FROM t WHERE a = ? AND b < ?", (1, 2))
    return spent - 1
'''


def changed_lines(source: bytes) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for one in mutate.mutants(source):
        found.setdefault(one.first, set()).add(f"{one.kind}: {one.new.strip()}")
    return found


def test_each_kind_of_slip_is_made_and_nothing_is_changed_where_no_test_looks() -> None:
    assert changed_lines(SOURCE) == {
        5: {"SQL: OR", "SQL: >="},
        10: {
            "never: False",
            "always: True",
            "and/or: and",
            "drop operand: False",
            "compare: is not",
            "drop not: (name)",
        },
        11: {"drop raise: pass"},
        14: {"return None: return None", "compare: <", "compare: <=", "constant: (0 + 1)"},
        18: {"drop filter: True", "compare: >=", "constant: (0 + 1)"},
        19: {"constant: (0 + 1)"},
        21: {"never: False", "always: True", "compare: !=", "constant: (5 + 1)"},
        22: {"drop jump: pass"},
        23: {"drop assignment: pass"},
        24: {
            "drop statement: pass",
            "SQL: >=",
            "SQL: OR",
            "SQL: <=",
            "constant: (1 + 1)",
            "constant: (2 + 1)",
        },
        25: {"return None: return None", "arithmetic: +", "constant: (1 + 1)"},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["keys/card.py", "node/images/store.py", "protocol/wire.py", "node/audit/erasure.py"]
)
def test_a_mutant_changes_one_place_and_compiles(path: str) -> None:
    source = (ROOT / path).read_bytes()
    found = mutate.mutants(source)
    assert len(found) > 20
    for one in found:
        mutated = one.apply(source)
        assert mutated != source
        assert mutated[: one.start] == source[: one.start]
        assert mutated[one.start + len(one.new.encode()) :] == source[one.end :]
        compile(mutated, path, "exec")


def test_a_sample_is_the_same_for_a_seed_and_spread_over_the_lines() -> None:
    found = mutate.mutants(SOURCE)
    lines = len({one.first for one in found})
    chosen = mutate.sample(found, lines, seed=5)
    assert chosen == mutate.sample(found, lines, seed=5)
    assert {one.first for one in chosen} == {one.first for one in found}
    assert any(mutate.sample(found, lines, seed) != chosen for seed in range(6, 10))
    assert sorted(mutate.sample(found, 999, 1), key=repr) == sorted(found, key=repr)


def test_the_map_names_tests_that_exist_for_every_pattern() -> None:
    declared = tomllib.loads((HERE / "tests.toml").read_text())["tests"]
    for pattern, names in declared.items():
        assert list(ROOT.glob(pattern)), pattern
        for name in names:
            assert list(ROOT.glob(f"tests/{name}.py")), f"{pattern}: {name}"
    assert "tests/node/images/test_store.py" in run.tests_of("node/images/store.py", declared, ROOT)
    assert run.tests_of("docs/x.py", declared, ROOT) == []


@pytest.mark.slow
def test_what_is_listed_as_equivalent_is_still_a_mutant() -> None:
    """An entry whose line is gone would hide the next one that looks like it."""
    for entry in tomllib.loads((HERE / "equivalent.toml").read_text())["mutant"]:
        assert set(entry) == {"file", "line", "column", "old", "new", "why"}
        assert entry["why"]
        found = mutate.mutants((ROOT / entry["file"]).read_bytes())
        assert any(run.is_equivalent(entry["file"], one, [entry]) for one in found), entry


TOY = {
    "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\n"
    "addopts = ['--import-mode=importlib']\nmarkers = ['slow: slow']\n",
    ".gitignore": ".mutants/\n",
    "toy.py": "def fits(size):\n    if size > 10:\n        return False\n    while size > 3:\n"
    "        size -= 1\n    return size >= 0\n",
    "tests/test_toy.py": "from toy import fits\n\n\ndef test_fits():\n"
    "    assert fits(8)\n    assert not fits(11)\n    assert not fits(-1)\n",
    "tests/mutants/tests.toml": "[tests]\n'toy.py' = ['test_toy']\n'no.py' = ['test_toy']\n",
    "tests/mutants/equivalent.toml": "[[mutant]]\nfile = 'toy.py'\nline = 'while size > 3:'\n"
    "column = 10\nold = ' > '\nnew = ' >= '\nwhy = 'counts down to where it makes no difference'\n",
    "no.py": "x = 1\n",
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "toy"
    for name, text in TOY.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_verdicts_are_true_and_the_checkout_is_not_touched(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_LEAST_SECONDS", 20.0)
    assert run.main(["toy.py", "--count", "99", "--json", str(toy / "out")], root=toy) == 1
    out = capsys.readouterr().out
    # Nobody asks about 10 itself, nor about 0.
    assert "toy.py:2: survived" in out
    assert "toy.py:6: survived" in out
    # The loop without its end, and the check that is left out.
    assert "toy.py:5: timed out" in out
    assert "toy.py:2: killed by tests/test_toy.py::test_fits" in out
    assert "toy.py:4: equivalent" in out
    assert out.splitlines()[-1].startswith("| toy.py | ")
    assert {name: (toy / name).read_text() for name in TOY} == TOY


@pytest.mark.slow
def test_what_tests_reach_is_measured_again_when_they_or_the_sources_change(toy: Path) -> None:
    def kept() -> tuple[str, int]:
        run.main(["toy.py", "--count", "1"], root=toy)
        [path] = (toy / run.KEPT).iterdir()
        return path.name, path.stat().st_mtime_ns

    first = kept()
    assert kept() == first
    for name in ("tests/test_toy.py", "toy.py"):
        (toy / name).write_text((toy / name).read_text() + "\n# Changed.\n")
        assert kept()[0] != first[0]
        first = kept()


@pytest.mark.slow
def test_nothing_is_said_where_nothing_can_be_said(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["no.py"], root=toy) == 2
    assert "reaches a line" in capsys.readouterr().err
    assert run.main(["conftest.py"], root=toy) == 2
    assert "names no tests" in capsys.readouterr().err
    (toy / "tests/test_toy.py").write_text(
        "from toy import fits\n\n\ndef test_it():\n    assert 0\n"
    )
    assert run.main(["toy.py"], root=toy) == 2
    assert "fail unchanged" in capsys.readouterr().err
