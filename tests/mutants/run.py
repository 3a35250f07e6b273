"""Mutation runs: how many small wrong changes of a file do its tests notice?

    make mutants FILE=node/images/store.py
    python tests/mutants/run.py keys/*.py --count 20 --seed 3 --json results.jsonl

Works in a copy of the tree, so that the checkout is never changed. Which tests run for a
mutant is found by running the tests of its file (`tests.toml`) once under coverage: those
that reach the changed line, the quickest first, up to a budget of their seconds. What each
test file reaches is kept in `.mutants/` until it or what is no test file changes. A test
that fails, or a run that takes many times what it should, kills the mutant. A few runs
change nothing (controls): if one of those fails, no result counts.
What is listed in `equivalent.toml` was read by a person and changes nothing that any
test could see; it is counted apart.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coverage import CoverageData

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from mutate import Mutant, mutants, sample  # noqa: E402

COUNT = 20
"""Mutants a file, unless told otherwise."""

BUDGET_SECONDS = 40.0
"""Of tests, as long as they take unchanged, for one mutant."""

CONTROLS = 2
"""Runs a file that change nothing."""

_CONTROL_SECONDS = 5.0
"""Of tests in a control: the baseline has run them all."""

_MEMORY_BYTES = 8 << 30
_FILE_BYTES = 1 << 30
_BASELINE_SECONDS = 1800.0

_LEAST_SECONDS = 30.0
"""A run is given so long in any case, and four times what its tests take unchanged."""

KEPT = ".mutants"
"""Folder, from the root, of what the tests reach."""

KILLED, TIMED_OUT, SURVIVED, EQUIVALENT = "killed", "timed out", "survived", "equivalent"


class BrokenRun(Exception):
    """The tests fail without any change, or a file has no tests: nothing can be said."""


@dataclass(frozen=True)
class Result:
    """What came of one mutant; `by` is the test that killed it."""

    mutant: Mutant
    status: str
    by: str | None
    seconds: float


@dataclass(frozen=True)
class Baseline:
    """The tests of a file, unchanged.

    Attributes:
        seconds: by test.
        reached: line to the tests that reach it.
    """

    seconds: dict[str, float]
    reached: dict[int, set[str]]

    def tests_for(self, mutant: Mutant, budget_seconds: float) -> list[str]:
        """Tests that reach a mutant, the quickest first, within the budget.

        A line that is reached while modules are imported only is every test's.
        """
        names: set[str] = set()
        for line in range(mutant.first, mutant.last + 1):
            names |= self.reached.get(line, set())
        if not names:
            names = set().union(*self.reached.values())
        chosen, spent = [], 0.0
        for name in sorted(names, key=lambda each: (self.seconds.get(each, 0.0), each)):
            spent += self.seconds.get(name, 0.0)
            if chosen and spent > budget_seconds:
                break
            chosen.append(name)
        return chosen


# --- the copy of the tree ------------------------------------------------------------------


@contextlib.contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of a checkout's files, those that git ignores left out; gone afterwards."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True,
    ).stdout.split(b"\0")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        tree = Path(directory) / "tree"
        for name in filter(None, listed):
            source, target = root / os.fsdecode(name), tree / os.fsdecode(name)
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        shared = root.parent / "shared"
        if shared.is_dir():
            (tree.parent / "shared").symlink_to(shared)
        yield tree


class Tree:
    """Runs tests in the copy."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._report = path.parent / "report.json"
        self._run = path.parent / "run.json"

    def pytest(
        self, arguments: Sequence[str], tests: list[str] | None, most_seconds: float
    ) -> dict[str, object] | None:
        """Run tests; what `choosing.py` reports, None when they took too long or crashed."""
        self._report.unlink(missing_ok=True)
        self._run.write_text(json.dumps({"tests": tests, "report": str(self._report)}))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(self.path), str(HERE))),
            # A change within the same second and of the same size is not seen by its age.
            "PYTHONDONTWRITEBYTECODE": "1",
            "RADMESH_MUTANT_RUN": str(self._run),
        }
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "choosing", "-p", "no:cacheprovider",
            "--tb=short", "--hypothesis-seed=0", *arguments,
        ]  # fmt: skip
        with (self.path.parent / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.path,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_bound,
            )
        try:
            process.wait(most_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Also the nodes that a test had started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return json.loads(self._report.read_text()) if self._report.is_file() else None

    def output(self) -> str:
        """The end of what the last run printed."""
        return (self.path.parent / "output.txt").read_text(errors="replace")[-2000:]


def _bound() -> None:
    """A mutant that grows without end must not take the machine with it."""
    for kind, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, _FILE_BYTES)):
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, hard))


