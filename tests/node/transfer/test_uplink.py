"""Writing under caps and in turns, on a clock of its own: nothing waits for real."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from keys.card import issue_card
from keys.identity import KeyPair
from keys.trust import Peer
from node.network.streams import PeerStream
from node.transfer.bandwidth import BandwidthRule, read_rule
from node.transfer.turns import TRICKLE_SECONDS
from node.transfer.uplink import Uplink

BATCH = bytes(1_000_000)


@dataclass
class Wire:
    """The library's side of a stream: a line of some bytes a second that remembers."""

    bytes_per_second: float = float("inf")
    closed: bool = False
    arrived: list[tuple[float, int]] = field(default_factory=list)

    def take(self, n: int) -> bytes:
        return b""

    async def read(self, n: int) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def write(self, data: memoryview) -> int:
        block = data[:65_507]
        await trio.sleep(len(block) / self.bytes_per_second)
        self.arrived.append((trio.current_time(), len(block)))
        return len(block)

    async def close(self) -> None:
        self.closed = True

    def between(self, begin: float, end: float) -> int:
        """Bytes that arrived then."""
        return sum(size for time, size in self.arrived if begin <= time < end)


def _stream(wire: Wire) -> PeerStream:
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    return PeerStream(wire, peer=bytes(32), protocol_id="/x", abandon=nothing, linger=nothing)


def _peer(name: str) -> Peer:
    facility, node, log, witness = (
        KeyPair.from_seed(f"{name}{role}".encode().ljust(32)) for role in range(4)
    )
    card = issue_card(
        facility, name=name, node_key=node.public, log_key=log.public, witness_key=witness.public,
        addresses=(), serial=1, issued=0, expires=9,
    )  # fmt: skip
    return Peer(facility.public, name, card, grants=frozenset(), added=0)


SOUTH, WEST = _peer("South"), _peer("West")


def _rule(mbit: float, **entries: object) -> BandwidthRule:
    return read_rule({"peer": "South", "mbit_per_second": mbit, **entries})


async def _send(line: Uplink, peer: Peer, wire: Wire, batches: int, *, stat: bool = False) -> None:
    stream = _stream(wire)
    with line.sending(peer, stat=stat) as place:
        for _ in range(batches):
            await place.write(stream, BATCH)


async def test_transfers_to_one_peer_share_its_cap(autojump_clock: trio.testing.MockClock) -> None:
    line, wires = Uplink((_rule(8),)), [Wire(), Wire(), Wire()]
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for wire in wires:
            nursery.start_soon(_send, line, SOUTH, wire, 2)
    assert trio.current_time() - begin == pytest.approx(6.0, abs=0.2)
    for second in range(5):
        carried = [wire.between(begin + second, begin + second + 1) for wire in wires]
        assert sum(carried) == pytest.approx(1_000_000, abs=150_000)
    halfway = [wire.between(begin, begin + 3) for wire in wires]
    assert max(halfway) - min(halfway) <= 1_000_000
    assert min(halfway) > 0


async def test_no_cap_for_others_nor_outside_the_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    minute = 12 * 60
    line = Uplink((_rule(8, **{"from": "07:00", "to": "19:00"}),), lambda: minute)
    begin = trio.current_time()
    await _send(line, WEST, Wire(), 5)
    assert trio.current_time() == begin
    await _send(line, SOUTH, Wire(), 1)
    assert trio.current_time() - begin == pytest.approx(1, abs=0.1)
    minute = 20 * 60
    begin = trio.current_time()
    await _send(line, SOUTH, Wire(), 50)
    assert trio.current_time() - begin < 0.1


async def test_the_window_may_end_within_a_transfer(autojump_clock: trio.testing.MockClock) -> None:
    begin = trio.current_time()
    line = Uplink(
        (_rule(0.8, **{"from": "07:00", "to": "19:00"}),),
        lambda: 18 * 60 + 59 if trio.current_time() < begin + 2 else 19 * 60,
    )
    await _send(line, SOUTH, Wire(), 10)
    assert trio.current_time() - begin == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(("exempt", "seconds"), [(True, 0), (False, 3)])
async def test_urgent_transfers_may_be_exempt(
    autojump_clock: trio.testing.MockClock, exempt: bool, seconds: float
) -> None:
    line, begin = Uplink((_rule(8, stat_exempt=exempt),)), trio.current_time()
    await _send(line, SOUTH, Wire(), 3, stat=True)
    assert trio.current_time() - begin == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize("peer", [SOUTH, WEST])
async def test_an_urgent_study_goes_first_and_routine_ones_trickle(
    autojump_clock: trio.testing.MockClock, peer: Peer
) -> None:
    line, routine, urgent = Uplink(), Wire(1e6), Wire(1e6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, line, SOUTH, routine, 40)
        await trio.sleep(2.05)
        began = trio.current_time()
        with trio.fail_after(21):
            await _send(line, peer, urgent, 20, stat=True)
        ended = trio.current_time()
        nursery.cancel_scope.cancel()
    # What was under way when it came, then a block each five seconds.
    late = routine.between(began + 0.3, ended)
    assert 3 * 65_507 <= late <= 5 * 65_507
    times = [time for time, _ in routine.arrived]
    gaps = [second - first for first, second in itertools.pairwise(times)]
    assert max(gaps) < TRICKLE_SECONDS + 0.5


async def test_a_stuck_urgent_study_does_not_stop_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    line, routine = Uplink(), Wire(1e6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, line, WEST, Wire(1), 1)
        nursery.start_soon(lambda: _send(line, WEST, Wire(100), 1, stat=True))
        with trio.fail_after(20):
            await _send(line, SOUTH, routine, 8)
        nursery.cancel_scope.cancel()


async def test_equal_studies_share_a_link_by_batches(
    autojump_clock: trio.testing.MockClock,
) -> None:
    line, wires = Uplink(), [Wire(4e6), Wire(4e6), Wire(4e6)]
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for wire in wires:
            nursery.start_soon(_send, line, SOUTH, wire, 8)
    assert trio.current_time() - begin == pytest.approx(6.0, abs=0.1)
    for moment in (1.5, 3.0, 4.5):
        carried = [wire.between(begin, begin + moment) for wire in wires]
        assert max(carried) - min(carried) <= len(BATCH)


async def test_who_is_cancelled_leaves_the_line(autojump_clock: trio.testing.MockClock) -> None:
    line = Uplink((_rule(0.1),))
    for stat in (False, True):
        with trio.move_on_after(3):
            await _send(line, SOUTH, Wire(), 5, stat=stat)
    with trio.fail_after(1):
        await _send(line, WEST, Wire(), 5)
