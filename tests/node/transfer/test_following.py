"""When a study that grows at its source is fetched again, and when not."""

import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trio
import trio.testing
from clocks_made import MadeClock, jumps_when_idle
from facility_in_memory import entries, publish_study, waiting_fetcher
from following_made import NORTH, STUDY, fetched, hear, record, root
from two_in_memory import TwoNodes, two_nodes

from node.app import Node
from node.home import Home
from node.transfer.fetching import Fetcher
from node.transfer.followed import FOLLOW_RESERVE_BYTES
from node.transfer.following import (
    AT_ONCE,
    LOOK_SECONDS,
    PATIENCE_SECONDS,
    QUIET_SECONDS,
    Follower,
)
from node.transfer.transfers import Transfer, TransferState
from protocol.log.entry import Event, subjects_of


@pytest.fixture
def node(tmp_path: Path, mock_clock: trio.testing.MockClock) -> Iterator[Node]:
    home = Home.create(tmp_path / "south", name="South", clock=MadeClock())
    with Node.open(home) as node:
        NORTH.pair(node)
        yield node


@dataclass
class Running:
    """A follower at work, with a fetcher whose peers never come."""

    node: Node
    free: int = 2 * FOLLOW_RESERVE_BYTES
    in_doubt: bool = False
    is_trusted: bool = True
    follower: Follower = field(init=False)
    fetcher: Fetcher = field(init=False)

    def __post_init__(self) -> None:
        self.fetcher = waiting_fetcher(self.node)
        self.follower = Follower(
            followed=self.node.followed,
            fetcher=self.fetcher,
            transfers=self.node.transfers,
            find=lambda key: self.node.find_peer(key) if self.is_trusted else None,
            free_bytes=lambda: self.free,
            in_doubt=lambda: self.in_doubt,
        )
        self.node.transfers.on_end = self.follower.poke

    async def hear(self, number: int, kind: str = "changed") -> None:
        """North announces, as to a serving node."""
        await in_thread(hear, self.node, number, kind)
        self.follower.heard(NORTH.key, [record(number, kind)])

    @property
    def follow_ups(self) -> list[Transfer]:
        return [one for one in self.node.transfers.active.values() if one.follow_up]


@contextlib.asynccontextmanager
async def running(node: Node, clock: trio.testing.MockClock, **more: Any) -> AsyncIterator[Running]:
    """A follower that has looked once."""
    made = Running(node, **more)
    with jumps_when_idle(clock):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.fetcher.run)
            await trio.sleep(0.01)
            nursery.start_soon(made.follower.run)
            await trio.sleep(0.01)
            yield made
            nursery.cancel_scope.cancel()


async def in_thread(work: Any, *arguments: Any, **more: Any) -> Any:
    return await trio.to_thread.run_sync(lambda: work(*arguments, **more))


@pytest.fixture
def followed(node: Node) -> Node:
    """South follows North."""
    fetched(node)
    return node


