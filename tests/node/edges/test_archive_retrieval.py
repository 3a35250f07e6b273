"""Bringing studies from an archive that does as a test wants; Orthanc: `nodes/test_indexed`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from archives_made import archive
from arrivals_made import bring, part10
from clocks_made import MadeClock
from facility_in_memory import entries
from indexed_made import NOW, STUDY, indexed, look

from node import parts
from node.app import Node
from node.edges import archive_retrieval
from node.edges.archive_queue import SENT, TAKEN
from node.edges.archive_retrieval import FAILED, HERE, UNDER_WAY, Retrievals
from node.edges.indexing import Given
from node.errors import ExitCode, NodeError
from node.home import Home
from node.images.arrivals import Arrivals
from node.images.spool import Spool

SOUTH, WEST = b"south".ljust(32), b"west".ljust(32)
SECONDS = 20


class Pacs:
    """An archive.

    Attributes:
        has: how many images of each study it gives.
        failed: how many it says it could not give.
        error: raised in place of an answer.
        asked: the studies that it was asked for.
        may_answer: it waits for this before it gives anything.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self.has = {STUDY: 3}
        self.failed = 0
        self.error: Exception | None = None
        self.asked: list[str] = []
        self.may_answer = trio.Event()
        self.may_answer.set()
        self._arrivals = arrivals

    async def give(self, study: str, *, stat: bool) -> Given:
        del stat
        self.asked.append(study)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        contents = [part10(number, study=study) for number in range(1, self.has[study] + 1)]
        await bring(self._arrivals, contents, source="dimse:PACS")
        return Given(len(contents), self.failed)


@asynccontextmanager
async def _site(tmp_path: Path) -> AsyncIterator[tuple[Node, Pacs, Retrievals]]:
    home = Home.create(tmp_path / "north", name="North", clock=MadeClock(NOW * 1000))
    with Node.open(home) as node:
        settings = archive(104, rules=[], index_days=10, sends_as="PACS")
        node.archive_queue.archives = settings
        spool = Spool(home.arrivals_path, node.store.require_free)
        arrivals = parts.arrivals_of(node, spool)
        pacs = Pacs(arrivals)
        made = Retrievals(
            {"PACS": (settings["PACS"], lambda: pacs)},  # type: ignore[dict-item, return-value]
            node.indexed,
            node.catalog,
            arrivals.pack_now,
            node.audit.append,
            node.clock,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrivals.run)
            nursery.start_soon(made.run)
            yield node, pacs, made
            nursery.cancel_scope.cancel()
        spool.close()


def test_it_is_brought_once_for_all_who_want_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with _site(tmp_path) as (node, pacs, made):
            look(node, indexed())
            pacs.may_answer = trio.Event()
            first = await made.bring(STUDY, peer=SOUTH, seconds=0)
            assert first is not None
            assert first.state == UNDER_WAY
            second = await made.bring(STUDY, peer=WEST, seconds=0)
            assert second is first
            pacs.may_answer.set()
            third = await made.bring(STUDY, peer=SOUTH, seconds=SECONDS)
            assert third is first
            assert first.state == HERE
            assert pacs.asked == [STUDY]
            # All of it is here now: there is nothing to bring.
            assert await made.bring(STUDY, peer=SOUTH, seconds=0) is None
            [entry] = entries(node, "retrieve-begun")
            assert (entry["details"], entry["peer"]) == ({"archive": "PACS"}, SOUTH.hex())
            # Only the proof is missing that the archive has it, so that it may go again.
            [row] = node.archive_queue.of_study(STUDY)
            assert row.state == SENT
            known = node.archive_queue.instances(STUDY, "PACS")
            assert {one.state for one in known.values()} == {TAKEN}
            assert known.keys() == node.catalog.held_instances(STUDY).keys()

    trio.run(main)


def test_what_no_archive_has_is_not_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with _site(tmp_path) as (node, pacs, made):
            assert await made.bring(STUDY, peer=SOUTH, seconds=0) is None
            look(node, indexed(), archive="GONE")
            assert await made.bring(STUDY, peer=SOUTH, seconds=0) is None
            assert pacs.asked == []

    trio.run(main)


def test_what_is_urgent_goes_first(tmp_path: Path) -> None:
    studies = [f"{STUDY}.{number}" for number in range(4)]

    async def main() -> None:
        async with _site(tmp_path) as (node, pacs, made):
            pacs.has = dict.fromkeys(studies, 3)
            look(node, *(indexed(one) for one in studies))
            pacs.may_answer = trio.Event()
            for one in studies[:3]:
                await made.bring(one, peer=SOUTH, seconds=0)
            await trio.testing.wait_all_tasks_blocked()
            await made.bring(studies[3], peer=WEST, stat=True, seconds=0)
            # One that waits already becomes urgent.
            await made.bring(studies[2], peer=WEST, stat=True, seconds=0)
            pacs.may_answer.set()
            for one in studies:
                await made.bring(one, peer=WEST, seconds=SECONDS)
            assert pacs.asked == [studies[0], studies[2], studies[3], studies[1]]

    trio.run(main)


