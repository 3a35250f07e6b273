"""Nothing waits without end or a word: commands, fetches, leftovers, transfers that stand still."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from clocks_made import MadeClock, jumps_when_idle
from facilities import Facility, wait_until
from facility_in_memory import Other, waiting_fetcher

from node.api import client
from node.api.server import ALIVE_SECONDS, _Progress
from node.app import Node
from node.errors import ExitCode, NodeError
from node.home import Home
from node.transfer import fetching
from node.transfer.fetching import GIVE_UP_SECONDS, PATIENCE_SECONDS
from node.transfer.incoming import KEEP_SECONDS
from node.transfer.transfers import STILL_SECONDS, Transfer, TransferState

STUDY = "1.2.3"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "north", name="North", clock=MadeClock())) as opened:
        yield opened


# --- commands -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.integration
def test_a_command_to_a_frozen_node_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.5)
    facility = Facility(tmp_path, "North General")
    facility.start()
    assert facility.process is not None
    try:
        facility.process.send_signal(signal.SIGSTOP)
        with pytest.raises(NodeError, match="does not answer: it gave no sign") as caught:
            facility.call("status")
        assert caught.value.code is ExitCode.BUSY
        assert caught.value.hint
    finally:
        facility.process.send_signal(signal.SIGCONT)
        facility.stop()


async def test_long_work_gives_a_sign_of_life(autojump_clock: trio.testing.MockClock) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(json.loads(message["body"]))

    progress = _Progress()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(progress.forward, send)
        await trio.sleep(3.5 * ALIVE_SECONDS)
        progress.report({"done": 1})
        await trio.sleep(1)
        progress.end()
    assert sent == [{"alive": True}] * 3 + [{"progress": {"done": 1}}]


def test_a_command_waits_for_a_node_that_is_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(client, "LOCK_POLL_SECONDS", 0.01)
    home = Home.create(tmp_path / "north", name="North")
    told: list[str] = []
    unlock = home.lock(for_node=True)

    def on_wait(text: str) -> None:
        told.append(text)
        unlock()

    result = client.call(home, "status", {}, None, on_wait)
    assert result["name"] == "North"
    assert told == ["the node of this home is starting; waiting for it"]


def test_a_command_does_not_wait_long_for_another_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOCK_SECONDS", 0.05)
    home = Home.create(tmp_path / "north", name="North")
    # A node had the home before.
    home.lock(for_node=True)()
    unlock = home.lock()
    with pytest.raises(NodeError, match="another radmesh process"):
        client.call(home, "status", {})
    unlock()


# --- fetches --------------------------------------------------------------------------


async def test_a_fetch_that_can_never_go_on_says_so_and_ends(
    node: Node, mock_clock: trio.testing.MockClock
) -> None:
    with jumps_when_idle(mock_clock):
        await _hopeless(node)


async def _hopeless(node: Node) -> None:
    clock = node.clock
    assert isinstance(clock, MadeClock)
    peer = Other("South Clinic", clock.now()).pair(node, "see")
    fetcher = waiting_fetcher(node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.run)
        await trio.testing.wait_all_tasks_blocked()
        transfer = await fetcher.start(STUDY, peer, "treatment", only_peer=True)
        clock.move(GIVE_UP_SECONDS - 1)
        await trio.sleep(2 * PATIENCE_SECONDS)
        assert transfer.state is TransferState.WAITING
        assert "it may not trust this node yet" in transfer.why
        clock.move(1)
        with trio.fail_after(PATIENCE_SECONDS):
            await transfer.over.wait()
        nursery.cancel_scope.cancel()
    assert transfer.state is TransferState.FAILED
    assert "nothing came of it for 7 days" in transfer.why
    assert "it may not trust this node yet" in transfer.why
    assert transfer.hint
    assert not node.transfers.unfinished_incoming()


async def test_a_node_that_was_down_for_long_gives_its_peers_time_to_come(
    node: Node, mock_clock: trio.testing.MockClock
) -> None:
    with jumps_when_idle(mock_clock):
        await _down_for_long(node)


async def _down_for_long(node: Node) -> None:
    clock = node.clock
    assert isinstance(clock, MadeClock)
    peer = Other("South Clinic", clock.now()).pair(node, "see")
    old = node.transfers.begin_incoming(STUDY, peer.facility_key, "", only_peer=True, stat=False)
    await node.transfers.enter(old, TransferState.WAITING)
    node.transfers.active.clear()
    clock.move(10 * GIVE_UP_SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting_fetcher(node).run)
        await trio.sleep(PATIENCE_SECONDS - 1)
        assert node.transfers.unfinished_incoming()
        await trio.sleep(fetching.LOOK_SECONDS + 1)
        assert not node.transfers.unfinished_incoming()
        nursery.cancel_scope.cancel()


# --- leftovers ------------------------------------------------------------------------


@pytest.mark.parametrize(("unfinished", "keep"), [(False, KEEP_SECONDS), (True, 2 * KEEP_SECONDS)])
def test_leftovers_go_by_age_while_the_node_runs(node: Node, unfinished: bool, keep: int) -> None:
    now = node.clock.now()
    for name, age in (("a" * 64, keep + 1), ("b" * 64, keep - 1), (".half.tmp", keep + 1)):
        path = node.home.incoming_path / name
        path.write_bytes(b"12345")
        os.utime(path, (now - age, now - age))
    assert node.incoming.totals() == (3, 15)
    assert node.incoming.sweep_old(unfinished, now) == 1
    left = {path.name for path in node.home.incoming_path.iterdir()}
    assert left == {"b" * 64, ".half.tmp"}, "what is being written is left alone"


def test_a_batch_that_a_transfer_goes_on_with_is_young_again(node: Node) -> None:
    digest = bytes(32)
    path = node.home.incoming_path / digest.hex()
    path.write_bytes(b"12345")
    os.utime(path, (1000, 1000))
    node.incoming.flush(digest)
    assert path.stat().st_mtime > 1_700_000_000


# --- transfers that stand still ---------------------------------------------------------


async def test_a_transfer_that_stands_still_says_since_when(node: Node) -> None:
    clock = node.clock
    assert isinstance(clock, MadeClock)
    transfer = Transfer(b"t" * 16, "in", STUDY, b"N" * 32, "treatment")
    await node.transfers.enter(transfer, TransferState.RECEIVING)
    begun = clock.now_ms()
    clock.move(STILL_SECONDS)
    assert node.transfers.still_since(transfer) is None
    clock.move(1)
    assert node.transfers.still_since(transfer) == begun
    node.transfers.moved(transfer, 1)
    moved = clock.now_ms()
    assert node.transfers.still_since(transfer) is None
    clock.move(STILL_SECONDS + 1)
    assert node.transfers.still_since(transfer) == moved
    await node.transfers.enter(transfer, TransferState.WAITING, "North is not connected")
    assert node.transfers.still_since(transfer) is None


@pytest.mark.integration
@pytest.mark.slow
def test_a_status_that_is_asked_for_at_the_start_is_answered(tmp_path: Path) -> None:
    """Whoever comes first to the home, nobody is told that another process has it."""
    facility = Facility(tmp_path, "North General")
    for _ in range(5):
        facility.launch()
        for _ in range(3):
            assert facility.call("status")["name"] == "North General"
        wait_until(facility.answers, 20.0)
        facility.stop()
