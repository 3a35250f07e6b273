"""Asking an archive day by day: how much at once, what an answer misses, and when it is away."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from archives_made import archive
from clocks_made import MadeClock
from indexed_made import NOW, indexed
from network_nodes import until

from edges.dimse import querying as q
from node.app import Node
from node.clock import local_date
from node.edges import archiving
from node.edges.indexing import Days, Indexing, Listed, indexed_study
from node.errors import ExitCode, NodeError
from node.home import Home

ROOT = "1.2.826.0.1.3680043.8.498.9"


class Pacs:
    """An archive with studies of some days, which reads no more of one answer than it should.

    Attributes:
        has: study (UID) to day.
        most: studies that one answer has.
        error: raised in place of an answer.
        asked: the days of each question.
    """

    def __init__(self) -> None:
        self.has: dict[str, str] = {}
        self.most = 5000
        self.error: NodeError | None = None
        self.asked: list[tuple[str, str]] = []

    async def studies(self, asked: Sequence[Days]) -> AsyncGenerator[Listed, None]:
        for days in asked:
            await trio.lowlevel.checkpoint()
            if self.error is not None:
                raise self.error
            self.asked.append((days.first, days.last))
            found = [uid for uid, day in sorted(self.has.items()) if day in days.each]
            told = [indexed(uid, day=self.has[uid]) for uid in found[: self.most]]
            yield Listed(days, tuple(told), is_all=len(told) == len(found))


@asynccontextmanager
async def _indexing(tmp_path: Path, pacs: Pacs, days: int) -> Any:
    home = Home.create(tmp_path / "north", name="North", clock=MadeClock(NOW * 1000))
    with Node.open(home) as node:
        settings = archive(104, rules=[], index_days=days)
        made = Indexing(
            {"PACS": (settings["PACS"], lambda: pacs)},  # type: ignore[dict-item, return-value]
            node.indexed,
            node.clock,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield node, made
            nursery.cancel_scope.cancel()


def _day(ago: int) -> str:
    today = datetime.strptime(local_date(NOW), "%Y%m%d")
    return (today - timedelta(days=ago)).strftime("%Y%m%d")


def _known(node: Node) -> set[str]:
    return {row.study_uid for row in node.catalog.studies()}


def _is_done(made: Indexing) -> bool:
    told = made.describe()["PACS"]
    return bool(told["looked"]) and not told["days_left"]


def test_all_days_are_asked_for_each_once(tmp_path: Path) -> None:
    pacs = Pacs()
    pacs.has = {f"{ROOT}.{ago}": _day(ago) for ago in (-1, 0, 1, 29, 30, 99, 100)}

    async def main() -> None:
        async with _indexing(tmp_path, pacs, 100) as (node, made):
            await until(lambda: _is_done(made))
            # Of tomorrow, too: clocks differ. What is older is not asked for.
            assert _known(node) == {one for one in pacs.has if one != f"{ROOT}.100"}

    trio.run(main)
    whole = pacs.asked[:4]
    assert whole[0][1] == _day(-1)
    assert whole[-1][0] == _day(99)
    covered = [
        _day(ago) for first, last in whole for ago in range(-1, 100) if first <= _day(ago) <= last
    ]
    assert covered == [_day(ago) for ago in range(-1, 100)]


def test_an_answer_with_too_many_is_asked_for_in_halves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pacs = Pacs()
    pacs.most = 2
    pacs.has = {f"{ROOT}.{ago}.{number}": _day(ago) for ago in range(20) for number in range(2)}
    crowded = _day(7)
    pacs.has[f"{ROOT}.7.9"] = crowded

    async def main() -> None:
        async with _indexing(tmp_path, pacs, 20) as (node, made):
            await until(lambda: _is_done(made))
            # All but one of the day that has more than are read.
            assert _known(node) == pacs.has.keys() - {f"{ROOT}.7.9"}
            # Of such a day none is missed.
            del pacs.has[f"{ROOT}.7.1"]
            for _ in range(3):
                made.look_now()
                await until(lambda: _is_done(made))
            assert f"{ROOT}.7.1" in _known(node)

    trio.run(main)
    assert "more studies of one day than are read" in caplog.text


def test_an_archive_that_is_away_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "FIRST_PAUSE_SECONDS", 0.01)
    pacs = Pacs()
    pacs.has = {ROOT: _day(1)}

    async def main() -> None:
        async with _indexing(tmp_path, pacs, 10) as (node, made):
            await until(lambda: _is_done(made))
            pacs.error = NodeError("PACS cannot be reached", code=ExitCode.UNREACHABLE)
            made.look_now()
            await until(lambda: made.describe()["PACS"]["trouble"])
            for _ in range(3):
                made.look_now()
                await trio.testing.wait_all_tasks_blocked(0.05)
            assert made.describe()["PACS"]["trouble"] == "PACS cannot be reached"
            assert _known(node) == {ROOT}
            pacs.error, pacs.has = None, {}
            made.look_now()
            await until(lambda: not made.describe()["PACS"]["trouble"])
            await until(lambda: _is_done(made))
            made.look_now()
            await until(lambda: _known(node) == set())

    trio.run(main)


DAYS = Days(("20260302", "20260301"))
TOLD = {q.STUDY: ROOT, q.STUDY_DATE: "20260301", q.STUDY_INSTANCES: "7", q.STUDY_SERIES: " 2 "}


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (q.STUDY, ""),
        (q.STUDY, "1.2.x"),
        (q.STUDY, "1." * 40),
        (q.STUDY_DATE, ""),
        (q.STUDY_DATE, "20260228"),
        (q.STUDY_DATE, "2026-03-01"),
    ],
)
def test_what_is_no_study_of_these_days_is_left_out(tag: int, text: str) -> None:
    told = {**TOLD, tag: text}
    assert indexed_study(lambda one: told.get(one, ""), DAYS) is None


def test_what_an_archive_writes_is_read_with_care() -> None:
    told = {
        **TOLD,
        q.STUDY_MODALITIES: "CT\\ct\\SR\\" + "X" * 17,
        q.PATIENT_NAME: "Doe^J\x00ohn" + "n" * 400,
        q.BIRTH_DATE: "1970",
    }
    found = indexed_study(lambda one: told.get(one, ""), DAYS)
    assert found is not None
    assert (found.series, found.instances, found.modalities) == (2, 7, ("CT", "SR"))
    assert found.about.patient_name.startswith("Doe^J ohn")
    assert len(found.about.patient_name) <= 256
    assert found.about.patient_birth_date == ""
    told[q.STUDY_INSTANCES] = "many"
    found = indexed_study(lambda one: told.get(one, ""), DAYS)
    assert found is not None
    assert found.instances == 0