async def test_a_study_that_grows_image_by_image_comes_when_its_source_is_quiet(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    async with running(followed, mock_clock) as run:
        for number in range(3, 7):
            await run.hear(number)
            await trio.sleep(QUIET_SECONDS - 0.5)
            assert run.follow_ups == []
        await trio.sleep(0.6)
        [follow_up] = run.follow_ups
        assert (follow_up.study, follow_up.peer) == (STUDY, NORTH.key)
        assert (follow_up.purpose, follow_up.only_peer, follow_up.stat) == ("research", True, True)
        assert (follow_up.wanted_root, follow_up.follow) == (root(6), True)


async def test_a_study_that_never_is_quiet_comes_all_the_same(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    async with running(followed, mock_clock) as run:
        number = 3
        began = trio.current_time()
        while not run.follow_ups:
            await run.hear(number)
            number += 1
            await trio.sleep(QUIET_SECONDS / 2)
        waited = trio.current_time() - began
        assert PATIENCE_SECONDS <= waited <= PATIENCE_SECONDS + QUIET_SECONDS


async def test_what_came_while_the_node_was_down_comes_after_its_start(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    await in_thread(hear, followed, 3)
    async with running(followed, mock_clock) as run:
        await trio.sleep(QUIET_SECONDS + 0.1)
        assert len(run.follow_ups) == 1


async def test_no_second_fetch_of_a_study_that_is_being_fetched(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    async with running(followed, mock_clock) as run:
        peer = followed.find_peer(NORTH.key)
        assert peer is not None
        person = await run.fetcher.start(STUDY, peer, "treatment", only_peer=False)
        await run.hear(3)
        await trio.sleep(LOOK_SECONDS)
        assert run.follow_ups == []
        # That it is over is told, and what it has not brought comes now.
        await run.fetcher.stop(person, "for a test")
        await trio.sleep(0.1)
        assert len(run.follow_ups) == 1
        await run.hear(4)
        await trio.sleep(LOOK_SECONDS)
        assert len(run.follow_ups) == 1


async def test_not_many_follow_ups_of_one_source_at_once(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    def many() -> None:
        def change(connection: sqlite3.Connection) -> None:
            for number in range(AT_ONCE + 2):
                for table in ("studies", "followed_sources", "remote_studies"):
                    column = "study_uid" if table == "studies" else "study"
                    columns = [
                        row["name"] for row in connection.execute(f"PRAGMA table_info({table})")
                    ]
                    chosen = ", ".join("?1" if one == column else one for one in columns)
                    connection.execute(
                        f"INSERT INTO {table} SELECT {chosen} FROM {table} WHERE {column} = ?2",
                        (f"1.2.{number}", STUDY),
                    )

        followed.database.transact(change)

    await in_thread(hear, followed, 3)
    await in_thread(many)
    async with running(followed, mock_clock) as run:
        await trio.sleep(QUIET_SECONDS + 0.1)
        assert len(run.follow_ups) == AT_ONCE
        await run.fetcher.stop(run.follow_ups[0], "for a test")
        await trio.sleep(0.1)
        assert len(run.follow_ups) == AT_ONCE


async def test_without_room_nothing_is_fetched_that_nobody_asked_for_and_that_is_said(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    async with running(followed, mock_clock, free=FOLLOW_RESERVE_BYTES) as run:
        await run.hear(3)
        followed.database.transact(
            lambda connection: connection.execute("UPDATE studies SET original_bytes = 0")
        )
        run.follower._heard = None
        await trio.sleep(LOOK_SECONDS)
        assert run.follow_ups == []
        assert [one.study for one in run.follower.without_room()] == [STUDY]
        run.free += 3000
        await trio.sleep(LOOK_SECONDS)
        assert len(run.follow_ups) == 1
        assert run.follower.without_room() == []


async def test_what_is_withdrawn_meanwhile_waits_for_no_room(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    async with running(followed, mock_clock, free=0) as run:
        await run.hear(3)
        await trio.sleep(QUIET_SECONDS + 1)
        assert len(run.follower.without_room()) == 1
        await run.hear(4, "withdrawn")
        await trio.sleep(2 * LOOK_SECONDS)
        assert run.follower.without_room() == []


@pytest.mark.parametrize("begin", [1024 - random.Random(n).uniform(0, 300) for n in range(50)])
def test_it_looks_once_in_each_interval_whenever_it_began(begin: float) -> None:
    """Also where a sum of moments is rounded: a simulated clock stands still while it spins."""
    looks: list[float] = []

    async def look() -> None:
        looks.append(trio.current_time())
        assert len(looks) < 10

    async def main() -> None:
        clock.jump(begin)
        follower = Follower(
            followed=Mock(),
            fetcher=Mock(),
            transfers=Mock(),
            find=Mock(),
            free_bytes=Mock(),
            in_doubt=Mock(),
        )
        follower._heard = {}
        follower._look = look  # type: ignore[method-assign]
        with trio.move_on_after(3.5 * LOOK_SECONDS):
            await follower.run()

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)
    assert len(looks) == 4


@pytest.mark.parametrize("why", ["in_doubt", "is_trusted"])
async def test_nothing_is_fetched_with_a_log_in_doubt_or_from_who_is_not_trusted(
    followed: Node, mock_clock: trio.testing.MockClock, why: str
) -> None:
    async with running(followed, mock_clock, **{why: why == "in_doubt"}) as run:
        await run.hear(3)
        await trio.sleep(2 * LOOK_SECONDS)
        assert run.follow_ups == []
        run.in_doubt, run.is_trusted = False, True
        await trio.sleep(LOOK_SECONDS + QUIET_SECONDS + 1)
        assert len(run.follow_ups) == 1, "within the day it comes when that is over"


async def test_a_follow_up_that_nobody_wants_any_more_is_stopped(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    async with running(followed, mock_clock) as run:
        await run.hear(3)
        await trio.sleep(QUIET_SECONDS + 0.1)
        [follow_up] = run.follow_ups
        await run.hear(4, "withdrawn")
        with trio.fail_after(5):
            await follow_up.over.wait()
        assert follow_up.state is TransferState.CANCELLED
        assert follow_up.why == "the study is not followed any more"


async def test_more_names_than_are_kept_are_looked_up_with_the_rest(
    followed: Node, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.transfer.following.HEARD", 3)
    async with running(followed, mock_clock) as run:
        await in_thread(hear, followed, 3)
        other = replace(record(3), study="1.2.3")
        run.follower.heard(
            NORTH.key, [replace(other, study=f"1.2.{number}") for number in range(4)]
        )
        run.follower.heard(NORTH.key, [other])
        await trio.sleep(QUIET_SECONDS + 0.1)
        assert len(run.follow_ups) == 1


# --- a person asks for what is a follow-up ------------------------------------------------


@pytest.mark.parametrize("follow", [True, False])
async def test_a_follow_up_becomes_the_fetch_of_who_asks_for_it(
    followed: Node, mock_clock: trio.testing.MockClock, follow: bool
) -> None:
    async with running(followed, mock_clock) as run:
        await run.hear(3)
        await trio.sleep(QUIET_SECONDS + 0.1)
        [follow_up] = run.follow_ups
        peer = followed.find_peer(NORTH.key)
        assert peer is not None
        theirs = await run.fetcher.start(STUDY, peer, "research", only_peer=True, follow=follow)
        assert theirs is follow_up
        assert (theirs.follow_up, theirs.follow) == (False, follow)
        [kept] = followed.transfers.unfinished_incoming()
        assert (kept.follow_up, kept.follow) == (False, follow)
        assert followed.followed.is_followed(STUDY, NORTH.key) is follow
        # It does not become a follow-up again when it is joined once more.
        again = await run.fetcher.start(STUDY, peer, "treatment", only_peer=True, follow=follow)
        assert again is theirs
        assert not again.is_ended


async def test_a_follow_up_for_another_purpose_is_not_joined(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    async with running(followed, mock_clock) as run:
        await run.hear(3)
        await trio.sleep(QUIET_SECONDS + 0.1)
        [follow_up] = run.follow_ups
        peer = followed.find_peer(NORTH.key)
        assert peer is not None
        theirs = await run.fetcher.start(STUDY, peer, "treatment", only_peer=True)
        assert theirs is not follow_up
        assert follow_up.state is TransferState.CANCELLED
        assert (theirs.purpose, theirs.follow_up, theirs.is_ended) == ("treatment", False, False)
        assert followed.followed.is_followed(STUDY, NORTH.key)


async def test_a_cancelled_follow_up_is_the_last(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    async with running(followed, mock_clock) as run:
        await run.hear(3)
        await trio.sleep(QUIET_SECONDS + 0.1)
        [follow_up] = run.follow_ups
        await run.fetcher.cancel(follow_up)
        assert follow_up.why == "by an operator"
        await run.hear(4)
        await trio.sleep(LOOK_SECONDS)
        assert run.follow_ups == []


# --- over a crash, and behind what ended it -----------------------------------------------


async def test_a_follow_up_that_was_published_when_the_node_died_counts_as_complete(
    followed: Node, mock_clock: trio.testing.MockClock
) -> None:
    def publish_and_die() -> None:
        hear(followed, 3)
        follow_up = followed.transfers.begin_incoming(
            STUDY, NORTH.key, "research", only_peer=True, stat=True, follow=True, follow_up=True
        )
        trio.run(followed.transfers.enter, follow_up, TransferState.VERIFYING)
        publish_study(followed, instances=3)
        [row] = followed.catalog.studies()
        followed.audit.append(
            Event(
                type="received",
                peer=NORTH.key,
                subjects=subjects_of(STUDY, ()),
                details={
                    "transfer": follow_up.transfer.hex(),
                    "content_root": row.content_root.hex(),
                },
            )
        )
        followed.transfers.active.clear()

    await in_thread(publish_and_die)
    async with running(followed, mock_clock):
        assert followed.transfers.unfinished_incoming() == []
        [follow_up] = [one for one in followed.transfers.recent() if one.follow_up]
        assert follow_up.state is TransferState.COMPLETE
        assert followed.followed.growth([STUDY])[STUDY].images == 3
        # What North announces now was fetched, as far as anybody knows.
        assert followed.followed.news() == []


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    with two_nodes(tmp_path) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "is_logged"), [(1, False), (2, True)])
def test_a_follow_up_is_not_published_behind_what_ended_it(
    nodes: TwoNodes, asked: int, is_logged: bool
) -> None:
    """Ended in front of the entry, or between the entry and the transaction."""
    publish_study(nodes.north, instances=2)
    assert nodes.fetch(STUDY)
    publish_study(nodes.north, instances=4)
    answers = [True] * (asked - 1) + [False]
    south = nodes.south
    ended = nodes.follow_up(STUDY, lambda study, peer: answers.pop(0))
    assert ended is not None
    assert "is not followed any more" in ended.message
    assert answers == []
    assert south.catalog.find_study(STUDY).instance_count == 2
    assert (len(entries(south, "received")) == 2) is is_logged


@pytest.mark.slow
def test_a_follow_up_comes_as_the_rest_and_says_so_in_our_log_alone(nodes: TwoNodes) -> None:
    publish_study(nodes.north, instances=2)
    assert nodes.fetch(STUDY)
    publish_study(nodes.north, instances=4)
    south = nodes.south
    assert nodes.follow_up(STUDY, lambda study, peer: True) is None
    assert south.catalog.find_study(STUDY).content_root == (
        nodes.north.catalog.find_study(STUDY).content_root
    )
    for kind in ("requested", "received", "receipt"):
        first, second = entries(south, kind)
        assert "follow_up" not in first["details"]
        assert second["details"]["follow_up"] is True
    [first, second] = entries(nodes.north, "disclosed")
    assert first["details"].keys() == second["details"].keys()
    assert second["details"]["batches"] == 2, "what is held is not sent again"
