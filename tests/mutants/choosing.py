"""A pytest plugin for the runs of mutants: keeps the chosen tests alone, and says what came of it.

Reads a JSON file named by RADMESH_MUTANT_RUN: `tests`, names in the order in which they
run, or null for all; `report`, the file that takes the answer: `seconds` by test, and
`failed`, the first test that failed.
"""

import json
import os
from pathlib import Path

import pytest

_RUN = json.loads(Path(os.environ["RADMESH_MUTANT_RUN"]).read_text())
_SECONDS: dict[str, float] = {}
_FAILED: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _RUN["tests"] is None:
        return
    places = {name: place for place, name in enumerate(_RUN["tests"])}
    others = [item for item in items if item.nodeid not in places]
    config.hook.pytest_deselected(items=others)
    items[:] = sorted(
        (item for item in items if item.nodeid in places), key=lambda item: places[item.nodeid]
    )


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _FAILED.append(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _SECONDS[report.nodeid] = _SECONDS.get(report.nodeid, 0.0) + report.duration
    if report.failed:
        _FAILED.append(report.nodeid)


def pytest_sessionfinish() -> None:
    answer = {"seconds": _SECONDS, "failed": _FAILED[0] if _FAILED else None}
    Path(_RUN["report"]).write_text(json.dumps(answer))
