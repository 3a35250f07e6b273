"""Who is asked for what: simulated sources of given speeds, and the rules one by one."""

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field

import pytest

from node.transfer.portions import LATE_SECONDS, LEAST_BATCHES, WORK_SECONDS, Portions
from protocol import limits

MB = 1_000_000


@dataclass
class Simulated:
    """A source that sends what it is asked for, in order, at a speed of bytes a second."""

    name: bytes
    speed: float
    silent_from: float = math.inf
    delay: float = 0.04
    free_at: float = 0.0
    sent: Counter[int] = field(default_factory=Counter)


def simulate(count: int, *sources: Simulated, size: int = 2 * MB) -> tuple[float, Portions]:
    """Fetch `count` batches; when the last one is here, seconds."""
    portions = Portions(dict.fromkeys(range(count), size), several=True)
    arrivals: list[tuple[float, bytes, int]] = []
    by_name = {source.name: source for source in sources}
    for source in sources:
        portions.join(source.name, 0.0)
    now = 0.0
    while portions.missing:
        for source in sources:
            batches, is_last = portions.next_portion(source.name, now)
            assert not is_last
            assert batches == sorted(batches)
            for batch in batches:
                source.free_at = max(source.free_at, now + source.delay) + size / source.speed
                source.sent[batch] += 1
                if source.free_at < source.silent_from:
                    heapq.heappush(arrivals, (source.free_at, source.name, batch))
        tick = now + 0.2
        if arrivals and arrivals[0][0] <= tick:
            now, name, batch = heapq.heappop(arrivals)
            portions.arrived(name, batch, now)
        else:
            now = tick
        assert now < 1000
    for source in by_name.values():
        assert max(source.sent.values(), default=1) == 1, "asked for a batch twice"
        assert portions.next_portion(source.name, now) == ([], True)
    return now, portions


@pytest.mark.parametrize(
    ("fast", "slow"), [(100, 100), (100, 50), (100, 10), (100, 1), (10, 1), (1, 0.1)]
)
def test_sources_contribute_by_their_speed_and_the_slow_one_does_not_delay_the_end(
    fast: float, slow: float
) -> None:
    count = int(40 * (fast + slow) / 2)
    both = Simulated(b"fast", fast * MB), Simulated(b"slow", slow * MB)
    seconds, _ = simulate(count, *both)
    ideal = count * 2 / (fast + slow)
    assert seconds < ideal * 1.1 + WORK_SECONDS
    twice = sum(both[0].sent.values()) + sum(both[1].sent.values()) - count
    assert twice <= LEAST_BATCHES + 1


def test_a_source_that_falls_silent_costs_a_moment() -> None:
    good, silent = Simulated(b"a", 50 * MB), Simulated(b"b", 50 * MB, silent_from=5.0)
    seconds, _ = simulate(500, good, silent)
    ideal = 5 + (500 * 2 - 5 * 100) / 50
    assert seconds < ideal * 1.1 + 2 * LATE_SECONDS
    assert len(silent.sent) < 5 * 25 * 1.1 + WORK_SECONDS * 25


def test_a_source_that_never_answers_is_given_little() -> None:
    good, silent = Simulated(b"a", 50 * MB), Simulated(b"b", 50 * MB, silent_from=0.0)
    seconds, _ = simulate(200, good, silent)
    assert len(silent.sent) == LEAST_BATCHES
    assert seconds < 8 * 1.1 + 2 * LATE_SECONDS


@pytest.mark.parametrize("speeds", [(10, 10, 10), (10, 10, 9), (9, 10, 1), (1, 1, 10)])
def test_the_last_batch_is_always_asked_of_somebody(speeds: tuple[int, ...]) -> None:
    names = [bytes([number]) for number in range(len(speeds))]
    portions = Portions(dict.fromkeys(range(2 * len(speeds) + 1), MB), several=True)
    for name in names:
        portions.join(name, 0.0)
    asked = {name: portions.next_portion(name, 0.0)[0] for name in names}
    for name, speed in zip(names, speeds, strict=True):
        for number, batch in enumerate(asked[name]):
            portions.arrived(name, batch, (number + 1) / speed)
    assert [batch for name in names for batch in portions.next_portion(name, 9.0)[0]] == [
        2 * len(speeds)
    ]


def test_a_lone_source_is_asked_for_everything_at_once() -> None:
    portions = Portions({3: 10, 1: 10, 7: 10}, several=False)
    portions.join(b"a", 0.0)
    assert portions.next_portion(b"a", 0.0) == ([1, 3, 7], True)