def test_a_part_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with _site(tmp_path) as (node, pacs, made):
            look(node, indexed(instances=5))
            pacs.failed = 2
            found = await made.bring(STUDY, peer=SOUTH, seconds=SECONDS)
            assert found is not None
            assert found.state == FAILED
            assert "gives 3 of 5 images" in found.why
            assert "radmesh archive retrieve STUDY" in found.why
            # It goes to the process log, too.
            assert STUDY not in found.why
            # A part is here, and the peer does not get it.
            assert node.catalog.is_here(STUDY)
            again = await made.bring(STUDY, peer=SOUTH, seconds=0)
            assert again is found
            # A person sees how many are missing, and takes it as it is.
            mine = await made.bring(STUDY, seconds=SECONDS)
            assert mine is not None
            assert (mine.state, mine.why) == (HERE, "2 of 5 images did not come")
            assert await made.bring(STUDY, peer=SOUTH, seconds=0) is None
            # The archive has got more: that is brought, and with it all.
            look(node, indexed(instances=6))
            pacs.has[STUDY], pacs.failed = 6, 0
            grown = await made.bring(STUDY, peer=SOUTH, seconds=SECONDS)
            assert grown is not None
            assert grown.state == HERE
            assert len(node.catalog.held_instances(STUDY)) == 6
            known = node.archive_queue.instances(STUDY, "PACS")
            assert known.keys() == node.catalog.held_instances(STUDY).keys()

    trio.run(main)


@pytest.mark.parametrize(
    ("has", "error", "why"),
    [
        (3, NodeError("the archive PACS is asleep", code=ExitCode.UNREACHABLE), "is asleep"),
        (0, None, "it gives no image of it"),
        (3, RuntimeError("a fault"), "a fault of this node: RuntimeError"),
    ],
)
def test_an_archive_that_does_not_give_it_rests(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has: int,
    error: Exception | None,
    why: str,
) -> None:
    async def main() -> None:
        async with _site(tmp_path) as (node, pacs, made):
            look(node, indexed())
            pacs.has[STUDY], pacs.error = has, error
            found = await made.bring(STUDY, peer=SOUTH, seconds=SECONDS)
            assert found is not None
            assert found.state == FAILED
            assert why in found.why
            for _ in range(3):
                assert await made.bring(STUDY, peer=SOUTH, seconds=0) is found
            assert len(pacs.asked) == 1
            assert not node.catalog.is_here(STUDY)
            # After its rest it is asked again; a person is not kept waiting.
            found.rests_until = trio.current_time()
            second = await made.bring(STUDY, peer=SOUTH, seconds=SECONDS)
            assert second is not None
            assert (second.state, second.tries) == (FAILED, 2)
            pacs.has[STUDY], pacs.error = 3, None
            third = await made.bring(STUDY, seconds=SECONDS)
            assert third is not None
            assert third.state == HERE
            assert node.catalog.is_here(STUDY)

    trio.run(main)


def test_images_that_the_archive_says_it_gave_are_looked_for(tmp_path: Path) -> None:
    """It sends them to another system than us: the sentence says what to look at."""

    async def main() -> None:
        async with _site(tmp_path) as (node, pacs, made):
            look(node, indexed())

            async def give(study: str, *, stat: bool) -> Given:
                return Given(3, 0)

            pacs.give = give  # type: ignore[method-assign]
            found = await made.bring(STUDY, peer=SOUTH, seconds=SECONDS)
            assert found is not None
            assert "of 3 images that it says it has given, none is here" in found.why

    trio.run(main)


def test_one_peer_does_not_fill_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = [f"{STUDY}.{number}" for number in range(archive_retrieval.MOST_OF_ONE + 2)]

    async def main() -> None:
        async with _site(tmp_path) as (node, pacs, made):
            pacs.has = dict.fromkeys(studies, 1)
            look(node, *(indexed(one) for one in studies))
            pacs.may_answer = trio.Event()

            async def want(peer: bytes, some: Sequence[str]) -> None:
                for one in some:
                    await made.bring(one, peer=peer, seconds=0)

            await want(SOUTH, studies[:-2])
            with pytest.raises(NodeError, match="too many") as raised:
                await want(SOUTH, studies[-1:])
            assert raised.value.code is ExitCode.BUSY
            await want(WEST, studies[-2:-1])
            # What is wanted already is not counted anew.
            await want(SOUTH, studies[:1])
            pacs.may_answer.set()
            for one in studies[:-1]:
                await made.bring(one, peer=WEST, seconds=SECONDS)
            # A day has its bound, too.
            monkeypatch.setattr(archive_retrieval, "MOST_A_DAY", len(studies) - 2)
            with pytest.raises(NodeError, match="too many"):
                await want(SOUTH, studies[-1:])
            await want(WEST, studies[-1:])

    trio.run(main)
