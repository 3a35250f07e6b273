"""What a peer began to receive in the last day, against a plain recount of the whole log."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import logs_made
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.audit import of_day
from node.audit.erasing import erase
from node.audit.log import AuditLog
from node.errors import ExitCode, NodeError
from node.transfer.lately import DAY_MS, DisclosedLately
from protocol.log.entry import Event, subjects_of

SOUTH, EAST = b"s" * 32, b"e" * 32
STUDIES = ("1.2.1", "1.2.2", "1.2.3")
HOUR_MS = 3600 * 1000


@dataclass
class World:
    """A log, the clock, what was written, and the index under test."""

    log: AuditLog
    clock: logs_made.Clock
    begun: list[tuple[int, bytes, str, int]] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    erased: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.index = DisclosedLately(self.log, lambda: self.clock.now // 1000)
        # A new index knows nothing of what was erased before it read.
        self.erased = set(self.gone)
        self.seen = set()

    def begin(self, peer: bytes, study: str, size: int) -> None:
        event = Event(
            type="disclosure-begun",
            peer=peer,
            purpose="treatment",
            subjects=subjects_of(study, ("4711",)),
            details={"bytes": size, "transfer": "00" * 16},
        )
        self.log.append(event)
        self.begun.append((self.clock.now, peer, study, size))

    def other(self, study: str) -> None:
        self.log.append(Event(type="requested", peer=SOUTH, subjects=subjects_of(study, ())))

    def erase(self, study: str) -> None:
        erase(self.log, "study", study, lambda _: None)
        gone = {number for number, one in enumerate(self.begun) if one[2] == study}
        # What this index has read it still counts as one study.
        self.gone |= gone
        self.erased |= gone - self.seen

    def recount(self, peer: bytes, study: str, size: int, now_ms: int) -> dict[str, int]:
        """Studies that differ, and the most bytes of each, by reading all that was written."""
        of_day = [
            (f"erased {number}" if number in self.erased else name, held)
            for number, (time_ms, who, name, held) in enumerate(self.begun)
            if who == peer and now_ms - DAY_MS < time_ms
        ]
        of_day.append((study, size))
        names = {name for name, _ in of_day}
        most = sum(max(held for one, held in of_day if one == name) for name in names)
        return {"studies-a-day": len(names), "bytes-a-day": most}

    def check(self) -> None:
        for peer in (SOUTH, EAST):
            for study, size in ((STUDIES[0], 7), ("1.2.99", 0), ("1.2.99", 10**12)):
                found = self.index.with_this(peer, study, size)
                now_ms = self.clock.now // 1000 * 1000
                assert found == self.recount(peer, study, size, now_ms)
        self.seen = set(range(len(self.begun)))


Step = Callable[[World], None]


def _begin(peer: bytes, study: str, size: int) -> Step:
    return lambda world: world.begin(peer, study, size)


def _move(milliseconds: int) -> Step:
    def move(world: World) -> None:
        world.clock.now += milliseconds

    return move


STEPS = st.one_of(
    st.builds(
        _begin,
        st.sampled_from([SOUTH, SOUTH, EAST]),
        st.sampled_from(STUDIES),
        st.sampled_from([1, 5, 5, 9, 100]),
    ),
    st.builds(_move, st.sampled_from([0, 1, 999, 1000, HOUR_MS, 12 * HOUR_MS, DAY_MS - 1, DAY_MS])),
    st.sampled_from(STUDIES).map(lambda study: lambda world: world.erase(study)),
    st.just(World.restart),
    st.just(World.check),
    st.sampled_from(STUDIES).map(lambda study: lambda world: world.other(study)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25), st.sampled_from([1, 2, 1000]))
def test_it_is_a_recount_of_the_log(steps: Sequence[Step], at_once: int) -> None:
    with tempfile.TemporaryDirectory() as folder, patch.object(of_day, "_AT_ONCE", at_once):
        clock = logs_made.Clock()
        log = logs_made.create(Path(folder) / "audit", clock)
        world = World(log, clock)
        for step in steps:
            step(world)
        world.check()
        # What was erased is counted by a new index as nobody's study.
        world.erased |= _unnamed(world)
        world.restart()
        world.check()
        log.close()


def _unnamed(world: World) -> set[int]:
    entries = [one for one in logs_made.entries_of(world.log) if one.type == "disclosure-begun"]
    return {
        number
        for number, entry in enumerate(entries)
        if all(
            opening is None or opening.kind != "study"
            for opening in (world.log.opening_of(one) for _, one in entry.subjects)
        )
    }


def _world(tmp_path: Path) -> World:
    clock = logs_made.Clock()
    return World(logs_made.create(tmp_path / "audit", clock), clock)


def _used(world: World, study: str, size: int) -> tuple[int, int]:
    found = world.index.with_this(SOUTH, study, size)
    return found["studies-a-day"], found["bytes-a-day"]


def test_a_resumption_counts_nothing_and_a_grown_study_its_new_bytes(tmp_path: Path) -> None:
    world = _world(tmp_path)
    assert _used(world, "1.2.1", 10) == (1, 10)
    for _ in range(3):
        world.begin(SOUTH, "1.2.1", 10)
        assert _used(world, "1.2.1", 10) == (1, 10)
    assert _used(world, "1.2.1", 25) == (1, 25)
    world.begin(SOUTH, "1.2.1", 25)
    assert _used(world, "1.2.2", 1) == (2, 26)
    world.log.close()


def test_a_day_slides(tmp_path: Path) -> None:
    world = _world(tmp_path)
    world.clock.now = (world.clock.now // 1000 + 1) * 1000
    world.begin(SOUTH, "1.2.1", 10)
    world.clock.now += DAY_MS - 1000
    assert _used(world, "1.2.2", 1) == (2, 11)
    world.clock.now += 1000
    assert _used(world, "1.2.2", 1) == (1, 1)
    world.log.close()


def test_a_study_begun_again_each_day_counts_each_day(tmp_path: Path) -> None:
    """Else one that is fetched twice a day would never count again."""
    world = _world(tmp_path)
    world.begin(SOUTH, "1.2.1", 10)
    world.clock.now += 20 * HOUR_MS
    world.begin(SOUTH, "1.2.1", 10)
    world.clock.now += 5 * HOUR_MS
    assert _used(world, "1.2.2", 1) == (2, 11)
    world.restart()
    assert _used(world, "1.2.2", 1) == (2, 11)
    world.log.close()


def test_a_past_moment_knows_nothing_of_later_ones(tmp_path: Path) -> None:
    world = _world(tmp_path)
    world.begin(SOUTH, "1.2.1", 10)
    then = world.clock.now // 1000
    world.clock.now += HOUR_MS
    world.begin(SOUTH, "1.2.2", 20)
    past = DisclosedLately(world.log, lambda: then, in_past=True)
    assert past.with_this(SOUTH, "1.2.3", 1) == {"studies-a-day": 2, "bytes-a-day": 11}
    assert past.with_this(SOUTH, "1.2.1", 10) == {"studies-a-day": 1, "bytes-a-day": 10}
    world.log.close()


def test_what_was_erased_counts_each_time_as_a_study_of_its_own(tmp_path: Path) -> None:
    world = _world(tmp_path)
    for size in (10, 20):
        world.begin(SOUTH, "1.2.1", size)
    world.erase("1.2.1")
    world.restart()
    assert _used(world, "1.2.2", 1) == (3, 31)
    assert _used(world, "1.2.1", 20) == (3, 50)
    world.log.close()


def test_a_clock_behind_the_log_forgets_nothing(tmp_path: Path) -> None:
    world = _world(tmp_path)
    behind = world.clock.now // 1000 - 60
    world.begin(SOUTH, "1.2.1", 10)
    index = DisclosedLately(world.log, lambda: behind)
    assert index.with_this(SOUTH, "1.2.2", 1) == {"studies-a-day": 2, "bytes-a-day": 11}
    world.log.close()


def test_what_is_over_is_forgotten_of_peers_without_limits_too(tmp_path: Path) -> None:
    """Nobody asks what they used, so it would grow with each transfer."""
    world = _world(tmp_path)
    for _ in range(20):
        world.begin(EAST, "1.2.1", 10)
        _used(world, "1.2.2", 1)
        world.clock.now += DAY_MS // 2
    assert len(world.index._begun[EAST]) <= 3
    world.log.close()


def test_an_entry_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    world = _world(tmp_path)
    assert _used(world, "1.2.2", 1) == (1, 1)
    world.begin(SOUTH, "1.2.1", 10)
    broken = NodeError("the disk is failing", code=ExitCode.DISK)
    with patch.object(world.log, "opening_of", side_effect=broken), pytest.raises(NodeError):
        _used(world, "1.2.2", 1)
    assert _used(world, "1.2.2", 1) == (2, 11)
    world.log.close()