# --- one file -------------------------------------------------------------------------------


def _name_of(test: str) -> str:
    """A test file's name in one folder with all others: two folders may have a `test_power.py`."""
    return test.removesuffix(".py").replace("/", ".")


def tests_of(file: str, declared: dict[str, list[str]], root: Path) -> list[str]:
    """Test files for a source file: of the first pattern in `tests.toml` that it fits."""
    names = next((names for glob, names in declared.items() if fnmatch.fnmatchcase(file, glob)), [])
    found = {path for name in names for path in root.glob(f"tests/{name}.py")}
    return sorted(str(path.relative_to(root)) for path in found)


class Measured:
    """What the tests reach, unchanged; measured once, and kept beside the checkout.

    One file for each test file, with the tests' seconds and the lines of each source file
    that they reach. It counts as long as that test file and everything that is not a test
    file (`conftest.py`, helpers, sources) is the same, byte for byte.

    Args:
        tree: the copy in which tests run.
        directory: where to keep it, below the checkout; git ignores it.
        slow: whether the tests marked slow count.
    """

    def __init__(self, tree: Tree, directory: Path, *, slow: bool) -> None:
        self._tree = tree
        self._directory = directory
        self._slow = slow
        self._common = hashlib.sha256(b"slow" if slow else b"quick")
        for path in sorted(tree.path.rglob("*.py")):
            name = str(path.relative_to(tree.path))
            is_test = name.startswith("tests/") and path.name.startswith("test_")
            if not is_test and not name.startswith("tests/mutants/"):
                self._common.update(name.encode() + b"\0" + _digest(path))

    def baseline(self, file: str, tests: Sequence[str]) -> Baseline:
        """The seconds of a file's tests, and which of its lines each of them reaches.

        Raises:
            BrokenRun: one of them fails, or none reaches a line.
        """
        missing = [test for test in tests if not self._kept(test).is_file()]
        if missing:
            self._measure(missing)
        seconds: dict[str, float] = {}
        reached: dict[int, set[str]] = {}
        for test in tests:
            kept = json.loads(self._kept(test).read_text())
            seconds |= kept["seconds"]
            for name, lines in kept["reached"].get(file, {}).items():
                for line in lines:
                    reached.setdefault(line, set()).add(name)
        if not reached:
            raise BrokenRun(f"{file}: none of {', '.join(tests)} reaches a line of it")
        return Baseline(seconds, reached)

    def _kept(self, test: str) -> Path:
        common = self._common.copy()
        common.update(_digest(self._tree.path / test))
        return self._directory / f"{_name_of(test)}-{common.hexdigest()[:16]}.json"

    def _measure(self, tests: Sequence[str]) -> None:
        tree = self._tree.path
        settings, data = tree.parent / "coverage.ini", tree.parent / "coverage.data"
        settings.write_text(f"[run]\nsource = {tree}\nomit = {tree}/tests/*\ndata_file = {data}\n")
        arguments = [
            "--cov", f"--cov-config={settings}", "--cov-context=test", "--cov-report=",
            *(() if self._slow else ("-m", "not slow")), "-x", *tests,
        ]  # fmt: skip
        answer = self._tree.pytest(arguments, None, _BASELINE_SECONDS)
        if answer is None or answer["failed"] is not None:
            raise BrokenRun(f"{', '.join(tests)}: fail unchanged\n{self._tree.output()}")
        kept: dict[str, dict[str, Any]] = {test: {"seconds": {}, "reached": {}} for test in tests}
        for name, seconds in answer["seconds"].items():
            kept[name.partition("::")[0]]["seconds"][name] = seconds
        measured = CoverageData(str(data))
        measured.read()
        for source in measured.measured_files():
            file = str(Path(source).relative_to(tree))
            for line, contexts in measured.contexts_by_lineno(source).items():
                for name in {context.rpartition("|")[0] for context in contexts if context}:
                    reached = kept[name.partition("::")[0]]["reached"].setdefault(file, {})
                    reached.setdefault(name, []).append(line)
        self._directory.mkdir(exist_ok=True)
        for test in tests:
            for old in self._directory.glob(f"{_name_of(test)}-*.json"):
                old.unlink()
            self._kept(test).write_text(json.dumps(kept[test]))


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def run_file(
    tree: Tree,
    file: str,
    tests: Sequence[str],
    *,
    measured: Measured,
    count: int,
    seed: int,
    budget_seconds: float,
    equivalent: Sequence[dict[str, object]],
) -> Iterator[Result]:
    """Try a sample of the mutants of a file, one after the other.

    Raises:
        BrokenRun: the tests fail without a change.
    """
    path = tree.path / file
    source = path.read_bytes()
    chosen = sample(mutants(source), count, seed)
    known = measured.baseline(file, tests)
    try:
        for one in chosen[:CONTROLS]:
            path.write_bytes(source + b"\n# A control.\n")
            status, by, _ = _try(tree, known, one, min(budget_seconds, _CONTROL_SECONDS))
            if status != SURVIVED:
                raise BrokenRun(f"{file}: {by or status} without any change\n{tree.output()}")
        for one in chosen:
            if is_equivalent(file, one, equivalent):
                yield Result(one, EQUIVALENT, None, 0.0)
                continue
            path.write_bytes(one.apply(source))
            yield Result(one, *_try(tree, known, one, budget_seconds))
    finally:
        path.write_bytes(source)


