"""The counts of refusals that are no entries: right to the last one, whatever the disk does."""

from collections.abc import Sequence

import pytest
from budgets_made import Time, budgets_of
from clocks_made import MadeClock

from node.errors import NodeError
from node.sharing.refusals import Refusals
from protocol.log.entry import Event, format_time

SOUTH, EAST = b"s" * 32, b"e" * 32
EVENTS = [Event(type="refused", outcome="refused", peer=SOUTH)]
FIRST = 20
"""So many an hour are entries."""


class Log:
    """Takes entries, or fails; what else happens while it fails."""

    def __init__(self) -> None:
        self.written: list[Event] = []
        self.is_full = False
        self.calls = 0
        self.meanwhile = lambda: None

    def append(self, events: Sequence[Event]) -> None:
        self.calls += 1
        if self.is_full:
            self.meanwhile()
            raise NodeError("the disk is full")
        self.written.extend(events)


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def refusals(clock: MadeClock, log: Log) -> Refusals:
    made = Refusals(log.append, budgets_of(Time(), clock), clock)
    for peer in (SOUTH, EAST):
        assert all(made.log(peer, "study", EVENTS) for _ in range(FIRST))
    assert log.written == 2 * FIRST * EVENTS
    log.written.clear()
    log.calls = 0
    return made


def test_a_count_says_when_the_first_and_the_last_was(
    refusals: Refusals, clock: MadeClock, log: Log
) -> None:
    times = []
    for _ in range(3):
        clock.move(10)
        times.append(clock.now_ms())
        assert not refusals.log(SOUTH, "study", EVENTS)
    refusals.write(all_of_it=True)
    [summary] = log.written
    assert (summary.type, summary.outcome, summary.peer) == ("refused", "refused", SOUTH)
    assert summary.details == {
        "what": "study",
        "count": 3,
        "first": format_time(times[0]),
        "last": format_time(times[2]),
        "why": "more refusals in an hour than are logged one by one",
    }


def test_each_peer_and_kind_has_its_count(refusals: Refusals, log: Log) -> None:
    for peer, what, count in ((SOUTH, "study", 2), (SOUTH, "receipt", 3), (EAST, "study", 4)):
        assert not any(refusals.log(peer, what, EVENTS) for _ in range(count))
    refusals.write(all_of_it=True)
    told = {(one.peer, one.details["what"]): one.details["count"] for one in log.written}
    assert told == {(SOUTH, "study"): 2, (SOUTH, "receipt"): 3, (EAST, "study"): 4}
    assert log.calls == 1, "one flush for all"


def test_nothing_is_written_where_nothing_is_due(
    refusals: Refusals, clock: MadeClock, log: Log
) -> None:
    refusals.write(all_of_it=True)
    assert log.calls == 0
    refusals.log(SOUTH, "study", EVENTS)
    refusals.write()
    assert log.calls == 0
    clock.move(3600)
    refusals.write()
    assert log.calls == 1


def test_the_hour_of_the_first_one_decides(refusals: Refusals, clock: MadeClock, log: Log) -> None:
    """One that is refused in the next hour does not put the count off."""
    clock.move(3600 - clock.now() % 3600 - 1)
    refusals.log(SOUTH, "study", EVENTS)
    clock.move(1)
    refusals.log(SOUTH, "study", EVENTS)
    refusals.write()
    [summary] = log.written
    assert summary.details["count"] == 2


def test_what_is_refused_while_the_disk_fails_is_added(
    refusals: Refusals, clock: MadeClock, log: Log
) -> None:
    first = clock.now_ms()
    refusals.log(SOUTH, "study", EVENTS)
    refusals.log(SOUTH, "study", EVENTS)
    refusals.log(EAST, "study", EVENTS)
    log.is_full = True
    clock.move(5)
    log.meanwhile = lambda: [refusals.log(SOUTH, "study", EVENTS) for _ in range(3)]  # type: ignore[assignment]
    refusals.write(all_of_it=True)
    assert not log.written
    log.is_full = False
    refusals.write(all_of_it=True)
    told = {one.peer: one.details for one in log.written}
    assert told[SOUTH]["count"] == 5
    assert told[SOUTH]["first"] == format_time(first)
    assert told[SOUTH]["last"] == format_time(first + 5000)
    assert told[EAST]["count"] == 1
    log.written.clear()
    refusals.write(all_of_it=True)
    assert not log.written
