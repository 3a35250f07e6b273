"""The look at the clock each second: what has ended is cut first, and written when it can be."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from clocks_made import MadeClock, jumps_when_idle
from facility_in_memory import Other, entries, publish_study

from node.alerts import alerts_of
from node.app import Node
from node.clock import LOOK_SECONDS
from node.errors import NodeError
from node.home import Home
from node.parts import endings_of
from node.sharing import endings
from node.sharing.endings import AGAIN_SECONDS, Endings
from protocol.log.entry import Event

CLOCK = MadeClock()
SOUTH = Other("South Clinic", CLOCK.now(), expires=CLOCK.now() + 100)
EAST = Other("East Imaging", CLOCK.now())


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as node:
        SOUTH.pair(node, "see")
        EAST.pair(node, "see")
        yield node


class Cuts:
    """What the look does to peers and connections."""

    def __init__(self, node: Node, *connected: bytes) -> None:
        self.changed: list[str] = []
        self.ended: list[bytes] = []
        self.endings = Endings(
            peers=node.peers,
            studies=node.shared_studies,
            wishes=node.wishes,
            feeds=node.feeds,
            connected=lambda: connected,
            peer_changed=lambda peer: self.changed.append(peer.petname),
            node_key_ended=self.ended.append,
            clock=node.clock,
            refusals=node.refusals,
            discards=node.discards,
        )


async def test_only_what_has_ended_is_cut(north: Node) -> None:
    stranger = b"x" * 32
    cuts = Cuts(north, SOUTH.node.public, EAST.node.public, stranger)
    await cuts.endings.look()
    assert (cuts.changed, cuts.ended) == ([], [stranger])
    north.clock.move(100)  # type: ignore[attr-defined]
    cuts.ended.clear()
    await cuts.endings.look()
    assert cuts.changed == ["South Clinic"]
    assert cuts.ended == [SOUTH.node.public, stranger]
    await cuts.endings.look()
    assert cuts.changed == ["South Clinic"], "each end is told once"


async def test_it_looks_each_second(north: Node, mock_clock: trio.testing.MockClock) -> None:
    cuts, times = Cuts(north), []

    async def look() -> None:
        times.append(trio.current_time())

    cuts.endings.look = look  # type: ignore[method-assign]
    with jumps_when_idle(mock_clock):
        with trio.move_on_after(3.5 * LOOK_SECONDS):
            await cuts.endings.run()
    begin = times[0]
    assert [time - begin for time in times] == [0, LOOK_SECONDS, 2 * LOOK_SECONDS, 3 * LOOK_SECONDS]


async def test_a_feed_that_cannot_be_written_is_written_at_a_later_look(
    north: Node, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    study = publish_study(north, instances=1)
    pending = north.feeds.pending(SOUTH.key, bytes(16), 0)
    north.feeds.mark_told(SOUTH.key, pending.records)
    cuts, peer_changed = Cuts(north), north.feeds.peer_changed

    def fail(peer: bytes) -> None:
        raise NodeError("the disk is full")

    north.feeds.peer_changed = fail  # type: ignore[method-assign]
    north.clock.move(100)  # type: ignore[attr-defined]
    await cuts.endings.look()
    assert "the disk is full" in caplog.text
    assert cuts.changed == ["South Clinic"], "cutting needs no disk"
    north.feeds.peer_changed = peer_changed  # type: ignore[method-assign]
    mock_clock.jump(AGAIN_SECONDS)
    await cuts.endings.look()
    news = north.feeds.pending(SOUTH.key, pending.epoch, pending.cursor)
    assert [(one.kind, one.study) for one in news.records] == [("withdrawn", study)]
    # And what is written is not written again.
    north.feeds.peer_changed = fail  # type: ignore[method-assign]
    caplog.clear()
    mock_clock.jump(AGAIN_SECONDS)
    await cuts.endings.look()
    assert not caplog.records


@pytest.mark.parametrize("what", ["trust", "study"])
async def test_what_a_full_disk_kept_from_the_log_is_tried_again_each_five_seconds(
    north: Node, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    study = publish_study(north, instances=1)
    cuts, tries = Cuts(north), list[float]()

    def cut() -> None:
        if what == "trust":
            north.peers.revoke("South Clinic", [], 0)
        else:
            north.shared_studies.withdraw(study)

    def fail(event: Event) -> int:
        tries.append(trio.from_thread.run_sync(trio.current_time))
        raise NodeError("the disk is full")

    with jumps_when_idle(mock_clock):
        # As on a serving node: the first look is long past.
        await cuts.endings.look()
        await trio.sleep(2 * AGAIN_SECONDS)
        with monkeypatch.context() as full:
            full.setattr(north.audit, "append", fail)
            with pytest.raises(NodeError):
                await trio.to_thread.run_sync(cut)
            began, tries[:] = trio.current_time(), []
            with trio.move_on_after(2.5 * AGAIN_SECONDS):
                await cuts.endings.run()
        assert [time - began for time in tries] == [0, AGAIN_SECONDS, 2 * AGAIN_SECONDS]
        await trio.sleep(AGAIN_SECONDS)
        await cuts.endings.look()
    assert len(entries(north, "trust-revoked", "withdrawn")) == 1
    assert not north.peers.unwritten
    assert not north.shared_studies.unwritten


async def test_a_look_writes_the_counts_of_hours_that_are_over(north: Node) -> None:
    refused = [Event(type="refused", outcome="refused", peer=EAST.key)]
    logged = [north.refusals.log(EAST.key, "study", refused) for _ in range(21)]
    assert not logged[-1]
    cuts = Cuts(north)
    await cuts.endings.look()
    assert "count" not in entries(north, "refused")[-1]["details"]
    north.clock.move(3600)  # type: ignore[attr-defined]
    await cuts.endings.look()
    assert entries(north, "refused")[-1]["details"]["count"] == 1


async def test_a_look_that_finds_nothing_asks_no_thread(
    north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def note(function: object, *arguments: object) -> None:
        asked.append(function)

    monkeypatch.setattr(endings, "in_thread", note)
    cuts = Cuts(north)
    await cuts.endings.look()
    while north.refusals.log(EAST.key, "study", []):
        pass
    await cuts.endings.look()
    assert asked == []
    north.clock.move(3600)  # type: ignore[attr-defined]
    cuts.endings._underived.clear()
    await cuts.endings.look()
    assert asked[-1] == north.refusals.write


async def test_a_disk_that_has_room_again_is_noticed_without_an_entry(
    north: Node, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulator: the alert stood until the next entry, for up to a quarter hour."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as filled:
        filled.setattr(os, "pwrite", full)
        with pytest.raises(NodeError):
            north.audit.append(Event(type="checkpoint-heartbeat"))
        size = north.audit.size
        looker = endings_of(
            north,
            connected=lambda: (),
            peer_changed=lambda peer: None,
            node_key_ended=lambda key: None,
        )
        await looker.look()
        assert any("the disk is full" in alert for alert in alerts_of(north, None)), "it still is"
    await looker.look()
    assert alerts_of(north, None) != [], "not at every look"
    mock_clock.jump(AGAIN_SECONDS)
    await looker.look()
    assert alerts_of(north, None) == []
    assert north.audit.size == size
    north.audit.append(Event(type="checkpoint-heartbeat"))
    assert [json.loads(entry)["index"] for entry in north.audit.entries()] == list(range(size + 1))