def _try(
    tree: Tree, known: Baseline, mutant: Mutant, budget_seconds: float
) -> tuple[str, str | None, float]:
    names = known.tests_for(mutant, budget_seconds)
    expected = sum(known.seconds.get(name, 0.0) for name in names)
    files = list(dict.fromkeys(name.partition("::")[0] for name in names))
    began = time.monotonic()
    answer = tree.pytest(["-x", *files], names, _LEAST_SECONDS + 4 * expected)
    seconds = round(time.monotonic() - began, 1)
    if answer is None:
        return TIMED_OUT, None, seconds
    return (KILLED if answer["failed"] else SURVIVED), answer["failed"], seconds  # type: ignore[return-value]


def is_equivalent(file: str, mutant: Mutant, listed: Sequence[dict[str, object]]) -> bool:
    """Whether a person has judged that a change changes nothing."""
    described = {
        "file": file,
        "line": mutant.text,
        "column": mutant.column,
        "old": mutant.old,
        "new": mutant.new,
    }
    return any(described.items() <= one.items() for one in listed)


# --- the table --------------------------------------------------------------------------------


def row(file: str, results: Sequence[Result]) -> str:
    """A line of the table in docs/testing.md."""
    counts = Counter(result.status for result in results)
    killed = counts[KILLED] + counts[TIMED_OUT]
    judged = killed + counts[SURVIVED]
    score = f"{100 * killed // judged} %" if judged else "none"
    return f"| {file} | {judged + counts[EQUIVALENT]} | {killed} | {counts[EQUIVALENT]} | {score} |"


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """The command; 0 when no mutant survived, 1 when one did, 2 when nothing can be said."""
    parser = argparse.ArgumentParser(description="See which small wrong changes the tests notice.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="source files, from the root")
    parser.add_argument("--count", type=int, default=COUNT, help="mutants a file")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--quick", action="store_true", help="without the tests marked slow")
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds a mutant")
    parser.add_argument("--json", type=Path, help="also write each result here, a line each")
    options = parser.parse_args(arguments)
    declared = tomllib.loads((root / "tests/mutants/tests.toml").read_text())["tests"]
    equivalent = tomllib.loads((root / "tests/mutants/equivalent.toml").read_text())["mutant"]
    rows, survived = [], 0
    with copied(root) as path:
        tree = Tree(path)
        measured = Measured(tree, root / KEPT, slow=not options.quick)
        for file in options.files:
            tests = tests_of(file, declared, root)
            if not tests:
                print(f"{file}: tests.toml names no tests for it", file=sys.stderr)
                return 2
            results = []
            try:
                for result in run_file(
                    tree, file, tests, measured=measured, count=options.count,
                    seed=options.seed, budget_seconds=options.budget, equivalent=equivalent,
                ):  # fmt: skip
                    results.append(result)
                    _tell(file, result)
                    if options.json:
                        with options.json.open("a") as out:
                            record = dataclasses.asdict(result)
                            out.write(json.dumps({"file": file, **record}) + "\n")
            except BrokenRun as error:
                print(error, file=sys.stderr)
                return 2
            survived += sum(result.status == SURVIVED for result in results)
            rows.append(row(file, results))
            print(rows[-1], flush=True)
    print("\n| file | mutants | killed | equivalent | score |\n|---|---|---|---|---|")
    print("\n".join(rows))
    return 1 if survived else 0


def _tell(file: str, result: Result) -> None:
    one = result.mutant
    detail = f" by {result.by}" if result.by else ""
    print(
        f"{file}:{one.first}: {result.status}{detail} ({result.seconds} s): {one.kind}: "
        f"{one.old!r} -> {one.new!r}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