def test_a_lone_source_is_asked_in_portions_that_a_message_can_hold() -> None:
    count = limits.WANT_RUNS + 1
    portions = Portions(dict.fromkeys(range(count), 10), several=False)
    portions.join(b"a", 0.0)
    first, is_last = portions.next_portion(b"a", 0.0)
    assert (len(first), is_last) == (limits.WANT_RUNS, False)
    assert portions.next_portion(b"a", 0.0) == ([limits.WANT_RUNS], True)


def test_nothing_missing_is_a_last_portion_of_nothing() -> None:
    for several in (False, True):
        portions = Portions({}, several=several)
        portions.join(b"a", 0.0)
        assert portions.next_portion(b"a", 0.0) == ([], True)


def test_what_a_lost_source_owed_goes_to_another() -> None:
    portions = Portions(dict.fromkeys(range(4), 10), several=True)
    portions.join(b"a", 0.0)
    portions.join(b"b", 0.0)
    assert portions.next_portion(b"a", 0.0) == ([0, 1], False)
    assert portions.next_portion(b"b", 0.0) == ([2, 3], False)
    assert portions.arrived(b"a", 0, 0.1)
    assert portions.owes(b"a")
    portions.leave(b"a")
    assert portions.next_portion(b"b", 0.1) == ([], False)
    assert portions.arrived(b"b", 2, 0.1)
    assert portions.next_portion(b"b", 0.1) == ([1], False)
    assert portions.missing == {1, 3}


def test_what_two_were_asked_for_counts_once_and_is_not_given_again() -> None:
    portions = Portions({0: 10}, several=True)
    portions.join(b"a", 0.0)
    portions.join(b"b", 0.0)
    assert portions.next_portion(b"a", 0.0) == ([0], False)
    assert portions.next_portion(b"b", LATE_SECONDS) == ([], False)
    assert portions.next_portion(b"b", LATE_SECONDS + 0.1) == ([0], False)
    portions.leave(b"b")
    portions.join(b"c", 2.0)
    # The first one still owes it, so it is late, not free.
    assert portions.next_portion(b"c", 2.0) == ([0], False)
    assert portions.arrived(b"c", 0, 2.1)
    assert not portions.is_missing(0)
    assert not portions.arrived(b"a", 0, 2.2)
    assert portions.next_portion(b"a", 2.2) == ([], True)


def test_a_source_that_comes_later_helps_a_lone_one_from_the_end() -> None:
    portions = Portions(dict.fromkeys(range(10), MB), several=False)
    portions.join(b"one", 0.0)
    assert portions.next_portion(b"one", 0.0) == (list(range(10)), True)
    for second in (1, 2):
        portions.arrived(b"one", second - 1, float(second))
    portions.join(b"later", 2.0)
    portions.expect_several()
    # It is asked for what is expected last, and not told that this is all.
    assert portions.next_portion(b"later", 2.0) == ([9], False)
    portions.arrived(b"later", 9, 2.5)
    assert portions.next_portion(b"later", 2.5) == ([8], False)
    assert portions.next_portion(b"one", 2.5) == ([], False)
    for batch in range(2, 9):
        portions.arrived(b"one", batch, 3.0)
    assert portions.next_portion(b"later", 3.0) == ([], True)


def test_what_comes_unasked_and_is_here_already_counts_for_nothing() -> None:
    portions = Portions({1: MB}, several=False)
    portions.join(b"one", 0.0)
    assert portions.next_portion(b"one", 0.0) == ([1], True)
    assert not portions.arrived(b"one", 0, 1.0)
    assert portions.arrived(b"one", 1, 2.0)
    assert portions.missing == frozenset()


@pytest.mark.parametrize("several", [True, False])
def test_what_comes_unasked_with_a_whole_study_is_asked_of_nobody(several: bool) -> None:
    count = limits.WANT_RUNS + 2
    portions = Portions(dict.fromkeys(range(count), MB), several=several)
    portions.join(b"whole", 0.0)
    portions.join(b"other", 0.0)
    first, _ = portions.next_portion(b"other", 0.0)
    unasked = count - 1
    assert portions.arrived(b"whole", unasked, 0.1)
    assert not portions.arrived(b"whole", unasked, 0.2)
    asked = set(first)
    for batch in first:
        portions.arrived(b"other", batch, 0.3)
    is_last = False
    while not is_last:
        portion, is_last = portions.next_portion(b"other", 0.4)
        assert asked.isdisjoint(portion)
        asked.update(portion)
        for batch in portion:
            portions.arrived(b"other", batch, 0.5)
    assert asked == set(range(unasked))
