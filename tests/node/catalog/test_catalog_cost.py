"""What a question costs the database, in steps of SQLite's machine and not in seconds."""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from catalogs_made import fill, publish, study_uid
from sight_made import SightMade

from node.app import Node
from node.home import Home

PEERS = [bytes([number]) * 32 for number in range(5)]
SMALL, LARGE = 60, 600
UNIT_STEPS = 20


class Costs:
    """A node with so many studies, told to five peers; counts steps."""

    def __init__(self, node: Node, studies: int) -> None:
        self.node = node
        self.studies = studies
        fill(node, studies, 1)
        node.feeds.sight = SightMade(PEERS)
        node.catalog.in_change = lambda study: None
        for peer in PEERS:
            node.feeds.peer_changed(peer)
            pending = node.feeds.pending(peer, bytes(16), 0)
            while pending.more:
                pending = node.feeds.pending(peer, pending.epoch, pending.cursor)
        self.epoch, self.cursor = pending.epoch, pending.cursor

    def of(self, action: Callable[[], Any]) -> int:
        """Steps that it takes, in units of `UNIT_STEPS`."""
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        def counted(connection: sqlite3.Connection) -> None:
            nonlocal steps
            steps = 0
            connection.set_progress_handler(step, UNIT_STEPS)
            try:
                action()
            finally:
                connection.set_progress_handler(None, 0)

        self.node.database.transact(counted)
        return steps


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Costs, Costs]]:
    path = tmp_path_factory.mktemp("costs")
    with (
        Node.open(Home.create(path / "small", name="Small")) as small,
        Node.open(Home.create(path / "large", name="Large")) as large,
    ):
        yield Costs(small, SMALL), Costs(large, LARGE)


def _study_changed(costs: Costs) -> Callable[[], None]:
    publish(costs.node.catalog, costs.studies, 1)
    return lambda: costs.node.feeds.study_changed(study_uid(costs.studies))


QUESTIONS: dict[str, Callable[[Costs], Callable[[], Any]]] = {
    "a study changed": _study_changed,
    "nothing new": lambda one: lambda: one.node.feeds.pending(PEERS[-1], one.epoch, one.cursor),
    "the last ten": lambda one: (
        lambda: one.node.feeds.pending(PEERS[-1], one.epoch, one.cursor - 10)
    ),
    "the newest studies": lambda one: lambda: one.node.catalog.studies(limit=20),
    "a study by its UID": lambda one: lambda: one.node.catalog.find_study(study_uid(7)),
    "by accession number": lambda one: lambda: one.node.catalog.find_study("ACC0000007"),
    "by its beginning": lambda one: lambda: one.node.catalog.find_study(study_uid(7)[:-1] + "7"),
}


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_cost_does_not_follow_the_catalog(costs: tuple[Costs, Costs], question: str) -> None:
    small, large = (one.of(QUESTIONS[question](one)) for one in costs)
    assert large <= 2 * small + 5


@pytest.mark.slow
def test_the_count_counts(costs: tuple[Costs, Costs]) -> None:
    """A walk over all studies is seen by the measure above."""
    small, large = (
        one.of(lambda one=one: one.node.database.query("SELECT max(series_count) FROM studies"))
        for one in costs
    )
    assert large > 5 * small
